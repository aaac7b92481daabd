//! Why a bundled plugin can't do it.

use runtime_sys::SysError;
use runtime_sys::netns::VisitError;

use crate::config::BridgeConfigError;
use crate::host_local::AddressError;
use crate::netlink::NetlinkError;
use crate::portmap::PortError;
use crate::sysctl::SysctlError;

/// Why a bundled plugin can't do it.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The configuration can't be used.
    #[error("the bridge's configuration can't be used")]
    Config(#[source] BridgeConfigError),
    /// There is a link of the bridge's name that is none.
    #[error("the link {name} is no bridge but {kind}; choose another name with --bridge")]
    NoBridge {
        /// Its name.
        name: String,
        /// What it is.
        kind: String,
    },
    /// The kernel refused a link, address or route.
    #[error("cannot {step}")]
    Netlink {
        /// What was tried.
        step: &'static str,
        /// Why.
        source: NetlinkError,
    },
    /// The pod's namespace can't be visited.
    #[error("cannot set up the pod's network namespace")]
    Visit(#[source] VisitError),
    /// The thread's own namespace can't be found.
    #[error("cannot find the network namespace of this process")]
    Home(#[source] SysError),
    /// A setting can't be made.
    #[error("cannot prepare the network")]
    Sysctl(#[source] SysctlError),
    /// There is no address.
    #[error("cannot get an address")]
    Address(#[source] AddressError),
    /// A host port can't be had.
    #[error("cannot map host ports")]
    Port(#[source] PortError),
    /// A file of the state can't be written.
    #[error("cannot write {path}")]
    State {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The request or the configuration is wrong.
    Invalid,
    /// A host port is taken.
    PortInUse,
    /// No address is left.
    NoAddress,
    /// The kernel refused.
    Kernel,
    /// A file of the state directory can't be read or written.
    Disk,
}

impl BridgeError {
    /// What callers branch on.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::Config(_) | Self::NoBridge { .. } => Problem::Invalid,
            Self::Port(PortError::Pod { .. } | PortError::Process { .. }) => Problem::PortInUse,
            Self::Port(PortError::Twice { .. } | PortError::Many { .. } | PortError::Mapping { .. }) => {
                Problem::Invalid
            }
            Self::Address(AddressError::Exhausted { .. }) => Problem::NoAddress,
            Self::Address(AddressError::File { .. }) | Self::State { .. } => Problem::Disk,
            Self::Netlink { .. } | Self::Visit(_) | Self::Home(_) | Self::Sysctl(_) => Problem::Kernel,
        }
    }

    /// Whether the calling thread is stuck in a pod's namespace and must end.
    #[must_use]
    pub fn is_stranded(&self) -> bool {
        matches!(self, Self::Visit(VisitError::Stranded(_)))
    }

    pub(crate) fn netlink(step: &'static str) -> impl FnOnce(NetlinkError) -> Self {
        move |source| Self::Netlink { step, source }
    }
}
