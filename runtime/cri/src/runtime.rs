//! `RuntimeService`: one file per verb; small families share one.

use std::sync::Arc;

use images_service::Images;
use runtime_cri_api::v1::{self, runtime_service_server::RuntimeService};
use runtime_engine::{Engine, EngineError, Kind};
use runtime_streaming::Streaming;
use tonic::{Request, Response, Status, codegen::BoxStream};

use crate::error::untrusted_checkpoint;
use crate::{
    NodeInfo,
    stream::{chunks, chunks_of},
};

mod attach;
mod container_status;
mod create_container;
mod exec;
mod exec_sync;
mod get_container_events;
mod list_containers;
mod list_pod_sandbox;
mod metrics;
mod pod_sandbox_status;
mod port_forward;
mod remove_container;
mod remove_pod_sandbox;
mod reopen_container_log;
mod run_pod_sandbox;
mod runtime_config;
mod start_container;
mod stats;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod version;

/// The runtime verbs.
#[derive(Debug, Clone)]
pub struct RuntimeVerbs {
    pub(crate) engine: Arc<Engine>,
    pub(crate) images: Images,
    pub(crate) streaming: Streaming,
    pub(crate) info: Arc<NodeInfo>,
}

type Answer<T> = Result<Response<T>, Status>;

/// For verbs that are done when there is nothing to do.
fn gone_is_good(result: Result<(), EngineError>) -> Result<(), Status> {
    match result {
        Err(error) if error.kind() != Kind::NotFound => Err(crate::error::engine(&error)),
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl RuntimeService for RuntimeVerbs {
    type StreamPodSandboxesStream = BoxStream<v1::StreamPodSandboxesResponse>;
    type StreamContainersStream = BoxStream<v1::StreamContainersResponse>;
    type StreamContainerStatsStream = BoxStream<v1::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = BoxStream<v1::StreamPodSandboxStatsResponse>;
    type GetContainerEventsStream = BoxStream<v1::ContainerEventResponse>;
    type StreamPodSandboxMetricsStream = BoxStream<v1::StreamPodSandboxMetricsResponse>;

    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(version::answer(self)))
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Answer<v1::RunPodSandboxResponse> {
        run_pod_sandbox::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        stop_pod_sandbox::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        remove_pod_sandbox::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        create_container::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Answer<v1::StartContainerResponse> {
        start_container::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Answer<v1::StopContainerResponse> {
        stop_container::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        remove_container::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        reopen_container_log::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        exec_sync::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        pod_sandbox_status::answer(self, request.into_inner()).map(Response::new)
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        container_status::answer(self, request.into_inner()).map(Response::new)
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        status::answer(self, request.into_inner()).map(Response::new)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let items = list_pod_sandbox::list(self, request.into_inner().filter)?;
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let items = list_pod_sandbox::list(self, request.into_inner().filter)?;
        Ok(chunks(items, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Answer<v1::ListContainersResponse> {
        let containers = list_containers::list(self, request.into_inner().filter)?;
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let items = list_containers::list(self, request.into_inner().filter)?;
        Ok(chunks(items, |containers| v1::StreamContainersResponse { containers }))
    }

    async fn container_stats(&self, request: Request<v1::ContainerStatsRequest>) -> Answer<v1::ContainerStatsResponse> {
        stats::container(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let stats = stats::containers(self, request.into_inner().filter).await?;
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let items = stats::containers(self, request.into_inner().filter).await?;
        Ok(chunks(items, |container_stats| v1::StreamContainerStatsResponse { container_stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        stats::sandbox(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let stats = stats::sandboxes(self, request.into_inner().filter).await?;
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let items = stats::sandboxes(self, request.into_inner().filter).await?;
        Ok(chunks(items, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    async fn runtime_config(&self, _: Request<v1::RuntimeConfigRequest>) -> Answer<v1::RuntimeConfigResponse> {
        Ok(Response::new(runtime_config::answer()))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        runtime_config::update(self, request.into_inner()).map(Response::new)
    }

    async fn get_container_events(&self, _: Request<v1::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        Ok(get_container_events::answer(self))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        update_container_resources::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        exec::answer(self, request.into_inner()).map(Response::new)
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        attach::answer(self, request.into_inner()).map(Response::new)
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Answer<v1::PortForwardResponse> {
        port_forward::answer(self, request.into_inner()).map(Response::new)
    }

    async fn checkpoint_container(
        &self,
        _: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        Err(untrusted_checkpoint("CheckpointContainer"))
    }

    async fn checkpoint_pod(&self, _: Request<v1::CheckpointPodRequest>) -> Answer<v1::CheckpointPodResponse> {
        Err(untrusted_checkpoint("CheckpointPod"))
    }

    async fn restore_pod(&self, _: Request<v1::RestorePodRequest>) -> Answer<v1::RestorePodResponse> {
        Err(untrusted_checkpoint("RestorePod"))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        Ok(Response::new(metrics::descriptors()))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        let pod_metrics = metrics::list(self).await?;
        Ok(Response::new(v1::ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        update_pod_sandbox_resources::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let items = metrics::list(self).await?;
        Ok(chunks_of(metrics::PODS_PER_MESSAGE, items, |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }))
    }
}
