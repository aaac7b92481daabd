//! Files through descriptors: opening below a root, making, removing, attributes, syncing, locks, directory listings.
//!
//! A name handed to a function here is resolved from the descriptor beside it. Where the name comes from a stranger (an
//! image, a container's root), [`openat2`] with [`Resolve`] flags is the one way in; the `*at` functions then take single
//! components. Every descriptor is close-on-exec from birth.

use std::ffi::CStr;
use std::ops::BitOr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs as raw;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use crate::{SysError, SysResult};

mod attributes;
mod list;
mod sync;
mod tree;
mod usage;

pub use attributes::{
    Kind, Metadata, Time, fchmod, fchmodat, fchown, fchownat, fgetxattr, flistxattr, fsetxattr, fstat, fstatat,
    futimens, utimensat,
};
pub use list::{DirectoryEntry, read_directory};
pub use sync::{FsSpace, LockKind, fallocate, fdatasync, flock, flock_patiently, fstatfs, fsync, ftruncate, syncfs};
pub use tree::remove_tree;
pub use usage::{TreeLimits, TreeUsage, device_name, device_numbers, tree_usage};

/// How a file is opened; `|` joins. `O_CLOEXEC` and `O_NOCTTY` are always set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open(OFlags);

impl Open {
    /// `O_PATH`: a handle for `*at` calls that opens nothing (no device is woken, no FIFO waited for).
    pub const PATH: Self = Self(OFlags::PATH);
    /// `O_RDONLY`.
    pub const READ: Self = Self(OFlags::RDONLY);
    /// `O_WRONLY`.
    pub const WRITE: Self = Self(OFlags::WRONLY);
    /// `O_RDWR`.
    pub const READ_WRITE: Self = Self(OFlags::RDWR);
    /// `O_CREAT`.
    pub const CREATE: Self = Self(OFlags::CREATE);
    /// `O_EXCL`: with `CREATE`, nothing may be there yet, not even a dangling link.
    pub const EXCLUSIVE: Self = Self(OFlags::EXCL);
    /// `O_DIRECTORY`: only a directory.
    pub const DIRECTORY: Self = Self(OFlags::DIRECTORY);
    /// `O_NOFOLLOW`: the last component may not be a symbolic link (with `PATH`: the link itself).
    pub const NO_FOLLOW: Self = Self(OFlags::NOFOLLOW);
    /// `O_NONBLOCK`: a FIFO without a writer doesn't hold the caller.
    pub const NON_BLOCK: Self = Self(OFlags::NONBLOCK);
    /// `O_TRUNC`.
    pub const TRUNCATE: Self = Self(OFlags::TRUNC);
    /// `O_APPEND`.
    pub const APPEND: Self = Self(OFlags::APPEND);
    /// `O_TMPFILE`: a file without a name in the directory that is opened.
    pub const NAMELESS: Self = Self(OFlags::TMPFILE);

    fn flags(self) -> OFlags {
        self.0 | OFlags::CLOEXEC | if self.0.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NOCTTY }
    }
}

impl BitOr for Open {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How [`openat2`] walks; `|` joins. Magic links are always refused: they lead anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolve(ResolveFlags);

impl Resolve {
    /// Links are followed wherever they lead (but magic ones).
    pub const ANYWHERE: Self = Self(ResolveFlags::empty());
    /// `RESOLVE_IN_ROOT`: the directory is `/` for the walk, as in a chroot.
    pub const IN_ROOT: Self = Self(ResolveFlags::IN_ROOT);
    /// `RESOLVE_BENEATH`: whatever leads above the directory, or is absolute, is refused.
    pub const BENEATH: Self = Self(ResolveFlags::BENEATH);
    /// `RESOLVE_NO_SYMLINKS`: no symbolic link anywhere on the way.
    pub const NO_SYMLINKS: Self = Self(ResolveFlags::NO_SYMLINKS);
    /// `RESOLVE_NO_XDEV`: no mount point is crossed.
    pub const NO_CROSSING: Self = Self(ResolveFlags::NO_XDEV);
}

impl BitOr for Resolve {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What [`mknodat`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A named pipe.
    Fifo,
    /// A character device; 0:0 is overlayfs's whiteout and needs no `CAP_MKNOD` (Linux 5.8).
    Character {
        /// Which driver.
        major: u32,
        /// Which of its devices.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Which driver.
        major: u32,
        /// Which of its devices.
        minor: u32,
    },
}

/// What [`unlinkat`] removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Anything but a directory.
    File,
    /// An empty directory.
    Directory,
}

/// What [`renameat2`] does with what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// It is replaced in one step.
    Replace,
    /// `RENAME_NOREPLACE`: the call fails with `EEXIST`.
    Refuse,
    /// `RENAME_EXCHANGE`: the two change places.
    Exchange,
}

