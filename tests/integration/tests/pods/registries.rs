//! Registries as they are: passwords, tokens, certificates, mirrors, proxies, and what breaks on the way. The registry is
//! Debian's; what a test has on its way is ours.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::gateway::{Fate, Gateway};
use tests_integration::image::{self, Blob, Dialect, Entry, Image, Packing};
use tests_integration::registry::{Door, Registry};
use tests_integration::{Client, Node, Options, Outcome, client, machine};
use tonic::Code;

use crate::World;

#[path = "registries/tokens.rs"]
mod tokens;

/// `me:secret` as a file of Apache's knows it (bcrypt).
const USERS: &str = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A small image with a file of its own.
fn small(word: &str) -> anyhow::Result<Image> {
    image::image(Dialect::Oci, &[(Packing::Gzip, vec![Entry::File("word", 0o644, word.as_bytes().to_vec())])], &["/x"])
}

/// An image with one layer of so many bytes that don't pack.
fn large(bytes: usize) -> anyhow::Result<Image> {
    let mut state: u32 = 7;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    };
    let noise = (0..bytes).map(|_| noise()).collect();
    image::image(Dialect::Oci, &[(Packing::Gzip, vec![Entry::File("noise", 0o644, noise)])], &["/x"])
}

/// Settings of one registry.
fn hosts(node: &Node, registry: &str, text: &str) -> anyhow::Result<PathBuf> {
    let directory = node.scratch().join("certs.d").join(registry);
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("hosts.toml"), text)?;
    Ok(directory)
}

async fn pull(client: &Client, name: &str, auth: Option<cri::AuthConfig>) -> Result<String, tonic::Status> {
    let request = cri::PullImageRequest { image: Some(client::spec(name)), auth, ..Default::default() };
    Ok(client.images.clone().pull_image(request).await?.into_inner().image_ref)
}

/// A pull that must be refused so.
async fn refused(client: &Client, name: &str, auth: Option<cri::AuthConfig>, code: Code, says: &str) -> Outcome {
    match pull(client, name, auth).await {
        Ok(_) => bail!("{name} was pulled, where {says:?} was to be said"),
        Err(status) => {
            ensure!(status.code() == code && status.message().contains(says), "{status} isn't {code:?} with {says:?}");
            Ok(())
        }
    }
}

async fn status(client: &Client, name: &str) -> anyhow::Result<Option<cri::Image>> {
    let request = cri::ImageStatusRequest { image: Some(client::spec(name)), verbose: false };
    Ok(client.images.clone().image_status(request).await?.into_inner().image)
}

async fn remove(client: &Client, name: &str) -> Outcome {
    client.images.clone().remove_image(cri::RemoveImageRequest { image: Some(client::spec(name)) }).await?;
    Ok(())
}

fn password(word: &str) -> cri::AuthConfig {
    cri::AuthConfig { username: "me".into(), password: word.into(), ..Default::default() }
}

pub(crate) async fn a_password_is_asked_for_and_each_failure_has_its_words(world: Arc<World>) -> Outcome {
    let folder = world.node.scratch().join("users");
    Registry::start(&folder).await?.push("team/app", "1", &small("guarded")?).await?;
    let users = folder.join("users");
    std::fs::write(&users, USERS)?;
    let auth = format!("{{htpasswd: {{realm: r, path: {}}}}}", users.display());
    let registry = Registry::start_behind(&folder, &Door { auth: Some(auth), ..Door::default() }).await?;
    let node = Node::start(Options::default()).await?;
    let (client, name) = (node.client().await?, format!("{}/team/app:1", registry.address));
    let none = "it wants credentials, and none are given for it";
    refused(&client, &name, None, Code::Unauthenticated, none).await?;
    let wrong = "it doesn't accept the credentials (UNAUTHORIZED";
    refused(&client, &name, Some(password("guess")), Code::Unauthenticated, wrong).await?;
    let elsewhere = cri::AuthConfig { server_address: "https://quay.example/v1/".into(), ..password("secret") };
    refused(&client, &name, Some(elsewhere), Code::Unauthenticated, "given are for \"quay.example\" alone").await?;
    let broken = cri::AuthConfig { auth: "!".into(), ..Default::default() };
    refused(&client, &name, Some(broken), Code::InvalidArgument, "auth isn't base64").await?;

    let id = pull(&client, &name, Some(password("secret"))).await?;
    let encoded = cri::AuthConfig { auth: "bWU6c2VjcmV0".into(), ..Default::default() };
    ensure!(pull(&client, &name, Some(encoded)).await? == id, "user and password in one field");
    let named = cri::AuthConfig { server_address: registry.address.clone(), ..password("secret") };
    ensure!(pull(&client, &name, Some(named)).await? == id, "for the server that they name");
    // What the kubelet's check of who pulled an image goes by: the image is here, and whoever may not have it isn't given it.
    refused(&client, &name, None, Code::Unauthenticated, none).await?;
    refused(&client, &name, Some(password("guess")), Code::Unauthenticated, wrong).await?;
    ensure!(status(&client, &name).await?.is_some_and(|image| image.id == id), "a refused pull takes nothing away");
    ensure!(!node.log().contains("secret") && !node.log().contains("guess"), "a password is logged");
    Ok(())
}

