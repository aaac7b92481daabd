//! ListMetricDescriptors, ListPodSandboxMetrics and StreamPodSandboxMetrics.

use runtime_cri_api::v1::{ListMetricDescriptorsResponse, PodSandboxMetrics};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{error::engine, render};

/// Pods in one message of the stream: a container has about 70 values of 400 bytes.
pub(super) const PODS_PER_MESSAGE: usize = 16;

pub(super) fn descriptors() -> ListMetricDescriptorsResponse {
    ListMetricDescriptorsResponse { descriptors: render::metric_descriptors() }
}

pub(super) async fn list(verbs: &RuntimeVerbs) -> Result<Vec<PodSandboxMetrics>, Status> {
    let figures = verbs.engine.figures().await.map_err(|error| engine(&error))?;
    Ok(render::sandbox_metrics(&figures))
}
