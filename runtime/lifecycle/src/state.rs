//! States that carry exactly the facts that are true in them, and the one way between them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Wall-clock nanoseconds since the epoch: for display and for order between records, never for a decision about time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

/// Time since the machine booted (`CLOCK_BOOTTIME`). What decisions use; comparable only within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootTime(pub Duration);

/// A process that can't be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The pid in the host's namespace.
    pub pid: i32,
    /// Clock ticks since boot, `/proc/PID/stat` field 22.
    pub start_ticks: u64,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + N after signal N.
    pub code: i32,
    /// In one word.
    pub reason: ExitReason,
    /// For people; empty if the code says it all.
    #[serde(default)]
    pub message: String,
}

/// Why a container ended, in CRI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// With code 0.
    Completed,
    /// With another code.
    Error,
    /// The kernel took it for want of memory.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// It never ran.
    StartError,
    /// Its supervisor was killed; the code is a guess.
    SupervisorLost,
    /// The machine was restarted under it; the code is a guess.
    Unknown,
}

impl ExitReason {
    /// The word that CRI clients know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::SupervisorLost => "SupervisorLost",
            Self::Unknown => "Unknown",
        }
    }
}

impl Exit {
    /// From what a supervisor saw.
    pub fn observed(code: i32, oom_killed: bool) -> Self {
        let reason = match (code, oom_killed) {
            (_, true) => ExitReason::OomKilled,
            (0, false) => ExitReason::Completed,
            (_, false) => ExitReason::Error,
        };
        Self { code, reason, message: String::new() }
    }

    /// For a program that couldn't be executed. 128, as other runtimes have it.
    pub fn start_error(message: String) -> Self {
        Self { code: 128, reason: ExitReason::StartError, message }
    }

    /// For a container whose supervisor died under it. 137: it was killed by us.
    pub fn supervisor_lost() -> Self {
        Self {
            code: 137,
            reason: ExitReason::SupervisorLost,
            message: "the pod's supervisor was killed; what still ran was killed with it".to_owned(),
        }
    }

    /// For a container of an earlier boot. 255, as other runtimes have it.
    pub fn rebooted() -> Self {
        Self { code: 255, reason: ExitReason::Unknown, message: "the machine was restarted".to_owned() }
    }
}

/// An event that a state doesn't allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not possible: it is {state}")]
pub struct Refused {
    /// The state's name.
    pub state: &'static str,
    /// The event's name.
    pub event: &'static str,
}

/// A sandbox.
///
/// ```text
/// Making ──Made──▶ Ready ──PauseDied──▶ NotReady
///   │                │                     │
///   │            StopAsked             StopAsked
///   │                ▼                     ▼
///   └─StopAsked─▶ Stopping ◀───────────────┘
///                    │ Torn
///                    ▼
///                 Stopped          (StopAsked again: stays)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SandboxState {
    /// The record is written; something of it may exist.
    Making,
    /// Containers may be made in it.
    Ready {
        /// The process that holds its namespaces.
        pause: ProcessIdentity,
    },
    /// Its pause process or its supervisor is gone; address and records are not released yet.
    NotReady {
        /// Why, for people.
        why: String,
    },
    /// Being torn down; resumed after a restart.
    Stopping,
    /// Nothing of it runs and its address is released.
    Stopped,
}

/// What happens to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxEvent {
    /// Namespaces, pause process and network stand.
    Made {
        /// The process that holds its namespaces.
        pause: ProcessIdentity,
    },
    /// The pause process or the supervisor ended by itself.
    PauseDied {
        /// Why, for people.
        why: String,
    },
    /// Somebody wants it gone.
    StopAsked,
    /// Nothing runs any more and the address is released.
    Torn,
}

impl SandboxState {
    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Making => "being made",
            Self::Ready { .. } => "ready",
            Self::NotReady { .. } => "not ready",
            Self::Stopping => "being stopped",
            Self::Stopped => "stopped",
        }
    }

    /// Whether containers may be made in it; CRI's two states.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// The state after `event`.
    pub fn after(self, event: SandboxEvent) -> Result<Self, Refused> {
        use SandboxEvent as E;
        match (self, event) {
            (Self::Making, E::Made { pause }) => Ok(Self::Ready { pause }),
            (Self::Making | Self::Ready { .. }, E::PauseDied { why }) => Ok(Self::NotReady { why }),
            // Said a second time, or while it is torn down anyway.
            (state @ (Self::NotReady { .. } | Self::Stopping | Self::Stopped), E::PauseDied { .. }) => Ok(state),
            (Self::Making | Self::Ready { .. } | Self::NotReady { .. } | Self::Stopping, E::StopAsked) => {
                Ok(Self::Stopping)
            }
            (Self::Stopped, E::StopAsked | E::Torn) => Ok(Self::Stopped),
            (Self::Stopping, E::Torn) => Ok(Self::Stopped),
            (state, event) => Err(Refused { state: state.name(), event: event.name() }),
        }
    }
}

impl SandboxEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Made { .. } => "being made ready",
            Self::PauseDied { .. } => "the end of the pause process",
            Self::StopAsked => "stopping",
            Self::Torn => "being torn down",
        }
    }
}

