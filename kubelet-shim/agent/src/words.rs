//! A pod in CRI's words, labelled as the kubelet labels, so that `crictl` and log collectors know it.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use kubelet_shim_manifest::{
    Container, DnsPolicy, EnvironmentSource, FieldPath, Pod, Protocol, Resources, SeccompProfile,
};
use runtime_cri_api::v1::{self, NamespaceMode, security_profile::ProfileType};

use crate::AgentConfig;

/// Marks what this keeper made; the pods of a kubelet on the same runtime are none of its business.
pub(crate) const KEEPER_LABEL: &str = "podwright.io/keeper";
/// The pod's uid, as the kubelet labels it.
pub(crate) const UID_LABEL: &str = "io.kubernetes.pod.uid";
/// The pod's name.
const NAME_LABEL: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
const NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// The container's name.
const CONTAINER_LABEL: &str = "io.kubernetes.container.name";

/// The kernel's default CFS period in microseconds, as the kubelet sets it.
const CPU_PERIOD_MICROS: i64 = 100_000;
/// The smallest quota that the kernel takes, in microseconds.
const CPU_QUOTA_MICROS_MIN: i64 = 1_000;
/// The smallest share that the kernel takes.
const CPU_SHARES_MIN: u64 = 2;

/// The directory of a pod's logs.
pub(crate) fn log_directory(config: &AgentConfig, pod: &Pod) -> PathBuf {
    let metadata = &pod.metadata;
    config.log_dir.join(format!("{}_{}_{}", metadata.namespace, metadata.name, metadata.uid))
}

/// What selects everything of a pod.
pub(crate) fn selector(pod: &Pod) -> HashMap<String, String> {
    HashMap::from([(UID_LABEL.to_owned(), pod.metadata.uid.clone())])
}

pub(crate) fn sandbox(config: &AgentConfig, pod: &Pod, attempt: u32) -> v1::PodSandboxConfig {
    let mut labels: HashMap<String, String> = pod.metadata.labels.clone().into_iter().collect();
    labels.extend(identity(pod));
    labels.insert(KEEPER_LABEL.to_owned(), "true".to_owned());
    let mut annotations: HashMap<String, String> = pod.metadata.annotations.clone().into_iter().collect();
    annotations.insert("kubernetes.io/config.source".to_owned(), "file".to_owned());
    annotations.insert("kubernetes.io/config.hash".to_owned(), pod.revision.clone());
    let ports = pod.init_containers.iter().chain(&pod.containers).flat_map(|container| &container.ports);
    let port_mappings = ports
        .filter(|_| !pod.host_network)
        .filter_map(|port| {
            Some(v1::PortMapping {
                protocol: match port.protocol {
                    Protocol::Tcp => v1::Protocol::Tcp,
                    Protocol::Udp => v1::Protocol::Udp,
                    Protocol::Sctp => v1::Protocol::Sctp,
                }
                .into(),
                container_port: i32::from(port.container),
                host_port: i32::from(port.host?),
                host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            })
        })
        .collect();
    let privileged = pod.init_containers.iter().chain(&pod.containers).any(|container| container.security.privileged);
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            namespace: pod.metadata.namespace.clone(),
            attempt,
        }),
        hostname: if pod.host_network { String::new() } else { pod.hostname.clone() },
        log_directory: log_directory(config, pod).to_string_lossy().into_owned(),
        dns_config: dns(pod),
        port_mappings,
        labels,
        annotations,
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: config.cgroup_parent.clone(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod)),
                supplemental_groups: pod.supplemental_groups.clone(),
                privileged,
                seccomp: Some(profile(SeccompProfile::RuntimeDefault)),
                ..Default::default()
            }),
            sysctls: pod.sysctls.clone().into_iter().collect(),
            ..Default::default()
        }),
        windows: None,
    }
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    [
        (NAME_LABEL.to_owned(), pod.metadata.name.clone()),
        (NAMESPACE_LABEL.to_owned(), pod.metadata.namespace.clone()),
        (UID_LABEL.to_owned(), pod.metadata.uid.clone()),
    ]
}

fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let or_host = |host: bool, otherwise: NamespaceMode| if host { NamespaceMode::Node } else { otherwise };
    let pid = if pod.share_process_namespace { NamespaceMode::Pod } else { NamespaceMode::Container };
    v1::NamespaceOption {
        network: or_host(pod.host_network, NamespaceMode::Pod).into(),
        pid: or_host(pod.host_pid, pid).into(),
        ipc: or_host(pod.host_ipc, NamespaceMode::Pod).into(),
        ..Default::default()
    }
}

/// `None`: the runtime takes the host's.
fn dns(pod: &Pod) -> Option<v1::DnsConfig> {
    let own = &pod.dns;
    let is_empty = own.servers.is_empty() && own.searches.is_empty() && own.options.is_empty();
    if pod.dns_policy == DnsPolicy::Host && is_empty {
        return None;
    }
    let mut config = match pod.dns_policy {
        DnsPolicy::Host => host_dns(),
        DnsPolicy::None => v1::DnsConfig::default(),
    };
    config.servers.extend(own.servers.iter().map(ToString::to_string));
    config.searches.extend(own.searches.iter().cloned());
    config.options.extend(own.options.iter().cloned());
    // libc reads no more.
    config.servers.truncate(3);
    Some(config)
}

fn host_dns() -> v1::DnsConfig {
    let mut config = v1::DnsConfig::default();
    for line in std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default().lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    config
}

fn profile(profile: SeccompProfile) -> v1::SecurityProfile {
    let kind = match profile {
        SeccompProfile::RuntimeDefault => ProfileType::RuntimeDefault,
        SeccompProfile::Unconfined => ProfileType::Unconfined,
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: String::new() }
}

/// What a container's configuration depends on besides the manifest.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) config: &'a AgentConfig,
    pub(crate) pod: &'a Pod,
    pub(crate) ip: Option<&'a str>,
    pub(crate) volumes: &'a BTreeMap<String, PathBuf>,
    /// A hosts file of the keeper's, for `hostAliases`.
    pub(crate) hosts: Option<&'a Path>,
}

pub(crate) fn container(
    around: &Surroundings<'_>,
    container: &Container,
    attempt: u32,
    image: &str,
) -> v1::ContainerConfig {
    let environment = environment(around, container);
    let expand = |words: &[String]| words.iter().map(|word| expanded(word, &environment)).collect();
    let mut labels = HashMap::from(identity(around.pod));
    labels.insert(CONTAINER_LABEL.to_owned(), container.name.clone());
    let mut mounts: Vec<v1::Mount> = container
        .mounts
        .iter()
        .filter_map(|mount| {
            let host = around.volumes.get(&mount.volume)?;
            Some(bind(host, &mount.path, mount.read_only))
        })
        .collect();
    mounts.extend(around.hosts.map(|hosts| bind(hosts, "/etc/hosts", false)));
    let image =
        v1::ImageSpec { image: image.to_owned(), user_specified_image: container.image.clone(), ..Default::default() };
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(image),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts,
        labels,
        annotations: HashMap::from([("io.kubernetes.container.restartCount".to_owned(), attempt.to_string())]),
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(&container.resources)),
            security_context: Some(security(around.pod, container)),
        }),
        envs: environment.into_iter().map(|(key, value)| v1::KeyValue { key, value: value.into_bytes() }).collect(),
        ..Default::default()
    }
}

fn bind(host: &Path, path: &str, readonly: bool) -> v1::Mount {
    let host_path = host.to_string_lossy().into_owned();
    v1::Mount { container_path: path.to_owned(), host_path, readonly, ..Default::default() }
}

fn security(pod: &Pod, container: &Container) -> v1::LinuxContainerSecurityContext {
    let security = &container.security;
    let id = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
    let seccomp = if security.privileged { SeccompProfile::Unconfined } else { security.seccomp };
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: security.capabilities.add.clone(),
            drop_capabilities: security.capabilities.drop.clone(),
            ..Default::default()
        }),
        privileged: security.privileged,
        namespace_options: Some(namespaces(pod)),
        run_as_user: id(security.runs_as.user),
        run_as_group: id(security.runs_as.group),
        readonly_rootfs: security.read_only_root,
        supplemental_groups: pod.supplemental_groups.clone(),
        no_new_privs: security.no_new_privileges,
        masked_paths: if security.privileged { Vec::new() } else { MASKED.map(str::to_owned).to_vec() },
        readonly_paths: if security.privileged { Vec::new() } else { READ_ONLY.map(str::to_owned).to_vec() },
        seccomp: Some(profile(seccomp)),
        ..Default::default()
    }
}

