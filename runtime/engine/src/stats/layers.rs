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

/// Most time that a list spends on layers that it sees for the first time; the rest are walked behind it. A daemon that was
/// just started sees all of them so.
const LIST_TIME_MAX: Duration = Duration::from_millis(25);

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

/// What one list may still spend on walking.
#[derive(Debug)]
pub(super) struct Budget {
    /// Time since boot.
    until: Duration,
}

impl Budget {
    /// For a list that begins now.
    pub(super) fn of_a_list() -> Self {
        Self { until: boot_time().0 + LIST_TIME_MAX }
    }

    /// How far one layer may be walked now; not at all when the time is spent.
    fn limits(&self) -> Option<TreeLimits> {
        let left = self.until.saturating_sub(boot_time().0);
        (!left.is_zero()).then(|| TreeLimits { time_max: left.min(AT_ONCE.time_max), ..AT_ONCE })
    }
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
    /// As last seen. Blocks for a few milliseconds at most, all calls with one budget together no longer than that lasts;
    /// [`Self::walk_behind`] does what is put off.
    pub(super) fn usage(&self, id: &ContainerId, path: PathBuf, budget: &Budget) -> LayerUsage {
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
        let seen = known.unwrap_or_else(|| self.first(id, &path, clock, budget));
        LayerUsage {
            path,
            at: seen.at,
            bytes: seen.usage.map(|usage| usage.bytes),
            inodes: seen.usage.map(|u| u.inodes),
        }
    }

    fn first(&self, id: &ContainerId, path: &Path, clock: Duration, budget: &Budget) -> Seen {
        let usage = budget.limits().and_then(|limits| walk(path, limits).ok().flatten());
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
        tokio::task::spawn_blocking(move || layers.walk_queue(walk));
    }

    fn walk_queue(&self, walk: impl Fn(&Path, TreeLimits) -> io::Result<Option<TreeUsage>>) {
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
            let unfinished = Unfinished { layers: self, id: &id };
            let walked = walk(&path, IN_FULL);
            std::mem::forget(unfinished);
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

/// A walk that panicked: the next list begins it anew, and walks what was behind it.
struct Unfinished<'a> {
    layers: &'a Layers,
    id: &'a ContainerId,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let mut kept = lock(&self.layers.0);
        kept.walking = false;
        if let Some(seen) = kept.seen.get_mut(self.id) {
            // Not at once: it would panic again.
            seen.stale_from = boot_time().0 + PERIOD;
            seen.queued = false;
        }
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
        let budget = Budget { until: Duration::MAX };
        let told = layers.usage(&id(1), small.clone(), &budget);
        assert_eq!((told.inodes, told.bytes.map(|bytes| bytes >= 50_000)), (Some(2), Some(true)), "{told:?}");
        assert_eq!(layers.usage(&id(2), large.clone(), &budget).inodes, None);
        layers.walk_behind();
        let until = boot_time().0 + Duration::from_secs(10);
        while layers.usage(&id(2), large.clone(), &budget).inodes.is_none() && boot_time().0 < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(layers.usage(&id(2), large.clone(), &budget).inodes, Some(601));
        // As last seen, though it has changed.
        std::fs::create_dir(large.join("more")).expect("a directory");
        assert_eq!(layers.usage(&id(2), large, &budget).inodes, Some(601));
        layers.keep(|kept| *kept == id(1));
        assert_eq!(layers.known(), 1);
    }

    fn usage(inodes: u64) -> TreeUsage {
        TreeUsage { bytes: 0, inodes }
    }

    #[tokio::test]
    async fn a_list_walks_no_longer_than_its_budget_lasts() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let layers = Arc::new(Layers::default());
        let id = |seed| ContainerId::from_random([seed; 32]);
        let spent = Budget { until: Duration::ZERO };
        assert!(spent.limits().is_none());
        let whole = Budget::of_a_list().limits().expect("it has just begun");
        assert!(whole.time_max <= AT_ONCE.time_max && !whole.time_max.is_zero());
        for seed in 0..3 {
            assert_eq!(layers.usage(&id(seed), directory.path().to_owned(), &spent).inodes, None);
        }
        // Behind it, and then they are known whatever a list may spend.
        layers.walk_queue(walk);
        for seed in 0..3 {
            assert_eq!(layers.usage(&id(seed), directory.path().to_owned(), &spent).inodes, Some(1));
        }
    }

    #[test]
    fn a_walk_that_panics_is_not_the_last() {
        let layers = Layers::default();
        let spent = Budget { until: Duration::ZERO };
        let id = |seed| ContainerId::from_random([seed; 32]);
        for seed in 0..2 {
            layers.usage(&id(seed), PathBuf::from("/nowhere"), &spent);
        }
        lock(&layers.0).walking = true;
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            layers.walk_queue(|_path, _limits| panic!("as a test wants it"));
        }));
        assert!(panicked.is_err());
        let kept = lock(&layers.0);
        assert_eq!((kept.walking, kept.queue.len(), kept.seen[&id(0)].queued), (false, 1, false));
        drop(kept);
        layers.walk_queue(|_path, _limits| Ok(Some(usage(7))));
        assert_eq!(layers.usage(&id(1), PathBuf::from("/nowhere"), &spent).inodes, Some(7));
    }
}