/// A container.
///
/// ```text
/// Creating ──Created──▶ Created ──StartAsked──▶ Starting ──Started──▶ Running ──StopAsked──▶ Stopping
///                          │                       │  └─StartFailed─┐    │                      │
///                          └──────────Died─────────┴──────Died──────┴────┴────────Died──────────┴──▶ Exited
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ContainerState {
    /// The record is written; something of it may exist.
    Creating,
    /// Checked and prepared; nothing runs.
    Created,
    /// The supervisor was asked; what came of it isn't known yet.
    Starting,
    /// Its first process runs.
    Running {
        /// That process.
        process: ProcessIdentity,
        /// When it was started.
        since: Timestamp,
    },
    /// It runs and was told to end.
    Stopping {
        /// Its first process.
        process: ProcessIdentity,
        /// When it was started.
        since: Timestamp,
        /// When it is killed if it doesn't end by itself.
        kill_at: BootTime,
    },
    /// It ended.
    Exited {
        /// How.
        exit: Exit,
        /// When it was started; `None` if it never ran.
        since: Option<Timestamp>,
        /// When it ended.
        until: Timestamp,
    },
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerEvent {
    /// The supervisor has checked and prepared it.
    Created,
    /// Somebody wants it started.
    StartAsked,
    /// Its program runs.
    Started {
        /// Its first process.
        process: ProcessIdentity,
        /// When.
        at: Timestamp,
    },
    /// Its program can't be executed.
    StartFailed {
        /// Why, for people.
        message: String,
        /// When.
        at: Timestamp,
    },
    /// The attempt to start it came to nothing and may be repeated.
    StartAbandoned,
    /// Somebody wants it gone by then.
    StopAsked {
        /// When it is killed if it doesn't end by itself.
        kill_at: BootTime,
    },
    /// It ended.
    Died {
        /// How.
        exit: Exit,
        /// When it was started, if whoever saw the end knows.
        since: Option<Timestamp>,
        /// When it ended.
        at: Timestamp,
    },
}

impl ContainerState {
    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Created => "created",
            Self::Starting => "being started",
            Self::Running { .. } => "running",
            Self::Stopping { .. } => "being stopped",
            Self::Exited { .. } => "exited",
        }
    }

    /// Whether its first process runs.
    pub fn process(&self) -> Option<ProcessIdentity> {
        match self {
            Self::Running { process, .. } | Self::Stopping { process, .. } => Some(*process),
            Self::Creating | Self::Created | Self::Starting | Self::Exited { .. } => None,
        }
    }

    /// The state after `event`.
    pub fn after(self, event: ContainerEvent) -> Result<Self, Refused> {
        use ContainerEvent as E;
        match (self, event) {
            (Self::Creating, E::Created) => Ok(Self::Created),
            (Self::Created, E::StartAsked) => Ok(Self::Starting),
            (Self::Starting, E::StartAbandoned) => Ok(Self::Created),
            // A very short program's end may be told before the answer that it was started.
            (Self::Exited { exit, since: None, until }, E::Started { at, .. }) => {
                Ok(Self::Exited { exit, since: Some(at), until })
            }
            // And that of one that couldn't be executed before the answer that says why.
            (Self::Exited { since: None, until, .. }, E::StartFailed { message, .. }) => {
                Ok(Self::Exited { exit: Exit::start_error(message), since: None, until })
            }
            (state @ Self::Exited { .. }, E::Started { .. } | E::Died { .. } | E::StopAsked { .. }) => Ok(state),
            (Self::Created | Self::Starting, E::Started { process, at }) => Ok(Self::Running { process, since: at }),
            // Told again after a reconnection.
            (state @ (Self::Running { .. } | Self::Stopping { .. }), E::Started { .. }) => Ok(state),
            (Self::Starting, E::StartFailed { message, at }) => {
                Ok(Self::Exited { exit: Exit::start_error(message), since: None, until: at })
            }
            (Self::Running { process, since }, E::StopAsked { kill_at }) => {
                Ok(Self::Stopping { process, since, kill_at })
            }
            // The sooner of two wishes holds: a second stop with less grace is how a client says "now".
            (Self::Stopping { process, since, kill_at }, E::StopAsked { kill_at: other }) => {
                Ok(Self::Stopping { process, since, kill_at: kill_at.min(other) })
            }
            (Self::Running { since, .. } | Self::Stopping { since, .. }, E::Died { exit, at, .. }) => {
                Ok(Self::Exited { exit, since: Some(since), until: at })
            }
            (Self::Created | Self::Starting, E::Died { exit, since, at }) => {
                Ok(Self::Exited { exit, since, until: at })
            }
            (state, event) => Err(Refused { state: state.name(), event: event.name() }),
        }
    }
}

impl ContainerEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Created => "being created",
            Self::StartAsked | Self::Started { .. } => "starting",
            Self::StartFailed { .. } | Self::StartAbandoned => "failing to start",
            Self::StopAsked { .. } => "stopping",
            Self::Died { .. } => "ending",
        }
    }
}

#[cfg(test)]
mod tests;