pub(crate) async fn tokens_come_from_the_realm_and_end(world: Arc<World>) -> Outcome {
    let folder = world.node.scratch().join("tokens");
    Registry::start(&folder).await?.push("team/app", "1", &small("by token")?).await?;
    let service = tokens::Service::start(&folder).await?;
    let registry = Registry::start_behind(&folder, &Door { auth: Some(service.auth()), ..Door::default() }).await?;
    let node = Node::start(Options::default()).await?;
    let (client, name) = (node.client().await?, format!("{}/team/app:1", registry.address));
    let id = pull(&client, &name, Some(password("secret"))).await?;
    let told = service.asked().pop().context("the realm was never asked")?;
    ensure!(told.contains("scope=repository%3Ateam%2Fapp%3Apull") && told.contains("service=fake"), "{told}");
    let identity = cri::AuthConfig { identity_token: "identity".into(), ..Default::default() };
    ensure!(pull(&client, &name, Some(identity)).await? == id, "an identity token is exchanged");
    let bearer = |token: String| cri::AuthConfig { registry_token: token, ..Default::default() };
    ensure!(
        pull(&client, &name, Some(bearer(service.token("team/app", 300)?))).await? == id,
        "a registry token as it is"
    );

    let (none, wrong) = ("none are given for it", "it doesn't accept the credentials");
    refused(&client, &name, None, Code::Unauthenticated, none).await?;
    let says = "it doesn't accept the credentials: its token service gives no token (wrong name or password)";
    refused(&client, &name, Some(password("guess")), Code::Unauthenticated, says).await?;
    let over = bearer(service.token("team/app", -300)?);
    refused(&client, &name, Some(over), Code::Unauthenticated, "the credentials have expired on 20").await?;
    let other = bearer(service.token("team/other", 300)?);
    refused(&client, &name, Some(other), Code::Unauthenticated, "the credentials don't allow it").await?;
    refused(&client, &name, Some(bearer("rubbish".into())), Code::Unauthenticated, wrong).await
}

pub(crate) async fn an_authority_and_a_client_certificate_of_our_own(world: Arc<World>) -> Outcome {
    let folder = world.node.scratch().join("tls");
    Registry::start(&folder).await?.push("team/app", "1", &small("private")?).await?;
    let made = tokens::Certificates::make(&folder)?;
    let tls = Some((made.path("server.pem"), made.path("server.key")));
    let open = Registry::start_behind(&folder, &Door { tls: tls.clone(), ..Door::default() }).await?;
    let clients_of = Some(made.path("authority.pem"));
    let closed = Registry::start_behind(&folder, &Door { tls, clients_of, auth: None }).await?;
    let node = Node::start(Options::default()).await?;
    let client = node.client().await?;
    let name = "registry.example:5000/team/app:1";
    let directory = hosts(&node, "registry.example_5000_", "")?;
    for file in ["authority.pem", "client.pem", "client.key", "both.pem"] {
        std::fs::copy(made.path(file), directory.join(file))?;
    }
    let bare = "";
    let known = "ca = \"authority.pem\"\n";
    for (registry, settings, failure) in [
        (&open, bare.to_owned(), Some("certificate")),
        (&open, known.to_owned(), None),
        (&open, "ca = [\"authority.pem\"]\n".to_owned(), None),
        (&open, "skip_verify = true\n".to_owned(), None),
        (&open, "ca = \"gone.pem\"\n".to_owned(), Some("gone.pem: No such file")),
        // The registry's alert may come too late to be read.
        (&closed, known.to_owned(), Some("cannot resolve")),
        (&closed, format!("{known}client = \"both.pem\"\n"), None),
        (&closed, format!("{known}client = [\"both.pem\"]\n"), None),
        (&closed, format!("{known}client = [[\"client.pem\", \"client.key\"]]\n"), None),
        (&closed, format!("{known}client = [[\"both.pem\", \"\"]]\n"), None),
        (&closed, format!("{known}client = [[\"client.pem\", \"gone.key\"]]\n"), Some("gone.key: No such file")),
    ] {
        hosts(&node, "registry.example_5000_", &format!("server = \"https://{}\"\n{settings}", registry.address))?;
        match (pull(&client, name, None).await, failure) {
            (Ok(_), None) => remove(&client, name).await?,
            (Err(error), Some(says)) if error.message().contains(says) => {}
            (pulled, _) => bail!("{settings:?}: {pulled:?}"),
        }
    }
    Ok(())
}

