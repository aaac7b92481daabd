//! A node: its parts opened in order, served on one socket, and ended in the reverse order.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{fs, io};

use cni_chain::{Network, NetworkConfig, NetworkError};
use images_service::{Embedded, ImageError, Images, ImagesConfig, Proxies, ProxyError, RegistryConfig};
use kubelet_shim_agent::{Agent, AgentConfig, AgentError, PodEvent, Shutdown, Tuning};
use runtime_control_api::v1::control_server::ControlServer;
use runtime_cri::NodeInfo;
use runtime_engine::{Engine, EngineConfig, EngineError, Limits, Recovered};
use runtime_streaming::{Streaming, StreamingError};
use runtime_sys::SysError;
use tokio::net::UnixListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tonic::transport::Server;

use crate::address::Address;
use crate::config::{ConfigError, Settings, Switch};
use crate::control::{ControlService, Ending, Parts};
use crate::error::chain;

mod host;
mod places;
mod services;
mod socket;

pub(crate) use host::{cgroup_layout, check as check_host, host_name, kernel_release};
use places::Lock;
use services::Services;
use socket::Socket;

/// The image that this program carries in itself.
const DEMO_IMAGE: &str = "podwright.local/demo:1";
/// Largest request. The largest honest one is a manifest or a container's configuration; etcd takes 1.5 MiB.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Calls that one connection has under way; a kubelet with 110 pods has fewer.
const CALLS_PER_CONNECTION_MAX: usize = 256;
/// The same with streams that stay open: events, watches, followed logs.
const STREAMS_PER_CONNECTION_MAX: u32 = 1024;
/// How long calls may go on once the node is to end. Watches and log followers never end by themselves.
const CLOSING_GRACE: Duration = Duration::from_secs(2);
/// How long pods may take to stop when the node takes them with it: beyond any grace that is set in earnest.
const STOPPING_DEADLINE: Duration = Duration::from_secs(120);
/// How often the network's rules are compared with the living pods: a firewall's reload takes them away.
const RECONCILE_PERIOD: Duration = Duration::from_secs(60);

/// Why a node can't be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("{what} needs root (CAP_SYS_ADMIN, to make namespaces and mounts): run it with sudo")]
    NotRoot { what: &'static str },
    #[error("cannot look at what this machine has")]
    Features { source: SysError },
    #[error("no pod can run on this machine, since it lacks {missing}")]
    Lacks { missing: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot make {path:?}")]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "another node (process {holder}) uses the run directory {run:?}: stop it, or give this one its own --run, \
             --root, --pod-cidr and --bridge"
    )]
    Locked { run: PathBuf, holder: String },
    #[error("somebody listens at {address} already: stop that process or give --listen another address")]
    Taken { address: Address },
    #[error("{path:?} is there and is no socket: give --listen another address")]
    NoSocket { path: PathBuf },
    #[error("cannot listen at {address}")]
    Listen { address: Address, source: io::Error },
    #[error(transparent)]
    Streaming(#[from] StreamingError),
    #[error("cannot use the proxy that the environment names")]
    Proxy(#[from] ProxyError),
    #[error("the image store can't be opened")]
    Images { source: Box<ImageError> },
    #[error("the network can't be opened")]
    Network { source: Box<NetworkError> },
    #[error("the pods' records can't be opened")]
    Engine { source: Box<EngineError> },
    #[error(
        "{count} pods of an earlier node still run here: start `podwright node` to take them up, or take them away with \
             `podwright cleanup`"
    )]
    PodsLeft { count: usize },
    #[error("the socket can't be served any more")]
    Serving { source: tonic::transport::Error },
    #[error("the socket is not served any more")]
    Ended,
    #[error("the keeper can't be started")]
    Keeper { source: Box<AgentError> },
}

/// What a node is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `podwright node`: takes up the pods of the one before it.
    Daemon,
    /// `podwright run`: has no pods but those that are run now, and forgets them.
    Foreground,
    /// `podwright cleanup`: stops what is there.
    Cleanup,
}

