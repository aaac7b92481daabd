//! Layers that can't be unpacked without knowing what is below them.
//!
//! A layer's archive may put a file into a directory that it doesn't list. Unpacked alone, that directory gets made with
//! attributes of nobody's choice; on top of other layers it would hide theirs, or hide a link that stands there (`/lib` of
//! a merged `/usr`). And a hard link may mean a file of a lower layer. Where that matters, the layer is made anew for the
//! chain of layers that it ends (its files linked, not copied), and that tree is kept beside the layers under the chain's
//! digest: a function of the chain alone, so images that begin alike share it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use runtime_sys::SysResult;
use runtime_sys::fs::{self as sys, Kind, Open, Removal, RenameMode, Resolve};

use super::below::{Attributes, Below, Budget, Seen, is_opaque, join, split};
use super::ingest::{Staged, write_marker};
use super::state::Loaded;
use super::{LayerRecord, Lease, Store};
use crate::digest::Digest;
use crate::disk::{TREE, is_missing, is_there, subdirectory};
use crate::error::{ChainError, StoreError};
use crate::image::ImageLayer;
use crate::unpack::{OPAQUE, path, shown};

/// The block in which disk usage is estimated.
const DIRECTORY_BYTES: u64 = 4096;

const ENOENT: i32 = 2;
const ENOTDIR: i32 = 20;
const ELOOP: i32 = 40;

/// The digest of each layer's chain: OCI image specification, "Layer ChainID".
fn chain_ids(layers: &[ImageLayer]) -> Vec<Digest> {
    let mut chain: Option<Digest> = None;
    let next = |layer: &ImageLayer| {
        let id = chain.map_or(layer.diff_id, |below| Digest::of(format!("{below} {}", layer.diff_id).as_bytes()));
        chain = Some(id);
        id
    };
    layers.iter().map(next).collect()
}

impl Store {
    /// Finds the trees of an image that was committed before.
    pub(super) fn with_known_trees(&self, mut loaded: Loaded) -> Result<Loaded, StoreError> {
        let state = self.state();
        let tree = |(layer, chain): (&ImageLayer, Digest)| {
            let record = state.layers.get(&layer.diff_id);
            match record.filter(|record| !record.implied.is_empty() || !record.foreign.is_empty()) {
                Some(_joined) if state.layers.contains_key(&chain) => Ok(chain),
                Some(record) if !record.foreign.is_empty() => Err(StoreError::NoBlob { digest: chain }),
                _as_it_is => Ok(layer.diff_id),
            }
        };
        loaded.trees = loaded.layers.iter().zip(chain_ids(&loaded.layers)).map(tree).collect::<Result<_, _>>()?;
        Ok(loaded)
    }

    /// Finds the trees of an image, and makes those that its layers need to go on top of each other.
    pub(super) fn with_trees(&self, mut loaded: Loaded, lease: &mut Lease<'_>) -> Result<Loaded, StoreError> {
        let known = self.state().loaded.get(&loaded.manifest).map(|known| known.trees.clone());
        if let Some(trees) = known {
            trees.iter().for_each(|tree| lease.protect(*tree));
            loaded.trees = trees;
            return Ok(loaded);
        }
        let budget = Budget::default();
        let mut trees: Vec<Digest> = Vec::new();
        // Where each tree is now, below the store's directory; and those that aren't where they will be.
        let mut places: Vec<String> = Vec::new();
        let mut made: Vec<Made<'_>> = Vec::new();
        // Below a layer that hides everything there is nothing to agree with.
        let mut seen_from = 0;
        for (layer, chain) in loaded.layers.iter().zip(chain_ids(&loaded.layers)) {
            let missing = || StoreError::NoBlob { digest: layer.diff_id };
            let record = self.state().layers.get(&layer.diff_id).cloned().ok_or_else(missing)?;
            if record.root_opaque {
                seen_from = trees.len();
            }
            let (mut tree, mut place) = (layer.diff_id, format!("layers/{}/{TREE}", layer.diff_id.hex()));
            if !record.implied.is_empty() || !record.foreign.is_empty() {
                lease.protect(chain);
                let below = places[seen_from..].iter().rev().cloned().collect();
                let below = Below::new(&self.disk.directory, below, &budget);
                if chain != layer.diff_id && self.has_layer(&chain) {
                    (tree, place) = (chain, format!("layers/{}/{TREE}", chain.hex()));
                } else if let Some(joined) = self.joined(&record, chain, below, &budget)? {
                    (tree, place) = (chain, format!("ingest/{}/{TREE}", joined.staged.name));
                    made.push(joined);
                }
            }
            trees.push(tree);
            places.push(place);
        }
        self.place_made(made)?;
        loaded.trees = trees;
        Ok(loaded)
    }

