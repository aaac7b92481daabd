//! What is known of one container, and the pieces that its steps are made of.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use runtime_oci::{ContainerCgroup, Launching, OneShot, Prepared, Process};
use runtime_sys::pty::WindowSize;
use runtime_sys::seccomp::Program;
use runtime_wire::{ContainerSpec, ContainerState, Exit, Phase, ProcessIdentity, Stdin};

use crate::attach::Attachments;
use crate::convert::identity;
use crate::log::LogFile;
use crate::stdio::OutputStream;
use crate::supervisor::Caller;

/// One container.
///
/// ```text
/// Checking ──sources there──▶ Created ──StartContainer──▶ Launching ──executed──▶ Running
///    │ a source is missing       │ RemoveContainer            │ it can't be          │ its first process ends
///    ▼                           ▼                            ▼                      ▼
///  gone                        gone                        Exited ◀─log complete── Ending
/// ```
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) stdin: Stdin,
    /// The user that its streams are given to.
    pub(crate) user: u32,
    pub(crate) terminal: Terminal,
    /// For execs that name none.
    pub(crate) oom_score_adj: i32,
    /// A process of it may have the right to look into others of the pod.
    pub(crate) may_trace: bool,
    pub(crate) stage: Stage,
}

/// Whether a container's streams are a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// One, with a first size if it was given.
    Yes(Option<WindowSize>),
    /// Pipes.
    No,
}

/// Where a container stands, with what is true there.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Its volume sources are being looked at.
    Checking { check: OneShot, spec: Box<ContainerSpec>, caller: Caller, deadline: Instant },
    /// Decided and limited; nothing runs.
    Created { prepared: Box<Prepared> },
    /// Its first process is on the way to its program.
    Launching { launching: Launching, live: Box<Live>, callers: Vec<Caller>, deadline: Instant },
    /// It runs.
    Running { process: Process, started_unix_nanos: i64, live: Box<Live> },
    /// Its first process has ended; the others are being killed and its log is being completed.
    Ending(Box<Ending>),
    /// Over. Its cgroup is gone or about to go; the path finds it among what is.
    Exited { started_unix_nanos: i64, exit: Exit, cgroup: PathBuf },
}

/// What belongs to a container from its launch to its end.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) cgroup: ContainerCgroup,
    /// The compiled filter, for execs.
    pub(crate) seccomp: Option<Arc<Program>>,
    pub(crate) log: Option<LogFile>,
    /// Standard output and error; none once it has ended.
    pub(crate) outputs: [Option<OutputStream>; 2],
    /// The writing end of standard input, or the terminal, for clients that attach.
    pub(crate) input: Option<OwnedFd>,
    /// Who watches its output.
    pub(crate) attached: Attachments,
}

/// A container whose first process has ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) process: ProcessIdentity,
    pub(crate) started_unix_nanos: i64,
    pub(crate) exit: Exit,
    pub(crate) live: Box<Live>,
    /// When the record is written though something still holds its output or won't die.
    pub(crate) deadline: Instant,
    /// When the cgroup is looked at again; `None` once it is empty.
    pub(crate) look: Option<Look>,
}

/// Looks at something that must come by itself, ever less often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) at: Instant,
    wait: std::time::Duration,
}

impl Look {
    /// The first look, a millisecond from `now`: a killed process is usually gone by then.
    pub(crate) fn soon(now: Instant) -> Self {
        let wait = std::time::Duration::from_millis(1);
        Self { at: now + wait, wait }
    }

    /// The next look, after twice the wait, at most a second.
    pub(crate) fn later(self, now: Instant) -> Self {
        let wait = (self.wait * 2).min(std::time::Duration::from_secs(1));
        Self { at: now + wait, wait }
    }
}

impl Container {
    /// What a node is told. A container that is being made isn't there yet; one that is ending runs until its record is
    /// on disk.
    pub(crate) fn state(&self) -> Option<ContainerState> {
        let phase = match &self.stage {
            Stage::Checking { .. } => return None,
            Stage::Created { .. } | Stage::Launching { .. } => Phase::Created,
            Stage::Running { process, started_unix_nanos, .. } => {
                Phase::Running { process: identity(process), started_unix_nanos: *started_unix_nanos }
            }
            Stage::Ending(ending) => {
                Phase::Running { process: ending.process, started_unix_nanos: ending.started_unix_nanos }
            }
            Stage::Exited { started_unix_nanos, exit, .. } => {
                Phase::Exited { started_unix_nanos: *started_unix_nanos, exit: exit.clone() }
            }
        };
        Some(ContainerState { id: self.id.clone(), phase })
    }

    /// The pid that its stage waits for.
    pub(crate) fn pid(&self) -> Option<i32> {
        match &self.stage {
            Stage::Launching { launching, .. } => Some(launching.pid()),
            Stage::Running { process, .. } => Some(process.pid),
            Stage::Checking { .. } | Stage::Created { .. } | Stage::Ending(_) | Stage::Exited { .. } => None,
        }
    }

    /// The log and the streams, in the stages that have them.
    pub(crate) fn live(&mut self) -> Option<&mut Live> {
        match &mut self.stage {
            Stage::Launching { live, .. } | Stage::Running { live, .. } => Some(live),
            Stage::Ending(ending) => Some(&mut ending.live),
            Stage::Checking { .. } | Stage::Created { .. } | Stage::Exited { .. } => None,
        }
    }

    /// Its cgroup, while it is not being removed.
    pub(crate) fn cgroup(&self) -> Option<ContainerCgroup> {
        match &self.stage {
            Stage::Checking { .. } | Stage::Exited { .. } => None,
            Stage::Created { prepared } => Some(prepared.cgroup()),
            Stage::Launching { live, .. } | Stage::Running { live, .. } => Some(live.cgroup.clone()),
            Stage::Ending(ending) => Some(ending.live.cgroup.clone()),
        }
    }

    /// Something of it may still run.
    pub(crate) fn is_live(&self) -> bool {
        match &self.stage {
            Stage::Checking { .. } | Stage::Launching { .. } | Stage::Running { .. } | Stage::Ending(_) => true,
            Stage::Created { .. } | Stage::Exited { .. } => false,
        }
    }

    /// When it must be looked at though nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Checking { deadline, .. } | Stage::Launching { deadline, .. } => Some(*deadline),
            Stage::Ending(ending) => Some(ending.look.map_or(ending.deadline, |look| look.at.min(ending.deadline))),
            Stage::Created { .. } | Stage::Running { .. } | Stage::Exited { .. } => None,
        }
    }
}
