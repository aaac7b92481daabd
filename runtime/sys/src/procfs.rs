//! `/proc`: a private handle for reads and writes that nothing mounted over `/proc` can divert, and the mount table.

use std::ffi::{CStr, OsString};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{SysError, SysResult};
use crate::mount::{self, Attributes, Depth, Propagation};
use crate::process::{self, Namespaces};
use crate::rootfs::filesystem_magic;

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// The inode of procfs's top: the kernel's `PROC_ROOT_INO`.
const PROC_ROOT_INODE: u64 = 1;

/// A procfs of our own, attached nowhere: no mount over `/proc/sys` or `/proc/self/attr` is in it.
#[derive(Debug)]
pub struct ProcHandle(OwnedFd);

impl ProcHandle {
    /// `fsopen("proc")`, `fsmount`: of the caller's process-id namespace. Where the kernel refuses (a user namespace without
    /// a full `/proc`), `/proc` itself, if it is one.
    pub fn new() -> SysResult<Self> {
        let attributes = Attributes::NO_SUID.and(Attributes::NO_DEV).and(Attributes::NO_EXEC);
        let root = match mount::new_filesystem(c"proc", &[], attributes) {
            Ok(root) => root,
            Err(_) => crate::rootfs::open_host_directory(c"/proc")?,
        };
        if filesystem_magic(root.as_fd())? != PROC_SUPER_MAGIC {
            return Err(SysError::new("open(\"/proc\"): is no procfs", libc::ENODEV));
        }
        Ok(Self(root))
    }

    /// Opens a file below it: `self/ns/net` (the one place where a magic link is followed: its last component).
    pub fn open_namespace(&self, path: &CStr) -> SysResult<OwnedFd> {
        rustix::fs::openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| SysError::new(format!("openat(proc, {path:?})"), errno.raw_os_error()))
    }

    /// Writes a file below it, in one write: `sys/net/ipv4/ip_forward`, `self/oom_score_adj`. No link is followed but
    /// `self`, which is procfs's own.
    pub fn write(&self, path: &CStr, value: &[u8]) -> SysResult<()> {
        let file = self.open(path, OFlags::WRONLY)?;
        match rustix::io::write(&file, value) {
            Ok(written) if written == value.len() => Ok(()),
            Ok(_) => Err(SysError::new(format!("write(proc/{path:?})"), libc::EIO)),
            Err(errno) => Err(SysError::new(
                format!("write(proc/{path:?}, {:?})", String::from_utf8_lossy(value)),
                errno.raw_os_error(),
            )),
        }
    }

    /// Reads a small file below it.
    pub fn read(&self, path: &CStr) -> SysResult<String> {
        let file = self.open(path, OFlags::RDONLY)?;
        let mut buffer = [0; 4096];
        let count = rustix::io::read(&file, &mut buffer)
            .map_err(|errno| SysError::new(format!("read(proc/{path:?})"), errno.raw_os_error()))?;
        Ok(String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned())
    }

    fn open(&self, path: &CStr, flags: OFlags) -> SysResult<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened =
            rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)
                .map_err(|errno| SysError::new(format!("openat2(proc, {path:?})"), errno.raw_os_error()))?;
        if filesystem_magic(opened.as_fd())? != PROC_SUPER_MAGIC {
            return Err(SysError::new(format!("openat2(proc, {path:?}): is no procfs"), libc::EXDEV));
        }
        Ok(opened)
    }
}

impl AsFd for ProcHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `fsconfig(fs, FSCONFIG_SET_FD, "pidns", …)`: a procfs of the process-id namespace of the caller's later children
/// (`setns`), as a tree. It is made from outside: nobody in there sees who makes it. `None` before Linux 6.18.
pub fn of_children(proc: &ProcHandle, attributes: Attributes) -> SysResult<Option<OwnedFd>> {
    let namespace = proc.open_namespace(CHILDREN)?;
    let fs = mount::fsopen(c"proc")?;
    match mount::fsconfig_descriptor(fs.as_fd(), c"pidns", namespace.as_fd()) {
        Ok(()) => mount::fsmount(fs.as_fd(), attributes).map(Some),
        Err(error) if error.errno() == libc::EINVAL => Ok(None),
        Err(error) => Err(error),
    }
}

