//! What is, in memory: the source of every list and status, and the way to change a state: decide, keep, write down.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use oci_spec::runtime::Process;
use runtime_lifecycle::{
    Claim, ContainerEvent, ContainerFilter, ContainerId, ContainerName, ContainerRecord, ContainerState, ID_DIGITS,
    Metadata, Names, SandboxEvent, SandboxFilter, SandboxId, SandboxRecord,
};
use tokio::sync::watch;

use crate::{
    EngineError,
    records::{self, PodDirectory, StoredContainer},
    supervisor::Link,
};

/// All sandboxes and containers.
#[derive(Debug, Default)]
pub(crate) struct World(RwLock<Maps>);

#[derive(Debug, Default)]
struct Maps {
    sandboxes: BTreeMap<SandboxId, Arc<Sandbox>>,
    containers: BTreeMap<ContainerId, Arc<Container>>,
    sandbox_names: Names<Metadata, SandboxId>,
    container_names: Names<ContainerName, ContainerId>,
}

/// One sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) dir: PodDirectory,
    record: RwLock<Arc<SandboxRecord>>,
    /// Held while the record is changed and written: two changes must lie on disk in their order.
    writing: Mutex<()>,
    /// Held by a verb that changes the sandbox as a whole.
    pub(crate) order: tokio::sync::Mutex<()>,
    link: RwLock<Option<Arc<Link>>>,
    /// The supervisor, if this process started it: to be reaped.
    pub(crate) child: Mutex<Option<Child>>,
    pub(crate) containers: Mutex<BTreeSet<ContainerId>>,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) sandbox: SandboxId,
    dir: PodDirectory,
    record: RwLock<Arc<ContainerRecord>>,
    writing: Mutex<()>,
    /// The first process's surroundings, for execs.
    pub(crate) process: Process,
    /// Held by a verb that changes the container.
    pub(crate) order: tokio::sync::Mutex<()>,
    /// `true` once it has ended.
    ended: watch::Sender<bool>,
    /// Ends that came while it was being started: told behind its beginning.
    early_ends: Mutex<Option<Vec<ContainerEvent>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded here is replaced whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(guarded: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    guarded.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(guarded: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    guarded.write().unwrap_or_else(PoisonError::into_inner)
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord, dir: PodDirectory) -> Self {
        Self {
            id: record.id.clone(),
            dir,
            record: RwLock::new(Arc::new(record)),
            writing: Mutex::default(),
            order: tokio::sync::Mutex::default(),
            link: RwLock::default(),
            child: Mutex::default(),
            containers: Mutex::default(),
        }
    }

    pub(crate) fn record(&self) -> Arc<SandboxRecord> {
        Arc::clone(&read(&self.record))
    }

    /// Writes the record down as it is.
    pub(crate) fn save(&self) -> Result<(), EngineError> {
        let _writing = lock(&self.writing);
        records::write(&self.dir.record(), &*self.record())
    }

    /// Changes facts beside the state.
    pub(crate) fn change(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<(), EngineError> {
        let _writing = lock(&self.writing);
        let mut record = SandboxRecord::clone(&self.record());
        change(&mut record);
        *write(&self.record) = Arc::new(record.clone());
        records::write(&self.dir.record(), &record)
    }

    /// Takes a step. Answers with the record after it, and whether anything changed.
    pub(crate) fn step(&self, event: SandboxEvent) -> Result<(Arc<SandboxRecord>, Changed), EngineError> {
        let _writing = lock(&self.writing);
        let before = self.record();
        let state = before
            .state
            .clone()
            .after(event)
            .map_err(|source| EngineError::SandboxRefused { id: self.id.clone(), source })?;
        if state == before.state {
            return Ok((before, Changed::No));
        }
        let record = Arc::new(SandboxRecord { state, ..SandboxRecord::clone(&before) });
        *write(&self.record) = Arc::clone(&record);
        records::write(&self.dir.record(), &*record)?;
        Ok((record, Changed::Yes))
    }

    /// The connection to the supervisor.
    pub(crate) fn link(&self) -> Result<Arc<Link>, EngineError> {
        read(&self.link).clone().ok_or_else(|| EngineError::SupervisorGone { id: self.id.clone() })
    }

    pub(crate) fn set_link(&self, link: Option<Arc<Link>>) {
        *write(&self.link) = link;
    }
}

/// Whether a step changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changed {
    Yes,
    No,
}

