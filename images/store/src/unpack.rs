//! A layer's archive becomes a directory tree that overlayfs takes as a lower directory.
//!
//! The tree is made inside a directory of our own that nobody else enters (0700 above it), through descriptors. A name's
//! directories are resolved in that root, links included; the last component is never followed. What the archive says
//! about lower layers becomes overlayfs's words: a whiteout is a character device 0:0, an opaque directory has
//! `trusted.overlay.opaque`. So a layer doesn't depend on those below it: layers unpack side by side and are shared.
//! What does depend on them (directories that the archive implies, hard links to lower files) is noted and settled once the
//! whole image is here.
//!
//! Whiteouts speak of the layers below alone (OCI image specification, "Whiteouts"): what the same layer brings under
//! that name stays, and a directory that it brings is opaque. An opaque marker costs one attribute, however large the
//! directory is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::io::{self, BufRead, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use runtime_sys::SysError;
use runtime_sys::fs::{self as sys, Kind, Node, Open, Removal, Time};

use crate::limits::{DIRECTORY_NAME_BYTES_MAX, LAYER_ENTRIES_MAX, PATH_BYTES_MAX};
use crate::store::RootAttributes;
use crate::tar::{Archive, Entry, EntryKind, Sparse, TarError};

mod attributes;
mod name;
mod walk;

use attributes::XattrError;
pub(crate) use name::NameError;
use name::{Marker, Name, marker};
use walk::{Here, Made, WalkError};

/// What an unpacked layer is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Unpacked {
    /// Bytes on disk, about: files rounded up to blocks, and a block per directory.
    pub(crate) bytes: u64,
    /// Files and directories.
    pub(crate) inodes: u64,
    /// What the archive says of its root.
    pub(crate) root: Option<RootAttributes>,
    /// The layers below aren't seen at all: overlayfs has no attribute for this at its root.
    pub(crate) root_opaque: bool,
    /// Directories that the archive doesn't list but puts something into, outermost first. They may stand in a layer
    /// below with other attributes.
    pub(crate) implied: Vec<Vec<u8>>,
    /// Hard links to what this layer doesn't have, with their targets: a layer below may have it. Nothing stands at the
    /// link's name.
    pub(crate) foreign: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A layer that isn't unpacked, and why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("entry \"{entry}\"")]
    Entry {
        /// Its name, escaped and cut.
        entry: String,
        #[source]
        problem: EntryProblem,
    },
    #[error("it has more than {LAYER_ENTRIES_MAX} entries")]
    Entries,
    #[error("the names of its directories take more than {DIRECTORY_NAME_BYTES_MAX} bytes")]
    DirectoryNames,
    #[error("its tree can't be finished")]
    Finish(#[source] SysError),
}

