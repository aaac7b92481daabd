//! The store: names, images, holders, and what may go.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::disk::Disk;
use crate::document::{parse_config, parse_manifest};
use crate::error::StoreError;
use crate::image::Image;
use crate::index::{INDEX_BYTES_MAX, Record, decode, encode};
use crate::limits::{CONFIG_BYTES_MAX, IMAGE_BYTES_MAX, MANIFEST_BYTES_MAX};

mod beginning;
mod below;
mod chain;
mod collect;
mod ingest;
mod record;
mod scan;
mod state;

pub use beginning::{BEGINNING_AGE_MAX, BEGINNING_BYTES_MIN, BEGINNINGS_BYTES_MAX, Beginning, Begun};
pub use collect::Collected;
pub use ingest::LayerSource;
pub(crate) use ingest::Spool;
use record::LayerRecord;
pub use record::RootAttributes;
pub use state::Pin;
use state::{Loaded, State};

/// An open store. All methods may be called from any thread; those that touch the disk block.
#[derive(Debug)]
pub struct Store {
    disk: Disk,
    /// What is known of the disk. Held for moments, never across reading or writing.
    state: Mutex<State>,
    /// Whoever changes the index; held while it is written, so that the file follows the memory.
    writer: Mutex<()>,
}

/// What an image's root is made of.
#[derive(Debug, Clone)]
pub struct Root {
    /// The image.
    pub image: Arc<Image>,
    /// Unpacked layers, the topmost first; at least one.
    pub lowers: Vec<PathBuf>,
    /// What the topmost layer that lists its root says of it.
    pub attributes: RootAttributes,
}

/// What the store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes on disk, about.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Blobs and layers that stay although no name means them yet: those of a pull on its way. Dropped, they may go.
#[derive(Debug)]
pub struct Lease<'a> {
    store: &'a Store,
    digests: Vec<Digest>,
}

impl Lease<'_> {
    /// From now on this blob or layer stays.
    pub fn protect(&mut self, digest: Digest) {
        *self.store.state().leases.entry(digest).or_default() += 1;
        self.digests.push(digest);
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for digest in &self.digests {
            if let Some(count) = state.leases.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(digest);
                }
            }
        }
    }
}

