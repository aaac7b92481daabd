//! What pods and containers use. One blocking task reads for a whole list: the files of a control group are read in
//! microseconds, and a task for each would cost more than the reading.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use runtime_lifecycle::{
    ContainerFilter, ContainerId, ContainerRecord, ContainerState, NetworkMode, SandboxFilter, SandboxId,
    SandboxRecord, SandboxState, Timestamp,
};
use runtime_sys::{
    cgroup::{Cgroup, USAGE_CONTROLLERS, Usage},
    netdev,
    process::start_ticks,
};

use crate::{Engine, EngineError, anonymous, blocking, boot_time, now, records, world::lock};

mod figures;
mod layers;
mod rates;

pub use figures::{ContainerFigures, Disk, MachineFigures, SandboxFigures};
use layers::Budget;
pub use layers::LayerUsage;
pub use runtime_sys::cgroup::{
    DeviceCost, DeviceTraffic, Figures, HugePages, MemoryFigures, Pressure, Stall, StallTime, Swap, Throttling,
    Usage as Used,
};
pub use runtime_sys::netdev::{Interface, Traffic};
pub use runtime_sys::openfiles::OpenFiles;

/// A container that is older has used something before the daemon first looked, nobody knows when.
const YOUNG: Duration = Duration::from_secs(60);

/// What a cgroup has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupUsage {
    /// When it was read, for display.
    pub at: Timestamp,
    /// Nanoseconds of processor time per second, lately; `None` until there are two readings.
    pub cpu_nano_cores: Option<u64>,
    /// Everything else.
    pub used: Used,
}

/// A container and what it uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    /// The container.
    pub record: Arc<ContainerRecord>,
    /// Nothing if it doesn't run.
    pub usage: Option<CgroupUsage>,
    /// Its writable layer.
    pub layer: LayerUsage,
}

/// A sandbox and what it uses.
#[derive(Debug, Clone)]
pub struct SandboxUsage {
    /// The sandbox.
    pub record: Arc<SandboxRecord>,
    /// The pod as a whole: its containers, the pause process, and whatever its creator put into its cgroup.
    pub usage: Option<CgroupUsage>,
    /// Nothing on the host's network.
    pub network: Option<NetworkUsage>,
    /// Its containers that run.
    pub containers: Vec<ContainerUsage>,
}

/// What went over a pod's interfaces, loopback left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkUsage {
    /// When it was read, for display.
    pub at: Timestamp,
    /// The interface with the pod's address.
    pub default: Option<Interface>,
    /// The others.
    pub others: Vec<Interface>,
}

/// What all writable layers take together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayersUsage {
    /// The directory that they are in. Absolute.
    pub path: PathBuf,
    /// Bytes in allocated blocks.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// What is remembered between two lists.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    rates: Mutex<rates::Rates>,
    layers: Arc<layers::Layers>,
}

impl Engine {
    /// One container's.
    pub async fn container_usage(self: &Arc<Self>, id: &ContainerId) -> Result<ContainerUsage, EngineError> {
        let (engine, record) = (Arc::clone(self), self.container(id)?);
        let usage = blocking(move || Ok(engine.measure(record, &Budget::of_a_list()))).await?;
        self.meters.layers.walk_behind();
        Ok(usage)
    }

    /// Those of all containers that run and are shown.
    pub async fn container_usages(
        self: &Arc<Self>,
        filter: &ContainerFilter,
    ) -> Result<Vec<ContainerUsage>, EngineError> {
        let (engine, records) = (Arc::clone(self), self.containers(filter));
        let usages = blocking(move || {
            let budget = Budget::of_a_list();
            let running = records.into_iter().filter(|record| record.state.process().is_some());
            Ok(running.map(|record| engine.measure(record, &budget)).collect())
        })
        .await?;
        self.tidy_meters();
        Ok(usages)
    }

    /// One sandbox's, with its containers'.
    pub async fn sandbox_usage(self: &Arc<Self>, id: &SandboxId) -> Result<SandboxUsage, EngineError> {
        let record = self.sandbox(id)?;
        let engine = Arc::clone(self);
        let usages = blocking(move || Ok(engine.measure_sandboxes(vec![record]))).await?;
        self.meters.layers.walk_behind();
        usages.into_iter().next().ok_or_else(|| EngineError::NoSuchSandbox { id: id.to_string() })
    }

