//! Mounts by descriptors: the new mount API, and what is left of the old one.
//!
//! A *tree* is the descriptor of a mount that is attached nowhere yet (`fsmount`, `open_tree`).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount as raw;

use crate::error::{SysError, SysResult};
use crate::process::checked;

/// Attributes of a mount, as `MOUNT_ATTR_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(u64);

impl Attributes {
    /// None.
    pub const NONE: Self = Self(0);
    /// Read-only.
    pub const READ_ONLY: Self = Self(0x1);
    /// Set-user-id bits and file capabilities are ignored.
    pub const NO_SUID: Self = Self(0x2);
    /// Device nodes can't be opened.
    pub const NO_DEV: Self = Self(0x4);
    /// Nothing can be executed.
    pub const NO_EXEC: Self = Self(0x8);
    /// The mask of the access time attributes: to be cleared before one of them is set.
    pub const ATIME: Self = Self(0x70);
    /// Access times aren't kept.
    pub const NO_ATIME: Self = Self(0x10);
    /// Access times are always kept.
    pub const STRICT_ATIME: Self = Self(0x20);
    /// Access times of directories aren't kept.
    pub const NO_DIR_ATIME: Self = Self(0x80);
    /// Symbolic links aren't followed (Linux 5.10 by mount, 5.14 here).
    pub const NO_SYMLINKS: Self = Self(0x20_0000);

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set less the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// How far mounts made elsewhere reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Into this mount.
    Slave,
    /// Into this mount and out of it.
    Shared,
    /// Not at all, and it can't be bound.
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// Whether mounts below are meant as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// This mount alone.
    One,
    /// This mount and all below.
    All,
}

/// `fsopen(type, FSOPEN_CLOEXEC)`: a file system to be configured. Linux 5.2.
/// <https://man7.org/linux/man-pages/man2/fsopen.2.html>
pub fn fsopen(kind: &CStr) -> SysResult<OwnedFd> {
    raw::fsopen(kind, raw::FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| SysError::new(format!("fsopen({kind:?})"), errno.raw_os_error()))
}

/// `fsconfig(fs, FSCONFIG_SET_STRING, key, value)`, or `FSCONFIG_SET_FLAG` without a value. A value has at most 255 bytes.
pub fn fsconfig(fs: BorrowedFd<'_>, key: &CStr, value: Option<&CStr>) -> SysResult<()> {
    match value {
        Some(value) => raw::fsconfig_set_string(fs, key, value),
        None => raw::fsconfig_set_flag(fs, key),
    }
    .map_err(|errno| SysError::new(format!("fsconfig({}, {key:?}, {value:?})", fs.as_raw_fd()), errno.raw_os_error()))
}

/// `fsconfig(fs, FSCONFIG_SET_FD, key, NULL, value)`.
pub fn fsconfig_descriptor(fs: BorrowedFd<'_>, key: &CStr, value: BorrowedFd<'_>) -> SysResult<()> {
    raw::fsconfig_set_fd(fs, key, value).map_err(|errno| {
        SysError::new(format!("fsconfig({}, {key:?}, {})", fs.as_raw_fd(), value.as_raw_fd()), errno.raw_os_error())
    })
}

/// `fsconfig(fs, FSCONFIG_CMD_CREATE)` and `fsmount(fs, FSMOUNT_CLOEXEC, attributes)`: the file system as a tree.
pub fn fsmount(fs: BorrowedFd<'_>, attributes: Attributes) -> SysResult<OwnedFd> {
    raw::fsconfig_create(fs)
        .map_err(|errno| SysError::new(format!("fsconfig({}, CMD_CREATE)", fs.as_raw_fd()), errno.raw_os_error()))?;
    let bits = u32::try_from(attributes.0).expect("all attributes are below bit 32");
    raw::fsmount(fs, raw::FsMountFlags::FSMOUNT_CLOEXEC, raw::MountAttrFlags::from_bits_retain(bits))
        .map_err(|errno| SysError::new(format!("fsmount({}, {bits:#x})", fs.as_raw_fd()), errno.raw_os_error()))
}

/// `open_tree(AT_FDCWD, path, OPEN_TREE_CLONE [| AT_RECURSIVE])`: a copy of what is at `path`, to be attached elsewhere.
/// Linux 5.2. <https://man7.org/linux/man-pages/man2/open_tree.2.html>
pub fn clone_tree(path: &CStr, depth: Depth) -> SysResult<OwnedFd> {
    open_tree(rustix::fs::CWD, path, depth, raw::OpenTreeFlags::empty())
}

/// The same of an open file or directory of the caller's mount namespace.
pub fn clone_tree_at(of: BorrowedFd<'_>, depth: Depth) -> SysResult<OwnedFd> {
    open_tree(of, c"", depth, raw::OpenTreeFlags::AT_EMPTY_PATH)
}

