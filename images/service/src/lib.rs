//! "Pull this", "a root for this", import and export.
//!
//! *In*: references, credentials, archives, and which container holds which image. *Out*: images ([`Image`]) and the
//! directories that make up a container's root ([`RootLayers`]). *Not here*: the registry's protocol (images/registry), the
//! files on disk (images/store), mounting, and CRI.
//!
//! Listing and finding answer from memory. An image that is being pulled is joined by whoever wants it too, and so is a
//! layer; no lock is held across input or output.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use images_registry::{Reference, Registry};
use images_store::{Pin, Root, Store, StoreError};
use oci_spec::image::ImageConfiguration;

mod error;
mod layers;
mod pipe;
mod progress;
mod pull;

use layers::Gates;
use pull::Flights;

pub use error::{ImageError, Kind};
pub use images_registry::{Auth, AuthFields, AuthFieldsError, Proxies, ProxyError, RegistryConfig, Secret};
pub use images_store::{Digest, Image, ImageLayer, RootAttributes};
pub use pipe::{PIPE_CHUNKS, PipeReader, PipeWriter, ReaderGone, pipe};

/// How the service is set up.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// The store's directory; made (0700) when missing. One process at a time.
    pub root: PathBuf,
    /// Mirrors and timeouts.
    pub registry: RegistryConfig,
    /// Images that the program carries in itself.
    pub embedded: Vec<Embedded>,
    /// Images that are never removed for room: names, short ones too, or beginnings of full ones with a `*` behind. Whoever
    /// removes one by its name is obeyed.
    pub pinned: Vec<String>,
    /// How many layers of all pulls are fetched and unpacked at once; 3 is a good number. Bounds memory too.
    pub layers_at_once: usize,
}

/// An image that the program carries in itself: made when its name is pulled and not in the store. No network.
#[derive(Clone)]
pub struct Embedded {
    /// Its full name.
    pub name: String,
    /// Says what it is made of: an image that was made of something else is made anew.
    pub revision: String,
    /// Makes the archive: a tar of an OCI image layout.
    pub archive: Arc<dyn Fn() -> std::io::Result<Vec<u8>> + Send + Sync>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, revision, .. } = self;
        f.debug_struct("Embedded").field("name", name).field("revision", revision).finish_non_exhaustive()
    }
}

/// What a container's root is made of. Pinned for its holder until [`Images::release`].
#[derive(Debug, Clone)]
pub struct RootLayers {
    /// Unpacked layers, the topmost first, each an absolute path.
    pub lowers: Vec<PathBuf>,
    /// What the image says of its root directory: for the container's own layer, which is what shows it.
    pub attributes: RootAttributes,
    /// The image's configuration.
    pub config: ImageConfiguration,
    /// The image.
    pub image: Arc<Image>,
}

/// What the store takes on its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// The store's directory.
    pub path: PathBuf,
    /// Bytes in allocated blocks.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// What [`Images::prune`] took away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneReport {
    /// Ids of the images that nobody holds any more.
    pub images: Vec<String>,
    /// Bytes freed.
    pub bytes: u64,
}

/// How a pull goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// The manifest is known.
    Resolved {
        /// Number of layers.
        layers: usize,
        /// Compressed bytes of all layers, those that are here already included.
        total_bytes: u64,
    },
    /// A layer's state changed.
    Layer {
        /// The blob's digest.
        digest: String,
        /// What it is doing.
        state: LayerState,
    },
    /// The image is complete and named.
    Done,
}

/// What a layer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// In the queue.
    Waiting,
    /// Bytes come and are unpacked as they come.
    Downloading {
        /// Compressed bytes so far.
        done: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// All bytes are here; the rest is unpacked and synced.
    Unpacking,
    /// Complete.
    Done,
    /// It was here before.
    Exists,
}

/// The image service. Clones share everything.
#[derive(Debug, Clone)]
pub struct Images(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    registry: Registry,
    embedded: Vec<Embedded>,
    /// Pulls on their way.
    flights: Flights,
    /// Layers on their way, and how many at once.
    gates: Gates,
}

