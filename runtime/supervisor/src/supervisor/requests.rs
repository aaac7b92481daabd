//! One call: what is asked, who answers.

use std::os::fd::AsFd;

use runtime_oci::spawn_pause;
use runtime_sys::process::pidfd_send_signal;
use runtime_wire::{Answer, Call, ExecSpec, FailureKind, Request, SandboxSpec, SandboxState, State, VERSION};

use super::{Alive, Caller, Going, Outcome, Sandbox, Supervisor};
use crate::clock;
use crate::connection::ConnectionError;
use crate::container::{Container, Stage};
use crate::convert::{check_id, failure, identity, oci_failure, pod_spec};
use crate::warn::warn;

/// Longest that a `Hello` waits for containers that are just being made or started. Then their state is told as it is.
const HELLO_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// The largest signal number of Linux.
const SIGNAL_MAX: i32 = 64;

/// No such process; the same on every architecture of Linux.
const ESRCH: i32 = 3;

fn done() -> Outcome {
    Ok((Answer::Done, Vec::new()))
}

impl Supervisor {
    /// Serves one call. An error closes the connection: it and its descriptors can't be told apart any more.
    pub(super) fn serve(&mut self, connection: u64, call: Call) -> Result<(), ConnectionError> {
        let caller = Caller { connection, call: call.id };
        let outcome = match call.request {
            Request::Hello { version: _ } => {
                self.hellos.push((caller, clock::now() + HELLO_WAIT));
                self.answer_hellos(clock::now());
                return Ok(());
            }
            Request::CreateSandbox(spec) => self.create_sandbox(&spec),
            Request::Sandbox => self.sandbox_again(),
            Request::CreateContainer(spec) => return self.later(caller, |this| this.create_container(caller, spec)),
            Request::StartContainer { container } => {
                return self.later(caller, |this| this.start_container(caller, &container));
            }
            Request::Exec(spec) => return self.exec_with_descriptors(caller, spec),
            Request::Attach(spec) => {
                let Some(connection) = self.connections.get_mut(&connection) else { return Ok(()) };
                let count = usize::from(spec.stdout) + usize::from(spec.stderr);
                let descriptors = connection.take_descriptors(count)?;
                self.attach(&spec, descriptors)
            }
            Request::Signal { container, signal, every_process } => self.signal(&container, signal, every_process),
            Request::KillExec { exec } => self.kill_exec(&exec),
            Request::ReopenLog { container } => self.reopen_log(&container),
            Request::RemoveContainer { container } => {
                return self.later(caller, |this| this.remove_container(caller, &container));
            }
            Request::StopSandbox => {
                self.stop_sandbox(caller);
                return Ok(());
            }
            Request::Quit => self.quit(),
            Request::UpdateResources { container, resources, oom_score_adj } => {
                return self.later(caller, |this| this.update_container(caller, &container, &resources, oom_score_adj));
            }
            Request::UpdateSandbox { cgroup, resources } => {
                return self.later(caller, |this| this.update_sandbox(caller, &cgroup, &resources));
            }
            Request::Unknown => Err(failure(
                FailureKind::Unknown,
                format!("this supervisor speaks version {VERSION} and not that verb"),
            )),
        };
        self.answer(caller, outcome);
        Ok(())
    }

    /// A call that answers by itself when it is done, unless it fails at once.
    fn later(
        &mut self,
        caller: Caller,
        begin: impl FnOnce(&mut Self) -> Result<(), runtime_wire::Failure>,
    ) -> Result<(), ConnectionError> {
        if let Err(failure) = begin(self) {
            self.answer(caller, Err(failure));
        }
        Ok(())
    }

    fn exec_with_descriptors(&mut self, caller: Caller, spec: Box<ExecSpec>) -> Result<(), ConnectionError> {
        let count = usize::from(spec.stdin && !spec.tty) + if spec.tty { 0 } else { 2 };
        let Some(connection) = self.connections.get_mut(&caller.connection) else { return Ok(()) };
        let descriptors = connection.take_descriptors(count)?;
        self.later(caller, |this| this.exec(caller, spec, descriptors))
    }

    /// Answers the `Hello`s, unless a container is between two phases: what becomes of it would be told to the connection
    /// that asked, which may be gone.
    pub(super) fn answer_hellos(&mut self, now: std::time::Instant) {
        let settled = !self
            .containers
            .values()
            .any(|container| matches!(container.stage, Stage::Checking { .. } | Stage::Launching { .. }));
        let (ready, waiting) = self.hellos.drain(..).partition(|(_, until)| settled || *until <= now);
        self.hellos = waiting;
        let ready: Vec<(Caller, std::time::Instant)> = ready;
        for (caller, _) in ready {
            if let Some(connection) = self.connections.get_mut(&caller.connection) {
                connection.greeted = true;
            }
            let state = self.state();
            self.answer(caller, Ok((Answer::State(state), Vec::new())));
        }
    }

