//! What the keeper tells about its pods.

use std::{collections::VecDeque, net::IpAddr, time::SystemTime};

pub use kubelet_shim_manifest::PodKey;
pub use kubelet_shim_reconcile::{ConditionKind, ContainerKind, Phase, ProbeKind};

/// A pod as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct PodView {
    /// Namespace and name.
    pub key: PodKey,
    /// The pod's uid.
    pub uid: String,
    /// SHA-256 of the manifest that runs.
    pub revision: String,
    /// The file that it came from, as given to the manifest parser.
    pub file: String,
    /// Pending, Running, Succeeded or Failed.
    pub phase: Phase,
    /// Why the whole pod is in that phase, such as `DeadlineExceeded`; mostly empty.
    pub reason: String,
    /// The conditions, in the order of Kubernetes.
    pub conditions: Vec<ConditionView>,
    /// The pod's address; the host's own for pods on the host's network is `127.0.0.1`.
    pub ip: Option<IpAddr>,
    /// The sandbox's id at the runtime.
    pub sandbox: Option<String>,
    /// `true` from the request to delete it on.
    pub deleting: bool,
    /// When the keeper took it up.
    pub since: SystemTime,
    /// Init containers first.
    pub containers: Vec<ContainerView>,
    /// The newest events, oldest first; at most 200.
    pub events: VecDeque<EventView>,
}

impl PodView {
    /// Whether the condition `Ready` holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.iter().any(|condition| condition.kind == ConditionKind::Ready && condition.holds)
    }

    /// Whether the pod has ended by itself and stays ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionView {
    /// Which.
    pub kind: ConditionKind,
    /// Its status.
    pub holds: bool,
    /// Kubernetes' word for why not; empty when it holds.
    pub reason: String,
    /// The last change.
    pub since: SystemTime,
}

/// A container as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    /// Its name.
    pub name: String,
    /// Init, sidecar or main.
    pub kind: ContainerKind,
    /// The image as written.
    pub image: String,
    /// The newest container's id at the runtime.
    pub id: Option<String>,
    /// Which of its runs the newest one is, from 0: the name of its log file.
    pub attempt: u32,
    /// Ready to serve.
    pub ready: bool,
    /// Past its startup probe.
    pub started: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// What it does now.
    pub state: StateView,
    /// How its former run ended.
    pub last: Option<EndView>,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateView {
    /// Not running, and will be.
    Waiting {
        /// `ContainerCreating`, `PodInitializing`, `CrashLoopBackOff`, `ErrImagePull`, `ImagePullBackOff`, …
        reason: String,
        /// Details; may be empty.
        message: String,
    },
    /// Running.
    Running {
        /// Since when.
        since: SystemTime,
    },
    /// Ended.
    Terminated(EndView),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndView {
    /// The exit code; 128 and the signal's number when a signal killed it.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// Details; may be empty.
    pub message: String,
    /// When it was started.
    pub started: SystemTime,
    /// When it ended.
    pub finished: SystemTime,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventView {
    /// When it happened last.
    pub at: SystemTime,
    /// How often in a row.
    pub count: u32,
    /// Something is wrong.
    pub warning: bool,
    /// The container it is about; of the pod when empty.
    pub container: String,
    /// Kubernetes' word, such as `Pulled` or `Unhealthy`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Something that happened, for those who watch.
#[derive(Debug, Clone)]
pub enum PodEvent {
    /// The pod changed; here is all of it.
    Changed(Box<PodView>),
    /// The pod is gone, and all that belonged to it.
    Gone(PodKey),
    /// A manifest file was refused, or is fine again (then the message is empty).
    Manifest {
        /// The file.
        file: String,
        /// Why; one line for each mistake.
        message: String,
    },
}
