//! Limits that are changed while the pod runs. A child does it: the kernel may reclaim memory for as long as its disk takes.

use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use runtime_oci::{Change, ContainerCgroup, Update};
use runtime_wire::{Failure, FailureKind};

use super::requests::no_such_container;
use super::{Caller, Supervisor, Token};
use crate::clock;
use crate::container::Stage;
use crate::convert::{failure, oci_failure};

/// Longest change. Then it is told as not done; what the kernel has taken by then stays.
const UPDATE_TIME: Duration = Duration::from_secs(15);

/// Most changes at once: one for each container of a pod that is resized, and a few that are stuck.
const UPDATES_MAX: usize = 64;

/// A change that is under way.
#[derive(Debug)]
pub(super) struct Updating {
    update: Update,
    caller: Caller,
    /// For messages.
    operation: String,
    /// The container's number and its new score, to be kept when it is done.
    score: Option<(u64, i32)>,
    pub(super) deadline: Instant,
}

impl Supervisor {
    pub(super) fn update_container(
        &mut self,
        caller: Caller,
        id: &str,
        resources: &LinuxResources,
        oom_score_adj: Option<i32>,
    ) -> Result<(), Failure> {
        let number = self.find(id).ok_or_else(|| no_such_container(id))?;
        let Some(container) = self.containers.get(&number) else { return Err(no_such_container(id)) };
        let operation = format!("change the limits of container {id}");
        let cgroup = match &container.stage {
            Stage::Created { .. } | Stage::Running { .. } => container.cgroup(),
            Stage::Checking { .. } | Stage::Launching { .. } | Stage::Ending(_) | Stage::Exited { .. } => None,
        };
        let Some(cgroup) = cgroup else {
            return Err(failure(FailureKind::Refused, format!("{operation}: it is neither created nor running")));
        };
        let change = Change { resources, oom_score_adj };
        self.change(caller, &cgroup, change, operation, oom_score_adj.map(|score| (number, score)))
    }

    pub(super) fn update_sandbox(
        &mut self,
        caller: Caller,
        cgroup: &str,
        resources: &LinuxResources,
    ) -> Result<(), Failure> {
        let operation = format!("change the limits of cgroup {cgroup:?}");
        // Not somebody else's: a group that the pause process is in or below.
        let above = self.sandbox.as_ref().is_some_and(|sandbox| {
            sandbox.cgroup.path().starts_with(std::path::Path::new(cgroup.trim_start_matches('/')))
        });
        if !above || cgroup.trim_matches('/').is_empty() {
            return Err(failure(FailureKind::Refused, format!("{operation}: it is not this pod's")));
        }
        let group = ContainerCgroup::open(cgroup).map_err(|error| oci_failure(&operation, &error))?;
        self.change(caller, &group, Change { resources, oom_score_adj: None }, operation, None)
    }

    fn change(
        &mut self,
        caller: Caller,
        cgroup: &ContainerCgroup,
        change: Change<'_>,
        operation: String,
        score: Option<(u64, i32)>,
    ) -> Result<(), Failure> {
        if self.updates.len() >= UPDATES_MAX {
            return Err(failure(FailureKind::Refused, format!("{operation}: {UPDATES_MAX} changes are under way")));
        }
        let update = cgroup.update(change).map_err(|error| oci_failure(&operation, &error))?;
        let number = self.number();
        self.watch(update.descriptor(), Token::Update(number))?;
        let deadline = clock::now() + UPDATE_TIME;
        self.updates.insert(number, Updating { update, caller, operation, score, deadline });
        self.tidy_soon();
        Ok(())
    }

    /// A change has news.
    pub(super) fn progress_update(&mut self, number: u64) {
        let Some(updating) = self.updates.get_mut(&number) else { return };
        let Some(outcome) = updating.update.advance() else { return };
        let Some(updating) = self.updates.remove(&number) else { return };
        self.unwatch(updating.update.descriptor());
        match outcome {
            Ok(()) => {
                if let Some((container, score)) = updating.score
                    && let Some(container) = self.containers.get_mut(&container)
                {
                    container.oom_score_adj = score;
                    if let Stage::Created { prepared } = &mut container.stage {
                        prepared.set_oom_score_adj(score);
                    }
                }
                self.answer_done(updating.caller);
            }
            Err(error) => self.answer(updating.caller, Err(oci_failure(&updating.operation, &error))),
        }
    }

    /// Gives up what takes too long.
    pub(super) fn updates_due(&mut self, now: Instant) {
        let due: Vec<u64> =
            self.updates.iter().filter(|(_, updating)| updating.deadline <= now).map(|(number, _)| *number).collect();
        for number in due {
            let Some(updating) = self.updates.remove(&number) else { continue };
            self.unwatch(updating.update.descriptor());
            // A child that sleeps in the kernel is reaped as a stranger when it wakes.
            drop(updating.update.abandon());
            let message = format!("{}: the kernel did not do it within {UPDATE_TIME:?}", updating.operation);
            self.answer(updating.caller, Err(failure(FailureKind::DeadlineExceeded, message)));
        }
    }
}