impl Purpose {
    /// The command, for messages.
    fn command(self) -> &'static str {
        match self {
            Purpose::Daemon => "podwright node",
            Purpose::Foreground => "podwright run (where no node answers)",
            Purpose::Cleanup => "podwright cleanup",
        }
    }

    /// Where the keeper remembers its pods. A daemon's are not a foreground node's, which would stop them at its end.
    fn keeper_state(self, settings: &Settings) -> PathBuf {
        settings.root.join(if self == Purpose::Foreground { places::FOREGROUND } else { places::KEEPER })
    }
}

/// A node that serves.
#[derive(Debug)]
pub(crate) struct Node {
    settings: Settings,
    parts: Arc<Parts>,
    network: Network,
    /// Dropped or sent to: the server takes no more connections.
    close: watch::Sender<()>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    tasks: Vec<JoinHandle<()>>,
    socket: Socket,
    lock: Lock,
}

impl Node {
    /// Opens everything and serves. A node that can't leaves nothing behind.
    pub(crate) async fn start(settings: Settings, purpose: Purpose) -> Result<Node, ServeError> {
        let started = Node::open(settings.clone(), purpose).await;
        if started.is_err() {
            places::undo(&settings);
        }
        started
    }

    /// Order matters: a socket that answers before recovery would deny pods that run.
    async fn open(settings: Settings, purpose: Purpose) -> Result<Node, ServeError> {
        let began = Instant::now();
        host::check(purpose.command())?;
        places::make(&settings)?;
        let lock = Lock::take(&settings.run)?;
        socket::check(&settings.listen)?;
        let images = open_images(&settings).await?;
        let network = open_network(&settings).await?;
        let engine_config = engine_config(&settings)?;
        let (engine, recovered) = Engine::open(engine_config, images.clone(), network.clone())
            .await
            .map_err(|source| ServeError::Engine { source: Box::new(source) })?;
        if purpose == Purpose::Foreground {
            let count = engine.sandboxes(&Default::default()).len();
            if count > 0 {
                return Err(ServeError::PodsLeft { count });
            }
            // Of a run that was killed before it could take its pods away; none of them is left.
            places::forget(&settings.root.join(places::FOREGROUND))?;
        }
        let parts = Arc::new(Parts {
            settings: settings.clone(),
            engine,
            images,
            keeper: OnceLock::new(),
            began,
            ending: watch::Sender::new(None),
        });
        let close = watch::Sender::new(());
        let (streaming, streams) = open_streaming(&settings, &parts.engine, close.subscribe()).await?;
        let (socket, listener) = open_socket(&settings, recovered)?;
        let server = tokio::spawn(answer(Arc::clone(&parts), streaming, listener, close.subscribe()));
        let mut node = Node {
            tasks: vec![tokio::spawn(reconcile(Arc::clone(&parts.engine), network.clone())), tokio::spawn(streams)],
            settings,
            parts,
            network,
            close,
            server,
            socket,
            lock,
        };
        if let Err(error) = node.start_keeper(purpose.keeper_state(&node.settings)).await {
            node.stop(Ending::LeavePods).await;
            return Err(error);
        }
        tracing::info!(listen = %node.settings.listen, took = ?began.elapsed(), "serving");
        Ok(node)
    }

    async fn start_keeper(&mut self, state_dir: PathBuf) -> Result<(), ServeError> {
        let settings = &self.settings;
        if settings.keeper == Switch::Off {
            return Ok(());
        }
        let config = AgentConfig {
            cri: settings.listen.to_string(),
            state_dir,
            log_dir: settings.root.join("logs"),
            manifests: settings.manifests.clone(),
            node_name: settings.name(),
            cgroup_parent: String::new(),
            seed: seed(),
            tuning: Tuning::default(),
        };
        let keeper = Agent::start(config).await.map_err(|source| ServeError::Keeper { source: Box::new(source) })?;
        self.tasks.push(tokio::spawn(tell_manifests(keeper.watch())));
        // Set here alone, once.
        drop(self.parts.keeper.set(keeper));
        Ok(())
    }

    /// Returns when a client asks the node to end, or when it doesn't serve any more.
    pub(crate) async fn asked_to_end(&mut self) -> Result<Ending, ServeError> {
        let mut asked = self.parts.ending.subscribe();
        tokio::select! {
            // The sender lives in this node: it can't be gone.
            ending = asked.wait_for(Option::is_some) => {
                Ok(ending.ok().and_then(|ending| *ending).unwrap_or(Ending::LeavePods))
            }
            ended = &mut self.server => Err(match ended {
                Ok(Err(source)) => ServeError::Serving { source },
                Ok(Ok(())) | Err(_) => ServeError::Ended,
            }),
        }
    }

