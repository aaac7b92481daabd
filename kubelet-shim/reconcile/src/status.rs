//! The pod's state in Kubernetes' words.

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers have been started once.
    Pending,
    /// At least one container runs or will run.
    Running,
    /// All containers ended with 0 and stay ended.
    Succeeded,
    /// All containers ended, at least one not with 0, and stay ended.
    Failed,
}

/// `status.conditions[].type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionKind {
    /// The sandbox and its network stand.
    PodReadyToStartContainers,
    /// The init containers are done.
    Initialized,
    /// Every container is ready.
    ContainersReady,
    /// The pod is ready.
    Ready,
}

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerKind {
    /// Runs to its end before the main ones.
    Init,
    /// An init container that keeps running.
    Sidecar,
    /// A regular container.
    Main,
}

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProbeKind {
    /// `startupProbe`
    Startup,
    /// `livenessProbe`
    Liveness,
    /// `readinessProbe`
    Readiness,
}

impl ProbeKind {
    /// As events name it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The exit code.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// Details; may be empty.
    pub message: String,
    /// When the run began.
    pub started: Moment,
    /// When it ended.
    pub finished: Moment,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Not running, and will be.
    Waiting {
        /// Kubernetes' word.
        reason: String,
        /// Details; may be empty.
        message: String,
    },
    /// Running since then.
    Running(Moment),
    /// Ended.
    Terminated(End),
}

/// A container's part of the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: ContainerKind,
    /// The newest container's id.
    pub id: Option<String>,
    /// The number of the newest run, from 0.
    pub attempt: u32,
    /// Ready to serve.
    pub ready: bool,
    /// Past its startup probe.
    pub started: bool,
    /// Starts after the first.
    pub restarts: u32,
    /// What it does.
    pub state: ContainerState,
    /// How the former run ended.
    pub last: Option<End>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Which.
    pub kind: ConditionKind,
    /// Its status.
    pub holds: bool,
    /// Why not; empty when it holds.
    pub reason: String,
}

/// The pod's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// The phase.
    pub phase: Phase,
    /// Why, when the pod as a whole failed.
    pub reason: String,
    /// All four conditions.
    pub conditions: Vec<Condition>,
    /// The pod's address.
    pub ip: Option<String>,
    /// The sandbox's id.
    pub sandbox: Option<String>,
    /// When the pod was taken up.
    pub since: Moment,
    /// A deletion was asked for.
    pub deleting: bool,
    /// Init containers first.
    pub containers: Vec<ContainerStatus>,
}
