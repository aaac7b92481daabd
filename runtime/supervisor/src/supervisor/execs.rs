//! Execs: from the call to the end of all that they started.

use std::os::fd::{AsFd, OwnedFd};

use runtime_oci::{ExecTarget, Process, Progress, Stdio, Tracers, launch_exec};
use runtime_sys::signals::ChildEnd;
use runtime_sys::stdio::null_device;
use runtime_wire::{Answer, Event, ExecSpec, Failure, FailureKind, Frame};

use super::lifecycle::{LAUNCH_TIME, empty_or_kill, started};
use super::requests::no_such_container;
use super::{Caller, Outcome, Supervisor, Token};
use crate::clock;
use crate::container::{Live, Stage, Terminal};
use crate::convert::{check_id, failure, oci_failure, terminal};
use crate::exec::{Exec, ExecStage};
use crate::exit::exit_of;
use crate::stdio::give;
use crate::warn::warn;

/// Most execs at once in a pod: probes of its containers and a person or two. Each holds descriptors and a cgroup here.
const EXECS_MAX: usize = 64;

impl Supervisor {
    pub(super) fn exec(
        &mut self,
        caller: Caller,
        mut spec: Box<ExecSpec>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        check_id(&spec.id)?;
        if self.execs.len() >= EXECS_MAX {
            return Err(failure(FailureKind::Refused, format!("{EXECS_MAX} execs run in this pod already")));
        }
        if self.execs.values().any(|exec| exec.id == spec.id) {
            return Err(failure(FailureKind::Refused, format!("exec {} is there already", spec.id)));
        }
        let number = self.number();
        let container = self.find(&spec.container).and_then(|number| self.containers.get(&number));
        let Some(container) = container else { return Err(no_such_container(&spec.container)) };
        let Stage::Running { process: init, live, .. } = &container.stage else {
            return Err(failure(FailureKind::Refused, format!("container {} is not running", spec.container)));
        };
        let oom_score_adj = spec.process.oom_score_adj().unwrap_or(container.oom_score_adj);
        spec.process.set_oom_score_adj(Some(oom_score_adj));
        let stdio = stdio(&spec, descriptors)?;
        let Live { cgroup, seccomp, .. } = &**live;
        let pause = self.sandbox.as_ref().and_then(|sandbox| sandbox.pause.as_ref());
        let users = pause.and_then(|pause| pause.users.as_ref()).map(|users| &users.map);
        let tracers = if self.containers.values().any(|container| container.may_trace) {
            Tracers::Possible
        } else {
            Tracers::None
        };
        let target = ExecTarget { id: &spec.id, init: init.pidfd.as_fd(), cgroup, users, tracers };
        let launching = launch_exec(&target, &spec.process, seccomp.clone(), stdio)
            .map_err(|error| oci_failure(&operation(&spec.container), &error))?;
        let cgroup = launching.cgroup();
        if let Err(failure) = self.watch(launching.descriptor(), Token::Exec(number)) {
            drop(launching.abandon());
            self.discard(cgroup);
            return Err(failure);
        }
        let stage = ExecStage::Launching { launching, caller, deadline: clock::now() + LAUNCH_TIME };
        let ExecSpec { id, container, .. } = *spec;
        self.execs.insert(number, Exec { id, container, connection: caller.connection, cgroup, stage });
        self.tidy_soon();
        Ok(())
    }

    /// An exec's launch has news, or its process has ended.
    pub(super) fn progress_exec(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let ExecStage::Launching { launching, .. } = &mut exec.stage else { return };
        match launching.advance() {
            Progress::Pending | Progress::Blocked => {}
            Progress::Running(process) => self.exec_launched(number, process),
            Progress::Failed(error) => {
                let failure = oci_failure(&operation(&exec.container), &error);
                self.abandon_exec(number, failure);
            }
        }
    }