impl Store {
    /// Opens a store, made (0700) when missing. What a process that died left half-made is removed; an index that can't be
    /// read is set aside, an image that isn't whole is forgotten (a pull brings it back), and both are logged.
    ///
    /// # Errors
    /// Another process has it open, or the disk's.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let disk = Disk::open(root)?;
        let mut state = State::default();
        scan::blobs(&disk, &mut state)?;
        scan::layers(&disk, &mut state)?;
        beginning::scan(&disk, &mut state)?;
        let records = match disk.read_index(INDEX_BYTES_MAX)? {
            None => Vec::new(),
            Some(bytes) => match decode(&bytes) {
                Ok(records) => records,
                Err(error) => {
                    tracing::error!(%error, root = ?root, "index.json can't be read and is set aside");
                    disk.set_index_aside()?;
                    Vec::new()
                }
            },
        };
        let store = Self { disk, state: Mutex::new(state), writer: Mutex::new(()) };
        let mut whole = Vec::new();
        for record in records {
            match store.load(record.manifest).and_then(|loaded| store.with_known_trees(loaded)) {
                Ok(loaded) => {
                    store.state().loaded.insert(record.manifest, loaded);
                    whole.push(record);
                }
                Err(error) => {
                    let (name, reason) = (record.name.as_deref().unwrap_or("(nameless)"), chain(&error));
                    tracing::warn!(name, reason, "image isn't whole and is forgotten; pull it again");
                }
            }
        }
        store.state().publish(whole);
        Ok(store)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.disk.root
    }

    /// Says which names are never removed for room, in place of what was said before.
    pub fn pin(&self, pins: Vec<Pin>) {
        let mut state = self.state();
        state.pins = pins;
        let records = std::mem::take(&mut state.records);
        state.publish(records);
    }

    /// Every image that has a name, sorted by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.state().images.values().cloned().collect()
    }

    /// The image of exactly this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<Image>> {
        let state = self.state();
        let manifest = state.records.iter().find(|record| record.name.as_deref() == Some(name))?.manifest;
        let id = state.loaded.get(&manifest)?.id;
        state.images.get(&id).cloned()
    }

    /// The image whose id begins so, if it is the only one.
    #[must_use]
    pub fn by_id(&self, hex: &str) -> Option<Arc<Image>> {
        let state = self.state();
        let mut found = state.images.iter().filter(|(id, _image)| id.hex().starts_with(hex));
        match (found.next(), found.next()) {
            (Some((_id, image)), None) => Some(image.clone()),
            _none_or_several => None,
        }
    }

    /// A lease on nothing yet.
    #[must_use]
    pub fn lease(&self) -> Lease<'_> {
        Lease { store: self, digests: Vec::new() }
    }

    /// Gives names to a manifest whose blobs and layers are all here (and leased). Names that meant another image mean
    /// this one now.
    ///
    /// # Errors
    /// Something is missing or contradicts itself, or the disk's.
    pub fn commit(&self, manifest: Digest, names: &[String]) -> Result<Arc<Image>, StoreError> {
        let mut lease = self.lease();
        let loaded = self.load(manifest)?;
        let loaded = self.with_trees(loaded, &mut lease)?;
        self.disk.sync_names()?;
        let (media_type, size_bytes, id) = (loaded.media_type.clone(), loaded.manifest_bytes, loaded.id);
        self.state().loaded.insert(manifest, loaded);
        let record = |name: Option<String>| Record {
            name,
            manifest,
            media_type: media_type.clone(),
            size_bytes,
            pinned: false,
            revision: None,
        };
        self.change(|records| {
            records.retain(|known| known.name.as_ref().is_none_or(|name| !names.contains(name)));
            records.extend(names.iter().cloned().map(Some).map(record));
            if names.is_empty() && !records.iter().any(|known| known.manifest == manifest) {
                records.push(record(Some(format!("<none>@{id}"))));
            }
        })?;
        self.state().images.get(&id).cloned().ok_or_else(|| StoreError::NoImage { name: id.to_string() })
    }

    /// One more name for an image.
    ///
    /// # Errors
    /// No such image, or the disk's.
    pub fn tag(&self, image: &Image, name: &str) -> Result<(), StoreError> {
        let _lease = self.leased(image);
        self.commit(image.manifest, &[name.to_owned()]).map(drop)
    }

    /// Notes what the image of this name was made of; a commit under the name forgets it.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_revision(&self, name: &str, revision: &str) -> Result<(), StoreError> {
        self.change(|records| {
            for record in records.iter_mut().filter(|record| record.name.as_deref() == Some(name)) {
                record.revision = Some(revision.to_owned());
            }
        })
    }

    /// What the image of exactly this name was made of, if that was noted.
    #[must_use]
    pub fn revision(&self, name: &str) -> Option<String> {
        let state = self.state();
        state.records.iter().find(|record| record.name.as_deref() == Some(name))?.revision.clone()
    }

    /// Takes one name away and keeps all that it means, until the next [`Self::collect`]: for a store that was just opened,
    /// whose holders have yet to say that they are there.
    ///
    /// # Errors
    /// The disk's.
    pub fn unname(&self, name: &str) -> Result<(), StoreError> {
        let _writer = self.writer();
        let mut records = self.state().records.clone();
        for record in records.iter_mut().filter(|record| record.name.as_deref() == Some(name)) {
            (record.name, record.revision) = (None, None);
        }
        self.disk.write_index(&encode(&records))?;
        self.state().publish(records);
        Ok(())
    }

    /// Takes one name away, and what nobody needs then.
    ///
    /// # Errors
    /// The disk's.
    pub fn untag(&self, name: &str) -> Result<Collected, StoreError> {
        self.change(|records| {
            let Some(at) = records.iter().position(|record| record.name.as_deref() == Some(name)) else { return };
            let gone = records.remove(at);
            // The names with a digest go with the last tag: they are how the image came, not what somebody called it.
            let tagged = |record: &Record| {
                record.manifest == gone.manifest && record.name.as_ref().is_some_and(|name| !name.contains('@'))
            };
            if !records.iter().any(tagged) {
                records.retain(|record| record.manifest != gone.manifest);
            }
        })?;
        self.collect()
    }

    /// Takes all names of an image away, and what nobody needs then. Works on a full disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self, image: &Image) -> Result<Collected, StoreError> {
        let manifests: Vec<Digest> = {
            let state = self.state();
            let same = |loaded: &&Loaded| loaded.id.to_string() == image.id;
            state.loaded.values().filter(same).map(|loaded| loaded.manifest).collect()
        };
        self.change(|records| records.retain(|record| !manifests.contains(&record.manifest)))?;
        self.collect()
    }

    /// Changes the index, on disk first.
    fn change(&self, change: impl FnOnce(&mut Vec<Record>)) -> Result<(), StoreError> {
        let _writer = self.writer();
        let mut written = self.state().records.clone();
        let mut records = written.clone();
        change(&mut records);
        loop {
            {
                let mut state = self.state();
                let held: Vec<Digest> = state.holders.values().copied().collect();
                settle_nameless(&mut records, &held, &state.loaded);
                // A container that took hold while the file was written gets its line, too.
                if records == written {
                    state.publish(records);
                    return Ok(());
                }
            }
            self.disk.write_index(&encode(&records))?;
            written.clone_from(&records);
        }
    }

    /// What a container's root is made of; stays until [`Self::release`]. The image may be nameless already.
    ///
    /// # Errors
    /// No image of this id.
    pub fn hold(&self, id: &str, holder: &str) -> Result<Root, StoreError> {
        let mut state = self.state();
        let found = state.loaded.values().find(|loaded| loaded.id.to_string() == id);
        let loaded = found.cloned().ok_or_else(|| StoreError::NoImage { name: id.to_owned() })?;
        state.holders.insert(holder.to_owned(), loaded.manifest);
        let image = state.images.get(&loaded.id).cloned().unwrap_or_else(|| Arc::new(loaded.image(&[], &[])));
        let lowers = lowers(&self.disk, &loaded, &state.layers);
        let topmost = |layer: &crate::image::ImageLayer| state.layers.get(&layer.diff_id)?.root;
        let attributes = loaded.layers.iter().rev().find_map(topmost).unwrap_or_default();
        Ok(Root { image, lowers, attributes })
    }

    /// The holder needs its image no more. Says whether the image has lost its last reason to stay.
    pub fn release(&self, holder: &str) -> bool {
        let mut state = self.state();
        let Some(manifest) = state.holders.remove(holder) else { return false };
        let held = state.holders.values().any(|other| *other == manifest);
        let named = state.records.iter().any(|record| record.manifest == manifest && record.name.is_some());
        !held && !named
    }

    /// Whether any container holds this image.
    #[must_use]
    pub fn is_held(&self, image: &Image) -> bool {
        let state = self.state();
        let same =
            |manifest: &Digest| state.loaded.get(manifest).is_some_and(|loaded| loaded.id.to_string() == image.id);
        state.holders.values().any(same)
    }

    /// What the store takes, from memory.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.state().usage()
    }

    fn leased(&self, image: &Image) -> Lease<'_> {
        let mut lease = self.lease();
        lease.protect(image.manifest);
        for layer in &image.layers {
            lease.protect(layer.digest);
            lease.protect(layer.diff_id);
        }
        lease
    }

    /// Reads an image's documents and checks that all that they name is here and has the right size.
    fn load(&self, manifest_digest: Digest) -> Result<Loaded, StoreError> {
        let document = |digest| move |source| StoreError::Document { digest, source: Box::new(source) };
        let bytes = self.read_document(manifest_digest, MANIFEST_BYTES_MAX)?;
        let manifest = parse_manifest(&bytes).map_err(document(manifest_digest))?;
        let config_bytes = self.read_document(manifest.config, CONFIG_BYTES_MAX)?;
        let (config, layers) = parse_config(&config_bytes, &manifest).map_err(document(manifest.config))?;
        let state = self.state();
        let mut unpacked_bytes: u64 = 0;
        for layer in &layers {
            match (state.blobs.get(&layer.digest), state.layers.get(&layer.diff_id)) {
                (Some(size_bytes), Some(record)) if *size_bytes == layer.size_bytes => {
                    unpacked_bytes = unpacked_bytes.saturating_add(record.bytes);
                }
                _missing => return Err(StoreError::NoBlob { digest: layer.digest }),
            }
        }
        if unpacked_bytes > IMAGE_BYTES_MAX {
            let source = crate::error::DocumentError::TooLong { found: unpacked_bytes, max: IMAGE_BYTES_MAX };
            return Err(StoreError::Document { digest: manifest_digest, source: Box::new(source) });
        }
        Ok(Loaded {
            id: manifest.config,
            manifest: manifest_digest,
            media_type: manifest.media_type,
            manifest_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            config_bytes: manifest.config_bytes,
            config,
            layers,
            trees: Vec::new(),
        })
    }

    /// A manifest or configuration, compared with its digest: what is used is what was hashed.
    pub(crate) fn read_document(&self, digest: Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = self.disk.read_blob(digest, bytes_max.saturating_add(1))?;
        let found = Digest::of(&bytes);
        if found != digest {
            let source = crate::stream::LayerError::Digest { expected: digest, found };
            return Err(StoreError::Blob { digest, source: Box::new(source) });
        }
        Ok(bytes)
    }

    pub(crate) fn open_blob(&self, digest: Digest) -> Result<std::os::fd::OwnedFd, StoreError> {
        self.disk.open_blob(digest)
    }

    /// Whether a layer is unpacked here.
    #[must_use]
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        self.state().layers.contains_key(diff_id)
    }

    /// Whether a blob of this size is here.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest, size_bytes: u64) -> bool {
        self.state().blobs.get(digest) == Some(&size_bytes)
    }
}

