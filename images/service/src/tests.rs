//! The service against a small registry on loopback, and its own archives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use images_store::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Whether the kernel lets us unpack; says in one line why not.
fn root_or_skip(test: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        eprintln!("{test}: skipped, needs root");
    }
    root
}

fn tar(name: &str, data: &[u8]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(u64::try_from(data.len()).unwrap());
    header.set_mode(0o644);
    builder.append_data(&mut header, name, data).unwrap();
    builder.into_inner().unwrap()
}

/// An image in pieces: documents and blobs by digest.
struct Pieces {
    manifest: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
}

fn pieces(layers: &[Vec<u8>]) -> Pieces {
    let architecture = images_registry::Platform::host().architecture;
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {"User": "1000"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes();
    let descriptor = |kind: &str, bytes: &[u8]| serde_json::json!({"mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
    let layer_type = "application/vnd.oci.image.layer.v1.tar";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|layer| descriptor(layer_type, layer)).collect::<Vec<_>>(),
    });
    let blobs = layers.iter().chain([&config]).map(|bytes| (Digest::of(bytes).to_string(), bytes.clone())).collect();
    Pieces { manifest: manifest.to_string().into_bytes(), blobs }
}

/// A registry with one image under every name; counts how often blobs were asked for.
struct Fake {
    address: String,
    blobs_asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn new(pieces: Pieces) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let blobs_asked = Arc::new(AtomicUsize::new(0));
        let (pieces, count) = (Arc::new(pieces), blobs_asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                tokio::spawn(answer(stream, pieces.clone(), count.clone()));
            }
        });
        Self { address, blobs_asked, task }
    }
}

async fn answer(mut stream: tokio::net::TcpStream, pieces: Arc<Pieces>, asked: Arc<AtomicUsize>) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut buffer).await {
                Ok(length) if length > 0 => request.extend_from_slice(&buffer[..length]),
                _gone => return,
            }
        }
        let text = String::from_utf8(std::mem::take(&mut request)).unwrap();
        let path = text.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
        let name = path.rsplit('/').next().unwrap_or_default();
        let (status, kind, body) = if path.contains("/manifests/") {
            ("200 OK", "application/vnd.oci.image.manifest.v1+json", pieces.manifest.clone())
        } else if let Some(blob) = pieces.blobs.get(name) {
            asked.fetch_add(1, Ordering::SeqCst);
            ("200 OK", "application/octet-stream", blob.clone())
        } else {
            ("404 Not Found", "application/json", b"{}".to_vec())
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        let body = if text.starts_with("HEAD") { Vec::new() } else { body };
        if stream.write_all(&[head.as_bytes(), &body].concat()).await.is_err() {
            return;
        }
    }
}

