//! What happens, told to whoever listens.

use std::sync::{Arc, Mutex};

use runtime_lifecycle::{ContainerId, ContainerRecord, SandboxId, SandboxRecord, Timestamp};
use tokio::sync::broadcast;

use crate::{
    Engine, now,
    world::{Sandbox, lock},
};

/// How many events a slow reader may fall behind before the oldest are thrown away and it is told so.
pub const EVENTS_BUFFERED_MAX: usize = 1024;

/// Something happened, with the records as they were when it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// When, for display. Later than that of every event told before, also when the clock was set back.
    pub at: Timestamp,
    /// To which sandbox.
    pub sandbox: SandboxId,
    /// To which container; `None`: to the sandbox itself.
    pub container: Option<ContainerId>,
    /// The sandbox; `None`: removed meanwhile.
    pub pod: Option<Arc<SandboxRecord>>,
    /// Its containers.
    pub containers: Vec<Arc<ContainerRecord>>,
}

/// What happened, in CRI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was made.
    Created,
    /// It runs.
    Started,
    /// It ended.
    Stopped,
    /// It is gone.
    Deleted,
}

/// Tells events in one order.
#[derive(Debug)]
pub(crate) struct Teller {
    sender: broadcast::Sender<Event>,
    /// The moment of the last one. Held while records are looked at and sent: a later event never shows an earlier state.
    last: Mutex<Timestamp>,
}

impl Default for Teller {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(EVENTS_BUFFERED_MAX), last: Mutex::new(Timestamp(0)) }
    }
}

impl Engine {
    /// What happens from now on. A reader that falls behind by [`EVENTS_BUFFERED_MAX`] is told how many it missed
    /// (`RecvError::Lagged`) and must list anew.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.teller.sender.subscribe()
    }

    pub(crate) fn tell(&self, kind: EventKind, sandbox: &SandboxId, container: Option<&ContainerId>) {
        if self.teller.sender.receiver_count() > 0 {
            self.send(kind, sandbox, self.world.sandbox(sandbox).ok().as_deref(), container);
        }
    }

    /// The same of a sandbox that isn't in the world any more.
    pub(crate) fn tell_of(&self, kind: EventKind, sandbox: &Sandbox) {
        self.send(kind, &sandbox.id, Some(sandbox), None);
    }

    fn send(&self, kind: EventKind, id: &SandboxId, sandbox: Option<&Sandbox>, container: Option<&ContainerId>) {
        let mut last = lock(&self.teller.last);
        *last = Timestamp(now().0.max(last.0.saturating_add(1)));
        let containers = sandbox.map(|sandbox| self.world.containers_of(sandbox)).unwrap_or_default();
        let event = Event {
            kind,
            at: *last,
            sandbox: id.clone(),
            container: container.cloned(),
            pod: sandbox.map(Sandbox::record),
            containers: containers.iter().map(|container| container.record()).collect(),
        };
        // Nobody listening is no error.
        let _ = self.teller.sender.send(event);
    }
}
