//! Reads a tar of an OCI image layout or of `docker save`.
//!
//! The archive comes as a stream and its list of contents may stand anywhere, so every file is spooled and hashed on its
//! way; what the list names becomes blobs, the rest is thrown away. Nothing of the archive is trusted: its file names
//! are keys of a map and never paths on our disk.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write as _};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use oci_spec::image::{Descriptor, ImageIndex};

use crate::compression::{Compression, Decoder, sniff};
use crate::digest::Digest;
use crate::document::{Manifest, digest_of, parse_config, parse_index, parse_manifest};
use crate::error::{ArchiveError, DocumentError, StoreError};
use crate::index::{NAME_ANNOTATION, REF_ANNOTATION};
use crate::limits::{CONFIG_BYTES_MAX, IMPORT_BYTES_MAX, IMPORT_ENTRIES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX};
use crate::store::{LayerSource, Lease, Spool, Store};
use crate::tar::{Archive, EntryKind, TarError};

/// An image of the archive: everything of it is in the store, under the caller's lease; it has no name yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its manifest, to be committed.
    pub manifest: Digest,
    /// Names as the archive has them: unchecked.
    pub names: Vec<String>,
}

/// What is read from the archive at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// An index in an index in an index: more is an attack.
const INDEX_DEPTH_MAX: usize = 3;
/// Images in one archive.
const IMAGES_MAX: usize = 1000;

/// This machine as images call it.
const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

/// A file of the archive.
struct Spooled<'a> {
    spool: Spool<'a>,
    digest: Digest,
    size_bytes: u64,
    compression: Compression,
}

/// All files of the archive by name, and links between them.
#[derive(Default)]
struct Files<'a> {
    by_name: HashMap<String, Spooled<'a>>,
    links: HashMap<String, String>,
}

