//! The end of a sandbox: every container, then the pause process, then the cgroups.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use runtime_oci::ContainerCgroup;
use runtime_sys::process::pidfd_send_signal;
use runtime_wire::FailureKind;

use super::execs::SIGKILL;
use super::lifecycle::empty_or_kill;
use super::{Alive, Caller, Supervisor};
use crate::clock;
use crate::container::{Look, Stage};
use crate::convert::{failure, oci_failure};
use crate::warn::warn;

/// Longest wait for killed processes, per step. Those that are still there sleep in the kernel.
pub(super) const STOP_TIME: Duration = Duration::from_secs(10);

/// Most processes that a message names.
const NAMED_MAX: usize = 5;

/// A sandbox that is being stopped.
#[derive(Debug)]
pub(super) struct Stopping {
    callers: Vec<Caller>,
    step: Step,
    deadline: Instant,
    look: Look,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Containers,
    Pause,
    Cgroups,
}

impl Stopping {
    pub(super) fn next(&self) -> Instant {
        self.look.at.min(self.deadline)
    }
}

impl Supervisor {
    pub(super) fn stop_sandbox(&mut self, caller: Caller) {
        if self.sandbox.as_ref().is_none_or(|sandbox| sandbox.pause.is_none()) {
            return self.answer_done(caller);
        }
        if let Some(stopping) = &mut self.stopping {
            return stopping.callers.push(caller);
        }
        let now = clock::now();
        let look = Look::soon(now);
        self.stopping =
            Some(Stopping { callers: vec![caller], step: Step::Containers, deadline: now + STOP_TIME, look });
        let numbers: Vec<u64> = self.containers.keys().copied().collect();
        let why = || failure(FailureKind::Refused, "the sandbox is being stopped");
        for number in numbers {
            match self.containers.get(&number).map(|container| &container.stage) {
                Some(Stage::Checking { .. }) => self.checked(number, Err(why())),
                Some(Stage::Launching { .. }) => self.abandon_start(number, &why()),
                _ => {}
            }
        }
        self.kill_step();
        self.advance_stop(now);
    }

    /// Goes on as far as it can without waiting.
    pub(super) fn advance_stop(&mut self, now: Instant) {
        while let Some(stopping) = &self.stopping {
            if self.step_is_done(stopping.step) {
                let Some(stopping) = &mut self.stopping else { return };
                stopping.deadline = now + STOP_TIME;
                stopping.look = Look::soon(now);
                match stopping.step {
                    Step::Containers => stopping.step = Step::Pause,
                    Step::Pause => {
                        stopping.step = Step::Cgroups;
                        self.drop_cgroups();
                        continue;
                    }
                    Step::Cgroups => return self.stopped(),
                }
                self.kill_step();
                continue;
            }
            if stopping.deadline <= now {
                return self.stop_failed();
            }
            if stopping.look.at <= now {
                self.kill_step();
                if let Some(stopping) = &mut self.stopping {
                    stopping.look = stopping.look.later(now);
                }
            }
            return;
        }
    }

    fn step_is_done(&self, step: Step) -> bool {
        match step {
            Step::Containers => {
                self.execs.is_empty() && !self.containers.values().any(crate::container::Container::is_live)
            }
            Step::Pause => self.sandbox.as_ref().is_none_or(|sandbox| sandbox.alive == Alive::No),
            Step::Cgroups => self.remains.is_empty(),
        }
    }

    /// Kills what the step waits for; again and again, since a process may have been made while others were killed.
    fn kill_step(&mut self) {
        match self.stopping.as_ref().map(|stopping| stopping.step) {
            Some(Step::Containers) => {
                for container in self.containers.values() {
                    if let Stage::Running { process, live, .. } = &container.stage
                        && empty_or_kill(&live.cgroup)
                        && let Err(error) = pidfd_send_signal(process.pidfd.as_fd(), SIGKILL)
                    {
                        warn(format_args!("container {} is not killed: {error}", container.id));
                    }
                }
            }
            Some(Step::Pause) => {
                if let Some(sandbox) = &self.sandbox
                    && let Some(pause) = sandbox.pause.as_ref().filter(|_| sandbox.alive == Alive::Yes)
                    && let Err(error) = pidfd_send_signal(pause.process.pidfd.as_fd(), SIGKILL)
                {
                    warn(format_args!("the pause process is not killed: {error}"));
                }
            }
            Some(Step::Cgroups) | None => {}
        }
    }

