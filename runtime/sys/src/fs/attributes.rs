//! Modes, owners, times and extended attributes.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs as raw;
use rustix::fs::{AtFlags, FileType, Gid, Timespec, Timestamps, Uid, XattrFlags};

use super::{failed, permissions};
use crate::{SysError, SysResult};

/// What kind of file something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device, also overlayfs's whiteout.
    Character,
    /// A block device.
    Block,
    /// What this kernel calls by another name.
    Unknown,
}

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::Regular,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::Character,
            FileType::BlockDevice => Self::Block,
            FileType::Unknown => Self::Unknown,
        }
    }
}

/// A point in time on the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Seconds since the epoch; may be negative. The file system clamps what it can't hold.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// What `fstat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Kind of file.
    pub kind: Kind,
    /// The twelve permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Bytes taken on disk.
    pub allocated_bytes: u64,
    /// Number of names.
    pub links: u64,
    /// Which file system.
    pub device: u64,
    /// Which file on it.
    pub inode: u64,
    /// Major and minor number of a device node; 0:0 otherwise.
    pub special: (u32, u32),
    /// Last change of the contents.
    pub modified: Time,
}

impl Metadata {
    #[expect(clippy::unnecessary_cast, reason = "the widths of struct stat's fields differ between architectures")]
    #[expect(clippy::cast_sign_loss, reason = "sizes and block counts of a live file are not negative")]
    fn of(stat: &raw::Stat) -> Self {
        /// `st_blocks` counts in this unit whatever the file system's block size.
        const BLOCK_BYTES: u64 = 512;
        let mode = stat.st_mode as u32;
        Self {
            kind: FileType::from_raw_mode(mode).into(),
            mode: mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size_bytes: stat.st_size as u64,
            allocated_bytes: (stat.st_blocks as u64).saturating_mul(BLOCK_BYTES),
            links: stat.st_nlink as u64,
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            special: (raw::major(stat.st_rdev), raw::minor(stat.st_rdev)),
            modified: Time { seconds: stat.st_mtime as i64, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        }
    }
}

/// `fstat(file)`. Works on `PATH` descriptors.
/// <https://man7.org/linux/man-pages/man2/fstat.2.html>
///
/// # Errors
/// The kernel's number.
pub fn fstat(file: impl AsFd) -> SysResult<Metadata> {
    raw::fstat(file.as_fd())
        .map(|stat| Metadata::of(&stat))
        .map_err(|errno| failed(errno, || format!("fstat({})", file.as_fd().as_raw_fd())))
}

/// `fstatat(at, name, AT_SYMLINK_NOFOLLOW)`.
/// <https://man7.org/linux/man-pages/man2/fstatat.2.html>
///
/// # Errors
/// The kernel's number.
pub fn fstatat(at: impl AsFd, name: impl AsRef<Path>) -> SysResult<Metadata> {
    let name = name.as_ref();
    raw::statat(at.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Metadata::of(&stat)).map_err(|errno| {
        failed(errno, || format!("fstatat({}, {name:?}, AT_SYMLINK_NOFOLLOW)", at.as_fd().as_raw_fd()))
    })
}

/// `fchmod(file, mode)`.
/// <https://man7.org/linux/man-pages/man2/fchmod.2.html>
///
/// # Errors
/// The kernel's number; `EBADF` on a `PATH` descriptor.
pub fn fchmod(file: impl AsFd, mode: u32) -> SysResult<()> {
    raw::fchmod(file.as_fd(), permissions(mode))
        .map_err(|errno| failed(errno, || format!("fchmod({}, {mode:#o})", file.as_fd().as_raw_fd())))
}

/// `fchmodat(at, name, mode, 0)`: for nodes that can't be opened for real. It follows a symbolic link: only for a name
/// that the caller has just made, in a directory where nobody else writes.
/// <https://man7.org/linux/man-pages/man2/fchmodat.2.html>
///
/// # Errors
/// The kernel's number.
pub fn fchmodat(at: impl AsFd, name: impl AsRef<Path>, mode: u32) -> SysResult<()> {
    let name = name.as_ref();
    raw::chmodat(at.as_fd(), name, permissions(mode), AtFlags::empty())
        .map_err(|errno| failed(errno, || format!("fchmodat({}, {name:?}, {mode:#o}, 0)", at.as_fd().as_raw_fd())))
}

/// Uid and gid for the kernel; 2^32-1 means "leave it" there, so it is refused here.
fn owner(uid: u32, gid: u32, call: impl FnOnce() -> String) -> SysResult<(Option<Uid>, Option<Gid>)> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(SysError::new(call(), libc::EINVAL));
    }
    Ok((Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
}

/// `fchown(file, uid, gid)`. The kernel takes set-user-id bits away: set the mode afterwards.
/// <https://man7.org/linux/man-pages/man2/fchown.2.html>
///
/// # Errors
/// The kernel's number; `EINVAL` for 2^32-1, which would mean "leave it".
pub fn fchown(file: impl AsFd, uid: u32, gid: u32) -> SysResult<()> {
    let call = || format!("fchown({}, {uid}, {gid})", file.as_fd().as_raw_fd());
    let (user, group) = owner(uid, gid, call)?;
    raw::fchown(file.as_fd(), user, group).map_err(|errno| failed(errno, call))
}

/// `fchownat(at, name, uid, gid, AT_SYMLINK_NOFOLLOW)`.
/// <https://man7.org/linux/man-pages/man2/fchownat.2.html>
///
/// # Errors
/// The kernel's number; `EINVAL` for 2^32-1, which would mean "leave it".
pub fn fchownat(at: impl AsFd, name: impl AsRef<Path>, uid: u32, gid: u32) -> SysResult<()> {
    let name = name.as_ref();
    let call = || format!("fchownat({}, {name:?}, {uid}, {gid}, AT_SYMLINK_NOFOLLOW)", at.as_fd().as_raw_fd());
    let (user, group) = owner(uid, gid, call)?;
    raw::chownat(at.as_fd(), name, user, group, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| failed(errno, call))
}

fn both(time: Time) -> Timestamps {
    let value = Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: value, last_modification: value }
}