/// The process-id namespace that the caller's later children are born in.
const CHILDREN: &CStr = c"self/ns/pid_for_children";

/// `setns(process, CLONE_NEWNS)`, `open_tree("/proc", OPEN_TREE_CLONE)`: the same by copying what a process of that
/// namespace has as `/proc`, without what it has mounted in it. Nothing there is trusted: `ESTALE` for what is not the top
/// of a procfs of the very namespace. Afterwards the caller is in the process's mount namespace.
pub fn of_children_as_seen_by(
    process: BorrowedFd<'_>,
    proc: &ProcHandle,
    attributes: Attributes,
) -> SysResult<OwnedFd> {
    process::setns(process, Namespaces::MOUNT)?;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::openat2(rustix::fs::CWD, c"/proc", flags, Mode::empty(), resolve)
        .map_err(|errno| SysError::new("openat2(\"/proc\") of another process", errno.raw_os_error()))?;
    let tree = mount::clone_tree_at(place.as_fd(), Depth::One)?;
    let wrong = || SysError::new("open_tree(\"/proc\"): is no procfs of those processes", libc::ESTALE);
    let stat =
        |file: BorrowedFd<'_>| rustix::fs::fstat(file).map_err(|errno| SysError::new("fstat()", errno.raw_os_error()));
    if filesystem_magic(tree.as_fd())? != PROC_SUPER_MAGIC || stat(tree.as_fd())?.st_ino != PROC_ROOT_INODE {
        return Err(wrong());
    }
    // Whoever is 1 in it is the first process of the namespace that it shows; one that can't be looked at isn't the target's.
    let first =
        rustix::fs::openat(&tree, c"1/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|_| wrong())?;
    let (shown, wanted) = (stat(first.as_fd())?, stat(proc.open_namespace(CHILDREN)?.as_fd())?);
    if (shown.st_dev, shown.st_ino) != (wanted.st_dev, wanted.st_ino) {
        return Err(wrong());
    }
    mount::set_attributes(tree.as_fd(), Depth::One, attributes, Attributes::NONE, Some(Propagation::Private))?;
    Ok(tree)
}

/// `write(fd, bytes)` in one call, for control files.
pub(crate) fn write_once(file: OwnedFd, what: &dyn Fn() -> String, value: &[u8]) -> SysResult<()> {
    let number = file.as_raw_fd();
    fs::File::from(file).write(value).map(drop).map_err(|error| {
        SysError::from_io(format!("write({number} {}, {:?})", what(), String::from_utf8_lossy(value)), &error)
    })
}

/// One line of `/proc/PID/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's number.
    pub id: u64,
    /// The number of the mount that it is attached to.
    pub parent: u64,
    /// Which directory of the file system is its top.
    pub root: PathBuf,
    /// Where it is attached, as seen from the reading process's root.
    pub mount_point: PathBuf,
    /// Options of the mount: `ro,nosuid`.
    pub options: String,
    /// Propagation: `shared:1`, `master:2`; empty when private.
    pub propagation: Vec<String>,
    /// Type of the file system.
    pub filesystem: String,
    /// What it was mounted from.
    pub source: String,
    /// Options of the file system: `rw,cpu,cpuacct`.
    pub super_options: String,
}

/// Most bytes of a mount table that are read; at about 150 bytes a line that is 400,000 mounts.
pub const MOUNTINFO_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The mount table of the calling process, from `/proc/self/mountinfo`.
pub fn mounts() -> SysResult<Vec<Mount>> {
    const PATH: &str = "/proc/self/mountinfo";
    let failed = |error: &std::io::Error| SysError::from_io(format!("read({PATH:?})"), error);
    let file = fs::File::open(PATH).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MOUNTINFO_BYTES_MAX), &mut bytes)
        .map_err(|error| failed(&error))?;
    Ok(parse_mounts(&bytes))
}

