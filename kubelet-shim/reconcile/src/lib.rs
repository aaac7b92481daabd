//! What to do with a pod next.
//!
//! *In*: a validated pod, what was seen of it, and the moment. *Out*: [`Action`]s to carry out, the next moment to look
//! ([`due`]), and the pod's status in Kubernetes' words ([`status`]). *Not here*: clocks, randomness (the seed is given),
//! CRI, the network, and any waiting.
//!
//! All that is known lies in [`Memory`], which is written down before its actions are carried out: the next keeper goes
//! on from it, so a restart of the keeper restarts no container and changes no readiness. Semantics are those of
//! Kubernetes 1.36; each deliberate difference says so where it stands.

mod action;
mod backoff;
mod decide;
mod due;
mod effort;
mod ending;
mod memory;
mod moment;
mod observe;
mod status;
mod sweep;
mod tell;
mod worker;

#[cfg(test)]
mod tests;

pub use action::{
    Action, ContainerSeen, Done, Event, Fault, Hook, Observation, Outcome, ProbeResult, SandboxSeen, Seen, Token,
};
pub use decide::step;
pub use due::due;
pub use memory::{Memory, Tuning};
pub use moment::Moment;
pub use status::{
    Condition, ConditionKind, ContainerKind, ContainerState, ContainerStatus, End, Phase, PodStatus, ProbeKind,
};
pub use tell::status;
