//! A runtime that is a table: no process, no kernel, and faults by order.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::{SystemTime, UNIX_EPOCH},
};

use runtime_cri_api::v1::{self, ContainerState, PodSandboxState};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) config: v1::PodSandboxConfig,
    ready: bool,
}

pub(super) struct Container {
    pub(super) id: String,
    sandbox: String,
    pub(super) config: v1::ContainerConfig,
    state: ContainerState,
    started: i64,
    finished: i64,
    code: i32,
}

#[derive(Default)]
pub(super) struct World {
    pub(super) sandboxes: Vec<Sandbox>,
    pub(super) containers: Vec<Container>,
    /// Verb to how often it fails yet.
    pub(super) faults: HashMap<String, usize>,
    /// Name and grace of each stop of a running container.
    pub(super) stops: Vec<(String, i64)>,
    pub(super) starts: usize,
    /// Two containers of one name ran at once.
    pub(super) overlapped: bool,
    made: usize,
}

#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<World>>);

fn nanos() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

impl World {
    fn fault(&mut self, verb: &str) -> Result<(), Status> {
        match self.faults.get_mut(verb) {
            Some(left @ 1..) => {
                *left -= 1;
                Err(Status::internal(format!("ordered fault in {verb}")))
            }
            _ => Ok(()),
        }
    }

    fn id(&mut self) -> String {
        self.made += 1;
        format!("{:064x}", self.made)
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.containers.iter_mut().find(|found| found.id == id).ok_or_else(|| Status::not_found("no such container"))
    }

    fn end(container: &mut Container, code: i32) {
        if container.state == ContainerState::ContainerRunning {
            container.state = ContainerState::ContainerExited;
            container.finished = nanos();
            container.code = code;
        }
    }
}

fn selects(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

async fn unary<Q, A>(request: http::Request<Body>, work: impl Fn(Q) -> Result<A, Status>) -> http::Response<Body>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let codec = tonic_prost::ProstCodec::<A, Q>::default();
    let service = tower::service_fn(move |request: Request<Q>| {
        let answer = work(request.into_inner()).map(Response::new);
        async move { answer }
    });
    tonic::server::Grpc::new(codec).unary(service, request).await
}

impl Fake {
    pub(super) async fn serve(path: &Path) -> Self {
        let fake = Self::default();
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let server =
            tonic::transport::Server::builder()
                .add_service(Door::<false>(fake.clone()))
                .add_service(Door::<true>(fake.clone()));
        tokio::spawn(async move { server.serve_with_incoming(UnixListenerStream::new(listener)).await });
        fake
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        super::locked(&self.0)
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let verb = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        match verb.as_str() {
            "Version" => unary(request, |_: v1::VersionRequest| Ok(v1::VersionResponse::default())).await,
            "ImageStatus" => unary(request, |asked| Ok(Self::image(&asked))).await,
            "PullImage" => unary(request, |asked| self.pull(asked)).await,
            "ListPodSandbox" | "PodSandboxStatus" | "RunPodSandbox" | "StopPodSandbox" | "RemovePodSandbox" => {
                self.sandbox_verb(&verb, request).await
            }
            "ListContainers" => unary(request, |asked| self.list(asked)).await,
            "ContainerStatus" => unary(request, |asked| self.status(asked)).await,
            "CreateContainer" => unary(request, |asked| self.create(asked)).await,
            "StartContainer" => unary(request, |asked| self.start(asked)).await,
            "StopContainer" => unary(request, |asked| self.stop(asked)).await,
            "RemoveContainer" => unary(request, |asked| self.remove(asked)).await,
            "ExecSync" => unary(request, |asked| Self::exec(&asked)).await,
            _ => Status::unimplemented(verb).into_http(),
        }
    }

    async fn sandbox_verb(&self, verb: &str, request: http::Request<Body>) -> http::Response<Body> {
        match verb {
            "ListPodSandbox" => unary(request, |asked| self.list_sandboxes(asked)).await,
            "PodSandboxStatus" => unary(request, |asked| self.sandbox_status(asked)).await,
            "RunPodSandbox" => unary(request, |asked| self.run_sandbox(asked)).await,
            "StopPodSandbox" => unary(request, |asked| self.stop_sandbox(asked)).await,
            _ => unary(request, |asked| self.remove_sandbox(asked)).await,
        }
    }

    fn image(asked: &v1::ImageStatusRequest) -> v1::ImageStatusResponse {
        // Images with the tag 2 are there; the others have to be pulled.
        let name = asked.image.clone().unwrap_or_default().image;
        let image = name.ends_with(":2").then(|| v1::Image { id: name, ..Default::default() });
        v1::ImageStatusResponse { image, ..Default::default() }
    }

    fn pull(&self, asked: v1::PullImageRequest) -> Result<v1::PullImageResponse, Status> {
        self.world().fault("pull")?;
        Ok(v1::PullImageResponse { image_ref: asked.image.unwrap_or_default().image })
    }

    fn list_sandboxes(&self, asked: v1::ListPodSandboxRequest) -> Result<v1::ListPodSandboxResponse, Status> {
        let mut world = self.world();
        world.fault("list")?;
        let selector = asked.filter.unwrap_or_default().label_selector;
        let items = world.sandboxes.iter().filter(|found| selects(&selector, &found.config.labels)).map(|found| {
            let state = if found.ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
            v1::PodSandbox {
                id: found.id.clone(),
                metadata: found.config.metadata.clone(),
                state: state.into(),
                labels: found.config.labels.clone(),
                ..Default::default()
            }
        });
        Ok(v1::ListPodSandboxResponse { items: items.collect() })
    }