impl Images {
    /// Opens the store (made when missing), takes its lock, throws half-made things away and reads what is there. Embedded
    /// images of another revision lose their names, so that whoever wants one makes it anew.
    ///
    /// # Errors
    /// Another process has the store open, or it can't be read.
    pub async fn open(config: ImagesConfig) -> Result<Self, ImageError> {
        let root = config.root.clone();
        let embedded = config.embedded.clone();
        let pins = config.pinned.iter().map(|name| pin(name)).collect::<Result<Vec<_>, _>>()?;
        let store = blocking("open the image store", move || {
            let store = Store::open(&root)?;
            store.pin(pins);
            forget_outdated(&store, &embedded)?;
            Ok(store)
        })
        .await?;
        Ok(Self(Arc::new(Shared {
            store: Arc::new(store),
            registry: Registry::new(config.registry),
            embedded: config.embedded,
            flights: Flights::default(),
            gates: Gates::new(config.layers_at_once),
        })))
    }

    /// Brings an image here: platform of this machine, short names as Docker reads them. Asks the registry even when the
    /// name is here already (a tag moves); layers that are here aren't fetched again. The same pull in flight is joined.
    /// Progress that isn't taken is thrown away, never waited for. Dropped, the pull stops, unless somebody else waits too.
    ///
    /// # Errors
    /// See [`Kind`].
    pub async fn pull(
        &self,
        reference: &str,
        auth: Option<Auth>,
        progress: Option<tokio::sync::mpsc::Sender<PullEvent>>,
    ) -> Result<Arc<Image>, ImageError> {
        let reference = parse(reference)?;
        if let Some(embedded) = self.embedded(&reference) {
            let image = self.pull_embedded(&embedded, &reference).await?;
            if let Some(progress) = progress {
                let _nobody_looks = progress.try_send(PullEvent::Done);
            }
            return Ok(image);
        }
        pull::join(&self.0, reference, auth, progress).await
    }

    fn embedded(&self, reference: &Reference) -> Option<Embedded> {
        let same =
            |embedded: &&Embedded| parse(&embedded.name).is_ok_and(|name| name.to_string() == reference.to_string());
        self.0.embedded.iter().find(same).cloned()
    }

    async fn pull_embedded(&self, embedded: &Embedded, reference: &Reference) -> Result<Arc<Image>, ImageError> {
        let name = reference.to_string();
        // Two at once would make the archive twice; the second finds the first one's image.
        let gate = self.0.gates.named(&name);
        let _turn = gate.lock().await;
        let current = self.0.store.revision(&name).as_ref() == Some(&embedded.revision);
        if current && let Some(image) = self.find(&name) {
            return Ok(image);
        }
        let make = embedded.archive.clone();
        let made = tokio::task::spawn_blocking(move || make()).await;
        let made = made.map_err(|_ended| ImageError::Thread { step: format!("assemble {name}") })?;
        let bytes = made.map_err(|source| ImageError::Embedded { name: name.clone(), source: Arc::new(source) })?;
        self.import(std::io::Cursor::new(bytes), Some(&name)).await?;
        let (store, revision, of) = (self.0.store.clone(), embedded.revision.clone(), name.clone());
        blocking(format!("keep {name}"), move || {
            store.set_revision(&of, &revision)?;
            // What the name meant before.
            store.collect().map(drop)
        })
        .await?;
        self.find(&name).ok_or_else(|| ImageError::not_found(&name))
    }

