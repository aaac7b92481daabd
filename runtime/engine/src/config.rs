//! How an engine is opened.

use std::{path::PathBuf, time::Duration};

/// Where things lie and how far they may go.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// State that outlives a reboot: writable layers (`containers/`).
    pub root: PathBuf,
    /// State that doesn't: records and sockets (`pods/`). Wants to be on tmpfs.
    pub run: PathBuf,
    /// The `podwright-pod` program. Read once, at open.
    pub supervisor_program: PathBuf,
    /// The cgroup below which supervisors live (`supervisors`), and pods whose creator gives no parent (`pods`).
    pub cgroup_root: String,
    /// Where files of the Container Device Interface are; a later directory's device hides an earlier one's.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// The resolv.conf of pods that bring none.
    pub resolv_conf: PathBuf,
    /// How far things may go.
    pub limits: Limits,
}

/// How far things may go.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sandboxes being made or removed at once. A node that starts a hundred pods shares two cores among them: more in
    /// parallel only makes all of them late.
    pub sandbox_operations_max: usize,
    /// How long a supervisor may take to answer what needs no foreign file system.
    pub supervisor_answer: Duration,
    /// How long the start of a container may take; above the supervisor's own deadline of 30 s.
    pub container_start: Duration,
    /// How long a supervisor may take to answer at recovery: one that is stuck must not hold up the others.
    pub recovery_answer: Duration,
    /// Size of a pod's `/dev/shm`, in bytes.
    pub shm_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sandbox_operations_max: 64,
            supervisor_answer: Duration::from_secs(20),
            container_start: Duration::from_secs(45),
            recovery_answer: Duration::from_secs(5),
            shm_bytes: 64 * 1024 * 1024,
        }
    }
}

impl EngineConfig {
    /// The cgroup that supervisors live in.
    pub fn supervisors_cgroup(&self) -> String {
        format!("{}/supervisors", self.cgroup_root)
    }

    /// The cgroup of pods whose creator gives no parent.
    pub fn pods_cgroup(&self) -> String {
        format!("{}/pods", self.cgroup_root)
    }
}