    fn sandbox_status(&self, _: v1::PodSandboxStatusRequest) -> Result<v1::PodSandboxStatusResponse, Status> {
        let network = v1::PodSandboxNetworkStatus { ip: "10.9.9.9".to_owned(), ..Default::default() };
        let status = v1::PodSandboxStatus { network: Some(network), ..Default::default() };
        Ok(v1::PodSandboxStatusResponse { status: Some(status), ..Default::default() })
    }

    fn run_sandbox(&self, asked: v1::RunPodSandboxRequest) -> Result<v1::RunPodSandboxResponse, Status> {
        let mut world = self.world();
        world.fault("sandbox")?;
        let id = world.id();
        let config = asked.config.unwrap_or_default();
        world.sandboxes.push(Sandbox { id: id.clone(), config, ready: true });
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    fn stop_sandbox(&self, asked: v1::StopPodSandboxRequest) -> Result<v1::StopPodSandboxResponse, Status> {
        let mut world = self.world();
        for found in world.sandboxes.iter_mut().filter(|found| found.id == asked.pod_sandbox_id) {
            found.ready = false;
        }
        for found in world.containers.iter_mut().filter(|found| found.sandbox == asked.pod_sandbox_id) {
            World::end(found, 137);
        }
        Ok(v1::StopPodSandboxResponse {})
    }

    fn remove_sandbox(&self, asked: v1::RemovePodSandboxRequest) -> Result<v1::RemovePodSandboxResponse, Status> {
        let mut world = self.world();
        world.containers.retain(|found| found.sandbox != asked.pod_sandbox_id);
        world.sandboxes.retain(|found| found.id != asked.pod_sandbox_id);
        Ok(v1::RemovePodSandboxResponse {})
    }

    fn list(&self, asked: v1::ListContainersRequest) -> Result<v1::ListContainersResponse, Status> {
        let selector = asked.filter.unwrap_or_default().label_selector;
        let world = self.world();
        let found = world.containers.iter().filter(|found| selects(&selector, &found.config.labels));
        let containers = found.map(|found| v1::Container {
            id: found.id.clone(),
            pod_sandbox_id: found.sandbox.clone(),
            metadata: found.config.metadata.clone(),
            state: found.state.into(),
            labels: found.config.labels.clone(),
            ..Default::default()
        });
        Ok(v1::ListContainersResponse { containers: containers.collect() })
    }

    fn status(&self, asked: v1::ContainerStatusRequest) -> Result<v1::ContainerStatusResponse, Status> {
        let mut world = self.world();
        let found = world.container(&asked.container_id)?;
        let status = v1::ContainerStatus {
            id: found.id.clone(),
            state: found.state.into(),
            started_at: found.started,
            finished_at: found.finished,
            exit_code: found.code,
            ..Default::default()
        };
        Ok(v1::ContainerStatusResponse { status: Some(status), ..Default::default() })
    }

    fn create(&self, asked: v1::CreateContainerRequest) -> Result<v1::CreateContainerResponse, Status> {
        let mut world = self.world();
        world.fault("create")?;
        let id = world.id();
        world.containers.push(Container {
            id: id.clone(),
            sandbox: asked.pod_sandbox_id,
            config: asked.config.unwrap_or_default(),
            state: ContainerState::ContainerCreated,
            started: 0,
            finished: 0,
            code: 0,
        });
        Ok(v1::CreateContainerResponse { container_id: id })
    }

    fn start(&self, asked: v1::StartContainerRequest) -> Result<v1::StartContainerResponse, Status> {
        let mut world = self.world();
        world.fault("start")?;
        world.starts += 1;
        let labels = world.container(&asked.container_id)?.config.labels.clone();
        let twin = |found: &Container| found.state == ContainerState::ContainerRunning && found.config.labels == labels;
        let overlaps = world.containers.iter().any(twin);
        world.overlapped |= overlaps;
        let found = world.container(&asked.container_id)?;
        found.state = ContainerState::ContainerRunning;
        found.started = nanos();
        Ok(v1::StartContainerResponse {})
    }

    fn stop(&self, asked: v1::StopContainerRequest) -> Result<v1::StopContainerResponse, Status> {
        let mut world = self.world();
        world.fault("stop")?;
        let found = world.container(&asked.container_id)?;
        World::end(found, 143);
        let name = found.config.metadata.clone().unwrap_or_default().name;
        world.stops.push((name, asked.timeout));
        Ok(v1::StopContainerResponse {})
    }

    fn remove(&self, asked: v1::RemoveContainerRequest) -> Result<v1::RemoveContainerResponse, Status> {
        let mut world = self.world();
        world.fault("remove")?;
        world.containers.retain(|found| found.id != asked.container_id);
        Ok(v1::RemoveContainerResponse {})
    }

    fn exec(asked: &v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, Status> {
        let good = asked.cmd == ["ok"];
        let stdout = if good { Vec::new() } else { b"it is bad\n".to_vec() };
        Ok(v1::ExecSyncResponse { stdout, exit_code: i32::from(!good), ..Default::default() })
    }
}

/// One of the two services on the socket.
#[derive(Clone)]
struct Door<const IMAGES: bool>(Fake);

impl NamedService for Door<false> {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl NamedService for Door<true> {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl<const IMAGES: bool> Service<http::Request<Body>> for Door<IMAGES> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let fake = self.0.clone();
        Box::pin(async move { Ok(fake.answer(request).await) })
    }
}
