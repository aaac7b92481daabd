//! Which pods there are, and who wants what of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kubelet_shim_manifest::{Pod, PodKey};
use kubelet_shim_reconcile::{Memory, status};
use tokio::sync::{Notify, watch};

use crate::{
    AgentError, clock,
    keep::{Deletion, Ended, Keep, Shared},
    store::{Record, Source},
    view::{PodEvent, PodView},
    view_of,
};

/// Most pods of one keeper: Kubernetes' limit of 110 with room for a big host.
const PODS_MAX: usize = 1_000;

/// A pod that is kept.
#[derive(Debug)]
struct Entry {
    view: Arc<Mutex<PodView>>,
    /// Changes when its file is renamed.
    source: watch::Sender<Source>,
    revision: String,
    grace: Duration,
    deletion: watch::Sender<Deletion>,
    wake: Arc<Notify>,
    /// What runs under the key once this one is gone.
    next: Option<(Pod, Source)>,
    /// Closed when the pod is gone.
    alive: watch::Sender<()>,
}

impl Entry {
    fn delete(&self, grace: Option<Duration>) {
        let grace = grace.unwrap_or(self.grace);
        self.deletion.send_replace(Some((clock::now(), grace)));
    }

    fn is_deleting(&self) -> bool {
        self.deletion.borrow().is_some()
    }
}

/// All pods.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) shared: Arc<Shared>,
    pods: Mutex<BTreeMap<PodKey, Entry>>,
    seeds: Mutex<u64>,
    /// Counts the running loops; closed when the last one has ended.
    running: watch::Sender<usize>,
}

