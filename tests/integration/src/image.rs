//! Images made on the spot: busybox and a file or two, as an OCI layout archive or pushed to a registry.

use std::io::Write;

use anyhow::Context;
use serde_json::json;
use sha2::{Digest, Sha256};

/// How a layer's bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// A bare tar.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// Which words the manifest is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OCI image-spec 1.
    Oci,
    /// Docker image manifest version 2, schema 2.
    Docker,
}

/// A blob with its media type.
#[derive(Debug, Clone)]
pub struct Blob {
    /// `application/…`.
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// `sha256:…`.
    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }

    /// As another document refers to it.
    pub fn descriptor(&self) -> serde_json::Value {
        json!({"mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len()})
    }
}

/// An image for this machine's architecture.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest.
    pub manifest: Blob,
    /// The configuration.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Blob>,
}

/// One entry of a layer.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A directory with its mode.
    Directory(&'static str, u32),
    /// A file with its mode and content.
    File(&'static str, u32, Vec<u8>),
    /// A symbolic link and its target.
    Link(String, String),
    /// A file with its mode, owner and group.
    Owned(&'static str, u32, (u64, u64)),
}

/// `sha256:` and the hex digest.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// `amd64` or `arm64`.
pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// A tar of `entries`.
///
/// # Errors
/// When an entry's name can't be written.
pub fn tar(entries: &[Entry]) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        match entry {
            Entry::Directory(name, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_size(0);
                archive.append_data(&mut header, name, std::io::empty())?;
            }
            Entry::File(name, mode, bytes) => {
                header.set_mode(*mode);
                header.set_size(bytes.len() as u64);
                archive.append_data(&mut header, name, bytes.as_slice())?;
            }
            Entry::Owned(name, mode, (uid, gid)) => {
                header.set_mode(*mode);
                header.set_size(name.len() as u64);
                header.set_uid(*uid);
                header.set_gid(*gid);
                archive.append_data(&mut header, name, name.as_bytes())?;
            }
            Entry::Link(name, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                archive.append_link(&mut header, name, target)?;
            }
        }
    }
    Ok(archive.into_inner()?)
}

/// The layer with busybox and its applets.
///
/// # Errors
/// When /bin/busybox can't be read.
pub fn busybox() -> anyhow::Result<Vec<Entry>> {
    let program = std::fs::read("/bin/busybox").context("cannot read /bin/busybox (apt-get install busybox-static)")?;
    let list = crate::machine::run("/bin/busybox", &["--list"])?;
    let mut entries: Vec<Entry> = ["bin", "dev", "etc", "proc", "sys", "root", "var", "srv"]
        .into_iter()
        .map(|name| Entry::Directory(name, 0o755))
        .collect();
    entries.push(Entry::Directory("tmp", 0o1777));
    entries.push(Entry::File("bin/busybox", 0o755, program));
    entries.push(Entry::File(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:2:2:daemon:/srv:/bin/sh\n".to_vec(),
    ));
    entries.push(Entry::File("etc/group", 0o644, b"root:x:0:\ndaemon:x:2:\nextra:x:77:daemon\n".to_vec()));
    for applet in list.lines().filter(|applet| *applet != "busybox") {
        entries.push(Entry::Link(format!("bin/{applet}"), "busybox".into()));
    }
    Ok(entries)
}

/// An image of the given layers, each packed its way.
///
/// # Errors
/// When a layer can't be packed.
pub fn image(dialect: Dialect, layers: &[(Packing, Vec<Entry>)], command: &[&str]) -> anyhow::Result<Image> {
    let mut blobs = Vec::new();
    let mut identities = Vec::new();
    for (packing, entries) in layers {
        let bytes = tar(entries)?;
        identities.push(digest(&bytes));
        blobs.push(Blob { media_type: layer_type(dialect, *packing).to_owned(), bytes: pack(*packing, &bytes)? });
    }
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin:/sbin:/usr/bin", "FROM_IMAGE=yes"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": identities},
    });
    let (config_type, manifest_type) = match dialect {
        Dialect::Oci => ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.manifest.v1+json"),
        Dialect::Docker => {
            ("application/vnd.docker.container.image.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
        }
    };
    let config = Blob { media_type: config_type.into(), bytes: serde_json::to_vec(&config)? };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type, "config": config.descriptor(),
        "layers": blobs.iter().map(Blob::descriptor).collect::<Vec<_>>(),
    });
    let manifest = Blob { media_type: manifest_type.into(), bytes: serde_json::to_vec(&manifest)? };
    Ok(Image { manifest, config, layers: blobs })
}

/// The same image with one more field of its configuration's `config`.
///
/// # Errors
/// When its documents aren't those that [`image`] makes.
pub fn configured(image: &Image, field: &str, value: serde_json::Value) -> anyhow::Result<Image> {
    let mut config: serde_json::Value = serde_json::from_slice(&image.config.bytes)?;
    config["config"][field] = value;
    let config = Blob { media_type: image.config.media_type.clone(), bytes: serde_json::to_vec(&config)? };
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest.bytes)?;
    manifest["config"] = config.descriptor();
    let manifest = Blob { media_type: image.manifest.media_type.clone(), bytes: serde_json::to_vec(&manifest)? };
    Ok(Image { manifest, config, layers: image.layers.clone() })
}

/// An index that names `images`, the first for this machine's architecture, the others for one that nobody has.
pub fn index(dialect: Dialect, images: &[&Image]) -> Blob {
    let media_type = match dialect {
        Dialect::Oci => "application/vnd.oci.image.index.v1+json",
        Dialect::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
    };
    let manifests: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(position, image)| {
            let mut descriptor = image.manifest.descriptor();
            let architecture = if position == 0 { architecture() } else { "s390x" };
            descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
            descriptor
        })
        .rev()
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    Blob { media_type: media_type.into(), bytes: serde_json::to_vec(&index).expect("a value is JSON") }
}

/// A tar of an OCI image layout with one image called `name`.
///
/// # Errors
/// When the tar can't be written.
pub fn archive(image: &Image, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut descriptor = image.manifest.descriptor();
    descriptor["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [descriptor]});
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), serde_json::to_vec(&index)?),
    ];
    for blob in image.layers.iter().chain([&image.config, &image.manifest]) {
        files.push((format!("blobs/{}", blob.digest().replace(':', "/")), blob.bytes.clone()));
    }
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

fn layer_type(dialect: Dialect, packing: Packing) -> &'static str {
    match (dialect, packing) {
        (Dialect::Oci, Packing::Plain) => "application/vnd.oci.image.layer.v1.tar",
        (Dialect::Oci, Packing::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
        (Dialect::Oci, Packing::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        (Dialect::Docker, Packing::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
        (Dialect::Docker, Packing::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        (Dialect::Docker, Packing::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
}

fn pack(packing: Packing, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    Ok(match packing {
        Packing::Plain => bytes.to_vec(),
        Packing::Gzip => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(bytes)?;
            packer.finish()?
        }
        Packing::Zstd => zstd::encode_all(bytes, 1)?,
    })
}
