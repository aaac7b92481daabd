//! What to do after the daemon was started: a pure function of the records, of what the supervisors say, and of the exit
//! records. The supervisors are the truth about processes, the exit records about ends, our records about what was wanted.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    BootTime, ContainerId, ContainerRecord, ContainerState, Exit, ProcessIdentity, SandboxId, SandboxRecord,
    SandboxState, Timestamp,
};

/// Everything that is known when the daemon starts.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// Whether the machine was restarted since the records were written.
    pub boot: Boot,
    /// All that could be read.
    pub sandboxes: Vec<SandboxRecord>,
    /// All that could be read.
    pub containers: Vec<ContainerRecord>,
    /// What each supervisor said; one that isn't here is gone.
    pub heard: BTreeMap<SandboxId, Heard>,
    /// Ends on disk: how, when started, when ended.
    pub exits: BTreeMap<ContainerId, (Exit, Timestamp, Timestamp)>,
    /// Now, for display.
    pub now: Timestamp,
}

/// Whether the machine was restarted since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// It wasn't.
    Same,
    /// It was: nothing of the records runs.
    Other,
}

/// What a supervisor said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It answered.
    Alive(View),
    /// It is gone, or doesn't answer in time.
    Gone,
}

/// What a supervisor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The pause process.
    pub pause: PauseView,
    /// By id as it says it: perhaps none of ours.
    pub containers: BTreeMap<String, ContainerView>,
}

/// A pause process as its supervisor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseView {
    /// There was none yet.
    NotMade,
    /// It lives.
    Alive(ProcessIdentity),
    /// It ended.
    Dead,
}

/// A container as its supervisor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerView {
    /// Made, not started.
    Created,
    /// It runs.
    Running {
        /// Its first process.
        process: ProcessIdentity,
        /// When it was started.
        since: Timestamp,
    },
    /// It ended.
    Exited {
        /// How.
        exit: Exit,
        /// When it was started.
        since: Timestamp,
        /// When it ended.
        until: Timestamp,
    },
}

/// What recovery found and wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// In their new states.
    pub sandboxes: Vec<SandboxRecord>,
    /// In their new states.
    pub containers: Vec<ContainerRecord>,
    /// To be carried out, in this order.
    pub actions: Vec<Action>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It was never finished and nobody knows its id: take everything of it away.
    DiscardSandbox(Box<SandboxRecord>),
    /// The same for a container.
    DiscardContainer(Box<ContainerRecord>),
    /// Its supervisor is gone: kill what is left of it, by cgroup.
    KillSandbox(SandboxId),
    /// Its supervisor has a container that nobody wants.
    Forget {
        /// The sandbox.
        sandbox: SandboxId,
        /// The container's id as the supervisor says it.
        container: String,
    },
    /// A stop was under way: see it through.
    ResumeStop {
        /// The container.
        container: ContainerId,
        /// When it is killed.
        kill_at: BootTime,
    },
    /// A stop was under way: see it through.
    ResumeStopSandbox(SandboxId),
}

/// Decides.
pub fn recover(findings: Recovery) -> Decision {
    let Recovery { boot, sandboxes, containers, heard, exits, now } = findings;
    let mut decision = Decision { sandboxes: Vec::new(), containers: Vec::new(), actions: Vec::new() };
    let mut by_sandbox: BTreeMap<SandboxId, Vec<ContainerRecord>> = BTreeMap::new();
    for container in containers {
        by_sandbox.entry(container.sandbox.clone()).or_default().push(container);
    }
    for sandbox in sandboxes {
        let own = by_sandbox.remove(&sandbox.id).unwrap_or_default();
        let said = match boot {
            Boot::Same => heard.get(&sandbox.id).unwrap_or(&Heard::Gone),
            Boot::Other => &Heard::Gone,
        };
        if sandbox.state == SandboxState::Making {
            decision.actions.extend(own.into_iter().map(discard));
            decision.actions.push(Action::DiscardSandbox(Box::new(sandbox)));
            continue;
        }
        recover_containers(&sandbox, own, said, boot, &exits, now, &mut decision);
        recover_sandbox(sandbox, said, boot, &mut decision);
    }
    // Their sandbox's record is gone or unreadable: nobody could reach or remove them.
    decision.actions.extend(by_sandbox.into_values().flatten().map(discard));
    decision
}

