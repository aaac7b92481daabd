//! How a pod ends: why, in which order, and what is left.

use kubelet_shim_manifest::Container;

use crate::{
    action::Action,
    decide::Turn,
    effort::Effort,
    memory::{EndCause, Ending, KillCause, KillPhase, Run, Sandbox, Stage},
    status::ContainerKind,
};

/// Finds out whether the pod has to end.
pub(crate) fn judge(turn: &mut Turn<'_>) {
    let now = turn.now;
    if let Some(deletion) = &turn.memory.deletion {
        let ending = Ending { cause: EndCause::Deleted, since: deletion.at, grace: deletion.grace };
        if turn.memory.ending.as_ref() != Some(&ending) {
            turn.memory.ending = Some(ending);
            turn.changed = true;
        }
        return;
    }
    if turn.memory.ending.is_some() {
        return;
    }
    let began = turn.memory.began.unwrap_or(now);
    let cause = if turn.pod.active_deadline.is_some_and(|limit| now >= began + limit) {
        turn.warn("", "DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
        EndCause::Deadline
    } else if is_over(turn) {
        EndCause::Over
    } else {
        return;
    };
    turn.memory.ending = Some(Ending { cause, since: now, grace: turn.pod.grace });
    turn.changed = true;
}

fn is_over(turn: &Turn<'_>) -> bool {
    let run = |container: &Container| turn.memory.runs.get(&container.name);
    let failed_init = turn.pod.init_containers.iter().filter_map(run).any(|run| {
        run.kind == ContainerKind::Init && run.is_done() && run.last.as_ref().is_some_and(|end| end.code != 0)
    });
    failed_init || turn.pod.containers.iter().filter_map(run).all(Run::is_done)
}

/// Carries the end on.
pub(crate) fn advance(turn: &mut Turn<'_>) {
    let Some(ending) = turn.memory.ending.clone() else { return };
    // Main containers first, then sidecars from the last to the first.
    let order = turn.pod.containers.iter().chain(turn.pod.init_containers.iter().rev());
    let mut all_ended = true;
    for container in order {
        let may_signal = all_ended || container_is_main(turn, container);
        let done = turn.with(&container.name, |turn, run, container| {
            end(turn, run, container, &ending, may_signal);
            run.is_done()
        });
        all_ended &= done.unwrap_or(true);
    }
    if all_ended {
        sandbox(turn, ending.cause);
    }
}

fn container_is_main(turn: &Turn<'_>, container: &Container) -> bool {
    turn.memory.runs.get(&container.name).is_some_and(|run| run.kind != ContainerKind::Sidecar)
}

fn end(turn: &mut Turn<'_>, run: &mut Run, container: &Container, ending: &Ending, may_signal: bool) {
    let deadline = ending.since + ending.grace;
    match &mut run.stage {
        Stage::Waiting { .. } => {
            run.stage = Stage::Done { id: None };
            turn.changed = true;
        }
        Stage::Creating { create } if !create.is_in_flight() => {
            run.stage = Stage::Done { id: turn.made(&container.name, run.next) };
            turn.changed = true;
        }
        Stage::Starting { id, start } if !start.is_in_flight() => {
            run.stage = Stage::Done { id: Some(id.clone()) };
            turn.changed = true;
        }
        Stage::Running { .. } | Stage::Hooked { .. } => {
            turn.kill(run, container, KillCause::Pod, deadline.since(turn.now));
            turn.kill_on(run, container, may_signal);
        }
        Stage::Killing { kill, .. } => {
            kill.cause = KillCause::Pod;
            if deadline < kill.deadline {
                kill.deadline = deadline;
                // Somebody wants it sooner: the runtime is told again.
                if let KillPhase::Signal(effort) = &mut kill.phase {
                    *effort = Effort::default();
                }
            }
            turn.kill_on(run, container, may_signal);
        }
        Stage::Creating { .. } | Stage::Starting { .. } | Stage::Done { .. } => {}
    }
}

fn sandbox(turn: &mut Turn<'_>, cause: EndCause) {
    let now = turn.now;
    let deleted = cause == EndCause::Deleted;
    match turn.memory.sandbox.clone() {
        Sandbox::Wanted(effort) if !effort.is_in_flight() => turn.memory.sandbox = Sandbox::Gone,
        Sandbox::Ready { id } | Sandbox::Broken { id, .. } => {
            turn.memory.sandbox = Sandbox::Stopping { id, stop: Effort::default() };
            turn.memory.ip = None;
        }
        Sandbox::Stopping { id, mut stop } if stop.is_due(now) => {
            let token = turn.memory.token();
            stop.launch(token);
            turn.actions.push(Action::StopSandbox { token, id: id.clone() });
            turn.memory.sandbox = Sandbox::Stopping { id, stop };
            return;
        }
        // The sweep removes the containers first.
        Sandbox::Stopped { id } if deleted && turn.seen.containers.is_empty() => {
            turn.memory.sandbox = Sandbox::Removing { id, remove: Effort::default() };
        }
        Sandbox::Removing { id, mut remove } if remove.is_due(now) => {
            let token = turn.memory.token();
            remove.launch(token);
            turn.actions.push(Action::RemoveSandbox { token, id: id.clone() });
            turn.memory.sandbox = Sandbox::Removing { id, remove };
            return;
        }
        Sandbox::Gone if deleted && turn.seen.sandboxes.is_empty() && turn.seen.containers.is_empty() => {
            if !turn.actions.contains(&Action::Forget) {
                turn.actions.push(Action::Forget);
            }
            return;
        }
        _ => return,
    }
    turn.changed = true;
}
