//! The removal of a container that doesn't run.

use std::time::Instant;

use runtime_oci::ContainerCgroup;
use runtime_wire::{Failure, FailureKind};

use super::lifecycle::empty_or_kill;
use super::requests::no_such_container;
use super::stop::{STOP_TIME, sleepers};
use super::{Caller, Supervisor};
use crate::clock;
use crate::container::{Look, Stage};
use crate::convert::{failure, oci_failure};
use crate::exit::remove_record;

/// A removal that waits for processes to be gone.
#[derive(Debug)]
pub(super) struct Removal {
    caller: Caller,
    container: String,
    deadline: Instant,
    look: Look,
}

impl Removal {
    pub(super) fn next(&self) -> Instant {
        self.look.at.min(self.deadline)
    }
}

/// What a try to remove a container has left.
#[derive(Debug)]
enum Left {
    Nothing,
    /// Processes that were killed and are not gone yet.
    Cgroup(ContainerCgroup),
}

impl Supervisor {
    /// Answers once nothing of the container is left. What was killed on its way to its program takes a moment to go: a
    /// client that stops a pod and removes its containers at once must not be told that they can't be killed.
    pub(super) fn remove_container(&mut self, caller: Caller, id: &str) -> Result<(), Failure> {
        match self.try_remove(id)? {
            Left::Nothing => self.answer_done(caller),
            Left::Cgroup(_) => {
                let now = clock::now();
                let container = id.to_owned();
                self.removals.push(Removal { caller, container, deadline: now + STOP_TIME, look: Look::soon(now) });
            }
        }
        Ok(())
    }

    /// Tries again what is due at `now`.
    pub(super) fn removals_due(&mut self, now: Instant) {
        let (due, waiting) = std::mem::take(&mut self.removals).into_iter().partition(|removal| removal.next() <= now);
        self.removals = waiting;
        let due: Vec<Removal> = due;
        for removal in due {
            let Removal { caller, container, deadline, look } = removal;
            match self.try_remove(&container) {
                Ok(Left::Cgroup(_)) if now < deadline => {
                    self.removals.push(Removal { caller, container, deadline, look: look.later(now) });
                }
                Ok(Left::Cgroup(cgroup)) => {
                    let tasks = sleepers(&cgroup);
                    let message = format!(
                        "processes of container {container} did not end within {STOP_TIME:?} of being killed: {tasks}"
                    );
                    self.answer(caller, Err(failure(FailureKind::DeadlineExceeded, message)));
                }
                Ok(Left::Nothing) => self.answer_done(caller),
                // Another call has removed it meanwhile.
                Err(error) if error.kind == FailureKind::NotFound => self.answer_done(caller),
                Err(error) => self.answer(caller, Err(error)),
            }
        }
    }

    fn try_remove(&mut self, id: &str) -> Result<Left, Failure> {
        let number = self.find(id).ok_or_else(|| no_such_container(id))?;
        let Some(container) = self.containers.get(&number) else { return Err(no_such_container(id)) };
        if container.is_live() {
            return Err(failure(FailureKind::Refused, format!("container {id} is running; it is stopped first")));
        }
        let cgroup = match &container.stage {
            Stage::Exited { cgroup, .. } => {
                let left = self.remains.iter().find(|remains| remains.cgroup.path() == cgroup);
                left.map(|remains| remains.cgroup.clone())
            }
            _ => container.cgroup(),
        };
        if let Some(cgroup) = cgroup {
            if !empty_or_kill(&cgroup) {
                return Ok(Left::Cgroup(cgroup));
            }
            cgroup.remove().map_err(|error| oci_failure(&format!("remove container {id}"), &error))?;
            self.remains.retain(|remains| remains.cgroup.path() != cgroup.path());
        }
        if let Some(sandbox) = &self.sandbox {
            remove_record(&sandbox.exits, id)
                .map_err(|error| failure(FailureKind::Kernel, format!("remove the exit record of {id}: {error}")))?;
        }
        self.containers.remove(&number);
        self.tidy_soon();
        Ok(Left::Nothing)
    }
}
