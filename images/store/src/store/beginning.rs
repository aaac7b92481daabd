//! Beginnings of blobs whose bytes stopped coming: kept below `partial/`, also over a restart, so that the next pull asks
//! its registry for the rest alone. They are believed no more than the network is: the whole is hashed in the end, and a
//! beginning that spoils it goes.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::sync::Arc;

use runtime_sys::fs::{self as sys, Open, Removal, RenameMode};
use runtime_sys::{SysError, SysResult};

use super::state::State;
use super::{LayerSource, Store};
use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::{Kind, StoreError};

/// Beginnings that are kept at once; the next one is fetched whole. More than the layers of a few images in trouble.
const BEGINNINGS_MAX: usize = 64;
/// Shortest beginning that is kept, in bytes: less is fetched again sooner than it is looked after.
pub const BEGINNING_BYTES_MIN: u64 = 256 * 1024;

/// The first bytes of a blob, ours alone until this is dropped.
#[derive(Debug)]
pub struct Beginning {
    store: Arc<Store>,
    digest: Digest,
    bytes: u64,
    kept: bool,
}

impl Beginning {
    /// How many bytes are here: the reader goes on behind them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file: its beginning for reading, and itself for writing behind that.
    fn open(&self) -> SysResult<(File, File)> {
        let hex = self.digest.hex();
        let how = Open::READ_WRITE | Open::CREATE | Open::NO_FOLLOW;
        let mut sink = File::from(sys::openat(&self.store.disk.partial, &hex, how, 0o600)?);
        sys::ftruncate(&sink, self.bytes)?;
        sink.seek(SeekFrom::Start(self.bytes)).map_err(|error| SysError::from_io("lseek", &error))?;
        let beginning = sys::openat(&self.store.disk.partial, &hex, Open::READ | Open::NO_FOLLOW, 0)?;
        Ok((File::from(beginning), sink))
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        let partial = &self.store.disk.partial;
        let hex = self.digest.hex();
        let found = sys::fstatat(partial, &hex).map(|found| found.size_bytes);
        let bytes = found.ok().filter(|bytes| self.kept && *bytes >= BEGINNING_BYTES_MIN);
        if bytes.is_none() {
            let _not_there = sys::unlinkat(partial, &hex, Removal::File);
        }
        let mut state = self.store.state();
        state.begun.remove(&self.digest);
        if let Some(bytes) = bytes {
            state.beginnings.insert(self.digest, bytes);
        }
    }
}

impl Store {
    /// What is here of a blob, perhaps nothing yet. `None`: somebody is at it, or there are too many of them.
    #[must_use]
    pub fn begin(self: &Arc<Self>, digest: Digest, size_bytes: u64) -> Option<Beginning> {
        let mut state = self.state();
        let known = state.beginnings.get(&digest).copied();
        if (known.is_none() && state.beginnings.len() + state.begun.len() >= BEGINNINGS_MAX)
            || !state.begun.insert(digest)
        {
            return None;
        }
        state.beginnings.remove(&digest);
        // Longer than the whole: the bytes of something else.
        let bytes = known.filter(|bytes| *bytes <= size_bytes).unwrap_or(0);
        Some(Beginning { store: self.clone(), digest, bytes, kept: true })
    }

    /// [`Store::ingest_layer`] for a blob whose beginning is here: `reader` brings the rest. Where it stops coming, what
    /// came is kept for the next time.
    ///
    /// # Errors
    /// As [`Store::ingest_layer`]. If the beginning may be to blame (it had bytes, and the kind is [`Kind::Invalid`]), it
    /// is gone, and whoever begins again begins with nothing.
    pub fn ingest_rest(
        &self,
        layer: &LayerSource,
        mut beginning: Beginning,
        reader: &mut dyn Read,
    ) -> Result<(), StoreError> {
        let digest = layer.digest;
        let (first, sink) =
            beginning.open().map_err(self.disk.failed(format!("open the beginning of blob {digest}")))?;
        let place = || {
            let hex = digest.hex();
            sys::renameat2(&self.disk.partial, &hex, &self.disk.blobs, &hex, RenameMode::Replace)
                .map_err(self.disk.failed(format!("place blob {digest}")))?;
            self.state().blobs.insert(digest, layer.size_bytes);
            Ok(())
        };
        let mut whole = first.take(beginning.bytes).chain(reader);
        let taken = self.unpack_into_place(layer, &mut whole, Some((sink, beginning.bytes)), place);
        beginning.kept = taken.as_ref().is_err_and(|error| error.kind() == Kind::Interrupted);
        taken
    }

    /// Takes away the beginnings that nobody is at, and says how many bytes they were.
    pub(super) fn discard_beginnings(&self) -> u64 {
        let mut state = self.state();
        let mut bytes: u64 = 0;
        for (digest, length) in std::mem::take(&mut state.beginnings) {
            let _not_there = sys::unlinkat(&self.disk.partial, digest.hex(), Removal::File);
            bytes = bytes.saturating_add(length);
        }
        bytes
    }
}

/// Finds the beginnings that an earlier process left.
pub(super) fn scan(disk: &Disk, state: &mut State) -> Result<(), StoreError> {
    for entry in sys::read_directory(&disk.partial).map_err(disk.failed("list the beginnings"))? {
        let digest = entry.name.to_str().and_then(|name| Digest::from_hex(name).ok());
        let found = sys::fstatat(&disk.partial, &entry.name).map_err(disk.failed("look at a beginning"))?;
        match digest {
            Some(digest) if found.kind == sys::Kind::Regular && state.beginnings.len() < BEGINNINGS_MAX => {
                state.beginnings.insert(digest, found.size_bytes);
            }
            _stranger => {
                sys::remove_tree(&disk.partial, &entry.name).map_err(disk.failed("remove a beginning"))?;
            }
        }
    }
    Ok(())
}
