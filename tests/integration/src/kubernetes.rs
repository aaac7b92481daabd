//! Podwright under a real kubelet and control plane: a node made of namespaces, the daemons in it, and cases that call
//! kubectl as people do.

pub mod cases;
pub mod cluster;
pub mod images;
pub mod outside;
pub mod shell;
pub mod suite;

/// The node's name.
pub const NODE_NAME: &str = "node1";
/// The node's address, in its own network namespace.
pub const NODE_IP: &str = "10.87.0.1";
/// Addresses of pods.
pub const POD_CIDR: &str = "10.88.0.0/16";
/// Addresses of services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The service `kubernetes`.
pub const API_IP: &str = "10.96.0.1";
/// The service `kube-dns`.
pub const DNS_IP: &str = "10.96.0.10";
