//! Why the store couldn't.

use std::path::PathBuf;

use runtime_sys::SysError;

use crate::digest::{Digest, DigestError};
use crate::limits::CHAIN_STEPS_MAX;
use crate::stream::LayerError;

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No such image or blob.
    NotFound,
    /// The image or archive is broken or hostile.
    Invalid,
    /// The bytes stopped coming.
    Interrupted,
    /// The disk is full.
    NoSpace,
    /// Another process has the store open.
    Locked,
    /// The disk or the kernel said no.
    Disk,
}

/// An operation that brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the image store {root:?} is open in another process; stop it, or choose another directory")]
    Locked {
        /// The store.
        root: PathBuf,
    },
    /// A step on the disk failed.
    #[error("cannot {step} in the image store {root:?}")]
    Disk {
        /// What was to be done, to what.
        step: String,
        /// The store.
        root: PathBuf,
        /// Why not.
        source: SysError,
    },
    /// A layer didn't come in.
    #[error("layer {digest}")]
    Layer {
        /// The blob.
        digest: Digest,
        /// Why.
        source: Box<LayerError>,
    },
    /// A blob that isn't a layer didn't come in.
    #[error("blob {digest}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// Why.
        source: Box<LayerError>,
    },
    /// Something isn't there.
    #[error("the image store has no blob {digest}")]
    NoBlob {
        /// The blob.
        digest: Digest,
    },
    /// There is no such image.
    #[error("the image store has no image {name:?}")]
    NoImage {
        /// What was asked for.
        name: String,
    },
    /// A manifest, an index or a configuration is wrong.
    #[error("document {digest}")]
    Document {
        /// The document.
        digest: Digest,
        /// What is wrong with it.
        source: Box<DocumentError>,
    },
    /// A layer doesn't go on top of those below it.
    #[error("layer {diff_id} can't be joined with those below it")]
    Chain {
        /// Its tar archive.
        diff_id: Digest,
        /// Why.
        source: Box<ChainError>,
    },
    /// An archive to import is wrong.
    #[error("the archive can't be imported")]
    Archive(#[source] ArchiveError),
    /// An archive can't be written.
    #[error("the archive can't be written")]
    Export(#[source] std::io::Error),
}

/// What is wrong with a manifest, an index or a configuration.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not what it should be.
    #[error("it can't be read")]
    Json(#[from] serde_json::Error),
    /// It has no valid digest where one should be.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Too long to read.
    #[error("it has {found} bytes, at most {max} are read")]
    TooLong {
        /// In bytes.
        found: u64,
        /// In bytes.
        max: u64,
    },
    /// It contradicts itself or says what we don't do.
    #[error("{0}")]
    Content(&'static str),
    /// A layer of a kind that isn't unpacked.
    #[error("layer {digest} has the media type {media_type:?}, which isn't unpacked")]
    MediaType {
        /// The layer.
        digest: Digest,
        /// Cut.
        media_type: String,
    },
    /// The manifest has one number of layers, the configuration another.
    #[error("the manifest has {layers} layers, the configuration {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
}

/// Why a layer doesn't go on top of those below it.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// It costs too much.
    #[error("the image's layers cost more than {CHAIN_STEPS_MAX} steps to join")]
    Steps,
    /// A hard link to what isn't there.
    #[error("the target {target:?} of the hard link {link:?} is no file in it or below it")]
    HardlinkTarget {
        /// The link, escaped and cut.
        link: String,
        /// What it should be, escaped and cut.
        target: String,
    },
    /// The disk's or the kernel's.
    #[error("the kernel refused it")]
    Kernel(#[from] SysError),
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is no archive.
    #[error("it can't be read")]
    Read(#[source] std::io::Error),
    /// It is a broken archive; the chain of sources says where.
    #[error("it is broken")]
    Tar(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More than we take.
    #[error("it has more than {max} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How many.
        max: u64,
    },
    /// Neither an OCI image layout nor what `docker save` writes.
    #[error("it has neither `index.json` (OCI image layout) nor `manifest.json` (docker save)")]
    Neither,
    /// A list of contents isn't right.
    #[error("its {file} is wrong")]
    Contents {
        /// `index.json` or `manifest.json`.
        file: &'static str,
        /// How.
        source: Box<DocumentError>,
    },
    /// What the list of contents names isn't there.
    #[error("it has no file {0:?}, which its list of contents names")]
    Missing(String),
    /// No image for this machine.
    #[error("it holds no image for linux/{0}")]
    Platform(&'static str),
    /// One name for several images.
    #[error("it holds {0} images; a name can be given to one only")]
    Several(usize),
}

impl StoreError {
    /// What callers branch on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoBlob { .. } | Self::NoImage { .. } => Kind::NotFound,
            Self::Locked { .. } => Kind::Locked,
            error if is_no_space(error) => Kind::NoSpace,
            Self::Disk { .. } | Self::Export(_) => Kind::Disk,
            Self::Chain { source, .. } => match source.as_ref() {
                ChainError::Kernel(_) => Kind::Disk,
                ChainError::Steps | ChainError::HardlinkTarget { .. } => Kind::Invalid,
            },
            Self::Layer { source, .. } | Self::Blob { source, .. } => match source.as_ref() {
                LayerError::Source(_) => Kind::Interrupted,
                LayerError::Write(_) => Kind::Disk,
                LayerError::TooLong { .. }
                | LayerError::TooShort { .. }
                | LayerError::Digest { .. }
                | LayerError::DiffId { .. }
                | LayerError::Compression { .. }
                | LayerError::Bomb
                | LayerError::Ratio
                | LayerError::Trailing
                | LayerError::Unpack(_) => Kind::Invalid,
            },
            Self::Document { .. } | Self::Archive(_) => Kind::Invalid,
        }
    }
}

/// Whether an error or one of its causes is a full disk.
pub(crate) fn is_no_space(error: &(dyn std::error::Error + 'static)) -> bool {
    const ENOSPC: i32 = 28;
    const EDQUOT: i32 = 122;
    let full = |errno: i32| errno == ENOSPC || errno == EDQUOT;
    let mut next = Some(error);
    while let Some(error) = next {
        let system = error.downcast_ref::<SysError>().is_some_and(|error| full(error.errno()));
        let standard = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error).is_some_and(full);
        if system || standard {
            return true;
        }
        next = error.source();
    }
    false
}