impl Registry {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let seed = shared.hands.config.seed;
        Self { shared, pods: Mutex::default(), seeds: Mutex::new(seed), running: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodKey, Entry>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> Memory {
        let mut seed = self.seeds.lock().unwrap_or_else(PoisonError::into_inner);
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Memory::new(*seed, self.shared.hands.config.tuning.clone())
    }

    /// Takes up what a former keeper had.
    pub(crate) fn resume(self: &Arc<Self>, record: Record) {
        let mut memory = record.memory;
        if record.boot == self.shared.boot {
            memory.resume();
        } else if memory.is_deleting() {
            // The reboot has ended what the deletion was to end.
            memory = self.fresh();
            memory.delete(clock::now(), Duration::ZERO);
        } else {
            memory = self.fresh();
        }
        let watched = self.shared.hands.config.manifests.is_some();
        let source = if watched { record.source } else { Source::Applied };
        self.launch(&mut self.lock(), record.pod, source, memory);
    }

    fn launch(self: &Arc<Self>, pods: &mut BTreeMap<PodKey, Entry>, pod: Pod, source: Source, mut memory: Memory) {
        memory.begin(&pod, clock::now());
        let key = pod.key();
        let shared = Arc::clone(&self.shared);
        let empty = view_of::pod(&pod, &status(&pod, &memory), &BTreeMap::new(), shared.wall, Default::default());
        let view = Arc::new(Mutex::new(empty));
        let wake = Arc::new(Notify::new());
        let deletion = watch::Sender::new(memory.is_deleting().then(|| (clock::now(), pod.grace)));
        let entry = Entry {
            view: Arc::clone(&view),
            source: watch::Sender::new(source),
            revision: pod.revision.clone(),
            grace: pod.grace,
            wake: Arc::clone(&wake),
            next: None,
            alive: watch::Sender::new(()),
            deletion,
        };
        let keep = Keep {
            shared,
            pod: Arc::new(pod),
            source: entry.source.subscribe(),
            memory,
            deletion: entry.deletion.subscribe(),
            wake,
            view,
            since: BTreeMap::new(),
        };
        pods.insert(key.clone(), entry);
        self.running.send_modify(|count| *count += 1);
        let registry = Arc::clone(self);
        tokio::spawn(async move {
            if keep.run().await == Ended::Gone {
                registry.gone(&key);
            }
            registry.running.send_modify(|count| *count -= 1);
        });
    }

    fn gone(self: &Arc<Self>, key: &PodKey) {
        let mut pods = self.lock();
        let next = pods.remove(key).and_then(|entry| entry.next);
        match next {
            Some((pod, source)) => self.launch(&mut pods, pod, source, self.fresh()),
            None => {
                drop(pods);
                drop(self.shared.told.send(PodEvent::Gone(key.clone())));
            }
        }
    }

    /// Runs a pod, or replaces the one of its key: stopped first, then started.
    fn want(self: &Arc<Self>, pods: &mut BTreeMap<PodKey, Entry>, pod: Pod, source: Source) {
        match pods.get_mut(&pod.key()) {
            Some(entry) if entry.revision == pod.revision && !entry.is_deleting() => {
                entry.next = None;
                // Else a mistake made in the renamed file would end the pod, since its former file is gone.
                entry.source.send_if_modified(|former| std::mem::replace(former, source.clone()) != source);
            }
            Some(entry) => {
                entry.next = Some((pod, source));
                if !entry.is_deleting() {
                    entry.delete(None);
                }
            }
            None => self.launch(pods, pod, source, self.fresh()),
        }
    }

    pub(crate) fn apply(self: &Arc<Self>, wanted: Vec<Pod>) -> Result<Vec<PodKey>, AgentError> {
        let mut pods = self.lock();
        let mut keys = BTreeSet::new();
        for pod in &wanted {
            let key = pod.key();
            if let Some(Source::File(file)) = pods.get(&key).map(|entry| entry.source.borrow().clone()) {
                return Err(AgentError::FromManifest { key, file });
            }
            if !keys.insert(key.clone()) {
                return Err(AgentError::Twice { key });
            }
        }
        let new = keys.iter().filter(|key| !pods.contains_key(key)).count();
        if pods.len() + new > PODS_MAX {
            return Err(AgentError::TooMany { max: PODS_MAX });
        }
        let order = wanted.iter().map(Pod::key).collect();
        for pod in wanted {
            self.want(&mut pods, pod, Source::Applied);
        }
        Ok(order)
    }

    /// Makes the watched directory's pods so. `files` are all files that are fine, in order; of those in `kept` the former
    /// pods stay, since the file can't be read now. Answers with what is refused, by file.
    pub(crate) fn mirror(
        self: &Arc<Self>,
        files: Vec<(PathBuf, Vec<Pod>)>,
        kept: &BTreeSet<PathBuf>,
    ) -> Vec<(PathBuf, String)> {
        let mut pods = self.lock();
        let mut refused = Vec::new();
        let mut wanted: BTreeMap<PodKey, PathBuf> = BTreeMap::new();
        for (file, documents) in files {
            for pod in documents {
                let key = pod.key();
                if let Some(other) = wanted.get(&key) {
                    refused
                        .push((file.clone(), format!("pod {key} stands in {} too; that one counts", other.display())));
                    continue;
                }
                let is_applied = pods
                    .get(&key)
                    .is_some_and(|entry| *entry.source.borrow() == Source::Applied && entry.next.is_none());
                if is_applied {
                    refused.push((file.clone(), format!("pod {key} was applied by hand; delete it first")));
                    continue;
                }
                if pods.len() >= PODS_MAX && !pods.contains_key(&key) {
                    refused.push((file.clone(), format!("there are {PODS_MAX} pods already")));
                    continue;
                }
                wanted.insert(key, file.clone());
                self.want(&mut pods, pod, Source::File(file.clone()));
            }
        }
        for (key, entry) in pods.iter_mut() {
            if let Source::File(file) = &*entry.source.borrow()
                && !wanted.contains_key(key)
                && !kept.contains(file)
            {
                entry.next = None;
                if !entry.is_deleting() {
                    entry.delete(None);
                }
            }
        }
        refused
    }

    pub(crate) async fn delete(&self, key: &PodKey, grace: Option<Duration>) -> Result<(), AgentError> {
        let mut alive = {
            let mut pods = self.lock();
            let entry = pods.get_mut(key).ok_or_else(|| AgentError::NoSuchPod { key: key.clone() })?;
            if let Source::File(file) = &*entry.source.borrow()
                && !entry.is_deleting()
            {
                return Err(AgentError::FromManifest { key: key.clone(), file: file.clone() });
            }
            entry.next = None;
            entry.delete(grace);
            entry.alive.subscribe()
        };
        // Fails when the sender is gone, and that is what is waited for.
        while alive.changed().await.is_ok() {}
        Ok(())
    }

    pub(crate) fn views(&self) -> Vec<PodView> {
        let views: Vec<_> = self.lock().values().map(|entry| Arc::clone(&entry.view)).collect();
        views.iter().map(|view| view.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    pub(crate) fn view(&self, key: &PodKey) -> Option<PodView> {
        let view = self.lock().get(key).map(|entry| Arc::clone(&entry.view))?;
        let view = view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(view)
    }

    /// Something happened to the pod of that uid (empty: to any).
    pub(crate) fn wake(&self, uid: &str) {
        for entry in self.lock().values() {
            let is_it = uid.is_empty() || entry.view.lock().is_ok_and(|view| view.uid == uid);
            if is_it {
                entry.wake.notify_one();
            }
        }
    }

    pub(crate) fn knows(&self, uid: &str) -> bool {
        self.lock().values().any(|entry| entry.view.lock().is_ok_and(|view| view.uid == uid))
    }

    pub(crate) fn delete_all(&self) {
        for entry in self.lock().values_mut() {
            entry.next = None;
            if !entry.is_deleting() {
                entry.delete(None);
            }
        }
    }

    /// Returns when no loop runs.
    pub(crate) async fn idle(&self) {
        // The sender lives in `self`.
        drop(self.running.subscribe().wait_for(|count| *count == 0).await);
    }
}
