//! Metrics as a kubelet publishes them: cAdvisor's names and labels, so that dashboards and alerts go on working.
//!
//! The table in `families` says what there is. A family that the kernel has no figure for keeps its descriptor and has no
//! values. Values are whole numbers on this interface, so seconds are cut.

use runtime_cri_api::v1::{ContainerMetrics, Metric, MetricDescriptor, MetricType, PodSandboxMetrics, UInt64Value};
use runtime_engine::{ContainerFigures, Figures, Interface, MachineFigures, SandboxFigures};
use runtime_lifecycle::{ContainerState, Timestamp};

mod families;

use families::FAMILIES;

/// The labels that every value has, in the order of their names, as a kubelet's cAdvisor has them.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// The container that the network's figures are told of: the pod's own.
const POD: &str = "POD";

/// One metric.
struct Family {
    name: &'static str,
    help: &'static str,
    /// The labels behind [`LABELS`].
    labels: &'static [&'static str],
    kind: MetricType,
    from: From,
}

/// Where a family's values come from.
enum From {
    /// A cgroup: a container's, or the pod's.
    Group(fn(&Figures) -> Values),
    /// Traffic with block devices, of a cgroup; the first label is the device's name.
    Devices(fn(&Figures, &MachineFigures) -> Values),
    /// A container.
    Container(fn(&ContainerFigures, &MachineFigures) -> Values),
    /// An interface of the pod.
    Interface(fn(&Interface) -> u64),
    /// The moment.
    Now,
    /// The start of a container, or of the pod.
    Start,
}

/// Values with the family's own labels.
type Values = Vec<(u64, Vec<String>)>;

/// What is there, with the descriptor of each.
pub(crate) fn metric_descriptors() -> Vec<MetricDescriptor> {
    FAMILIES
        .iter()
        .map(|family| MetricDescriptor {
            name: family.name.to_owned(),
            help: family.help.to_owned(),
            label_keys: LABELS.iter().chain(family.labels).map(|label| (*label).to_owned()).collect(),
        })
        .collect()
}

/// All pods'.
pub(crate) fn sandbox_metrics(machine: &MachineFigures) -> Vec<PodSandboxMetrics> {
    machine.sandboxes.iter().map(|sandbox| one(sandbox, machine)).collect()
}

fn one(sandbox: &SandboxFigures, machine: &MachineFigures) -> PodSandboxMetrics {
    let record = &sandbox.record;
    let whole = Subject::new(sandbox, ["", &sandbox.cgroup, "", ""]);
    let pause = Subject::new(sandbox, [POD, &record.cgroup, "", record.id.as_str()]);
    let mut metrics = Vec::new();
    for family in FAMILIES {
        match (&family.from, &sandbox.figures) {
            (From::Group(values), Some(figures)) => whole.put(&mut metrics, family, values(figures)),
            (From::Devices(values), Some(figures)) => whole.put(&mut metrics, family, values(figures, machine)),
            (From::Now, Some(_)) => whole.put(&mut metrics, family, only(seconds(machine.at))),
            (From::Start, Some(_)) => whole.put(&mut metrics, family, only(seconds(record.created_at))),
            (From::Interface(value), _) => {
                let interfaces =
                    sandbox.network.iter().flat_map(|network| network.default.iter().chain(&network.others));
                let values = interfaces.map(|interface| (value(interface), vec![interface.name.clone()]));
                pause.put(&mut metrics, family, values.collect());
            }
            (From::Group(_) | From::Devices(_) | From::Now | From::Start, None) | (From::Container(_), _) => {}
        }
    }
    PodSandboxMetrics {
        pod_sandbox_id: record.id.to_string(),
        metrics,
        container_metrics: sandbox.containers.iter().map(|container| of(container, sandbox, machine)).collect(),
    }
}