async fn images(directory: &tempfile::TempDir, embedded: Vec<Embedded>) -> Images {
    let root = directory.path().join("images");
    let config =
        ImagesConfig { root, registry: RegistryConfig::default(), embedded, pinned: Vec::new(), layers_at_once: 3 };
    Images::open(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_comes_in_once_however_many_want_it() {
    if !root_or_skip("a_pull_comes_in_once_however_many_want_it") {
        return;
    }
    let layers = [tar("a", b"1"), tar("b", &vec![7; 3_000_000]), tar("c", b"3")];
    let fake = Fake::new(pieces(&layers)).await;
    let directory = tempfile::tempdir().unwrap();
    let images = images(&directory, Vec::new()).await;
    let name = format!("{}/some/image:1", fake.address);
    let (sender, mut events) = tokio::sync::mpsc::channel(1000);
    let one = images.pull(&name, None, Some(sender));
    let other = images.pull(&name, None, None);
    let (one, other) = tokio::join!(one, other);
    let image = one.unwrap();
    assert_eq!(image.id, other.unwrap().id);
    assert_eq!(fake.blobs_asked.load(Ordering::SeqCst), 4, "three layers and the configuration");
    assert_eq!((&image.repo_tags[..], image.user.as_deref()), (&[name.clone()][..], Some("1000")));
    assert_eq!(image.repo_digests, [format!("{}/some/image@{}", fake.address, image.manifest)]);
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(event);
    }
    assert!(matches!(seen[0], PullEvent::Resolved { layers: 3, .. }), "{seen:?}");
    assert_eq!(seen.last(), Some(&PullEvent::Done));
    // Again, and under another name: nothing is fetched but the small documents.
    images.pull(&format!("{}/other:2", fake.address), None, None).await.unwrap();
    assert_eq!(fake.blobs_asked.load(Ordering::SeqCst), 5);
    let root = images.root_for(&name, "container").unwrap();
    assert_eq!(root.lowers.len(), 3);
    assert!(root.lowers[0].join("c").exists() && root.lowers[2].join("a").exists());
    // Pinned by a beginning, by a name that it hasn't, by one that it has: what nobody pinned goes when room is made.
    for (pins, pinned) in [
        (vec![format!("{}/some/*", fake.address)], true),
        (vec!["some/image:1".into()], false),
        (vec![name.clone()], true),
    ] {
        let pins = pins.iter().map(|name| super::pin(name)).collect::<Result<_, _>>().unwrap();
        images.0.store.pin(pins);
        assert_eq!(images.find(&name).unwrap().pinned, pinned);
    }
    assert_eq!(images.prune().await.unwrap(), PruneReport::default());
    images.remove(&name).await.unwrap();
    images.remove(&name).await.unwrap();
    assert_eq!(images.list(), []);
    assert!(root.lowers[0].join("c").exists(), "held");
    images.release("container");
    images.prune().await.unwrap();
    assert!(!root.lowers[0].exists());
    assert_eq!(images.usage().bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_layer_is_named_and_leaves_nothing() {
    if !root_or_skip("a_wrong_layer_is_named_and_leaves_nothing") {
        return;
    }
    let layers = [tar("a", b"1"), tar("b", b"2")];
    let mut wrong = pieces(&layers);
    let digest = Digest::of(&layers[1]).to_string();
    wrong.blobs.insert(digest.clone(), tar("b", b"3"));
    let fake = Fake::new(wrong).await;
    let directory = tempfile::tempdir().unwrap();
    let images = images(&directory, Vec::new()).await;
    let name = format!("{}/image:1", fake.address);
    let error = images.pull(&name, None, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    for part in [name.as_str(), &digest, "its digest is"] {
        assert!(error.chain().contains(part), "{:?} doesn't say {part:?}", error.chain());
    }
    assert_eq!(images.list(), []);
    images.prune().await.unwrap();
    assert_eq!(images.usage().bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_kinds_and_name_things() {
    let directory = tempfile::tempdir().unwrap();
    let images = images(&directory, Vec::new()).await;
    let check = |error: ImageError, kind: Kind, words: &str| {
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(error.chain().contains(words), "{}", error.chain());
    };
    check(images.pull("No Such\nName", None, None).await.unwrap_err(), Kind::Invalid, "no valid image name");
    // A port that nobody listens on any more.
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let dead = format!("127.0.0.1:{port}/x:1");
    check(images.pull(&dead, None, None).await.unwrap_err(), Kind::Unreachable, &dead);
    check(images.root_for("nothing", "c").unwrap_err(), Kind::NotFound, "nothing");
    check(images.tag("nothing", "x:1").await.unwrap_err(), Kind::NotFound, "nothing");
    let root = directory.path().join("images");
    let config = ImagesConfig {
        root,
        registry: RegistryConfig::default(),
        embedded: Vec::new(),
        pinned: Vec::new(),
        layers_at_once: 3,
    };
    check(Images::open(config).await.unwrap_err(), Kind::InUse, "another process");
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_images_are_made_when_wanted() {
    if !root_or_skip("embedded_images_are_made_when_wanted") {
        return;
    }
    let from = pieces(&[tar("program", b"elf")]);
    let manifest = &from.manifest;
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::of(manifest).to_string(), "size": manifest.len(),
    }]});
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(u64::try_from(bytes.len()).unwrap());
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    add("index.json", index.to_string().as_bytes());
    for blob in from.blobs.values().chain([manifest]) {
        add(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
    }
    let archive = builder.into_inner().unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let mut embedded = Embedded {
        name: "podwright.local/demo:1".to_owned(),
        revision: "one".to_owned(),
        archive: Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(archive.clone())
        }),
    };
    let directory = tempfile::tempdir().unwrap();
    let first = embedded.clone();
    let open = async |embedded| images(&directory, vec![embedded]).await;
    let images = open(first).await;
    let name = "podwright.local/demo:1";
    let (one, other) = tokio::join!(images.pull(name, None, None), images.pull(name, None, None));
    let image = one.unwrap();
    assert_eq!(image, other.unwrap());
    assert_eq!(made.load(Ordering::SeqCst), 1);
    assert_eq!(image.repo_tags, [name]);
    images.tag(name, "demo").await.unwrap();
    for known in ["demo", "docker.io/library/demo:latest", &image.id, &image.id[7..], &image.id[7..20]] {
        assert_eq!(images.find(known).map(|found| found.id.clone()).as_ref(), Some(&image.id), "{known}");
    }
    for unknown in ["demo:2", "sha256:12", "", "zz", "../demo"] {
        assert_eq!(images.find(unknown), None, "{unknown}");
    }
    images.untag("demo").await.unwrap();
    assert!(images.find("demo").is_none() && images.find(name).is_some());

    // The same program starts again: its image is still there. Another one makes its own.
    drop(images);
    let images = open(embedded.clone()).await;
    images.pull(name, None, None).await.unwrap();
    assert_eq!((images.find(name).is_some(), made.load(Ordering::SeqCst)), (true, 1));
    let root = images.root_for(name, "running").unwrap();
    drop(images);
    embedded.revision = "other".to_owned();
    let images = open(embedded.clone()).await;
    assert!(images.find(name).is_none(), "whoever asks first must make it anew");
    assert!(root.lowers[0].join("program").exists(), "a container may run on it");
    images.hold(&image.id, "running").unwrap();
    images.prune().await.unwrap();
    assert!(root.lowers[0].join("program").exists(), "one does");
    images.pull(name, None, None).await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 2);
    images.release("running");
    images.tag(name, "mine").await.unwrap();
    drop(images);
    embedded.revision = "two".to_owned();
    let images = open(embedded.clone()).await;
    assert!(images.find(name).is_none(), "whoever asks first must make it anew");
    assert!(images.find("mine").is_some(), "a name that somebody gave stays");
    images.pull(name, None, None).await.unwrap();
    images.pull(name, None, None).await.unwrap();
    assert_eq!((images.find(name).is_some(), made.load(Ordering::SeqCst)), (true, 3));
    // Somebody else's image under the name isn't ours.
    images.tag("mine", name).await.unwrap();
    images.pull(name, None, None).await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 4);
}
