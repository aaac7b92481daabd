//! The validated pod: every default is filled in, every name and number is checked.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

/// Who a pod is: its namespace and name. Two manifests with the same key are two revisions of one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// `metadata.namespace`, `default` when absent.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod, ready to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Name, namespace, uid, labels and annotations.
    pub metadata: Metadata,
    /// Where the manifest stands.
    pub origin: Origin,
    /// SHA-256 of the pod's content in hexadecimal; it changes when any field does. Defaults count, comments don't.
    pub revision: String,
    /// `spec.initContainers`, in order. A [`Container::sidecar`] keeps running.
    pub init_containers: Vec<Container>,
    /// `spec.containers`, in order; at least one.
    pub containers: Vec<Container>,
    /// `spec.volumes`.
    pub volumes: Vec<Volume>,
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline: Option<Duration>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.hostPID`.
    pub host_pid: bool,
    /// `spec.hostIPC`.
    pub host_ipc: bool,
    /// `spec.shareProcessNamespace`.
    pub share_process_namespace: bool,
    /// `spec.hostname`, the pod's name when absent; at most 63 bytes.
    pub hostname: String,
    /// `spec.dnsPolicy`.
    pub dns_policy: DnsPolicy,
    /// `spec.dnsConfig`.
    pub dns: DnsConfig,
    /// `spec.hostAliases`.
    pub host_aliases: Vec<HostAlias>,
    /// `spec.securityContext`, what is not inherited by containers: `supplementalGroups`.
    pub supplemental_groups: Vec<i64>,
    /// `spec.securityContext.sysctls`.
    pub sysctls: BTreeMap<String, String>,
}

impl Pod {
    /// Namespace and name.
    #[must_use]
    pub fn key(&self) -> PodKey {
        PodKey { namespace: self.metadata.namespace.clone(), name: self.metadata.name.clone() }
    }

    /// The container of that name, init containers included.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.init_containers.iter().chain(&self.containers).find(|container| container.name == name)
    }
}

/// `metadata` of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Name; a DNS-1123 subdomain.
    pub name: String,
    /// Namespace; `default` when absent.
    pub namespace: String,
    /// `metadata.uid`, or one derived from the file and the name, so that it is the same after every restart.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Where a document begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The file's name as given to [`parse`](crate::parse).
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// The line of each volume, by name, for messages about their sources.
    pub volume_lines: BTreeMap<String, u64>,
}

/// What happens after a container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// It is started again.
    Always,
    /// It is started again unless it ended with code 0.
    OnFailure,
    /// It stays ended.
    Never,
}

/// Where a pod's resolv.conf comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsPolicy {
    /// The host's, since there is no cluster (`ClusterFirst`, `ClusterFirstWithHostNet` and `Default` alike).
    Host,
    /// Only `dnsConfig`.
    None,
}

/// `spec.dnsConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Name servers; at most three.
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options as `name` or `name:value`.
    pub options: Vec<String>,
}

/// One line of the pod's hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The address.
    pub ip: IpAddr,
    /// Its names.
    pub hostnames: Vec<String>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Name; a DNS-1123 label, unique in the pod.
    pub name: String,
    /// The image reference as written.
    pub image: String,
    /// `imagePullPolicy`; `Always` for the tag `latest`, else `IfNotPresent`.
    pub pull_policy: PullPolicy,
    /// An init container with `restartPolicy: Always`.
    pub sidecar: bool,
    /// `command`: replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// `args`: replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// `workingDir`.
    pub working_dir: Option<String>,
    /// `env`, in order.
    pub env: Vec<Environment>,
    /// `ports`.
    pub ports: Vec<Port>,
    /// `resources`.
    pub resources: Resources,
    /// `volumeMounts`.
    pub mounts: Vec<Mount>,
    /// `startupProbe`.
    pub startup: Option<Probe>,
    /// `livenessProbe`.
    pub liveness: Option<Probe>,
    /// `readinessProbe`.
    pub readiness: Option<Probe>,
    /// `lifecycle`.
    pub lifecycle: Lifecycle,
    /// `securityContext`, with the pod's filled in where the container says nothing.
    pub security: SecurityContext,
    /// `stdin`.
    pub stdin: bool,
    /// `stdinOnce`.
    pub stdin_once: bool,
    /// `tty`.
    pub tty: bool,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// When the host doesn't have it.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub source: EnvironmentSource,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvironmentSource {
    /// `value`: may name earlier variables as `$(NAME)`.
    Value(String),
    /// `valueFrom.fieldRef`.
    Field(FieldPath),
    /// `valueFrom.resourceFieldRef`, already divided by its divisor.
    Resource(String),
}

/// A field of the pod that a variable may name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldPath {
    /// `metadata.name`
    Name,
    /// `metadata.namespace`
    Namespace,
    /// `metadata.uid`
    Uid,
    /// `metadata.labels['KEY']`
    Label(String),
    /// `metadata.annotations['KEY']`
    Annotation(String),
    /// `spec.nodeName`
    NodeName,
    /// `spec.serviceAccountName`: always empty on a single host.
    ServiceAccount,
    /// `status.podIP` and `status.podIPs`
    PodIp,
    /// `status.hostIP` and `status.hostIPs`
    HostIp,
}

