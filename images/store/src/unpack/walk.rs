//! The way to an entry's directory: inside the root, links followed inside it, missing directories made.

use std::cell::Cell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use runtime_sys::SysError;
use runtime_sys::fs::{self as sys, Kind, Open, Removal, Resolve};

use super::{OPAQUE, path};
use crate::limits::{LINKS_FOLLOWED_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX, WALK_STEPS_MAX};

/// Why a directory can't be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    #[error("more than {LINKS_FOLLOWED_MAX} symbolic links on the way")]
    Links,
    #[error(
        "the way through its links is longer than {PATH_BYTES_MAX} bytes or deeper than {PATH_DEPTH_MAX} directories"
    )]
    Long,
    #[error("the layer's links cost more than {WALK_STEPS_MAX} steps")]
    Steps,
    #[error("something on the way isn't there")]
    Missing,
    #[error("something on the way is no directory")]
    NotDirectory,
    #[error(transparent)]
    Kernel(#[from] SysError),
}

/// The directory that entries go into; the last one is kept, since archives list a directory's contents together.
#[derive(Debug)]
pub(super) struct Here {
    root: OwnedFd,
    current: Option<Current>,
    steps: Cell<u64>,
}

#[derive(Debug)]
struct Current {
    /// As the archive calls it.
    asked: Vec<u8>,
    /// Where it is, without links.
    canonical: Vec<u8>,
    directory: OwnedFd,
}

impl Here {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, current: None, steps: Cell::new(0) }
    }

    /// The current directory; the root before the first [`Self::enter`].
    pub(super) fn directory(&self) -> &OwnedFd {
        self.current.as_ref().map_or(&self.root, |current| &current.directory)
    }

    /// Whether the current directory is the root, also by way of links.
    pub(super) fn is_root(&self) -> bool {
        self.current.as_ref().is_none_or(|current| current.canonical.is_empty())
    }

    /// The path of something in the current directory.
    pub(super) fn join(&self, last: &[u8]) -> Vec<u8> {
        match self.current.as_ref().map(|current| current.canonical.as_slice()) {
            None | Some(b"") => last.to_vec(),
            Some(directory) => [directory, last].join(&b'/'),
        }
    }

    /// What was known about ways may be wrong now; the current directory itself stays.
    pub(super) fn forget(&mut self) {
        if let Some(current) = &mut self.current {
            // No name contains NUL, so nothing is ever equal to this.
            current.asked = vec![0];
        }
    }

    /// Goes to a directory; what is missing is made (0755, root). Answers with what was made.
    pub(super) fn enter(&mut self, components: &[&[u8]]) -> Result<Vec<Made>, WalkError> {
        let asked = components.join(&b'/');
        if self.current.as_ref().is_some_and(|current| current.asked == asked) {
            return Ok(Vec::new());
        }
        if components.is_empty() {
            self.current = None;
            return Ok(Vec::new());
        }
        // The usual case: everything is there and no link is on the way.
        if let Ok(directory) = self.straight(&asked) {
            self.current = Some(Current { canonical: asked.clone(), asked, directory });
            return Ok(Vec::new());
        }
        let mut made = Vec::new();
        let (canonical, directory) = self.walk(components, Missing::Make(&mut made))?;
        self.current = Some(Current { asked, canonical, directory });
        Ok(made)
    }

    /// A directory that must be there; the current one stays.
    pub(super) fn existing(&self, components: &[&[u8]]) -> Result<OwnedFd, WalkError> {
        if let Ok(directory) = self.straight(&components.join(&b'/')) {
            return Ok(directory);
        }
        self.walk(components, Missing::Refuse).map(|(_canonical, directory)| directory)
    }

    /// A directory by its path without links, kept for the next call.
    pub(super) fn existing_listed(&mut self, components: &[&[u8]]) -> Result<&OwnedFd, WalkError> {
        let asked = components.join(&b'/');
        if self.current.as_ref().is_none_or(|current| current.asked != asked) {
            self.current = None;
            if !components.is_empty() {
                let directory = self.straight(&asked)?;
                self.current = Some(Current { canonical: asked.clone(), asked, directory });
            }
        }
        Ok(self.directory())
    }

    /// Component by component from the root, as the kernel does with RESOLVE_IN_ROOT, but making what is missing.
    fn walk(&self, components: &[&[u8]], mut missing: Missing<'_>) -> Result<(Vec<u8>, OwnedFd), WalkError> {
        let mut ahead: VecDeque<Vec<u8>> = components.iter().map(|component| component.to_vec()).collect();
        let mut behind = Behind::default();
        let mut here = self.straight(b"")?;
        let mut links = 0;
        while let Some(component) = ahead.pop_front() {
            self.spend(1)?;
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    // Above the root is the root.
                    behind.pop();
                    self.spend(behind.names.len())?;
                    here = self.straight(&behind.path())?;
                    continue;
                }
                _name => {}
            }
            match Found::at(&here, &component)? {
                Found::Directory => {
                    here = sys::openat(&here, path(&component), directory_only() | Open::NO_FOLLOW, 0)?;
                    behind.push(component)?;
                }
                Found::Link(target) => {
                    links += 1;
                    if links > LINKS_FOLLOWED_MAX {
                        return Err(WalkError::Links);
                    }
                    if target.starts_with(b"/") {
                        behind = Behind::default();
                        here = self.straight(b"")?;
                    }
                    for step in target.split(|byte| *byte == b'/').rev() {
                        ahead.push_front(step.to_vec());
                    }
                }
                gap @ (Found::Nothing | Found::Whiteout) => {
                    let Missing::Make(made) = &mut missing else { return Err(WalkError::Missing) };
                    here = make(&here, &component, &gap)?;
                    behind.push(component)?;
                    made.push(match gap {
                        Found::Whiteout => Made::Afresh(behind.path()),
                        _nothing => Made::Implied(behind.path()),
                    });
                }
                Found::Other => return Err(WalkError::NotDirectory),
            }
        }
        Ok((behind.path(), here))
    }

    /// A directory by its path, none of whose components may be a link. Empty is the root.
    fn straight(&self, asked: &[u8]) -> Result<OwnedFd, SysError> {
        let name: &[u8] = if asked.is_empty() { b"." } else { asked };
        let resolve = Resolve::BENEATH | Resolve::NO_SYMLINKS | Resolve::NO_CROSSING;
        sys::openat2(&self.root, path(name), directory_only(), 0, resolve)
    }

    /// Counts the lookups of a walk: forty links of four thousand bytes on the way to each of two million entries would
    /// keep us busy for hours.
    fn spend(&self, steps: usize) -> Result<(), WalkError> {
        let spent = self.steps.get().saturating_add(u64::try_from(steps).unwrap_or(u64::MAX));
        self.steps.set(spent);
        if spent > WALK_STEPS_MAX { Err(WalkError::Steps) } else { Ok(()) }
    }
}