/// One line of docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Store {
    /// Reads an archive, plain or compressed: OCI image layout or `docker save`. All that its images for this machine need
    /// is in the store afterwards, protected by `lease`, and still without names.
    ///
    /// # Errors
    /// The archive is broken or holds no image for this machine, or the disk's.
    pub fn import(&self, reader: &mut dyn Read, lease: &mut Lease<'_>) -> Result<Vec<Imported>, StoreError> {
        let unreadable = |error| StoreError::Archive(ArchiveError::Read(error));
        let (compression, buffered) = sniff(reader).map_err(unreadable)?;
        let decoder = Decoder::new(compression, buffered).map_err(unreadable)?;
        let mut archive = Archive::new(BufReader::with_capacity(BUFFER_BYTES, decoder));
        let files = self.spool_files(&mut archive)?;
        if files.find("index.json").is_some() {
            return self.import_layout(&files, lease);
        }
        if files.find("manifest.json").is_some() {
            return self.import_docker(&files, lease);
        }
        Err(StoreError::Archive(ArchiveError::Neither))
    }

    fn spool_files<R: BufRead>(&self, archive: &mut Archive<R>) -> Result<Files<'_>, StoreError> {
        let too_much = |what, max| StoreError::Archive(ArchiveError::TooMuch { what, max });
        let mut files = Files::default();
        let (mut entries, mut bytes) = (0_u64, 0_u64);
        while let Some(entry) = archive.next_entry().map_err(broken)? {
            entries += 1;
            bytes = bytes.saturating_add(entry.size_bytes);
            if entries > IMPORT_ENTRIES_MAX {
                return Err(too_much("entries", IMPORT_ENTRIES_MAX));
            }
            if bytes > IMPORT_BYTES_MAX {
                return Err(too_much("bytes", IMPORT_BYTES_MAX));
            }
            let Some(name) = plain_name(&entry.path, "") else { continue };
            match &entry.kind {
                EntryKind::Regular => {
                    let spooled = self.spool_file(archive)?;
                    files.by_name.insert(name, spooled);
                }
                EntryKind::Hardlink(target) => files.link(name, plain_name(target, "")),
                EntryKind::Symlink(target) => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _last)| directory).to_owned();
                    files.link(name, plain_name(target, &directory));
                }
                EntryKind::Directory | EntryKind::Fifo | EntryKind::Character(..) | EntryKind::Block(..) => {}
            }
        }
        archive.finish().map_err(broken)?;
        Ok(files)
    }

    fn spool_file<R: BufRead>(&self, archive: &mut Archive<R>) -> Result<Spooled<'_>, StoreError> {
        let (spool, mut file) = self.spool()?;
        let mut hash = Sha256::new();
        let mut size_bytes = 0_u64;
        let mut start = Vec::new();
        loop {
            let chunk = archive.chunk().map_err(broken)?;
            if chunk.is_empty() {
                break;
            }
            let missing = 4_usize.saturating_sub(start.len());
            start.extend(chunk.iter().take(missing));
            hash.update(chunk);
            file.write_all(chunk).map_err(|error| self.spool_failed(&error))?;
            let length = chunk.len();
            size_bytes = size_bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            archive.consume(length);
        }
        Ok(Spooled { spool, digest: Digest::from_hash(hash), size_bytes, compression: Compression::of_magic(&start) })
    }

    fn import_layout(&self, files: &Files<'_>, lease: &mut Lease<'_>) -> Result<Vec<Imported>, StoreError> {
        let wrong =
            |source| StoreError::Archive(ArchiveError::Contents { file: "index.json", source: Box::new(source) });
        let index = parse_index(&files.read("index.json", MANIFEST_BYTES_MAX)?).map_err(wrong)?;
        let mut imported: Vec<Imported> = Vec::new();
        for descriptor in index.manifests().iter().take(IMAGES_MAX) {
            let Some(manifest) = files.choose(descriptor, 0)? else { continue };
            let name = name_of(descriptor);
            match imported.iter_mut().find(|image| image.manifest == manifest) {
                Some(image) => image.names.extend(name),
                None => {
                    self.import_manifest(files, manifest, lease)?;
                    imported.push(Imported { manifest, names: name.into_iter().collect() });
                }
            }
        }
        if imported.is_empty() { Err(StoreError::Archive(ArchiveError::Platform(ARCHITECTURE))) } else { Ok(imported) }
    }

    fn import_manifest(&self, files: &Files<'_>, digest: Digest, lease: &mut Lease<'_>) -> Result<(), StoreError> {
        let bytes = files.read(&blob_name(digest), MANIFEST_BYTES_MAX)?;
        let manifest =
            parse_manifest(&bytes).map_err(|source| StoreError::Document { digest, source: Box::new(source) })?;
        let config = files.read(&blob_name(manifest.config), CONFIG_BYTES_MAX)?;
        let place = |digest: Digest| files.find(&blob_name(digest));
        self.import_parts(&manifest, &config, place, lease)?;
        lease.protect(digest);
        self.put_blob(&bytes).map(drop)
    }

    fn import_docker(&self, files: &Files<'_>, lease: &mut Lease<'_>) -> Result<Vec<Imported>, StoreError> {
        let wrong =
            |source| StoreError::Archive(ArchiveError::Contents { file: "manifest.json", source: Box::new(source) });
        let bytes = files.read("manifest.json", MANIFEST_BYTES_MAX)?;
        let images: Vec<DockerImage> = serde_json::from_slice(&bytes).map_err(|error| wrong(error.into()))?;
        if images.len() > IMAGES_MAX || images.iter().any(|image| image.layers.len() > LAYERS_MAX) {
            return Err(wrong(DocumentError::Content("it has too many images or layers")));
        }
        let mut imported = Vec::new();
        for image in images {
            let config = files.read(&image.config, CONFIG_BYTES_MAX)?;
            let mut layers = Vec::new();
            for name in &image.layers {
                let file = files.find(name).ok_or_else(|| missing(name))?;
                layers.push((file.digest, file.size_bytes, file.compression.media_type().to_owned()));
            }
            let manifest = written_manifest(&config, &layers);
            let parsed = parse_manifest(&manifest).map_err(wrong)?;
            let place = |digest: Digest| files.by_name.values().find(|file| file.digest == digest);
            self.import_parts(&parsed, &config, place, lease)?;
            let digest = Digest::of(&manifest);
            lease.protect(digest);
            self.put_blob(&manifest)?;
            imported.push(Imported { manifest: digest, names: image.repo_tags.unwrap_or_default() });
        }
        if imported.is_empty() { Err(StoreError::Archive(ArchiveError::Platform(ARCHITECTURE))) } else { Ok(imported) }
    }

    /// Configuration and layers of one image.
    fn import_parts<'f>(
        &self,
        manifest: &Manifest,
        config: &[u8],
        place: impl Fn(Digest) -> Option<&'f Spooled<'f>>,
        lease: &mut Lease<'_>,
    ) -> Result<(), StoreError> {
        let wrong = |source| StoreError::Document { digest: manifest.config, source: Box::new(source) };
        if Digest::of(config) != manifest.config {
            return Err(wrong(DocumentError::Content("its bytes have another digest")));
        }
        let (_config, layers) = parse_config(config, manifest).map_err(wrong)?;
        lease.protect(manifest.config);
        self.put_blob(config)?;
        for layer in layers {
            lease.protect(layer.digest);
            lease.protect(layer.diff_id);
            if !self.has_blob(&layer.digest, layer.size_bytes) {
                let file = place(layer.digest).ok_or_else(|| missing(&blob_name(layer.digest)))?;
                if file.digest != layer.digest || file.size_bytes != layer.size_bytes {
                    return Err(wrong(DocumentError::Content("a layer's bytes have another digest or size")));
                }
                file.spool.keep(file.digest, file.size_bytes)?;
            }
            if !self.has_layer(&layer.diff_id) {
                self.unpack_layer(&LayerSource {
                    digest: layer.digest,
                    size_bytes: layer.size_bytes,
                    diff_id: layer.diff_id,
                    compression: Compression::of_media_type(&layer.media_type),
                })?;
            }
        }
        Ok(())
    }
}

