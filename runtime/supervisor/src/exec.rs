//! What is known of one exec.

use std::time::Instant;

use runtime_oci::{ContainerCgroup, Launching, Process};

use crate::supervisor::Caller;

/// One more process in a container.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    /// The container that it runs in.
    pub(crate) container: String,
    /// The connection that asked for it: told of its end, and the exec is killed when it closes.
    pub(crate) connection: u64,
    /// Its leaf: everything that it starts is in there.
    pub(crate) cgroup: ContainerCgroup,
    pub(crate) stage: ExecStage,
}

/// Where an exec stands.
#[derive(Debug)]
pub(crate) enum ExecStage {
    /// On the way to its program.
    Launching { launching: Launching, caller: Caller, deadline: Instant },
    /// It runs.
    Running { process: Process },
}

impl Exec {
    pub(crate) fn pid(&self) -> i32 {
        match &self.stage {
            ExecStage::Launching { launching, .. } => launching.pid(),
            ExecStage::Running { process } => process.pid,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            ExecStage::Launching { deadline, .. } => Some(*deadline),
            ExecStage::Running { .. } => None,
        }
    }
}