    /// Syncs trees and puts them where they are looked for.
    fn place_made(&self, made: Vec<Made<'_>>) -> Result<(), StoreError> {
        if made.is_empty() {
            return Ok(());
        }
        self.disk.sync()?;
        for Made { staged, record } in made {
            let (ingest, layers) = (&self.disk.ingest, &self.disk.layers);
            match sys::renameat2(ingest, &staged.name, layers, record.diff_id.hex(), RenameMode::Refuse) {
                // Another image that begins alike came meanwhile.
                Err(error) if is_there(&error) => {}
                renamed => renamed.map_err(self.disk.failed("place a layer"))?,
            }
            self.state().layers.insert(record.diff_id, record);
        }
        Ok(())
    }

    /// The tree of a layer on top of others, made in `ingest/`; `None` where the layer's own is right.
    fn joined(
        &self,
        record: &LayerRecord,
        chain: Digest,
        below: Below<'_>,
        budget: &Budget,
    ) -> Result<Option<Made<'_>>, StoreError> {
        let diff_id = record.diff_id;
        let refused = |source| StoreError::Chain { diff_id, source: Box::new(source) };
        let failed = |step: &str| self.disk.failed(format!("{step} layer {diff_id}"));
        let tree = format!("{}/{TREE}", diff_id.hex());
        let own = sys::openat(&self.disk.layers, &tree, Open::READ | Open::DIRECTORY, 0).map_err(failed("open"))?;
        let mut joint = Joint { below, own, budget, adopted: HashSet::new(), moved: BTreeMap::new(), directories: 0 };
        joint.compare(record).map_err(refused)?;
        if joint.adopted.is_empty() && joint.moved.is_empty() && record.foreign.is_empty() {
            return Ok(None);
        }
        // The lowest layer is its own chain, so there is no second place for it; what it links to isn't there anyway.
        if let (true, Some((link, target))) = (chain == diff_id, record.foreign.first()) {
            return Err(refused(no_target(link.as_bytes(), target.as_bytes())));
        }
        let staged = self.staged("chain");
        let make = || -> SysResult<(OwnedFd, OwnedFd)> {
            sys::mkdirat(&self.disk.ingest, &staged.name, 0o700)?;
            let directory = sys::openat(&self.disk.ingest, &staged.name, Open::READ | Open::DIRECTORY, 0)?;
            let root = subdirectory(&directory, TREE)?;
            Ok((directory, root))
        };
        let (directory, root) = make().map_err(failed("make"))?;
        joint.build(&root, record).map_err(refused)?;
        let made = LayerRecord {
            diff_id: chain,
            bytes: joint.directories.saturating_mul(DIRECTORY_BYTES),
            inodes: joint.directories,
            root: record.root,
            root_opaque: record.root_opaque,
            implied: Vec::new(),
            foreign: Vec::new(),
        };
        write_marker(&directory, &made).map_err(failed("mark"))?;
        Ok(Some(Made { staged, record: made }))
    }
}

/// A tree in `ingest/` that is complete but not synced.
struct Made<'a> {
    staged: Staged<'a>,
    record: LayerRecord,
}

fn no_target(link: &[u8], target: &[u8]) -> ChainError {
    ChainError::HardlinkTarget { link: shown(link), target: shown(target) }
}

/// A layer on its way on top of others.
struct Joint<'a> {
    below: Below<'a>,
    /// The layer's own tree.
    own: OwnedFd,
    budget: &'a Budget,
    /// Directories that take their attributes from below.
    adopted: HashSet<Vec<u8>>,
    /// Directories whose contents belong elsewhere, since there is a link below: from where to where.
    moved: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Number of those made.
    directories: u64,
}

