//! What pods and containers use.

use runtime_cri_api::v1::{
    ContainerAttributes, ContainerMetadata, ContainerStats, CpuUsage, FilesystemIdentifier, FilesystemUsage, IoUsage,
    LinuxPodSandboxStats, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes, PodSandboxStats,
    ProcessUsage, PsiData, PsiStats, SwapUsage, UInt64Value,
};
use runtime_engine::{
    self as engine, CgroupUsage, ContainerUsage, Interface, LayerUsage, SandboxUsage, Stall, StallTime,
};

use super::{map, sandbox::metadata};

fn number(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// CRI wants nanoseconds and percent, the kernel says microseconds and hundredths.
fn psi(stall: Stall) -> PsiStats {
    let data = |time: StallTime| PsiData {
        total: time.total_micros.saturating_mul(1000),
        avg10: f64::from(time.avg10) / 100.0,
        avg60: f64::from(time.avg60) / 100.0,
        avg300: f64::from(time.avg300) / 100.0,
    };
    PsiStats { full: Some(data(stall.full)), some: Some(data(stall.some)) }
}

fn cpu(usage: &CgroupUsage) -> CpuUsage {
    CpuUsage {
        timestamp: usage.at.0,
        usage_core_nano_seconds: number(usage.used.cpu_nanos),
        usage_nano_cores: usage.cpu_nano_cores.and_then(number),
        psi: usage.used.pressure.cpu.map(psi),
    }
}

fn memory(usage: &CgroupUsage) -> MemoryUsage {
    let used = &usage.used;
    MemoryUsage {
        timestamp: usage.at.0,
        working_set_bytes: number(used.working_set_bytes),
        available_bytes: used.memory_limit_bytes.and_then(|limit| number(limit.saturating_sub(used.working_set_bytes))),
        usage_bytes: number(used.memory_bytes),
        rss_bytes: number(used.anonymous_bytes),
        page_faults: number(used.page_faults),
        major_page_faults: number(used.major_page_faults),
        psi: used.pressure.memory.map(psi),
    }
}

fn swap(usage: &CgroupUsage) -> Option<SwapUsage> {
    usage.used.swap.map(|swap| SwapUsage {
        timestamp: usage.at.0,
        swap_available_bytes: swap.limit_bytes.and_then(|limit| number(limit.saturating_sub(swap.used_bytes))),
        swap_usage_bytes: number(swap.used_bytes),
    })
}

fn io(usage: &CgroupUsage) -> Option<IoUsage> {
    usage.used.pressure.io.map(|stall| IoUsage { timestamp: usage.at.0, psi: Some(psi(stall)) })
}

fn layer(layer: &LayerUsage) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: layer.at.0,
        fs_id: Some(FilesystemIdentifier { mountpoint: layer.path.to_string_lossy().into_owned() }),
        used_bytes: layer.bytes.and_then(number),
        inodes_used: layer.inodes.and_then(number),
    }
}

/// A container's. What doesn't run uses nothing but its layer: no zeros that look like a reading.
pub(crate) fn container_stats(container: &ContainerUsage) -> ContainerStats {
    let ContainerUsage { record, usage, layer: kept } = container;
    ContainerStats {
        attributes: Some(ContainerAttributes {
            id: record.id.to_string(),
            metadata: Some(ContainerMetadata { name: record.config.name.clone(), attempt: record.config.attempt }),
            labels: map(&record.config.labels),
            annotations: map(&record.config.annotations),
        }),
        cpu: usage.as_ref().map(cpu),
        memory: usage.as_ref().map(memory),
        writable_layer: Some(layer(kept)),
        swap: usage.as_ref().and_then(swap),
        io: usage.as_ref().and_then(io),
    }
}

/// A pod's.
pub(crate) fn sandbox_stats(sandbox: &SandboxUsage) -> PodSandboxStats {
    let SandboxUsage { record, usage, network, containers } = sandbox;
    PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: record.id.to_string(),
            metadata: Some(metadata(&record.config.metadata)),
            labels: map(&record.config.labels),
            annotations: map(&record.config.annotations),
        }),
        linux: Some(LinuxPodSandboxStats {
            cpu: usage.as_ref().map(cpu),
            memory: usage.as_ref().map(memory),
            network: network.as_ref().map(interfaces),
            process: usage
                .as_ref()
                .map(|usage| ProcessUsage { timestamp: usage.at.0, process_count: number(usage.used.tasks) }),
            containers: containers.iter().map(container_stats).collect(),
            io: usage.as_ref().and_then(io),
        }),
        windows: None,
    }
}

fn interfaces(network: &engine::NetworkUsage) -> NetworkUsage {
    NetworkUsage {
        timestamp: network.at.0,
        default_interface: network.default.as_ref().map(interface),
        interfaces: network.others.iter().map(interface).collect(),
    }
}

fn interface(interface: &Interface) -> NetworkInterfaceUsage {
    NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: number(interface.received.bytes),
        rx_errors: number(interface.received.errors),
        tx_bytes: number(interface.sent.bytes),
        tx_errors: number(interface.sent.errors),
    }
}
