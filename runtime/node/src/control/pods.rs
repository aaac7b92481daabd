//! The keeper's pods.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use kubelet_shim_agent::{Agent, AgentError, ContainerKind, ContainerView, Phase, PodEvent, PodView, StateView};
use kubelet_shim_manifest::{Document, PodKey};
use runtime_control_api::v1 as api;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::error::chain;

/// Updates between the keeper and a client that reads slowly; beyond them it is told the latest state again.
const UPDATES_AHEAD_MAX: usize = 64;

/// Reads manifests and hands their pods to the keeper.
pub(super) async fn apply(keeper: &Agent, request: api::ApplyRequest) -> Result<api::ApplyResponse, Status> {
    let (mut pods, mut mistakes) = (Vec::new(), Vec::new());
    for manifest in request.manifests {
        match kubelet_shim_manifest::parse(&manifest.file, &manifest.text) {
            Ok(documents) => pods.extend(documents.into_iter().filter_map(|document| match document {
                Document::Pod(pod) => Some(*pod),
                Document::ConfigMap(_) | Document::Secret(_) => None,
            })),
            Err(errors) => mistakes.push(errors.to_string()),
        }
    }
    if !mistakes.is_empty() {
        return Err(Status::invalid_argument(mistakes.join("\n")));
    }
    let keys = keeper.apply(pods).await.map_err(|error| refused(&error))?;
    Ok(api::ApplyResponse { pods: keys.iter().map(key_message).collect() })
}

/// Stops a pod; answered when it is gone.
pub(super) async fn delete(keeper: &Agent, request: api::DeletePodRequest) -> Result<api::DeletePodResponse, Status> {
    let key = request.pod.unwrap_or_default();
    let key = PodKey { namespace: key.namespace, name: key.name };
    if keeper.get(&key).is_none() {
        return Err(Status::not_found(format!("there is no pod {key}; `podwright ps` lists them")));
    }
    keeper.delete(&key, request.grace_seconds.map(Duration::from_secs)).await.map_err(|error| refused(&error))?;
    Ok(api::DeletePodResponse {})
}

/// All pods now, then each change.
pub(super) fn watch(
    keeper: Agent,
    only: Vec<api::PodKey>,
) -> impl Stream<Item = Result<api::PodUpdate, Status>> + Send + 'static {
    // Subscribed before the list is taken: what happens between the two comes twice rather than never.
    let events = keeper.watch();
    let (sender, receiver) = mpsc::channel(UPDATES_AHEAD_MAX);
    tokio::spawn(tell(keeper, only, events, sender));
    ReceiverStream::new(receiver).map(|update| Ok(api::PodUpdate { update: Some(update) }))
}

async fn tell(
    keeper: Agent,
    only: Vec<api::PodKey>,
    mut events: broadcast::Receiver<PodEvent>,
    updates: mpsc::Sender<api::pod_update::Update>,
) {
    use api::pod_update::Update;
    let wanted =
        |key: &PodKey| only.is_empty() || only.iter().any(|one| one.name == key.name && one.namespace == key.namespace);
    let mut list_again = true;
    loop {
        if std::mem::take(&mut list_again) {
            for view in keeper.list().into_iter().filter(|view| wanted(&view.key)) {
                if updates.send(Update::Pod(message(view))).await.is_err() {
                    return;
                }
            }
            if updates.send(Update::Synced(true)).await.is_err() {
                return;
            }
        }
        let event = tokio::select! {
            event = events.recv() => event,
            () = updates.closed() => return,
        };
        let update = match event {
            Ok(PodEvent::Changed(view)) if wanted(&view.key) => Update::Pod(message(*view)),
            Ok(PodEvent::Gone(key)) if wanted(&key) => Update::Gone(key_message(&key)),
            Ok(PodEvent::Changed(_) | PodEvent::Gone(_) | PodEvent::Manifest { .. }) => continue,
            Err(RecvError::Lagged(_)) => {
                list_again = true;
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

/// A pod on the wire.
pub(super) fn message(view: PodView) -> api::Pod {
    api::Pod {
        ready: view.is_ready(),
        key: Some(key_message(&view.key)),
        uid: view.uid,
        revision: view.revision,
        phase: match view.phase {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
        .to_owned(),
        reason: view.reason,
        ip: view.ip.as_ref().map(IpAddr::to_string).unwrap_or_default(),
        containers: view.containers.into_iter().map(container_message).collect(),
        events: view
            .events
            .into_iter()
            .map(|event| api::PodEvent {
                count: event.count,
                at_unix_nanos: unix_nanos(event.at),
                warning: event.warning,
                reason: event.reason,
                message: event.message,
                container: event.container,
            })
            .collect(),
        started_unix_nanos: unix_nanos(view.since),
        sandbox: view.sandbox.unwrap_or_default(),
        deleting: view.deleting,
    }
}

fn container_message(view: ContainerView) -> api::Container {
    let last_code = view.last.map(|end| end.code);
    let (state, reason, message, exit_code) = match view.state {
        StateView::Waiting { reason, message } => ("waiting", reason, message, last_code),
        StateView::Running { .. } => ("running", String::new(), String::new(), last_code),
        StateView::Terminated(end) => ("terminated", end.reason, end.message, Some(end.code)),
    };
    api::Container {
        name: view.name,
        image: view.image,
        init: matches!(view.kind, ContainerKind::Init | ContainerKind::Sidecar),
        ready: view.ready,
        started: view.started,
        restarts: view.restarts,
        state: state.to_owned(),
        reason,
        message,
        exit_code,
        id: view.id.unwrap_or_default(),
    }
}

/// Whether a pod of the keeper has ended, asked again and again. Of a pod that isn't the keeper's nobody knows.
pub(super) fn ended(keeper: Option<Agent>, pod: Option<api::PodKey>) -> impl Fn() -> bool {
    let key = pod.unwrap_or_default();
    let key = PodKey { namespace: key.namespace, name: key.name };
    move || {
        let view = keeper.as_ref().and_then(|keeper| keeper.get(&key));
        view.is_some_and(|view| view.is_over())
    }
}

fn key_message(key: &PodKey) -> api::PodKey {
    api::PodKey { namespace: key.namespace.clone(), name: key.name.clone() }
}

fn unix_nanos(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

fn refused(error: &AgentError) -> Status {
    Status::failed_precondition(chain(error))
}