    fn state(&self) -> State {
        State {
            version: VERSION,
            sandbox: self.sandbox.as_ref().map(|sandbox| SandboxState {
                id: sandbox.id.clone(),
                pause: sandbox.process,
                alive: sandbox.alive == Alive::Yes,
            }),
            containers: self.containers.values().filter_map(Container::state).collect(),
        }
    }

    fn create_sandbox(&mut self, spec: &SandboxSpec) -> Outcome {
        check_id(&spec.id)?;
        match &self.sandbox {
            Some(sandbox) if sandbox.id == spec.id => return self.sandbox_again(),
            Some(sandbox) => {
                let message = format!("this is the supervisor of sandbox {}", sandbox.id);
                return Err(failure(FailureKind::Refused, message));
            }
            None => {}
        }
        let pause = spawn_pause(&pod_spec(spec)).map_err(|error| oci_failure("create the sandbox", &error))?;
        self.sandbox = Some(Sandbox {
            id: spec.id.clone(),
            exits: spec.exits.clone(),
            process: identity(&pause.process),
            cgroup: pause.cgroup.clone(),
            pause: Some(pause),
            alive: Alive::Yes,
        });
        self.tidy_soon();
        self.sandbox_again()
    }

    fn sandbox_again(&mut self) -> Outcome {
        let Some(sandbox) = &self.sandbox else {
            return Err(failure(FailureKind::NotFound, "no sandbox was created here"));
        };
        let Some(pause) = &sandbox.pause else {
            return Err(failure(FailureKind::Refused, format!("sandbox {} is stopped", sandbox.id)));
        };
        let network = match &pause.network {
            Some(network) => vec![network.try_clone().map_err(|error| {
                failure(FailureKind::Kernel, format!("the pod's network namespace can't be handed out: {error}"))
            })?],
            None => Vec::new(),
        };
        Ok((Answer::Sandbox { pause: sandbox.process }, network))
    }

    fn signal(&mut self, id: &str, signal: i32, every_process: bool) -> Outcome {
        if !(1..=SIGNAL_MAX).contains(&signal) {
            return Err(failure(FailureKind::Invalid, format!("{signal} is no signal")));
        }
        let number = self.find(id).ok_or_else(|| no_such_container(id))?;
        let Some(container) = self.containers.get(&number) else { return Err(no_such_container(id)) };
        let operation = || format!("signal {signal} to container {id}");
        match &container.stage {
            Stage::Running { live, .. } if every_process => {
                live.cgroup.kill_all().map_err(|error| oci_failure(&operation(), &error))?;
                done()
            }
            Stage::Running { process, .. } => {
                // The pidfd can't mean another process; one that has just ended needs no signal.
                pidfd_send_signal(process.pidfd.as_fd(), signal)
                    .or_else(|error| if error.errno() == ESRCH { Ok(()) } else { Err(error) })
                    .map_err(|error| failure(FailureKind::Kernel, format!("{}: {error}", operation())))?;
                done()
            }
            Stage::Ending(_) | Stage::Exited { .. } => done(),
            Stage::Checking { .. } | Stage::Created { .. } | Stage::Launching { .. } => {
                Err(failure(FailureKind::Refused, format!("{}: it is not running", operation())))
            }
        }
    }

    fn reopen_log(&mut self, id: &str) -> Outcome {
        let number = self.find(id).ok_or_else(|| no_such_container(id))?;
        let Some(container) = self.containers.get_mut(&number) else { return Err(no_such_container(id)) };
        let path = container.log_path.clone();
        match container.live().and_then(|live| live.log.as_mut()) {
            Some(log) => log.reopen().map_err(|error| {
                let path = path.unwrap_or_default();
                failure(FailureKind::Kernel, format!("reopen the log {path:?} of container {id}: {error}"))
            })?,
            None => {
                return Err(failure(FailureKind::Refused, format!("container {id} does not run or has no log")));
            }
        }
        done()
    }

    fn quit(&mut self) -> Outcome {
        if self.anything_runs() {
            return Err(failure(FailureKind::Refused, "the pod still runs; it is stopped first"));
        }
        for remains in std::mem::take(&mut self.remains) {
            if let Err(error) = remains.cgroup.remove() {
                warn(format_args!("leaves a cgroup behind: {error}"));
            }
        }
        self.going = Going::Quitting;
        done()
    }
}

pub(super) fn no_such_container(id: &str) -> runtime_wire::Failure {
    failure(FailureKind::NotFound, format!("no container {id:?} in this pod"))
}