pub(crate) async fn mirrors_are_asked_in_their_order(world: Arc<World>) -> Outcome {
    let folder = world.node.scratch().join("mirrors");
    let registry = Registry::start(&folder).await?;
    registry.push("team/app", "1", &small("mirrored")?).await?;
    let pass = |_: &_| Fate::Pass;
    let refusing = Gateway::start(&registry.address, |_| Fate::Answer("503 x".into())).await?;
    let empty = Gateway::start(&registry.address, |_| Fate::Answer("404 x".into())).await?;
    // Only who means the whole of its path comes through to the registry.
    let (last, upstream) =
        (Gateway::start(&registry.address, pass).await?, Gateway::start(&registry.address, pass).await?);
    let node = Node::start(Options::default()).await?;
    let client = node.client().await?;
    let nobody = format!("127.0.0.1:{}", tests_integration::node::free_port()?);
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{nobody}\"]\n[host.\"http://{}\"]\n\
         [host.\"http://{}\"]\ncapabilities = [\"pull\"]\n\
         [host.\"http://{}/v2\"]\noverride_path = true\ncapabilities = [\"pull\", \"resolve\", \"push\"]\n\
         dial_timeout = \"1.5s\"\n[host.\"http://{}/v2\".header]\nx-key = [\"one\", \"two\"]\n",
        upstream.address, refusing.address, empty.address, last.address, last.address
    );
    hosts(&node, "registry.example", &text)?;
    pull(&client, "registry.example/team/app:1", None).await?;
    ensure!(upstream.passed().is_empty(), "the registry itself was asked although a mirror had it");
    ensure!(!refusing.passed().is_empty() && !empty.passed_with("sha256:").is_empty(), "not every mirror was asked");
    ensure!(empty.passed_with("manifests/1").is_empty(), "one without \"resolve\" was asked for a tag");
    let first = last.passed().into_iter().next().context("the last mirror was never asked")?;
    ensure!(first.target == "/v2/team/app/manifests/1?ns=registry.example", "{}", first.target);
    ensure!(first.header("x-key") == Some("one") && first.head.contains("x-key: two"), "{}", first.head);
    // What nobody has: every one that was asked is named, in the order of the file, the registry itself last.
    let Err(error) = pull(&client, "registry.example/team/app:2", None).await else { bail!("pulled nothing") };
    ensure!(error.code() == Code::NotFound, "{error}");
    let places: Vec<_> = [&nobody, &refusing.address, &last.address, &upstream.address]
        .iter()
        .map(|address| error.message().find(address.as_str()))
        .collect();
    ensure!(places.iter().all(Option::is_some) && places.last() == places.iter().max(), "{error}");
    hosts(&node, "registry.example", "[host.\"http://x\"]\ncapabilites = []\n")?;
    refused(&client, "registry.example/team/app:1", None, Code::InvalidArgument, "hosts.toml:2: unknown field").await
}