    /// Nothing runs any more: the namespaces may go, and so may the cgroups of what never ran.
    fn drop_cgroups(&mut self) {
        let created: Vec<ContainerCgroup> = self
            .containers
            .values()
            .filter(|container| matches!(container.stage, Stage::Created { .. }))
            .filter_map(crate::container::Container::cgroup)
            .collect();
        for cgroup in created {
            self.discard(cgroup);
        }
        if let Some(cgroup) = self.sandbox.as_ref().map(|sandbox| sandbox.cgroup.clone()) {
            self.discard(cgroup);
        }
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.pause = None;
        }
    }

    fn stopped(&mut self) {
        let Some(stopping) = self.stopping.take() else { return };
        if let Some(sandbox) = &self.sandbox {
            remove_common_parent(&sandbox.cgroup, &sandbox.id);
        }
        for caller in stopping.callers {
            self.answer_done(caller);
        }
        self.tidy_soon();
    }

    fn stop_failed(&mut self) {
        let Some(stopping) = self.stopping.take() else { return };
        let (what, groups): (&str, Vec<ContainerCgroup>) = match stopping.step {
            Step::Containers => {
                let live = self.containers.values().filter(|container| container.is_live());
                ("containers", live.filter_map(crate::container::Container::cgroup).collect())
            }
            Step::Pause => ("pause process", self.sandbox.iter().map(|sandbox| sandbox.cgroup.clone()).collect()),
            Step::Cgroups => ("cgroups", self.remains.iter().map(|remains| remains.cgroup.clone()).collect()),
        };
        let tasks = groups.iter().map(sleepers).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ");
        let message = format!("the sandbox's {what} did not end within {STOP_TIME:?} of being killed: {tasks}");
        for caller in stopping.callers {
            self.answer(caller, Err(failure(FailureKind::DeadlineExceeded, message.clone())));
        }
    }
}

/// Pause and containers may have a directory in common that is named after the sandbox, made with the first of them. One
/// of another name is the node's or the kubelet's.
fn remove_common_parent(pause: &ContainerCgroup, sandbox: &str) {
    let parent = pause.path().parent().filter(|parent| parent.ends_with(sandbox)).and_then(Path::to_str);
    if let Some(cgroup) = parent.and_then(|parent| ContainerCgroup::open(parent).ok())
        && let Err(error) = cgroup.remove()
    {
        warn(format_args!("leaves a cgroup behind: {error}"));
    }
}

/// The processes of a cgroup that was killed, with the state that keeps them: "4711 (dd) in uninterruptible sleep".
pub(super) fn sleepers(cgroup: &ContainerCgroup) -> String {
    let pids = match cgroup.pids() {
        Ok(pids) => pids,
        Err(error) => return oci_failure("read the cgroup", &error).message,
    };
    let named = pids.iter().take(NAMED_MAX).map(|pid| describe(*pid)).collect::<Vec<_>>().join(", ");
    if pids.len() > NAMED_MAX { format!("{named} and {} more", pids.len() - NAMED_MAX) } else { named }
}

fn describe(pid: i32) -> String {
    let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { return format!("{pid} (gone)") };
    let stat = String::from_utf8_lossy(&stat);
    // The name is the container's to choose: it may hold anything, parentheses too.
    let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { return pid.to_string() };
    let name = stat.get(open + 1..close).unwrap_or_default().escape_default();
    let state = match stat.get(close + 1..).and_then(|rest| rest.trim_start().chars().next()) {
        Some('D') => "in uninterruptible sleep (D)",
        Some('Z') => "dead and not reaped (Z)",
        Some('T' | 't') => "stopped (T)",
        _ => "running",
    };
    format!("{pid} ({name}) {state}")
}
