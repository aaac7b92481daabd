//! Paths inside a root that somebody hostile has filled: every step is a descriptor, no link leads out.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{SysError, SysResult};

/// Most symbolic links that one path may lead through; the kernel's own limit.
pub const LINKS_MAX: usize = 40;

/// Longest path that is walked, in bytes; the kernel's own limit.
pub const PATH_BYTES_MAX: usize = 4096;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A character device of this number.
    Character(u64),
    /// A block device of this number.
    Block(u64),
    /// A symbolic link.
    Link,
    /// A regular file, socket or pipe.
    Other,
}

/// Whether the root may answer with symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Followed, inside the root.
    Followed,
    /// `ELOOP`, wherever in the path one stands.
    Refused,
}

/// `openat2(root, path, O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS [| RESOLVE_NO_SYMLINKS])`. Linux 5.6.
/// <https://man7.org/linux/man-pages/man2/openat2.2.html>
pub fn open_in_root(root: BorrowedFd<'_>, path: &CStr, links: Links) -> SysResult<OwnedFd> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refused {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// The same for reading and writing, never blocking and never a controlling terminal.
pub fn open_in_root_to_write(root: BorrowedFd<'_>, path: &CStr) -> SysResult<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn openat2(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags, mode: Mode, how: ResolveFlags) -> SysResult<OwnedFd> {
    /// With RESOLVE_IN_ROOT the kernel gives up with EAGAIN when any rename on the machine raced with a "..".
    const ATTEMPTS_MAX: usize = 128;
    let mut last = Errno::AGAIN;
    for _ in 0..ATTEMPTS_MAX {
        match rustix::fs::openat2(dir, path, flags, mode, how) {
            Ok(opened) => return Ok(opened),
            Err(errno @ (Errno::AGAIN | Errno::INTR)) => last = errno,
            Err(errno) => {
                last = errno;
                break;
            }
        }
    }
    Err(SysError::new(format!("openat2({}, {path:?}, {flags:?}, {how:?})", dir.as_raw_fd()), last.raw_os_error()))
}

/// What to make where a path ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Directories, mode 0755, owned by root.
    Directory,
    /// An empty file, mode 0644, owned by root, in directories as above.
    File,
}

/// Opens `path` in `root` (`O_PATH`), making what is missing of it: one component after the other, each from the descriptor
/// of the one before; links are read and walked inside the root, a dangling one included. `path` may not be all of the
/// root.
pub fn open_or_make(root: BorrowedFd<'_>, path: &CStr, make: Make) -> SysResult<OwnedFd> {
    match open_in_root(root, path, Links::Followed) {
        Err(error) if error.errno() == libc::ENOENT => walk(root, path, make),
        answer => answer,
    }
}

fn walk(root: BorrowedFd<'_>, path: &CStr, make: Make) -> SysResult<OwnedFd> {
    let failed = |errno: i32| SysError::new(format!("mkdirall({}, {path:?})", root.as_raw_fd()), errno);
    let duplicate = || root.try_clone_to_owned().map_err(|error| failed(error.raw_os_error().unwrap_or(libc::EIO)));
    if path.to_bytes().len() > PATH_BYTES_MAX {
        return Err(failed(libc::ENAMETOOLONG));
    }
    let mut left = components(path.to_bytes());
    let mut parents = vec![duplicate()?];
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name.as_bytes() == b".." {
            // Up from the descriptor that led here, never by the kernel's "..", which a rename could move out of the root.
            if parents.len() > 1 {
                parents.pop();
            }
            continue;
        }
        let parent = parents.last().expect("the root is never popped").as_fd();
        let last = left.iter().all(|later| later.as_bytes() == b"..") && left.is_empty();
        let opened = step(parent, &name, if last { make } else { Make::Directory })?;
        match kind_of(opened.as_fd())? {
            Kind::Link => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(failed(libc::ELOOP));
                }
                let target = rustix::fs::readlinkat(&opened, c"", Vec::new()).map_err(|e| failed(e.raw_os_error()))?;
                if target.to_bytes().first() == Some(&b'/') {
                    parents.truncate(1);
                }
                for part in components(target.to_bytes()).into_iter().rev() {
                    left.push_front(part);
                }
                if left.iter().map(|part| part.as_bytes().len() + 1).sum::<usize>() > PATH_BYTES_MAX {
                    return Err(failed(libc::ENAMETOOLONG));
                }
            }
            Kind::Directory => parents.push(opened),
            _ if last => return Ok(opened),
            _ => return Err(failed(libc::ENOTDIR)),
        }
    }
    Ok(parents.pop().expect("the root is never popped"))
}