/// A nameless line stands for each image that only a container holds, once, and for no other.
fn settle_nameless(records: &mut Vec<Record>, held: &[Digest], loaded: &HashMap<Digest, Loaded>) {
    records.retain(|record| record.name.is_some());
    for manifest in held.iter().collect::<BTreeSet<_>>() {
        if records.iter().any(|record| record.manifest == *manifest) {
            continue;
        }
        if let Some(loaded) = loaded.get(manifest) {
            records.push(Record {
                name: None,
                manifest: *manifest,
                media_type: loaded.media_type.clone(),
                size_bytes: loaded.manifest_bytes,
                pinned: false,
                revision: None,
            });
        }
    }
}

/// The lower directories of an image, the topmost first.
fn lowers(disk: &Disk, loaded: &Loaded, layers: &HashMap<Digest, LayerRecord>) -> Vec<PathBuf> {
    let mut lowers = Vec::new();
    let mut seen = Vec::new();
    for (layer, tree) in loaded.layers.iter().zip(&loaded.trees).rev() {
        let record = layers.get(&layer.diff_id);
        // A layer that stands twice counts where it is topmost: everything in it is seen from there, and overlayfs
        // refuses one directory in two places. One without entries shows nothing.
        let empty = *tree == layer.diff_id && record.is_some_and(|record| record.inodes <= 1 && !record.root_opaque);
        if !empty && !seen.contains(tree) {
            seen.push(*tree);
            lowers.push(disk.tree(*tree));
        }
        if record.is_some_and(|record| record.root_opaque) {
            break;
        }
    }
    if lowers.is_empty() {
        lowers.push(disk.empty());
    }
    lowers
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
