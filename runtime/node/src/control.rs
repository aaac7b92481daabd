//! The control service: what CRI has no words for, answered from the same parts.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use images_service::Images;
use kubelet_shim_agent::Agent;
use runtime_control_api::v1::control_server::Control;
use runtime_control_api::v1::{
    ApplyRequest, ApplyResponse, DeletePodRequest, DeletePodResponse, ExportRequest, ExportResponse, ImportRequest,
    ImportResponse, InfoRequest, InfoResponse, ListPodsRequest, ListPodsResponse, LogLine, LogsRequest, PodUpdate,
    PruneRequest, PruneResponse, PullProgress, PullRequest, ShutdownRequest, ShutdownResponse, TagRequest, TagResponse,
    WatchPodsRequest,
};
use runtime_engine::{Engine, NetworkReadiness};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::client::Client;
use crate::config::{Settings, Switch};
use crate::error::chain;

mod archives;
mod logs;
mod pods;
mod pull;

/// What a caller asked the daemon to end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Pods live on.
    LeavePods,
    /// The keeper's pods are stopped first.
    StopPods,
    /// The same, and what the node made on this machine goes too.
    Vanish,
}

/// What the service answers from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) engine: Arc<Engine>,
    pub(crate) images: Images,
    /// Set once the keeper runs: it speaks CRI over the socket that this service is on, so it starts after it.
    pub(crate) keeper: OnceLock<Agent>,
    pub(crate) began: Instant,
    /// Set when a caller asks the daemon to end.
    pub(crate) ending: watch::Sender<Option<Ending>>,
}

/// The service; clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct ControlService(pub(crate) Arc<Parts>);

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ControlService {
    fn keeper(&self) -> Result<&Agent, Status> {
        match (self.0.keeper.get(), self.0.settings.keeper) {
            (Some(keeper), _) => Ok(keeper),
            (None, Switch::On) => Err(Status::unavailable("the keeper is still starting: try again")),
            (None, Switch::Off) => Err(Status::failed_precondition(
                "this node has no keeper (it was started with --keeper off): use a kubelet, or start it with --keeper on",
            )),
        }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let Parts { settings, engine, images, .. } = &*self.0;
        let network_not_ready = match engine.network_readiness() {
            NetworkReadiness::Ready => String::new(),
            NetworkReadiness::NotReady { reason, message } => format!("{reason}: {message}"),
        };
        Ok(Response::new(InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node_name: settings.name(),
            kernel: crate::serve::kernel_release(),
            cgroups: crate::serve::cgroup_layout().to_owned(),
            root: settings.root.display().to_string(),
            run: settings.run.display().to_string(),
            pod_cidr: settings.pod_cidr.to_string(),
            bridge: settings.bridge.clone(),
            network_not_ready,
            sandboxes: count(engine.sandboxes(&Default::default()).len()),
            containers: count(engine.containers(&Default::default()).len()),
            images: count(images.list().len()),
            image_bytes: images.usage().bytes,
            uptime_seconds: self.0.began.elapsed().as_secs(),
            keeper: settings.keeper == Switch::On,
        }))
    }

    async fn shutdown(&self, request: Request<ShutdownRequest>) -> Result<Response<ShutdownResponse>, Status> {
        let ending = match request.into_inner() {
            ShutdownRequest { take_away: true, .. } => Ending::Vanish,
            ShutdownRequest { stop_pods: true, .. } => Ending::StopPods,
            ShutdownRequest { .. } => Ending::LeavePods,
        };
        tracing::info!(?ending, "a client asks the node to end");
        self.0.ending.send_replace(Some(ending));
        Ok(Response::new(ShutdownResponse {}))
    }

    async fn import(&self, request: Request<Streaming<ImportRequest>>) -> Result<Response<ImportResponse>, Status> {
        archives::import(&self.0.images, request.into_inner()).await.map(Response::new)
    }

    type ExportStream = ReceiverStream<Result<ExportResponse, Status>>;

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        Ok(Response::new(archives::export(self.0.images.clone(), request.into_inner().names)))
    }

    async fn tag(&self, request: Request<TagRequest>) -> Result<Response<TagResponse>, Status> {
        let TagRequest { source, target } = request.into_inner();
        self.0.images.tag(&source, &target).await.map_err(|error| pull::status(&error))?;
        Ok(Response::new(TagResponse {}))
    }

    type PullStream = ReceiverStream<Result<PullProgress, Status>>;

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        Ok(Response::new(pull::pull(self.0.images.clone(), request.into_inner())))
    }

    async fn prune(&self, _: Request<PruneRequest>) -> Result<Response<PruneResponse>, Status> {
        let report = self.0.images.prune().await.map_err(|error| pull::status(&error))?;
        Ok(Response::new(PruneResponse { removed: report.images, bytes: report.bytes }))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        pods::apply(self.keeper()?, request.into_inner()).await.map(Response::new)
    }

    async fn delete_pod(&self, request: Request<DeletePodRequest>) -> Result<Response<DeletePodResponse>, Status> {
        pods::delete(self.keeper()?, request.into_inner()).await.map(Response::new)
    }

    async fn list_pods(&self, _: Request<ListPodsRequest>) -> Result<Response<ListPodsResponse>, Status> {
        let pods = self.keeper()?.list().into_iter().map(pods::message).collect();
        Ok(Response::new(ListPodsResponse { pods }))
    }

    type WatchPodsStream = Answers<PodUpdate>;

    async fn watch_pods(&self, request: Request<WatchPodsRequest>) -> Result<Response<Self::WatchPodsStream>, Status> {
        let watch = pods::watch(self.keeper()?.clone(), request.into_inner().pods);
        Ok(Response::new(Box::pin(watch)))
    }

    type LogsStream = ReceiverStream<Result<LogLine, Status>>;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        // Over the socket like any other client: what can be asked of CRI is asked of CRI.
        let client = Client::connect(&self.0.settings.listen).await.map_err(|error| Status::internal(chain(&error)))?;
        let (sender, receiver) = mpsc::channel(logs::LINES_AHEAD_MAX);
        let request = request.into_inner();
        let ended = pods::ended(self.0.keeper.get().cloned(), request.pod.clone());
        tokio::spawn(logs::send(client, request, ended, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
