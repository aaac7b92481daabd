//! The table of metrics.

use runtime_cri_api::v1::MetricType::{self, Counter, Gauge};
use runtime_engine::{DeviceCost, DeviceTraffic, Figures, HugePages, MachineFigures, Stall};

use super::{Family, From, Values, only, perhaps};

const fn family(
    name: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    from: From,
    help: &'static str,
) -> Family {
    Family { name, help, labels, kind, from }
}

/// Without labels of its own.
const fn group(name: &'static str, kind: MetricType, values: fn(&Figures) -> Values, help: &'static str) -> Family {
    family(name, kind, &[], From::Group(values), help)
}

const fn interface(name: &'static str, value: fn(&runtime_engine::Interface) -> u64, help: &'static str) -> Family {
    family(name, Counter, &["interface"], From::Interface(value), help)
}

const fn device(name: &'static str, values: fn(&Figures, &MachineFigures) -> Values, help: &'static str) -> Family {
    family(name, Counter, &["device"], From::Devices(values), help)
}

fn nanos(nanos: Option<u64>) -> Values {
    perhaps(nanos.map(|nanos| nanos / 1_000_000_000))
}

fn waiting(stall: Option<Stall>) -> Values {
    perhaps(stall.map(|stall| stall.some.total_micros / 1_000_000))
}

fn stalled(stall: Option<Stall>) -> Values {
    perhaps(stall.map(|stall| stall.full.total_micros / 1_000_000))
}

fn called(device: &DeviceTraffic, machine: &MachineFigures) -> String {
    let name = machine.device_names.get(&(device.major, device.minor));
    name.cloned().unwrap_or_else(|| format!("{}:{}", device.major, device.minor))
}

fn each_device(figures: &Figures, machine: &MachineFigures, value: fn(&DeviceTraffic) -> u64) -> Values {
    figures.devices.iter().map(|device| (value(device), vec![called(device, machine)])).collect()
}

fn each_cost(figures: &Figures, machine: &MachineFigures, value: fn(&DeviceCost) -> Option<u64>) -> Values {
    let of = |device: &DeviceTraffic| Some((value(&device.cost)? / 1_000_000, vec![called(device, machine)]));
    figures.devices.iter().filter_map(of).collect()
}

fn transfers(figures: &Figures, machine: &MachineFigures) -> Values {
    let mut values = Vec::new();
    for device in &figures.devices {
        for (value, operation) in [(device.read_bytes, "Read"), (device.written_bytes, "Write")] {
            let numbers = [device.major.to_string(), device.minor.to_string()];
            let labels = [called(device, machine)].into_iter().chain(numbers).chain([operation.to_owned()]);
            values.push((value, labels.collect()));
        }
    }
    values
}

fn each_size(figures: &Figures, value: fn(&HugePages) -> Option<u64>) -> Values {
    figures.huge_pages.iter().filter_map(|pages| Some((value(pages)?, vec![pages.size.clone()]))).collect()
}

fn failures(figures: &Figures) -> Values {
    let labelled = |value, kind: &str, scope: &str| (value, vec![kind.to_owned(), scope.to_owned()]);
    vec![
        labelled(figures.memory.own_page_faults, "pgfault", "container"),
        labelled(figures.usage.page_faults, "pgfault", "hierarchy"),
        labelled(figures.memory.own_major_page_faults, "pgmajfault", "container"),
        labelled(figures.usage.major_page_faults, "pgmajfault", "hierarchy"),
    ]
}

/// On the disk of the writable layers.
fn on_disk(machine: &MachineFigures, value: impl FnOnce(&runtime_engine::Disk) -> Option<u64>) -> Values {
    let disk = machine.disk.as_ref();
    disk.and_then(|disk| Some(vec![(value(disk)?, vec![disk.device.clone()])])).unwrap_or_default()
}