/// Lines that don't parse are left out: the kernel writes none.
fn parse_mounts(bytes: &[u8]) -> Vec<Mount> {
    bytes.split(|byte| *byte == b'\n').filter_map(parse_mount).collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut text = || fields.next().map(|field| String::from_utf8_lossy(field).into_owned());
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    text()?;
    let root = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    let mut text = || fields.next().map(|field| String::from_utf8_lossy(&unescape(field)).into_owned());
    let options = text()?;
    let mut propagation = Vec::new();
    loop {
        match text()?.as_str() {
            "-" => break,
            tag => propagation.push(tag.to_owned()),
        }
    }
    let (filesystem, source, super_options) = (text()?, text()?, text()?);
    Some(Mount { id, parent, root, mount_point, options, propagation, filesystem, source, super_options })
}

/// Blank, tab, line feed and backslash are written as `\040` and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut left = field;
    while let Some((first, rest)) = left.split_first() {
        let octal = match (first, rest) {
            (b'\\', [a, b, c, ..]) => {
                std::str::from_utf8(&[*a, *b, *c]).ok().and_then(|s| u8::from_str_radix(s, 8).ok())
            }
            _ => None,
        };
        match octal {
            Some(byte) => {
                plain.push(byte);
                left = &rest[3..];
            }
            None => {
                plain.push(*first);
                left = rest;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_blanks_and_tags() {
        let line = b"36 35 98:0 /a\\040b /mnt\\134x rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n";
        let [mount] = parse_mounts(line).try_into().expect("one line");
        assert_eq!((mount.id, mount.parent), (36, 35));
        assert_eq!(mount.root, PathBuf::from("/a b"));
        assert_eq!(mount.mount_point, PathBuf::from("/mnt\\x"));
        assert_eq!(mount.propagation, ["master:1", "shared:2"]);
        assert_eq!((mount.filesystem.as_str(), mount.super_options.as_str()), ("ext3", "rw,errors=continue"));
    }

    #[test]
    fn broken_lines_are_left_out() {
        assert!(parse_mounts(b"x\n1 2 3\n36 35 98:0 / / rw master:1\n").is_empty());
    }

    #[test]
    fn our_own_table_has_a_root() {
        assert!(mounts().expect("reads").iter().any(|mount| mount.mount_point == *"/"));
    }

    #[test]
    fn the_private_handle_reads_what_proc_says() {
        let handle = ProcHandle::new().expect("opens");
        assert_eq!(
            handle.read(c"sys/kernel/ostype").expect("reads"),
            fs::read_to_string("/proc/sys/kernel/ostype").expect("reads")
        );
        assert!(handle.write(c"../etc/passwd", b"x").is_err());
    }

    /// Runs it in a process with one thread; its error is the test's.
    fn in_a_fork(body: impl FnOnce() -> Result<(), String>) {
        let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
        // SAFETY: the child runs `body` and ends; the C library gives it an allocator that works.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let end = body();
            drop(writer.write_all(end.err().unwrap_or_else(|| "fine".to_owned()).as_bytes()));
            // SAFETY: ends the child without what the test program does at its end.
            unsafe { libc::_exit(0) };
        }
        drop(writer);
        let said = std::io::read_to_string(&mut reader).expect("reads");
        // SAFETY: a child of our own that was not waited for; no status is wanted.
        assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
        assert_eq!(said, "fine");
    }

    /// A process in new process-id and mount namespaces that has this at `/proc`, and more in it.
    fn target(change: impl FnOnce() -> SysResult<()>) -> Result<process::Child, String> {
        let (ready, said) = std::io::pipe().map_err(|error| error.to_string())?;
        let child = process::clone3(Namespaces::PID.and(Namespaces::MOUNT), None, || {
            if mount::set_propagation_of_all(Propagation::Private).and_then(|()| change()).is_ok() {
                drop((&said).write_all(b"R"));
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
            1
        })
        .map_err(|error| error.to_string())?;
        // The child has the other end.
        drop(said);
        let mut word = [0];
        match std::io::Read::read(&mut &ready, &mut word) {
            Ok(1) => Ok(child),
            _ => Err("the target could not be made".to_owned()),
        }
    }

    /// Whose processes it shows, and whether a file is whole that a target may have covered.
    fn seen(tree: &OwnedFd) -> SysResult<(Vec<u32>, bool)> {
        let failed = |error: std::io::Error| SysError::from_io("read()", &error);
        mount::enter_directory(tree.as_fd())?;
        let names = fs::read_dir(".").map_err(failed)?.flatten();
        let numbers = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        let version = fs::read_to_string("version").map_err(failed)?;
        Ok((numbers, version.starts_with("Linux")))
    }

    fn bind(from: &CStr, onto: &CStr) -> SysResult<()> {
        let onto = crate::rootfs::open_host_directory(onto)?;
        mount::attach(mount::clone_tree(from, Depth::One)?.as_fd(), onto.as_fd())
    }

    fn new_proc() -> SysResult<()> {
        let onto = crate::rootfs::open_host_directory(c"/proc")?;
        mount::attach(mount::new_filesystem(c"proc", &[], Attributes::NONE)?.as_fd(), onto.as_fd())
    }

    type Way = fn(&process::Child, &ProcHandle) -> SysResult<Option<OwnedFd>>;

    fn check(change: fn() -> SysResult<()>, way: Way, expected: Result<(), i32>) {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        in_a_fork(|| {
            let text = |error: SysError| error.to_string();
            let proc = ProcHandle::new().map_err(text)?;
            let target = target(change)?;
            let joined = process::setns(target.pidfd.as_fd(), Namespaces::PID);
            let had = joined.and_then(|()| way(&target, &proc));
            let found = had.and_then(|tree| tree.as_ref().map(seen).transpose());
            drop(process::kill(target.pid, 9));
            drop(process::wait(target.pidfd.as_fd()));
            match (found, expected) {
                (Ok(None), Ok(())) => {
                    eprintln!("skipped: this kernel makes no procfs from outside");
                    Ok(())
                }
                (Ok(Some((processes, whole))), Ok(())) if processes == [1] && whole => Ok(()),
                (Err(error), Err(errno)) if error.errno() == errno => Ok(()),
                (found, _) => Err(format!("{found:?}")),
            }
        });
    }

    const MADE: Way = |_, proc| of_children(proc, Attributes::NO_SUID);
    const COPIED: Way =
        |target, proc| of_children_as_seen_by(target.pidfd.as_fd(), proc, Attributes::NO_SUID).map(Some);

    #[test]
    fn a_procfs_of_others_is_made_from_outside() {
        check(new_proc, MADE, Ok(()));
        // Whatever they made of their own.
        check(|| bind(c"/dev", c"/proc"), MADE, Ok(()));
    }

    #[test]
    fn a_procfs_of_others_is_copied_without_what_is_mounted_in_it() {
        check(new_proc, COPIED, Ok(()));
        let covered = || {
            new_proc()?;
            let null = crate::rootfs::open_host_device(c"/dev/null", 1, 3)?;
            let tree = mount::clone_tree_at(null.as_fd(), Depth::One)?;
            let version = rustix::fs::openat(rustix::fs::CWD, c"/proc/version", OFlags::PATH, Mode::empty())
                .map_err(|errno| SysError::new("openat()", errno.raw_os_error()))?;
            mount::attach(tree.as_fd(), version.as_fd())
        };
        check(covered, COPIED, Ok(()));
    }

    #[test]
    fn what_is_no_procfs_of_them_is_refused() {
        // The one of the namespace that they come from.
        check(|| Ok(()), COPIED, Err(libc::ESTALE));
        check(|| bind(c"/dev", c"/proc"), COPIED, Err(libc::ESTALE));
        let part = || new_proc().and_then(|()| bind(c"/proc/1/task", c"/proc"));
        check(part, COPIED, Err(libc::ESTALE));
        // One of others that they have made.
        let deeper = || {
            let (ours, theirs) = crate::sync::pair()?;
            process::unshare(Namespaces::PID)?;
            process::clone3(Namespaces::NONE, None, || {
                if new_proc().is_ok() {
                    drop(crate::sync::send(theirs.as_fd(), b"R"));
                    // SAFETY: waits for a signal.
                    unsafe { libc::pause() };
                }
                1
            })?;
            crate::sync::receive(ours.as_fd(), &mut [0]).map(drop)
        };
        check(deeper, COPIED, Err(libc::ESTALE));
    }
}
