//! Verified blobs and unpacked layers on the local disk.
//!
//! *In*: streams of bytes with the digests that they should have, names, and who holds what. *Out*: an OCI image layout
//! (`oci-layout`, `index.json`, `blobs/sha256/…`) and beside it `layers/…`: one directory tree per layer, ready to be a
//! lower directory of overlayfs. *Not here*: the network, which image somebody wants, mounting.
//!
//! Everything that comes in is hostile until its digest is compared, and layers stay hostile afterwards: the tar parser
//! and the unpacker are ours, work on descriptors, and have a limit for everything ([`limits`]). What is named in
//! `index.json` is complete and synced; a crash leaves only `ingest/`, which the next start empties.

mod archive;
mod compression;
mod digest;
mod disk;
mod document;
mod error;
mod image;
mod index;
pub mod limits;
mod store;
mod stream;
mod tar;
#[cfg(test)]
mod testing;
mod unpack;

pub use archive::Imported;
pub use compression::Compression;
pub use digest::{Digest, DigestError};
pub use error::{ArchiveError, ChainError, DocumentError, Kind, StoreError};
pub use image::{Image, ImageLayer};
pub use store::{
    BEGINNING_AGE_MAX, BEGINNING_BYTES_MIN, BEGINNINGS_BYTES_MAX, Beginning, Begun, Collected, LayerSource, Lease, Pin,
    Root, RootAttributes, Store, Usage,
};
pub use stream::{LayerError, UnpackFailure};
