//! From the status in moments to the view in wall time.

use std::collections::{BTreeMap, VecDeque};

use kubelet_shim_manifest::Pod;
use kubelet_shim_reconcile::{ConditionKind, ContainerState, ContainerStatus, End, Moment, PodStatus};

use crate::{
    clock::Wall,
    view::{ConditionView, ContainerView, EndView, EventView, PodView, StateView},
};

pub(crate) fn pod(
    pod: &Pod,
    status: &PodStatus,
    since: &BTreeMap<ConditionKind, Moment>,
    wall: Wall,
    events: VecDeque<EventView>,
) -> PodView {
    PodView {
        key: pod.key(),
        uid: pod.metadata.uid.clone(),
        revision: pod.revision.clone(),
        file: pod.origin.file.clone(),
        phase: status.phase,
        reason: status.reason.clone(),
        conditions: status
            .conditions
            .iter()
            .map(|condition| ConditionView {
                kind: condition.kind,
                holds: condition.holds,
                reason: condition.reason.clone(),
                since: wall.of(since.get(&condition.kind).copied().unwrap_or(status.since)),
            })
            .collect(),
        ip: status.ip.as_ref().and_then(|ip| ip.parse().ok()),
        sandbox: status.sandbox.clone(),
        deleting: status.deleting,
        since: wall.of(status.since),
        containers: pod
            .init_containers
            .iter()
            .chain(&pod.containers)
            .filter_map(|spec| {
                let found = status.containers.iter().find(|status| status.name == spec.name)?;
                Some(container(found, &spec.image, wall))
            })
            .collect(),
        events,
    }
}

fn container(status: &ContainerStatus, image: &str, wall: Wall) -> ContainerView {
    ContainerView {
        name: status.name.clone(),
        kind: status.kind,
        image: image.to_owned(),
        id: status.id.clone(),
        attempt: status.attempt,
        ready: status.ready,
        started: status.started,
        restarts: status.restarts,
        state: match &status.state {
            ContainerState::Waiting { reason, message } => {
                StateView::Waiting { reason: reason.clone(), message: message.clone() }
            }
            ContainerState::Running(since) => StateView::Running { since: wall.of(*since) },
            ContainerState::Terminated(end) => StateView::Terminated(ended(end, wall)),
        },
        last: status.last.as_ref().map(|end| ended(end, wall)),
    }
}

fn ended(end: &End, wall: Wall) -> EndView {
    EndView {
        code: end.code,
        reason: end.reason.clone(),
        message: end.message.clone(),
        started: wall.of(end.started),
        finished: wall.of(end.finished),
    }
}