fn discard(container: ContainerRecord) -> Action {
    Action::DiscardContainer(Box::new(container))
}

fn recover_sandbox(mut sandbox: SandboxRecord, said: &Heard, boot: Boot, decision: &mut Decision) {
    let lost = match (boot, said) {
        (Boot::Other, _) => Some("the machine was restarted"),
        (Boot::Same, Heard::Gone) => Some("its supervisor is gone"),
        (Boot::Same, Heard::Alive(View { pause: PauseView::Alive(_), .. })) => None,
        (Boot::Same, Heard::Alive(_)) => Some("its pause process ended"),
    };
    let supervisor_gone = boot == Boot::Same && *said == Heard::Gone;
    match sandbox.state {
        SandboxState::Stopped | SandboxState::Making => {}
        SandboxState::Stopping => {
            if supervisor_gone {
                decision.actions.push(Action::KillSandbox(sandbox.id.clone()));
            }
            decision.actions.push(Action::ResumeStopSandbox(sandbox.id.clone()));
        }
        SandboxState::Ready { .. } | SandboxState::NotReady { .. } => {
            if let (Some(why), SandboxState::Ready { .. }) = (lost, &sandbox.state) {
                sandbox.state = SandboxState::NotReady { why: why.to_owned() };
            }
            if supervisor_gone {
                decision.actions.push(Action::KillSandbox(sandbox.id.clone()));
            }
        }
    }
    decision.sandboxes.push(sandbox);
}

fn recover_containers(
    sandbox: &SandboxRecord,
    containers: Vec<ContainerRecord>,
    said: &Heard,
    boot: Boot,
    exits: &BTreeMap<ContainerId, (Exit, Timestamp, Timestamp)>,
    now: Timestamp,
    decision: &mut Decision,
) {
    let none = BTreeMap::new();
    let views = match said {
        Heard::Alive(view) => &view.containers,
        Heard::Gone => &none,
    };
    let mut known = BTreeSet::new();
    for mut container in containers {
        known.insert(container.id.as_str().to_owned());
        if container.state == ContainerState::Creating {
            decision.actions.push(discard(container));
            continue;
        }
        container.state =
            state_now(container.state, views.get(container.id.as_str()), exits.get(&container.id), boot, now);
        if let ContainerState::Stopping { kill_at, .. } = container.state {
            decision.actions.push(Action::ResumeStop { container: container.id.clone(), kill_at });
        }
        decision.containers.push(container);
    }
    for unwanted in views.keys().filter(|id| !known.contains(*id)) {
        decision.actions.push(Action::Forget { sandbox: sandbox.id.clone(), container: unwanted.clone() });
    }
}

fn state_now(
    state: ContainerState,
    view: Option<&ContainerView>,
    ended: Option<&(Exit, Timestamp, Timestamp)>,
    boot: Boot,
    now: Timestamp,
) -> ContainerState {
    match (state, view) {
        (state @ ContainerState::Exited { .. }, _) => state,
        (_, Some(ContainerView::Exited { exit, since, until })) => {
            ContainerState::Exited { exit: exit.clone(), since: Some(*since), until: *until }
        }
        (ContainerState::Stopping { kill_at, .. }, Some(ContainerView::Running { process, since })) => {
            ContainerState::Stopping { process: *process, since: *since, kill_at }
        }
        (_, Some(ContainerView::Running { process, since })) => {
            ContainerState::Running { process: *process, since: *since }
        }
        (_, Some(ContainerView::Created)) => ContainerState::Created,
        (state, None) => {
            if let Some((exit, since, until)) = ended {
                return ContainerState::Exited { exit: exit.clone(), since: Some(*since), until: *until };
            }
            let exit = match boot {
                Boot::Same => Exit::supervisor_lost(),
                Boot::Other => Exit::rebooted(),
            };
            let since = match state {
                ContainerState::Running { since, .. } | ContainerState::Stopping { since, .. } => Some(since),
                ContainerState::Creating
                | ContainerState::Created
                | ContainerState::Starting
                | ContainerState::Exited { .. } => None,
            };
            ContainerState::Exited { exit, since, until: now }
        }
    }
}

#[cfg(test)]
mod tests;
