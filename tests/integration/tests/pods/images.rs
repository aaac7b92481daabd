//! Images from a registry on loopback, in every packing; and what is said when they can't be had.

use std::sync::Arc;

use anyhow::{bail, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::image::{self, Dialect, Entry, Packing};
use tests_integration::node::free_port;
use tests_integration::registry::Registry;
use tests_integration::{Node, Options, Outcome, client};

use crate::World;

async fn runs(node: &Node, name: &str, image: &str, script: &str) -> anyhow::Result<String> {
    let client = node.client().await?;
    let sandbox = client.run(client::host_network(client::pod(name, &node.scratch().join("logs")))).await?;
    let id = client.launch(&sandbox, "c", image, &["/bin/sleep", "1000"]).await?;
    let said = client.shell(&id, script).await;
    client.end(&sandbox).await?;
    said
}

pub(crate) async fn every_packing_and_dialect_from_a_registry(world: Arc<World>) -> Outcome {
    let registry = Registry::start(&world.node.scratch().join("registry")).await?;
    let node = Node::start(Options { mirror: Some(registry.address.clone()), ..Default::default() }).await?;
    let client = node.client().await?;
    for dialect in [Dialect::Oci, Dialect::Docker] {
        for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
            let tag = format!("{dialect:?}-{packing:?}").to_lowercase();
            let marker = Entry::File("marker", 0o644, tag.clone().into_bytes());
            let image = image::image(dialect, &[(packing, image::busybox()?), (packing, vec![marker])], &["/bin/sh"])?;
            let other = image::image(
                dialect,
                &[(packing, vec![Entry::File("wrong", 0o644, tag.clone().into_bytes())])],
                &["x"],
            )?;
            registry.push("test/box", &format!("{tag}-one"), &image).await?;
            registry.push("test/box", &format!("{tag}-other"), &other).await?;
            registry.push_manifest("test/box", &tag, &image::index(dialect, &[&image, &other])).await?;
            let reference = format!("registry.example/test/box:{tag}");
            let id = client.pull(&reference).await?;
            ensure!(client.pull(&reference).await? == id, "a second pull brings another id");
            let said = runs(&node, &tag, &reference, "cat /marker; test ! -e /wrong").await?;
            ensure!(said == tag, "{reference} holds {said}");
            client
                .images
                .clone()
                .remove_image(cri::RemoveImageRequest { image: Some(client::spec(&reference)) })
                .await?;
            let status = client
                .images
                .clone()
                .image_status(cri::ImageStatusRequest { image: Some(client::spec(&reference)), verbose: false })
                .await?;
            ensure!(status.into_inner().image.is_none(), "{reference} is still there");
        }
    }
    Ok(())
}

pub(crate) async fn an_image_survives_export_and_import(world: Arc<World>) -> Outcome {
    let node = Node::start(Options::default()).await?;
    let file = world.node.scratch().join("export.tar");
    let path = file.display().to_string();
    for arguments in [vec!["export", "-o", &path, crate::BUSYBOX], vec!["images"]] {
        let output = world.node.podwright(&arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let output = node.podwright(&["import", &path])?;
    ensure!(output.status.success(), "import: {}", String::from_utf8_lossy(&output.stderr));
    let said = runs(&node, "imported", crate::BUSYBOX, "echo $FROM_IMAGE").await?;
    ensure!(said == "yes\n", "{said}");
    Ok(())
}

pub(crate) async fn a_registry_that_is_down_is_named(_: Arc<World>) -> Outcome {
    let nobody = format!("127.0.0.1:{}", free_port()?);
    let node = Node::start(Options { mirror: Some(nobody.clone()), ..Default::default() }).await?;
    let Err(error) = node.client().await?.pull("localhost:1/x/y:1").await else { bail!("pulled from nowhere") };
    ensure!(format!("{error:#}").contains(&nobody), "the mirror is not named: {error:#}");
    let output = node.podwright(&["pull", "localhost:1/x/y:1"])?;
    ensure!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains(&nobody), "{output:?}");
    Ok(())
}

pub(crate) async fn an_image_that_is_not_there_is_named(world: Arc<World>) -> Outcome {
    let registry = Registry::start(&world.node.scratch().join("empty-registry")).await?;
    let node = Node::start(Options { mirror: Some(registry.address.clone()), ..Default::default() }).await?;
    let Err(error) = node.client().await?.pull("localhost:1/no/such:tag").await else {
        bail!("pulled an image that isn't there")
    };
    let text = format!("{error:#}");
    ensure!(text.contains("no/such:tag") && text.contains(&registry.address), "{text}");
    Ok(())
}

pub(crate) async fn whiteouts_and_links_hold_in_the_container(world: Arc<World>) -> Outcome {
    let mut base = image::busybox()?;
    base.push(Entry::Directory("data", 0o755));
    base.push(Entry::File("data/one", 0o644, b"1".to_vec()));
    base.push(Entry::File("data/two", 0o644, b"2".to_vec()));
    base.push(Entry::Directory("old", 0o755));
    base.push(Entry::File("old/file", 0o644, b"o".to_vec()));
    let upper = vec![
        Entry::File("data/.wh.one", 0o644, Vec::new()),
        Entry::Directory("old", 0o755),
        Entry::File("old/.wh..wh..opq", 0o644, Vec::new()),
        Entry::File("old/new", 0o644, b"n".to_vec()),
        Entry::Link("link".into(), "data/two".into()),
    ];
    let image = image::image(Dialect::Oci, &[(Packing::Gzip, base), (Packing::Zstd, upper)], &["/bin/sh"])?;
    let reference = "podwright.test/layers:1";
    world.node.import(&image::archive(&image, reference)?, reference)?;
    let said = runs(&world.node, "layers", reference, "ls /data /old; cat /link").await?;
    ensure!(said.split_whitespace().collect::<Vec<_>>() == ["/data:", "two", "/old:", "new", "2"], "{said}");
    Ok(())
}

pub(crate) async fn a_full_disk_is_named_and_nothing_stays(_: Arc<World>) -> Outcome {
    let node = Node::start(Options { root_mib: Some(12), ..Default::default() }).await?;
    let big = Entry::File("big", 0o644, (0..20_u32 << 20).map(|byte| byte.to_le_bytes()[2]).collect());
    let image = image::image(Dialect::Oci, &[(Packing::Zstd, vec![big])], &["x"])?;
    let Err(error) = node.import(&image::archive(&image, "podwright.test/big:1")?, "podwright.test/big:1") else {
        bail!("20 MiB fit into 12")
    };
    ensure!(format!("{error:#}").to_lowercase().contains("no space"), "{error:#}");
    let leftovers = tests_integration::machine::run("du", &["-sk", &node.root().display().to_string()])?;
    let kib: u64 = leftovers.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(u64::MAX);
    ensure!(kib < 2048, "a failed import leaves {kib} KiB");
    let small =
        image::image(Dialect::Oci, &[(Packing::Plain, vec![Entry::File("small", 0o644, b"x".to_vec())])], &["x"])?;
    node.import(&image::archive(&small, "podwright.test/small:1")?, "podwright.test/small:1")
}
