//! What the network is asked and what it answers.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cni_plugins::{BridgeError, Problem};
pub use cni_spec::Dns;
use cni_spec::{CniError, ConfigError, NameError, PortMapping};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How the network of this node is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Where results and address files are kept: `<run>/network`, on tmpfs.
    pub state_dir: PathBuf,
    /// A directory of CNI configurations; `None`: the bundled bridge serves.
    pub conf_dir: Option<PathBuf>,
    /// Where plugin programs are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// The addresses of the pods (with the bundled bridge).
    pub pod_cidr: IpNet,
    /// The bridge's name (with the bundled bridge).
    pub bridge: String,
    /// The links' MTU in bytes; `None`: the kernel's 1500.
    pub mtu: Option<u32>,
}

/// A pod to attach.
#[derive(Debug)]
pub struct Attach {
    /// The sandbox's id.
    pub sandbox: String,
    /// The pod's network namespace. Dropped when the operation ends: a descriptor that is kept would keep the link.
    pub netns: OwnedFd,
    /// The same as a path, for plugins that are programs: `/proc/PID/ns/net`.
    pub netns_path: PathBuf,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// Host ports; those with host port 0 map nothing and are passed over.
    pub ports: Vec<PortMapping>,
    /// The pod's name servers, for plugins that ask for them.
    pub dns: Dns,
}

/// A pod that is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The pod's addresses, the first one first.
    pub ips: Vec<IpAddr>,
    /// The link's name inside the pod.
    pub interface: String,
    /// The link's hardware address; empty where a plugin doesn't say.
    pub mac: String,
    /// The gateway of the first address.
    pub gateway: Option<IpAddr>,
    /// What the plugins say of name servers; empty with the bundled ones.
    #[serde(default)]
    pub dns: Dns,
}

/// Whether pods can be attached, for CRI's `NetworkReady`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// They can.
    Ready,
    /// They can't.
    NotReady {
        /// One word in CamelCase.
        reason: String,
        /// For people.
        message: String,
    },
}

/// What a comparison with the live sandboxes changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReconcileReport {
    /// Sandboxes that were gone and have been detached now.
    pub detached: Vec<String>,
    /// Links of the dead that were deleted, by name.
    pub links: Vec<String>,
    /// What couldn't be put in order, one sentence each; tried again next time.
    pub failures: Vec<String>,
    /// What others set up that stops the pods' traffic, one sentence each.
    pub warnings: Vec<String>,
}

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request or the configuration is wrong.
    Invalid,
    /// A host port is taken.
    PortInUse,
    /// No address is left.
    NoAddress,
    /// Too many operations wait; try again.
    Busy,
    /// A plugin program took too long.
    Timeout,
    /// A plugin program failed.
    Plugin,
    /// The kernel refused.
    Kernel,
    /// A file of the state directory can't be read or written.
    Disk,
}

/// Why the network can't do it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The pod network is somebody else's already.
    #[error("the pod network {cidr} overlaps the route {route} of {interface}; choose another one with --pod-cidr")]
    Overlap {
        /// The pod network.
        cidr: IpNet,
        /// The host's route.
        route: IpNet,
        /// The link that the route leaves by.
        interface: String,
    },
    /// The bundled bridge can't serve this kind of address yet.
    #[error("the pod network {cidr} is IPv6; the bundled bridge serves IPv4")]
    Family {
        /// The pod network.
        cidr: IpNet,
    },
    /// Too many operations wait for a thread.
    #[error("{waiting} network operations wait already; try again")]
    Busy {
        /// How many wait.
        waiting: usize,
    },
    /// The network was shut down while the operation waited.
    #[error("the network is being shut down")]
    Closed,
    /// A name in the request can't be used.
    #[error("the network request is refused")]
    Name(#[source] NameError),
    /// A pod's words can't be handed to a plugin.
    #[error("sandbox {sandbox}: the pod's names can't be handed to a plugin")]
    Args {
        /// The sandbox.
        sandbox: String,
        /// Why.
        source: cni_spec::ArgsError,
    },
    /// A bundled plugin failed.
    #[error("cannot {step} sandbox {sandbox}")]
    Bundled {
        /// `attach` or `detach`.
        step: &'static str,
        /// The sandbox.
        sandbox: String,
        /// Why.
        source: BridgeError,
    },
    /// The bundled network can't be opened or taken away.
    #[error("cannot set up the bundled network")]
    Setup(#[source] BridgeError),
    /// A file can't be read or written.
    #[error("cannot {step} {path}")]
    File {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A configuration file can't be used.
    #[error("the network configuration {path} can't be used")]
    Configuration {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
    /// A configuration directory has no configuration.
    #[error("no network configuration (*.conflist, *.conf, *.json) in {path}")]
    NoConfiguration {
        /// The directory.
        path: PathBuf,
    },
    /// A plugin program isn't there.
    #[error("the network plugin {plugin} is in none of {dirs:?}")]
    NoProgram {
        /// The plugin's type.
        plugin: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// A plugin program can't be run.
    #[error("cannot run the network plugin {plugin}")]
    Run {
        /// The plugin's type.
        plugin: String,
        /// Why.
        source: std::io::Error,
    },
    /// A plugin program did not answer in time and was killed.
    #[error("the network plugin {plugin} did not answer {command} within {seconds} s and was killed")]
    Slow {
        /// The plugin's type.
        plugin: String,
        /// The command.
        command: &'static str,
        /// The deadline.
        seconds: u64,
    },
    /// A plugin program said no.
    #[error("the network plugin {plugin} refused {command}")]
    Refused {
        /// The plugin's type.
        plugin: String,
        /// The command.
        command: &'static str,
        /// What it said.
        source: CniError,
    },
    /// A plugin program's answer makes no sense.
    #[error("the network plugin {plugin} answered {command} with {problem}")]
    Answer {
        /// The plugin's type.
        plugin: String,
        /// The command.
        command: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl NetworkError {
    /// What callers branch on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Overlap { .. }
            | Self::Family { .. }
            | Self::Name(_)
            | Self::Args { .. }
            | Self::Configuration { .. }
            | Self::NoConfiguration { .. } => ErrorKind::Invalid,
            Self::Busy { .. } | Self::Closed => ErrorKind::Busy,
            Self::Bundled { source, .. } | Self::Setup(source) => match source.problem() {
                Problem::Invalid => ErrorKind::Invalid,
                Problem::PortInUse => ErrorKind::PortInUse,
                Problem::NoAddress => ErrorKind::NoAddress,
                Problem::Kernel => ErrorKind::Kernel,
                Problem::Disk => ErrorKind::Disk,
            },
            Self::File { .. } => ErrorKind::Disk,
            Self::NoProgram { .. } | Self::Run { .. } | Self::Refused { .. } | Self::Answer { .. } => ErrorKind::Plugin,
            Self::Slow { .. } => ErrorKind::Timeout,
        }
    }
}