/// One component, made when it is missing; a link is opened as itself.
fn step(parent: BorrowedFd<'_>, name: &CStr, make: Make) -> SysResult<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = || openat2(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve);
    match open() {
        Err(error) if error.errno() == libc::ENOENT => {}
        answer => return answer,
    }
    let made = match make {
        Make::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Make::File => rustix::fs::openat(
            parent,
            name,
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        )
        .map(drop),
    };
    match made {
        // Somebody who shares the directory was faster: whatever it is now is looked at again.
        Ok(()) | Err(Errno::EXIST) => open(),
        Err(errno) => Err(SysError::new(format!("make({}, {name:?})", parent.as_raw_fd()), errno.raw_os_error())),
    }
}

fn components(path: &[u8]) -> VecDeque<CString> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| CString::new(part).expect("a part of a C string has no NUL"))
        .collect()
}

/// `fstat(fd)`: what it is.
pub fn kind_of(file: BorrowedFd<'_>) -> SysResult<Kind> {
    let stat = rustix::fs::fstat(file)
        .map_err(|errno| SysError::new(format!("fstat({})", file.as_raw_fd()), errno.raw_os_error()))?;
    Ok(kind(&stat))
}

fn kind(stat: &rustix::fs::Stat) -> Kind {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => Kind::Directory,
        libc::S_IFLNK => Kind::Link,
        libc::S_IFCHR => Kind::Character(stat.st_rdev),
        libc::S_IFBLK => Kind::Block(stat.st_rdev),
        _ => Kind::Other,
    }
}

/// A device's number from its parts.
#[must_use]
pub fn device_number(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

/// `stat(path)` of the host, links followed: may sleep for as long as the file system likes.
pub fn host_kind(path: &CStr) -> SysResult<Kind> {
    rustix::fs::stat(path)
        .map(|stat| kind(&stat))
        .map_err(|errno| SysError::new(format!("stat({path:?})"), errno.raw_os_error()))
}

/// `open(path, O_PATH | O_DIRECTORY)` of the host.
pub fn open_host_directory(path: &CStr) -> SysResult<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| SysError::new(format!("open({path:?}, O_PATH | O_DIRECTORY)"), errno.raw_os_error()))
}

/// `open(path, O_PATH)` of the host, and that it is this character device: what a hostile root filled `/dev` with can't
/// be taken for it.
pub fn open_host_device(path: &CStr, major: u32, minor: u32) -> SysResult<OwnedFd> {
    let call = || format!("open({path:?}, O_PATH)");
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| SysError::new(call(), errno.raw_os_error()))?;
    if kind_of(opened.as_fd())? == Kind::Character(device_number(major, minor)) {
        Ok(opened)
    } else {
        Err(SysError::new(call(), libc::ENODEV))
    }
}

/// `mkdirat(dir, name, mode)`; one that is there already is no error.
pub fn make_directory(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> SysResult<()> {
    match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => {
            Err(SysError::new(format!("mkdirat({}, {name:?}, {mode:o})", dir.as_raw_fd()), errno.raw_os_error()))
        }
    }
}

/// `openat(dir, name, O_CREAT | O_EXCL | O_NOFOLLOW, mode)`: an empty file.
pub fn make_file(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> SysResult<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))
        .map(drop)
        .map_err(|errno| SysError::new(format!("openat({}, {name:?}, O_EXCL)", dir.as_raw_fd()), errno.raw_os_error()))
}

