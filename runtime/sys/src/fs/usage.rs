//! How much a directory tree takes, and on which device.

use std::collections::HashSet;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::fs::RawDir;

use super::{Kind, Metadata, Open, Resolve, c_path, failed, fstat, fstatat, openat, openat2};
use crate::{SysError, SysResult};

/// What a tree takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeUsage {
    /// Bytes in allocated blocks; a file with several names counts once.
    pub bytes: u64,
    /// Files and directories, the top one among them.
    pub inodes: u64,
}

/// How far a tree is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLimits {
    /// Most files and directories.
    pub entries_max: u64,
    /// Longest time.
    pub time_max: Duration,
}

/// Most files with several names that are told apart; the names of further ones count each.
const LINKED_MAX: usize = 65_536;

/// Most bytes of names of directories that are still to be visited. A container makes as many as it likes, and they are kept
/// in the caller's memory.
const PENDING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One directory on the way down: what identifies it, and what is still to be visited in it.
struct Level {
    identity: (u64, u64),
    pending: Vec<OsString>,
}

/// Walks a tree. One descriptor and no recursion, so neither the depth that a stranger chose nor the limit on open files
/// matters. No link is followed, no mount is crossed. A file that goes away meanwhile counts nothing. `None`: a limit was
/// reached, or somebody moved the directory that the walk stood in.
///
/// # Errors
/// The kernel's number.
pub fn tree_usage(top: impl AsFd, limits: TreeLimits) -> SysResult<Option<TreeUsage>> {
    let mut here = openat(top, ".", Open::READ | Open::DIRECTORY, 0)?;
    let mut walk = Walk {
        usage: TreeUsage::default(),
        linked: HashSet::new(),
        pending_bytes: 0,
        limits,
        until: crate::clock::boottime() + limits.time_max,
    };
    let found = fstat(&here)?;
    walk.count(&found);
    let Some(pending) = walk.look(&here)? else { return Ok(None) };
    let mut levels = vec![Level { identity: (found.device, found.inode), pending }];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pending.pop() {
            walk.pending_bytes = walk.pending_bytes.saturating_sub(name.len());
            let how = Open::READ | Open::DIRECTORY | Open::NO_FOLLOW;
            let resolve = Resolve::BENEATH | Resolve::NO_SYMLINKS | Resolve::NO_CROSSING;
            match openat2(&here, &name, how, 0, resolve) {
                Ok(below) => {
                    let found = fstat(&below)?;
                    let Some(pending) = walk.look(&below)? else { return Ok(None) };
                    levels.push(Level { identity: (found.device, found.inode), pending });
                    here = below;
                }
                Err(error) if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::EXDEV].contains(&error.errno()) => {}
                Err(error) => return Err(error),
            }
        } else {
            levels.pop();
            let Some(parent) = levels.last() else { break };
            here = openat(&here, "..", Open::READ | Open::DIRECTORY, 0)?;
            let found = fstat(&here)?;
            if (found.device, found.inode) != parent.identity {
                return Ok(None);
            }
        }
    }
    Ok(Some(walk.usage))
}

struct Walk {
    usage: TreeUsage,
    linked: HashSet<u64>,
    pending_bytes: usize,
    limits: TreeLimits,
    /// Time since boot.
    until: Duration,
}

impl Walk {
    fn count(&mut self, found: &Metadata) {
        if found.kind != Kind::Directory && found.links > 1 {
            if self.linked.contains(&found.inode) {
                return;
            }
            if self.linked.len() < LINKED_MAX {
                self.linked.insert(found.inode);
            }
        }
        self.usage.bytes = self.usage.bytes.saturating_add(found.allocated_bytes);
        self.usage.inodes = self.usage.inodes.saturating_add(1);
    }