    /// Forgets the pods that any keeper was told to keep here; none may be left. Returns what could not be removed.
    pub(crate) fn forget(&self) -> Vec<String> {
        [places::KEEPER, places::FOREGROUND]
            .iter()
            .filter_map(|name| places::forget(&self.settings.root.join(name)).err())
            .map(|error| chain(&error))
            .collect()
    }

    /// Ends it. Nothing of the pods depends on this process: left alone, they run on.
    pub(crate) async fn stop(self, ending: Ending) {
        self.end(ending).await;
    }

    /// Ends it with its pods and takes away what it made on this machine; the image store stays. What somebody else's pods
    /// need stays too. Returns what could not be taken away.
    pub(crate) async fn vanish(self) -> Vec<String> {
        let (settings, network) = (self.settings.clone(), self.network.clone());
        let (parts, lock) = self.end(Ending::Vanish).await;
        let left = parts.engine.sandboxes(&Default::default()).len();
        if left > 0 {
            return vec![format!("{left} pods of other clients are left: `podwright cleanup` stops them")];
        }
        drop(parts);
        for told in network.remove_everything().await {
            tracing::info!(network = told, "removed");
        }
        let mut failures = host::remove_empty_cgroups(&settings.cgroup_root);
        failures.extend(places::tidy(&settings));
        drop(lock);
        failures
    }

    async fn end(self, ending: Ending) -> (Arc<Parts>, Lock) {
        let Node { parts, close, mut server, tasks, socket, lock, .. } = self;
        if let Some(keeper) = parts.keeper.get().cloned() {
            // It stops pods over CRI, so before the socket is closed.
            let (what, deadline) = match ending {
                Ending::LeavePods => (Shutdown::LeavePods, CLOSING_GRACE),
                Ending::StopPods | Ending::Vanish => (Shutdown::StopPods, STOPPING_DEADLINE),
            };
            if tokio::time::timeout(deadline, keeper.shutdown(what)).await.is_err() {
                tracing::warn!(?deadline, "the keeper did not end in time");
            }
        }
        close.send_replace(());
        // One that has ended by itself must not be waited for twice.
        if !server.is_finished() && tokio::time::timeout(CLOSING_GRACE, &mut server).await.is_err() {
            server.abort();
            // Aborted: there is nothing to learn.
            drop(server.await);
        }
        for task in tasks {
            task.abort();
        }
        socket.close();
        tracing::info!("ended");
        (parts, lock)
    }
}

async fn open_images(settings: &Settings) -> Result<Images, ServeError> {
    let config = ImagesConfig {
        root: settings.root.join("images"),
        registry: RegistryConfig {
            hosts_dir: Some(settings.registry_config.clone()),
            proxies: Proxies::from_variables(|name| std::env::var(name).ok())?,
            ..Default::default()
        },
        embedded: vec![Embedded {
            name: DEMO_IMAGE.to_owned(),
            revision: program_revision(),
            archive: Arc::new(demo_archive),
        }],
        pinned: settings.pin_image.clone(),
        layers_at_once: 3,
    };
    Images::open(config).await.map_err(|source| ServeError::Images { source: Box::new(source) })
}

/// Changes with this program's file. One that can't be looked at is always another one.
fn program_revision() -> String {
    use std::os::unix::fs::MetadataExt as _;
    match fs::metadata("/proc/self/exe") {
        Ok(found) => format!("{}-{}-{}-{}", found.len(), found.mtime(), found.mtime_nsec(), found.ino()),
        Err(_unseen) => format!("process {}", std::process::id()),
    }
}

/// The demo image holds this very program; the path survives an upgrade of the file.
fn demo_archive() -> io::Result<Vec<u8>> {
    let mut program = fs::File::open("/proc/self/exe")?;
    images_demo::archive(&mut program, DEMO_IMAGE)
}

async fn open_network(settings: &Settings) -> Result<Network, ServeError> {
    let config = NetworkConfig {
        state_dir: settings.run.join("network"),
        conf_dir: settings.cni_conf_dir.clone(),
        bin_dirs: vec![settings.cni_bin_dir.clone()],
        pod_cidr: settings.pod_cidr,
        bridge: settings.bridge.clone(),
        mtu: settings.mtu,
    };
    Network::open(config).await.map_err(|source| ServeError::Network { source: Box::new(source) })
}