/// Everything that is told, by topic.
pub(super) const FAMILIES: &[Family] = &[
    family("container_last_seen", Gauge, &[], From::Now, "When these figures were read, in seconds since 1970."),
    family(
        "container_start_time_seconds",
        Gauge,
        &[],
        From::Start,
        "When the container was started, or the pod created, in seconds since 1970.",
    ),
    // Processor.
    family(
        "container_cpu_usage_seconds_total",
        Counter,
        &["cpu"],
        From::Group(|figures| vec![(figures.usage.cpu_nanos / 1_000_000_000, vec!["total".to_owned()])]),
        "Processor time used, in whole seconds.",
    ),
    group(
        "container_cpu_user_seconds_total",
        Counter,
        |figures| nanos(figures.cpu_user_nanos),
        "Processor time used by programs, in whole seconds.",
    ),
    group(
        "container_cpu_system_seconds_total",
        Counter,
        |figures| nanos(figures.cpu_system_nanos),
        "Processor time used by the kernel, in whole seconds.",
    ),
    group(
        "container_cpu_cfs_periods_total",
        Counter,
        |figures| perhaps(figures.throttling.map(|throttling| throttling.periods)),
        "Periods of the processor quota that began with something to run.",
    ),
    group(
        "container_cpu_cfs_throttled_periods_total",
        Counter,
        |figures| perhaps(figures.throttling.map(|throttling| throttling.throttled_periods)),
        "Periods in which the processor quota was used up.",
    ),
    group(
        "container_cpu_cfs_throttled_seconds_total",
        Counter,
        |figures| nanos(figures.throttling.map(|throttling| throttling.throttled_nanos)),
        "Time held up by the processor quota, in whole seconds.",
    ),
    group(
        "container_cpu_cfs_burst_periods_total",
        Counter,
        |figures| perhaps(figures.throttling.and_then(|throttling| throttling.bursts)),
        "Periods in which it ran beyond its processor quota on what it had saved.",
    ),
    group(
        "container_cpu_cfs_burst_seconds_total",
        Counter,
        |figures| nanos(figures.throttling.and_then(|throttling| throttling.burst_nanos)),
        "Time that it ran beyond its processor quota, in whole seconds.",
    ),
    // Memory.
    group("container_memory_cache", Gauge, |figures| only(figures.memory.cache), "Page cache, in bytes."),
    group("container_memory_rss", Gauge, |figures| only(figures.usage.anonymous_bytes), "Anonymous memory, in bytes."),
    group(
        "container_memory_kernel_usage",
        Gauge,
        |figures| perhaps(figures.memory.kernel),
        "Memory of the kernel for this container, in bytes.",
    ),
    group(
        "container_memory_mapped_file",
        Gauge,
        |figures| only(figures.memory.mapped_file),
        "Files mapped into processes, in bytes.",
    ),
    group(
        "container_memory_swap",
        Gauge,
        |figures| perhaps(figures.usage.swap.map(|swap| swap.used_bytes)),
        "Memory on the swap device, in bytes.",
    ),
    group(
        "container_memory_failcnt",
        Counter,
        |figures| perhaps(figures.memory.limit_hits),
        "How often the limit of memory was hit.",
    ),
    group(
        "container_memory_usage_bytes",
        Gauge,
        |figures| only(figures.usage.memory_bytes),
        "Memory in use, whenever it was touched last, in bytes.",
    ),
    group(
        "container_memory_max_usage_bytes",
        Gauge,
        |figures| perhaps(figures.memory.max_usage),
        "The most memory that was in use, in bytes.",
    ),
    group(
        "container_memory_working_set_bytes",
        Gauge,
        |figures| only(figures.usage.working_set_bytes),
        "Memory in use less page cache that was not touched lately, in bytes.",
    ),
    group(
        "container_memory_total_active_file_bytes",
        Gauge,
        |figures| only(figures.memory.active_file),
        "Page cache that was touched lately, in bytes.",
    ),
    group(
        "container_memory_total_inactive_file_bytes",
        Gauge,
        |figures| only(figures.memory.inactive_file),
        "Page cache that was not touched lately, in bytes.",
    ),
    group(
        "container_memory_active_anon_bytes",
        Gauge,
        |figures| only(figures.memory.active_anonymous),
        "Anonymous memory that was touched lately, in bytes.",
    ),
    group(
        "container_memory_inactive_anon_bytes",
        Gauge,
        |figures| only(figures.memory.inactive_anonymous),
        "Anonymous memory that was not touched lately, in bytes.",
    ),
    family(
        "container_memory_failures_total",
        Counter,
        &["failure_type", "scope"],
        From::Group(failures),
        "Page faults; a major one needed the disk.",
    ),
    group(
        "container_oom_events_total",
        Counter,
        |figures| perhaps(figures.oom_kills),
        "Processes killed for want of memory.",
    ),
    // Huge pages.
    family(
        "container_hugetlb_usage_bytes",
        Gauge,
        &["pagesize"],
        From::Group(|figures| each_size(figures, |pages| Some(pages.used_bytes))),
        "Huge pages in use, in bytes.",
    ),
    family(
        "container_hugetlb_max_usage_bytes",
        Gauge,
        &["pagesize"],
        From::Group(|figures| each_size(figures, |pages| pages.max_used_bytes)),
        "The most huge pages that were in use, in bytes.",
    ),
    family(
        "container_hugetlb_failcnt",
        Counter,
        &["pagesize"],
        From::Group(|figures| each_size(figures, |pages| pages.limit_hits)),
        "How often the limit of huge pages was hit.",
    ),
    // Waiting.
    group(
        "container_pressure_cpu_waiting_seconds_total",
        Counter,
        |figures| waiting(figures.usage.pressure.cpu),
        "Time in which some task waited for a processor, in whole seconds.",
    ),
    group(
        "container_pressure_cpu_stalled_seconds_total",
        Counter,
        |figures| stalled(figures.usage.pressure.cpu),
        "Time in which all tasks waited for a processor, in whole seconds.",
    ),
    group(
        "container_pressure_memory_waiting_seconds_total",
        Counter,
        |figures| waiting(figures.usage.pressure.memory),
        "Time in which some task waited for memory, in whole seconds.",
    ),
    group(
        "container_pressure_memory_stalled_seconds_total",
        Counter,
        |figures| stalled(figures.usage.pressure.memory),
        "Time in which all tasks waited for memory, in whole seconds.",
    ),
    group(
        "container_pressure_io_waiting_seconds_total",
        Counter,
        |figures| waiting(figures.usage.pressure.io),
        "Time in which some task waited for a disk, in whole seconds.",
    ),
    group(
        "container_pressure_io_stalled_seconds_total",
        Counter,
        |figures| stalled(figures.usage.pressure.io),
        "Time in which all tasks waited for a disk, in whole seconds.",
    ),
    // Disks.
    device(
        "container_fs_reads_bytes_total",
        |figures, machine| each_device(figures, machine, |device| device.read_bytes),
        "Bytes read from a block device.",
    ),
    device(
        "container_fs_reads_total",
        |figures, machine| each_device(figures, machine, |device| device.reads),
        "Reads from a block device.",
    ),
    device(
        "container_fs_writes_bytes_total",
        |figures, machine| each_device(figures, machine, |device| device.written_bytes),
        "Bytes written to a block device.",
    ),
    device(
        "container_fs_writes_total",
        |figures, machine| each_device(figures, machine, |device| device.writes),
        "Writes to a block device.",
    ),
    device(
        "container_fs_io_cost_usage_seconds_total",
        |figures, machine| each_cost(figures, machine, |cost| cost.usage_micros),
        "Time of a block device that was used, by the kernel's cost model, in whole seconds.",
    ),
    device(
        "container_fs_io_cost_wait_seconds_total",
        |figures, machine| each_cost(figures, machine, |cost| cost.wait_micros),
        "Time of a block device that was waited for, by the kernel's cost model, in whole seconds.",
    ),
    device(
        "container_fs_io_cost_indebt_seconds_total",
        |figures, machine| each_cost(figures, machine, |cost| cost.indebt_micros),
        "Time that it ran ahead of its share of a block device, in whole seconds.",
    ),
    device(
        "container_fs_io_cost_indelay_seconds_total",
        |figures, machine| each_cost(figures, machine, |cost| cost.indelay_micros),
        "Time that it was held up for having run ahead of its share of a block device, in whole seconds.",
    ),
    family(
        "container_blkio_device_usage_total",
        Counter,
        &["device", "major", "minor", "operation"],
        From::Devices(transfers),
        "Bytes moved from and to a block device.",
    ),
    family(
        "container_fs_usage_bytes",
        Gauge,
        &["device"],
        From::Container(|container, machine| on_disk(machine, |_| container.layer.bytes)),
        "What the writable layer takes, in bytes; as last walked.",
    ),
    family(
        "container_fs_limit_bytes",
        Gauge,
        &["device"],
        From::Container(|_, machine| on_disk(machine, |disk| Some(disk.bytes))),
        "Size of the file system that the writable layer is on, in bytes.",
    ),
    family(
        "container_fs_inodes_total",
        Gauge,
        &["device"],
        From::Container(|_, machine| on_disk(machine, |disk| Some(disk.inodes))),
        "Inodes of the file system that the writable layer is on.",
    ),
    family(
        "container_fs_inodes_free",
        Gauge,
        &["device"],
        From::Container(|_, machine| on_disk(machine, |disk| Some(disk.free_inodes))),
        "Free inodes of the file system that the writable layer is on.",
    ),
    // Processes.
    family(
        "container_processes",
        Gauge,
        &[],
        From::Container(|container, _| only(container.processes)),
        "Processes in the container.",
    ),
    family(
        "container_file_descriptors",
        Gauge,
        &[],
        From::Container(|container, _| only(container.open.descriptors)),
        "Descriptors that its processes have open.",
    ),
    family(
        "container_sockets",
        Gauge,
        &[],
        From::Container(|container, _| only(container.open.sockets)),
        "Sockets that its processes have open.",
    ),
    group("container_threads", Gauge, |figures| only(figures.usage.tasks), "Threads in the container."),
    group(
        "container_threads_max",
        Gauge,
        |figures| only(figures.tasks_max.unwrap_or(0)),
        "Most threads that it may have; 0: as many as the machine.",
    ),
    family(
        "container_ulimits_soft",
        Gauge,
        &["ulimit"],
        From::Container(|container, _| {
            let limit = container.open_files_limit.map(|limit| (limit, vec!["max_open_files".to_owned()]));
            limit.into_iter().collect()
        }),
        "Soft limits of the container's first process.",
    ),
    // Limits.
    group(
        "container_spec_cpu_period",
        Gauge,
        |figures| only(figures.limits.cpu_period_micros),
        "Length of a period of the processor quota, in microseconds.",
    ),
    group(
        "container_spec_cpu_quota",
        Gauge,
        |figures| perhaps(Some(figures.limits.cpu_quota_micros).filter(|quota| *quota > 0)),
        "Processor time in a period, in microseconds.",
    ),
    group(
        "container_spec_cpu_shares",
        Gauge,
        |figures| only(figures.limits.cpu_shares),
        "Weight of the container when processors are short.",
    ),
    group(
        "container_spec_memory_limit_bytes",
        Gauge,
        |figures| only(figures.limits.memory_bytes),
        "Limit of memory, in bytes; 0: none.",
    ),
    group(
        "container_spec_memory_reservation_limit_bytes",
        Gauge,
        |figures| only(figures.limits.memory_reservation_bytes),
        "Memory that is left to it when memory is short, in bytes; 0: none.",
    ),
    group(
        "container_spec_memory_swap_limit_bytes",
        Gauge,
        |figures| only(figures.limits.memory_swap_bytes),
        "Limit of swap, on cgroup v1 of memory and swap together, in bytes; 0: none.",
    ),
    // Network.
    interface("container_network_receive_bytes_total", |interface| interface.received.bytes, "Bytes received."),
    interface("container_network_receive_packets_total", |interface| interface.received.packets, "Packets received."),
    interface(
        "container_network_receive_packets_dropped_total",
        |interface| interface.received.dropped,
        "Packets that were received and dropped.",
    ),
    interface(
        "container_network_receive_errors_total",
        |interface| interface.received.errors,
        "Packets that were received broken.",
    ),
    interface("container_network_transmit_bytes_total", |interface| interface.sent.bytes, "Bytes sent."),
    interface("container_network_transmit_packets_total", |interface| interface.sent.packets, "Packets sent."),
    interface(
        "container_network_transmit_packets_dropped_total",
        |interface| interface.sent.dropped,
        "Packets that were to be sent and dropped.",
    ),
    interface(
        "container_network_transmit_errors_total",
        |interface| interface.sent.errors,
        "Packets that could not be sent.",
    ),
];
