//! Runs a network's list of plugins for a pod: the bundled ones in-process, others as programs.
//!
//! *In*: a pod's network namespace and host ports ([`Attach`]), a configuration ([`NetworkConfig`]). *Out*: addresses
//! ([`Attached`]), kept in a cache from which DEL always runs, also with the namespace gone. *Not here*: netlink and
//! nftables (cni/plugins), the words of the specification (cni/spec), and when a pod begins or ends (the engine).
//!
//! Kernel work runs on a few dedicated threads that are bounded and whose queue is bounded; nothing blocks a tokio worker.

mod cache;
mod network;
mod plan;
mod program;
mod request;
mod turns;
mod workers;

pub use network::Network;

pub use cni_spec::{PortMapping, Protocol};
pub use request::{Attach, Attached, Dns, ErrorKind, NetworkConfig, NetworkError, Readiness, ReconcileReport};
