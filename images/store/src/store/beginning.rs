//! Beginnings of blobs whose bytes stopped coming: kept below `partial/`, also over a restart, so that the next pull asks
//! its registry for the rest alone. They are believed no more than the network is: the whole is hashed in the end, and a
//! beginning that spoils it goes. So do those that nobody came back for, and the oldest where they take too much room.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use runtime_sys::fs::{self as sys, Open, Removal, RenameMode};
use runtime_sys::{SysError, SysResult};

use super::state::{Left, State};
use super::{LayerSource, Store};
use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::{Kind, StoreError};

/// Beginnings that are kept at once; for the next one the oldest goes. More than the layers of a few images in trouble.
const BEGINNINGS_MAX: usize = 64;
/// How long a beginning is kept since its last byte came: a kubelet asks again every five minutes, and a registry or a link
/// that is down is back within a day.
pub const BEGINNING_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of all beginnings together; the oldest go first. Room for one layer of a large model, and little beside what a node
/// has for images.
pub const BEGINNINGS_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
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
        let found = sys::fstatat(partial, &hex).map(|found| left(&found));
        let left = found.ok().filter(|left| self.kept && left.bytes >= BEGINNING_BYTES_MIN);
        if left.is_none() {
            let _not_there = sys::unlinkat(partial, &hex, Removal::File);
        }
        let mut state = self.store.state();
        state.begun.remove(&self.digest);
        if let Some(left) = left {
            state.beginnings.insert(self.digest, left);
        }
    }
}

/// What comes of asking for a blob's beginning.
#[derive(Debug)]
pub enum Begun {
    /// Here it is, perhaps nothing yet.
    Yours(Beginning),
    /// Somebody else is at it.
    Taken,
    /// Somebody is at as many others as may be: this one is to be fetched whole.
    TooMany,
}

impl Begun {
    /// The beginning, if it is ours.
    #[must_use]
    pub fn yours(self) -> Option<Beginning> {
        match self {
            Self::Yours(beginning) => Some(beginning),
            Self::Taken | Self::TooMany => None,
        }
    }
}

impl Store {
    /// What is here of a blob. Those that have had their time go.
    #[must_use]
    pub fn begin(self: &Arc<Self>, digest: Digest, size_bytes: u64) -> Begun {
        let (known, going) = {
            let mut state = self.state();
            if state.begun.contains(&digest) {
                return Begun::Taken;
            }
            let Some(places) = BEGINNINGS_MAX.checked_sub(state.begun.len() + 1) else { return Begun::TooMany };
            let known = state.beginnings.remove(&digest);
            state.begun.insert(digest);
            let outlived = outlived(&state.beginnings, places);
            (known, set_aside(&mut state, outlived))
        };
        self.unlink(going);
        // Longer than the whole: the bytes of something else.
        let bytes = known.map_or(0, |left| left.bytes);
        let bytes = if bytes <= size_bytes { bytes } else { 0 };
        Begun::Yours(Beginning { store: self.clone(), digest, bytes, kept: true })
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

    /// Takes away all beginnings that nobody is at, and says how many bytes they were.
    pub fn discard_beginnings(&self) -> u64 {
        let going = {
            let mut state = self.state();
            let all = state.beginnings.keys().copied().collect();
            set_aside(&mut state, all)
        };
        self.unlink(going)
    }

    /// Takes away those that have had their time or take too much room, and says how many bytes they were.
    pub(super) fn tidy_beginnings(&self) -> u64 {
        let going = {
            let mut state = self.state();
            let outlived = outlived(&state.beginnings, BEGINNINGS_MAX);
            set_aside(&mut state, outlived)
        };
        self.unlink(going)
    }

    /// Removes the files of those that were [`set_aside`].
    fn unlink(&self, going: Vec<(Digest, Left)>) -> u64 {
        let mut bytes: u64 = 0;
        for (digest, left) in going {
            let _not_there = sys::unlinkat(&self.disk.partial, digest.hex(), Removal::File);
            self.state().begun.remove(&digest);
            bytes = bytes.saturating_add(left.bytes);
        }
        bytes
    }
}

/// Takes beginnings off the list of those that are there. Nobody begins them anew until their files are gone: the files go
/// without the state's lock, since a long one takes its time.
fn set_aside(state: &mut State, digests: Vec<Digest>) -> Vec<(Digest, Left)> {
    let mut going = Vec::new();
    for digest in digests {
        if let Some(left) = state.beginnings.remove(&digest) {
            state.begun.insert(digest);
            going.push((digest, left));
        }
    }
    going
}

/// Which beginnings go: the too old ones, and the oldest beyond so many and beyond [`BEGINNINGS_BYTES_MAX`].
fn outlived(beginnings: &HashMap<Digest, Left>, places: usize) -> Vec<Digest> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let newest = i64::try_from(now).unwrap_or(i64::MAX);
    let oldest = newest.saturating_sub_unsigned(BEGINNING_AGE_MAX.as_secs());
    let mut sorted: Vec<(&Digest, &Left)> = beginnings.iter().collect();
    sorted.sort_by_key(|(digest, left)| (std::cmp::Reverse(left.seconds), **digest));
    let mut bytes: u64 = 0;
    let goes = |(number, (digest, left)): (usize, (&Digest, &Left))| {
        bytes = bytes.saturating_add(left.bytes);
        (number >= places || bytes > BEGINNINGS_BYTES_MAX || left.seconds < oldest).then_some(*digest)
    };
    sorted.into_iter().enumerate().filter_map(goes).collect()
}

fn left(file: &sys::Metadata) -> Left {
    Left { bytes: file.size_bytes, seconds: file.modified.seconds }
}

/// Finds the beginnings that an earlier process left.
pub(super) fn scan(disk: &Disk, state: &mut State) -> Result<(), StoreError> {
    for entry in sys::read_directory(&disk.partial).map_err(disk.failed("list the beginnings"))? {
        let digest = entry.name.to_str().and_then(|name| Digest::from_hex(name).ok());
        let found = sys::fstatat(&disk.partial, &entry.name).map_err(disk.failed("look at a beginning"))?;
        match digest {
            Some(digest) if found.kind == sys::Kind::Regular && state.beginnings.len() < BEGINNINGS_MAX => {
                state.beginnings.insert(digest, left(&found));
            }
            _stranger => {
                sys::remove_tree(&disk.partial, &entry.name).map_err(disk.failed("remove a beginning"))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
