//! What the store knows in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use super::{LayerRecord, Usage};
use crate::digest::Digest;
use crate::image::{Image, ImageLayer};
use crate::index::Record;

/// An image's documents.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) id: Digest,
    pub(super) manifest: Digest,
    pub(super) media_type: String,
    pub(super) manifest_bytes: u64,
    pub(super) config_bytes: u64,
    pub(super) config: ImageConfiguration,
    pub(super) layers: Vec<ImageLayer>,
    /// The directory of each layer below `layers/`: its diffID, or its chain's digest where it had to be made anew to go
    /// on top of those below it.
    pub(super) trees: Vec<Digest>,
}

impl Loaded {
    /// The image as others see it, with the names that mean it.
    pub(super) fn image(&self, records: &[&Record], pins: &[Pin]) -> Image {
        let names = |with_digest: bool| {
            let mut names: Vec<String> = records
                .iter()
                .filter_map(|record| record.name.clone())
                .filter(|name| name.contains('@') == with_digest && !name.starts_with('<'))
                .collect();
            names.sort();
            names
        };
        let user = self.config.config().as_ref().and_then(|config| config.user().clone());
        let layers_bytes = self.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size_bytes));
        Image {
            id: self.id.to_string(),
            manifest: self.manifest,
            repo_tags: names(false),
            repo_digests: names(true),
            size_bytes: layers_bytes.saturating_add(self.manifest_bytes).saturating_add(self.config_bytes),
            user: user.filter(|user| !user.is_empty()),
            pinned: records.iter().any(|record| {
                record.pinned || record.name.as_ref().is_some_and(|name| pins.iter().any(|pin| pin.means(name)))
            }),
            config: self.config.clone(),
            layers: self.layers.clone(),
        }
    }
}

/// Names of images that are never removed for room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// This full name.
    Name(String),
    /// Every full name that begins so.
    Beginning(String),
}

impl Pin {
    fn means(&self, name: &str) -> bool {
        match self {
            Self::Name(pinned) => pinned == name,
            Self::Beginning(beginning) => name.starts_with(beginning.as_str()),
        }
    }
}

/// A beginning that was left for the next pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// Its length.
    pub(super) bytes: u64,
    /// When somebody was at it last, in seconds since 1970: its file's time, so that it lasts over a restart.
    pub(super) seconds: i64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// What `index.json` says.
    pub(super) records: Vec<Record>,
    /// Which names are never removed for room.
    pub(super) pins: Vec<Pin>,
    /// By manifest: of all records, and of what is being committed.
    pub(super) loaded: HashMap<Digest, Loaded>,
    /// By id: those with a name.
    pub(super) images: BTreeMap<Digest, Arc<Image>>,
    /// Which container holds which manifest.
    pub(super) holders: HashMap<String, Digest>,
    /// Blobs and layers that are on their way into an image, with how many pulls want them.
    pub(super) leases: HashMap<Digest, usize>,
    /// Blobs on disk with their sizes.
    pub(super) blobs: HashMap<Digest, u64>,
    /// Beginnings of blobs on disk that nobody is at.
    pub(super) beginnings: HashMap<Digest, Left>,
    /// Blobs whose beginning somebody is at.
    pub(super) begun: HashSet<Digest>,
    /// Layers on disk.
    pub(super) layers: HashMap<Digest, LayerRecord>,
}

impl State {
    /// Makes these records the ones that count, and the images what they say.
    pub(super) fn publish(&mut self, records: Vec<Record>) {
        self.records = records;
        let mut by_id: BTreeMap<Digest, (Digest, Vec<&Record>)> = BTreeMap::new();
        for record in self.records.iter().filter(|record| record.name.is_some()) {
            if let Some(loaded) = self.loaded.get(&record.manifest) {
                by_id.entry(loaded.id).or_insert((record.manifest, Vec::new())).1.push(record);
            }
        }
        let image = |(id, (manifest, records)): (&Digest, &(Digest, Vec<&Record>))| {
            let image = self.loaded.get(manifest)?.image(records, &self.pins);
            Some((*id, Arc::new(image)))
        };
        self.images = by_id.iter().filter_map(image).collect();
    }

    pub(super) fn usage(&self) -> Usage {
        let layers = self.layers.values().fold(Usage::default(), |sum, layer| Usage {
            bytes: sum.bytes.saturating_add(layer.bytes),
            // The layer's own directory and its marker.
            inodes: sum.inodes.saturating_add(layer.inodes).saturating_add(2),
        });
        let files = self.blobs.values().copied().chain(self.beginnings.values().map(|left| left.bytes));
        let blobs_bytes = files.fold(0_u64, u64::saturating_add);
        let blobs = u64::try_from(self.blobs.len() + self.beginnings.len()).unwrap_or(u64::MAX);
        Usage { bytes: layers.bytes.saturating_add(blobs_bytes), inodes: layers.inodes.saturating_add(blobs) }
    }
}