pub(crate) async fn the_environment_s_proxy_is_used(world: Arc<World>) -> Outcome {
    let folder = world.node.scratch().join("proxied");
    Registry::start(&folder).await?.push("team/app", "1", &small("proxied")?).await?;
    let made = tokens::Certificates::make(&folder)?;
    let tls = Some((made.path("server.pem"), made.path("server.key")));
    let registry = Registry::start_behind(&folder, &Door { tls, ..Door::default() }).await?;
    let proxy = Gateway::start(&registry.address, |passing| match passing.header("proxy-authorization") {
        Some("Basic bWU6c2VjcmV0") => Fate::Pass,
        _ => Fate::Answer("407 Proxy Authentication Required".into()),
    })
    .await?;
    let environment = |value: String| {
        vec![("HTTPS_PROXY".to_owned(), value), ("NO_PROXY".to_owned(), "direct.example, 10.0.0.0/8".to_owned())]
    };
    let start = |value: String| Node::start(Options { environment: environment(value), ..Default::default() });
    let node = start(format!("http://me:secret@{}", proxy.address)).await?;
    let client = node.client().await?;
    for registry in ["registry.example", "direct.example"] {
        let directory = hosts(&node, registry, "ca = \"authority.pem\"\n")?;
        std::fs::copy(made.path("authority.pem"), directory.join("authority.pem"))?;
    }
    pull(&client, "registry.example/team/app:1", None).await?;
    let passed = proxy.passed();
    ensure!(passed.iter().all(|one| one.method == "CONNECT" && one.target == "registry.example:443"), "{passed:?}");
    // Nobody has that name, and the proxy isn't asked.
    refused(&client, "direct.example/team/app:1", None, Code::Unknown, "RegistryUnavailable: ").await?;
    ensure!(proxy.passed_with("direct").is_empty(), "a host of NO_PROXY went through the proxy");
    ensure!(!node.log().contains("secret"), "the proxy's password is logged");
    let node = start(format!("http://{}", proxy.address)).await?;
    let says = format!("cannot connect through the proxy http://{}: ", proxy.address);
    refused(&node.client().await?, "registry.example/team/app:1", None, Code::Unknown, &says).await?;
    let Err(error) = start("socks5://127.0.0.1:1".to_owned()).await else { bail!("started with a proxy of no use") };
    ensure!(format!("{error:#}").contains("HTTPS_PROXY: only http and https proxies"), "{error:#}");
    Ok(())
}

pub(crate) async fn a_busy_registry_and_broken_bodies_are_borne(world: Arc<World>) -> Outcome {
    const LAYER_BYTES: usize = 3_000_000;
    let registry = Registry::start(&world.node.scratch().join("faults")).await?;
    registry.push("team/app", "1", &large(LAYER_BYTES)?).await?;
    let count = AtomicUsize::new(0);
    let gateway = Gateway::start(&registry.address, move |passing| {
        if passing.target.contains("manifests/1") && count.load(Ordering::SeqCst) == 0 {
            count.fetch_add(1, Ordering::SeqCst);
            return Fate::Answer("429 x\r\nretry-after: 1".into());
        }
        if passing.target.contains("/blobs/") {
            return match count.fetch_add(1, Ordering::SeqCst) {
                // The configuration is small and not cut.
                2 | 3 => Fate::Cut(1_000_000),
                _ => Fate::Pass,
            };
        }
        Fate::Pass
    })
    .await?;
    let node = Node::start(Options { mirror: Some(gateway.address.clone()), ..Default::default() }).await?;
    let client = node.client().await?;
    let began = std::time::Instant::now();
    pull(&client, "registry.example/team/app:1", None).await?;
    ensure!(began.elapsed() >= Duration::from_secs(1), "Retry-After was not waited for");
    let ranges: Vec<_> =
        gateway.passed_with("/blobs/").iter().map(|one| one.header("range").map(ToOwned::to_owned)).collect();
    let wanted = [None, None, Some("bytes=1000000-".to_owned()), Some("bytes=2000000-".to_owned())];
    ensure!(ranges == wanted, "{ranges:?}");
    // One that asks for more patience than anybody has is left at once, with its words.
    let unwilling = Gateway::start(&registry.address, |_| Fate::Answer("429 x\r\nretry-after: 3600".into())).await?;
    hosts(&node, "limited.example", &format!("server = \"http://{}\"\n", unwilling.address))?;
    let began = std::time::Instant::now();
    let says = "rate limited, may be tried again in 3600s";
    refused(&client, "limited.example/team/app:1", None, Code::Unknown, says).await?;
    ensure!(began.elapsed() < Duration::from_secs(60), "it waited {:?}", began.elapsed());
    Ok(())
}