    fn exec_launched(&mut self, number: u64, process: Process) {
        let Some(mut exec) = self.execs.remove(&number) else { return };
        let ExecStage::Launching { mut launching, caller, .. } = exec.stage else {
            self.execs.insert(number, exec);
            return;
        };
        self.unwatch(launching.descriptor());
        let terminal = launching.take_terminal();
        let outcome = started(&process, clock::unix_nanos());
        exec.stage = ExecStage::Running { process };
        self.execs.insert(number, exec);
        self.answer(caller, outcome.map(|(answer, _)| (answer, terminal.into_iter().collect())));
    }

    /// An exec that came to nothing, or is to come to nothing. What is left of it is killed.
    pub(super) fn abandon_exec(&mut self, number: u64, failure: Failure) {
        let Some(exec) = self.execs.remove(&number) else { return };
        let ExecStage::Launching { launching, caller, .. } = exec.stage else {
            self.execs.insert(number, exec);
            return;
        };
        self.unwatch(launching.descriptor());
        // One that sleeps in the kernel is reaped as a stranger when it wakes.
        drop(launching.abandon());
        self.discard(exec.cgroup);
        self.answer(caller, Err(failure));
    }

    /// An exec's process has ended and is reaped: what it left in the background is killed, so that nothing holds its
    /// output.
    pub(super) fn exec_ended(&mut self, number: u64, end: ChildEnd) {
        let Some(exec) = self.execs.remove(&number) else { return };
        self.discard(exec.cgroup);
        let exit = exit_of(end, false, clock::unix_nanos());
        self.send(exec.connection, &Frame::Event(Event::ExecExited { exec: exec.id, exit }), Vec::new());
    }

    pub(super) fn kill_exec(&mut self, id: &str) -> Outcome {
        let Some(number) = self.execs.iter().find(|(_, exec)| exec.id == id).map(|(number, _)| *number) else {
            return Err(failure(FailureKind::NotFound, format!("no exec {id:?} in this pod")));
        };
        self.end_exec(number, "it was killed before its program was executed");
        Ok((Answer::Done, Vec::new()))
    }

    /// The connection that wanted them is gone.
    pub(super) fn kill_execs_of(&mut self, connection: u64) {
        let orphans: Vec<u64> =
            self.execs.iter().filter(|(_, exec)| exec.connection == connection).map(|(number, _)| *number).collect();
        for number in orphans {
            self.end_exec(number, "the node that wanted it is gone");
        }
    }

    fn end_exec(&mut self, number: u64, why: &str) {
        let Some(exec) = self.execs.get(&number) else { return };
        match &exec.stage {
            ExecStage::Launching { .. } => {
                let failure = failure(FailureKind::Refused, format!("{}: {why}", operation(&exec.container)));
                self.abandon_exec(number, failure);
            }
            // Its end comes by SIGCHLD like any other.
            ExecStage::Running { process } => {
                if empty_or_kill(&exec.cgroup)
                    && let Err(error) = runtime_sys::process::pidfd_send_signal(process.pidfd.as_fd(), SIGKILL)
                {
                    warn(format_args!("exec {} is not killed: {error}", exec.id));
                }
            }
        }
    }
}

/// The same on every architecture of Linux.
pub(super) const SIGKILL: i32 = 9;

fn operation(container: &str) -> String {
    format!("exec in container {container}")
}

/// The exec's streams out of what travelled beside the call: standard input if there is one, output, error.
fn stdio(spec: &ExecSpec, descriptors: Vec<OwnedFd>) -> Result<Stdio, Failure> {
    if spec.tty {
        let size = if let Terminal::Yes(size) = terminal(&spec.process) { size } else { None };
        return Ok(Stdio::Terminal { size });
    }
    let user = spec.process.user().uid();
    let mut given = descriptors.into_iter().map(|descriptor| give(descriptor, user));
    let missing = || failure(FailureKind::Invalid, "an exec without the descriptors that belong to it");
    let stdin = match spec.stdin {
        true => given.next().ok_or_else(missing)?,
        false => null_device().map_err(|error| failure(FailureKind::Kernel, error.to_string()))?,
    };
    let stdout = given.next().ok_or_else(missing)?;
    let stderr = given.next().ok_or_else(missing)?;
    Ok(Stdio::Pipes { stdin, stdout, stderr })
}
