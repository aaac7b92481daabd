//! What happens is told in its order, with the statuses of the moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use runtime_cri_api::v1 as cri;
use runtime_cri_api::v1::ContainerEventType as Kind;
use tests_integration::Outcome;
use tests_integration::client::host_network;

use crate::{BUSYBOX, World};

const PODS: usize = 20;
const CONTAINERS: usize = 5;

/// How long events are collected.
enum Until {
    Count(usize),
    Deleted(String),
}

impl Until {
    fn over(&self, events: &[cri::ContainerEventResponse]) -> bool {
        match self {
            Until::Count(count) => events.len() >= *count,
            Until::Deleted(id) => events
                .iter()
                .any(|event| event.container_id == *id && event.container_event_type() == Kind::ContainerDeletedEvent),
        }
    }
}

async fn collect(
    stream: &mut tonic::Streaming<cri::ContainerEventResponse>,
    pods: &str,
    until: Until,
) -> anyhow::Result<Vec<cri::ContainerEventResponse>> {
    let mut events = Vec::new();
    while !until.over(&events) {
        let next = tokio::time::timeout(Duration::from_secs(60), stream.message()).await;
        let event = next.context("no event for 60 s")??.context("the stream ended")?;
        // Other tests share the node, the one below among them.
        let ours = event.pod_sandbox_status.as_ref().and_then(|status| status.metadata.as_ref());
        if ours.is_some_and(|metadata| metadata.name.starts_with(pods)) {
            events.push(event);
        }
    }
    Ok(events)
}

/// A pod with its containers, from the beginning to the end.
async fn live_and_die(world: Arc<World>, number: usize) -> Outcome {
    let sandbox = world.client.run(host_network(world.pod(&format!("told-in-order-{number}")))).await?;
    let mut containers = tokio::task::JoinSet::new();
    for container in 0..CONTAINERS {
        let (world, sandbox) = (Arc::clone(&world), sandbox.clone());
        containers.spawn(async move {
            // Over before the answer that it was started, often.
            let id = world.client.launch(&sandbox, &format!("c{container}"), BUSYBOX, &["/bin/true"]).await?;
            world.client.wait(&id, Duration::from_secs(60)).await?;
            world.client.remove(&id).await
        });
    }
    while let Some(ended) = containers.join_next().await {
        ended??;
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn a_hundred_containers_are_told_in_order(world: Arc<World>) -> Outcome {
    let mut stream = world.client.runtime.clone().get_container_events(cri::GetEventsRequest {}).await?.into_inner();
    let mut pods = tokio::task::JoinSet::new();
    for number in 0..PODS {
        pods.spawn(live_and_die(Arc::clone(&world), number));
    }
    let wanted = PODS * (CONTAINERS + 1) * 4;
    let events = collect(&mut stream, "told-in-order-", Until::Count(wanted)).await;
    while let Some(ended) = pods.join_next().await {
        ended??;
    }
    let events = events?;
    ensure!(events.windows(2).all(|pair| pair[0].created_at < pair[1].created_at), "two moments are out of order");
    let mut by_id: BTreeMap<&str, Vec<&cri::ContainerEventResponse>> = BTreeMap::new();
    for event in &events {
        by_id.entry(&event.container_id).or_default().push(event);
    }
    ensure!(by_id.len() == PODS * (CONTAINERS + 1), "{} ids", by_id.len());
    for (id, events) in by_id {
        let kinds: Vec<Kind> = events.iter().map(|event| event.container_event_type()).collect();
        let order = [
            Kind::ContainerCreatedEvent,
            Kind::ContainerStartedEvent,
            Kind::ContainerStoppedEvent,
            Kind::ContainerDeletedEvent,
        ];
        ensure!(kinds == order, "{id}: {kinds:?}");
        for event in events {
            let pod = event.pod_sandbox_status.as_ref().context("the pod's status")?;
            ensure!(pod.metadata.as_ref().is_some_and(|metadata| metadata.uid.starts_with("uid-told-")), "{pod:?}");
            let own = event.containers_statuses.iter().find(|status| status.id == id);
            let expected = match event.container_event_type() {
                _ if pod.id == id => continue,
                Kind::ContainerDeletedEvent => false,
                _ => true,
            };
            ensure!(own.is_some() == expected, "{id}: {:?} with {own:?}", event.container_event_type());
            if event.container_event_type() == Kind::ContainerStoppedEvent {
                let own = own.context("its status")?;
                ensure!(own.state() == cri::ContainerState::ContainerExited && own.finished_at > 0, "{own:?}");
                ensure!(own.image_id.starts_with("sha256:") && own.image.is_some(), "{own:?}");
            }
        }
    }
    Ok(())
}

pub(crate) async fn a_program_that_cannot_be_started_is_told_as_stopped_and_never_as_started(
    world: Arc<World>,
) -> Outcome {
    let mut stream = world.client.runtime.clone().get_container_events(cri::GetEventsRequest {}).await?.into_inner();
    let sandbox = world.client.run(host_network(world.pod("told-badly"))).await?;
    let config = tests_integration::client::container("c", BUSYBOX, &["/bin/nothing-here"]);
    let id = world.client.create(&sandbox, config).await?;
    ensure!(world.client.start(&id).await.is_err());
    world.client.end(&sandbox).await?;
    let events = collect(&mut stream, "told-badly", Until::Deleted(sandbox.id.clone())).await?;
    let kinds = |id: &str| -> Vec<Kind> {
        events.iter().filter(|event| event.container_id == id).map(|event| event.container_event_type()).collect()
    };
    let told = kinds(&id);
    ensure!(
        told == [Kind::ContainerCreatedEvent, Kind::ContainerStoppedEvent, Kind::ContainerDeletedEvent],
        "{told:?}"
    );
    let pod = kinds(&sandbox.id);
    ensure!(pod.len() == 4, "{pod:?}");
    Ok(())
}
