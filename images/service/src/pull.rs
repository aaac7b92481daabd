//! One pull: resolve, configuration, layers side by side, names.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{Shared as SharedFuture, WeakShared};
use images_registry::{Auth, Descriptor, DocumentError, Platform, Reference, RegistryError, Resolved};
use images_store::{Compression, Digest, Image, LayerSource};
use oci_spec::image::ImageConfiguration;
use tokio::sync::mpsc::Sender;

use crate::layers::{Wanted, bring};
use crate::progress::{CloseAtEnd, Progress};
use crate::{ImageError, LayerState, PullEvent, Shared, blocking, full_name};

type Outcome = Result<Arc<Image>, ImageError>;
type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Pulls on their way, to be joined.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<Vec<Flight>>);

#[derive(Debug)]
struct Flight {
    reference: String,
    /// Whoever has other credentials starts a pull of his own: the first one's may open more to him than his own do.
    auth: Option<Auth>,
    progress: Arc<Progress>,
    outcome: WeakShared<Running>,
}

/// Waits for a pull, one on its way or a new one. It goes on while anybody waits.
pub(crate) async fn join(
    shared: &Arc<Shared>,
    reference: Reference,
    auth: Option<Auth>,
    watcher: Option<Sender<PullEvent>>,
) -> Outcome {
    let outcome = {
        let mut flights = shared.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|flight| flight.outcome.upgrade().is_some_and(|outcome| outcome.peek().is_none()));
        let name = reference.to_string();
        let same = |flight: &&Flight| flight.reference == name && flight.auth == auth;
        let joined = flights.iter().find(same).and_then(|flight| Some((flight.outcome.upgrade()?, &flight.progress)));
        match joined {
            Some((outcome, progress)) => {
                watch(progress, watcher);
                outcome
            }
            None => {
                let progress = Arc::new(Progress::default());
                watch(&progress, watcher);
                let work: Running = Box::pin(pull(shared.clone(), reference, auth.clone(), progress.clone()));
                let outcome: SharedFuture<Running> = work.shared();
                if let Some(weak) = outcome.downgrade() {
                    flights.push(Flight { reference: name, auth, progress, outcome: weak });
                }
                outcome
            }
        }
    };
    outcome.await
}

fn watch(progress: &Progress, watcher: Option<Sender<PullEvent>>) {
    if let Some(watcher) = watcher {
        progress.watch(watcher);
    }
}

async fn pull(shared: Arc<Shared>, reference: Reference, auth: Option<Auth>, progress: Arc<Progress>) -> Outcome {
    let _closing = CloseAtEnd(progress.clone());
    let failed =
        |source: RegistryError| ImageError::Registry { reference: reference.to_string(), source: Arc::new(source) };
    let resolved = shared.registry.resolve(&reference, auth.as_ref(), &Platform::host()).await.map_err(failed)?;
    let config = resolved.manifest.config();
    let config_digest = digest(&reference, config)?;
    let config_bytes = shared.registry.small_blob(&reference, config, auth.as_ref()).await.map_err(failed)?;
    let layers = layers(&reference, &resolved, &config_bytes)?;
    let total_bytes = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.source.size_bytes));
    progress.tell(PullEvent::Resolved { layers: layers.len(), total_bytes });

    let store = shared.store.clone();
    let mut lease = store.lease();
    for layer in &layers {
        lease.protect(layer.source.digest);
        lease.protect(layer.source.diff_id);
        progress.tell(PullEvent::Layer { digest: layer.source.digest.to_string(), state: LayerState::Waiting });
    }
    let bringing = layers.iter().map(|layer| bring(&shared, &reference, auth.as_ref(), layer, &progress));
    // The first failure ends the others: their writers are dropped, their threads clean up.
    futures_util::future::try_join_all(bringing).await?;

    let manifest = resolved.documents.last().map(|document| document.bytes.clone()).unwrap_or_default();
    lease.protect(config_digest);
    lease.protect(Digest::of(&manifest));
    let names = names(&reference, &resolved);
    let step = format!("keep {reference}");
    let keeper = store.clone();
    let image = blocking(step, move || {
        keeper.put_blob(&config_bytes)?;
        let manifest = keeper.put_blob(&manifest)?;
        keeper.commit(manifest, &names)
    })
    .await?;
    drop(lease);
    progress.tell(PullEvent::Done);
    Ok(image)
}

fn digest(reference: &Reference, descriptor: &Descriptor) -> Result<Digest, ImageError> {
    let digest = descriptor.digest().to_string();
    digest.parse().map_err(|_other| ImageError::Algorithm { reference: reference.to_string(), digest })
}

/// Joins the manifest's layers with the configuration's digests of their contents.
fn layers(reference: &Reference, resolved: &Resolved, config: &[u8]) -> Result<Vec<Wanted>, ImageError> {
    let wrong = |source| {
        let digest = Digest::of(config);
        ImageError::store(format!("pull {reference}"))(images_store::StoreError::Document {
            digest,
            source: Box::new(source),
        })
    };
    let config: ImageConfiguration = serde_json::from_slice(config).map_err(|error| wrong(error.into()))?;
    fits(reference, &config)?;
    let (layers, diff_ids) = (resolved.manifest.layers(), config.rootfs().diff_ids());
    if layers.len() != diff_ids.len() {
        let (layers, diff_ids) = (layers.len(), diff_ids.len());
        return Err(wrong(images_store::DocumentError::LayerCount { layers, diff_ids }));
    }
    let wanted = layers.iter().zip(diff_ids).map(|(descriptor, diff_id)| {
        let digest = digest(reference, descriptor)?;
        let media_type = descriptor.media_type().to_string();
        let Some(compression) = Compression::of_media_type(&media_type) else {
            return Err(wrong(images_store::DocumentError::MediaType { digest, media_type }));
        };
        Ok(Wanted {
            descriptor: descriptor.clone(),
            source: LayerSource {
                digest,
                size_bytes: descriptor.size(),
                diff_id: diff_id.parse().map_err(|error| wrong(images_store::DocumentError::Digest(error)))?,
                compression: Some(compression),
            },
        })
    });
    wanted.collect()
}

/// An image that no index stands before says only here what it is for. Without a word it is taken for ours.
fn fits(reference: &Reference, config: &ImageConfiguration) -> Result<(), ImageError> {
    let host = Platform::host();
    let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
    if ["", "linux"].contains(&os.as_str()) && ["", host.architecture.as_str()].contains(&architecture.as_str()) {
        return Ok(());
    }
    let offered =
        format!("{os}/{architecture}").chars().filter(|c| !c.is_control()).take(OFFERED_CHARACTERS_MAX).collect();
    let source = Box::new(DocumentError::NoPlatform { wanted: host.to_string(), offered });
    let source = Arc::new(RegistryError::Document { reference: reference.to_string(), source });
    Err(ImageError::Registry { reference: reference.to_string(), source })
}

/// How much of a hostile platform is shown, in characters.
const OFFERED_CHARACTERS_MAX: usize = 80;

/// The name that was asked for, and the same repository with the digest that it means now.
fn names(reference: &Reference, resolved: &Resolved) -> Vec<String> {
    let asked = full_name(reference);
    let pinned = reference.with_digest(resolved.digest.clone()).to_string();
    if asked == pinned { vec![asked] } else { vec![asked, pinned] }
}