    /// Those of all sandboxes that are ready and are shown.
    pub async fn sandbox_usages(self: &Arc<Self>, filter: &SandboxFilter) -> Result<Vec<SandboxUsage>, EngineError> {
        let (engine, mut records) = (Arc::clone(self), self.sandboxes(filter));
        records.retain(|record| record.state.is_ready());
        let usages = blocking(move || Ok(engine.measure_sandboxes(records))).await?;
        self.tidy_meters();
        Ok(usages)
    }

    /// All writable layers, as last seen.
    pub async fn layers_usage(self: &Arc<Self>) -> Result<LayersUsage, EngineError> {
        let (engine, records) = (Arc::clone(self), self.containers(&ContainerFilter::default()));
        let usage = blocking(move || {
            let mut sum = LayersUsage { path: records::layers(&engine.config.root), bytes: 0, inodes: 1 };
            let budget = Budget::of_a_list();
            for record in records {
                let layer = engine.layer(&record.id, &budget);
                sum.bytes = sum.bytes.saturating_add(layer.bytes.unwrap_or(0));
                sum.inodes = sum.inodes.saturating_add(layer.inodes.unwrap_or(0));
            }
            Ok(sum)
        })
        .await?;
        self.tidy_meters();
        Ok(usage)
    }

    fn tidy_meters(&self) {
        self.meters.layers.walk_behind();
        // Removed containers are left out when they are as many as those that are.
        if self.meters.layers.known() > 2 * self.world.count_containers() + 16 {
            self.meters.layers.keep(|id| self.world.container(id).is_ok());
        }
    }

    fn layer(&self, id: &ContainerId, budget: &Budget) -> LayerUsage {
        let own = records::layer(&self.config.root, id);
        // What the image calls volumes is written on the same disk.
        let walked = if own.join(anonymous::VOLUMES).is_dir() { own } else { own.join("upper") };
        let layer = self.meters.layers.usage(id, walked, budget);
        // Whoever asks for its file system asks once for all layers.
        LayerUsage { path: records::layers(&self.config.root), ..layer }
    }

    fn measure(&self, record: Arc<ContainerRecord>, budget: &Budget) -> ContainerUsage {
        let usage = record.state.process().and_then(|_| self.read(&record.cgroup, started(&record)));
        let layer = self.layer(&record.id, budget);
        ContainerUsage { record, usage, layer }
    }

    fn measure_sandboxes(&self, records: Vec<Arc<SandboxRecord>>) -> Vec<SandboxUsage> {
        let mut containers = self.containers_by_sandbox();
        let (shared, budget) = (self.shared_parents(), Budget::of_a_list());
        let one = |record: Arc<SandboxRecord>| {
            let containers = containers.remove(&record.id).unwrap_or_default();
            let containers: Vec<_> = containers.into_iter().map(|record| self.measure(record, &budget)).collect();
            let usage = if is_alone(&shared, pod_cgroup(&record)) {
                self.read(pod_cgroup(&record), young(record.created_at))
            } else {
                self.sum(&record, &containers)
            };
            let network = network(&record);
            SandboxUsage { record, usage, network, containers }
        };
        records.into_iter().map(one).collect()
    }

    fn containers_by_sandbox(&self) -> BTreeMap<SandboxId, Vec<Arc<ContainerRecord>>> {
        let mut containers: BTreeMap<SandboxId, Vec<Arc<ContainerRecord>>> = BTreeMap::new();
        for record in self.containers(&ContainerFilter::default()) {
            if record.state.process().is_some() {
                containers.entry(record.sandbox.clone()).or_default().push(record);
            }
        }
        containers
    }

    /// How many pods that are ready were given the same cgroup: a kubelet gives each its own, others needn't. One that has
    /// ended doesn't count: the sandbox that took its place has the cgroup to itself.
    fn shared_parents(&self) -> BTreeMap<String, usize> {
        let mut shared: BTreeMap<String, usize> = BTreeMap::new();
        for record in self.sandboxes(&SandboxFilter::default()).iter().filter(|record| record.state.is_ready()) {
            *shared.entry(pod_cgroup(record).to_owned()).or_default() += 1;
        }
        shared
    }

