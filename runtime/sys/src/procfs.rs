//! `/proc`: a private handle for reads and writes that nothing mounted over `/proc` can divert, and the mount table.

use std::ffi::{CStr, OsString};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{SysError, SysResult};
use crate::mount::{self, Attributes};
use crate::rootfs::filesystem_magic;

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

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
}
