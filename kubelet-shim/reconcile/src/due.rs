//! When to look again, if nothing is heard before.

use kubelet_shim_manifest::{Container, Pod};

use crate::{
    decide::probe_of,
    effort::Effort,
    memory::{HookRun, Image, KillPhase, Memory, Run, Sandbox, Stage},
    moment::Moment,
    status::ProbeKind,
};

/// The next moment at which [`step`](crate::step) may have something to do; `None` when only an answer or an observation
/// can change anything. A moment that has passed means at once.
#[must_use]
pub fn due(pod: &Pod, memory: &Memory) -> Option<Moment> {
    let Some(began) = memory.began else { return Some(Moment(0)) };
    let sandbox = match &memory.sandbox {
        Sandbox::Wanted(effort) if memory.ending.is_none() => effort.due(),
        Sandbox::Broken { stop: effort, .. }
        | Sandbox::Stopping { stop: effort, .. }
        | Sandbox::Removing { remove: effort, .. } => effort.due(),
        Sandbox::Wanted(_) | Sandbox::Ready { .. } | Sandbox::Stopped { .. } | Sandbox::Gone => None,
    };
    let deadline = pod.active_deadline.filter(|_| memory.ending.is_none()).map(|limit| began + limit);
    let sweeps = memory.sweeps.values().filter_map(Effort::due);
    let containers = pod.init_containers.iter().chain(&pod.containers);
    let runs = containers.filter_map(|container| {
        let run = memory.runs.get(&container.name)?;
        run_due(memory, container, run)
    });
    sandbox.into_iter().chain(deadline).chain(sweeps).chain(runs).min()
}

fn run_due(memory: &Memory, container: &Container, run: &Run) -> Option<Moment> {
    match &run.stage {
        Stage::Waiting { not_before, .. } => match &run.image {
            Image::Wanted(effort) => effort.due().map(|due| due.max(*not_before)),
            Image::Failed { retry, .. } => Some((*retry).max(*not_before)),
            // Its turn comes by somebody else's progress.
            Image::Present(_) => None,
        },
        Stage::Creating { create: effort } | Stage::Starting { start: effort, .. } => {
            effort.due().filter(|_| memory.ending.is_none() && matches!(memory.sandbox, Sandbox::Ready { .. }))
        }
        Stage::Hooked { hook, .. } => hook_due(hook),
        Stage::Running { since, .. } if memory.ending.is_none() => {
            [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness]
                .into_iter()
                .filter_map(|kind| {
                    let probe = probe_of(container, kind)?;
                    let (worker, gate) = match kind {
                        ProbeKind::Startup => (&run.startup, !run.started),
                        ProbeKind::Liveness => (&run.liveness, run.started),
                        ProbeKind::Readiness => (&run.readiness, run.started),
                    };
                    worker.due(*since + probe.initial_delay, probe.period).filter(|_| gate)
                })
                .min()
        }
        Stage::Killing { kill, .. } => match &kill.phase {
            KillPhase::PreStop(hook) => Some(hook_due(hook).map_or(kill.deadline, |due| due.min(kill.deadline))),
            KillPhase::Turn => Some(kill.deadline),
            KillPhase::Signal(effort) => effort.due(),
        },
        Stage::Running { .. } | Stage::Done { .. } => None,
    }
}

fn hook_due(hook: &HookRun) -> Option<Moment> {
    match hook {
        HookRun::Wanted | HookRun::Flight(None) => Some(Moment(0)),
        HookRun::Flight(Some(_)) => None,
        HookRun::Until(until) => Some(*until),
    }
}
