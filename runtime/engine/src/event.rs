//! What happens, told to whoever listens.

use runtime_lifecycle::{ContainerId, SandboxId, Timestamp};

/// How many events a slow reader may fall behind before the oldest are thrown away and it is told so.
pub const EVENTS_BUFFERED_MAX: usize = 1024;

/// Something happened. The facts are read from the engine: an event only says where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// When, for display.
    pub at: Timestamp,
    /// To which sandbox.
    pub sandbox: SandboxId,
    /// To which container; `None`: to the sandbox itself.
    pub container: Option<ContainerId>,
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
