//! Carries the steps of sandboxes and containers out, keeps their records, and takes them over after a restart.
//!
//! *In*: what was asked for ([`SandboxConfig`], [`ContainerConfig`]), images, a network. *Out*: pods that run under their
//! supervisors, records, events, figures. *Not here*: gRPC (that is `runtime/cri`), what a step means (`runtime/lifecycle`
//! decides), system calls for containers (`runtime/supervisor` makes them). Lists and status are answered from memory.

mod anonymous;
mod attach;
mod bootid;
mod cdi;
mod config;
mod container;
mod error;
mod event;
mod exec;
#[cfg(test)]
mod fixtures;
mod flights;
mod forward;
mod imagefiles;
mod logpath;
mod loss;
mod lsm;
mod podfiles;
mod records;
mod recovery;
mod sandbox;
mod seccomp;
mod spec;
mod stats;
mod stop;
mod streams;
mod supervisor;
mod undo;
mod update;
mod userns;
mod users;
mod volumes;
mod world;

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cni_chain::Network;
use images_service::Images;
use oci_spec::runtime::Capability;
use runtime_lifecycle::{
    BootTime, ContainerFilter, ContainerId, ContainerName, ContainerRecord, Metadata, SandboxFilter, SandboxId,
    SandboxRecord, Timestamp,
};

pub use attach::Attached;
pub use config::{EngineConfig, Limits};
pub use error::{EngineError, Kind};
pub use event::{EVENTS_BUFFERED_MAX, Event, EventKind};
pub use exec::{EXEC_OUTPUT_BYTES_MAX, ExecOutput, ExecStarted};
pub use recovery::Recovered;
pub use runtime_lifecycle::{ContainerConfig, SandboxConfig};
pub use runtime_wire::Exit;
pub use stats::{
    CgroupUsage, ContainerFigures, ContainerUsage, DeviceCost, DeviceTraffic, Disk, Figures, HugePages, Interface,
    LayerUsage, LayersUsage, MachineFigures, MemoryFigures, NetworkUsage, OpenFiles, Pressure, SandboxFigures,
    SandboxUsage, Stall, StallTime, Swap, Throttling, Traffic, Used,
};
pub use streams::{Input, Output, Streams, Terminal, Wanted};
pub use update::SandboxChange;

use crate::world::World;

/// The pods of one machine.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    images: Images,
    network: Network,
    /// The supervisor's program: one sealed copy in memory for all pods, which no container can reach.
    program: OwnedFd,
    boot: String,
    /// When this daemon started; part of the names of execs, which must differ from an earlier daemon's.
    started: BootTime,
    random: File,
    /// What this process itself holds: no container can be given more.
    capabilities: HashSet<Capability>,
    /// The security modules of the kernel.
    modules: lsm::Modules,
    /// Whether pods can have a user namespace.
    user_namespaces: userns::Ability,
    world: World,
    sandbox_flights: flights::Flights<Metadata, SandboxId>,
    container_flights: flights::Flights<ContainerName, ContainerId>,
    /// How many sandboxes are made or removed at once.
    sandbox_slots: tokio::sync::Semaphore,
    teller: event::Teller,
    meters: stats::Meters,
    /// The pod network that a kubelet announced; kept for `info`.
    announced_cidr: Mutex<Option<String>>,
}

/// Whether pods can get addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkReadiness {
    /// They can.
    Ready,
    /// They can't.
    NotReady {
        /// In a word.
        reason: String,
        /// For people.
        message: String,
    },
}

impl Engine {
    /// Opens the records below `config.run`, finds the supervisors that still run, finishes or undoes what was under way,
    /// and only then returns: a server that answered earlier would deny containers that are running. One bad record is
    /// set aside and told ([`Recovered::set_aside`]), never a reason to fail.
    pub async fn open(
        config: EngineConfig,
        images: Images,
        network: Network,
    ) -> Result<(Arc<Self>, Recovered), EngineError> {
        recovery::open(config, images, network).await
    }

    /// The sandbox whose id is `text` or alone begins with it.
    pub fn find_sandbox(&self, text: &str) -> Result<SandboxId, EngineError> {
        self.world.find_sandbox(text)
    }

    /// The container whose id is `text` or alone begins with it.
    pub fn find_container(&self, text: &str) -> Result<ContainerId, EngineError> {
        self.world.find_container(text)
    }

    /// One sandbox, from memory.
    pub fn sandbox(&self, id: &SandboxId) -> Result<Arc<SandboxRecord>, EngineError> {
        Ok(self.world.sandbox(id)?.record())
    }

    /// One container, from memory.
    pub fn container(&self, id: &ContainerId) -> Result<Arc<ContainerRecord>, EngineError> {
        Ok(self.world.container(id)?.record())
    }

    /// Sandboxes, oldest first, from memory.
    pub fn sandboxes(&self, filter: &SandboxFilter) -> Vec<Arc<SandboxRecord>> {
        self.world.sandboxes(filter)
    }

    /// Containers, oldest first, from memory.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerRecord>> {
        self.world.containers(filter)
    }

    /// Whether pods can get addresses.
    pub fn network_readiness(&self) -> NetworkReadiness {
        match self.network.readiness() {
            cni_chain::Readiness::Ready => NetworkReadiness::Ready,
            cni_chain::Readiness::NotReady { reason, message } => NetworkReadiness::NotReady { reason, message },
        }
    }

    /// Now, for display beside what was read from memory.
    pub fn display_time(&self) -> Timestamp {
        now()
    }

    /// What of the kernel's security modules is not as a cluster expects it, for people.
    pub fn security_warning(&self) -> Option<String> {
        self.modules.warning()
    }

    /// Whether pods can have a user namespace: tried once, at the start.
    pub fn has_user_namespaces(&self) -> bool {
        self.user_namespaces == userns::Ability::Yes
    }

    /// Which version of control groups this machine has, for people: `v1` or `v2`.
    pub fn cgroup_version(&self) -> &'static str {
        match runtime_sys::cgroup::hierarchies().map(|hierarchies| hierarchies.version) {
            Ok(runtime_sys::cgroup::Version::V1) => "v1",
            Ok(runtime_sys::cgroup::Version::V2) => "v2",
            Err(_) => "none",
        }
    }

    /// How it was opened.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Notes the pod network that a kubelet announces. The bundled bridge keeps the one it was opened with: its addresses
    /// are given out.
    pub fn announce_pod_cidr(&self, cidr: String) {
        *self.announced_cidr.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(cidr);
    }

    /// The pod network that was announced last.
    pub fn announced_pod_cidr(&self) -> Option<String> {
        self.announced_cidr.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn random_id_bytes(&self) -> Result<[u8; 32], EngineError> {
        let mut bytes = [0; 32];
        (&self.random).read_exact(&mut bytes).map_err(|source| EngineError::Disk {
            step: "read",
            path: PathBuf::from("/dev/urandom"),
            source,
        })?;
        Ok(bytes)
    }
}

/// Wall time, for display.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Time since boot, for decisions.
pub(crate) fn boot_time() -> BootTime {
    BootTime(runtime_sys::clock::boottime())
}

/// Runs what may block on a thread of its own.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, EngineError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, EngineError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(EngineError::Interrupted),
    }
}

/// Runs `work` to its end even if whoever asked goes away: a client's time-out must not leave half a pod.
pub(crate) async fn to_the_end<T, F>(work: F) -> Result<T, EngineError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, EngineError>> + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(_) => Err(EngineError::Interrupted),
    }
}

pub(crate) fn disk(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> EngineError {
    let path = path.into();
    move |source| EngineError::Disk { step, path, source }
}
