//! How much the writable layers take. Walked, since the kernel doesn't count it, and so told as last seen: a list of
//! statistics never waits for a large layer.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use runtime_lifecycle::{ContainerId, Timestamp};
use runtime_sys::fs::{TreeLimits, TreeUsage, tree_usage};

use crate::{boot_time, now, world::lock};

/// A layer that is seen for the first time is walked at once, up to here: most have a handful of files.
const AT_ONCE: TreeLimits = TreeLimits { entries_max: 500, time_max: Duration::from_millis(5) };

/// How far a layer is walked behind everybody's back.
const IN_FULL: TreeLimits = TreeLimits { entries_max: 2_000_000, time_max: Duration::from_secs(60) };

/// How often a layer is walked at most.
const PERIOD: Duration = Duration::from_secs(10);

/// Of the time that one walk took, how many times as long the next one is put off: walking takes a twentieth of a processor
/// at most.
const REST: u32 = 20;

/// How much a writable layer takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerUsage {
    /// The directory that it is in, with those of other containers. Absolute.
    pub path: PathBuf,
    /// When it was seen so, for display.
    pub at: Timestamp,
    /// Bytes in allocated blocks; `None`: not known yet, or it is too large to be walked.
    pub bytes: Option<u64>,
    /// Files and directories.
    pub inodes: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Layers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    seen: HashMap<ContainerId, Seen>,
    /// To be walked, the next one first.
    queue: VecDeque<(ContainerId, PathBuf)>,
    walking: bool,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    usage: Option<TreeUsage>,
    at: Timestamp,
    /// Time since boot from which it is walked again.
    stale_from: Duration,
    queued: bool,
}

impl Layers {
    /// As last seen. Blocks for a few milliseconds at most; [`Self::walk`] does what is put off.
    pub(super) fn usage(&self, id: &ContainerId, path: PathBuf) -> LayerUsage {
        let clock = boot_time().0;
        let known = {
            let mut kept = lock(&self.0);
            let kept = &mut *kept;
            kept.seen.get_mut(id).map(|seen| {
                if seen.stale_from <= clock && !seen.queued {
                    seen.queued = true;
                    kept.queue.push_back((id.clone(), path.clone()));
                }
                *seen
            })
        };
        let seen = known.unwrap_or_else(|| self.first(id, &path, clock));
        LayerUsage {
            path,
            at: seen.at,
            bytes: seen.usage.map(|usage| usage.bytes),
            inodes: seen.usage.map(|u| u.inodes),
        }
    }

    fn first(&self, id: &ContainerId, path: &Path, clock: Duration) -> Seen {
        let usage = walk(path, AT_ONCE).ok().flatten();
        let queued = usage.is_none();
        let seen = Seen { usage, at: now(), stale_from: clock + PERIOD, queued };
        let mut kept = lock(&self.0);
        kept.seen.insert(id.clone(), seen);
        if queued {
            kept.queue.push_back((id.clone(), path.to_owned()));
        }
        seen
    }

    /// Walks what is put off, on a blocking thread of its own; one at a time.
    pub(super) fn walk_behind(self: &Arc<Self>) {
        {
            let mut kept = lock(&self.0);
            if kept.walking || kept.queue.is_empty() {
                return;
            }
            kept.walking = true;
        }
        let layers = Arc::clone(self);
        tokio::task::spawn_blocking(move || layers.walk_queue());
    }

    fn walk_queue(&self) {
        loop {
            let (id, path) = {
                let mut kept = lock(&self.0);
                match kept.queue.pop_front() {
                    Some(next) => next,
                    None => {
                        kept.walking = false;
                        return;
                    }
                }
            };
            let began = boot_time().0;
            let walked = walk(&path, IN_FULL);
            let ended = boot_time().0;
            let rest = PERIOD.max(ended.saturating_sub(began) * REST);
            let mut kept = lock(&self.0);
            match walked {
                Ok(usage) => {
                    let seen = Seen { usage, at: now(), stale_from: ended + rest, queued: false };
                    kept.seen.insert(id, seen);
                }
                // Its container is removed.
                Err(_) => drop(kept.seen.remove(&id)),
            }
        }
    }

    /// Forgets those that are not `alive`.
    pub(super) fn keep(&self, alive: impl Fn(&ContainerId) -> bool) {
        lock(&self.0).seen.retain(|id, _| alive(id));
    }

    /// How many are known.
    pub(super) fn known(&self) -> usize {
        lock(&self.0).seen.len()
    }
}

fn walk(path: &Path, limits: TreeLimits) -> io::Result<Option<TreeUsage>> {
    let top = File::open(path)?;
    tree_usage(&top, limits).map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_ones_at_once_large_ones_later_gone_ones_never() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (small, large) = (directory.path().join("small"), directory.path().join("large"));
        std::fs::create_dir_all(&small).expect("a directory");
        std::fs::write(small.join("file"), vec![7; 50_000]).expect("a file");
        for number in 0..600 {
            std::fs::create_dir_all(large.join(format!("{number}"))).expect("a directory");
        }
        let layers = Arc::new(Layers::default());
        let id = |seed| ContainerId::from_random([seed; 32]);
        let told = layers.usage(&id(1), small.clone());
        assert_eq!((told.inodes, told.bytes.map(|bytes| bytes >= 50_000)), (Some(2), Some(true)), "{told:?}");
        assert_eq!(layers.usage(&id(2), large.clone()).inodes, None);
        layers.walk_behind();
        let until = boot_time().0 + Duration::from_secs(10);
        while layers.usage(&id(2), large.clone()).inodes.is_none() && boot_time().0 < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(layers.usage(&id(2), large.clone()).inodes, Some(601));
        // As last seen, though it has changed.
        std::fs::create_dir(large.join("more")).expect("a directory");
        assert_eq!(layers.usage(&id(2), large).inodes, Some(601));
        layers.keep(|kept| *kept == id(1));
        assert_eq!(layers.known(), 1);
    }
}
