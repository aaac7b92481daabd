//! Against Debian's docker-registry on loopback, plain and with TLS.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;

struct Running {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn installed(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = programs.iter().find(|program| !std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
    if let Some(program) = missing {
        println!("skipped: the program {program} isn't installed");
    }
    missing.is_none()
}

/// Starts a registry; `tls` is a certificate and its key.
async fn registry(tls: Option<(&Path, &Path)>) -> Running {
    let directory = tempfile::tempdir().unwrap();
    // Somebody else may take the port before the registry does: then it ends at once and the test says so.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let tls = tls.map_or_else(String::new, |(certificate, key)| {
        format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display())
    });
    let file = directory.path().join("config.yml");
    let data = directory.path().join("data");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}{tls}}}\n",
        data.display()
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Running { child: command.spawn().unwrap(), address, _directory: directory };
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(&running.address).await.is_ok() {
            return running;
        }
        assert!(running.child.try_wait().unwrap().is_none(), "docker-registry ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("docker-registry doesn't listen");
}

/// Pushes the image's blobs and documents.
async fn push(running: &Running, image: &Image) {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let base = format!("http://{}/v2/team/app", running.address);
    for blob in [&image.layer, &image.config] {
        let begun = client.post(format!("{base}/blobs/uploads/")).send().await.unwrap();
        let mut location: Url = begun.headers()["location"].to_str().unwrap().parse().unwrap();
        location.query_pairs_mut().append_pair("digest", &digest_of(blob));
        let put = client.put(location).body(blob.clone()).send().await.unwrap();
        assert_eq!(put.status(), StatusCode::CREATED);
    }
    for (name, media_type, document) in
        [(digest_of(&image.manifest).as_str(), OCI_MANIFEST, &image.manifest), ("1", OCI_INDEX, &image.index)]
    {
        let put = client.put(format!("{base}/manifests/{name}")).header(CONTENT_TYPE, media_type);
        let put = put.body(document.clone()).send().await.unwrap();
        assert_eq!(put.status(), StatusCode::CREATED);
    }
}

#[tokio::test]
async fn an_image_comes_back_from_a_real_registry() {
    if !installed(&["docker-registry"]) {
        return;
    }
    let running = registry(None).await;
    let image = Image::new(3_000_000);
    push(&running, &image).await;
    let reference: Reference = "docker.io/team/app:1".parse().unwrap();
    let text = format!("server = \"http://127.0.0.1:9\"\n[host.\"http://{}\"]\n", running.address);
    let (_directory, registry) = with_mirrors(&reference, &text);
    let resolved = registry.resolve(&reference, None, &amd64()).await.unwrap();
    assert_eq!(resolved.digest.to_string(), digest_of(&image.index));
    let config = registry.small_blob(&reference, resolved.manifest.config(), None).await.unwrap();
    assert_eq!(config, image.config);
    for from_byte in [0_u32, 1, 2_999_999] {
        let layer = &resolved.manifest.layers()[0];
        let mut stream = registry.blob(&reference, layer, None, u64::from(from_byte)).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next_chunk().await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(bytes, image.layer[usize::try_from(from_byte).unwrap()..]);
    }
    let missing: Reference = format!("{}/team/app:none", running.address).parse().unwrap();
    let error = registry.resolve(&missing, None, &amd64()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
}

#[tokio::test]
async fn tls_is_checked_against_the_authority_of_hosts_toml() {
    if !installed(&["docker-registry", "openssl"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("ca.pem"), directory.path().join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let running = registry(Some((&certificate, &key))).await;
    let reference: Reference = "registry.example/team/app:1".parse().unwrap();
    let server = format!("server = \"https://{}\"\n", running.address);
    for (settings, reached) in [
        (String::new(), false),
        ("skip_verify = true\n".to_owned(), true),
        (format!("ca = \"{}\"\n", certificate.display()), true),
        (format!("ca = \"{}\"\n", key.display()), false),
        ("ca = \"missing.pem\"\n".to_owned(), false),
    ] {
        let (_directory, registry) = with_mirrors(&reference, &format!("{server}{settings}"));
        let error = registry.resolve(&reference, None, &amd64()).await.unwrap_err();
        // The registry is empty: whoever reaches it learns that.
        assert_eq!(error.kind() == Kind::NotFound, reached, "{settings}: {error}");
    }
}