/// `futimens(file, [time, time])`.
/// <https://man7.org/linux/man-pages/man3/futimens.3.html>
///
/// # Errors
/// The kernel's number; `EINVAL` for a second's worth of nanoseconds or more.
pub fn futimens(file: impl AsFd, time: Time) -> SysResult<()> {
    raw::futimens(file.as_fd(), &both(time))
        .map_err(|errno| failed(errno, || format!("futimens({}, {time:?})", file.as_fd().as_raw_fd())))
}

/// `utimensat(at, name, [time, time], AT_SYMLINK_NOFOLLOW)`.
/// <https://man7.org/linux/man-pages/man2/utimensat.2.html>
///
/// # Errors
/// The kernel's number; `EINVAL` for a second's worth of nanoseconds or more.
pub fn utimensat(at: impl AsFd, name: impl AsRef<Path>, time: Time) -> SysResult<()> {
    let name = name.as_ref();
    raw::utimensat(at.as_fd(), name, &both(time), AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| {
        failed(errno, || format!("utimensat({}, {name:?}, {time:?}, AT_SYMLINK_NOFOLLOW)", at.as_fd().as_raw_fd()))
    })
}

/// `fsetxattr(file, name, value, 0)`.
/// <https://man7.org/linux/man-pages/man2/fsetxattr.2.html>
///
/// # Errors
/// The kernel's number; `EOPNOTSUPP` where the file system has none of that kind, `EBADF` on a `PATH` descriptor.
pub fn fsetxattr(file: impl AsFd, name: &CStr, value: &[u8]) -> SysResult<()> {
    raw::fsetxattr(file.as_fd(), name, value, XattrFlags::empty()).map_err(|errno| {
        failed(errno, || format!("fsetxattr({}, {name:?}, {} bytes)", file.as_fd().as_raw_fd(), value.len()))
    })
}

/// `fgetxattr(file, name)`; `None` where there is none of that name.
/// <https://man7.org/linux/man-pages/man2/fgetxattr.2.html>
///
/// # Errors
/// The kernel's number.
pub fn fgetxattr(file: impl AsFd, name: &CStr) -> SysResult<Option<Vec<u8>>> {
    /// The kernel's own limit, `XATTR_SIZE_MAX`.
    const VALUE_BYTES_MAX: usize = 64 * 1024;
    let mut value = vec![0; VALUE_BYTES_MAX];
    match raw::fgetxattr(file.as_fd(), name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(errno) => Err(failed(errno, || format!("fgetxattr({}, {name:?})", file.as_fd().as_raw_fd()))),
    }
}

/// `flistxattr(file)`: the names.
/// <https://man7.org/linux/man-pages/man2/flistxattr.2.html>
///
/// # Errors
/// The kernel's number.
pub fn flistxattr(file: impl AsFd) -> SysResult<Vec<std::ffi::OsString>> {
    /// The kernel's own limit, `XATTR_LIST_MAX`.
    const LIST_BYTES_MAX: usize = 64 * 1024;
    let mut list = vec![0; LIST_BYTES_MAX];
    let length = raw::flistxattr(file.as_fd(), &mut list[..])
        .map_err(|errno| failed(errno, || format!("flistxattr({})", file.as_fd().as_raw_fd())))?;
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
}
