//! One container from an OCI runtime specification.
//!
//! *In*: a specification, a root file system, the namespaces that a pod shares. *Out*: a running process that can't be
//! mistaken for another ([`Process`]), its cgroup ([`ContainerCgroup`]), or an error that says which step failed on which
//! object. *Not here*: time (the caller polls and has the deadlines), logs, exit codes, records, images, the network.
//!
//! [`prepare`] is the plan: everything is decided, every string prepared, the cgroup made and limited. [`Prepared::launch`]
//! is one `clone3`; the child walks the plan's list of steps and executes. Whatever may sleep (a volume on a dead file
//! server) sleeps in the child; the caller polls [`Launching::descriptor`] and is never blocked.
//!
//! The caller must be single-threaded: the child is a copy of it that goes on running.

mod cgroup;
mod child;
mod error;
mod host;
mod input;
mod launch;
mod pause;
mod plan;
mod scaffold;
mod seccomp;
mod step;
mod users;

pub use cgroup::{Change, ContainerCgroup, Update};
pub use error::{ErrorKind, OciError};
pub use input::{
    ImageVolume, Input, Joins, PodUsers, Procfs, RootSource, SeccompChoice, Stdio, StopBefore, Volatile, Volumes,
};
pub use launch::{
    ExecTarget, Launching, OneShot, Prepared, Process, Progress, Seen, Tracers, check_sources, launch_exec, prepare,
};
pub use pause::{Pause, PidNamespace, PodSpec, Processes, spawn_pause};