impl Container {
    pub(crate) fn new(stored: StoredContainer, dir: PodDirectory) -> Self {
        let ended = matches!(stored.record.state, ContainerState::Exited { .. });
        Self {
            id: stored.record.id.clone(),
            sandbox: stored.record.sandbox.clone(),
            dir,
            record: RwLock::new(Arc::new(stored.record)),
            writing: Mutex::default(),
            process: stored.process,
            order: tokio::sync::Mutex::default(),
            ended: watch::Sender::new(ended),
            early_ends: Mutex::default(),
        }
    }

    pub(crate) fn record(&self) -> Arc<ContainerRecord> {
        Arc::clone(&read(&self.record))
    }

    /// Writes the record down as it is.
    pub(crate) fn save(&self) -> Result<(), EngineError> {
        let _writing = lock(&self.writing);
        self.put(&self.record())
    }

    fn put(&self, record: &ContainerRecord) -> Result<(), EngineError> {
        let stored = StoredContainer { record, process: self.process.clone() };
        records::write(&self.dir.container(&self.id), &stored)
    }

    /// Takes a step. Answers with the record after it, and whether anything changed.
    pub(crate) fn step(&self, event: ContainerEvent) -> Result<(Arc<ContainerRecord>, Changed), EngineError> {
        let _writing = lock(&self.writing);
        let before = self.record();
        let state = before
            .state
            .clone()
            .after(event)
            .map_err(|source| EngineError::ContainerRefused { id: self.id.clone(), source })?;
        if state == before.state {
            return Ok((before, Changed::No));
        }
        let record = Arc::new(ContainerRecord { state, ..ContainerRecord::clone(&before) });
        *write(&self.record) = Arc::clone(&record);
        if matches!(record.state, ContainerState::Exited { .. }) {
            self.ended.send_replace(true);
        }
        self.put(&record)?;
        Ok((record, Changed::Yes))
    }

    /// Changes facts beside the state.
    pub(crate) fn change(&self, change: impl FnOnce(&mut ContainerRecord)) -> Result<(), EngineError> {
        let _writing = lock(&self.writing);
        let mut record = ContainerRecord::clone(&self.record());
        change(&mut record);
        *write(&self.record) = Arc::new(record.clone());
        self.put(&record)
    }

    /// From now on ends are kept back, until the answer is dropped, by a panic too: then they go to `tell`. Whoever starts
    /// the container has one.
    pub(crate) fn keep_ends<F: FnMut(ContainerEvent)>(&self, tell: F) -> KeptEnds<'_, F> {
        *lock(&self.early_ends) = Some(Vec::new());
        KeptEnds { container: self, tell }
    }

    /// Keeps an end back, or answers with it.
    pub(crate) fn keep_end(&self, end: ContainerEvent) -> Option<ContainerEvent> {
        match lock(&self.early_ends).as_mut() {
            Some(kept) => {
                kept.push(end);
                None
            }
            None => Some(end),
        }
    }

    /// Returns once it has ended.
    pub(crate) async fn ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    pub(crate) fn forget_files(&self) -> Result<(), EngineError> {
        records::remove(&self.dir.container(&self.id))?;
        records::remove(&self.dir.exit(&self.id))
    }
}

/// A container's ends are kept back while this lives.
pub(crate) struct KeptEnds<'a, F: FnMut(ContainerEvent)> {
    container: &'a Container,
    tell: F,
}