/// Why an entry isn't unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryProblem {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("its directory can't be reached")]
    Walk(#[from] WalkError),
    #[error("only a directory can be the root")]
    Root,
    #[error("the link's target is refused: {0}")]
    Target(&'static str),
    #[error("the hard link's target {target:?} can't be reached in this layer")]
    HardlinkTarget { target: String, source: WalkError },
    #[error(transparent)]
    Xattr(#[from] XattrError),
    #[error("its data can't be read")]
    Data(#[source] TarError),
    #[error("the kernel refused it")]
    Kernel(#[from] SysError),
    #[error("its data can't be written")]
    Write(#[source] io::Error),
}

/// Unpacks everything into `root`, an empty directory; what is replaced on the way is moved into `trash`.
pub(crate) fn unpack<R: BufRead>(
    archive: &mut Archive<R>,
    root: OwnedFd,
    trash: OwnedFd,
) -> Result<Unpacked, UnpackError> {
    let mut unpacker = Unpacker {
        here: Here::new(root),
        trash,
        trashed: 0,
        directories: Vec::new(),
        directory_name_bytes: 0,
        implied: BTreeSet::new(),
        foreign: BTreeMap::new(),
        result: Unpacked { inodes: 1, ..Unpacked::default() },
    };
    let mut entries = 0;
    while let Some(entry) = archive.next_entry()? {
        entries += 1;
        if entries > LAYER_ENTRIES_MAX {
            return Err(UnpackError::Entries);
        }
        if let Err(problem) = unpacker.entry(archive, &entry) {
            return Err(UnpackError::Entry { entry: shown(&entry.path), problem });
        }
        if unpacker.directory_name_bytes > DIRECTORY_NAME_BYTES_MAX {
            return Err(UnpackError::DirectoryNames);
        }
    }
    archive.finish()?;
    unpacker.finish()
}

/// A hostile name, fit for a message.
pub(crate) fn shown(name: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 200;
    let cut = &name[..name.len().min(SHOWN_BYTES_MAX)];
    format!("{}{}", cut.escape_ascii(), if cut.len() < name.len() { "…" } else { "" })
}

/// A component or path of bytes as the system calls take it.
pub(crate) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

struct Unpacker {
    here: Here,
    trash: OwnedFd,
    trashed: u64,
    /// Listed directories and the time that each gets once nothing is put into it any more.
    directories: Vec<(Vec<u8>, Time)>,
    directory_name_bytes: usize,
    /// See [`Unpacked::implied`]; those that stand in the archive after all go again.
    implied: BTreeSet<Vec<u8>>,
    /// See [`Unpacked::foreign`].
    foreign: BTreeMap<Vec<u8>, Vec<u8>>,
    result: Unpacked,
}

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const EISDIR: i32 = 21;

/// The block in which disk usage is estimated; what ext4, xfs and btrfs use.
const BLOCK_BYTES: u64 = 4096;

/// What overlayfs reads in a lower layer.
pub(crate) const OPAQUE: &std::ffi::CStr = c"trusted.overlay.opaque";

impl Unpacker {
    fn entry<R: BufRead>(&mut self, archive: &mut Archive<R>, entry: &Entry) -> Result<(), EntryProblem> {
        let name = Name::parse(&entry.path)?;
        let Some((parent, last)) = name.split() else { return self.root(entry) };
        let marker = marker(parent, last)?;
        if marker == Marker::Metadata {
            return Ok(());
        }
        if name.directory && entry.kind != EntryKind::Directory {
            return Err(NameError::Slash.into());
        }
        self.enter(parent)?;
        match (marker, &entry.kind) {
            (Marker::None, EntryKind::Regular) => self.regular(archive, entry, last),
            (Marker::None, EntryKind::Directory) => self.directory(entry, last),
            (Marker::None, EntryKind::Symlink(target)) => self.symlink(entry, last, target),
            (Marker::None, EntryKind::Hardlink(target)) => self.hardlink(parent, last, target),
            (Marker::None, EntryKind::Fifo) => self.node(entry, last, Node::Fifo),
            // Overlayfs's own whiteout, from a tool that packs an upper directory as it is: it means the same.
            (Marker::None, EntryKind::Character(0, 0)) => self.whiteout(last),
            (Marker::None, EntryKind::Character(major, minor)) => {
                self.node(entry, last, Node::Character { major: *major, minor: *minor })
            }
            (Marker::None, EntryKind::Block(major, minor)) => {
                self.node(entry, last, Node::Block { major: *major, minor: *minor })
            }
            (Marker::Opaque, EntryKind::Regular) => self.opaque(),
            (Marker::Whiteout(hidden), EntryKind::Regular) => self.whiteout(hidden),
            (Marker::Opaque | Marker::Whiteout(_) | Marker::Metadata, _kind) => Err(NameError::Reserved.into()),
        }
    }

    /// Makes `parent` the directory that the next calls work in.
    fn enter(&mut self, parent: &[&[u8]]) -> Result<(), EntryProblem> {
        for made in self.here.enter(parent)? {
            self.result.inodes += 1;
            self.result.bytes += BLOCK_BYTES;
            let (Made::Implied(path) | Made::Afresh(path)) = &made;
            self.directory_name_bytes += path.len();
            if let Made::Implied(path) = made {
                self.implied.insert(path);
            }
        }
        Ok(())
    }

    fn root(&mut self, entry: &Entry) -> Result<(), EntryProblem> {
        if entry.kind != EntryKind::Directory {
            return Err(EntryProblem::Root);
        }
        self.enter(&[])?;
        let root = sys::openat(self.here.directory(), ".", Open::READ | Open::DIRECTORY, 0)?;
        self.result.root = Some(RootAttributes { mode: entry.mode, uid: entry.uid, gid: entry.gid });
        self.directory_attributes(&root, entry)
    }

    fn opaque(&mut self) -> Result<(), EntryProblem> {
        if self.here.is_root() {
            self.result.root_opaque = true;
            return Ok(());
        }
        Ok(sys::fsetxattr(self.here.directory(), OPAQUE, b"y")?)
    }

    fn whiteout(&mut self, hidden: &[u8]) -> Result<(), EntryProblem> {
        let here = self.here.directory();
        let whiteout = Node::Character { major: 0, minor: 0 };
        match sys::mknodat(here, path(hidden), whiteout, 0) {
            Err(error) if error.errno() == EEXIST => {}
            made => {
                self.result.inodes += 1;
                return Ok(made?);
            }
        }
        // What this layer brings itself hides what is below; only a directory would let it through.
        if sys::fstatat(here, path(hidden))?.kind == Kind::Directory {
            let how = Open::READ | Open::DIRECTORY | Open::NO_FOLLOW;
            sys::fsetxattr(sys::openat(here, path(hidden), how, 0)?, OPAQUE, b"y")?;
            let name = self.here.join(hidden);
            self.implied.remove(&name);
        }
        Ok(())
    }

    fn regular<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        entry: &Entry,
        last: &[u8],
    ) -> Result<(), EntryProblem> {
        const FRESH: &str = "a name that was just cleared is free";
        let how = Open::WRITE | Open::CREATE | Open::EXCLUSIVE | Open::NO_FOLLOW;
        let mut made = None;
        self.place(last, |here| {
            made = Some(sys::openat(here, path(last), how, 0o600)?);
            Ok(())
        })?;
        let mut file = std::fs::File::from(made.expect(FRESH));
        if let Some(sparse) = &entry.sparse {
            write_pieces(archive, &file, sparse)?;
        }
        // Of a file with holes, nothing is left.
        loop {
            let chunk = archive.chunk().map_err(EntryProblem::Data)?;
            if chunk.is_empty() {
                break;
            }
            file.write_all(chunk).map_err(EntryProblem::Write)?;
            let length = chunk.len();
            archive.consume(length);
        }
        self.result.bytes = self.result.bytes.saturating_add(entry.size_bytes.next_multiple_of(BLOCK_BYTES));
        sys::fchown(&file, entry.uid, entry.gid)?;
        attributes::set(&file, Kind::Regular, &entry.xattrs)?;
        // After the owner, whose change takes set-user-id bits away.
        sys::fchmod(&file, entry.mode)?;
        Ok(sys::futimens(&file, time(entry))?)
    }

    fn directory(&mut self, entry: &Entry, last: &[u8]) -> Result<(), EntryProblem> {
        let here = self.here.directory();
        let mut replaced = false;
        match sys::mkdirat(here, path(last), 0o700) {
            Err(error) if error.errno() == EEXIST => {
                if sys::fstatat(here, path(last))?.kind != Kind::Directory {
                    self.clear(last)?;
                    sys::mkdirat(self.here.directory(), path(last), 0o700)?;
                    replaced = true;
                }
            }
            made => made?,
        }
        let how = Open::READ | Open::DIRECTORY | Open::NO_FOLLOW;
        let made = sys::openat(self.here.directory(), path(last), how, 0)?;
        // It stands where a whiteout or a file of this layer stood, which hid what lies below.
        if replaced {
            sys::fsetxattr(&made, OPAQUE, b"y")?;
        }
        self.result.inodes += 1;
        self.result.bytes += BLOCK_BYTES;
        let name = self.here.join(last);
        self.directory_name_bytes += name.len();
        self.implied.remove(&name);
        self.foreign.remove(&name);
        self.directories.push((name, time(entry)));
        self.directory_attributes(&made, entry)
    }

    fn directory_attributes(&mut self, directory: &OwnedFd, entry: &Entry) -> Result<(), EntryProblem> {
        sys::fchown(directory, entry.uid, entry.gid)?;
        attributes::set(directory, Kind::Directory, &entry.xattrs)?;
        Ok(sys::fchmod(directory, entry.mode)?)
    }

    fn symlink(&mut self, entry: &Entry, last: &[u8], target: &[u8]) -> Result<(), EntryProblem> {
        if target.is_empty() {
            return Err(EntryProblem::Target("it is empty"));
        }
        if target.len() > PATH_BYTES_MAX || target.contains(&0) {
            return Err(EntryProblem::Target("it is too long, or has NUL in it"));
        }
        attributes::check(&entry.xattrs)?;
        self.place(last, |here| sys::symlinkat(path(target), here, path(last)))?;
        let here = self.here.directory();
        sys::fchownat(here, path(last), entry.uid, entry.gid)?;
        Ok(sys::utimensat(here, path(last), time(entry))?)
    }

    fn hardlink(&mut self, parent: &[&[u8]], last: &[u8], target: &[u8]) -> Result<(), EntryProblem> {
        let unreachable = |source| EntryProblem::HardlinkTarget { target: shown(target), source };
        let name = Name::parse(target).map_err(|error| match error {
            NameError::Up => EntryProblem::Target("it has `..` in it"),
            _other => EntryProblem::Target("it is no name"),
        })?;
        let (target_parent, target_last) = name.split().ok_or(EntryProblem::Target("it is the root"))?;
        if parent == target_parent && last == target_last {
            return Err(EntryProblem::Target("it is the link itself"));
        }
        let from = self.here.existing(target_parent);
        let found = from.and_then(|from| {
            let found = sys::fstatat(&from, path(target_last))?;
            Ok((from, found))
        });
        let (from, found) = match found {
            Err(WalkError::Missing) => return self.foreign(last, &name),
            Err(WalkError::Kernel(error)) if error.errno() == ENOENT => return self.foreign(last, &name),
            found => found.map_err(unreachable)?,
        };
        if !matches!(found.kind, Kind::Regular | Kind::Symlink) {
            return Err(EntryProblem::Target("it is neither a file nor a symbolic link"));
        }
        // The same file by another way (a linked directory): clearing the place would take the target away.
        if let Ok(there) = sys::fstatat(self.here.directory(), path(last))
            && (there.device, there.inode) == (found.device, found.inode)
        {
            return Ok(());
        }
        self.result.inodes = self.result.inodes.saturating_sub(1);
        self.place(last, |here| sys::linkat(&from, path(target_last), here, path(last)))
    }

    /// A hard link to what this layer doesn't have: the layers below are asked once they are known.
    fn foreign(&mut self, last: &[u8], target: &Name<'_>) -> Result<(), EntryProblem> {
        match sys::fstatat(self.here.directory(), path(last)) {
            Err(error) if error.errno() == ENOENT => {}
            found => {
                found?;
                self.clear(last)?;
            }
        }
        let link = self.here.join(last);
        let target = target.path();
        // A link to such a link: both are names of the same file.
        let target = self.foreign.get(&target).cloned().unwrap_or(target);
        if target == link {
            return Err(EntryProblem::Target("it is the link itself"));
        }
        self.directory_name_bytes += link.len() + target.len();
        self.foreign.insert(link, target);
        Ok(())
    }

    fn node(&mut self, entry: &Entry, last: &[u8], node: Node) -> Result<(), EntryProblem> {
        attributes::check(&entry.xattrs)?;
        self.place(last, |here| sys::mknodat(here, path(last), node, 0o600))?;
        let here = self.here.directory();
        sys::fchownat(here, path(last), entry.uid, entry.gid)?;
        sys::fchmodat(here, path(last), entry.mode)?;
        Ok(sys::utimensat(here, path(last), time(entry))?)
    }

    /// Makes something that isn't a directory; what stands there goes first.
    fn place(
        &mut self,
        last: &[u8],
        mut make: impl FnMut(&OwnedFd) -> Result<(), SysError>,
    ) -> Result<(), EntryProblem> {
        match make(self.here.directory()) {
            Err(error) if error.errno() == EEXIST => {
                self.clear(last)?;
                make(self.here.directory())?;
            }
            made => made?,
        }
        self.result.inodes += 1;
        if !self.foreign.is_empty() {
            let name = self.here.join(last);
            self.foreign.remove(&name);
        }
        Ok(())
    }

    /// Takes away what stands at a name. A directory is moved aside, not emptied: that would cost its whole size each time.
    fn clear(&mut self, last: &[u8]) -> Result<(), EntryProblem> {
        let here = self.here.directory();
        match sys::unlinkat(here, path(last), Removal::File) {
            Err(error) if error.errno() == EISDIR => {
                let aside = self.trashed.to_string();
                sys::renameat2(here, path(last), &self.trash, &aside, sys::RenameMode::Refuse)?;
                self.trashed += 1;
            }
            gone => gone?,
        }
        // The way to the current directory may have led through what is gone.
        self.here.forget();
        Ok(())
    }

    /// Sets the times of directories, now that nothing is put into them.
    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        for (directory, time) in std::mem::take(&mut self.directories) {
            let name = Name::parse(&directory).map_err(|_name| UnpackError::DirectoryNames)?;
            let Some((parent, last)) = name.split() else { continue };
            // One that was replaced later by something else has no time of its own any more.
            let Ok(here) = self.here.existing_listed(parent) else { continue };
            let how = Open::READ | Open::DIRECTORY | Open::NO_FOLLOW;
            if let Ok(found) = sys::openat(here, path(last), how, 0) {
                sys::futimens(&found, time).map_err(UnpackError::Finish)?;
            }
        }
        self.result.implied = self.implied.into_iter().collect();
        self.result.foreign = self.foreign.into_iter().collect();
        Ok(self.result)
    }
}

/// Writes the data of a file with holes where they belong.
fn write_pieces<R: BufRead>(
    archive: &mut Archive<R>,
    file: &std::fs::File,
    sparse: &Sparse,
) -> Result<(), EntryProblem> {
    sys::ftruncate(file, sparse.real_bytes)?;
    for (offset, bytes) in &sparse.fragments {
        let (mut at, mut left) = (*offset, *bytes);
        while left > 0 {
            let chunk = archive.chunk().map_err(EntryProblem::Data)?;
            if chunk.is_empty() {
                break;
            }
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            file.write_all_at(&chunk[..length], at).map_err(EntryProblem::Write)?;
            archive.consume(length);
            let length = u64::try_from(length).unwrap_or(left);
            at += length;
            left -= length;
        }
    }
    Ok(())
}

fn time(entry: &Entry) -> Time {
    Time { seconds: entry.modified.0, nanos: entry.modified.1 }
}

/// The name of an extended attribute as the kernel takes it.
fn c_name(name: &[u8]) -> Option<CString> {
    CString::new(name).ok()
}

#[cfg(test)]
mod tests;
