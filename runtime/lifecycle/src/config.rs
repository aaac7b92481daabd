//! What was asked for, in our words. `runtime/cri` parses requests into these; records keep them, so that status answers
//! and execs need nothing else after a restart.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::EnvironmentVariable;

mod security;
pub use security::{
    AppArmorChoice, CapabilityChange, SeccompChoice, Security, SelinuxLabel, SupplementalGroupsPolicy, User,
};

/// Who a sandbox is to its creator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Metadata {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's unique id.
    pub uid: String,
    /// Counts the sandboxes of one pod.
    pub attempt: u32,
}

/// A pod's sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Who it is.
    pub metadata: Metadata,
    /// Its host name; empty on the host's network.
    #[serde(default)]
    pub hostname: String,
    /// Where its containers' logs go. Absolute.
    #[serde(default)]
    pub log_directory: Option<PathBuf>,
    /// Its resolv.conf; the host's if absent.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// Host ports.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// For selection.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Kept, never policy.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The cgroup below which its own and its containers' are made.
    #[serde(default)]
    pub cgroup_parent: Option<String>,
    /// Who shares which namespace.
    pub namespaces: NamespaceModes,
    /// Kernel parameters in dotted form.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Whether privileged containers may be in it.
    #[serde(default)]
    pub privilege: Privilege,
    /// What the pod takes beside its containers (CRI `LinuxPodSandboxConfig.overhead`).
    #[serde(default)]
    pub overhead: Resources,
    /// The sum of its containers' limits (CRI `LinuxPodSandboxConfig.resources`).
    #[serde(default)]
    pub resources: Resources,
    /// The handler that was asked for.
    #[serde(default)]
    pub runtime_handler: String,
}

/// Names and searches for resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// A port of the host that leads to one of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The host's port; 0: none asked for.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; all if absent.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "names of protocols")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Who shares which namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceModes {
    /// Network.
    pub network: NetworkMode,
    /// Processes.
    pub pid: PidMode,
    /// Inter-process communication.
    pub ipc: IpcMode,
    /// Users and groups.
    #[serde(default)]
    pub user: UserMode,
}

/// Whose users and groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserMode {
    /// The host's.
    #[default]
    Node,
    /// The pod's own user namespace.
    Pod(IdMappings),
}

/// Which ids of a user namespace are which of the host. One range each, as CRI runtimes take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMappings {
    /// Users.
    pub uids: IdRange,
    /// Groups.
    pub gids: IdRange,
}

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first inside.
    pub container: u32,
    /// The first on the host.
    pub host: u32,
    /// How many.
    pub length: u32,
}

/// Whose network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The pod's own.
    Pod,
    /// The host's.
    Node,
}

/// Whose processes are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidMode {
    /// All containers of the pod see each other.
    Pod,
    /// Each container sees its own.
    Container,
    /// The host's.
    Node,
}

/// Whose System V objects and message queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpcMode {
    /// The pod's own.
    Pod,
    /// The host's.
    Node,
}

/// Whether the walls are up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privilege {
    /// Confined.
    #[default]
    Confined,
    /// All capabilities and devices, nothing masked, no filter.
    Privileged,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Its name in the pod.
    pub name: String,
    /// Counts the containers of that name in the sandbox.
    pub attempt: u32,
    /// Its image, as asked for.
    pub image: ImageName,
    /// Replaces the image's entrypoint (and its arguments).
    #[serde(default)]
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Replaces the image's working directory; empty: the image's.
    #[serde(default)]
    pub working_dir: String,
    /// Added to the image's environment.
    #[serde(default)]
    pub envs: Vec<EnvironmentVariable>,
    /// Volumes.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Device nodes of the host.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Devices by their qualified CDI names.
    #[serde(default)]
    pub cdi_devices: Vec<String>,
    /// For selection.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Kept, never policy.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Below the sandbox's log directory; empty: none.
    #[serde(default)]
    pub log_path: PathBuf,
    /// What it reads.
    #[serde(default)]
    pub stdin: Stdin,
    /// Whether it has a terminal.
    #[serde(default)]
    pub terminal: Terminal,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// Walls.
    #[serde(default)]
    pub security: Security,
    /// Overrides the image's stop signal: a Linux signal number.
    #[serde(default)]
    pub stop_signal: Option<i32>,
}

/// An image as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageName {
    /// A reference or an id.
    pub image: String,
    /// What the user wrote, if the creator resolved it.
    #[serde(default)]
    pub user_specified: String,
    /// Kept.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it appears. Absolute.
    pub container_path: String,
    /// Where it comes from. Absolute; empty for an image.
    pub host_path: String,
    /// Whether it may be written.
    pub read_only: ReadOnly,
    /// Whose later mounts are seen.
    pub propagation: Propagation,
    /// Mount options by name (CRI `Mount.mount_options`).
    #[serde(default)]
    pub options: Vec<String>,
    /// How the owners of its files appear in the container.
    #[serde(default)]
    pub id_mappings: Option<IdMappings>,
    /// An image instead of a path of the host.
    #[serde(default)]
    pub image: Option<ImageMount>,
}

/// An image as a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// A reference or an id.
    pub image: String,
    /// What of it, relative to its root; empty: all.
    #[serde(default)]
    pub sub_path: String,
}

/// Whether a mount may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOnly {
    /// It may.
    No,
    /// Not; mounts below it may.
    Yes,
    /// Neither may mounts below it.
    Recursive,
}

/// Whose later mounts are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Nobody's.
    Private,
    /// The host's appear in the container.
    HostToContainer,
    /// Each other's.
    Bidirectional,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where it appears.
    pub container_path: String,
    /// The host's node, or a directory of nodes.
    pub host_path: String,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// What a container reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// Nothing.
    #[default]
    Closed,
    /// Attached clients.
    Open,
    /// The first attached client.
    Once,
}

/// Whether a process has a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Terminal {
    /// Pipes.
    #[default]
    No,
    /// A pseudo-terminal.
    Yes,
}

/// Limits, in CRI's units; 0 means not given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Microseconds.
    #[serde(default)]
    pub cpu_period: i64,
    /// Microseconds per period; -1: none.
    #[serde(default)]
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    #[serde(default)]
    pub cpu_shares: i64,
    /// Bytes; -1: none.
    #[serde(default)]
    pub memory_limit_bytes: i64,
    /// Memory and swap together, bytes; -1: none.
    #[serde(default)]
    pub memory_swap_limit_bytes: i64,
    /// -1000 to 1000.
    #[serde(default)]
    pub oom_score_adj: i64,
    /// List format.
    #[serde(default)]
    pub cpuset_cpus: String,
    /// List format.
    #[serde(default)]
    pub cpuset_mems: String,
    /// Per page size.
    #[serde(default)]
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 files and values.
    #[serde(default)]
    pub unified: BTreeMap<String, String>,
}

/// A limit of huge pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// As in `hugetlb.2MB.limit_in_bytes`.
    pub page_size: String,
    /// Bytes.
    pub limit_bytes: u64,
}
