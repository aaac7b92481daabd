//! User namespaces: which ids of one are which of its parent, and mounts whose owners are seen through one.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::error::SysResult;
use crate::mount::Depth;
use crate::privileges;
use crate::process::{self, Namespaces, checked};
use crate::procfs::ProcHandle;

/// One range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The first inside.
    pub inside: u32,
    /// The first in the parent namespace.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

impl IdRange {
    /// What an id inside is outside; `None` where it isn't mapped.
    #[must_use]
    pub fn outside_of(&self, inside: u32) -> Option<u32> {
        let offset = inside.checked_sub(self.inside).filter(|offset| *offset < self.length)?;
        self.outside.checked_add(offset)
    }

    /// The last id inside; `None` for an empty range or one that ends beyond 32 bits.
    #[must_use]
    pub fn last_inside(&self) -> Option<u32> {
        self.inside.checked_add(self.length.checked_sub(1)?)
    }
}

impl fmt::Display for IdRange {
    /// As `uid_map` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.length)
    }
}

/// Users and groups of a namespace, one range each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdMap {
    /// Users.
    pub uids: IdRange,
    /// Groups.
    pub gids: IdRange,
}

/// Writes `/proc/PID/uid_map` and `gid_map` of a process whose user namespace has none yet; `pid` as the handle's namespace
/// counts. Needs CAP_SETUID and CAP_SETGID in the parent namespace.
/// <https://man7.org/linux/man-pages/man7/user_namespaces.7.html>
pub fn write_maps(proc: &ProcHandle, pid: i32, map: &IdMap) -> SysResult<()> {
    for (file, range) in [("uid_map", map.uids), ("gid_map", map.gids)] {
        let path = std::ffi::CString::new(format!("{pid}/{file}")).expect("digits and letters have no NUL");
        proc.write(&path, format!("{range}\n").as_bytes())?;
    }
    Ok(())
}

/// `clone3(CLONE_NEWUSER)`, the maps, and the namespace's descriptor; the process that was made for it is gone when this
/// returns, and nobody is in the namespace. `ENOSPC`: `user.max_user_namespaces` are there already.
pub fn make(map: &IdMap) -> SysResult<OwnedFd> {
    let proc = ProcHandle::new()?;
    let child = process::clone3(Namespaces::USER, None, || {
        // SAFETY: no argument; a signal without a handler ends the process.
        unsafe { libc::pause() };
        0
    })?;
    let made = write_maps(&proc, child.pid, map).and_then(|()| {
        let path = std::ffi::CString::new(format!("{}/ns/user", child.pid)).expect("digits have no NUL");
        proc.open_namespace(&path)
    });
    drop(process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL));
    // ECHILD: somebody who reaps every child of this process was faster.
    match process::wait(child.pidfd.as_fd()) {
        Err(error) if error.errno() != libc::ECHILD => Err(error),
        _ => made,
    }
}

/// `mount_setattr(tree, "", AT_EMPTY_PATH [| AT_RECURSIVE], MOUNT_ATTR_IDMAP)`: the owners of the files of a tree that is
/// attached nowhere yet are seen through `users`: who has id 0 on disk is the namespace's root. `EINVAL` where a file system
/// can't do it (tmpfs before Linux 6.3, network file systems, overlayfs). Linux 5.12.
/// <https://man7.org/linux/man-pages/man2/mount_setattr.2.html>
pub fn map_owners(tree: BorrowedFd<'_>, depth: Depth, users: BorrowedFd<'_>) -> SysResult<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(users.as_raw_fd()).expect("descriptors are not negative"),
    };
    let recursive = if depth == Depth::All { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty string that ends with NUL, and a whole mount_attr with its size.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    checked(answer, || format!("mount_setattr({}, MOUNT_ATTR_IDMAP, {})", tree.as_raw_fd(), users.as_raw_fd()))
        .map(drop)
}

/// `setgroups([])`, `setresgid(0)`, `setresuid(0)`: root of the user namespace that the caller is in. All capabilities in it
/// stay.
pub fn become_root() -> SysResult<()> {
    privileges::set_groups(&[])?;
    privileges::set_gid(0)?;
    privileges::set_uid(0)
}

/// A file system's name by its magic number, as far as volumes may lie on it; the number for any other.
#[must_use]
pub fn filesystem_name(magic: i64) -> String {
    const NAMES: [(i64, &str); 18] = [
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0xf2f5_2010, "f2fs"),
        (0xca45_1a4e, "bcachefs"),
        (0x2fc1_2fc1, "zfs"),
        (0x0102_1994, "tmpfs"),
        (0x8584_58f6, "ramfs"),
        (0x794c_7630, "overlayfs"),
        (0x6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "FUSE"),
        (0x00c3_6400, "ceph"),
        (0xe0f5_e1e2, "erofs"),
        (0x9584_58f6, "hugetlbfs"),
        (0x9fa0, "proc"),
    ];
    NAMES
        .iter()
        .find(|(known, _)| *known == magic)
        .map_or_else(|| format!("file system {magic:#x}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::mount;

    const RANGE: IdRange = IdRange { inside: 0, outside: 200_000, length: 65_536 };

    struct Remove(std::path::PathBuf);

    impl Drop for Remove {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_range_maps_what_is_in_it() {
        assert_eq!(RANGE.outside_of(0), Some(200_000));
        assert_eq!(RANGE.outside_of(65_535), Some(265_535));
        assert_eq!(RANGE.outside_of(65_536), None);
        assert_eq!(IdRange { inside: 5, ..RANGE }.outside_of(4), None);
        assert_eq!(RANGE.last_inside(), Some(65_535));
        assert_eq!(IdRange { length: 0, ..RANGE }.last_inside(), None);
        assert_eq!(RANGE.to_string(), "0 200000 65536");
    }

    #[test]
    fn owners_of_a_tree_are_seen_through_a_namespace() {
        let users = match make(&IdMap { uids: RANGE, gids: RANGE }) {
            Ok(users) => users,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let directory = std::env::temp_dir().join(format!("podwright-sys-userns-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("makes");
        std::fs::write(directory.join("file"), "x").expect("writes");
        let path = crate::rootfs::c_path(directory.as_os_str()).expect("has no NUL");
        let tree = mount::clone_tree(&path, Depth::One);
        let _remove = Remove(directory);
        let tree = tree.expect("clones");
        if let Err(error) = map_owners(tree.as_fd(), Depth::One, users.as_fd()) {
            assert_eq!(error.errno(), libc::EINVAL, "{error}");
            return eprintln!("skipped: {error}");
        }
        let seen = std::fs::metadata(format!("/proc/self/fd/{}/file", tree.as_raw_fd())).expect("stats");
        assert_eq!((seen.uid(), seen.gid()), (200_000, 200_000));
    }

    #[test]
    fn a_known_file_system_has_a_name() {
        assert_eq!(filesystem_name(0x6969), "NFS");
        assert_eq!(filesystem_name(1), "file system 0x1");
    }
}