impl Joint<'_> {
    fn open_own(&self, at: &[u8]) -> SysResult<OwnedFd> {
        open_in(&self.own, at)
    }

    /// Finds out what the layer's implied directories are in the layers below.
    fn compare(&mut self, record: &LayerRecord) -> Result<(), ChainError> {
        let mut hidden = HashMap::from([(Vec::new(), false)]);
        // Sorted, so that a directory comes before what is in it.
        for implied in &record.implied {
            let implied = implied.as_bytes();
            let Some((parent, last)) = split(implied) else { continue };
            self.budget.spend(1)?;
            // A later entry of the layer may have replaced it.
            let own = match self.open_own(implied) {
                Err(error) if [ENOENT, ENOTDIR, ELOOP].contains(&error.errno()) => continue,
                own => own?,
            };
            if self.hidden(parent, &mut hidden)? {
                continue;
            }
            let parent = self.place_of(parent);
            let at = join(&parent, last);
            match self.below.seen(&at)? {
                Seen::Directory(_) => {
                    let theirs = self.below.attributes(&at)?;
                    if theirs.is_some_and(|theirs| Attributes::of(&own).is_ok_and(|ours| !ours.agree(&theirs))) {
                        self.adopted.insert(implied.to_vec());
                    }
                }
                Seen::Link(_tree, _target) => {
                    // A link to no directory is replaced by one: there is no better reading.
                    if let Some(there) = self.below.resolve(&parent, last)? {
                        self.adopted.insert(implied.to_vec());
                        self.moved.insert(implied.to_vec(), there);
                    }
                }
                Seen::Nothing | Seen::File(_) | Seen::Other => {}
            }
        }
        Ok(())
    }

    /// Whether this layer hides all that is below in one of its directories.
    fn hidden(&self, at: &[u8], known: &mut HashMap<Vec<u8>, bool>) -> Result<bool, ChainError> {
        if let Some(known) = known.get(at) {
            return Ok(*known);
        }
        let above = match split(at) {
            Some((parent, _last)) => self.hidden(parent, known)?,
            None => false,
        };
        let hidden = above || is_opaque(&self.open_own(at)?)?;
        known.insert(at.to_vec(), hidden);
        Ok(hidden)
    }

    /// Where the contents of one of the layer's directories belong.
    fn place_of(&self, at: &[u8]) -> Vec<u8> {
        if self.moved.is_empty() {
            return at.to_vec();
        }
        let mut prefix = at;
        loop {
            if let Some(there) = self.moved.get(prefix) {
                let rest = at[prefix.len()..].strip_prefix(b"/");
                return rest.map_or_else(|| there.clone(), |rest| join(there, rest));
            }
            match split(prefix) {
                Some((parent, _last)) => prefix = parent,
                None => return at.to_vec(),
            }
        }
    }

    /// Makes the tree: what is moved first, so that the layer's own listed directories have the last word.
    fn build(&mut self, root: &OwnedFd, record: &LayerRecord) -> Result<(), ChainError> {
        self.directories += 1;
        let mut on_the_way = Vec::new();
        for (from, to) in self.moved.clone() {
            self.subtree(root, (from, to), &mut on_the_way)?;
        }
        // Their times, now that what was made in them is made.
        for at in on_the_way.iter().rev() {
            self.attributes_below(at)?.apply(&open_in(root, at)?)?;
        }
        self.subtree(root, (Vec::new(), Vec::new()), &mut Vec::new())?;
        for (link, target) in &record.foreign {
            self.foreign(root, link.as_bytes(), target.as_bytes())?;
        }
        Ok(())
    }

    fn attributes_below(&mut self, at: &[u8]) -> Result<Attributes, ChainError> {
        Ok(self.below.attributes(at)?.unwrap_or_else(Attributes::unknown))
    }

    fn subtree(
        &mut self,
        root: &OwnedFd,
        whole: (Vec<u8>, Vec<u8>),
        on_the_way: &mut Vec<Vec<u8>>,
    ) -> Result<(), ChainError> {
        let mut pending = vec![whole];
        while let Some((from, to)) = pending.pop() {
            let own = self.open_own(&from)?;
            let made = self.ensure(root, &to, on_the_way)?;
            for entry in sys::read_directory(&own)? {
                self.budget.spend(1)?;
                let name = entry.name.as_bytes();
                let child = join(&from, name);
                if self.moved.contains_key(&child) {
                    continue;
                }
                if entry.kind != Kind::Directory {
                    link_entry(&own, &made, name)?;
                } else if self.directory_entry(&made, name)? {
                    pending.push((child, join(&to, name)));
                }
            }
            if is_opaque(&own)? {
                sys::fsetxattr(&made, OPAQUE, b"y")?;
            }
            let attributes =
                if self.adopted.contains(&from) { self.attributes_below(&to)? } else { Attributes::of(&own)? };
            attributes.apply(&made)?;
        }
        Ok(())
    }

    /// Makes a directory for one of the layer's; `false` where what was moved there stands in its way.
    fn directory_entry(&mut self, made: &OwnedFd, name: &[u8]) -> SysResult<bool> {
        match sys::mkdirat(made, path(name), 0o700) {
            Err(error) if is_there(&error) => {
                let there = sys::fstatat(made, path(name))?;
                if there.kind == Kind::Directory {
                    return Ok(true);
                }
                if (there.kind, there.special) != (Kind::Character, (0, 0)) {
                    return Ok(false);
                }
                sys::unlinkat(made, path(name), Removal::File)?;
                sys::mkdirat(made, path(name), 0o700)?;
                sys::fsetxattr(open_in(made, name)?, OPAQUE, b"y")?;
            }
            fresh => fresh?,
        }
        self.directories += 1;
        Ok(true)
    }

    /// Opens a directory of the new tree; what is missing is made as it is below.
    fn ensure(&mut self, root: &OwnedFd, at: &[u8], on_the_way: &mut Vec<Vec<u8>>) -> Result<OwnedFd, ChainError> {
        match open_in(root, at) {
            Err(error) if is_missing(&error) => {}
            opened => return Ok(opened?),
        }
        let mut here = open_in(root, b"")?;
        let mut passed = Vec::new();
        for name in at.split(|byte| *byte == b'/') {
            self.budget.spend(1)?;
            passed = join(&passed, name);
            match sys::mkdirat(&here, path(name), 0o700) {
                Err(error) if is_there(&error) => here = open_in(&here, name)?,
                made => {
                    made?;
                    self.directories += 1;
                    here = open_in(&here, name)?;
                    self.attributes_below(&passed)?.apply(&here)?;
                    on_the_way.push(passed.clone());
                }
            }
        }
        Ok(here)
    }

    /// Links a file of a lower layer.
    fn foreign(&mut self, root: &OwnedFd, link: &[u8], target: &[u8]) -> Result<(), ChainError> {
        let no_target = || no_target(link, target);
        let (parent, last) = split(link).ok_or_else(no_target)?;
        let (target_parent, target_last) = split(target).ok_or_else(no_target)?;
        let there = self.below.resolve(b"", target_parent)?.ok_or_else(no_target)?;
        let (Seen::File(tree) | Seen::Link(tree, _)) = self.below.seen(&join(&there, target_last))? else {
            return Err(no_target());
        };
        let from = self.below.open(tree, &there)?;
        let place = self.place_of(parent);
        let to = self.ensure(root, &place, &mut Vec::new())?;
        let modified = sys::fstat(&to)?.modified;
        match sys::fstatat(&to, path(last)) {
            Err(error) if is_missing(&error) => {}
            Ok(found) if (found.kind, found.special) == (Kind::Character, (0, 0)) => {
                sys::unlinkat(&to, path(last), Removal::File)?;
            }
            found => {
                found?;
                return Ok(());
            }
        }
        sys::linkat(&from, path(target_last), &to, path(last))?;
        Ok(sys::futimens(&to, modified)?)
    }
}

