//! Taking away what no run needs any more.

use std::collections::BTreeSet;

use crate::{
    action::{Action, Seen},
    decide::Turn,
    memory::{EndCause, Sandbox, Stage},
};
use std::time::Duration;

/// Removes former containers (the last one of each name is kept for its log) and former sandboxes.
pub(crate) fn sweep(turn: &mut Turn<'_>) {
    let seen = turn.seen;
    let present: BTreeSet<&str> = seen
        .containers
        .iter()
        .map(|found| found.id.as_str())
        .chain(seen.sandboxes.iter().map(|found| found.id.as_str()))
        .collect();
    turn.memory.sweeps.retain(|id, effort| effort.is_in_flight() || present.contains(id.as_str()));
    let deleted = turn.memory.ending.as_ref().is_some_and(|ending| ending.cause == EndCause::Deleted);
    let sandbox_ended = matches!(turn.memory.sandbox, Sandbox::Stopped { .. } | Sandbox::Gone);
    for found in &seen.containers {
        let run = turn.memory.runs.get(&found.name);
        let is_kept = run.is_some_and(|run| {
            let is_own = run.id() == Some(&found.id) || run.former.as_ref() == Some(&found.id);
            let is_being_made = matches!(run.stage, Stage::Creating { .. }) && run.next == found.attempt;
            (is_own && !(deleted && sandbox_ended)) || is_being_made
        });
        if is_kept || !due(turn, &found.id) {
            continue;
        }
        let token = turn.memory.token();
        turn.memory.sweeps.entry(found.id.clone()).or_default().launch(token);
        let id = found.id.clone();
        turn.actions.push(match found.state {
            Seen::Running(_) => {
                Action::StopContainer { token, container: found.name.clone(), id, grace: Duration::ZERO }
            }
            Seen::Created | Seen::Exited { .. } => Action::RemoveContainer { token, id },
        });
    }
    for found in &seen.sandboxes {
        let is_own = match &turn.memory.sandbox {
            Sandbox::Wanted(effort) => found.attempt == turn.memory.sandbox_attempt && effort.is_in_flight(),
            Sandbox::Ready { id }
            | Sandbox::Broken { id, .. }
            | Sandbox::Stopping { id, .. }
            | Sandbox::Stopped { id }
            | Sandbox::Removing { id, .. } => *id == found.id,
            Sandbox::Gone => false,
        };
        if is_own || !due(turn, &found.id) {
            continue;
        }
        let token = turn.memory.token();
        turn.memory.sweeps.entry(found.id.clone()).or_default().launch(token);
        let id = found.id.clone();
        turn.actions.push(if found.ready {
            Action::StopSandbox { token, id }
        } else {
            Action::RemoveSandbox { token, id }
        });
    }
}

fn due(turn: &Turn<'_>, id: &str) -> bool {
    turn.memory.sweeps.get(id).is_none_or(|effort| effort.is_due(turn.now))
}
