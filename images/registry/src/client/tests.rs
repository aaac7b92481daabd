use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::document::Resolved;
use crate::error::Kind;
use crate::manifest::{DOCUMENT_BYTES_MAX, OCI_INDEX, OCI_MANIFEST, Platform};

mod fake;
mod faults;
mod real;
mod secrets;

use fake::{Fake, Fault, Reply, Seen};

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

fn digest_of(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// A small image as a registry holds it.
struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    index: Vec<u8>,
}

impl Image {
    fn new(layer_bytes: usize) -> Arc<Self> {
        let layer: Vec<u8> = (0..layer_bytes).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let config = br#"{"architecture":"amd64","os":"linux"}"#.to_vec();
        let descriptor = |media_type: &str, bytes: &[u8], more: &str| {
            let (digest, size) = (digest_of(bytes), bytes.len());
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}{more}}}"#)
        };
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor(CONFIG_TYPE, &config, ""),
            descriptor(LAYER_TYPE, &layer, "")
        );
        let platform = r#","platform":{"os":"linux","architecture":"amd64"}"#;
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
            descriptor(OCI_MANIFEST, manifest.as_bytes(), platform)
        );
        Arc::new(Self { layer, config, manifest: manifest.into(), index: index.into() })
    }

    /// What a faultless registry answers.
    fn serve(&self, seen: &Seen) -> Reply {
        let last = seen.path().rsplit('/').next().unwrap();
        for (bytes, media_type) in [(&self.manifest, OCI_MANIFEST), (&self.index, OCI_INDEX)] {
            if last == digest_of(bytes) || last == "1" && media_type == OCI_INDEX {
                let reply = Reply::new(200, bytes.clone()).with("content-type", media_type);
                return reply.with("docker-content-digest", digest_of(bytes));
            }
        }
        let Some(blob) = [&self.layer, &self.config].into_iter().find(|blob| digest_of(blob) == last) else {
            return Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such\nthing"}]}"#);
        };
        match seen.range() {
            0 => Reply::new(200, blob.clone()),
            from => {
                let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                Reply::new(206, &blob[from..]).with("content-range", range)
            }
        }
    }

    fn layer_descriptor(&self) -> Descriptor {
        let digest: Digest = digest_of(&self.layer).parse().unwrap();
        Descriptor::new(LAYER_TYPE.into(), u64::try_from(self.layer.len()).unwrap(), digest)
    }
}

/// Impatient, so that faults show in milliseconds.
fn config() -> RegistryConfig {
    RegistryConfig {
        connect_timeout: Duration::from_secs(2),
        answer_timeout: Duration::from_millis(500),
        idle_timeout: Duration::from_millis(300),
        rate_window: Duration::from_millis(200),
        rate_bytes_min: 1000,
        retry_pause: Duration::from_millis(5),
        retry_pause_max: Duration::from_millis(1500),
        ..RegistryConfig::default()
    }
}

fn amd64() -> Platform {
    Platform { architecture: "amd64".into(), variant: None }
}

fn reference(fake: &Fake) -> Reference {
    format!("{}/team/app:1", fake.address).parse().unwrap()
}

async fn resolve(fake: &Fake, auth: Option<&Auth>) -> Result<Resolved, RegistryError> {
    Registry::new(config()).resolve(&reference(fake), auth, &amd64()).await
}

async fn layer(fake: &Fake, image: &Image, from_byte: u64) -> Result<Vec<u8>, RegistryError> {
    let registry = Registry::new(config());
    let mut stream = registry.blob(&reference(fake), &image.layer_descriptor(), None, from_byte).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next_chunk().await {
        bytes.extend_from_slice(&chunk?);
    }
    assert_eq!(stream.position(), stream.size());
    Ok(bytes)
}

#[tokio::test]
async fn a_tag_leads_to_verified_documents_and_the_layers_bytes() {
    let image = Image::new(300_000);
    let fake = Fake::start({
        let image = image.clone();
        move |seen, _| image.serve(seen)
    })
    .await;
    let resolved = resolve(&fake, None).await.unwrap();
    assert_eq!(resolved.digest.to_string(), digest_of(&image.index));
    let documents: Vec<_> = resolved.documents.iter().map(|document| document.bytes.to_vec()).collect();
    assert_eq!(documents, [image.index.clone(), image.manifest.clone()]);
    assert_eq!(resolved.documents[1].descriptor.media_type().to_string(), OCI_MANIFEST);
    assert_eq!(resolved.manifest.layers().len(), 1);
    assert_eq!(resolved.endpoint, format!("http://{}", fake.address));
    assert_eq!(fake.seen()[1].path(), format!("/v2/team/app/manifests/{}", digest_of(&image.manifest)));
    let accept = fake.seen()[0].header("accept").unwrap_or_default().to_owned();
    assert!(accept.contains(OCI_INDEX), "{accept}");

    let registry = Registry::new(config());
    let small = registry.small_blob(&reference(&fake), resolved.manifest.config(), None).await.unwrap();
    assert_eq!(small, image.config);
    assert_eq!(layer(&fake, &image, 0).await.unwrap(), image.layer);
    assert_eq!(layer(&fake, &image, 299_990).await.unwrap(), image.layer[299_990..]);
    assert!(layer(&fake, &image, 300_000).await.unwrap().is_empty());
    assert_eq!(layer(&fake, &image, 300_001).await.unwrap_err().kind(), Kind::Invalid);

    let pinned = reference(&fake).with_digest(resolved.digest.clone());
    let again = registry.resolve(&pinned, None, &amd64()).await.unwrap();
    assert_eq!(again.digest, resolved.digest);
    let other = Platform { architecture: "riscv64".into(), variant: None };
    let error = registry.resolve(&pinned, None, &other).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("no image for linux/riscv64"), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let image = Image::new(10);
    let fake = Fake::start(move |seen, _| image.serve(seen)).await;
    let reference: Reference = format!("{}/team/app:2", fake.address).parse().unwrap();
    let error = Registry::new(config()).resolve(&reference, None, &amd64()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let told =
        format!("cannot resolve {reference}: http://{}: not found (MANIFEST_UNKNOWN: no such thing)", fake.address);
    assert_eq!(error.to_string(), told);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reference: Reference = format!("{nobody}/team/app:2").parse().unwrap();
    let error = Registry::new(config()).resolve(&reference, None, &amd64()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(
        error.to_string().contains(&format!("http://{nobody}: cannot connect: tcp connect error: Connection refused"))
    );
}

fn with_mirrors(reference: &Reference, text: &str) -> (tempfile::TempDir, Registry) {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join(reference.registry());
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), text).unwrap();
    let registry = Registry::new(RegistryConfig { hosts_dir: Some(directory.path().to_owned()), ..config() });
    (directory, registry)
}

