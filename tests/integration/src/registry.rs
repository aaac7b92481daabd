//! Debian's docker-registry on loopback, and pushing to it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::image::{Blob, Image};

/// A running registry; ended when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    config: PathBuf,
    /// `127.0.0.1:PORT`.
    pub address: String,
    http: reqwest::Client,
}

/// How a registry lets people in: plain and open, where nothing else is said.
#[derive(Debug, Clone, Default)]
pub struct Door {
    /// Its certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The authority whose clients may come in.
    pub clients_of: Option<PathBuf>,
    /// The `auth:` part of its configuration.
    pub auth: Option<String>,
}

impl Door {
    fn text(&self) -> String {
        let mut text = String::new();
        if let Some((certificate, key)) = &self.tls {
            let clients = self.clients_of.as_ref().map(|file| format!(", clientcas: [{}]", file.display()));
            text += &format!(
                ", tls: {{certificate: {}, key: {}{}}}",
                certificate.display(),
                key.display(),
                clients.unwrap_or_default()
            );
        }
        text += "}\n";
        if let Some(auth) = &self.auth {
            text += &format!("auth: {auth}\n");
        }
        text
    }
}

impl Registry {
    /// Starts one with its data below `folder`.
    ///
    /// # Errors
    /// When the program isn't there or doesn't answer within 20 s.
    pub async fn start(folder: &Path) -> anyhow::Result<Registry> {
        Registry::start_behind(folder, &Door::default()).await
    }

    /// The same behind a door. Several may have the same data.
    ///
    /// # Errors
    /// When the program isn't there or doesn't listen within 20 s.
    pub async fn start_behind(folder: &Path, door: &Door) -> anyhow::Result<Registry> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        std::fs::create_dir_all(folder)?;
        let config = folder.join(format!("config-{port}.yml"));
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'{}",
            folder.join("data").display(),
            door.text()
        );
        std::fs::write(&config, text)?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run docker-registry (apt-get install docker-registry)")?;
        let registry = Registry { child, config, address, http: reqwest::Client::new() };
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(&registry.address).await.is_ok() {
                return Ok(registry);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("docker-registry did not answer on {} within 20 s", registry.address)
    }

    /// Pushes an image's blobs and its manifest under `tag`.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) -> anyhow::Result<()> {
        for blob in image.layers.iter().chain([&image.config]) {
            self.push_blob(repository, blob).await?;
        }
        self.push_manifest(repository, tag, &image.manifest).await
    }

    /// Pushes a manifest or an index alone.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push_manifest(&self, repository: &str, reference: &str, manifest: &Blob) -> anyhow::Result<()> {
        let answer = self
            .http
            .put(format!("http://{}/v2/{repository}/manifests/{reference}", self.address))
            .header("Content-Type", &manifest.media_type)
            .body(manifest.bytes.clone())
            .send()
            .await?;
        if !answer.status().is_success() {
            bail!("the registry refused {repository}:{reference}: {} {}", answer.status(), answer.text().await?);
        }
        Ok(())
    }

    async fn push_blob(&self, repository: &str, blob: &Blob) -> anyhow::Result<()> {
        let start = self.http.post(format!("http://{}/v2/{repository}/blobs/uploads/", self.address)).send().await?;
        let place = start.headers().get("location").context("an upload has a location")?.to_str()?.to_owned();
        let place = if place.starts_with('/') { format!("http://{}{place}", self.address) } else { place };
        let joint = if place.contains('?') { '&' } else { '?' };
        let answer =
            self.http.put(format!("{place}{joint}digest={}", blob.digest())).body(blob.bytes.clone()).send().await?;
        if !answer.status().is_success() {
            bail!("the registry refused a blob of {repository}: {} {}", answer.status(), answer.text().await?);
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}
