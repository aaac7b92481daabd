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
    /// What the archive says of its root; nothing where it doesn't list it.
    #[serde(default)]
    pub(super) root: Option<RootAttributes>,
    /// Nothing below is seen.
    pub(super) root_opaque: bool,
    /// Directories that the archive doesn't list.
    pub(super) implied: Vec<Name>,
    /// Hard links to what a layer below may have, with their targets.
    #[serde(default)]
    pub(super) foreign: Vec<(Name, Name)>,
}

/// Who owns the root of an image, and what others may do there. The container's own layer shows them: of the layers
/// below, overlayfs takes nothing for its root but what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootAttributes {
    /// The twelve permission bits.
    pub mode: u32,
    /// In the image.
    pub uid: u32,
    /// In the image.
    pub gid: u32,
}

impl Default for RootAttributes {
    /// Of an image that says nothing.
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0 }
    }
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