    /// Every image that has a name, sorted by its first name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        let mut images = self.0.store.list();
        images.sort_by(|one, other| first_name(one).cmp(first_name(other)));
        images
    }

    /// One image: by name (short forms too), `name@digest`, `sha256:` id, or hexadecimal id or unique beginning of it.
    #[must_use]
    pub fn find(&self, name_or_id: &str) -> Option<Arc<Image>> {
        const HEX_DIGITS: usize = 64;
        if let Some(hex) = name_or_id.strip_prefix("sha256:") {
            return if hex.len() == HEX_DIGITS { self.0.store.by_id(hex) } else { None };
        }
        if let Ok(reference) = parse(name_or_id)
            && let Some(image) = self.0.store.by_name(&full_name(&reference))
        {
            return Some(image);
        }
        let hexadecimal = !name_or_id.is_empty() && name_or_id.len() <= HEX_DIGITS;
        let digits = name_or_id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if hexadecimal && digits { self.0.store.by_id(name_or_id) } else { None }
    }

    /// Takes all names of an image away, and its bytes as soon as no container holds it. Nothing there is success.
    ///
    /// # Errors
    /// The disk's.
    pub async fn remove(&self, name_or_id: &str) -> Result<(), ImageError> {
        let Some(image) = self.find(name_or_id) else { return Ok(()) };
        let store = self.0.store.clone();
        blocking(format!("remove image {name_or_id}"), move || store.remove(&image)).await.map(drop)
    }

    /// Takes one name away; the image goes with its last one, as in [`Self::remove`].
    ///
    /// # Errors
    /// No valid name, or the disk's.
    pub async fn untag(&self, name: &str) -> Result<(), ImageError> {
        let name = full_name(&parse(name)?);
        let store = self.0.store.clone();
        blocking(format!("remove the name {name}"), move || store.untag(&name)).await.map(drop)
    }

    /// The layers of an image for a container, held for `holder` until [`Self::release`].
    ///
    /// # Errors
    /// No such image.
    pub fn root_for(&self, name_or_id: &str, holder: &str) -> Result<RootLayers, ImageError> {
        let found = self.find(name_or_id);
        // A nameless image is still found by its id: a container that is made anew may need it.
        let id = found.map_or_else(|| name_or_id.to_owned(), |image| image.id.clone());
        let root = self.0.store.hold(&id, holder).map_err(|_missing| ImageError::not_found(name_or_id))?;
        let Root { image, lowers, attributes } = root;
        Ok(RootLayers { lowers, attributes, config: image.config.clone(), image })
    }

    /// Holds an image for a container that was there before this process.
    ///
    /// # Errors
    /// No such image.
    pub fn hold(&self, id: &str, holder: &str) -> Result<(), ImageError> {
        self.root_for(id, holder).map(drop)
    }

    /// The holder needs its image no more. An image without names goes with its last holder, in the background.
    pub fn release(&self, holder: &str) {
        if !self.0.store.release(holder) {
            return;
        }
        let store = self.0.store.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || {
                if let Err(error) = store.collect() {
                    tracing::warn!(error = %error, "an image that nobody needs stays until the next removal");
                }
            });
        }
    }

    /// Reads an archive: an OCI image layout or what `docker save` writes, plain or compressed. With `name`, the archive's
    /// one image gets that name instead of those in the archive. Answers with the names (ids where there are none).
    ///
    /// # Errors
    /// The archive is broken, holds no image for this machine, or the disk's.
    pub async fn import(
        &self,
        archive: impl Read + Send + 'static,
        name: Option<&str>,
    ) -> Result<Vec<String>, ImageError> {
        let name = name.map(parse).transpose()?;
        let store = self.0.store.clone();
        let mut archive = archive;
        let work = move || import(&store, &mut archive, name.as_ref());
        let ended = tokio::task::spawn_blocking(work).await;
        ended.unwrap_or_else(|_ended| Err(ImageError::Thread { step: "import the archive".to_owned() }))
    }

    /// Writes images as a tar of an OCI image layout that `docker load` reads as well.
    ///
    /// # Errors
    /// No such image, or the writer's.
    pub async fn export(&self, names: &[String], out: impl Write + Send + 'static) -> Result<(), ImageError> {
        let mut images = Vec::new();
        for name in names {
            let image = self.find(name).ok_or_else(|| ImageError::not_found(name))?;
            // An image that was asked for by its id keeps the name that it has.
            let asked = parse(name).map(|reference| full_name(&reference)).ok();
            let known = asked.filter(|name| image.repo_tags.contains(name) || image.repo_digests.contains(name));
            let name = known.or_else(|| image.repo_tags.first().cloned());
            images.push((image, name));
        }
        let store = self.0.store.clone();
        let mut out = out;
        blocking("export", move || {
            let images: Vec<_> = images.iter().map(|(image, name)| (image.as_ref(), name.clone())).collect();
            store.export(&images, &mut out)
        })
        .await
    }

    /// One more name for an image.
    ///
    /// # Errors
    /// No such image, no valid name, or the disk's.
    pub async fn tag(&self, source: &str, target: &str) -> Result<(), ImageError> {
        let image = self.find(source).ok_or_else(|| ImageError::not_found(source))?;
        let name = full_name(&parse(target)?);
        let store = self.0.store.clone();
        blocking(format!("tag {source} as {name}"), move || store.tag(&image, &name)).await
    }

    /// What the store takes, from memory.
    #[must_use]
    pub fn usage(&self) -> FsUsage {
        let usage = self.0.store.usage();
        FsUsage { path: self.0.store.root().to_owned(), bytes: usage.bytes, inodes: usage.inodes }
    }

    /// Takes away every image that no container holds and nobody pinned, what no image needs, and what broken pulls left.
    ///
    /// # Errors
    /// The disk's.
    pub async fn prune(&self) -> Result<PruneReport, ImageError> {
        let store = self.0.store.clone();
        blocking("prune", move || {
            // Whoever prunes wants the room.
            let mut report = PruneReport { bytes: store.discard_beginnings(), ..PruneReport::default() };
            for image in store.list() {
                if image.pinned || store.is_held(&image) {
                    continue;
                }
                report.bytes = report.bytes.saturating_add(store.remove(&image)?.bytes);
                report.images.push(image.id.clone());
            }
            report.bytes = report.bytes.saturating_add(store.collect()?.bytes);
            Ok(report)
        })
        .await
    }
}

