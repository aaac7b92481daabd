//! The runtime, as far as the keeper needs it.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use runtime_cri_api::v1::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// Largest answer that is taken: the runtime's own cap on an exec's output.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a call may take that only asks. The runtime answers these from memory.
const ASK: Duration = Duration::from_secs(10);
/// How long a call may take that makes or removes something.
const ACT: Duration = Duration::from_secs(240);
/// How long a pull may take; the runtime has its own idea of progress.
const PULL: Duration = Duration::from_secs(3600);

/// A connection to the runtime; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

type Answer<T> = Result<T, Status>;

async fn within<T>(limit: Duration, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Answer<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("the runtime has not answered for {} s", limit.as_secs()))),
    }
}

/// Something that is gone was removed.
fn gone_is_fine<T: Default>(answer: Answer<T>) -> Answer<T> {
    match answer {
        Err(status) if status.code() == Code::NotFound => Ok(T::default()),
        answer => answer,
    }
}

impl Cri {
    /// Connects anew whenever the connection is lost; nothing is tried before the first call.
    pub(crate) fn new(socket: PathBuf) -> Self {
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX),
            images: ImageServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX),
        }
    }

    pub(crate) async fn version(&self) -> Answer<v1::VersionResponse> {
        let mut runtime = self.runtime.clone();
        within(ASK, runtime.version(v1::VersionRequest { version: "v1".to_owned() })).await
    }

    pub(crate) async fn sandboxes(&self, labels: HashMap<String, String>) -> Answer<Vec<v1::PodSandbox>> {
        let filter = v1::PodSandboxFilter { label_selector: labels, ..Default::default() };
        let mut runtime = self.runtime.clone();
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        within(ASK, runtime.list_pod_sandbox(request)).await.map(|answer| answer.items)
    }

    pub(crate) async fn sandbox_status(&self, id: &str) -> Answer<Option<v1::PodSandboxStatus>> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let mut runtime = self.runtime.clone();
        gone_is_fine(within(ASK, runtime.pod_sandbox_status(request)).await).map(|answer| answer.status)
    }

    pub(crate) async fn containers(&self, labels: HashMap<String, String>) -> Answer<Vec<v1::Container>> {
        let filter = v1::ContainerFilter { label_selector: labels, ..Default::default() };
        let mut runtime = self.runtime.clone();
        let request = v1::ListContainersRequest { filter: Some(filter) };
        within(ASK, runtime.list_containers(request)).await.map(|answer| answer.containers)
    }

    pub(crate) async fn container_status(&self, id: &str) -> Answer<Option<v1::ContainerStatus>> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let mut runtime = self.runtime.clone();
        gone_is_fine(within(ASK, runtime.container_status(request)).await).map(|answer| answer.status)
    }

    pub(crate) async fn run_sandbox(&self, config: v1::PodSandboxConfig) -> Answer<String> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let mut runtime = self.runtime.clone();
        within(ACT, runtime.run_pod_sandbox(request)).await.map(|answer| answer.pod_sandbox_id)
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Answer<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let mut runtime = self.runtime.clone();
        gone_is_fine(within(ACT, runtime.stop_pod_sandbox(request)).await).map(drop)
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Answer<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let mut runtime = self.runtime.clone();
        gone_is_fine(within(ACT, runtime.remove_pod_sandbox(request)).await).map(drop)
    }

    pub(crate) async fn create(&self, request: v1::CreateContainerRequest) -> Answer<String> {
        let mut runtime = self.runtime.clone();
        within(ACT, runtime.create_container(request)).await.map(|answer| answer.container_id)
    }

    pub(crate) async fn start(&self, id: &str) -> Answer<()> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        let mut runtime = self.runtime.clone();
        within(ACT, runtime.start_container(request)).await.map(drop)
    }

    pub(crate) async fn stop(&self, id: &str, grace: Duration) -> Answer<()> {
        // Rounded up: a grace of half a second must not become none.
        let timeout = i64::try_from(grace.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        let mut runtime = self.runtime.clone();
        gone_is_fine(within(ACT.saturating_add(grace), runtime.stop_container(request)).await).map(drop)
    }

    pub(crate) async fn remove(&self, id: &str) -> Answer<()> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        let mut runtime = self.runtime.clone();
        gone_is_fine(within(ACT, runtime.remove_container(request)).await).map(drop)
    }

    /// Runs a command; `None` has no limit.
    pub(crate) async fn exec(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Answer<v1::ExecSyncResponse> {
        let seconds = timeout.map_or(0, |limit| i64::try_from(limit.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX));
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: seconds };
        let mut runtime = self.runtime.clone();
        // The runtime ends it in time; the margin is for the answer's way.
        let limit = timeout.map_or(PULL, |limit| limit + Duration::from_secs(2));
        within(limit, runtime.exec_sync(request)).await
    }

    pub(crate) async fn events(&self) -> Answer<tonic::Streaming<v1::ContainerEventResponse>> {
        let mut runtime = self.runtime.clone();
        within(ASK, runtime.get_container_events(v1::GetEventsRequest {})).await
    }

    pub(crate) async fn image(&self, image: &str) -> Answer<Option<v1::Image>> {
        let request = v1::ImageStatusRequest { image: Some(spec(image)), verbose: false };
        let mut images = self.images.clone();
        gone_is_fine(within(ASK, images.image_status(request)).await).map(|answer| answer.image)
    }

    pub(crate) async fn pull(&self, image: &str, sandbox: v1::PodSandboxConfig) -> Answer<String> {
        let request = v1::PullImageRequest { image: Some(spec(image)), auth: None, sandbox_config: Some(sandbox) };
        let mut images = self.images.clone();
        within(PULL, images.pull_image(request)).await.map(|answer| answer.image_ref)
    }
}

/// An image by its name.
pub(crate) fn spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }
}
