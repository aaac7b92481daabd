//! What an image calls its volumes.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use runtime_cri_api::v1 as cri;
use serde_json::json;
use tests_integration::client::{Sandbox, container};
use tests_integration::image::{self, Dialect, Entry, Packing};
use tests_integration::{Client, Outcome};

use crate::World;

/// An image with three volumes: one that it has files in, one that it has nothing of, one that the container mounts over.
const DATABASE: &str = "podwright.test/database:1";

/// The first user of a pod with users of its own; of nobody else on this machine.
const HOST: u32 = 1_950_000_000;

fn import(world: &World) -> Outcome {
    let data = vec![
        Entry::Directory("data", 0o750),
        Entry::File("data/seed", 0o644, b"from the image\n".to_vec()),
        Entry::Owned("data/owned", 0o640, (1000, 1001)),
        Entry::Link("data/link".to_owned(), "seed".to_owned()),
    ];
    let layers = [(Packing::Gzip, image::busybox()?), (Packing::Gzip, data)];
    let image = image::image(Dialect::Oci, &layers, &["/bin/sh"])?;
    let volumes = json!({"/data": {}, "/made/by/us/": {}, "/covered": {}, "/proc/own": {}});
    let image = image::configured(&image, "Volumes", volumes)?;
    world.node.import(&image::archive(&image, DATABASE)?, DATABASE)
}

async fn start(
    client: &Client,
    sandbox: &Sandbox,
    name: &str,
    change: impl FnOnce(&mut cri::ContainerConfig, &mut cri::LinuxContainerSecurityContext),
) -> anyhow::Result<String> {
    let mut config = container(name, DATABASE, &["/bin/sleep", "1000"]);
    let mut security = config.linux.as_mut().and_then(|linux| linux.security_context.take()).context("has one")?;
    change(&mut config, &mut security);
    if let Some(linux) = &mut config.linux {
        linux.security_context = Some(security);
    }
    let id = client.create(sandbox, config).await?;
    client.start(&id).await?;
    Ok(id)
}

pub(crate) async fn an_images_volumes_are_fresh_writable_and_gone_with_the_container(world: Arc<World>) -> Outcome {
    import(&world)?;
    let (client, sandbox) = (&world.client, world.sandbox("anonymous").await?);
    let covered = world.node.scratch().join("covered");
    std::fs::create_dir_all(&covered)?;
    std::fs::write(covered.join("mine"), "asked for")?;
    let id = start(client, &sandbox, "one", |config, security| {
        config.mounts.push(cri::Mount {
            container_path: "/covered/".to_owned(),
            host_path: covered.display().to_string(),
            ..Default::default()
        });
        security.readonly_rootfs = true;
    })
    .await?;
    let seen = client
        .shell(&id, "cat /data/seed; readlink /data/link; stat -c %a:%u:%g /data /data/owned; ls /covered")
        .await?;
    ensure!(seen == "from the image\nseed\n750:0:0\n640:1000:1001\nmine\n", "{seen}");
    // Writable, also where the root isn't, and a mount of its own.
    client.shell(&id, "echo new > /data/seed; touch /made/by/us/x; ! touch /x 2>/dev/null").await?;
    let mounts = client.shell(&id, "cut -d' ' -f5 /proc/self/mountinfo").await?;
    ensure!(
        mounts.lines().filter(|place| ["/data", "/made/by/us", "/covered"].contains(place)).count() == 3,
        "{mounts}"
    );
    ensure!(!mounts.lines().any(|place| place == "/proc/own"), "the image mounts over the kernel's: {mounts}");
    let told = client.status(&id).await?.mounts;
    ensure!(told.len() == 1 && told[0].container_path.starts_with("/covered"), "{told:?}");
    // It counts as what the container has written.
    client.shell(&id, "dd if=/dev/zero of=/data/file bs=1M count=6 2>/dev/null").await?;
    let began = Instant::now();
    loop {
        let request = cri::ContainerStatsRequest { container_id: id.clone() };
        let stats = client.runtime.clone().container_stats(request).await?.into_inner().stats.context("statistics")?;
        let used = stats.writable_layer.and_then(|layer| layer.used_bytes).map_or(0, |bytes| bytes.value);
        if used >= 6 << 20 {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "6 MiB in a volume don't show: {used}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Another container has its own, and the image is as it was.
    let other = start(client, &sandbox, "two", |_, _| {}).await?;
    ensure!(client.shell(&other, "cat /data/seed; ls -A /made/by/us").await? == "from the image\n");
    let own = world.node.root().join("containers").join(&id);
    ensure!(own.join("volumes/0").is_dir(), "not below the container's directory");
    client.remove(&id).await?;
    ensure!(!own.exists(), "it outlives its container");
    client.end(&sandbox).await
}

pub(crate) async fn an_images_volumes_are_the_pods_in_a_user_namespace(world: Arc<World>) -> Outcome {
    import(&world)?;
    let mut pod = world.pod("anonymous-users");
    let context = pod.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("a context")?;
    let namespaces = context.namespace_options.as_mut().context("options")?;
    let mapping = vec![cri::IdMapping { host_id: HOST, container_id: 0, length: 65_536 }];
    namespaces.userns_options =
        Some(cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, uids: mapping.clone(), gids: mapping });
    let namespaces = namespaces.clone();
    let (client, sandbox) = (&world.client, world.client.run(pod).await?);
    let id = start(client, &sandbox, "c", |_, security| {
        security.namespace_options = Some(namespaces);
        security.readonly_rootfs = true;
    })
    .await?;
    let seen =
        client.shell(&id, "cat /data/seed; stat -c %a:%u:%g /data /data/owned; touch /data/x /made/by/us/x").await?;
    ensure!(seen == "from the image\n750:0:0\n640:1000:1001\n", "{seen}");
    let own = world.node.root().join("containers").join(&id).join("volumes");
    let mut volumes = std::fs::read_dir(&own)?.flatten().map(|entry| entry.path());
    let data = volumes.find(|volume| volume.join("seed").exists()).context("a volume with the seed")?;
    let made = std::fs::metadata(data.join("x"))?;
    ensure!((made.uid(), made.gid()) == (HOST, HOST), "{}:{}", made.uid(), made.gid());
    client.end(&sandbox).await
}