pub(crate) fn failed(errno: rustix::io::Errno, call: impl FnOnce() -> String) -> SysError {
    SysError::new(call(), errno.raw_os_error())
}

/// `openat2(at, path, flags, resolve | RESOLVE_NO_MAGICLINKS)`: the way to open a name that a stranger chose. Linux 5.6.
/// Tried again a few times when a rename on the way made the walk unsafe (`EAGAIN`).
/// <https://man7.org/linux/man-pages/man2/openat2.2.html>
///
/// # Errors
/// The kernel's number: `EXDEV` where the walk leads out, `ELOOP` for links that are refused or too many.
pub fn openat2(at: impl AsFd, path: impl AsRef<Path>, how: Open, mode: u32, resolve: Resolve) -> SysResult<OwnedFd> {
    const ATTEMPTS_MAX: u32 = 16;
    let path = path.as_ref();
    let flags = resolve.0 | ResolveFlags::NO_MAGICLINKS;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match raw::openat2(at.as_fd(), path, how.flags(), permissions(mode), flags) {
            Ok(file) => return Ok(file),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if attempt < ATTEMPTS_MAX => {}
            Err(errno) => {
                return Err(failed(errno, || {
                    format!("openat2({}, {path:?}, {:?}, {flags:?})", at.as_fd().as_raw_fd(), how.0)
                }));
            }
        }
    }
}

/// `openat(at, name, flags, mode)`: for single components and for paths of our own making.
/// <https://man7.org/linux/man-pages/man2/openat.2.html>
///
/// # Errors
/// The kernel's number.
pub fn openat(at: impl AsFd, name: impl AsRef<Path>, how: Open, mode: u32) -> SysResult<OwnedFd> {
    let name = name.as_ref();
    loop {
        match raw::openat(at.as_fd(), name, how.flags(), permissions(mode)) {
            Err(rustix::io::Errno::INTR) => {}
            answer => {
                return answer.map_err(|errno| {
                    failed(errno, || format!("openat({}, {name:?}, {:?}, {mode:#o})", at.as_fd().as_raw_fd(), how.0))
                });
            }
        }
    }
}

/// `open(path, flags, mode)`: a path of our own making, from the process's root or working directory.
/// <https://man7.org/linux/man-pages/man2/open.2.html>
///
/// # Errors
/// The kernel's number.
pub fn open(path: impl AsRef<Path>, how: Open, mode: u32) -> SysResult<OwnedFd> {
    let path = path.as_ref();
    raw::open(path, how.flags(), permissions(mode))
        .map_err(|errno| failed(errno, || format!("open({path:?}, {:?}, {mode:#o})", how.0)))
}

/// `mkdirat(at, name, mode)`. The process's umask takes bits away: set what must be exact with [`fchmod`].
/// <https://man7.org/linux/man-pages/man2/mkdirat.2.html>
///
/// # Errors
/// The kernel's number.
pub fn mkdirat(at: impl AsFd, name: impl AsRef<Path>, mode: u32) -> SysResult<()> {
    let name = name.as_ref();
    raw::mkdirat(at.as_fd(), name, permissions(mode))
        .map_err(|errno| failed(errno, || format!("mkdirat({}, {name:?}, {mode:#o})", at.as_fd().as_raw_fd())))
}

/// `mknodat(at, name, kind | mode, dev)`.
/// <https://man7.org/linux/man-pages/man2/mknodat.2.html>
///
/// # Errors
/// The kernel's number; `EPERM` without `CAP_MKNOD` for all but a FIFO and a whiteout.
pub fn mknodat(at: impl AsFd, name: impl AsRef<Path>, node: Node, mode: u32) -> SysResult<()> {
    let name = name.as_ref();
    let (kind, device) = match node {
        Node::Fifo => (FileType::Fifo, 0),
        Node::Character { major, minor } => (FileType::CharacterDevice, raw::makedev(major, minor)),
        Node::Block { major, minor } => (FileType::BlockDevice, raw::makedev(major, minor)),
    };
    raw::mknodat(at.as_fd(), name, kind, permissions(mode), device).map_err(|errno| {
        failed(errno, || format!("mknodat({}, {name:?}, {node:?}, {mode:#o})", at.as_fd().as_raw_fd()))
    })
}

