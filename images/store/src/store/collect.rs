//! What nobody needs goes.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use runtime_sys::fs::{self as sys, Removal, RenameMode};

use super::Store;
use crate::digest::Digest;
use crate::disk::{MARKER, is_missing, subdirectory};
use crate::error::StoreError;

/// What went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Number of blobs.
    pub blobs: usize,
    /// Number of layers.
    pub layers: usize,
    /// Bytes on disk, about.
    pub bytes: u64,
}

/// One thing that may go.
#[derive(Debug, Clone, Copy)]
enum Rubbish {
    Blob(Digest),
    Layer(Digest),
}

impl Store {
    /// Removes blobs and layers that no name, no holder and no pull on its way needs, and what broken pulls left too long
    /// ago or too much of. Works on a full disk. Goes on after an error and tells the first.
    ///
    /// # Errors
    /// The disk's.
    pub fn collect(&self) -> Result<Collected, StoreError> {
        // Nameless images whose holders have gone leave the index first.
        self.change(|_records| {})?;
        let mut collected = Collected::default();
        let mut failure = None;
        collected.bytes = self.tidy_beginnings();
        for rubbish in self.rubbish() {
            match self.discard(rubbish, &mut collected) {
                Ok(None) => {}
                Ok(Some(name)) => {
                    let gone =
                        sys::remove_tree(&self.disk.ingest, name).map_err(self.disk.failed("remove what isn't needed"));
                    failure = failure.or(gone.err());
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        self.disk.reserve();
        failure.map_or(Ok(collected), Err)
    }

    fn rubbish(&self) -> Vec<Rubbish> {
        let mut state = self.state();
        let records: HashSet<Digest> = state.records.iter().map(|record| record.manifest).collect();
        let kept: HashSet<Digest> = state.leases.keys().chain(state.holders.values()).copied().collect();
        state.loaded.retain(|manifest, _loaded| records.contains(manifest) || kept.contains(manifest));
        let mut needed: HashSet<Digest> = HashSet::new();
        for loaded in state.loaded.values() {
            needed.extend([loaded.manifest, loaded.id]);
            needed.extend(&loaded.trees);
            needed.extend(loaded.layers.iter().flat_map(|layer| [layer.digest, layer.diff_id]));
        }
        let free = |digest: &&Digest| !needed.contains(*digest) && !state.leases.contains_key(*digest);
        let blobs = state.blobs.keys().filter(free).copied().map(Rubbish::Blob);
        let layers = state.layers.keys().filter(free).copied().map(Rubbish::Layer);
        blobs.chain(layers).collect()
    }

    /// Takes one thing out of sight; answers with its name in `ingest/`, where it is emptied without hurry.
    fn discard(&self, rubbish: Rubbish, collected: &mut Collected) -> Result<Option<String>, StoreError> {
        let (Rubbish::Blob(digest) | Rubbish::Layer(digest)) = rubbish;
        // One rename under the lock, so that nobody leases it between the question and the answer.
        let mut state = self.state();
        let wanted = state.loaded.values().any(|loaded| {
            loaded.manifest == digest
                || loaded.id == digest
                || loaded.trees.contains(&digest)
                || loaded.layers.iter().any(|layer| layer.digest == digest || layer.diff_id == digest)
        });
        if wanted || state.leases.contains_key(&digest) {
            return Ok(None);
        }
        let failed = |step: &str| self.disk.failed(format!("{step} {digest}"));
        let away = self.disk.fresh("away");
        match rubbish {
            Rubbish::Blob(_) => {
                sys::unlinkat(&self.disk.blobs, digest.hex(), Removal::File)
                    .or_else(ignore_missing)
                    .map_err(failed("remove blob"))?;
                collected.blobs += 1;
                collected.bytes = collected.bytes.saturating_add(state.blobs.remove(&digest).unwrap_or(0));
                Ok(None)
            }
            Rubbish::Layer(_) => {
                let hex = digest.hex();
                let renamed = sys::renameat2(&self.disk.layers, &hex, &self.disk.ingest, &away, RenameMode::Refuse);
                collected.layers += 1;
                collected.bytes =
                    collected.bytes.saturating_add(state.layers.remove(&digest).map_or(0, |record| record.bytes));
                match renamed {
                    Ok(()) => Ok(Some(away)),
                    // No room for one more name: it goes where it is, the marker first, so that it never counts as whole.
                    Err(error) if crate::disk::is_no_space(&error) => {
                        let here = self.unmark(&hex).map_err(failed("remove layer"))?;
                        drop(here);
                        sys::remove_tree(&self.disk.layers, &hex).map_err(failed("remove layer"))?;
                        Ok(None)
                    }
                    Err(error) if is_missing(&error) => Ok(None),
                    Err(error) => Err(failed("remove layer")(error)),
                }
            }
        }
    }

    fn unmark(&self, hex: &str) -> runtime_sys::SysResult<OwnedFd> {
        let layer = subdirectory(&self.disk.layers, hex)?;
        sys::unlinkat(&layer, MARKER, Removal::File).or_else(ignore_missing)?;
        Ok(layer)
    }
}

fn ignore_missing(error: runtime_sys::SysError) -> runtime_sys::SysResult<()> {
    if is_missing(&error) { Ok(()) } else { Err(error) }
}