    /// A pod in a cgroup that isn't its alone: the pause process and the containers together.
    fn sum(&self, record: &SandboxRecord, containers: &[ContainerUsage]) -> Option<CgroupUsage> {
        let mut sum = self.read(&record.cgroup, young(record.created_at))?;
        // Shares of time don't add up, and a limit of one part isn't the pod's.
        sum.used.pressure = Pressure::default();
        sum.used.memory_limit_bytes = None;
        if let Some(swap) = &mut sum.used.swap {
            swap.limit_bytes = None;
        }
        for CgroupUsage { at, cpu_nano_cores, used } in containers.iter().filter_map(|container| container.usage) {
            sum.at = sum.at.max(at);
            sum.cpu_nano_cores = sum.cpu_nano_cores.zip(cpu_nano_cores).map(|(one, other)| one.saturating_add(other));
            let Used { cpu_nanos, memory_bytes, working_set_bytes, anonymous_bytes, page_faults, .. } = used;
            for (sum, more) in [
                (&mut sum.used.cpu_nanos, cpu_nanos),
                (&mut sum.used.memory_bytes, memory_bytes),
                (&mut sum.used.working_set_bytes, working_set_bytes),
                (&mut sum.used.anonymous_bytes, anonymous_bytes),
                (&mut sum.used.page_faults, page_faults),
                (&mut sum.used.major_page_faults, used.major_page_faults),
                (&mut sum.used.tasks, used.tasks),
            ] {
                *sum = sum.saturating_add(more);
            }
            if let (Some(sum), Some(swap)) = (&mut sum.used.swap, used.swap) {
                sum.used_bytes = sum.used_bytes.saturating_add(swap.used_bytes);
            }
        }
        Some(sum)
    }

    /// A cgroup that is gone has nothing to tell.
    fn read(&self, path: &str, born: Option<Duration>) -> Option<CgroupUsage> {
        let used: Usage = Cgroup::open_for(Path::new(path), &USAGE_CONTROLLERS).and_then(|group| group.usage()).ok()?;
        Some(self.noted(path, used, born))
    }

    fn noted(&self, path: &str, used: Used, born: Option<Duration>) -> CgroupUsage {
        let reading = rates::Reading { at: boot_time().0, cpu_nanos: used.cpu_nanos };
        CgroupUsage { at: now(), cpu_nano_cores: lock(&self.meters.rates).note(path, reading, born), used }
    }
}

/// The cgroup of the pod as a whole: above that of the pause process.
fn pod_cgroup(record: &SandboxRecord) -> &str {
    record.cgroup.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Whether what is in a cgroup is one pod's. The root's is the machine's.
fn is_alone(shared: &BTreeMap<String, usize>, cgroup: &str) -> bool {
    !cgroup.is_empty() && shared.get(cgroup).is_none_or(|pods| *pods == 1)
}

fn started(record: &ContainerRecord) -> Option<Duration> {
    match &record.state {
        ContainerState::Running { since, .. } | ContainerState::Stopping { since, .. } => young(*since),
        ContainerState::Creating
        | ContainerState::Created
        | ContainerState::Starting
        | ContainerState::Exited { .. } => None,
    }
}

/// When something was made, as time since boot, if that isn't long ago.
fn young(made: Timestamp) -> Option<Duration> {
    let age = Duration::from_nanos(u64::try_from(now().0.checked_sub(made.0)?).ok()?);
    (age < YOUNG).then(|| boot_time().0.saturating_sub(age))
}

fn network(record: &SandboxRecord) -> Option<NetworkUsage> {
    let SandboxState::Ready { pause } = &record.state else { return None };
    if record.config.namespaces.network == NetworkMode::Node {
        return None;
    }
    let mut others = netdev::interfaces(pause.pid).ok()?;
    // Read first and asked afterwards: then it was still the pause process whose namespace was read.
    if start_ticks(pause.pid).ok()? != pause.start_ticks {
        return None;
    }
    others.retain(|interface| interface.name != "lo");
    let named = record.network.as_ref().map(|network| network.interface.as_str());
    let default = others.iter().position(|interface| Some(interface.name.as_str()) == named);
    let default = default.map(|at| others.remove(at));
    Some(NetworkUsage { at: now(), default, others })
}

#[cfg(test)]
mod tests {
    use super::is_alone;

    #[test]
    fn a_cgroup_of_several_pods_or_of_the_machine_is_no_pods() {
        let shared = [("/one".to_owned(), 1), ("/two".to_owned(), 2), (String::new(), 1)].into();
        let told = ["/one", "/two", "/gone", ""].map(|cgroup| is_alone(&shared, cgroup));
        assert_eq!(told, [true, false, true, false]);
    }
}
