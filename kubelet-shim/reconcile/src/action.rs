//! What the shell is told to do, and what it tells.

use std::time::Duration;

use kubelet_shim_manifest::PullPolicy;
use serde::{Deserialize, Serialize};

use crate::{moment::Moment, status::ProbeKind};

/// Names one action, so that its [`Done`] finds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(pub u64);

/// Which hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// `lifecycle.postStart`
    PostStart,
    /// `lifecycle.preStop`
    PreStop,
}

/// One thing to do. Actions of one step may be carried out in any order and at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// See that the image is there, by the policy. Answered by [`Outcome::Named`] with the image's reference.
    PullImage {
        /// For the answer.
        token: Token,
        /// The container that wants it.
        container: String,
        /// The reference as written.
        image: String,
        /// When to pull.
        policy: PullPolicy,
    },
    /// Run the sandbox, its volumes first. Answered by [`Outcome::Named`] with its id.
    RunSandbox {
        /// For the answer.
        token: Token,
        /// Its attempt, from 0.
        attempt: u32,
    },
    /// Create a container. Answered by [`Outcome::Named`] with its id.
    CreateContainer {
        /// For the answer.
        token: Token,
        /// Its name in the pod.
        container: String,
        /// Its attempt, from 0.
        attempt: u32,
        /// The sandbox.
        sandbox: String,
        /// The image's reference as answered by the pull.
        image: String,
    },
    /// Start a created container. Answered by [`Outcome::Plain`].
    StartContainer {
        /// For the answer.
        token: Token,
        /// Its name in the pod.
        container: String,
        /// Its id.
        id: String,
    },
    /// Probe a running container once. Answered by [`Outcome::Probed`].
    Probe {
        /// For the answer.
        token: Token,
        /// Its name in the pod.
        container: String,
        /// Its id.
        id: String,
        /// Which of the container's probes.
        kind: ProbeKind,
    },
    /// Run a hook's command or request. Answered by [`Outcome::Plain`].
    RunHook {
        /// For the answer.
        token: Token,
        /// The container's name in the pod.
        container: String,
        /// Its id.
        id: String,
        /// Which hook.
        hook: Hook,
        /// When it is given up; a postStart hook has no limit.
        timeout: Option<Duration>,
    },
    /// Ask a container to end, and kill it after `grace`. Answered by [`Outcome::Plain`].
    StopContainer {
        /// For the answer.
        token: Token,
        /// Its name in the pod.
        container: String,
        /// Its id.
        id: String,
        /// How long it may take.
        grace: Duration,
    },
    /// Remove an ended container. Answered by [`Outcome::Plain`].
    RemoveContainer {
        /// For the answer.
        token: Token,
        /// Its id.
        id: String,
    },
    /// Stop a sandbox. Answered by [`Outcome::Plain`].
    StopSandbox {
        /// For the answer.
        token: Token,
        /// Its id.
        id: String,
    },
    /// Remove a stopped sandbox. Answered by [`Outcome::Plain`].
    RemoveSandbox {
        /// For the answer.
        token: Token,
        /// Its id.
        id: String,
    },
    /// Tell those who watch. Not answered.
    Report(Event),
    /// Nothing of the pod is left at the runtime: take its volumes, logs and memory away. Not answered.
    Forget,
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Something is wrong.
    pub warning: bool,
    /// The container it is about; empty for the pod.
    pub container: String,
    /// Kubernetes' word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Kubernetes' word where it has one (`ErrImagePull`, `ErrImageNeverPull`, `CreateContainerError`), else empty.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// How a probe went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeResult {
    /// The container is well.
    Success,
    /// It is not, or took too long.
    Failure,
    /// The probe can't be carried out because of the container, such as a command that doesn't exist. Counts as a failure.
    ///
    /// Different from the kubelet, whose probe then never fails (kubernetes/kubernetes#106682).
    Unrunnable,
    /// The probe can't be carried out because of the runtime; it says nothing about the container and doesn't count.
    Error,
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It made something that has a name.
    Named(Result<String, Fault>),
    /// It was done.
    Plain(Result<(), Fault>),
    /// A probe.
    Probed(ProbeResult, String),
}

/// The answer to an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The action's token.
    pub token: Token,
    /// What came of it.
    pub outcome: Outcome,
}

/// A sandbox of this pod, as the runtime tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSeen {
    /// Its id.
    pub id: String,
    /// Its attempt.
    pub attempt: u32,
    /// Whether it is ready.
    pub ready: bool,
    /// The pod's address.
    pub ip: Option<String>,
}

/// A container of this pod, as the runtime tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSeen {
    /// Its id.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// Its attempt.
    pub attempt: u32,
    /// What it does.
    pub state: Seen,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Created, not started.
    Created,
    /// Running since then.
    Running(Moment),
    /// Ended.
    Exited {
        /// The exit code.
        code: i32,
        /// The runtime's word, such as `OOMKilled`; may be empty.
        reason: String,
        /// Details; may be empty.
        message: String,
        /// When.
        at: Moment,
    },
}

/// All that was seen since the last step. `sandboxes` and `containers` are complete, and were asked for after the last of
/// `done` had come in: what an answer says was made is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Every sandbox of the pod.
    pub sandboxes: Vec<SandboxSeen>,
    /// Every container of the pod.
    pub containers: Vec<ContainerSeen>,
    /// Answers to actions, in the order in which they came.
    pub done: Vec<Done>,
}
