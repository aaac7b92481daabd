//! Streams bring what lists bring, and what a request said of its pod and container is told again.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::Outcome;
use tests_integration::client::{container, host_network};

use crate::{BUSYBOX, World};

/// All items of a stream of messages.
macro_rules! streamed {
    ($client:expr, $call:ident, $request:expr, $items:ident) => {{
        let mut stream = $client.clone().$call($request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(message) = stream.message().await? {
            ensure!(!message.$items.is_empty(), "{} sends an empty message", stringify!($call));
            all.extend(message.$items);
        }
        all
    }};
}

fn words(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(crate) async fn streams_bring_what_lists_bring(world: Arc<World>) -> Outcome {
    let (runtime, images) = (&world.client.runtime, &world.client.images);
    let label = words(&[("listed", "here")]);
    let mut pods = Vec::new();
    for number in 0..2 {
        let config = cri::PodSandboxConfig { labels: label.clone(), ..world.pod(&format!("listed-{number}")) };
        let sandbox = world.client.run(host_network(config)).await?;
        let config = cri::ContainerConfig { labels: label.clone(), ..container("c", BUSYBOX, &["/bin/sleep", "1000"]) };
        let id = world.client.create(&sandbox, config).await?;
        world.client.start(&id).await?;
        pods.push(sandbox);
    }
    let filter = Some(cri::PodSandboxFilter { label_selector: label.clone(), ..Default::default() });
    let request = cri::ListPodSandboxRequest { filter: filter.clone() };
    let listed = runtime.clone().list_pod_sandbox(request).await?.into_inner().items;
    let request = cri::StreamPodSandboxesRequest { filter };
    ensure!(listed.len() == 2 && streamed!(runtime, stream_pod_sandboxes, request, pod_sandboxes) == listed);

    let filter = Some(cri::ContainerFilter { label_selector: label.clone(), ..Default::default() });
    let request = cri::ListContainersRequest { filter: filter.clone() };
    let listed = runtime.clone().list_containers(request).await?.into_inner().containers;
    let request = cri::StreamContainersRequest { filter };
    ensure!(listed.len() == 2 && streamed!(runtime, stream_containers, request, containers) == listed);

    let filter = Some(cri::ContainerStatsFilter { label_selector: label, ..Default::default() });
    let request = cri::StreamContainerStatsRequest { filter };
    let stats: Vec<cri::ContainerStats> = streamed!(runtime, stream_container_stats, request, container_stats);
    let ids = |stats: Vec<cri::ContainerStats>| -> Vec<String> {
        stats.into_iter().filter_map(|one| one.attributes).map(|attributes| attributes.id).collect()
    };
    // Neither has an order.
    let (mut told, mut wanted) = (ids(stats), listed.iter().map(|one| one.id.clone()).collect::<Vec<_>>());
    told.sort();
    wanted.sort();
    ensure!(told == wanted, "{told:?}, not {wanted:?}");

    let filter = Some(cri::ImageFilter { image: Some(tests_integration::client::spec(BUSYBOX)) });
    let request = cri::ListImagesRequest { filter: filter.clone() };
    let listed = images.clone().list_images(request).await?.into_inner().images;
    let request = cri::StreamImagesRequest { filter };
    ensure!(listed.len() == 1 && streamed!(images, stream_images, request, images) == listed);
    for sandbox in &pods {
        world.client.end(sandbox).await?;
    }
    Ok(())
}

pub(crate) async fn labels_and_annotations_are_told_as_they_were_given(world: Arc<World>) -> Outcome {
    let (labels, annotations) = (words(&[("l", "1"), ("empty", "")]), words(&[("a.example/x", "{\n \"y\": 1\n}\n")]));
    let mut config = world.pod("annotated");
    (config.labels, config.annotations) = (labels.clone(), annotations.clone());
    let sandbox = world.client.run(host_network(config)).await?;
    let mut config = container("c", BUSYBOX, &["/bin/sleep", "1000"]);
    (config.labels, config.annotations) = (labels.clone(), annotations.clone());
    config.image.as_mut().context("an image")?.annotations = annotations.clone();
    let id = world.client.create(&sandbox, config).await?;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: false };
    let status = world.client.runtime.clone().pod_sandbox_status(request).await?.into_inner().status;
    let status = status.context("a status")?;
    ensure!((&status.labels, &status.annotations) == (&labels, &annotations), "{status:?}");
    let status = world.client.status(&id).await?;
    ensure!((&status.labels, &status.annotations) == (&labels, &annotations), "{status:?}");
    ensure!(status.image.as_ref().is_some_and(|image| image.annotations == annotations), "{:?}", status.image);
    world.client.end(&sandbox).await
}
