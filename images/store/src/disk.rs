//! The directory of the store: what is where, how things come to be there whole.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use runtime_sys::fs::{self as sys, LockKind, Open, Removal, RenameMode};
use runtime_sys::{SysError, SysResult};

use crate::digest::Digest;
use crate::error::StoreError;

/// Descriptors of an open store; while it lives, no other process opens it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) root: PathBuf,
    pub(crate) directory: OwnedFd,
    pub(crate) blobs: OwnedFd,
    pub(crate) layers: OwnedFd,
    pub(crate) ingest: OwnedFd,
    /// Beginnings of blobs, kept over a restart.
    pub(crate) partial: OwnedFd,
    _lock: OwnedFd,
    /// Names in `ingest/`: it is empty when the store opens, so a counter is enough.
    counter: AtomicU64,
    sync: SyncGroup,
}

const INDEX: &str = "index.json";
/// Given up when a full disk leaves no room for a shorter index: removing images must always work.
const RESERVE: &str = "reserve";
/// Room for an index of some thousand names, and for what its directory entries cost.
const RESERVE_BYTES: u64 = 1024 * 1024;
/// The tree of a layer, below its directory.
pub(crate) const TREE: &str = "fs";
/// Says that a layer is complete; without it, its directory is rubbish.
pub(crate) const MARKER: &str = "layer.json";
/// Longest marker, in bytes: the names of implied directories are in it.
const MARKER_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn directory_only() -> Open {
    Open::READ | Open::DIRECTORY | Open::NO_FOLLOW
}

impl Disk {
    /// Opens or makes the directory, takes the lock, empties `ingest/`.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        let failed = |step: &str| {
            let (step, root) = (step.to_owned(), root.to_owned());
            move |source| StoreError::Disk { step, root, source }
        };
        make_directories(root).map_err(failed("make the directory"))?;
        let directory = sys::open(root, Open::READ | Open::DIRECTORY, 0).map_err(failed("open the directory"))?;
        sys::fchmod(&directory, 0o700).map_err(failed("close the directory to others"))?;
        let lock = sys::openat(&directory, "lock", Open::WRITE | Open::CREATE | Open::NO_FOLLOW, 0o600)
            .map_err(failed("open the lock"))?;
        sys::flock_patiently(&lock, LockKind::Exclusive).map_err(|error| match error.errno() {
            EAGAIN => StoreError::Locked { root: root.to_owned() },
            _ => failed("take the lock")(error),
        })?;
        let below = |parent: &OwnedFd, name: &str| subdirectory(parent, name);
        let step = || -> SysResult<[OwnedFd; 4]> {
            let blobs = below(&below(&directory, "blobs")?, "sha256")?;
            let layers = below(&directory, "layers")?;
            // Half-made things of a process that died.
            sys::remove_tree(&directory, "ingest")?;
            let ingest = below(&directory, "ingest")?;
            below(&directory, EMPTY)?;
            let partial = below(&directory, "partial")?;
            Ok([blobs, layers, ingest, partial])
        };
        let [blobs, layers, ingest, partial] = step().map_err(failed("make the subdirectories"))?;
        let disk = Self {
            root: root.to_owned(),
            directory,
            blobs,
            layers,
            ingest,
            partial,
            _lock: lock,
            counter: AtomicU64::new(0),
            sync: SyncGroup::default(),
        };
        disk.write_file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        disk.reserve();
        Ok(disk)
    }

    pub(crate) fn failed(&self, step: impl Into<String>) -> impl FnOnce(SysError) -> StoreError {
        let (step, root) = (step.into(), self.root.clone());
        move |source| StoreError::Disk { step, root, source }
    }

    /// A name in `ingest/` that nobody else uses.
    pub(crate) fn fresh(&self, what: &str) -> String {
        format!("{what}-{}", self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// Everything written so far to the store's file system is on the disk; shared by whoever asks meanwhile.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.sync.sync(&self.ingest).map_err(self.failed("sync the layer"))
    }

    /// The names in `blobs/` and `layers/` are on the disk.
    pub(crate) fn sync_names(&self) -> Result<(), StoreError> {
        sys::fsync(&self.blobs).and_then(|()| sys::fsync(&self.layers)).map_err(self.failed("sync the directories"))
    }

    /// A file in the store's root that is there whole or not at all.
    pub(crate) fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self.try_write_file(name, bytes) {
            Err(error) if is_no_space(&error) && sys::unlinkat(&self.directory, RESERVE, Removal::File).is_ok() => {
                tracing::warn!(root = ?self.root, "disk is full, using the reserve");
                self.try_write_file(name, bytes)
            }
            written => written,
        }
        .map_err(self.failed(format!("write {name}")))
    }

    fn try_write_file(&self, name: &str, bytes: &[u8]) -> SysResult<()> {
        let fresh = self.fresh("file");
        let how = Open::WRITE | Open::CREATE | Open::EXCLUSIVE;
        let write = || -> SysResult<()> {
            let mut file = File::from(sys::openat(&self.ingest, &fresh, how, 0o600)?);
            file.write_all(bytes).map_err(|error| SysError::from_io(format!("write({name:?})"), &error))?;
            sys::fsync(&file)?;
            sys::renameat2(&self.ingest, &fresh, &self.directory, name, RenameMode::Replace)?;
            sys::fsync(&self.directory)
        };
        let written = write();
        if written.is_err() {
            let _not_there = sys::unlinkat(&self.ingest, &fresh, Removal::File);
        }
        written
    }

    /// Takes room for later, if there is any and it isn't taken yet.
    pub(crate) fn reserve(&self) {
        let how = Open::WRITE | Open::CREATE | Open::NO_FOLLOW;
        if let Ok(file) = sys::openat(&self.directory, RESERVE, how, 0o600)
            && sys::fallocate(&file, RESERVE_BYTES).is_err()
        {
            let _not_there = sys::unlinkat(&self.directory, RESERVE, Removal::File);
        }
    }

    /// The index; `None` where there is none yet.
    pub(crate) fn read_index(&self, bytes_max: u64) -> Result<Option<Vec<u8>>, StoreError> {
        match sys::openat(&self.directory, INDEX, Open::READ | Open::NO_FOLLOW, 0) {
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.failed("open index.json")(error)),
            Ok(file) => self.read(file, INDEX, bytes_max).map(Some),
        }
    }

    pub(crate) fn write_index(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_file(INDEX, bytes)
    }

    /// Puts an index that can't be read out of the way, for a person to look at.
    pub(crate) fn set_index_aside(&self) -> Result<(), StoreError> {
        sys::renameat2(&self.directory, INDEX, &self.directory, "index.json.broken", RenameMode::Replace)
            .map_err(self.failed("set index.json aside"))
    }

    fn read(&self, file: OwnedFd, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        File::from(file)
            .take(bytes_max)
            .read_to_end(&mut bytes)
            .map_err(|error| self.failed(format!("read {name}"))(SysError::from_io("read", &error)))?;
        Ok(bytes)
    }

    /// A blob that is small by its kind.
    pub(crate) fn read_blob(&self, digest: Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let file = self.open_blob(digest)?;
        self.read(file, "a blob", bytes_max)
    }

    pub(crate) fn open_blob(&self, digest: Digest) -> Result<OwnedFd, StoreError> {
        match sys::openat(&self.blobs, digest.hex(), Open::READ | Open::NO_FOLLOW, 0) {
            Err(error) if is_missing(&error) => Err(StoreError::NoBlob { digest }),
            opened => opened.map_err(self.failed(format!("open blob {digest}"))),
        }
    }

    /// The marker of a layer.
    pub(crate) fn read_marker(&self, layer: &OwnedFd) -> Result<Vec<u8>, StoreError> {
        let file = sys::openat(layer, MARKER, Open::READ | Open::NO_FOLLOW, 0).map_err(self.failed("open a layer"))?;
        self.read(file, MARKER, MARKER_BYTES_MAX)
    }

    /// Where a layer's tree lies.
    pub(crate) fn tree(&self, diff_id: Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex()).join(TREE)
    }

    /// A directory that stays empty: the lower directory of an image without layers.
    pub(crate) fn empty(&self) -> PathBuf {
        self.root.join(EMPTY)
    }
}

