//! One pod's loop: look, decide, write down, act, and sleep in one place.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kubelet_shim_manifest::Pod;
use kubelet_shim_reconcile::{Action, ConditionKind, Done, Event, Memory, Moment, Outcome, due, status, step};
use tokio::{
    sync::{Notify, broadcast, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    act::{Deed, Hands, Subject},
    clock::{self, Wall},
    observe::Observer,
    store::{self, Durability, Record, Source},
    view::{EventView, PodEvent, PodView},
    view_of,
};

/// How often the runtime is asked although its events flow: an event may be lost.
const RELIST: Duration = Duration::from_secs(10);
/// How often it is asked when it sends no events.
const RELIST_BLIND: Duration = Duration::from_secs(1);
/// Longest pause after questions that failed.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Most events that are kept of a pod.
const EVENTS_MAX: usize = 200;

/// What all pods share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hands: Hands,
    pub(crate) wall: Wall,
    pub(crate) boot: String,
    pub(crate) told: broadcast::Sender<PodEvent>,
    pub(crate) cancel: CancellationToken,
    /// The runtime's event stream flows.
    pub(crate) hears: AtomicBool,
}

/// A deletion that somebody asked for.
pub(crate) type Deletion = Option<(Moment, Duration)>;

/// How a pod's loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing of the pod is left.
    Gone,
    /// The keeper ends; the pod stays.
    Left,
}

/// One pod's loop.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) source: watch::Receiver<Source>,
    pub(crate) memory: Memory,
    pub(crate) deletion: watch::Receiver<Deletion>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) view: Arc<Mutex<PodView>>,
    pub(crate) since: BTreeMap<ConditionKind, Moment>,
}

impl Keep {
    pub(crate) async fn run(mut self) -> Ended {
        let cancel = self.shared.cancel.clone();
        tokio::select! {
            () = cancel.cancelled() => Ended::Left,
            () = self.keep() => Ended::Gone,
        }
    }

    async fn keep(&mut self) {
        let mut observer = Observer::new(self.shared.hands.cri.clone(), self.shared.wall);
        let mut tasks: JoinSet<Deed> = JoinSet::new();
        let mut done: Vec<Done> = Vec::new();
        let mut look = true;
        let mut saved: Option<Memory> = None;
        loop {
            if look {
                self.look(&mut observer).await;
                look = false;
            }
            if let Some((at, grace)) = *self.deletion.borrow_and_update() {
                self.memory.delete(at, grace);
            }
            let seen = observer.again(std::mem::take(&mut done));
            let actions = step(&self.pod, &mut self.memory, &seen, clock::now());
            if saved.as_ref() != Some(&self.memory) {
                let durability = if saved.is_none() { Durability::Disk } else { Durability::Process };
                self.save(durability).await;
                saved = Some(self.memory.clone());
            }
            if self.carry_out(actions, &mut tasks) {
                self.forget().await;
                return;
            }
            self.publish();
            let relist = if self.shared.hears.load(Ordering::Relaxed) { RELIST } else { RELIST_BLIND };
            let pause = due(&self.pod, &self.memory).map_or(relist, |due| due.since(clock::now()));
            tokio::select! {
                Some(deed) = tasks.join_next() => {
                    look |= self.take(deed, &mut done);
                    while let Some(deed) = tasks.try_join_next() {
                        look |= self.take(deed, &mut done);
                    }
                }
                () = self.wake.notified() => look = true,
                _ = self.deletion.changed() => {}
                // Written down again: the next keeper must know the file too.
                _ = self.source.changed() => saved = None,
                // The one place that sleeps. A moment that has come already costs a millisecond, never a busy loop.
                () = tokio::time::sleep(pause.clamp(Duration::from_millis(1), relist)) => look = pause >= relist,
            }
        }
    }