fn engine_config(settings: &Settings) -> Result<EngineConfig, ServeError> {
    Ok(EngineConfig {
        root: settings.root.clone(),
        run: settings.run.clone(),
        supervisor_program: settings.supervisor_program()?,
        cgroup_root: settings.cgroup_root.clone(),
        cdi_spec_dirs: settings.cdi_spec_dir.clone(),
        resolv_conf: host::resolv_conf().to_owned(),
        limits: Limits::default(),
    })
}

/// The socket opens after recovery: the proof is an argument.
fn open_socket(settings: &Settings, _recovered: Recovered) -> Result<(Socket, UnixListener), ServeError> {
    Socket::open(&settings.listen)
}

/// The server for exec, attach and port-forward, whose sessions end with the node: execs are killed, what they ran in
/// lives on.
async fn open_streaming(
    settings: &Settings,
    engine: &Arc<Engine>,
    mut close: watch::Receiver<()>,
) -> Result<(Streaming, impl Future<Output = ()> + use<>), StreamingError> {
    let config = runtime_streaming::Config { listen: settings.streaming_address, ..Default::default() };
    let (streaming, server) = Streaming::bind(config, runtime_cri::backend(Arc::clone(engine))).await?;
    let ended = async move {
        // A sender that is gone means the same.
        drop(close.changed().await);
    };
    Ok((streaming, server.run(ended)))
}

async fn answer(
    parts: Arc<Parts>,
    streaming: Streaming,
    listener: UnixListener,
    mut close: watch::Receiver<()>,
) -> Result<(), tonic::transport::Error> {
    let info = NodeInfo { version: env!("CARGO_PKG_VERSION").to_owned(), settings: parts.settings.keys().collect() };
    let (runtime, images) = runtime_cri::services(Arc::clone(&parts.engine), parts.images.clone(), streaming, info);
    let services = Services {
        runtime: runtime.max_decoding_message_size(REQUEST_BYTES_MAX),
        images: images.max_decoding_message_size(REQUEST_BYTES_MAX),
        control: ControlServer::new(ControlService(parts)).max_decoding_message_size(REQUEST_BYTES_MAX),
    };
    Server::builder()
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .serve_with_incoming_shutdown(services, socket::connections(listener), async move {
            // A sender that is gone means the same.
            drop(close.changed().await);
        })
        .await
}

/// Puts back what others took away from the network, and frees what belongs to nobody.
async fn reconcile(engine: Arc<Engine>, network: Network) {
    // Not at once: recovery has just done it. A round on a worker outlives this task, and beside `cleanup`, which ends the
    // node as soon as it has started, it would put the table back that was just taken away.
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + RECONCILE_PERIOD, RECONCILE_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut warned = BTreeSet::new();
    loop {
        ticks.tick().await;
        let live = engine.sandboxes(&Default::default()).iter().map(|sandbox| sandbox.id.to_string()).collect();
        let report = network.reconcile(&live).await;
        // A pull or an unpacking leaves free memory in the heap; the next one may be hours away.
        runtime_sys::memory::trim();
        if !report.detached.is_empty() || !report.links.is_empty() {
            tracing::info!(detached = ?report.detached, links = ?report.links, "freed what belonged to no pod");
        }
        // Each once: a rule that stops pods doesn't change from minute to minute.
        for warning in report.warnings.into_iter().chain(report.failures) {
            if warned.insert(warning.clone()) {
                tracing::warn!(warning, "network");
            }
        }
    }
}

/// A manifest directory has no caller that could be answered: its mistakes are told here.
async fn tell_manifests(mut events: broadcast::Receiver<PodEvent>) {
    loop {
        match events.recv().await {
            Ok(PodEvent::Manifest { file, message }) if message.is_empty() => {
                tracing::info!(file, "manifest is fine again")
            }
            Ok(PodEvent::Manifest { file, message }) => tracing::warn!(file, message, "manifest refused"),
            Ok(PodEvent::Changed(_) | PodEvent::Gone(_)) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// A number that differs from start to start: nodes that are started together must not retry together.
pub(crate) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
