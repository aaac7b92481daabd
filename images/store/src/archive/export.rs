//! Writes images as a tar of an OCI image layout, with docker's list of contents beside it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::image::Image;
use crate::index::{Record, encode};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::store::Store;

impl Store {
    /// Writes images, each under one name or none. The bytes depend on the images and names alone.
    ///
    /// # Errors
    /// A blob is missing, or the writer's.
    pub fn export(&self, images: &[(&Image, Option<String>)], out: &mut dyn Write) -> Result<(), StoreError> {
        let mut tar = tar::Builder::new(out);
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut records = Vec::new();
        let mut docker = Vec::new();
        let mut blobs = BTreeSet::new();
        for (image, name) in images {
            let manifest = self.read_document(image.manifest, MANIFEST_BYTES_MAX)?;
            let parsed = crate::document::parse_manifest(&manifest)
                .map_err(|source| StoreError::Document { digest: image.manifest, source: Box::new(source) })?;
            let layers: Vec<String> = parsed.layers.iter().map(|(digest, ..)| blob_path(*digest)).collect();
            blobs.extend([image.manifest, parsed.config]);
            blobs.extend(parsed.layers.iter().map(|(digest, ..)| *digest));
            let tags: Vec<&String> = name.iter().filter(|name| !name.contains('@')).collect();
            docker.push(serde_json::json!({"Config": blob_path(parsed.config), "RepoTags": tags, "Layers": layers}));
            records.push(Record {
                name: name.clone(),
                manifest: image.manifest,
                media_type: parsed.media_type,
                size_bytes: u64::try_from(manifest.len()).unwrap_or(u64::MAX),
                pinned: false,
                revision: None,
            });
        }
        append(&mut tar, "index.json", &encode(&records))?;
        append(&mut tar, "manifest.json", serde_json::Value::Array(docker).to_string().as_bytes())?;
        for digest in blobs {
            let mut file = File::from(self.open_blob(digest)?);
            let size_bytes = file.metadata().map_err(StoreError::Export)?.len();
            let mut header = header(size_bytes);
            tar.append_data(&mut header, blob_path(digest), &mut file).map_err(StoreError::Export)?;
        }
        tar.into_inner().and_then(|out: &mut dyn Write| out.flush()).map_err(StoreError::Export)
    }
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn header(size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append(tar: &mut tar::Builder<&mut dyn Write>, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let written: io::Result<()> = tar.append_data(&mut header(size_bytes), name, bytes);
    written.map_err(StoreError::Export)
}