/// One port of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Name that probes and hooks may use.
    pub name: Option<String>,
    /// The port in the pod.
    pub container: u16,
    /// The port on the host, if it is published.
    pub host: Option<u16>,
    /// The host's address to publish on; all when absent.
    pub host_ip: Option<IpAddr>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// `resources`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// `requests.cpu` in thousandths of a CPU; the limit when absent.
    pub cpu_request_milli: Option<u64>,
    /// `limits.cpu` in thousandths of a CPU.
    pub cpu_limit_milli: Option<u64>,
    /// `requests.memory`; the limit when absent.
    pub memory_request_bytes: Option<u64>,
    /// `limits.memory`.
    pub memory_limit_bytes: Option<u64>,
}

/// One `volumeMounts` entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The volume's name; it exists in the pod.
    pub volume: String,
    /// Where it appears: an absolute path without `..`.
    pub path: String,
    /// `readOnly`.
    pub read_only: bool,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name; a DNS-1123 label, unique in the pod.
    pub name: String,
    /// What it is.
    pub source: VolumeSource,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// A directory that lives as long as the pod.
    EmptyDir {
        /// On disk or in memory.
        medium: Medium,
        /// `sizeLimit`.
        size_bytes_max: Option<u64>,
    },
    /// Something of the host's.
    HostPath {
        /// An absolute path without `..`.
        path: String,
        /// What must be there.
        kind: HostPathKind,
    },
}

/// What holds an emptyDir.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// The file system of the state directory.
    Disk,
    /// A tmpfs.
    Memory,
}

/// `hostPath.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathKind {
    /// Nothing is checked (the type is absent or empty).
    Unchecked,
    /// `Directory`
    Directory,
    /// `DirectoryOrCreate`: made with mode 0755 when missing.
    DirectoryOrCreate,
    /// `File`
    File,
    /// `FileOrCreate`: made empty with mode 0644 when missing; its directory must exist.
    FileOrCreate,
    /// `Socket`
    Socket,
    /// `CharDevice`
    CharDevice,
    /// `BlockDevice`
    BlockDevice,
}

/// A probe, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What is done.
    pub handler: ProbeHandler,
    /// `initialDelaySeconds`, counted from the container's start.
    pub initial_delay: Duration,
    /// `periodSeconds`, at least one second.
    pub period: Duration,
    /// `timeoutSeconds`, at least one second.
    pub timeout: Duration,
    /// `successThreshold`; 1 for startup and liveness.
    pub success_threshold: u32,
    /// `failureThreshold`.
    pub failure_threshold: u32,
    /// `terminationGracePeriodSeconds` of the probe, for the kill that it causes.
    pub grace: Option<Duration>,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeHandler {
    /// Runs a command in the container; code 0 is success.
    Exec(Vec<String>),
    /// An HTTP GET; codes 200 to 399 are success.
    Http(HttpGet),
    /// A TCP connection.
    Tcp {
        /// The pod's address when absent.
        host: Option<String>,
        /// The port.
        port: u16,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The port.
        port: u16,
        /// The service's name; may be empty.
        service: String,
    },
}

/// What a hook does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handler {
    /// Runs a command in the container.
    Exec(Vec<String>),
    /// An HTTP GET.
    Http(HttpGet),
    /// Waits.
    Sleep(Duration),
}

/// `httpGet`, with the named port already looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGet {
    /// The pod's address when absent.
    pub host: Option<String>,
    /// The port.
    pub port: u16,
    /// Begins with a slash.
    pub path: String,
    /// HTTP or HTTPS (without verification).
    pub scheme: Scheme,
    /// `httpHeaders`, in order; a name may stand twice.
    pub headers: Vec<(String, String)>,
}

/// The scheme of an HTTP probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS, the certificate unverified.
    Https,
}

/// `lifecycle`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// Runs right after the start; nothing else happens to the pod until it is done.
    pub post_start: Option<Handler>,
    /// Runs before the container is asked to end, within its grace.
    pub pre_stop: Option<Handler>,
}

/// `securityContext` of a container, the pod's merged in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityContext {
    /// `runAsUser`, `runAsGroup`, `runAsNonRoot`.
    pub runs_as: RunsAs,
    /// `privileged`.
    pub privileged: bool,
    /// `readOnlyRootFilesystem`.
    pub read_only_root: bool,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    /// `capabilities`.
    pub capabilities: Capabilities,
    /// `seccompProfile`.
    pub seccomp: SeccompProfile,
}

/// Who a container runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunsAs {
    /// `runAsUser`; the image's user when absent.
    pub user: Option<i64>,
    /// `runAsGroup`.
    pub group: Option<i64>,
    /// `runAsNonRoot`.
    pub non_root: bool,
}

/// `capabilities`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Names without `CAP_`.
    pub add: Vec<String>,
    /// Names without `CAP_`, or `ALL`.
    pub drop: Vec<String>,
}

/// `seccompProfile`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// The runtime's filter. Where Kubernetes runs a container without one by default, this is our default.
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
}
