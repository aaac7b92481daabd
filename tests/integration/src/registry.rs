//! Debian's docker-registry on loopback, and pushing to it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::image::{Blob, Image};

/// A running registry; ended when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    http: reqwest::Client,
}

impl Registry {
    /// Starts one with its data below `folder`.
    ///
    /// # Errors
    /// When the program isn't there or doesn't answer within 20 s.
    pub async fn start(folder: &Path) -> anyhow::Result<Registry> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        std::fs::create_dir_all(folder)?;
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            folder.join("data").display()
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
        let registry = Registry { child, address, http: reqwest::Client::new() };
        for _ in 0..200 {
            if registry
                .http
                .get(format!("http://{}/v2/", registry.address))
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
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
    }
}