pub(crate) async fn a_pull_goes_on_after_the_daemon_was_killed(world: Arc<World>) -> Outcome {
    const LAYER_BYTES: usize = 4_000_000;
    const CAME: usize = 2_000_000;
    let registry = Registry::start(&world.node.scratch().join("killed")).await?;
    let image = large(LAYER_BYTES)?;
    registry.push("team/app", "1", &image).await?;
    let layer = image.layers[0].digest();
    let healthy = Arc::new(AtomicBool::new(false));
    let (is_healthy, of_layer) = (Arc::clone(&healthy), layer.clone());
    let gateway = Gateway::start(&registry.address, move |passing| {
        let spoiled = passing.target.contains(&of_layer) && !is_healthy.load(Ordering::SeqCst);
        if spoiled { Fate::Hang(CAME) } else { Fate::Pass }
    })
    .await?;
    let mut node = Node::start(Options { mirror: Some(gateway.address.clone()), ..Default::default() }).await?;
    let client = node.client().await?;
    let name = "registry.example/team/app:1";
    let waiting = tokio::spawn(async move { pull(&client, name, None).await });
    let partial = node.root().join("images/partial");
    machine_waits("the bytes to come", || length(&partial) >= u64::try_from(CAME).unwrap_or(0)).await?;
    node.kill()?;
    ensure!(waiting.await?.is_err(), "pulled from a dead daemon");
    healthy.store(true, Ordering::SeqCst);
    node.launch().await?;
    let again = node.client().await?;
    // A kubelet makes room meanwhile: an image goes that has nothing to do with it.
    let other = "registry.example/team/other:1";
    node.import(&image::archive(&large(1000)?, other)?, other)?;
    let request = cri::RemoveImageRequest { image: Some(client::spec(other)) };
    again.images.clone().remove_image(request).await?;
    pull(&again, name, None).await?;
    let asked = gateway.passed_with(&layer);
    let range = asked.last().and_then(|one| one.header("range")).unwrap_or_default();
    ensure!(asked.len() == 2 && range == format!("bytes={CAME}-"), "{asked:?}");
    ensure!(length(&partial) == 0, "the beginning stays");
    Ok(())
}

/// The bytes of a directory's files.
fn length(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

async fn machine_waits(what: &str, done: impl Fn() -> bool) -> Outcome {
    for _ in 0..1200 {
        if done() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    bail!("30 s were not enough for {what}")
}

pub(crate) async fn a_pull_ends_with_its_last_client(world: Arc<World>) -> Outcome {
    let registry = Registry::start(&world.node.scratch().join("clients")).await?;
    let image = large(2_000_000)?;
    registry.push("team/app", "1", &image).await?;
    let layer = image.layers[0].digest();
    let (open, of_layer) = (Arc::new(AtomicBool::new(false)), layer.clone());
    let is_open = Arc::clone(&open);
    let gateway = Gateway::start(&registry.address, move |passing| {
        let slow = passing.target.contains(&of_layer) && !is_open.load(Ordering::SeqCst);
        if slow { Fate::Late(Duration::from_secs(3)) } else { Fate::Pass }
    })
    .await?;
    let node = Node::start(Options { mirror: Some(gateway.address.clone()), ..Default::default() }).await?;
    let client = node.client().await?;
    let name = "registry.example/team/app:1";
    let start = |client: Client| tokio::spawn(async move { pull(&client, name, None).await });
    // Two want it, one goes: the other gets it, and it is fetched once.
    let second = node.client().await?;
    let (one, other) = (start(client.clone()), start(second));
    machine_waits("the layer to be asked for", || !gateway.passed_with(&layer).is_empty()).await?;
    // The other's request is on its way through a socket of this machine; the layer waits for it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    one.abort();
    let id = other.await??;
    ensure!(gateway.passed_with(&layer).len() == 1, "fetched {} times", gateway.passed_with(&layer).len());
    remove(&client, name).await?;
    // One wants it and goes: nothing comes.
    let one = start(client.clone());
    machine_waits("the layer to be asked for again", || gateway.passed_with(&layer).len() == 2).await?;
    one.abort();
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(status(&client, name).await?.is_none(), "an image that nobody waits for was pulled");
    open.store(true, Ordering::SeqCst);
    ensure!(pull(&client, name, None).await? == id, "the next pull brings another image");
    Ok(())
}

pub(crate) async fn what_is_no_image_for_this_machine_is_named(world: Arc<World>) -> Outcome {
    let registry = Registry::start(&world.node.scratch().join("strange")).await?;
    let node = Node::start(Options::default()).await?;
    hosts(&node, "registry.example", &format!("server = \"http://{}\"\n", registry.address))?;
    let client = node.client().await?;
    let image = small("strange")?;
    registry.push("team/app", "1", &image).await?;
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes);
    let blob = |media_type: &str, value: &serde_json::Value| Blob {
        media_type: media_type.to_owned(),
        bytes: value.to_string().into_bytes(),
    };
    // For another machine: by the configuration alone, and by the index.
    let mut config = json(&image.config.bytes)?;
    config["architecture"] = "riscv64".into();
    let config = blob(&image.config.media_type, &config);
    let mut manifest = json(&image.manifest.bytes)?;
    manifest["config"] = config.descriptor();
    let manifest = blob(&image.manifest.media_type, &manifest);
    let other = Image { manifest, config, layers: image.layers.clone() };
    registry.push("team/app", "other", &other).await?;
    let says = format!("no image for linux/{}", image::architecture());
    refused(&client, "registry.example/team/app:other", None, Code::NotFound, &says).await?;
    // A chart, a signature, a model: an artifact.
    let mut manifest = json(&image.manifest.bytes)?;
    manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
    registry.push_manifest("team/app", "chart", &blob(&image.manifest.media_type, &manifest)).await?;
    let says = "it is no container image: its configuration has the media type \"application/vnd.cncf.helm";
    refused(&client, "registry.example/team/app:chart", None, Code::InvalidArgument, says).await?;
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec { runtime_handler: "other".into(), ..client::spec("registry.example/team/app:1") }),
        ..Default::default()
    };
    let Err(error) = client.images.clone().pull_image(request).await else { bail!("an unknown handler pulled") };
    ensure!(error.code() == Code::InvalidArgument && error.message().contains("runtime_handler"), "{error}");
    Ok(())
}

