//! Why an image operation brought nothing.

use std::sync::Arc;

use images_registry::{ReferenceError, RegistryError};
use images_store::StoreError;

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No such image, here or at the registry.
    NotFound,
    /// The registry wants other credentials.
    Unauthorized,
    /// No registry could be reached, or it asks for patience; later may be better.
    Unreachable,
    /// The reference, the image or the archive is broken or hostile.
    Invalid,
    /// The disk is full.
    NoSpace,
    /// Somebody else has it: the store is open in another process.
    InUse,
    /// The disk or the kernel said no.
    Disk,
}

/// An image operation that brought nothing. `Display` and the sources together name the reference, the endpoints that were
/// tried, the layer and the cause ([`Self::chain`] joins them). Clones go to everybody who waited for the same pull.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// The text is no image reference.
    #[error("no valid image name")]
    Reference(#[source] Arc<ReferenceError>),
    /// There is no such image here.
    #[error("no image {name:?} in the store; `podwright images` lists what is there")]
    NotFound {
        /// What was asked for, cut.
        name: String,
    },
    /// The registry couldn't serve it.
    #[error("cannot pull {reference}")]
    Registry {
        /// What was pulled.
        reference: String,
        /// Which endpoints were tried, and why each failed.
        source: Arc<RegistryError>,
    },
    /// What came can't be kept.
    #[error("cannot {step}")]
    Store {
        /// What was to be done, with which image.
        step: String,
        /// The layer and the cause.
        source: Arc<StoreError>,
    },
    /// The registry's digest isn't one that the store keeps.
    #[error("cannot pull {reference}: its digest {digest} isn't SHA-256, which is all that is stored")]
    Algorithm {
        /// What was pulled.
        reference: String,
        /// The digest.
        digest: String,
    },
    /// An image that the program carries in itself can't be made.
    #[error("cannot assemble the built-in image {name}")]
    Embedded {
        /// Its name.
        name: String,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// An archive with several images can't be given one name.
    #[error("the archive holds {count} images; import it without a name")]
    Several {
        /// How many.
        count: usize,
    },
    /// A thread ended before its work was done.
    #[error("cannot {step}: its thread was ended")]
    Thread {
        /// What was to be done.
        step: String,
    },
}

impl ImageError {
    /// What callers branch on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Reference(_) | Self::Algorithm { .. } | Self::Several { .. } => Kind::Invalid,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Registry { source, .. } => match source.kind() {
                images_registry::Kind::NotFound => Kind::NotFound,
                images_registry::Kind::Unauthorized => Kind::Unauthorized,
                images_registry::Kind::Unreachable | images_registry::Kind::RateLimited => Kind::Unreachable,
                images_registry::Kind::Invalid => Kind::Invalid,
            },
            Self::Store { source, .. } => match source.kind() {
                images_store::Kind::NotFound => Kind::NotFound,
                images_store::Kind::Invalid => Kind::Invalid,
                images_store::Kind::Interrupted => Kind::Unreachable,
                images_store::Kind::NoSpace => Kind::NoSpace,
                images_store::Kind::Locked => Kind::InUse,
                images_store::Kind::Disk => Kind::Disk,
            },
            Self::Embedded { .. } | Self::Thread { .. } => Kind::Disk,
        }
    }

    /// The whole text on one line: this and every cause.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }

    pub(crate) fn not_found(name: &str) -> Self {
        const SHOWN_CHARACTERS_MAX: usize = 200;
        Self::NotFound { name: name.chars().take(SHOWN_CHARACTERS_MAX).collect() }
    }

    pub(crate) fn store(step: impl Into<String>) -> impl FnOnce(StoreError) -> Self {
        let step = step.into();
        move |source| Self::Store { step, source: Arc::new(source) }
    }
}
