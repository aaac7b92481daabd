//! ContainerStats, PodSandboxStats, their lists and streams.

use runtime_cri_api::v1::{
    ContainerFilter, ContainerStats, ContainerStatsFilter, ContainerStatsRequest, ContainerStatsResponse,
    PodSandboxFilter, PodSandboxStats, PodSandboxStatsFilter, PodSandboxStatsRequest, PodSandboxStatsResponse,
};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{error::engine, parse, render};

pub(super) async fn container(
    verbs: &RuntimeVerbs,
    request: ContainerStatsRequest,
) -> Result<ContainerStatsResponse, Status> {
    let id = verbs.engine.find_container(&request.container_id).map_err(|error| engine(&error))?;
    let usage = verbs.engine.container_usage(&id).await.map_err(|error| engine(&error))?;
    Ok(ContainerStatsResponse { stats: Some(render::container_stats(&usage)) })
}

pub(super) async fn containers(
    verbs: &RuntimeVerbs,
    filter: Option<ContainerStatsFilter>,
) -> Result<Vec<ContainerStats>, Status> {
    let filter = filter.unwrap_or_default();
    let filter = ContainerFilter {
        id: filter.id,
        pod_sandbox_id: filter.pod_sandbox_id,
        label_selector: filter.label_selector,
        state: None,
    };
    let Some(filter) = parse::container_filter(&verbs.engine, Some(filter))? else { return Ok(Vec::new()) };
    let usages = verbs.engine.container_usages(&filter).await.map_err(|error| engine(&error))?;
    Ok(usages.iter().map(render::container_stats).collect())
}

pub(super) async fn sandbox(
    verbs: &RuntimeVerbs,
    request: PodSandboxStatsRequest,
) -> Result<PodSandboxStatsResponse, Status> {
    let id = verbs.engine.find_sandbox(&request.pod_sandbox_id).map_err(|error| engine(&error))?;
    let usage = verbs.engine.sandbox_usage(&id).await.map_err(|error| engine(&error))?;
    Ok(PodSandboxStatsResponse { stats: Some(render::sandbox_stats(&usage)) })
}

pub(super) async fn sandboxes(
    verbs: &RuntimeVerbs,
    filter: Option<PodSandboxStatsFilter>,
) -> Result<Vec<PodSandboxStats>, Status> {
    let filter = filter.unwrap_or_default();
    let filter = PodSandboxFilter { id: filter.id, label_selector: filter.label_selector, state: None };
    let Some(filter) = parse::sandbox_filter(&verbs.engine, Some(filter))? else { return Ok(Vec::new()) };
    let usages = verbs.engine.sandbox_usages(&filter).await.map_err(|error| engine(&error))?;
    Ok(usages.iter().map(render::sandbox_stats).collect())
}