impl<F: FnMut(ContainerEvent)> Drop for KeptEnds<'_, F> {
    fn drop(&mut self) {
        let kept = lock(&self.container.early_ends).take();
        kept.into_iter().flatten().for_each(&mut self.tell);
    }
}

impl World {
    /// Takes the name; answers with who has it otherwise.
    pub(crate) fn claim_sandbox(&self, name: &Metadata, id: &SandboxId) -> Claim<SandboxId> {
        write(&self.0).sandbox_names.claim(name.clone(), id)
    }

    pub(crate) fn claim_container(&self, name: ContainerName, id: &ContainerId) -> Claim<ContainerId> {
        write(&self.0).container_names.claim(name, id)
    }

    pub(crate) fn release_container_name(&self, name: &ContainerName, id: &ContainerId) {
        write(&self.0).container_names.release(name, id);
    }

    pub(crate) fn release_sandbox_name(&self, name: &Metadata, id: &SandboxId) {
        write(&self.0).sandbox_names.release(name, id);
    }

    /// Whether a later attempt of the same pod is known.
    pub(crate) fn is_superseded(&self, name: &Metadata) -> bool {
        read(&self.0).sandbox_names.names().any(|other| {
            other.attempt > name.attempt
                && (&other.namespace, &other.name, &other.uid) == (&name.namespace, &name.name, &name.uid)
        })
    }

    pub(crate) fn add_sandbox(&self, sandbox: Arc<Sandbox>) {
        write(&self.0).sandboxes.insert(sandbox.id.clone(), sandbox);
    }

    pub(crate) fn add_container(&self, container: Arc<Container>) {
        let mut maps = write(&self.0);
        if let Some(sandbox) = maps.sandboxes.get(&container.sandbox) {
            lock(&sandbox.containers).insert(container.id.clone());
        }
        maps.containers.insert(container.id.clone(), container);
    }

    /// Forgets it and frees its name.
    pub(crate) fn drop_sandbox(&self, id: &SandboxId) {
        let mut maps = write(&self.0);
        if let Some(sandbox) = maps.sandboxes.remove(id) {
            maps.sandbox_names.release(&sandbox.record().config.metadata, id);
        }
    }

