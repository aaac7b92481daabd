//! The keeper: runs pods through any CRI runtime, and keeps them running.
//!
//! *In*: manifests (a watched directory, or [`Agent::apply`]) and what the runtime says. *Out*: CRI calls, probes, hooks,
//! and the pods' state for those who ask. *Not here*: any decision; those are `kubelet_shim_reconcile`'s, given what was
//! seen and the moment. Nothing here knows which runtime answers.

mod act;
mod clock;
mod cri;
mod keep;
mod manifests;
mod observe;
mod probe;
mod registry;
mod store;
mod view;
mod view_of;
mod words;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub use kubelet_shim_reconcile::Tuning;
pub use view::{
    ConditionKind, ConditionView, ContainerKind, ContainerView, EndView, EventView, Phase, PodEvent, PodKey, PodView,
    ProbeKind, StateView,
};

use kubelet_shim_manifest::Pod;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{act::Hands, clock::Wall, cri::Cri, keep::Shared, registry::Registry};

/// How long the runtime may take to answer first: it may be starting itself.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// Events that a slow watcher may be behind before it is told that it lagged.
const EVENTS_BEHIND_MAX: usize = 1_024;

/// What the keeper needs to know.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The runtime's socket, `unix:///path`.
    pub cri: String,
    /// Where the keeper's own state lives: what it knows of each pod, and emptyDir volumes. Made when missing.
    pub state_dir: PathBuf,
    /// Where container logs go: `<log_dir>/<namespace>_<name>_<uid>/<container>/<attempt>.log`.
    pub log_dir: PathBuf,
    /// A directory of manifests to watch.
    pub manifests: Option<PathBuf>,
    /// What `spec.nodeName` says.
    pub node_name: String,
    /// The cgroup parent of pods; empty: the runtime's own choice.
    pub cgroup_parent: String,
    /// Seeds the jitter of back-off, so that a run can be repeated.
    pub seed: u64,
    /// Back-off times and the like.
    pub tuning: Tuning,
}

/// What happens to the pods when the keeper ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// They go on running; the next keeper takes them up again.
    LeavePods,
    /// They are deleted, each within its grace.
    StopPods,
}

/// The running keeper; clones are the same one.
#[derive(Debug, Clone)]
pub struct Agent(Arc<Registry>);

/// Why the keeper can't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The endpoint isn't one.
    #[error("`{endpoint}` is no runtime endpoint: write unix:///path/to/socket")]
    Endpoint {
        /// As given.
        endpoint: String,
    },
    /// Nobody answers there.
    #[error("the runtime at {endpoint} doesn't answer: {message}")]
    Runtime {
        /// As given.
        endpoint: String,
        /// What went wrong last.
        message: String,
    },
    /// A directory of the keeper's can't be used.
    #[error("cannot use the directory {path:?}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// There is no such pod.
    #[error("there is no pod {key}")]
    NoSuchPod {
        /// Which.
        key: PodKey,
    },
    /// The pod belongs to the watched directory.
    #[error("pod {key} comes from {file:?}: change or remove that file")]
    FromManifest {
        /// Which.
        key: PodKey,
        /// Its file.
        file: PathBuf,
    },
    /// Two pods of the same name.
    #[error("pod {key} stands twice among those to be applied")]
    Twice {
        /// Which.
        key: PodKey,
    },
    /// The host is full.
    #[error("there are {max} pods already; delete some")]
    TooMany {
        /// The limit.
        max: usize,
    },
}

impl Agent {
    /// Starts the keeper: connects to the runtime, takes up the pods of an earlier keeper, watches the manifests.
    ///
    /// # Errors
    /// The endpoint is malformed or doesn't answer, or a directory can't be used.
    pub async fn start(config: AgentConfig) -> Result<Self, AgentError> {
        let socket = config.cri.strip_prefix("unix://").filter(|path| path.starts_with('/'));
        let socket = socket.ok_or_else(|| AgentError::Endpoint { endpoint: config.cri.clone() })?;
        let cri = Cri::new(PathBuf::from(socket));
        first_answer(&cri)
            .await
            .map_err(|status| AgentError::Runtime { endpoint: config.cri.clone(), message: cause(&status) })?;
        let pods = config.state_dir.join("pods");
        for path in [&pods, &config.log_dir] {
            std::fs::create_dir_all(path).map_err(|source| AgentError::Directory { path: path.clone(), source })?;
        }
        if let Some(path) = &config.manifests {
            std::fs::read_dir(path).map_err(|source| AgentError::Directory { path: path.clone(), source })?;
        }
        let (records, bad) =
            store::load(&pods).map_err(|source| AgentError::Directory { path: pods.clone(), source })?;
        for path in bad {
            tracing::warn!(path = %path.display(), "a pod's record can't be read; it is set aside");
        }
        let manifests = config.manifests.clone();
        let shared = Arc::new(Shared {
            hands: Hands { config, cri, client: probe::Client::default() },
            wall: Wall::new(),
            boot: clock::boot_id(),
            told: broadcast::Sender::new(EVENTS_BEHIND_MAX),
            cancel: CancellationToken::new(),
            hears: AtomicBool::new(false),
        });
        let registry = Arc::new(Registry::new(shared));
        for record in records {
            registry.resume(record);
        }
        let agent = Self(registry);
        agent.background(hear(Arc::clone(&agent.0)));
        agent.background(sweep_orphans(Arc::clone(&agent.0)));
        if let Some(directory) = manifests {
            agent.background(manifests::watch(Arc::clone(&agent.0), directory));
        }
        Ok(agent)
    }

    fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.0.shared.cancel.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Runs these pods, or replaces those of the same key: an unchanged revision is left alone, a changed one is stopped
    /// first and then started anew. Returns at once.
    ///
    /// # Errors
    /// A pod of that key comes from the manifest directory, or two of `pods` have the same key.
    pub async fn apply(&self, pods: Vec<Pod>) -> Result<Vec<PodKey>, AgentError> {
        self.0.apply(pods)
    }

    /// Deletes a pod within `grace`, its own when `None`; returns when it is gone. Asked again with a shorter grace, the
    /// shorter one counts; zero kills at once.
    ///
    /// # Errors
    /// There is no such pod, or its manifest is in the watched directory and would bring it back.
    pub async fn delete(&self, key: &PodKey, grace: Option<Duration>) -> Result<(), AgentError> {
        self.0.delete(key, grace).await
    }

    /// All pods, by key.
    #[must_use]
    pub fn list(&self) -> Vec<PodView> {
        self.0.views()
    }

    /// One pod.
    #[must_use]
    pub fn get(&self, key: &PodKey) -> Option<PodView> {
        self.0.view(key)
    }

    /// Where the logs of a pod lie: `<container>/<attempt>.log` in this directory.
    #[must_use]
    pub fn log_directory(&self, view: &PodView) -> PathBuf {
        let name = format!("{}_{}_{}", view.key.namespace, view.key.name, view.uid);
        self.0.shared.hands.config.log_dir.join(Path::new(&name))
    }

    /// Everything that happens from now on. Who reads too slowly is told that it lagged and should `list` again.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<PodEvent> {
        self.0.shared.told.subscribe()
    }

    /// Ends the keeper; returns when its tasks have ended.
    pub async fn shutdown(self, what: Shutdown) {
        match what {
            Shutdown::StopPods => {
                self.0.delete_all();
                self.0.idle().await;
                self.0.shared.cancel.cancel();
            }
            Shutdown::LeavePods => {
                self.0.shared.cancel.cancel();
                self.0.idle().await;
            }
        }
    }
}

async fn first_answer(cri: &Cri) -> Result<(), Status> {
    let mut left = FIRST_ANSWER;
    let pause = Duration::from_millis(50);
    loop {
        match cri.version().await {
            Ok(_) => return Ok(()),
            Err(status) if left.is_zero() => return Err(status),
            Err(_) => {
                tokio::time::sleep(pause).await;
                left = left.saturating_sub(pause);
            }
        }
    }
}

/// The innermost cause of a failed call.
fn cause(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if cause.source().is_none() && std::ptr::addr_eq(cause, status) {
        return status.message().to_owned();
    }
    cause.to_string()
}

/// Wakes pods when the runtime says that something happened to them.
async fn hear(registry: Arc<Registry>) {
    loop {
        if let Ok(mut stream) = registry.shared.hands.cri.events().await {
            registry.shared.hears.store(true, Ordering::Relaxed);
            // What happened before the stream stood was not heard.
            registry.wake("");
            while let Ok(Some(event)) = stream.message().await {
                let metadata = event.pod_sandbox_status.and_then(|status| status.metadata);
                registry.wake(&metadata.map(|metadata| metadata.uid).unwrap_or_default());
            }
            registry.shared.hears.store(false, Ordering::Relaxed);
            registry.wake("");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Stops and removes pods that a keeper made and that nobody wants: their record was lost.
async fn sweep_orphans(registry: Arc<Registry>) {
    let cri = &registry.shared.hands.cri;
    let labels = HashMap::from([(words::KEEPER_LABEL.to_owned(), "true".to_owned())]);
    let found = match cri.sandboxes(labels).await {
        Ok(found) => found,
        Err(status) => {
            tracing::warn!(error = status.message(), "pods without a manifest can't be looked for");
            return;
        }
    };
    for sandbox in found {
        let uid = sandbox.labels.get(words::UID_LABEL).cloned().unwrap_or_default();
        if registry.knows(&uid) {
            continue;
        }
        tracing::info!(sandbox = sandbox.id, uid, "a pod without a manifest is stopped");
        let stopped = cri.stop_sandbox(&sandbox.id).await;
        if let Err(status) = match stopped {
            Ok(()) => cri.remove_sandbox(&sandbox.id).await,
            Err(status) => Err(status),
        } {
            tracing::warn!(sandbox = sandbox.id, error = status.message(), "the pod can't be removed");
        }
    }
}

#[cfg(test)]
mod tests;
