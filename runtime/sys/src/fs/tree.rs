//! Whole directory trees: removing one. One descriptor and no recursion, so that neither the depth that a
//! stranger chose nor the limit on open files matters. No link is followed, no mount is crossed.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::{Kind, Open, Removal, Resolve, fstat, fstatat, openat, openat2, read_directory, unlinkat};
use crate::{SysError, SysResult};

/// One directory on the way down: its own name, what identifies it, and what is still to be visited in it.
struct Level {
    name: OsString,
    identity: (u64, u64),
    pending: Vec<OsString>,
}

/// Goes from `here` into its subdirectory.
fn descend(here: &OwnedFd, name: &Path) -> SysResult<OwnedFd> {
    let how = Open::READ | Open::DIRECTORY | Open::NO_FOLLOW;
    openat2(here, name, how, 0, Resolve::BENEATH | Resolve::NO_SYMLINKS | Resolve::NO_CROSSING)
}

/// Goes from `here` back up into the directory that `level` describes.
fn ascend(here: &OwnedFd, level: &Level) -> SysResult<OwnedFd> {
    let up = openat(here, "..", Open::READ | Open::DIRECTORY, 0)?;
    let found = fstat(&up)?;
    // Somebody moved the directory that we stand in: "up" is a stranger's directory now.
    if (found.device, found.inode) != level.identity {
        return Err(SysError::new(format!("openat(.., {:?})", level.name), libc::ESTALE));
    }
    Ok(up)
}

fn level(name: OsString, directory: &OwnedFd, pending: Vec<OsString>) -> SysResult<Level> {
    let found = fstat(directory)?;
    Ok(Level { name, identity: (found.device, found.inode), pending })
}

/// Removes `name` below `at` and all that is in it. Nothing there is success.
///
/// # Errors
/// The first call that failed; `EXDEV` where something is mounted in the tree. What came before is gone.
pub fn remove_tree(at: impl AsFd, name: impl AsRef<Path>) -> SysResult<()> {
    let (at, name) = (at.as_fd(), name.as_ref());
    match fstatat(at, name) {
        Err(error) if error.errno() == libc::ENOENT => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if found.kind != Kind::Directory => return unlinkat(at, name, Removal::File),
        Ok(_) => {}
    }
    let mut here = openat(at, name, Open::READ | Open::DIRECTORY | Open::NO_FOLLOW, 0)?;
    let pending = remove_files(&here)?;
    let mut levels = vec![level(name.as_os_str().to_owned(), &here, pending)?];
    loop {
        let Some(top) = levels.last_mut() else { return Ok(()) };
        if let Some(child) = top.pending.pop() {
            let below = descend(&here, Path::new(&child))?;
            let pending = remove_files(&below)?;
            levels.push(level(child, &below, pending)?);
            here = below;
        } else if let Some(done) = levels.pop() {
            match levels.last() {
                Some(parent) => {
                    here = ascend(&here, parent)?;
                    unlinkat(&here, Path::new(&done.name), Removal::Directory)?;
                }
                None => return unlinkat(at, name, Removal::Directory),
            }
        }
    }
}

/// Unlinks everything in a directory but the directories, whose names it answers with.
fn remove_files(directory: &OwnedFd) -> SysResult<Vec<OsString>> {
    let mut pending = Vec::new();
    for entry in read_directory(directory)? {
        if entry.kind == Kind::Directory {
            pending.push(entry.name);
        } else {
            unlinkat(directory, Path::new(&entry.name), Removal::File)?;
        }
    }
    Ok(pending)
}