#[tokio::test]
async fn mirrors_are_tried_in_order_and_the_registry_last() {
    let image = Image::new(1000);
    let serving = |image: Arc<Image>| move |seen: &Seen, _| image.serve(seen);
    let empty = Fake::start(|_, _| Reply::new(404, "")).await;
    let busy = Fake::start(|_, _| Reply::new(503, "")).await;
    let mirror = Fake::start(serving(image.clone())).await;
    let upstream = Fake::start(serving(image.clone())).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reference: Reference = "registry.example/team/app:1".parse().unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{nobody}\"]\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n\
         [host.\"http://{}/cache\"]\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"http://{}/cache\".header]\nx-key = \"k\"\n",
        upstream.address, empty.address, busy.address, mirror.address, mirror.address
    );
    let (_directory, registry) = with_mirrors(&reference, &text);
    let resolved = registry.resolve(&reference, None, &amd64()).await.unwrap();
    assert_eq!(resolved.endpoint, format!("http://{}/cache", mirror.address));
    assert_eq!(mirror.seen()[0].target, "/cache/v2/team/app/manifests/1?ns=registry.example");
    assert_eq!(mirror.seen()[0].header("x-key"), Some("k"));
    assert!(upstream.seen().is_empty() && !empty.seen().is_empty());

    let missing: Reference = "registry.example/team/app:2".parse().unwrap();
    let error = registry.resolve(&missing, None, &amd64()).await.unwrap_err().to_string();
    let order = [nobody, empty.address, busy.address, mirror.address, upstream.address];
    assert!(order.iter().all(|address| error.contains(&address.to_string())), "{error}");
    assert!(error.find(&upstream.address.to_string()) > error.find(&nobody.to_string()), "{error}");
}

#[tokio::test]
async fn an_endpoint_is_asked_only_for_what_it_can() {
    let image = Image::new(1000);
    let serving = |image: Arc<Image>| move |seen: &Seen, _| image.serve(seen);
    let (content, names) = (Fake::start(serving(image.clone())).await, Fake::start(serving(image.clone())).await);
    let reference: Reference = "registry.example/team/app:1".parse().unwrap();
    let text = format!(
        "server = \"http://{}\"\ncapabilities = [\"resolve\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        names.address, content.address
    );
    let (_directory, registry) = with_mirrors(&reference, &text);
    registry.resolve(&reference, None, &amd64()).await.unwrap();
    let methods: Vec<_> = names.seen().iter().map(|seen| seen.method.clone()).collect();
    assert_eq!(methods, ["HEAD"]);
    assert!(content.paths().iter().all(|path| path.contains("sha256:")), "{:?}", content.paths());

    let text = format!("server = \"http://{}\"\ncapabilities = [\"pull\"]\n", names.address);
    let (_directory, registry) = with_mirrors(&reference, &text);
    let error = registry.resolve(&reference, None, &amd64()).await.unwrap_err();
    assert!(error.to_string().contains("\"resolve\" in its hosts.toml"), "{error}");
    let (_directory, registry) = with_mirrors(&reference, "server = 7\n");
    let error = registry.resolve(&reference, None, &amd64()).await.unwrap_err();
    assert!(error.to_string().contains("hosts.toml:1:"), "{error}");
    assert_eq!(error.kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_mirror_that_is_down_is_asked_last_for_a_while() {
    let image = Image::new(1000);
    let upstream = Fake::start(move |seen, _| image.serve(seen)).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reference: Reference = "registry.example/team/app:1".parse().unwrap();
    let text = format!("server = \"http://{}\"\n[host.\"http://{nobody}\"]\n", upstream.address);
    let (_directory, registry) = with_mirrors(&reference, &text);
    registry.resolve(&reference, None, &amd64()).await.unwrap();
    let endpoints = registry.endpoints(&reference).await.unwrap();
    let order: Vec<String> = registry.rested_first(&endpoints).iter().map(ToString::to_string).collect();
    assert_eq!(order, [format!("http://{}", upstream.address), format!("http://{nobody}")]);
}
