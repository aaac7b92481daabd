//! What can go wrong: which step, on which object, from which cause.

use std::{io, path::PathBuf, sync::Arc};

use cni_chain::{ErrorKind, NetworkError};
use images_service::ImageError;
use runtime_lifecycle::{ContainerId, Metadata, Refused, SandboxId};
use runtime_sys::SysError;
use runtime_wire::FailureKind;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing of that id.
    #[error("no sandbox {id:?}")]
    NoSuchSandbox {
        /// As it was asked for.
        id: String,
    },
    /// Nothing of that id.
    #[error("no container {id:?}")]
    NoSuchContainer {
        /// As it was asked for.
        id: String,
    },
    /// More than one id begins so.
    #[error("{text:?} begins more than one id: give more digits")]
    Ambiguous {
        /// As it was asked for.
        text: String,
    },
    /// Its name is held by a sandbox that isn't ready.
    #[error("sandbox {holder} already has the name {}/{} (uid {:?}, attempt {})", name.namespace, name.name, name.uid, name.attempt)]
    SandboxNameTaken {
        /// The name.
        name: Box<Metadata>,
        /// Who has it.
        holder: SandboxId,
    },
    /// Its name is held by a container that was started.
    #[error("container {holder} of sandbox {sandbox:?} already has the name {name:?} (attempt {attempt})")]
    ContainerNameTaken {
        /// The sandbox.
        sandbox: SandboxId,
        /// The name.
        name: String,
        /// The attempt.
        attempt: u32,
        /// Who has it.
        holder: ContainerId,
    },
    /// A later attempt for the same pod came while this one was under way.
    #[error("a later attempt for pod {}/{} came: this one (attempt {}) is undone", name.namespace, name.name, name.attempt)]
    Superseded {
        /// The name.
        name: Box<Metadata>,
    },
    /// Not in this state.
    #[error("sandbox {id:?}")]
    SandboxRefused {
        /// The sandbox.
        id: SandboxId,
        /// Why.
        source: Refused,
    },
    /// Containers can't be made in it any more.
    #[error("sandbox {id:?} is {state}")]
    SandboxNotReady {
        /// The sandbox.
        id: SandboxId,
        /// What it is.
        state: &'static str,
    },
    /// Not in this state.
    #[error("container {id:?}")]
    ContainerRefused {
        /// The container.
        id: ContainerId,
        /// Why.
        source: Refused,
    },
    /// It doesn't run, so nothing can be executed in it.
    #[error("container {id:?} is not running: it is {state}")]
    ContainerNotRunning {
        /// The container.
        id: ContainerId,
        /// What it is.
        state: &'static str,
    },
    /// It reads nothing, or not any more.
    #[error(
        "container {id:?} has no standard input to attach to: it was created without one, or with one that ended with \
         its first client"
    )]
    NoStandardInput {
        /// The container.
        id: ContainerId,
    },
    /// The request itself is wrong.
    #[error("{what}: {why}")]
    Invalid {
        /// Which part of it.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// No such image here.
    #[error("image {image:?} is not in the store: pull it first")]
    NoSuchImage {
        /// As it was asked for.
        image: String,
    },
    /// The image service failed.
    #[error("image {image:?}")]
    Image {
        /// Which image.
        image: String,
        /// Why.
        source: Box<ImageError>,
    },
    /// An image can't be a container's volume. The first word is the one that kubelets look for.
    #[error(
        "ImageVolumeMountFailed: image {image:?} for {destination:?} can't be had; it must have been pulled before"
    )]
    ImageVolume {
        /// As it was asked for.
        image: String,
        /// Where it was to be mounted.
        destination: String,
        /// Why.
        source: Box<ImageError>,
    },
    /// The network failed.
    #[error("network of sandbox {id:?}")]
    Network {
        /// The sandbox.
        id: SandboxId,
        /// Why.
        source: Box<NetworkError>,
    },
    /// The supervisor said no.
    #[error("{step}: {message}")]
    Supervisor {
        /// What was asked of it.
        step: &'static str,
        /// What may be branched on.
        kind: FailureKind,
        /// Its words.
        message: String,
    },
    /// The supervisor's program can't be started.
    #[error("cannot start the supervisor of sandbox {id:?}")]
    Spawn {
        /// The sandbox.
        id: SandboxId,
        /// Why.
        source: io::Error,
    },
    /// The supervisor doesn't answer any more.
    #[error("the supervisor of sandbox {id:?} is gone")]
    SupervisorGone {
        /// The sandbox.
        id: SandboxId,
    },
    /// The supervisor broke the protocol.
    #[error("the supervisor of sandbox {id:?} sent an answer that {step} doesn't have")]
    Protocol {
        /// The sandbox.
        id: SandboxId,
        /// What was asked of it.
        step: &'static str,
    },
    /// Nobody answers at a port of a pod.
    #[error("port {port} of sandbox {id:?} does not take connections")]
    Forward {
        /// The sandbox.
        id: SandboxId,
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// Something took longer than it may.
    #[error("{what} took longer than {after:?}")]
    Deadline {
        /// What.
        what: String,
        /// Its limit.
        after: std::time::Duration,
    },
    /// A file of ours.
    #[error("cannot {step} {path:?}{}", next_step(source))]
    Disk {
        /// What was done to it.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A system call.
    #[error("{step}")]
    Kernel {
        /// What for.
        step: &'static str,
        /// The call and why.
        source: SysError,
    },
    /// What another request that this one joined came to.
    #[error(transparent)]
    Joined(Arc<EngineError>),
    /// The task that did it was cut off: the daemon is ending.
    #[error("interrupted: the daemon is stopping")]
    Interrupted,
}

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing of that id or name.
    NotFound,
    /// The name is taken.
    NameTaken,
    /// Not in this state.
    Refused,
    /// The request is wrong.
    Invalid,
    /// It may work later.
    Unavailable,
    /// Too many at once.
    Exhausted,
    /// It took too long.
    DeadlineExceeded,
    /// No credentials, or the wrong ones.
    Unauthorized,
    /// The program can't be executed.
    CannotExecute,
    /// The kernel, the disk, or a part of ours.
    Internal,
}