/// `symlinkat(target, at, name)`.
/// <https://man7.org/linux/man-pages/man2/symlinkat.2.html>
///
/// # Errors
/// The kernel's number.
pub fn symlinkat(target: impl AsRef<Path>, at: impl AsFd, name: impl AsRef<Path>) -> SysResult<()> {
    let (target, name) = (target.as_ref(), name.as_ref());
    raw::symlinkat(target, at.as_fd(), name)
        .map_err(|errno| failed(errno, || format!("symlinkat({target:?}, {}, {name:?})", at.as_fd().as_raw_fd())))
}

/// `readlinkat(at, name)`; an empty name reads the link that `at` itself is (opened with `PATH | NO_FOLLOW`).
/// <https://man7.org/linux/man-pages/man2/readlinkat.2.html>
///
/// # Errors
/// The kernel's number; `EINVAL` for what is no link.
pub fn readlinkat(at: impl AsFd, name: impl AsRef<Path>) -> SysResult<Vec<u8>> {
    let name = name.as_ref();
    raw::readlinkat(at.as_fd(), name, Vec::new())
        .map(std::ffi::CString::into_bytes)
        .map_err(|errno| failed(errno, || format!("readlinkat({}, {name:?})", at.as_fd().as_raw_fd())))
}

/// `linkat(from, name, to, new_name, 0)`: a link as the last component is linked itself, not followed.
/// <https://man7.org/linux/man-pages/man2/linkat.2.html>
///
/// # Errors
/// The kernel's number; `EMLINK` where the file system counts no further.
pub fn linkat(from: impl AsFd, name: impl AsRef<Path>, to: impl AsFd, new_name: impl AsRef<Path>) -> SysResult<()> {
    let (name, new_name) = (name.as_ref(), new_name.as_ref());
    raw::linkat(from.as_fd(), name, to.as_fd(), new_name, AtFlags::empty()).map_err(|errno| {
        failed(errno, || {
            let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
            format!("linkat({from}, {name:?}, {to}, {new_name:?}, 0)")
        })
    })
}

/// `unlinkat(at, name, 0 or AT_REMOVEDIR)`.
/// <https://man7.org/linux/man-pages/man2/unlinkat.2.html>
///
/// # Errors
/// The kernel's number.
pub fn unlinkat(at: impl AsFd, name: impl AsRef<Path>, what: Removal) -> SysResult<()> {
    let name = name.as_ref();
    let flags = match what {
        Removal::File => AtFlags::empty(),
        Removal::Directory => AtFlags::REMOVEDIR,
    };
    raw::unlinkat(at.as_fd(), name, flags)
        .map_err(|errno| failed(errno, || format!("unlinkat({}, {name:?}, {flags:?})", at.as_fd().as_raw_fd())))
}

/// `renameat2(from, name, to, new_name, flags)`.
/// <https://man7.org/linux/man-pages/man2/renameat2.2.html>
///
/// # Errors
/// The kernel's number.
pub fn renameat2(
    from: impl AsFd,
    name: impl AsRef<Path>,
    to: impl AsFd,
    new_name: impl AsRef<Path>,
    mode: RenameMode,
) -> SysResult<()> {
    let (name, new_name) = (name.as_ref(), new_name.as_ref());
    let flags = match mode {
        RenameMode::Replace => raw::RenameFlags::empty(),
        RenameMode::Refuse => raw::RenameFlags::NOREPLACE,
        RenameMode::Exchange => raw::RenameFlags::EXCHANGE,
    };
    raw::renameat_with(from.as_fd(), name, to.as_fd(), new_name, flags).map_err(|errno| {
        failed(errno, || {
            let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
            format!("renameat2({from}, {name:?}, {to}, {new_name:?}, {flags:?})")
        })
    })
}

/// The twelve permission bits of `mode`.
pub(crate) fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// A C string as the path that it is.
pub(crate) fn c_path(name: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

#[cfg(test)]
mod tests;
