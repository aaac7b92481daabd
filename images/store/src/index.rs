//! `index.json`: which names mean which manifest. The one record of what the store is for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::MANIFEST_BYTES_MAX;

/// Longest index of the store itself, in bytes: some hundred thousand names.
pub(crate) const INDEX_BYTES_MAX: u64 = 16 * MANIFEST_BYTES_MAX;

/// Full name of an image in an annotation, as containerd writes it.
pub(crate) const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// The tag in an annotation, as the OCI image layout has it.
pub(crate) const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const REVISION_ANNOTATION: &str = "dev.podwright.image.revision";
const PINNED_ANNOTATION: &str = "dev.podwright.image.pinned";

/// One line of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Full name with tag or digest; none for an image that only a container still holds.
    pub(crate) name: Option<String>,
    pub(crate) manifest: Digest,
    pub(crate) media_type: String,
    pub(crate) size_bytes: u64,
    pub(crate) pinned: bool,
    /// Of an image that the program makes itself: what it was made of.
    pub(crate) revision: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// Reads an index of our own.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Record>, serde_json::Error> {
    let index: Index = serde_json::from_slice(bytes)?;
    let record = |mut entry: Entry| Record {
        name: entry.annotations.remove(NAME_ANNOTATION),
        manifest: entry.digest,
        media_type: entry.media_type,
        size_bytes: entry.size,
        pinned: entry.annotations.contains_key(PINNED_ANNOTATION),
        revision: entry.annotations.remove(REVISION_ANNOTATION),
    };
    Ok(index.manifests.into_iter().map(record).collect())
}

/// Writes an index that any reader of OCI image layouts understands.
pub(crate) fn encode(records: &[Record]) -> Vec<u8> {
    let entry = |record: &Record| {
        let mut annotations = BTreeMap::new();
        if let Some(name) = &record.name {
            annotations.insert(NAME_ANNOTATION.to_owned(), name.clone());
            if let Some(tag) = tag(name) {
                annotations.insert(REF_ANNOTATION.to_owned(), tag.to_owned());
            }
        }
        if record.pinned {
            annotations.insert(PINNED_ANNOTATION.to_owned(), "true".to_owned());
        }
        if let Some(revision) = &record.revision {
            annotations.insert(REVISION_ANNOTATION.to_owned(), revision.clone());
        }
        let (media_type, digest, size) = (record.media_type.clone(), record.manifest, record.size_bytes);
        Entry { media_type, digest, size, annotations }
    };
    let index = Index {
        schema_version: 2,
        media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
        manifests: records.iter().map(entry).collect(),
    };
    serde_json::to_vec_pretty(&index).expect("strings, numbers and maps with string keys are always JSON")
}

/// The tag of a full name.
pub(crate) fn tag(name: &str) -> Option<&str> {
    if name.contains('@') {
        return None;
    }
    name.rsplit_once(':').map(|(_repository, tag)| tag).filter(|tag| !tag.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let record = |name: Option<&str>, pinned| Record {
            name: name.map(str::to_owned),
            manifest: Digest::of(b"m"),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size_bytes: 7,
            pinned,
            revision: pinned.then(|| "3".to_owned()),
        };
        let records =
            vec![record(Some("localhost:5000/a/b:1"), true), record(Some("a/b@sha256:0"), false), record(None, false)];
        let bytes = encode(&records);
        assert_eq!(decode(&bytes).unwrap(), records);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(r#""org.opencontainers.image.ref.name": "1""#), "{text}");
        assert!(decode(b"{").is_err());
    }

    #[test]
    fn tags() {
        assert_eq!(tag("localhost:5000/a"), None);
        assert_eq!(tag("localhost:5000/a:1"), Some("1"));
        assert_eq!(tag("a@sha256:1"), None);
    }
}
