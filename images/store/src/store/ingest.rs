//! Blobs and layers come in: made in `ingest/`, synced, renamed.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;

use runtime_sys::fs::{self as sys, Open, Removal, RenameMode};
use runtime_sys::{SysError, SysResult};

use super::Store;
use super::record::{LayerRecord, Name};
use crate::compression::Compression;
use crate::digest::Digest;
use crate::disk::{MARKER, TREE, is_there, subdirectory};
use crate::error::StoreError;
use crate::stream::{Destination, Expected, LayerError, take_blob, take_layer};
use crate::unpack::Unpacked;

/// A layer as manifest and configuration describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSource {
    /// Of the blob.
    pub digest: Digest,
    /// Of the blob.
    pub size_bytes: u64,
    /// Of the tar archive in it.
    pub diff_id: Digest,
    /// By the media type; `None`: whatever the bytes say.
    pub compression: Option<Compression>,
}

/// Something in `ingest/` that goes when it isn't renamed away before.
pub(super) struct Staged<'a> {
    store: &'a Store,
    pub(super) name: String,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Err(error) = sys::remove_tree(&self.store.disk.ingest, &self.name) {
            tracing::warn!(%error, "half-made layer stays until the next start");
        }
    }
}

impl Store {
    /// Takes a layer in from its blob's bytes: checked, kept, unpacked in one pass; synced and complete when this returns.
    /// The caller holds a lease on its digest and diffID.
    ///
    /// # Errors
    /// The bytes aren't those described, can't be unpacked, stop coming, or the disk's. Nothing is left then.
    pub fn ingest_layer(&self, layer: &LayerSource, reader: &mut dyn Read) -> Result<(), StoreError> {
        let blob = self.staged("blob");
        let sink = self.create(&blob)?;
        self.unpack_into_place(layer, reader, Some((sink, 0)), || {
            self.place_blob(&blob, layer.digest, layer.size_bytes)
        })
    }

    /// Unpacks a layer whose blob is here.
    ///
    /// # Errors
    /// As [`Self::ingest_layer`]; no such blob.
    pub fn unpack_layer(&self, layer: &LayerSource) -> Result<(), StoreError> {
        let mut blob = File::from(self.disk.open_blob(layer.digest)?);
        self.unpack_into_place(layer, &mut blob, None, || Ok(()))
    }

    /// Takes a blob in without looking inside.
    ///
    /// # Errors
    /// The bytes aren't those described, stop coming, or the disk's.
    pub fn ingest_blob(&self, digest: Digest, size_bytes: u64, reader: &mut dyn Read) -> Result<(), StoreError> {
        let staged = self.staged("blob");
        let file = self.create(&staged)?;
        let copy =
            file.try_clone().map_err(|error| self.disk.failed("write a blob")(SysError::from_io("dup", &error)))?;
        take_blob(digest, size_bytes, reader, copy)
            .map_err(|source| StoreError::Blob { digest, source: Box::new(source) })?;
        sys::fdatasync(&file).map_err(self.disk.failed("sync a blob"))?;
        self.place_blob(&staged, digest, size_bytes)
    }