/// The kubelet's default masked paths.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// The kubelet's default read-only paths.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn resources(wanted: &Resources) -> v1::LinuxContainerResources {
    let shares = wanted
        .cpu_request_milli
        .map_or(CPU_SHARES_MIN, |milli| (milli.saturating_mul(1024) / 1000).clamp(CPU_SHARES_MIN, 262_144));
    let quota = wanted.cpu_limit_milli.map(|milli| {
        let micros = i64::try_from(milli).unwrap_or(i64::MAX).saturating_mul(CPU_PERIOD_MICROS) / 1000;
        micros.max(CPU_QUOTA_MICROS_MIN)
    });
    v1::LinuxContainerResources {
        cpu_period: if quota.is_some() { CPU_PERIOD_MICROS } else { 0 },
        cpu_quota: quota.unwrap_or(0),
        cpu_shares: i64::try_from(shares).unwrap_or(i64::MAX),
        memory_limit_in_bytes: wanted.memory_limit_bytes.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        oom_score_adj: oom_score(wanted),
        ..Default::default()
    }
}

/// The kubelet's rule by quality of service, for one container.
fn oom_score(wanted: &Resources) -> i64 {
    let guaranteed = wanted.cpu_limit_milli.is_some()
        && wanted.memory_limit_bytes.is_some()
        && wanted.cpu_limit_milli == wanted.cpu_request_milli
        && wanted.memory_limit_bytes == wanted.memory_request_bytes;
    if guaranteed {
        return -997;
    }
    match (wanted.memory_request_bytes, wanted.cpu_request_milli) {
        (None, None) => 1000,
        (None, Some(_)) => 999,
        (Some(request), _) => {
            let share = u128::from(request) * 1000 / u128::from(memory_bytes().max(1));
            1000_i64.saturating_sub(i64::try_from(share).unwrap_or(1000)).clamp(3, 999)
        }
    }
}

fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(1 << 20) * 1024
}

fn environment(around: &Surroundings<'_>, container: &Container) -> Vec<(String, String)> {
    let metadata = &around.pod.metadata;
    let mut environment: Vec<(String, String)> = Vec::new();
    for variable in &container.env {
        let value = match &variable.source {
            EnvironmentSource::Value(value) => expanded(value, &environment),
            EnvironmentSource::Resource(value) => value.clone(),
            EnvironmentSource::Field(path) => match path {
                FieldPath::Name => metadata.name.clone(),
                FieldPath::Namespace => metadata.namespace.clone(),
                FieldPath::Uid => metadata.uid.clone(),
                FieldPath::Label(key) => metadata.labels.get(key).cloned().unwrap_or_default(),
                FieldPath::Annotation(key) => metadata.annotations.get(key).cloned().unwrap_or_default(),
                FieldPath::NodeName => around.config.node_name.clone(),
                FieldPath::ServiceAccount => String::new(),
                FieldPath::PodIp | FieldPath::HostIp => around.ip.unwrap_or_default().to_owned(),
            },
        };
        environment.retain(|(name, _)| *name != variable.name);
        environment.push((variable.name.clone(), value));
    }
    environment
}

/// `$(NAME)` becomes the variable's value, `$$` a dollar; what is not known stays as it is.
fn expanded(text: &str, environment: &[(String, String)]) -> String {
    /// Longest result: variables that name each other twice grow without end.
    const BYTES_MAX: usize = 128 * 1024;
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match environment.iter().find(|(known, _)| known == name) {
                Some((_, value)) if out.len() + value.len() <= BYTES_MAX => out.push_str(value),
                Some(_) => {}
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expanded;

    #[test]
    fn variables_in_words() {
        let known = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())];
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$(C)", "$(C)"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("a$b", "a$b"),
        ] {
            assert_eq!(expanded(text, &known), want, "{text}");
        }
    }
}
