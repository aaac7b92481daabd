//! The harness of the tests that need a real kernel: a network namespace of their own, nodes on private directories, a
//! registry on loopback, images made on the spot, and the leak ledger.
//!
//! *In*: the built programs beside the test's own (`podwright`, `podwright-pod`) and Debian's tools. *Out*: a running
//! [`Node`] with clients, and a list of what is left after it. *Not here*: any mock; a check that this machine can't make
//! is skipped by name, with the reason.

pub mod client;
pub mod conformance;
pub mod gateway;
pub mod image;
pub mod kubernetes;
pub mod ledger;
pub mod machine;
pub mod node;
pub mod registry;

pub use client::Client;
pub use ledger::Ledger;
pub use node::{Node, Options};

/// What a test says when it did not hold.
pub type Outcome = anyhow::Result<()>;
