//! What is on disk when a store opens.

use runtime_sys::fs as sys;

use super::record::LayerRecord;
use super::state::State;
use crate::digest::Digest;
use crate::disk::{Disk, subdirectory};
use crate::error::StoreError;

/// Finds the blobs.
pub(super) fn blobs(disk: &Disk, state: &mut State) -> Result<(), StoreError> {
    for entry in sys::read_directory(&disk.blobs).map_err(disk.failed("list the blobs"))? {
        let Some(digest) = entry.name.to_str().and_then(|name| Digest::from_hex(name).ok()) else { continue };
        let found = sys::fstatat(&disk.blobs, &entry.name).map_err(disk.failed("look at a blob"))?;
        if found.kind == sys::Kind::Regular {
            state.blobs.insert(digest, found.size_bytes);
        }
    }
    Ok(())
}

/// Finds the layers that are whole, and removes the others.
pub(super) fn layers(disk: &Disk, state: &mut State) -> Result<(), StoreError> {
    for entry in sys::read_directory(&disk.layers).map_err(disk.failed("list the layers"))? {
        let Some(diff_id) = entry.name.to_str().and_then(|name| Digest::from_hex(name).ok()) else { continue };
        let layer = subdirectory(&disk.layers, &diff_id.hex()).map_err(disk.failed("open a layer"))?;
        let record = disk.read_marker(&layer).ok();
        match record.and_then(|bytes| serde_json::from_slice::<LayerRecord>(&bytes).ok()) {
            Some(record) if record.diff_id == diff_id => {
                state.layers.insert(diff_id, record);
            }
            _no_marker => {
                tracing::warn!(%diff_id, "layer isn't whole and is removed");
                sys::remove_tree(&disk.layers, diff_id.hex()).map_err(disk.failed("remove a layer"))?;
            }
        }
    }
    Ok(())
}
