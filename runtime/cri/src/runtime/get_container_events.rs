//! GetContainerEvents: what happens, with the statuses of the pod as they were when it was told.

use futures_util::{Stream, stream::unfold};
use runtime_cri_api::v1::{ContainerEventResponse, ContainerEventType};
use runtime_engine::{Event, EventKind};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tonic::{Response, Status, codegen::BoxStream};

use super::{RuntimeVerbs, container_status};
use crate::render;

pub(super) fn answer(verbs: &RuntimeVerbs) -> Response<BoxStream<ContainerEventResponse>> {
    let shown = verbs.clone();
    Response::new(Box::pin(told(verbs.engine.events(), move |event| response(&shown, event))))
}

/// Every event, until the client goes away or falls too far behind.
fn told<T>(events: Receiver<Event>, response: impl Fn(&Event) -> T) -> impl Stream<Item = Result<T, Status>> {
    unfold((Some(events), response), |(events, response)| async move {
        let mut events = events?;
        match events.recv().await {
            Ok(event) => Some((Ok(response(&event)), (Some(events), response))),
            Err(RecvError::Lagged(missed)) => Some((Err(overflow(missed)), (None, response))),
            Err(RecvError::Closed) => None,
        }
    })
}

/// The mark that events were lost. The stream ends with it: the client lists anew, which it wouldn't know to do if the
/// stream went on behind the gap.
fn overflow(missed: u64) -> Status {
    Status::data_loss(format!("{missed} events were missed: the reader is too slow; list anew and ask again"))
}

fn response(verbs: &RuntimeVerbs, event: &Event) -> ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => ContainerEventType::ContainerDeletedEvent,
    };
    let id = event.container.as_ref().map_or_else(|| event.sandbox.to_string(), ToString::to_string);
    ContainerEventResponse {
        container_id: id,
        container_event_type: kind.into(),
        created_at: event.at.0,
        pod_sandbox_status: event.pod.as_deref().map(render::sandbox_status),
        containers_statuses: event.containers.iter().map(|record| container_status::status(verbs, record)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use runtime_engine::{Event, EventKind};
    use runtime_lifecycle::{SandboxId, Timestamp};
    use tokio::sync::broadcast;
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    fn event(at: i64) -> Event {
        Event {
            kind: EventKind::Started,
            at: Timestamp(at),
            sandbox: SandboxId::from_random([1; 32]),
            container: None,
            pod: None,
            containers: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_reader_that_keeps_up_gets_all_and_one_that_does_not_is_told() {
        let sender = broadcast::Sender::new(4);
        let mut quick = Box::pin(super::told(sender.subscribe(), |event| event.at.0));
        let mut slow = Box::pin(super::told(sender.subscribe(), |event| event.at.0));
        for at in 0..11 {
            sender.send(event(at)).expect("somebody listens");
            assert_eq!(quick.next().await.expect("goes on").expect("is an event"), at);
        }
        let told = slow.next().await.expect("is told").expect_err("is told that it is late");
        assert_eq!(told.code(), Code::DataLoss);
        assert!(told.message().contains("7 events") && told.message().contains("list anew"), "{told:?}");
        assert!(slow.next().await.is_none(), "nothing behind the gap");
        drop(sender);
        assert!(quick.next().await.is_none());
    }
}