fn of(container: &ContainerFigures, sandbox: &SandboxFigures, machine: &MachineFigures) -> ContainerMetrics {
    let record = &container.record;
    let image = &record.config.image;
    let image = if image.user_specified.is_empty() { &image.image } else { &image.user_specified };
    let subject = Subject::new(sandbox, [&record.config.name, &record.cgroup, image, record.id.as_str()]);
    let started = match &record.state {
        ContainerState::Running { since, .. } | ContainerState::Stopping { since, .. } => *since,
        _ => record.created_at,
    };
    let mut metrics = Vec::new();
    for family in FAMILIES {
        let values = match &family.from {
            From::Group(values) => values(&container.figures),
            From::Devices(values) => values(&container.figures, machine),
            From::Container(values) => values(container, machine),
            From::Now => only(seconds(machine.at)),
            From::Start => only(seconds(started)),
            From::Interface(_) => continue,
        };
        subject.put(&mut metrics, family, values);
    }
    ContainerMetrics { container_id: record.id.to_string(), metrics }
}

/// Whose a value is: the values of [`LABELS`].
struct Subject([String; LABELS.len()]);

impl Subject {
    fn new(sandbox: &SandboxFigures, [container, id, image, name]: [&str; 4]) -> Self {
        let pod = &sandbox.record.config.metadata;
        Self([container, id, image, name, &pod.namespace, &pod.name].map(ToOwned::to_owned))
    }

    fn put(&self, metrics: &mut Vec<Metric>, family: &Family, values: Values) {
        metrics.extend(values.into_iter().map(|(value, labels)| Metric {
            name: family.name.to_owned(),
            // 0: read for this answer, and not from a cache.
            timestamp: 0,
            metric_type: family.kind.into(),
            label_values: self.0.iter().cloned().chain(labels).collect(),
            value: Some(UInt64Value { value }),
        }));
    }
}

fn only(value: u64) -> Values {
    vec![(value, Vec::new())]
}

fn perhaps(value: Option<u64>) -> Values {
    value.map(only).unwrap_or_default()
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.0 / 1_000_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{FAMILIES, LABELS, metric_descriptors};

    /// What a kubelet's end-to-end test wants of every container (test/e2e_node/container_metrics_test.go), and of the pod.
    const WANTED: [&str; 42] = [
        "container_blkio_device_usage_total",
        "container_cpu_system_seconds_total",
        "container_cpu_usage_seconds_total",
        "container_cpu_user_seconds_total",
        "container_file_descriptors",
        "container_fs_inodes_free",
        "container_fs_inodes_total",
        "container_fs_limit_bytes",
        "container_fs_reads_bytes_total",
        "container_fs_reads_total",
        "container_fs_usage_bytes",
        "container_fs_writes_bytes_total",
        "container_fs_writes_total",
        "container_last_seen",
        "container_memory_cache",
        "container_memory_failcnt",
        "container_memory_failures_total",
        "container_memory_mapped_file",
        "container_memory_max_usage_bytes",
        "container_memory_rss",
        "container_memory_swap",
        "container_memory_usage_bytes",
        "container_memory_working_set_bytes",
        "container_oom_events_total",
        "container_processes",
        "container_sockets",
        "container_spec_cpu_period",
        "container_spec_cpu_shares",
        "container_spec_memory_limit_bytes",
        "container_spec_memory_reservation_limit_bytes",
        "container_spec_memory_swap_limit_bytes",
        "container_start_time_seconds",
        "container_threads",
        "container_threads_max",
        "container_ulimits_soft",
        "container_network_receive_bytes_total",
        "container_network_receive_errors_total",
        "container_network_receive_packets_dropped_total",
        "container_network_receive_packets_total",
        "container_network_transmit_bytes_total",
        "container_network_transmit_errors_total",
        "container_network_transmit_packets_total",
    ];

    #[test]
    fn names_are_there_once_and_labels_are_sorted() {
        let names: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for wanted in WANTED {
            assert!(names.contains(wanted), "{wanted}");
        }
        assert!(LABELS.is_sorted());
        for descriptor in metric_descriptors() {
            assert!(!descriptor.help.is_empty(), "{}", descriptor.name);
            let labels: BTreeSet<&String> = descriptor.label_keys.iter().collect();
            assert_eq!(labels.len(), descriptor.label_keys.len(), "{}", descriptor.name);
            assert!(descriptor.name.starts_with("container_"), "{}", descriptor.name);
        }
    }
}
