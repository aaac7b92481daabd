//! GetContainerEvents: what happens, with the state that was in memory when it was told.

use runtime_cri_api::v1::{ContainerEventResponse, ContainerEventType};
use runtime_engine::{Event, EventKind};
use runtime_lifecycle::ContainerFilter;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tonic::{Response, Status, codegen::BoxStream};

use super::{RuntimeVerbs, container_status};
use crate::render;

pub(super) fn answer(verbs: &RuntimeVerbs) -> Response<BoxStream<ContainerEventResponse>> {
    let verbs = verbs.clone();
    let events = BroadcastStream::new(verbs.engine.events()).map(move |event| match event {
        Ok(event) => Ok(response(&verbs, &event)),
        // The client must list anew; a stream that went on with a gap would be worse than one that ends.
        Err(BroadcastStreamRecvError::Lagged(missed)) => {
            Err(Status::data_loss(format!("{missed} events were missed: the reader is too slow")))
        }
    });
    Response::new(Box::pin(events))
}

fn response(verbs: &RuntimeVerbs, event: &Event) -> ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => ContainerEventType::ContainerDeletedEvent,
    };
    let filter = ContainerFilter { sandbox: Some(event.sandbox.clone()), ..ContainerFilter::default() };
    let containers = verbs.engine.containers(&filter);
    let id = event.container.as_ref().map_or_else(|| event.sandbox.to_string(), ToString::to_string);
    ContainerEventResponse {
        container_id: id,
        container_event_type: kind.into(),
        created_at: event.at.0,
        pod_sandbox_status: verbs.engine.sandbox(&event.sandbox).ok().map(|record| render::sandbox_status(&record)),
        containers_statuses: containers.iter().map(|record| container_status::status(verbs, record)).collect(),
    }
}
