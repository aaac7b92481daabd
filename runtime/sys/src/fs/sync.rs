//! What reaches the disk, how much room is left, who may write.

use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use rustix::fs as raw;
use rustix::fs::{FallocateFlags, FlockOperation};

use super::failed;
use crate::SysResult;

/// Who else may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Nobody.
    Exclusive,
    /// Other sharers.
    Shared,
}

/// The room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsSpace {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// What an ordinary user may still write, in bytes.
    pub available_bytes: u64,
    /// Inodes in all; 0 where the file system doesn't count them.
    pub total_inodes: u64,
    /// Inodes left.
    pub free_inodes: u64,
    /// The magic number: which kind of file system.
    pub magic: u64,
}

/// `fsync(file)`: contents and attributes of a file, or the names in a directory, are on the disk.
/// <https://man7.org/linux/man-pages/man2/fsync.2.html>
///
/// # Errors
/// The kernel's number; after an error the data are lost, trying again proves nothing.
pub fn fsync(file: impl AsFd) -> SysResult<()> {
    raw::fsync(file.as_fd()).map_err(|errno| failed(errno, || format!("fsync({})", file.as_fd().as_raw_fd())))
}

/// `fdatasync(file)`: the contents are on the disk, and what is needed to read them.
/// <https://man7.org/linux/man-pages/man2/fdatasync.2.html>
///
/// # Errors
/// The kernel's number.
pub fn fdatasync(file: impl AsFd) -> SysResult<()> {
    raw::fdatasync(file.as_fd()).map_err(|errno| failed(errno, || format!("fdatasync({})", file.as_fd().as_raw_fd())))
}

/// `syncfs(file)`: everything on that file system is on the disk. Errors of writeback are told since Linux 5.8.
/// <https://man7.org/linux/man-pages/man2/syncfs.2.html>
///
/// # Errors
/// The kernel's number.
pub fn syncfs(file: impl AsFd) -> SysResult<()> {
    raw::syncfs(file.as_fd()).map_err(|errno| failed(errno, || format!("syncfs({})", file.as_fd().as_raw_fd())))
}

/// `flock(file, kind | LOCK_NB)`: taken at once or refused with `EAGAIN`. It goes with the last copy of the descriptor.
/// <https://man7.org/linux/man-pages/man2/flock.2.html>
///
/// # Errors
/// The kernel's number; `EAGAIN` when another holds it.
pub fn flock(file: impl AsFd, kind: LockKind) -> SysResult<()> {
    let operation = match kind {
        LockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
        LockKind::Shared => FlockOperation::NonBlockingLockShared,
    };
    raw::flock(file.as_fd(), operation)
        .map_err(|errno| failed(errno, || format!("flock({}, {kind:?} | LOCK_NB)", file.as_fd().as_raw_fd())))
}

/// A held lock is tried this often by [`flock_patiently`], [`LOCK_PAUSE`] apart: half a second in all.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// [`flock`], tried for half a second while another holds it; blocks the thread that long, so for start-up alone. A daemon
/// that is killed while it starts a program leaves a child that holds its descriptors until it executes, some milliseconds:
/// without patience the next daemon would not start.
///
/// # Errors
/// The kernel's number; `EAGAIN` when another still holds it.
#[expect(clippy::disallowed_methods, reason = "at start alone, before anybody waits for this thread")]
pub fn flock_patiently(file: impl AsFd, kind: LockKind) -> SysResult<()> {
    for _ in 1..LOCK_TRIES {
        match flock(file.as_fd(), kind) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::sleep(LOCK_PAUSE),
            answer => return answer,
        }
    }
    flock(file, kind)
}

/// `fallocate(file, 0, 0, length)`: the blocks are ours from now on.
/// <https://man7.org/linux/man-pages/man2/fallocate.2.html>
///
/// # Errors
/// The kernel's number; `EOPNOTSUPP` where the file system can't.
pub fn fallocate(file: impl AsFd, length_bytes: u64) -> SysResult<()> {
    raw::fallocate(file.as_fd(), FallocateFlags::empty(), 0, length_bytes)
        .map_err(|errno| failed(errno, || format!("fallocate({}, 0, 0, {length_bytes})", file.as_fd().as_raw_fd())))
}

/// `ftruncate(file, length)`.
/// <https://man7.org/linux/man-pages/man2/ftruncate.2.html>
///
/// # Errors
/// The kernel's number.
pub fn ftruncate(file: impl AsFd, length_bytes: u64) -> SysResult<()> {
    raw::ftruncate(file.as_fd(), length_bytes)
        .map_err(|errno| failed(errno, || format!("ftruncate({}, {length_bytes})", file.as_fd().as_raw_fd())))
}

/// `fstatfs(file)`. Works on `PATH` descriptors.
/// <https://man7.org/linux/man-pages/man2/fstatfs.2.html>
///
/// # Errors
/// The kernel's number.
pub fn fstatfs(file: impl AsFd) -> SysResult<FsSpace> {
    let stat = raw::fstatfs(file.as_fd())
        .map_err(|errno| failed(errno, || format!("fstatfs({})", file.as_fd().as_raw_fd())))?;
    let block_bytes = u64::try_from(stat.f_bsize).unwrap_or(0);
    Ok(FsSpace {
        total_bytes: stat.f_blocks.saturating_mul(block_bytes),
        available_bytes: stat.f_bavail.saturating_mul(block_bytes),
        total_inodes: stat.f_files,
        free_inodes: stat.f_ffree,
        magic: u64::try_from(stat.f_type).unwrap_or(0),
    })
}