/// `openat(dir, name, O_PATH | O_NOFOLLOW)` of one component.
pub fn open_child(dir: BorrowedFd<'_>, name: &CStr) -> SysResult<OwnedFd> {
    openat2(
        dir,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

/// `symlinkat(target, dir, name)`; something that is there already stays.
pub fn make_link(dir: BorrowedFd<'_>, name: &CStr, target: &CStr) -> SysResult<()> {
    match rustix::fs::symlinkat(target, dir, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => {
            Err(SysError::new(format!("symlinkat({target:?}, {}, {name:?})", dir.as_raw_fd()), errno.raw_os_error()))
        }
    }
}

/// A device node to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// What it is: [`Kind::Character`] or [`Kind::Block`]; anything else is a named pipe.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// `mknodat`, `fchownat` of one component; the mode is less the umask. Something that is there already must be the same
/// device and keeps its mode, or it is `EEXIST`: a root's own `/dev/null` that is a link or a file is never taken for one.
pub fn make_node(dir: BorrowedFd<'_>, name: &CStr, node: Node) -> SysResult<()> {
    let failed = |what: &str, errno: Errno| {
        SysError::new(format!("{what}({}, {name:?}, {:?})", dir.as_raw_fd(), node.kind), errno.raw_os_error())
    };
    let (file_type, device) = match node.kind {
        Kind::Character(device) => (rustix::fs::FileType::CharacterDevice, device),
        Kind::Block(device) => (rustix::fs::FileType::BlockDevice, device),
        Kind::Directory | Kind::Link | Kind::Other => (rustix::fs::FileType::Fifo, 0),
    };
    match rustix::fs::mknodat(dir, name, file_type, Mode::from_raw_mode(node.mode), device) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed("fstatat", e))?;
            let same = match node.kind {
                Kind::Character(_) | Kind::Block(_) => kind(&stat) == node.kind,
                Kind::Directory | Kind::Link | Kind::Other => stat.st_mode & libc::S_IFMT == libc::S_IFIFO,
            };
            if !same {
                return Err(failed("mknodat", Errno::EXIST));
            }
        }
        Err(errno) => return Err(failed("mknodat", errno)),
    }
    // No chmod follows: it would walk a link that somebody who shares the directory has put there meanwhile.
    if (node.uid, node.gid) != (0, 0) {
        let owner = Some(rustix::fs::Uid::from_raw(node.uid));
        let group = Some(rustix::fs::Gid::from_raw(node.gid));
        rustix::fs::chownat(dir, name, owner, group, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed("fchownat", e))?;
    }
    Ok(())
}

/// `fchown(fd, uid, -1)`: ignores files that can't be given away.
pub fn give_to(file: BorrowedFd<'_>, uid: u32) -> SysResult<()> {
    match rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(uid)), None) {
        Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => Ok(()),
        Err(errno) => Err(SysError::new(format!("fchown({}, {uid})", file.as_raw_fd()), errno.raw_os_error())),
    }
}

/// `fchown(fd, uid, gid)`.
pub fn give_pipe_to(pipe: BorrowedFd<'_>, uid: u32, gid: u32) -> SysResult<()> {
    rustix::fs::fchown(pipe, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)))
        .map_err(|errno| SysError::new(format!("fchown({}, {uid}, {gid})", pipe.as_raw_fd()), errno.raw_os_error()))
}

/// `fstatfs(fd)`: the file system's magic number.
pub fn filesystem_magic(file: BorrowedFd<'_>) -> SysResult<i64> {
    rustix::fs::fstatfs(file)
        .map(|stat| stat.f_type)
        .map_err(|errno| SysError::new(format!("fstatfs({})", file.as_raw_fd()), errno.raw_os_error()))
}

/// A path's bytes with a NUL at the end; `EINVAL` when it has one within.
pub fn c_path(path: &OsStr) -> SysResult<CString> {
    CString::new(path.as_bytes()).map_err(|_| SysError::new(format!("open({path:?})"), libc::EINVAL))
}

#[cfg(test)]
mod tests;