impl EngineError {
    /// What callers branch on.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchSandbox { .. } | Self::NoSuchContainer { .. } | Self::NoSuchImage { .. } => Kind::NotFound,
            Self::SandboxNameTaken { .. } | Self::ContainerNameTaken { .. } => Kind::NameTaken,
            Self::SandboxRefused { .. }
            | Self::SandboxNotReady { .. }
            | Self::ContainerRefused { .. }
            | Self::ContainerNotRunning { .. }
            | Self::NoStandardInput { .. } => Kind::Refused,
            Self::Ambiguous { .. } | Self::Invalid { .. } => Kind::Invalid,
            Self::Superseded { .. } | Self::SupervisorGone { .. } | Self::Interrupted | Self::Forward { .. } => {
                Kind::Unavailable
            }
            Self::Image { source, .. } | Self::ImageVolume { source, .. } => image_kind(source),
            Self::Network { source, .. } => network_kind(source),
            Self::Supervisor { kind, .. } => failure_kind(*kind),
            Self::Deadline { .. } => Kind::DeadlineExceeded,
            Self::Disk { source, .. } if is_full(source) => Kind::Exhausted,
            Self::Spawn { .. } | Self::Protocol { .. } | Self::Disk { .. } | Self::Kernel { .. } => Kind::Internal,
            Self::Joined(error) => error.kind(),
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What helps, where it isn't plain from the cause.
fn next_step(error: &io::Error) -> &'static str {
    if is_full(error) {
        " (its file system is full: make room there, in files or in inodes, and try again)"
    } else {
        ""
    }
}

fn failure_kind(kind: FailureKind) -> Kind {
    match kind {
        FailureKind::NotFound => Kind::NotFound,
        FailureKind::Refused => Kind::Refused,
        FailureKind::Invalid => Kind::Invalid,
        FailureKind::CannotExecute => Kind::CannotExecute,
        FailureKind::DeadlineExceeded => Kind::DeadlineExceeded,
        FailureKind::Kernel | FailureKind::Unknown => Kind::Internal,
    }
}

fn image_kind(error: &ImageError) -> Kind {
    use images_service::Kind as Image;
    match error.kind() {
        Image::NotFound => Kind::NotFound,
        Image::Unauthorized => Kind::Unauthorized,
        Image::Unreachable => Kind::Unavailable,
        Image::Invalid => Kind::Invalid,
        Image::NoSpace => Kind::Exhausted,
        Image::InUse => Kind::Refused,
        Image::Disk => Kind::Internal,
    }
}

fn network_kind(error: &NetworkError) -> Kind {
    match error.kind() {
        ErrorKind::Invalid => Kind::Invalid,
        ErrorKind::PortInUse => Kind::Refused,
        ErrorKind::NoAddress | ErrorKind::Busy => Kind::Exhausted,
        ErrorKind::Timeout => Kind::DeadlineExceeded,
        ErrorKind::Plugin | ErrorKind::Kernel | ErrorKind::Disk => Kind::Internal,
    }
}
