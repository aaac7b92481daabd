//! Which sandboxes and containers a list shows.

use std::collections::BTreeMap;

use crate::{ContainerId, ContainerRecord, ContainerState, SandboxId, SandboxRecord, SandboxState};

/// Labels that must all be there with these values.
pub type Selector = BTreeMap<String, String>;

/// Which sandboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxFilter {
    /// This one.
    pub id: Option<SandboxId>,
    /// Ready or not.
    pub state: Option<StateFilter>,
    /// With these labels.
    pub labels: Selector,
}

/// Which containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// This one.
    pub id: Option<ContainerId>,
    /// Of this sandbox.
    pub sandbox: Option<SandboxId>,
    /// In this state.
    pub state: Option<StateFilter>,
    /// With these labels.
    pub labels: Selector,
}

/// A state in CRI's coarser words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFilter {
    /// Sandboxes that are ready.
    Ready,
    /// Sandboxes that aren't.
    NotReady,
    /// Containers that were never started.
    Created,
    /// Containers that run.
    Running,
    /// Containers that ended.
    Exited,
    /// What no container of ours is in.
    Unknown,
}

impl StateFilter {
    /// The state that a client is told of a sandbox.
    pub fn of_sandbox(state: &SandboxState) -> Self {
        if state.is_ready() { Self::Ready } else { Self::NotReady }
    }

    /// The state that a client is told of a container. One that is being started hasn't run yet; one that is being
    /// stopped still runs.
    pub fn of_container(state: &ContainerState) -> Self {
        match state {
            ContainerState::Creating | ContainerState::Created | ContainerState::Starting => Self::Created,
            ContainerState::Running { .. } | ContainerState::Stopping { .. } => Self::Running,
            ContainerState::Exited { .. } => Self::Exited,
        }
    }
}

fn selected(labels: &BTreeMap<String, String>, selector: &Selector) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

impl SandboxFilter {
    /// Whether `record` is shown. What is still being made is shown to nobody: its id isn't known to anybody yet.
    pub fn shows(&self, record: &SandboxRecord) -> bool {
        record.state != SandboxState::Making
            && self.id.as_ref().is_none_or(|id| *id == record.id)
            && self.state.is_none_or(|state| state == StateFilter::of_sandbox(&record.state))
            && selected(&record.config.labels, &self.labels)
    }
}

impl ContainerFilter {
    /// Whether `record` is shown.
    pub fn shows(&self, record: &ContainerRecord) -> bool {
        record.state != ContainerState::Creating
            && self.id.as_ref().is_none_or(|id| *id == record.id)
            && self.sandbox.as_ref().is_none_or(|id| *id == record.sandbox)
            && self.state.is_none_or(|state| state == StateFilter::of_container(&record.state))
            && selected(&record.config.labels, &self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::{ContainerFilter, SandboxFilter, StateFilter};
    use crate::{ContainerState, ProcessIdentity, SandboxState, Timestamp, record::samples};

    const PROCESS: ProcessIdentity = ProcessIdentity { pid: 1, start_ticks: 1 };

    #[test]
    fn sandboxes() {
        let all = SandboxFilter::default();
        let ready = samples::sandbox(1, SandboxState::Ready { pause: PROCESS });
        assert!(all.shows(&ready));
        assert!(!all.shows(&samples::sandbox(1, SandboxState::Making)));
        assert!(all.shows(&samples::sandbox(1, SandboxState::Stopped)));
        for (filter, shown) in [
            (SandboxFilter { id: Some(samples::sandbox_id(1)), ..all.clone() }, true),
            (SandboxFilter { id: Some(samples::sandbox_id(2)), ..all.clone() }, false),
            (SandboxFilter { state: Some(StateFilter::Ready), ..all.clone() }, true),
            (SandboxFilter { state: Some(StateFilter::NotReady), ..all.clone() }, false),
            (SandboxFilter { labels: [("app".to_owned(), "web".to_owned())].into(), ..all.clone() }, true),
            (SandboxFilter { labels: [("app".to_owned(), "db".to_owned())].into(), ..all.clone() }, false),
            (SandboxFilter { labels: [("tier".to_owned(), "web".to_owned())].into(), ..all.clone() }, false),
        ] {
            assert_eq!(filter.shows(&ready), shown, "{filter:?}");
        }
    }

    #[test]
    fn containers() {
        let all = ContainerFilter::default();
        let running = samples::container(3, 1, ContainerState::Running { process: PROCESS, since: Timestamp(1) });
        assert!(!all.shows(&samples::container(3, 1, ContainerState::Creating)));
        for (filter, shown) in [
            (all.clone(), true),
            (ContainerFilter { id: Some(samples::container_id(3)), ..all.clone() }, true),
            (ContainerFilter { id: Some(samples::container_id(4)), ..all.clone() }, false),
            (ContainerFilter { sandbox: Some(samples::sandbox_id(1)), ..all.clone() }, true),
            (ContainerFilter { sandbox: Some(samples::sandbox_id(2)), ..all.clone() }, false),
            (ContainerFilter { state: Some(StateFilter::Running), ..all.clone() }, true),
            (ContainerFilter { state: Some(StateFilter::Exited), ..all.clone() }, false),
            (ContainerFilter { state: Some(StateFilter::Unknown), ..all.clone() }, false),
        ] {
            assert_eq!(filter.shows(&running), shown, "{filter:?}");
        }
    }
}
