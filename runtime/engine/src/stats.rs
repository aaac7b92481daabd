//! What pods and containers use.

use std::{path::Path, sync::Arc};

use runtime_lifecycle::{ContainerFilter, ContainerId, ContainerRecord, SandboxId, Timestamp};
use runtime_sys::cgroup::Cgroup;

use crate::{Engine, EngineError, blocking, now};

/// What a cgroup has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupUsage {
    /// When it was read, for display.
    pub at: Timestamp,
    /// Processor time since it was made, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory in use, page cache included, in bytes.
    pub memory_bytes: u64,
    /// The same less page cache that wasn't touched lately, in bytes.
    pub working_set_bytes: u64,
    /// Anonymous memory, in bytes.
    pub anonymous_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Those that needed the disk.
    pub major_page_faults: u64,
    /// Processes and threads.
    pub tasks: u64,
}

/// A container and what it uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    /// The container.
    pub record: Arc<ContainerRecord>,
    /// Nothing if it doesn't run.
    pub usage: CgroupUsage,
}

impl Engine {
    /// One container's.
    pub async fn container_usage(&self, id: &ContainerId) -> Result<ContainerUsage, EngineError> {
        let record = self.container(id)?;
        blocking(move || Ok(measure(record))).await
    }

    /// Those of all containers that run and are shown.
    pub async fn container_usages(&self, filter: &ContainerFilter) -> Result<Vec<ContainerUsage>, EngineError> {
        let records = self.containers(filter);
        blocking(move || {
            let running = records.into_iter().filter(|record| record.state.process().is_some());
            Ok(running.map(measure).collect())
        })
        .await
    }

    /// What a sandbox's pause process uses; its containers are added by whoever sums.
    pub async fn sandbox_usage(&self, id: &SandboxId) -> Result<CgroupUsage, EngineError> {
        let record = self.sandbox(id)?;
        blocking(move || Ok(read(&record.cgroup))).await
    }
}

fn measure(record: Arc<ContainerRecord>) -> ContainerUsage {
    let usage = read(&record.cgroup);
    ContainerUsage { record, usage }
}

/// A cgroup that is gone has nothing to tell.
fn read(path: &str) -> CgroupUsage {
    let Ok(usage) = Cgroup::open(Path::new(path)).and_then(|cgroup| cgroup.usage()) else {
        return CgroupUsage { at: now(), ..CgroupUsage::default() };
    };
    CgroupUsage {
        at: now(),
        cpu_nanos: usage.cpu_nanos,
        memory_bytes: usage.memory_bytes,
        working_set_bytes: usage.working_set_bytes,
        anonymous_bytes: usage.anonymous_bytes,
        page_faults: usage.page_faults,
        major_page_faults: usage.major_page_faults,
        tasks: usage.tasks,
    }
}
