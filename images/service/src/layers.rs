//! One layer: here already, or fetched and unpacked as it comes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use images_registry::{Auth, Descriptor, Reference};
use images_store::{Beginning, Begun, LayerSource, StoreError};
use tokio::sync::Semaphore;

use crate::progress::Progress;
use crate::{ImageError, Kind, LayerState, PullEvent, Shared, blocking, pipe};

/// A layer of a pull.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) descriptor: Descriptor,
    pub(crate) source: LayerSource,
}

/// Who works on what: two pulls that want the same layer fetch it once.
#[derive(Debug)]
pub(crate) struct Gates {
    at_once: Semaphore,
    named: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Gates {
    pub(crate) fn new(at_once: usize) -> Self {
        Self { at_once: Semaphore::new(at_once.max(1)), named: Mutex::default() }
    }

    /// The gate of this name: whoever holds it is alone.
    pub(crate) fn named(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_name, gate| gate.strong_count() > 0);
        if let Some(gate) = named.get(name).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::new(tokio::sync::Mutex::new(()));
        named.insert(name.to_owned(), Arc::downgrade(&gate));
        gate
    }
}

/// Sees to it that a layer is in the store, blob and tree.
pub(crate) async fn bring(
    shared: &Arc<Shared>,
    reference: &Reference,
    auth: Option<&Auth>,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<(), ImageError> {
    let source = wanted.source;
    let tell = |state| progress.tell(PullEvent::Layer { digest: source.digest.to_string(), state });
    let gate = shared.gates.named(&source.diff_id.to_string());
    let _turn = gate.lock().await;
    let (blob, tree) =
        (shared.store.has_blob(&source.digest, source.size_bytes), shared.store.has_layer(&source.diff_id));
    if blob && tree {
        tell(LayerState::Exists);
        return Ok(());
    }
    // Only closed with the service, which lives as long as we do.
    let _place = shared.gates.at_once.acquire().await.ok();
    if blob {
        tell(LayerState::Unpacking);
        let store = shared.store.clone();
        blocking(format!("unpack {reference}"), move || store.unpack_layer(&source)).await?;
    } else {
        fetch(shared, reference, auth, wanted, if tree { Keep::Blob } else { Keep::Both }, &tell).await?;
    }
    tell(LayerState::Done);
    Ok(())
}

/// What of a layer is missing.
#[derive(Debug, Clone, Copy)]
enum Keep {
    Blob,
    Both,
}

/// Fetches a layer, from where an earlier pull was broken off.
async fn fetch(
    shared: &Arc<Shared>,
    reference: &Reference,
    auth: Option<&Auth>,
    wanted: &Wanted,
    keep: Keep,
    tell: &(dyn Fn(LayerState) + Sync),
) -> Result<(), ImageError> {
    let beginning = match keep {
        Keep::Both => begin(shared, &wanted.source).await,
        Keep::Blob => None,
    };
    let had_bytes = beginning.as_ref().is_some_and(|beginning| beginning.bytes() > 0);
    let fetched = fetch_rest(shared, reference, auth, wanted, (keep, beginning), tell).await;
    match fetched {
        // A power cut may have left a beginning of zeros. It is gone now, and what the registry sends is the whole truth.
        Err(error @ ImageError::Store { .. }) if had_bytes && error.kind() == Kind::Invalid => {
            tracing::warn!(%reference, digest = %wanted.source.digest, error = error.chain(), "fetching from the start");
            let beginning = begin(shared, &wanted.source).await;
            fetch_rest(shared, reference, auth, wanted, (keep, beginning), tell).await
        }
        fetched => fetched,
    }
}

/// What is here of a layer; nothing where it is to be fetched whole. The thread of a pull that was given up a moment ago may
/// still be at it, and is waited for, no thread being held up.
async fn begin(shared: &Arc<Shared>, source: &LayerSource) -> Option<Beginning> {
    const TRIES_MAX: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(50);
    let (digest, size_bytes) = (source.digest, source.size_bytes);
    for _try in 0..TRIES_MAX {
        let store = shared.store.clone();
        let begun = tokio::task::spawn_blocking(move || store.begin(digest, size_bytes)).await;
        match begun.ok()? {
            Begun::Yours(beginning) => return Some(beginning),
            Begun::TooMany => return None,
            Begun::Taken => tokio::time::sleep(PAUSE).await,
        }
    }
    None
}

async fn fetch_rest(
    shared: &Arc<Shared>,
    reference: &Reference,
    auth: Option<&Auth>,
    wanted: &Wanted,
    (keep, beginning): (Keep, Option<Beginning>),
    tell: &(dyn Fn(LayerState) + Sync),
) -> Result<(), ImageError> {
    /// A bar moves often enough when each event stands for so many bytes.
    const EVENT_BYTES: u64 = 256 * 1024;
    let failed = |source| ImageError::Registry { reference: reference.to_string(), source: Arc::new(source) };
    let source = wanted.source;
    let total = source.size_bytes;
    let from_byte = beginning.as_ref().map_or(0, Beginning::bytes);
    tell(LayerState::Downloading { done: from_byte, total });
    let mut blob = shared.registry.blob(reference, &wanted.descriptor, auth, from_byte).await.map_err(failed)?;
    let (writer, mut reader) = pipe();
    let store = shared.store.clone();
    let step = format!("pull {reference}");
    let ingest = tokio::spawn(blocking(step.clone(), move || -> Result<(), StoreError> {
        match (keep, beginning) {
            (Keep::Both, Some(beginning)) => store.ingest_rest(&source, beginning, &mut reader),
            (Keep::Both, None) => store.ingest_layer(&source, &mut reader),
            (Keep::Blob, _) => store.ingest_blob(source.digest, source.size_bytes, &mut reader),
        }
    }));
    let ended = || ImageError::Thread { step: step.clone() };
    let mut told = 0;
    loop {
        match blob.next_chunk().await {
            Some(Ok(chunk)) => {
                // The reader has gone: what it says below is why.
                if writer.write(chunk).await.is_err() {
                    break;
                }
                let done = blob.position();
                if done >= told + EVENT_BYTES {
                    told = done;
                    tell(LayerState::Downloading { done, total });
                }
            }
            Some(Err(error)) => {
                drop(writer);
                // Its own error would only say that the bytes stopped; but the disk may have failed before.
                return match ingest.await.map_err(|_ended| ended())? {
                    Err(own) if !matches!(own.kind(), crate::Kind::Unreachable) => Err(own),
                    _stopped => Err(failed(error)),
                };
            }
            None => {
                tell(LayerState::Unpacking);
                let _reader_gone = writer.finish().await;
                break;
            }
        }
    }
    ingest.await.map_err(|_ended| ended())?
}
