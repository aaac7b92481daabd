//! What happens because nothing happened.

use std::time::Instant;

use runtime_sys::memory;
use runtime_wire::FailureKind;

use super::Supervisor;
use super::lifecycle::empty_or_kill;
use super::removal::Removal;
use crate::container::{Container, Stage};
use crate::convert::failure;
use crate::exec::Exec;

impl Supervisor {
    /// The next moment at which something must be looked at.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let containers = self.containers.values().filter_map(Container::deadline);
        let execs = self.execs.values().filter_map(Exec::deadline);
        let remains = self.remains.iter().map(|remains| remains.look.at);
        let hellos = self.hellos.iter().map(|(_, until)| *until);
        let stopping = self.stopping.iter().map(|stopping| stopping.next());
        let updates = self.updates.values().map(|update| update.deadline);
        let removals = self.removals.iter().map(Removal::next);
        containers
            .chain(execs)
            .chain(updates)
            .chain(remains)
            .chain(removals)
            .chain(hellos)
            .chain(stopping)
            .chain(self.tidy_at)
            .min()
    }

    /// Does what is due at `now`.
    pub(super) fn pass_deadlines(&mut self, now: Instant) {
        let due: Vec<u64> = self
            .containers
            .iter()
            .filter(|(_, container)| container.deadline().is_some_and(|at| at <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            self.container_due(number, now);
        }
        let due: Vec<u64> = self
            .execs
            .iter()
            .filter(|(_, exec)| exec.deadline().is_some_and(|at| at <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let message = format!("an exec did not reach its program within {:?}", super::lifecycle::LAUNCH_TIME);
            self.abandon_exec(number, failure(FailureKind::DeadlineExceeded, message));
        }
        self.updates_due(now);
        self.removals_due(now);
        self.remains.retain_mut(|remains| {
            if remains.look.at > now {
                return true;
            }
            remains.look = remains.look.later(now);
            !empty_or_kill(&remains.cgroup) || remains.cgroup.remove().is_err()
        });
        self.advance_stop(now);
        if !self.hellos.is_empty() {
            self.answer_hellos(now);
        }
        if self.tidy_at.is_some_and(|at| at <= now) {
            self.tidy();
        }
    }

    fn container_due(&mut self, number: u64, now: Instant) {
        let Some(container) = self.containers.get(&number) else { return };
        let late = |what: &str| {
            let message = format!("container {}: {what}", container.id);
            failure(FailureKind::DeadlineExceeded, message)
        };
        match &container.stage {
            Stage::Checking { spec, .. } => {
                let sources = crate::convert::sources(&spec.spec).take(3).collect::<Vec<_>>().join(", ");
                let failure = late(&format!("a volume source does not answer; one of: {sources}"));
                self.checked(number, Err(failure));
            }
            Stage::Launching { .. } => {
                let failure = late("its mounts were not made in time; a volume does not answer");
                self.abandon_start(number, &failure);
            }
            Stage::Ending(_) => self.look_at_ending(number, now),
            Stage::Created { .. } | Stage::Running { .. } | Stage::Exited { .. } => {}
        }
    }

    /// Gives back what only a burst needed.
    fn tidy(&mut self) {
        self.tidy_at = None;
        self.buffers.free();
        for container in self.containers.values_mut() {
            for output in container.live().iter_mut().flat_map(|live| live.outputs.iter_mut().flatten()) {
                output.shrink();
            }
        }
        memory::trim();
    }
}
