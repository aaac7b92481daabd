//! Files of the host as sources of mounts: which object a path leads to, and which mount it lies on.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::mount::OpenTreeFlags;

use crate::error::{SysError, SysResult};
use crate::procfs::{self, ProcHandle};

/// Which object it is, as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The file system's number.
    pub device: u64,
    /// The file's number.
    pub inode: u64,
}

/// `open_tree(path, OPEN_TREE_CLOEXEC)` of the host: as `open(path, O_PATH)`, links followed, but what is to be mounted
/// there on demand is mounted. May sleep for as long as the file system likes. Linux 5.2.
/// <https://man7.org/linux/man-pages/man2/open_tree.2.html>
pub fn open(path: &CStr) -> SysResult<OwnedFd> {
    rustix::mount::open_tree(rustix::fs::CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|errno| SysError::new(format!("open_tree({path:?})"), errno.raw_os_error()))
}

/// `fstat(file)`.
pub fn identity(file: BorrowedFd<'_>) -> SysResult<Identity> {
    rustix::fs::fstat(file)
        .map(|stat| Identity { device: stat.st_dev, inode: stat.st_ino })
        .map_err(|errno| SysError::new(format!("fstat({})", file.as_raw_fd()), errno.raw_os_error()))
}

/// `readlink(/proc/self/fd/N)`: where it lies, without links.
pub fn path(proc: &ProcHandle, file: BorrowedFd<'_>) -> SysResult<Vec<u8>> {
    let name = format!("self/fd/{}", file.as_raw_fd());
    rustix::fs::readlinkat(proc, name.as_str(), Vec::new())
        .map(std::ffi::CString::into_bytes)
        .map_err(|errno| SysError::new(format!("readlinkat(proc, {name:?})"), errno.raw_os_error()))
}

/// The mount that a file lies on, from the caller's mount table.
#[derive(Debug)]
pub struct On {
    /// The mount.
    pub mount: procfs::Mount,
    /// The file is the mount's top.
    pub is_top: bool,
}

/// `statx(file, STATX_MNT_ID)` (Linux 5.8) and `/proc/self/mountinfo`: reads the whole table, so not for a hot path.
/// <https://man7.org/linux/man-pages/man2/statx.2.html>
pub fn mount_of(file: BorrowedFd<'_>) -> SysResult<On> {
    let call = || format!("statx({}, STATX_MNT_ID)", file.as_raw_fd());
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .map_err(|errno| SysError::new(call(), errno.raw_os_error()))?;
    let found = procfs::mounts()?.into_iter().find(|mount| mount.id == stat.stx_mnt_id);
    let mount = found.ok_or_else(|| SysError::new(call(), libc::ENOENT))?;
    let is_top = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(On { mount, is_top })
}

/// Whether something was mounted right at `place` and `file` is that: the host's own doing, since nobody else can.
pub fn is_mounted_at(file: BorrowedFd<'_>, place: &CStr) -> SysResult<bool> {
    let on = mount_of(file)?;
    Ok(on.is_top && on.mount.mount_point.as_os_str().as_bytes() == place.to_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_same_file_by_two_ways_is_one_object_on_one_mount() {
        let proc = ProcHandle::new().expect("opens");
        let one = open(c"/proc/self/..").expect("opens");
        let other = open(c"/proc").expect("opens");
        assert_eq!(identity(one.as_fd()).expect("stats"), identity(other.as_fd()).expect("stats"));
        assert_ne!(identity(one.as_fd()).expect("stats"), identity(open(c"/").expect("opens").as_fd()).expect("stats"));
        assert_eq!(path(&proc, one.as_fd()).expect("reads"), b"/proc");
        let on = mount_of(one.as_fd()).expect("finds");
        assert!(on.is_top && on.mount.filesystem == "proc" && is_mounted_at(one.as_fd(), c"/proc").expect("finds"));
        let below = open(c"/proc/sys").expect("opens");
        assert!(!is_mounted_at(below.as_fd(), c"/proc/sys").expect("finds"));
    }
}