/// Links what isn't a directory. What was moved there before stays, unless it only hides.
fn link_entry(from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> SysResult<()> {
    match sys::linkat(from, path(name), to, path(name)) {
        Err(error) if is_there(&error) => {
            let whiteout = |found: sys::Metadata| (found.kind, found.special) == (Kind::Character, (0, 0));
            let (ours, there) = (sys::fstatat(from, path(name))?, sys::fstatat(to, path(name))?);
            match (whiteout(ours), whiteout(there)) {
                (false, true) => {
                    sys::unlinkat(to, path(name), Removal::File)?;
                    sys::linkat(from, path(name), to, path(name))
                }
                // It takes away what is below, this layer brings the directory.
                (true, false) if there.kind == Kind::Directory => sys::fsetxattr(open_in(to, name)?, OPAQUE, b"y"),
                _kept => Ok(()),
            }
        }
        linked => linked,
    }
}

/// Opens a directory below another; no component may be a link.
fn open_in(root: &OwnedFd, at: &[u8]) -> SysResult<OwnedFd> {
    let at: &[u8] = if at.is_empty() { b"." } else { at };
    let resolve = Resolve::BENEATH | Resolve::NO_SYMLINKS | Resolve::NO_CROSSING;
    sys::openat2(root, path(at), Open::READ | Open::DIRECTORY | Open::NO_FOLLOW, 0, resolve)
}

#[cfg(test)]
mod tests;
