//! Everything that can be said of pods and containers, for metrics.

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc};

use runtime_lifecycle::{ContainerRecord, SandboxFilter, SandboxRecord, Timestamp};
use runtime_sys::{
    cgroup::{Cgroup, Figures},
    fs::{device_name, device_numbers, fstat, fstatfs},
    openfiles::{OpenFiles, open_files, open_files_limit},
};

use super::{Budget, LayerUsage, NetworkUsage, is_alone, network, pod_cgroup};
use crate::{Engine, EngineError, blocking, now, records};

/// Most processes of a container whose descriptors are counted: counting is a walk, and what goes beyond is not a service's
/// daily life.
const PROCESSES_MAX: usize = 256;

/// Most descriptors of a container that are counted.
const DESCRIPTORS_MAX: u64 = 16_384;

/// All pods, and what belongs to none.
#[derive(Debug, Clone)]
pub struct MachineFigures {
    /// When it was read, for display.
    pub at: Timestamp,
    /// The pods that are ready.
    pub sandboxes: Vec<SandboxFigures>,
    /// The file system that writable layers are on.
    pub disk: Option<Disk>,
    /// What block devices are called, by major and minor number: `/dev/vda`.
    pub device_names: BTreeMap<(u32, u32), String>,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What its device is called, or its numbers where it has no name.
    pub device: String,
    /// Bytes in all.
    pub bytes: u64,
    /// Inodes in all; 0 where they are made as needed.
    pub inodes: u64,
    /// Free ones.
    pub free_inodes: u64,
}

/// One pod.
#[derive(Debug, Clone)]
pub struct SandboxFigures {
    /// The sandbox.
    pub record: Arc<SandboxRecord>,
    /// The cgroup of the pod as a whole.
    pub cgroup: String,
    /// What is in that; nothing where it isn't the pod's alone.
    pub figures: Option<Figures>,
    /// Nothing on the host's network.
    pub network: Option<NetworkUsage>,
    /// Its containers that run.
    pub containers: Vec<ContainerFigures>,
}

/// One container.
#[derive(Debug, Clone)]
pub struct ContainerFigures {
    /// The container.
    pub record: Arc<ContainerRecord>,
    /// What is in its cgroup.
    pub figures: Figures,
    /// Its writable layer.
    pub layer: LayerUsage,
    /// Processes.
    pub processes: u64,
    /// What they have open.
    pub open: OpenFiles,
    /// The first one's soft limit of descriptors.
    pub open_files_limit: Option<u64>,
}

impl Engine {
    /// Everything that can be said of the pods that are ready.
    pub async fn figures(self: &Arc<Self>) -> Result<MachineFigures, EngineError> {
        let engine = Arc::clone(self);
        let figures = blocking(move || Ok(engine.read_figures())).await?;
        self.tidy_meters();
        Ok(figures)
    }

    fn read_figures(&self) -> MachineFigures {
        let mut containers = self.containers_by_sandbox();
        let (shared, budget) = (self.shared_parents(), Budget::of_a_list());
        let mut sandboxes = Vec::new();
        for record in self.sandboxes(&SandboxFilter::default()) {
            if !record.state.is_ready() {
                continue;
            }
            let cgroup = pod_cgroup(&record).to_owned();
            let alone = is_alone(&shared, &cgroup);
            let containers = containers.remove(&record.id).unwrap_or_default().into_iter();
            sandboxes.push(SandboxFigures {
                figures: Some(&cgroup).filter(|_| alone).and_then(|cgroup| open(cgroup)?.figures().ok()),
                network: network(&record),
                containers: containers.filter_map(|record| self.container_figures(record, &budget)).collect(),
                record,
                cgroup,
            });
        }
        let mut device_names = BTreeMap::new();
        for container in sandboxes.iter().flat_map(|sandbox| &sandbox.containers) {
            for device in &container.figures.devices {
                device_names.entry((device.major, device.minor)).or_insert_with(|| called(device.major, device.minor));
            }
        }
        MachineFigures { at: now(), sandboxes, disk: disk(&records::layers(&self.config.root)), device_names }
    }

    fn container_figures(&self, record: Arc<ContainerRecord>, budget: &Budget) -> Option<ContainerFigures> {
        let group = open(&record.cgroup)?;
        let figures = group.figures().ok()?;
        let pids = group.pids().unwrap_or_default();
        let mut open = OpenFiles::default();
        for pid in pids.iter().take(PROCESSES_MAX) {
            // One that has ended meanwhile has nothing open.
            let more = open_files(*pid, DESCRIPTORS_MAX.saturating_sub(open.descriptors)).unwrap_or_default();
            open.descriptors = open.descriptors.saturating_add(more.descriptors);
            open.sockets = open.sockets.saturating_add(more.sockets);
        }
        let first = record.state.process()?;
        let layer = self.layer(&record.id, budget);
        let processes = u64::try_from(pids.len()).unwrap_or(u64::MAX);
        let open_files_limit = open_files_limit(first.pid).ok().flatten();
        Some(ContainerFigures { record, figures, layer, processes, open, open_files_limit })
    }
}

fn open(cgroup: &str) -> Option<Cgroup> {
    Cgroup::open(Path::new(cgroup)).ok()
}

fn called(major: u32, minor: u32) -> String {
    device_name(major, minor).unwrap_or_else(|_| format!("{major}:{minor}"))
}

fn disk(directory: &Path) -> Option<Disk> {
    let directory = File::open(directory).ok()?;
    let space = fstatfs(&directory).ok()?;
    let (major, minor) = device_numbers(fstat(&directory).ok()?.device);
    Some(Disk {
        device: called(major, minor),
        bytes: space.total_bytes,
        inodes: space.total_inodes,
        free_inodes: space.free_inodes,
    })
}