pub(crate) async fn an_image_has_one_id_and_goes_with_all_its_names(world: Arc<World>) -> Outcome {
    let registry = Registry::start(&world.node.scratch().join("names")).await?;
    let mut node = Node::start(Options { mirror: Some(registry.address.clone()), ..Default::default() }).await?;
    let client = node.client().await?;
    let image = image::image(Dialect::Oci, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
    let index = image::index(Dialect::Oci, &[&image]);
    registry.push("team/app", "one", &image).await?;
    registry.push_manifest("team/app", "1", &index).await?;
    let tagged = "registry.example/team/app:1";
    let id = pull(&client, tagged, None).await?;
    let by_digest = format!("registry.example/team/app@{}", index.digest());
    for name in ["registry.example/team/app:one", "other.example/team/app:1", by_digest.as_str()] {
        ensure!(pull(&client, name, None).await? == id, "{name} has another id");
    }
    let found = status(&client, tagged).await?.context("it was just pulled")?;
    ensure!(found.id == id && found.repo_tags.len() == 3, "{found:?}");
    ensure!(found.repo_digests.contains(&by_digest), "the index's digest is no name of it: {found:?}");
    for name in [id.as_str(), by_digest.as_str(), "other.example/team/app:1"] {
        ensure!(status(&client, name).await?.is_some_and(|other| other == found), "{name} is told otherwise");
    }
    // What the index's digest means is known without its registry, and over a restart.
    node.terminate()?;
    node.launch().await?;
    let client = node.client().await?;
    let again = status(&client, &by_digest).await?.context("the index's digest is forgotten")?;
    ensure!(again.id == id && again.repo_digests == found.repo_digests, "{again:?}");
    let sandbox = client.run(client::host_network(client::pod("names", &node.scratch().join("logs")))).await?;
    let container = client.launch(&sandbox, "c", tagged, &["/bin/sleep", "1000"]).await?;
    let of = client.status(&container).await?;
    ensure!(of.image_id == id, "its container says {}", of.image_id);
    // Removed while it is in use, by several at once, under one of its names: gone for whoever looks, not from under it.
    let removals = (0..4).map(|_| remove(&client, "other.example/team/app:1"));
    futures_util::future::try_join_all(removals).await?;
    for name in [tagged, &id, &by_digest] {
        ensure!(status(&client, name).await?.is_none(), "{name} is still there");
    }
    ensure!(
        client.shell(&container, "cat /etc/hostname > /dev/null; echo alive").await? == "alive\n",
        "its root is gone"
    );
    client.end(&sandbox).await?;
    let layers = node.root().join("images/layers");
    machine_waits("its layers to go with the container", || {
        std::fs::read_dir(&layers).is_ok_and(|entries| entries.count() == 0)
    })
    .await?;
    machine::run("test", &["-d", &layers.display().to_string()])?;
    Ok(())
}
