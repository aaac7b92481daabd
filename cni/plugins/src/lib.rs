//! The bundled CNI plugins: bridge with host-local addresses, portmap and loopback.
//!
//! *In*: a plugin's configuration ([`BridgeConfig`]), a pod's namespace and ports ([`Pod`]). *Out*: what was made
//! ([`Attachment`]), or an error that names the thing, with everything undone. Each plugin is a plan without side effects
//! (which address: [`host_local::Pool`]; which ports: [`portmap`]; which rules and messages) and its application by
//! netlink and nftables. *Not here*: programs, caches of results, threads: a [`Worker`] belongs to the thread that made
//! it, and works for the network namespace that thread lives in. Nor a runtime: the one look that is async
//! ([`HostRoutes`]) has its connection driven by the caller.

mod bridge;
mod config;
mod conntrack;
mod error;
pub mod host_local;
mod link;
mod netlink;
mod nft;
pub mod portmap;
mod routes;
mod sysctl;

pub use bridge::{Attachment, BridgeNetwork, Pod, Ports, Repairs, Worker, loopback};
pub use config::{BridgeConfig, BridgeConfigError};
pub use error::{BridgeError, Problem};
pub use netlink::NetlinkError;
pub use routes::{HostRoutes, host_routes};
pub use sysctl::SysctlError;
