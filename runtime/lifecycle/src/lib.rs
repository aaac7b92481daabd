//! What sandboxes and containers are, the steps between their states, and what to do after a restart.
//!
//! *In*: events (somebody asked, a process died), records read back from disk, what supervisors said. *Out*: new states,
//! refusals, and the list of things that recovery has to do. *Not here*: files, sockets, processes, clocks, randomness;
//! `runtime/engine` carries out what is decided here.

mod config;
mod environment;
mod filter;
mod id;
mod names;
mod record;
mod recovery;
mod resources;
mod state;

pub use config::{
    AppArmorChoice, CapabilityChange, ContainerConfig, Device, Dns, HugepageLimit, IdMappings, IdRange, ImageMount,
    ImageName, IpcMode, Metadata, Mount, NamespaceModes, NetworkMode, PidMode, Port, Privilege, Propagation, Protocol,
    ReadOnly, Resources, SandboxConfig, SeccompChoice, Security, SelinuxLabel, Stdin, SupplementalGroupsPolicy,
    Terminal, User, UserMode,
};
pub use environment::{EnvironmentValue, EnvironmentVariable};
pub use filter::{ContainerFilter, SandboxFilter, Selector, StateFilter};
pub use id::{BadId, ContainerId, ID_DIGITS, SandboxId};
pub use names::{Claim, ContainerName, Names, SandboxName};
pub use record::{ContainerRecord, NetworkRecord, RECORD_VERSION, SandboxRecord};
pub use recovery::{Action, Boot, ContainerView, Decision, Heard, PauseView, Recovery, View, recover};
pub use state::{
    BootTime, ContainerEvent, ContainerState, Exit, ExitReason, ProcessIdentity, Refused, SandboxEvent, SandboxState,
    Timestamp,
};
