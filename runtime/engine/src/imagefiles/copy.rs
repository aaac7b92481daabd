//! Copies a directory of an image: what an image calls a volume begins with what the image has there.
//!
//! Files, directories and links are copied with owners, modes, times, `user.` attributes and, where ids mean the same,
//! capabilities. Device nodes, FIFOs and sockets are not, and a file with several names becomes several files.

use std::{
    collections::BTreeSet,
    ffi::{CStr, CString, OsString},
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use runtime_lifecycle::UserMode;
use runtime_sys::{
    SysError,
    fs::{
        Metadata, Open, Resolve, fchmod, fchown, fchownat, fgetxattr, flistxattr, fsetxattr, fstat, futimens, mkdirat,
        open, openat, openat2, read_directory, symlinkat,
    },
};

use super::{Found, Place, host_id, look, walk};

/// Most files and directories of one container: a thousand times what images usually have there.
const ENTRIES_MAX: u64 = 100_000;

/// Most bytes of one container, since they are written before the container is there: a database that comes with its data.
const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Deepest directory, each being open while those below are copied.
const DEPTH_MAX: u64 = 128;

/// What SELinux calls a file, as an attribute.
const SELINUX: &CStr = c"security.selinux";

/// Rights of a program, as an attribute.
const CAPABILITY: &CStr = c"security.capability";

/// Why a directory was not copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// The kernel's.
    #[error(transparent)]
    Kernel(#[from] SysError),
    /// Reading or writing a file.
    #[error("{path:?} of the image")]
    Contents { path: PathBuf, source: io::Error },
    /// A limit.
    #[error("the image has more in its volumes than {max} {what}")]
    TooMuch { what: &'static str, max: u64 },
}

/// What copies are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copies<'a> {
    /// Whose ids they have.
    pub(crate) user: UserMode,
    /// What SELinux calls them.
    pub(crate) label: Option<&'a str>,
}

/// How much was copied for one container.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Copied {
    entries: u64,
    bytes: u64,
}

impl Copied {
    /// Whether so much more may come.
    fn check(self, entries: usize, bytes: u64) -> Result<(), CopyError> {
        let entries = u64::try_from(entries).unwrap_or(u64::MAX);
        if self.entries.saturating_add(entries) > ENTRIES_MAX {
            return Err(CopyError::TooMuch { what: "files", max: ENTRIES_MAX });
        }
        if self.bytes.saturating_add(bytes) > BYTES_MAX {
            return Err(CopyError::TooMuch { what: "bytes", max: BYTES_MAX });
        }
        Ok(())
    }
}

/// Copies what the image made of `layers` (topmost first) has at `path` into the directory `into`, which is there and empty,
/// and makes that like the image's. Nothing happens where the image has no directory there.
pub(crate) fn copy(
    layers: &[PathBuf],
    path: &str,
    into: &Path,
    copies: Copies<'_>,
    copied: &mut Copied,
) -> Result<(), CopyError> {
    let roots =
        layers.iter().map(|layer| open(layer, Open::PATH | Open::DIRECTORY, 0)).collect::<Result<Vec<_>, _>>()?;
    let target = open(into, Open::READ | Open::DIRECTORY | Open::NO_FOLLOW, 0)?;
    let mut copying = Copying { roots: &roots, copies, copied };
    match walk(&roots, Path::new(path))? {
        Place::Directory { at, layers } => copying.directory(&at, &layers, &target, 0),
        Place::Nothing | Place::File { .. } => copying.label(&target),
    }
}

struct Copying<'a> {
    roots: &'a [OwnedFd],
    copies: Copies<'a>,
    copied: &'a mut Copied,
}