impl<'a> Files<'a> {
    fn link(&mut self, name: String, target: Option<String>) {
        if let Some(target) = target {
            self.links.insert(name, target);
        }
    }

    fn find(&self, name: &str) -> Option<&Spooled<'a>> {
        /// Links to links; `docker save` has one at most.
        const LINKS_MAX: usize = 4;
        let mut name = plain_name(name.as_bytes(), "")?;
        for _link in 0..LINKS_MAX {
            if let Some(file) = self.by_name.get(&name) {
                return Some(file);
            }
            name.clone_from(self.links.get(&name)?);
        }
        None
    }

    /// A document of the archive, compared with the digest that its name says, if it says one.
    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let file = self.find(name).ok_or_else(|| missing(name))?;
        let wrong = |source| StoreError::Document { digest: file.digest, source: Box::new(source) };
        if file.size_bytes > bytes_max {
            return Err(wrong(DocumentError::TooLong { found: file.size_bytes, max: bytes_max }));
        }
        if name.strip_prefix(BLOBS).is_some_and(|hex| hex != file.digest.hex()) {
            return Err(wrong(DocumentError::Content("its bytes have another digest than its name says")));
        }
        let mut bytes = Vec::new();
        let read = file.spool.open()?.take(bytes_max).read_to_end(&mut bytes);
        read.map_err(|error| StoreError::Archive(ArchiveError::Read(error)))?;
        Ok(bytes)
    }

    /// The manifest for this machine that a descriptor leads to.
    fn choose(&self, descriptor: &Descriptor, depth: usize) -> Result<Option<Digest>, StoreError> {
        let wrong =
            |source| StoreError::Archive(ArchiveError::Contents { file: "index.json", source: Box::new(source) });
        let digest = digest_of(descriptor).map_err(wrong)?;
        let fits = descriptor.platform().as_ref().is_none_or(|platform| {
            platform.os().to_string() == "linux" && platform.architecture().to_string() == ARCHITECTURE
        });
        if !fits {
            return Ok(None);
        }
        let kind = descriptor.media_type().to_string();
        if !kind.contains("index") && !kind.contains("manifest.list") {
            return Ok(Some(digest));
        }
        if depth >= INDEX_DEPTH_MAX {
            return Err(wrong(DocumentError::Content("it nests too deep")));
        }
        let bytes = self.read(&blob_name(digest), MANIFEST_BYTES_MAX)?;
        let index: ImageIndex =
            parse_index(&bytes).map_err(|source| StoreError::Document { digest, source: Box::new(source) })?;
        for entry in index.manifests().iter().take(IMAGES_MAX) {
            if let Some(found) = self.choose(entry, depth + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

const BLOBS: &str = "blobs/sha256/";

fn blob_name(digest: Digest) -> String {
    format!("{BLOBS}{}", digest.hex())
}

fn missing(name: &str) -> StoreError {
    const SHOWN_CHARACTERS_MAX: usize = 200;
    StoreError::Archive(ArchiveError::Missing(name.chars().take(SHOWN_CHARACTERS_MAX).collect()))
}

fn broken(error: TarError) -> StoreError {
    StoreError::Archive(ArchiveError::Tar(Box::new(error)))
}

/// The full name that a descriptor's annotations give. A bare tag is no name.
fn name_of(descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations().as_ref()?;
    let full = annotations.get(NAME_ANNOTATION);
    full.or_else(|| annotations.get(REF_ANNOTATION).filter(|name| name.contains([':', '/']))).cloned()
}

/// A file name as a key: `a/./b` and `./a/b` are one, `..` goes up within the archive. `None` where it leads out.
fn plain_name(raw: &[u8], directory: &str) -> Option<String> {
    let raw = std::str::from_utf8(raw).ok()?;
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    if raw.starts_with('/') {
        parts.clear();
    }
    for part in raw.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The manifest that a docker archive doesn't have.
fn written_manifest(config: &[u8], layers: &[(Digest, u64, String)]) -> Vec<u8> {
    let descriptor = |media_type: &str, digest: Digest, size: u64| serde_json::json!({"mediaType": media_type, "digest": digest, "size": size});
    let layers: Vec<_> = layers.iter().map(|(digest, size, kind)| descriptor(kind, *digest, *size)).collect();
    let size = u64::try_from(config.len()).unwrap_or(u64::MAX);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", Digest::of(config), size),
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}
