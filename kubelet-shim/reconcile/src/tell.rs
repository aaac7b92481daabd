//! The memory in Kubernetes' words.

use kubelet_shim_manifest::{Pod, RestartPolicy};

use crate::{
    memory::{EndCause, Image, Memory, Run, Sandbox, Stage},
    moment::Moment,
    status::{Condition, ConditionKind, ContainerKind, ContainerState, ContainerStatus, Phase, PodStatus},
};

/// The pod's status after the last [`step`](crate::step).
#[must_use]
pub fn status(pod: &Pod, memory: &Memory) -> PodStatus {
    let containers: Vec<ContainerStatus> = pod
        .init_containers
        .iter()
        .chain(&pod.containers)
        .filter_map(|container| memory.runs.get(&container.name).map(|run| container_status(&container.name, run)))
        .collect();
    let phase = phase(pod, memory);
    let by_deadline = memory.ending.as_ref().is_some_and(|ending| ending.cause == EndCause::Deadline);
    PodStatus {
        phase,
        reason: if by_deadline { "DeadlineExceeded".to_owned() } else { String::new() },
        conditions: conditions(pod, memory, phase),
        ip: memory.ip.clone(),
        sandbox: match &memory.sandbox {
            Sandbox::Wanted(_) | Sandbox::Gone => None,
            Sandbox::Ready { id }
            | Sandbox::Broken { id, .. }
            | Sandbox::Stopping { id, .. }
            | Sandbox::Stopped { id }
            | Sandbox::Removing { id, .. } => Some(id.clone()),
        },
        since: memory.began.unwrap_or(Moment(0)),
        deleting: memory.deletion.is_some(),
        containers,
    }
}

fn container_status(name: &str, run: &Run) -> ContainerStatus {
    let waiting = |reason: &str, message: &str| ContainerState::Waiting {
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let mut last = run.last.clone();
    let state = match &run.stage {
        Stage::Waiting { reason, message, .. } => match &run.image {
            Image::Failed { fault, .. } if !fault.reason.is_empty() && fault.reason != "ErrImagePull" => {
                waiting(&fault.reason, &fault.message)
            }
            Image::Failed { fault, .. } => {
                waiting(if run.image_failures > 1 { "ImagePullBackOff" } else { "ErrImagePull" }, &fault.message)
            }
            Image::Wanted(_) | Image::Present(_) => waiting(reason, message),
        },
        Stage::Creating { .. } | Stage::Starting { .. } => waiting("ContainerCreating", ""),
        Stage::Hooked { since, .. } | Stage::Running { since, .. } | Stage::Killing { since, .. } => {
            ContainerState::Running(*since)
        }
        Stage::Done { .. } => match last.take() {
            Some(end) => ContainerState::Terminated(end),
            None => waiting("PodInitializing", ""),
        },
    };
    ContainerStatus {
        name: name.to_owned(),
        kind: run.kind,
        id: run.id().or(run.former.as_deref()).map(str::to_owned),
        attempt: run.next.saturating_sub(1),
        ready: match run.kind {
            // An init container is ready when it has succeeded.
            ContainerKind::Init => run.is_done() && run.last.as_ref().is_some_and(|end| end.code == 0),
            ContainerKind::Sidecar | ContainerKind::Main => run.ready,
        },
        started: run.started,
        restarts: run.next.saturating_sub(1),
        state,
        last,
    }
}

/// The kubelet's getPhase.
fn phase(pod: &Pod, memory: &Memory) -> Phase {
    let run = |name: &str| memory.runs.get(name);
    let mains: Vec<&Run> = pod.containers.iter().filter_map(|container| run(&container.name)).collect();
    let all_down = memory.runs.values().all(Run::is_done);
    if let Some(ending) = &memory.ending {
        match ending.cause {
            EndCause::Deadline if all_down => return Phase::Failed,
            EndCause::Over if all_down => {
                let inits = pod.init_containers.iter().filter_map(|container| run(&container.name));
                let bad_init = inits
                    .filter(|run| run.kind == ContainerKind::Init)
                    .any(|run| run.last.as_ref().is_some_and(|end| end.code != 0));
                let good = mains.iter().all(|run| run.last.as_ref().is_some_and(|end| end.code == 0));
                return if good && !bad_init { Phase::Succeeded } else { Phase::Failed };
            }
            EndCause::Deadline | EndCause::Over | EndCause::Deleted => {}
        }
    }
    if mains.iter().all(|run| run.ran || run.last.is_some()) {
        let over = pod.restart_policy != RestartPolicy::Always && mains.iter().all(|run| run.is_done());
        if over && all_down {
            let good = mains.iter().all(|run| run.last.as_ref().is_some_and(|end| end.code == 0));
            return if good { Phase::Succeeded } else { Phase::Failed };
        }
        return Phase::Running;
    }
    Phase::Pending
}

fn conditions(pod: &Pod, memory: &Memory, phase: Phase) -> Vec<Condition> {
    let condition = |kind, holds: bool, reason: &str| Condition {
        kind,
        holds,
        reason: if holds { String::new() } else { reason.to_owned() },
    };
    let ready = pod
        .init_containers
        .iter()
        .filter(|container| container.sidecar)
        .chain(&pod.containers)
        .all(|container| memory.runs.get(&container.name).is_some_and(|run| run.ready));
    let by_deadline = memory.ending.as_ref().is_some_and(|ending| ending.cause == EndCause::Deadline);
    let why_not = match phase {
        Phase::Succeeded => "PodCompleted",
        Phase::Failed => "PodFailed",
        _ if by_deadline => "PodFailed",
        Phase::Pending | Phase::Running => "ContainersNotReady",
    };
    let has_sandbox = matches!(memory.sandbox, Sandbox::Ready { .. });
    vec![
        condition(ConditionKind::PodReadyToStartContainers, has_sandbox, ""),
        condition(
            ConditionKind::Initialized,
            memory.initialized || pod.init_containers.is_empty(),
            "ContainersNotInitialized",
        ),
        condition(ConditionKind::ContainersReady, ready && !by_deadline, why_not),
        condition(ConditionKind::Ready, ready && !by_deadline, why_not),
    ]
}
