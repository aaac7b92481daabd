//! What is known of an unpacked layer.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// What stands beside a layer's tree, and says that it is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    /// Of the tar archive.
    pub(super) diff_id: Digest,
    /// On disk, about.
    pub(super) bytes: u64,
    /// Files and directories.
    pub(super) inodes: u64,
    /// Nothing below is seen.
    pub(super) root_opaque: bool,
    /// Directories that the archive doesn't list.
    pub(super) implied: Vec<Name>,
    /// Hard links to what a layer below may have, with their targets.
    #[serde(default)]
    pub(super) foreign: Vec<(Name, Name)>,
}

/// A path in a layer: text nearly always, but the kernel takes any bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Name {
    Text(String),
    Bytes(Vec<u8>),
}

impl Name {
    pub(super) fn of(path: Vec<u8>) -> Self {
        String::from_utf8(path).map_or_else(|error| Self::Bytes(error.into_bytes()), Self::Text)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}