impl Copying<'_> {
    /// `target` gets what is in `at`, of which `layers` show something, and then its owner, mode and times.
    fn directory(&mut self, at: &Path, layers: &[usize], target: &OwnedFd, depth: u64) -> Result<(), CopyError> {
        if depth >= DEPTH_MAX {
            return Err(CopyError::TooMuch { what: "directories in each other", max: DEPTH_MAX });
        }
        let mut names: BTreeSet<OsString> = BTreeSet::new();
        for layer in layers {
            let listed = self.open(*layer, at, Open::READ | Open::DIRECTORY)?;
            names.extend(read_directory(&listed)?.into_iter().map(|entry| entry.name));
            self.copied.check(names.len(), 0)?;
        }
        for name in names {
            self.copied.check(1, 0)?;
            self.copied.entries += 1;
            let path = at.join(&name);
            match look(self.roots, layers, &path)? {
                Found::Nothing => {}
                Found::Directory(layers) => {
                    mkdirat(target, &name, 0o700)?;
                    let below = openat(target, &name, Open::READ | Open::DIRECTORY | Open::NO_FOLLOW, 0)?;
                    self.directory(&path, &layers, &below, depth + 1)?;
                }
                Found::Link(to) => self.link(&path, layers, &to, target, &name)?,
                Found::File(layer) => self.file(layer, &path, target, &name)?,
            }
        }
        let Some(topmost) = layers.first() else { return Ok(()) };
        let source = self.open(*topmost, at, Open::READ | Open::DIRECTORY)?;
        self.dress(&source, target)
    }

    fn open(&self, layer: usize, path: &Path, how: Open) -> Result<OwnedFd, SysError> {
        let path = if path == Path::new("") { Path::new(".") } else { path };
        openat2(&self.roots[layer], path, how | Open::NO_FOLLOW, 0, Resolve::IN_ROOT | Resolve::NO_SYMLINKS)
    }

    fn link(
        &self,
        path: &Path,
        layers: &[usize],
        to: &Path,
        target: &OwnedFd,
        name: &OsString,
    ) -> Result<(), CopyError> {
        symlinkat(to, target, name)?;
        // The topmost that has it is the one that was found.
        for layer in layers {
            if let Ok(found) = self.open(*layer, path, Open::PATH) {
                let (uid, gid) = self.owner(&fstat(&found)?);
                fchownat(target, name, uid, gid)?;
                break;
            }
        }
        Ok(())
    }

    fn file(&mut self, layer: usize, path: &Path, target: &OwnedFd, name: &OsString) -> Result<(), CopyError> {
        let source = self.open(layer, path, Open::READ | Open::NON_BLOCK)?;
        let length = fstat(&source)?.size_bytes;
        self.copied.check(0, length)?;
        self.copied.bytes += length;
        let made = openat(target, name, Open::WRITE | Open::CREATE | Open::EXCLUSIVE | Open::NO_FOLLOW, 0o600)?;
        let (source, made) = (File::from(source), File::from(made));
        // Layers don't change, but no more is taken than was counted.
        io::copy(&mut io::Read::take(&source, length), &mut &made)
            .map_err(|error| CopyError::Contents { path: path.to_owned(), source: error })?;
        self.dress(&source.into(), &made.into())
    }

    /// Owner, attributes, mode and times, in an order in which none undoes another.
    fn dress(&self, source: &OwnedFd, made: &OwnedFd) -> Result<(), CopyError> {
        let found = fstat(source)?;
        let (uid, gid) = self.owner(&found);
        fchown(made, uid, gid)?;
        for name in flistxattr(source)? {
            let Ok(name) = CString::new(name.into_encoded_bytes()) else { continue };
            // Those of a user namespace would name its ids.
            let wanted = name.to_bytes().starts_with(b"user.")
                || (name.as_c_str() == CAPABILITY && self.copies.user == UserMode::Node);
            if wanted && let Some(value) = fgetxattr(source, &name)? {
                fsetxattr(made, &name, &value)?;
            }
        }
        self.label(made)?;
        fchmod(made, found.mode)?;
        Ok(futimens(made, found.modified)?)
    }

    fn label(&self, made: &OwnedFd) -> Result<(), CopyError> {
        match self.copies.label {
            Some(label) => Ok(fsetxattr(made, SELINUX, label.as_bytes())?),
            None => Ok(()),
        }
    }

    /// Ids as the host has them; those that the pod has no word for are its root's.
    fn owner(&self, found: &Metadata) -> (u32, u32) {
        match self.copies.user {
            UserMode::Node => (found.uid, found.gid),
            UserMode::Pod(mappings) => (
                host_id(mappings.uids, found.uid).unwrap_or(mappings.uids.host),
                host_id(mappings.gids, found.gid).unwrap_or(mappings.gids.host),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
