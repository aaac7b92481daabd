//! The volumes of a pod on the host.
//!
//! *In*: a validated pod and a directory of the keeper's own. *Out*: the host path of each volume, made where it has to be
//! made, and its removal. *Not here*: mounting into containers (the runtime's), and volumes that need a cluster.
//!
//! What is to be done is a pure [`plan`]; [`apply`] carries it out. Removal never crosses a mount point: what somebody
//! mounted into a volume is not the pod's to delete.

mod apply;
mod file;
mod plan;

pub use apply::{VolumeError, apply, remove};
pub use file::{FileError, read_trusted};
pub use plan::{Step, plan};

/// The time since boot, suspended time counted: what the keeper's decisions are measured by. Here, since this is the one
/// crate of the keeper that asks the kernel.
pub use runtime_sys::clock::boottime;
