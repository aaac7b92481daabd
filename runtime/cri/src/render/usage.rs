//! What pods and containers use.

use runtime_cri_api::v1::{
    ContainerAttributes, ContainerMetadata, ContainerStats, CpuUsage, LinuxPodSandboxStats, MemoryUsage,
    PodSandboxAttributes, PodSandboxStats, ProcessUsage, UInt64Value,
};
use runtime_engine::{CgroupUsage, ContainerUsage};
use runtime_lifecycle::SandboxRecord;

use super::{map, sandbox::metadata};

fn number(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(usage: &CgroupUsage) -> CpuUsage {
    CpuUsage { timestamp: usage.at.0, usage_core_nano_seconds: number(usage.cpu_nanos), ..CpuUsage::default() }
}

fn memory(usage: &CgroupUsage, limit_bytes: i64) -> MemoryUsage {
    let limit = u64::try_from(limit_bytes).ok().filter(|limit| *limit > 0);
    MemoryUsage {
        timestamp: usage.at.0,
        working_set_bytes: number(usage.working_set_bytes),
        available_bytes: limit.and_then(|limit| number(limit.saturating_sub(usage.working_set_bytes))),
        usage_bytes: number(usage.memory_bytes),
        rss_bytes: number(usage.anonymous_bytes),
        page_faults: number(usage.page_faults),
        major_page_faults: number(usage.major_page_faults),
        psi: None,
    }
}

/// A container's.
pub(crate) fn container_stats(ContainerUsage { record, usage }: &ContainerUsage) -> ContainerStats {
    ContainerStats {
        attributes: Some(ContainerAttributes {
            id: record.id.to_string(),
            metadata: Some(ContainerMetadata { name: record.config.name.clone(), attempt: record.config.attempt }),
            labels: map(&record.config.labels),
            annotations: map(&record.config.annotations),
        }),
        cpu: Some(cpu(usage)),
        memory: Some(memory(usage, record.config.resources.memory_limit_bytes)),
        ..ContainerStats::default()
    }
}

/// A pod's: its pause process and its containers together.
pub(crate) fn sandbox_stats(
    record: &SandboxRecord,
    pause: CgroupUsage,
    containers: &[ContainerUsage],
) -> PodSandboxStats {
    let sum = containers.iter().fold(pause, |sum, ContainerUsage { usage, .. }| CgroupUsage {
        at: sum.at.max(usage.at),
        cpu_nanos: sum.cpu_nanos.saturating_add(usage.cpu_nanos),
        memory_bytes: sum.memory_bytes.saturating_add(usage.memory_bytes),
        working_set_bytes: sum.working_set_bytes.saturating_add(usage.working_set_bytes),
        anonymous_bytes: sum.anonymous_bytes.saturating_add(usage.anonymous_bytes),
        page_faults: sum.page_faults.saturating_add(usage.page_faults),
        major_page_faults: sum.major_page_faults.saturating_add(usage.major_page_faults),
        tasks: sum.tasks.saturating_add(usage.tasks),
    });
    PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: record.id.to_string(),
            metadata: Some(metadata(&record.config.metadata)),
            labels: map(&record.config.labels),
            annotations: map(&record.config.annotations),
        }),
        linux: Some(LinuxPodSandboxStats {
            cpu: Some(cpu(&sum)),
            memory: Some(memory(&sum, 0)),
            process: Some(ProcessUsage { timestamp: sum.at.0, process_count: number(sum.tasks) }),
            containers: containers.iter().map(container_stats).collect(),
            ..LinuxPodSandboxStats::default()
        }),
        windows: None,
    }
}