fn pin(name: &str) -> Result<Pin, ImageError> {
    match name.strip_suffix('*') {
        Some(beginning) => Ok(Pin::Beginning(beginning.to_owned())),
        None => Ok(Pin::Name(full_name(&parse(name)?))),
    }
}

/// Takes the names of embedded images away that were made of something else.
fn forget_outdated(store: &Store, embedded: &[Embedded]) -> Result<(), StoreError> {
    for embedded in embedded {
        let Ok(name) = parse(&embedded.name).map(|name| full_name(&name)) else { continue };
        if store.by_name(&name).is_some() && store.revision(&name).as_ref() != Some(&embedded.revision) {
            // Containers that run on it haven't said so yet.
            store.unname(&name)?;
        }
    }
    Ok(())
}

fn import(store: &Store, archive: &mut dyn Read, name: Option<&Reference>) -> Result<Vec<String>, ImageError> {
    let failed = || ImageError::store("import the archive");
    let mut lease = store.lease();
    let imported = store.import(archive, &mut lease).map_err(failed())?;
    if name.is_some() && imported.len() > 1 {
        return Err(ImageError::Several { count: imported.len() });
    }
    let mut answers = Vec::new();
    for image in imported {
        let names = match name {
            Some(name) => vec![full_name(name)],
            None => {
                image.names.iter().map(|name| parse(name).map(|name| full_name(&name))).collect::<Result<_, _>>()?
            }
        };
        let committed = store.commit(image.manifest, &names).map_err(failed())?;
        if names.is_empty() {
            answers.push(committed.id.clone());
        }
        answers.extend(names);
    }
    Ok(answers)
}

fn parse(name: &str) -> Result<Reference, ImageError> {
    name.parse().map_err(|error| ImageError::Reference(Arc::new(error)))
}

/// The name under which the store knows a reference: a digest decides over a tag.
fn full_name(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => reference.with_digest(digest.clone()).to_string(),
        None => reference.to_string(),
    }
}

fn first_name(image: &Image) -> &str {
    image.repo_tags.first().or(image.repo_digests.first()).unwrap_or(&image.id)
}

/// Runs what may wait for the disk on a thread that may wait.
async fn blocking<T: Send + 'static>(
    step: impl Into<String>,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ImageError> {
    let step = step.into();
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(ImageError::store(step)),
        Err(_ended) => Err(ImageError::Thread { step }),
    }
}

#[cfg(test)]
mod tests;