    /// Keeps a document that is in memory, and says its digest.
    ///
    /// # Errors
    /// The disk's.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if !self.has_blob(&digest, size_bytes) {
            let staged = self.staged("blob");
            let mut file = self.create(&staged)?;
            let failed = |source| StoreError::Blob { digest, source: Box::new(LayerError::Write(source)) };
            file.write_all(bytes).map_err(failed)?;
            sys::fdatasync(&file).map_err(self.disk.failed("sync a blob"))?;
            self.place_blob(&staged, digest, size_bytes)?;
        }
        Ok(digest)
    }

    pub(super) fn staged(&self, what: &str) -> Staged<'_> {
        Staged { store: self, name: self.disk.fresh(what) }
    }

    fn create(&self, staged: &Staged<'_>) -> Result<File, StoreError> {
        let how = Open::READ_WRITE | Open::CREATE | Open::EXCLUSIVE;
        let made = sys::openat(&self.disk.ingest, &staged.name, how, 0o600).map_err(self.disk.failed("make a blob"))?;
        Ok(File::from(made))
    }

    /// Unpacks, syncs once for tree, marker and blob, and renames both to where they are looked for. `blob` is the file for
    /// the blob's bytes, and how many of the first ones it has already.
    pub(super) fn unpack_into_place(
        &self,
        layer: &LayerSource,
        reader: &mut dyn Read,
        blob: Option<(File, u64)>,
        place_blob: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let failed = |step: &str| self.disk.failed(format!("{step} layer {}", layer.digest));
        let staged = self.staged("layer");
        let trash = self.staged("trash");
        let make = |name: &str| -> SysResult<OwnedFd> {
            sys::mkdirat(&self.disk.ingest, name, 0o700)?;
            sys::openat(&self.disk.ingest, name, Open::READ | Open::DIRECTORY, 0)
        };
        let directory = make(&staged.name).map_err(failed("make"))?;
        let tree = subdirectory(&directory, TREE).map_err(failed("make"))?;
        sys::fchmod(&tree, 0o755).map_err(failed("make"))?;
        let destination = Destination { blob, root: tree, trash: make(&trash.name).map_err(failed("make"))? };
        let expected = Expected {
            digest: layer.digest,
            size_bytes: layer.size_bytes,
            diff_id: layer.diff_id,
            compression: layer.compression,
        };
        let taken = take_layer(&expected, reader, destination);
        let unpacked = taken.map_err(|source| StoreError::Layer { digest: layer.digest, source: Box::new(source) })?;
        let record = record(layer.diff_id, unpacked);
        write_marker(&directory, &record).map_err(failed("mark"))?;
        // What was replaced on the way needn't reach the disk.
        drop(trash);
        self.disk.sync()?;
        place_blob()?;
        let hex = layer.diff_id.hex();
        match sys::renameat2(&self.disk.ingest, &staged.name, &self.disk.layers, &hex, RenameMode::Refuse) {
            // The same tar archive came as another blob meanwhile.
            Err(error) if is_there(&error) => {}
            renamed => renamed.map_err(failed("place"))?,
        }
        self.state().layers.insert(layer.diff_id, record);
        Ok(())
    }

    fn place_blob(&self, staged: &Staged<'_>, digest: Digest, size_bytes: u64) -> Result<(), StoreError> {
        sys::renameat2(&self.disk.ingest, &staged.name, &self.disk.blobs, digest.hex(), RenameMode::Replace)
            .map_err(self.disk.failed(format!("place blob {digest}")))?;
        self.state().blobs.insert(digest, size_bytes);
        Ok(())
    }

    /// A file in `ingest/` for bytes whose digest isn't known yet.
    pub(crate) fn spool(&self) -> Result<(Spool<'_>, File), StoreError> {
        let staged = self.staged("spool");
        let file = self.create(&staged)?;
        Ok((Spool(staged), file))
    }

    /// A spooled file couldn't be written.
    pub(crate) fn spool_failed(&self, error: &std::io::Error) -> StoreError {
        self.disk.failed("spool a file of the archive")(SysError::from_io("write", error))
    }
}

/// Bytes in `ingest/` that may become a blob. Not open: an archive may have more files than we may have descriptors.
pub(crate) struct Spool<'a>(Staged<'a>);

impl Spool<'_> {
    /// Opens it for reading.
    pub(crate) fn open(&self) -> Result<File, StoreError> {
        let Staged { store, name } = &self.0;
        let opened = sys::openat(&store.disk.ingest, name, Open::READ | Open::NO_FOLLOW, 0);
        opened.map(File::from).map_err(store.disk.failed("open a spooled file"))
    }

    /// Makes a blob of it; digest and size are those of the bytes written. Once.
    pub(crate) fn keep(&self, digest: Digest, size_bytes: u64) -> Result<(), StoreError> {
        let store = self.0.store;
        sys::fdatasync(self.open()?).map_err(store.disk.failed("sync a blob"))?;
        store.place_blob(&self.0, digest, size_bytes)
    }
}

fn record(diff_id: Digest, unpacked: Unpacked) -> LayerRecord {
    LayerRecord {
        diff_id,
        bytes: unpacked.bytes,
        inodes: unpacked.inodes,
        root: unpacked.root,
        root_opaque: unpacked.root_opaque,
        implied: unpacked.implied.into_iter().map(Name::of).collect(),
        foreign: unpacked.foreign.into_iter().map(|(link, target)| (Name::of(link), Name::of(target))).collect(),
    }
}

pub(super) fn write_marker(directory: &OwnedFd, record: &LayerRecord) -> SysResult<()> {
    let bytes = serde_json::to_vec(record).expect("numbers, strings and lists are always JSON");
    let how = Open::WRITE | Open::CREATE | Open::EXCLUSIVE;
    let mut file = File::from(sys::openat(directory, MARKER, how, 0o600)?);
    let written = file.write_all(&bytes).map_err(|error| SysError::from_io("write(layer.json)", &error));
    if written.is_err() {
        let _with_the_layer = sys::unlinkat(directory, MARKER, Removal::File);
    }
    written
}