/// What is done about a directory that isn't there.
enum Missing<'a> {
    Refuse,
    Make(&'a mut Vec<Made>),
}

/// A directory that the archive doesn't list, by its path without links.
pub(super) enum Made {
    /// The layers below may have it too, and know its attributes.
    Implied(Vec<u8>),
    /// The archive took it away before: what the layers below have there is something else.
    Afresh(Vec<u8>),
}

/// The components that a walk has passed: real directories, no links.
#[derive(Default)]
struct Behind {
    names: Vec<Vec<u8>>,
    bytes: usize,
}

impl Behind {
    fn push(&mut self, name: Vec<u8>) -> Result<(), WalkError> {
        self.bytes += name.len() + 1;
        self.names.push(name);
        if self.names.len() > PATH_DEPTH_MAX || self.bytes > PATH_BYTES_MAX { Err(WalkError::Long) } else { Ok(()) }
    }

    fn pop(&mut self) {
        if let Some(name) = self.names.pop() {
            self.bytes -= name.len() + 1;
        }
    }

    fn path(&self) -> Vec<u8> {
        self.names.join(&b'/')
    }
}

/// What stands at a name.
enum Found {
    Nothing,
    Whiteout,
    Directory,
    Link(Vec<u8>),
    Other,
}

impl Found {
    fn at(here: &OwnedFd, name: &[u8]) -> Result<Self, SysError> {
        const ENOENT: i32 = 2;
        let found = match sys::fstatat(here, path(name)) {
            Err(error) if error.errno() == ENOENT => return Ok(Self::Nothing),
            found => found?,
        };
        Ok(match found.kind {
            Kind::Directory => Self::Directory,
            Kind::Symlink => Self::Link(sys::readlinkat(here, path(name))?),
            Kind::Character if found.special == (0, 0) => Self::Whiteout,
            _ => Self::Other,
        })
    }
}

fn directory_only() -> Open {
    Open::READ | Open::DIRECTORY
}

/// Makes a directory that the archive doesn't list.
fn make(parent: &OwnedFd, name: &[u8], gap: &Found) -> Result<OwnedFd, SysError> {
    let hidden = matches!(gap, Found::Whiteout);
    if hidden {
        sys::unlinkat(parent, path(name), Removal::File)?;
    }
    sys::mkdirat(parent, path(name), 0o755)?;
    let made = sys::openat(parent, path(name), directory_only() | Open::NO_FOLLOW, 0)?;
    // Taken away and brought again by the same layer: what lies below stays hidden.
    if hidden {
        sys::fsetxattr(&made, OPAQUE, b"y")?;
    }
    // The parent may hand its group down, and the process's umask is its own affair.
    sys::fchown(&made, 0, 0)?;
    sys::fchmod(&made, 0o755)?;
    Ok(made)
}