const EMPTY: &str = "empty";

pub(crate) fn is_missing(error: &SysError) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

pub(crate) fn is_there(error: &SysError) -> bool {
    matches!(error.kind(), std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::DirectoryNotEmpty)
}

pub(crate) fn is_no_space(error: &SysError) -> bool {
    crate::error::is_no_space(error)
}

/// `mkdir -p` with 0700 for what is missing.
/// `EAGAIN`: another holds the lock.
const EAGAIN: i32 = 11;

fn make_directories(path: &Path) -> SysResult<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| SysError::from_io(format!("mkdir({path:?})"), &error))
}

/// Opens a directory, made when missing.
pub(crate) fn subdirectory(parent: &OwnedFd, name: &str) -> SysResult<OwnedFd> {
    match sys::mkdirat(parent, name, 0o755) {
        Err(error) if !is_there(&error) => return Err(error),
        _made_or_there => {}
    }
    sys::openat(parent, name, directory_only(), 0)
}

/// One `syncfs` for everybody who asks while one is under way: layers that end together are synced together.
#[derive(Debug, Default)]
struct SyncGroup {
    state: Mutex<SyncState>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    /// Number of the sync that starts next.
    next: u64,
    running: bool,
    /// Syncs below this number have ended.
    ended: u64,
    /// The last one that failed, and how: its data are lost, asking again would prove nothing.
    failed: Option<(u64, SysError)>,
}

impl SyncGroup {
    fn sync(&self, file: &OwnedFd) -> SysResult<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Only a sync that starts from now on is sure to cover what was written before the call.
        let wanted = state.next;
        loop {
            if state.ended > wanted {
                return match &state.failed {
                    Some((number, error)) if *number >= wanted => Err(error.clone()),
                    _ => Ok(()),
                };
            }
            if state.running {
                state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let mine = state.next;
            state.next += 1;
            state.running = true;
            drop(state);
            let synced = sys::syncfs(file);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = false;
            state.ended = mine + 1;
            if let Err(error) = synced {
                state.failed = Some((mine, error));
            }
            self.ended.notify_all();
        }
    }
}
