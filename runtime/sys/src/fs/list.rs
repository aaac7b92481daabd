//! Directory listings.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::fs::RawDir;

use super::{Kind, Open, c_path, failed, fstatat, openat};
use crate::SysResult;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The name; never `.` or `..`.
    pub name: OsString,
    /// What it is, asked for again where the file system's listing doesn't say.
    pub kind: Kind,
    /// The inode's number.
    pub inode: u64,
}

/// `getdents64(directory)` to the end, through a descriptor of its own, so that `directory` may be a `PATH` one and its
/// position doesn't matter.
/// <https://man7.org/linux/man-pages/man2/getdents64.2.html>
///
/// # Errors
/// The kernel's number.
pub fn read_directory(directory: impl AsFd) -> SysResult<Vec<DirectoryEntry>> {
    const BUFFER_BYTES: usize = 32 * 1024;
    let listing = openat(directory.as_fd(), ".", Open::READ | Open::DIRECTORY, 0)?;
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); BUFFER_BYTES];
    let mut walk = RawDir::new(&listing, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|errno| failed(errno, || format!("getdents64({})", listing.as_raw_fd())))?;
        let name = c_path(entry.file_name());
        if matches!(name.as_os_str().as_encoded_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type().into() {
            Kind::Unknown => fstatat(&listing, name)?.kind,
            known => known,
        };
        entries.push(DirectoryEntry { name: name.as_os_str().to_owned(), kind, inode: entry.ino() });
    }
    Ok(entries)
}