    /// Counts what is in a directory, an entry at a time; answers with the directories in it, or nothing at a limit.
    fn look(&mut self, directory: &OwnedFd) -> SysResult<Option<Vec<OsString>>> {
        const BUFFER_BYTES: usize = 16 * 1024;
        /// Entries between two looks at the clock.
        const CLOCK_EVERY: u64 = 64;
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); BUFFER_BYTES];
        let mut entries = RawDir::new(directory, &mut buffer);
        let mut below = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                // Removed while it was open.
                Err(rustix::io::Errno::NOENT) => break,
                Err(errno) => return Err(failed(errno, || format!("getdents64({})", directory.as_raw_fd()))),
            };
            let name = c_path(entry.file_name());
            if matches!(name.as_os_str().as_encoded_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(found) = fstatat(directory, name) else { continue };
            self.count(&found);
            if found.kind == Kind::Directory {
                self.pending_bytes = self.pending_bytes.saturating_add(name.as_os_str().len());
                below.push(name.as_os_str().to_owned());
            }
            let late = self.usage.inodes.is_multiple_of(CLOCK_EVERY) && crate::clock::boottime() > self.until;
            if late || self.usage.inodes > self.limits.entries_max || self.pending_bytes > PENDING_BYTES_MAX {
                return Ok(None);
            }
        }
        Ok(Some(below))
    }
}

/// Major and minor number of the device that a file system is on, from [`Metadata::device`].
#[must_use]
pub fn device_numbers(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

/// What a block device is called: `/dev/vda1`.
pub fn device_name(major: u32, minor: u32) -> SysResult<String> {
    let path = format!("/sys/dev/block/{major}:{minor}/uevent");
    let text = std::fs::read_to_string(&path).map_err(|error| SysError::from_io(format!("read({path:?})"), &error))?;
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| format!("/dev/{name}")).ok_or_else(|| SysError::new(format!("read({path:?})"), libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use std::fs::{File, create_dir_all, hard_link, write};
    use std::os::unix::fs::symlink;

    use super::*;

    const LIMITS: TreeLimits = TreeLimits { entries_max: 1000, time_max: Duration::from_secs(10) };

    fn directory(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("podwright-usage-{name}-{}", std::process::id()));
        create_dir_all(&path).expect("makes");
        path
    }

    #[test]
    fn links_count_once_and_lead_nowhere() {
        let path = directory("links");
        create_dir_all(path.join("a/b/c")).expect("makes");
        write(path.join("a/file"), vec![1; 100_000]).expect("writes");
        hard_link(path.join("a/file"), path.join("a/b/same")).expect("links");
        symlink("/", path.join("a/b/c/root")).expect("links");
        let usage = tree_usage(File::open(&path).expect("opens"), LIMITS).expect("walks").expect("is small");
        std::fs::remove_dir_all(&path).expect("removes");
        // The top, three directories, one file, one link.
        assert_eq!(usage.inodes, 6);
        assert!((100_000..200_000).contains(&usage.bytes), "{usage:?}");
    }

    #[test]
    fn a_tree_that_is_too_large_is_given_up() {
        let path = directory("large");
        for number in 0..40 {
            create_dir_all(path.join(format!("{number}/x"))).expect("makes");
        }
        let few = TreeLimits { entries_max: 20, ..LIMITS };
        assert_eq!(tree_usage(File::open(&path).expect("opens"), few).expect("walks"), None);
        let all = tree_usage(File::open(&path).expect("opens"), LIMITS).expect("walks").expect("is small");
        std::fs::remove_dir_all(&path).expect("removes");
        assert_eq!(all.inodes, 81);
    }

    #[test]
    fn deeper_than_any_path() {
        let path = directory("deep");
        let name = "d".repeat(200);
        let mut here = openat(File::open(&path).expect("opens"), ".", Open::READ | Open::DIRECTORY, 0).expect("opens");
        for _ in 0..100 {
            super::super::mkdirat(&here, &name, 0o755).expect("makes");
            here = openat(&here, &name, Open::READ | Open::DIRECTORY, 0).expect("opens");
        }
        let usage = tree_usage(File::open(&path).expect("opens"), LIMITS).expect("walks").expect("is small");
        let parent = File::open(path.parent().expect("has one")).expect("opens");
        crate::fs::remove_tree(parent, path.file_name().expect("has one")).expect("removes");
        assert_eq!(usage.inodes, 101);
    }
}