    /// Asks the runtime until it answers; tells once that it doesn't.
    async fn look(&mut self, observer: &mut Observer) {
        let mut pause = Duration::from_millis(50);
        let mut first: Option<Status> = None;
        while let Err(status) = observer.look(&self.pod).await {
            if first.is_none() {
                let message = format!("the runtime can't be asked about the pod: {}", status.message());
                self.tell(Event {
                    warning: true,
                    container: String::new(),
                    reason: "RuntimeNotReady".to_owned(),
                    message,
                });
                first = Some(status);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        if first.is_some() {
            let message = "the runtime answers again".to_owned();
            self.tell(Event { warning: false, container: String::new(), reason: "RuntimeReady".to_owned(), message });
        }
    }

    /// `true`: the pod is to be forgotten.
    fn carry_out(&mut self, actions: Vec<Action>, tasks: &mut JoinSet<Deed>) -> bool {
        let mut forget = false;
        for action in actions {
            match action {
                Action::Report(event) => self.tell(event),
                Action::Forget => forget = true,
                action => {
                    let told = status(&self.pod, &self.memory);
                    let subject = Subject {
                        pod: Arc::clone(&self.pod),
                        ip: told.ip,
                        sandbox_attempt: self.memory.sandbox_attempt(),
                    };
                    let shared = Arc::clone(&self.shared);
                    tasks.spawn(async move { shared.hands.act(subject, action).await });
                }
            }
        }
        forget
    }

    /// Takes in what an action came to. `true`: it may have changed something at the runtime.
    fn take(&mut self, deed: Result<Deed, tokio::task::JoinError>, done: &mut Vec<Done>) -> bool {
        let (answer, events) = match deed {
            Ok(deed) => deed,
            Err(error) => {
                tracing::error!(pod = %self.pod.key(), %error, "an action ended without an answer");
                return true;
            }
        };
        for event in events {
            self.tell(event);
        }
        let Some(answer) = answer else { return false };
        let changed = !matches!(answer.outcome, Outcome::Probed(..));
        done.push(answer);
        changed
    }

    async fn save(&self, durability: Durability) {
        let record = Record {
            boot: self.shared.boot.clone(),
            source: self.source.borrow().clone(),
            pod: Pod::clone(&self.pod),
            memory: self.memory.clone(),
        };
        let directory = self.shared.hands.config.state_dir.join("pods");
        let answer = tokio::task::spawn_blocking(move || store::save(&directory, &record, durability)).await;
        if let Ok(Err(error)) = answer {
            tracing::warn!(pod = %self.pod.key(), %error, "the pod's state can't be written down");
        }
    }

    async fn forget(&mut self) {
        if let Err(error) = self.shared.hands.clean(&self.pod).await {
            tracing::warn!(pod = %self.pod.key(), %error, "something of the pod is left on the host");
        }
        let directory = self.shared.hands.config.state_dir.join("pods");
        let uid = self.pod.metadata.uid.clone();
        let answer = tokio::task::spawn_blocking(move || store::remove(&directory, &uid)).await;
        if let Ok(Err(error)) = answer {
            tracing::warn!(pod = %self.pod.key(), %error, "the pod's state can't be removed");
        }
    }

    fn tell(&mut self, event: Event) {
        tracing::debug!(pod = %self.pod.key(), container = event.container, reason = event.reason, "{}", event.message);
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.shared.wall.of(clock::now());
        if let Some(last) = view.events.back_mut()
            && (&last.reason, &last.message, &last.container) == (&event.reason, &event.message, &event.container)
        {
            last.count = last.count.saturating_add(1);
            last.at = at;
            return;
        }
        if view.events.len() == EVENTS_MAX {
            view.events.pop_front();
        }
        view.events.push_back(EventView {
            at,
            count: 1,
            warning: event.warning,
            container: event.container,
            reason: event.reason,
            message: event.message,
        });
        // Told at once, not with the next change of state: a pod whose volume is missing has no next change, and who
        // waits for it would wait for ever. Nobody may listen.
        let changed = PodEvent::Changed(Box::new(view.clone()));
        drop(view);
        drop(self.shared.told.send(changed));
    }

    fn publish(&mut self) {
        let told = status(&self.pod, &self.memory);
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        for condition in &told.conditions {
            let old = view.conditions.iter().find(|old| old.kind == condition.kind);
            if old.is_none_or(|old| old.holds != condition.holds) {
                self.since.insert(condition.kind, now);
            }
        }
        let new = view_of::pod(&self.pod, &told, &self.since, self.shared.wall, view.events.clone());
        if *view != new {
            *view = new.clone();
            drop(view);
            drop(self.shared.told.send(PodEvent::Changed(Box::new(new))));
        }
    }
}