    /// Forgets it and frees its name.
    pub(crate) fn drop_container(&self, id: &ContainerId) {
        let mut maps = write(&self.0);
        if let Some(container) = maps.containers.remove(id) {
            maps.container_names.release(&name_of(&container.record()), id);
            if let Some(sandbox) = maps.sandboxes.get(&container.sandbox) {
                lock(&sandbox.containers).remove(id);
            }
        }
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> Result<Arc<Sandbox>, EngineError> {
        let found = read(&self.0).sandboxes.get(id).cloned();
        found.ok_or_else(|| EngineError::NoSuchSandbox { id: id.to_string() })
    }

    pub(crate) fn container(&self, id: &ContainerId) -> Result<Arc<Container>, EngineError> {
        let found = read(&self.0).containers.get(id).cloned();
        found.ok_or_else(|| EngineError::NoSuchContainer { id: id.to_string() })
    }

    pub(crate) fn count_containers(&self) -> usize {
        read(&self.0).containers.len()
    }

    pub(crate) fn containers_of(&self, sandbox: &Sandbox) -> Vec<Arc<Container>> {
        let ids = lock(&sandbox.containers).clone();
        let maps = read(&self.0);
        ids.iter().filter_map(|id| maps.containers.get(id).cloned()).collect()
    }

    pub(crate) fn sandboxes(&self, filter: &SandboxFilter) -> Vec<Arc<SandboxRecord>> {
        let all: Vec<_> = read(&self.0).sandboxes.values().cloned().collect();
        let mut shown: Vec<_> =
            all.iter().map(|sandbox| sandbox.record()).filter(|record| filter.shows(record)).collect();
        shown.sort_by_key(|record| record.created_at);
        shown
    }

    pub(crate) fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerRecord>> {
        let all: Vec<_> = read(&self.0).containers.values().cloned().collect();
        let mut shown: Vec<_> =
            all.iter().map(|container| container.record()).filter(|record| filter.shows(record)).collect();
        shown.sort_by_key(|record| record.created_at);
        shown
    }

    pub(crate) fn find_sandbox(&self, text: &str) -> Result<SandboxId, EngineError> {
        let none = || EngineError::NoSuchSandbox { id: text.chars().take(80).collect() };
        let low: SandboxId = lowest(text).and_then(|low| low.parse().ok()).ok_or_else(none)?;
        let maps = read(&self.0);
        unique(maps.sandboxes.range(low..).map(|(id, _)| id), SandboxId::as_str, text)
            .map_err(|found| found.unwrap_or_else(none))
    }

    pub(crate) fn find_container(&self, text: &str) -> Result<ContainerId, EngineError> {
        let none = || EngineError::NoSuchContainer { id: text.chars().take(80).collect() };
        let low: ContainerId = lowest(text).and_then(|low| low.parse().ok()).ok_or_else(none)?;
        let maps = read(&self.0);
        unique(maps.containers.range(low..).map(|(id, _)| id), ContainerId::as_str, text)
            .map_err(|found| found.unwrap_or_else(none))
    }
}

/// The first id that may begin with `text`.
fn lowest(text: &str) -> Option<String> {
    (!text.is_empty() && text.len() <= ID_DIGITS && text.is_ascii()).then(|| format!("{text:0<ID_DIGITS$}"))
}

fn unique<'a, I: Clone + 'a>(
    from: impl Iterator<Item = &'a I>,
    digits: fn(&I) -> &str,
    text: &str,
) -> Result<I, Option<EngineError>> {
    let mut matching = from.take_while(|id| digits(id).starts_with(text));
    let first = matching.next().ok_or(None)?;
    match matching.next() {
        None => Ok(first.clone()),
        Some(_) => Err(Some(EngineError::Ambiguous { text: text.to_owned() })),
    }
}

/// The name that a container holds.
pub(crate) fn name_of(record: &ContainerRecord) -> ContainerName {
    ContainerName { sandbox: record.sandbox.clone(), name: record.config.name.clone(), attempt: record.config.attempt }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use runtime_lifecycle::{ContainerId, Exit, RECORD_VERSION, Timestamp};

    use super::*;
    use crate::fixtures;

    fn container() -> Container {
        let (id, sandbox) = (ContainerId::from_random([1; 32]), SandboxId::from_random([2; 32]));
        let dir = PodDirectory::new("/nowhere".as_ref(), &sandbox);
        let config = fixtures::container();
        let record = ContainerRecord {
            version: RECORD_VERSION,
            id,
            sandbox,
            config,
            image_id: "i".to_owned(),
            volume_images: Vec::new(),
            created_at: Timestamp(0),
            log: "/log".into(),
            cgroup: "/c".to_owned(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            stop_signal: 15,
            resources: None,
            state: ContainerState::Starting,
        };
        Container::new(StoredContainer { record, process: Process::default() }, dir)
    }

    #[test]
    fn ends_that_were_kept_are_told_whatever_becomes_of_the_start() {
        let container = container();
        let end = || ContainerEvent::Died { exit: Exit::observed(0, false), since: None, at: Timestamp(1) };
        for start in [|| (), || panic!("as a test wants it")] {
            let mut told = Vec::new();
            let started = catch_unwind(AssertUnwindSafe(|| {
                let _kept = container.keep_ends(|end| told.push(end));
                assert_eq!(container.keep_end(end()), None);
                start();
            }));
            assert_eq!(told, [end()], "{started:?}");
            assert_eq!(container.keep_end(end()), Some(end()), "later ones are told at once");
        }
    }
}