fn open_tree(of: BorrowedFd<'_>, path: &CStr, depth: Depth, extra: raw::OpenTreeFlags) -> SysResult<OwnedFd> {
    let mut flags = raw::OpenTreeFlags::OPEN_TREE_CLONE | raw::OpenTreeFlags::OPEN_TREE_CLOEXEC | extra;
    if depth == Depth::All {
        flags |= raw::OpenTreeFlags::AT_RECURSIVE;
    }
    raw::open_tree(of, path, flags).map_err(|errno| {
        SysError::new(format!("open_tree({}, {path:?}, OPEN_TREE_CLONE)", of.as_raw_fd()), errno.raw_os_error())
    })
}

/// `move_mount(tree, "", onto, "")`: attaches a tree onto an open file or directory. Both end at their descriptors, so no
/// path is walked. Linux 5.2. <https://man7.org/linux/man-pages/man2/move_mount.2.html>
pub fn attach(tree: BorrowedFd<'_>, onto: BorrowedFd<'_>) -> SysResult<()> {
    let flags = raw::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | raw::MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    raw::move_mount(tree, c"", onto, c"", flags).map_err(|errno| {
        SysError::new(format!("move_mount({}, {})", tree.as_raw_fd(), onto.as_raw_fd()), errno.raw_os_error())
    })
}

/// `mount_setattr(mount, "", AT_EMPTY_PATH [| AT_RECURSIVE], …)`. Linux 5.12.
/// <https://man7.org/linux/man-pages/man2/mount_setattr.2.html>
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    depth: Depth,
    set: Attributes,
    clear: Attributes,
    propagation: Option<Propagation>,
) -> SysResult<()> {
    let attributes = libc::mount_attr {
        attr_set: set.0,
        attr_clr: clear.0,
        propagation: propagation.map_or(0, Propagation::bits),
        userns_fd: 0,
    };
    let recursive = if depth == Depth::All { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty string that ends with NUL, and a whole mount_attr with its size.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    checked(answer, || format!("mount_setattr({}, +{:#x}, -{:#x}, {propagation:?})", mount.as_raw_fd(), set.0, clear.0))
        .map(drop)
}

/// A file system of this type with these options, as a tree. For types that need no source.
pub fn new_filesystem(kind: &CStr, options: &[(&CStr, Option<&CStr>)], attributes: Attributes) -> SysResult<OwnedFd> {
    let fs = fsopen(kind)?;
    for (key, value) in options {
        fsconfig(fs.as_fd(), key, *value)?;
    }
    fsmount(fs.as_fd(), attributes)
}

/// `mount(NULL, "/", NULL, MS_REC | propagation)`: of the whole mount namespace.
pub fn set_propagation_of_all(propagation: Propagation) -> SysResult<()> {
    let flags = raw::MountPropagationFlags::REC
        | match propagation {
            Propagation::Private => raw::MountPropagationFlags::PRIVATE,
            Propagation::Slave => raw::MountPropagationFlags::DOWNSTREAM,
            Propagation::Shared => raw::MountPropagationFlags::SHARED,
            Propagation::Unbindable => raw::MountPropagationFlags::UNBINDABLE,
        };
    raw::mount_change(c"/", flags)
        .map_err(|errno| SysError::new(format!("mount(\"/\", MS_REC, {propagation:?})"), errno.raw_os_error()))
}

/// `fchdir(root)`, `pivot_root(".", ".")`, `umount2(".", MNT_DETACH)`, `chdir("/")`: `root`, a mount's top, becomes the root
/// of the mount namespace, and all that was there before is gone from it.
/// <https://man7.org/linux/man-pages/man2/pivot_root.2.html>
pub fn pivot_into(root: BorrowedFd<'_>) -> SysResult<()> {
    enter_directory(root)?;
    rustix::process::pivot_root(c".", c".")
        .map_err(|errno| SysError::new("pivot_root(\".\", \".\")", errno.raw_os_error()))?;
    raw::unmount(c".", raw::UnmountFlags::DETACH)
        .map_err(|errno| SysError::new("umount2(\".\", MNT_DETACH)", errno.raw_os_error()))?;
    rustix::process::chdir(c"/").map_err(|errno| SysError::new("chdir(\"/\")", errno.raw_os_error()))
}

/// `fchdir(directory)`. Of the whole process: only in a child.
pub fn enter_directory(directory: BorrowedFd<'_>) -> SysResult<()> {
    rustix::process::fchdir(directory)
        .map_err(|errno| SysError::new(format!("fchdir({})", directory.as_raw_fd()), errno.raw_os_error()))
}

/// `umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW)`.
pub fn detach(path: &CStr) -> SysResult<()> {
    raw::unmount(path, raw::UnmountFlags::DETACH | raw::UnmountFlags::NOFOLLOW)
        .map_err(|errno| SysError::new(format!("umount2({path:?}, MNT_DETACH)"), errno.raw_os_error()))
}
