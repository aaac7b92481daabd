//! What stands at a path in several layers, one on top of the other: overlayfs's view, without a mount.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::rc::Rc;

use runtime_sys::SysResult;
use runtime_sys::fs::{self as sys, Kind, Open, Resolve, Time};

use crate::disk::is_missing;
use crate::error::ChainError;
use crate::limits::{CHAIN_STEPS_MAX, LINKS_FOLLOWED_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};
use crate::unpack::{OPAQUE, path};

/// The steps that joining the layers of one image has cost.
#[derive(Debug, Default)]
pub(super) struct Budget(Cell<u64>);

impl Budget {
    pub(super) fn spend(&self, steps: usize) -> Result<(), ChainError> {
        let spent = self.0.get().saturating_add(u64::try_from(steps).unwrap_or(u64::MAX));
        self.0.set(spent);
        if spent > CHAIN_STEPS_MAX { Err(ChainError::Steps) } else { Ok(()) }
    }
}

/// The layers below one, seen as one tree. Paths are without links, relative, the root is empty.
pub(super) struct Below<'a> {
    store: &'a OwnedFd,
    /// Below the store's directory, the topmost first.
    trees: Vec<String>,
    budget: &'a Budget,
    /// Which trees a directory is made of.
    known: HashMap<Vec<u8>, Rc<[usize]>>,
}

/// What stands at a path.
pub(super) enum Seen {
    Nothing,
    /// Made of these trees, the topmost first.
    Directory(Rc<[usize]>),
    /// In this tree, with this target.
    Link(usize, Vec<u8>),
    /// A regular file in this tree.
    File(usize),
    Other,
}

impl<'a> Below<'a> {
    pub(super) fn new(store: &'a OwnedFd, trees: Vec<String>, budget: &'a Budget) -> Self {
        let root = (0..trees.len()).collect();
        Self { store, trees, budget, known: HashMap::from([(Vec::new(), root)]) }
    }

    /// Opens a directory of one tree.
    pub(super) fn open(&self, tree: usize, at: &[u8]) -> SysResult<OwnedFd> {
        self.open_as(tree, at, Open::READ | Open::DIRECTORY | Open::NO_FOLLOW)
    }

    fn open_as(&self, tree: usize, at: &[u8], how: Open) -> SysResult<OwnedFd> {
        let below = [self.trees[tree].as_bytes(), at].join(&b'/');
        let resolve = Resolve::BENEATH | Resolve::NO_SYMLINKS | Resolve::NO_CROSSING;
        sys::openat2(self.store, path(&below), how, 0, resolve)
    }

    /// The trees that the directory at a path is made of; none where there is no directory.
    pub(super) fn directory(&mut self, at: &[u8]) -> Result<Rc<[usize]>, ChainError> {
        if let Some(known) = self.known.get(at) {
            return Ok(known.clone());
        }
        let trees = match self.seen(at)? {
            Seen::Directory(trees) => trees,
            _no_directory => Rc::from([]),
        };
        self.known.insert(at.to_vec(), trees.clone());
        Ok(trees)
    }

    /// What stands at a path whose directories are no links.
    pub(super) fn seen(&mut self, at: &[u8]) -> Result<Seen, ChainError> {
        if let Some(known) = self.known.get(at).filter(|known| !known.is_empty()) {
            return Ok(Seen::Directory(known.clone()));
        }
        let Some((parent, _last)) = split(at) else { return Ok(Seen::Directory(self.directory(at)?)) };
        let mut merged = Vec::new();
        for tree in self.directory(parent)?.iter().copied() {
            self.budget.spend(1)?;
            let file = match self.open_as(tree, at, Open::PATH | Open::NO_FOLLOW) {
                Err(error) if is_missing(&error) => continue,
                file => file?,
            };
            let found = sys::fstat(&file)?;
            match found.kind {
                Kind::Directory => {
                    merged.push(tree);
                    if is_opaque(&self.open(tree, at)?)? {
                        break;
                    }
                }
                // Anything else ends a directory that is merged, and shows where there is none.
                _other if !merged.is_empty() => break,
                Kind::Character if found.special == (0, 0) => return Ok(Seen::Nothing),
                Kind::Symlink => return Ok(Seen::Link(tree, sys::readlinkat(&file, "")?)),
                Kind::Regular => return Ok(Seen::File(tree)),
                _other => return Ok(Seen::Other),
            }
        }
        if merged.is_empty() {
            return Ok(Seen::Nothing);
        }
        let merged: Rc<[usize]> = merged.into();
        self.known.insert(at.to_vec(), merged.clone());
        Ok(Seen::Directory(merged))
    }

    /// Where a path with links leads from a directory, inside the root; what is missing counts as directories to be made.
    /// `None`: not to a directory.
    pub(super) fn resolve(&mut self, from: &[u8], target: &[u8]) -> Result<Option<Vec<u8>>, ChainError> {
        let components = |path: &[u8]| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let start = if target.starts_with(b"/") { b"" } else { from };
        let mut behind: Vec<Vec<u8>> = components(start).into_iter().filter(|name| !name.is_empty()).collect();
        let mut ahead: VecDeque<Vec<u8>> = components(target).into();
        let mut links = 0;
        while let Some(component) = ahead.pop_front() {
            self.budget.spend(1)?;
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    // Above the root is the root.
                    behind.pop();
                    continue;
                }
                _name => behind.push(component),
            }
            let at = behind.join(&b'/');
            if behind.len() > PATH_DEPTH_MAX || at.len() > PATH_BYTES_MAX {
                return Ok(None);
            }
            match self.seen(&at)? {
                Seen::Nothing | Seen::Directory(_) => {}
                Seen::Link(_tree, target) => {
                    links += 1;
                    if links > LINKS_FOLLOWED_MAX {
                        return Ok(None);
                    }
                    behind.pop();
                    if target.starts_with(b"/") {
                        behind.clear();
                    }
                    for step in components(&target).into_iter().rev() {
                        ahead.push_front(step);
                    }
                }
                Seen::File(_) | Seen::Other => return Ok(None),
            }
        }
        Ok(Some(behind.join(&b'/')))
    }

    /// The attributes that a directory shows.
    pub(super) fn attributes(&mut self, at: &[u8]) -> Result<Option<Attributes>, ChainError> {
        let Some(topmost) = self.directory(at)?.first().copied() else { return Ok(None) };
        Ok(Some(Attributes::of(&self.open(topmost, at)?)?))
    }
}

/// A path's directory and its last component; `None` for the root.
pub(super) fn split(at: &[u8]) -> Option<(&[u8], &[u8])> {
    if at.is_empty() {
        return None;
    }
    match at.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => Some((&at[..slash], &at[slash + 1..])),
        None => Some((b"", at)),
    }
}

pub(super) fn join(directory: &[u8], last: &[u8]) -> Vec<u8> {
    if directory.is_empty() { last.to_vec() } else { [directory, last].join(&b'/') }
}

pub(super) fn is_opaque(directory: &OwnedFd) -> SysResult<bool> {
    Ok(sys::fgetxattr(directory, OPAQUE)?.as_deref() == Some(b"y"))
}

/// What a directory has besides its contents.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    /// Those that an image may set on a directory, sorted.
    xattrs: Vec<(CString, Vec<u8>)>,
    modified: Option<Time>,
}

impl Attributes {
    /// Of a directory that no layer describes.
    pub(super) fn unknown() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, xattrs: Vec::new(), modified: None }
    }

    pub(super) fn of(directory: &OwnedFd) -> SysResult<Self> {
        let found = sys::fstat(directory)?;
        let mut xattrs = Vec::new();
        for name in sys::flistxattr(directory)? {
            let wanted = name.as_bytes().starts_with(b"user.") || name.as_bytes().starts_with(b"system.posix_acl_");
            let overlay = name.as_bytes().starts_with(b"user.overlay.");
            let Ok(name) = CString::new(name.into_vec()) else { continue };
            if wanted
                && !overlay
                && let Some(value) = sys::fgetxattr(directory, &name)?
            {
                xattrs.push((name, value));
            }
        }
        xattrs.sort();
        Ok(Self { mode: found.mode, uid: found.uid, gid: found.gid, xattrs, modified: Some(found.modified) })
    }

    /// Whether two directories look alike; times aside, since a directory that no archive lists has none.
    pub(super) fn agree(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid, &self.xattrs) == (other.mode, other.uid, other.gid, &other.xattrs)
    }

    pub(super) fn apply(&self, directory: &OwnedFd) -> SysResult<()> {
        sys::fchown(directory, self.uid, self.gid)?;
        for (name, value) in &self.xattrs {
            sys::fsetxattr(directory, name, value)?;
        }
        sys::fchmod(directory, self.mode)?;
        self.modified.map_or(Ok(()), |modified| sys::futimens(directory, modified))
    }
}
