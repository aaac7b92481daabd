//! Limits that are changed while a container or a pod is there.

use std::sync::Arc;

use runtime_lifecycle::{ContainerId, ContainerState, Resources, SandboxId};
use runtime_wire::Request;

use crate::{Engine, EngineError, spec, to_the_end, world::Container};

/// What a pod's limits become; `None`: stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxChange {
    /// What the pod takes beside its containers.
    pub overhead: Option<Resources>,
    /// Its containers together.
    pub resources: Option<Resources>,
}

impl Engine {
    /// Changes the limits of a container that is created or runs; what `change` leaves at 0 or empty stays. All or nothing:
    /// where a part is refused (a limit below the memory in use is), everything is as before.
    pub async fn update_container(self: &Arc<Self>, id: &ContainerId, change: Resources) -> Result<(), EngineError> {
        let container = self.world.container(id)?;
        let engine = Arc::clone(self);
        to_the_end(async move { engine.update(&container, &change).await }).await
    }

    async fn update(&self, container: &Container, change: &Resources) -> Result<(), EngineError> {
        let _order = container.order.lock().await;
        let record = container.record();
        match &record.state {
            ContainerState::Created | ContainerState::Running { .. } | ContainerState::Stopping { .. } => {}
            state @ (ContainerState::Creating | ContainerState::Starting | ContainerState::Exited { .. }) => {
                return Err(EngineError::ContainerNotRunning { id: container.id.clone(), state: state.name() });
            }
        }
        let now = record.resources();
        let after = now.with(change);
        if after == *now {
            return Ok(());
        }
        let request = Request::UpdateResources {
            container: container.id.to_string(),
            resources: Box::new(spec::limits(&now.to_write(change))?),
            oom_score_adj: score(change)?,
        };
        let link = self.world.sandbox(&container.sandbox)?.link()?;
        link.tell("change the container's limits", request, self.config.limits.supervisor_answer).await?;
        container.change(|record| record.resources = Some(after))
    }

    /// Notes a pod's limits. A kubelet asks before it changes the pod's cgroup, which is the kubelet's; where the cgroup is
    /// ours, it is changed here, and a limit below the memory in use is refused.
    pub async fn update_sandbox(self: &Arc<Self>, id: &SandboxId, change: SandboxChange) -> Result<(), EngineError> {
        let sandbox = self.world.sandbox(id)?;
        let engine = Arc::clone(self);
        to_the_end(async move {
            let _order = sandbox.order.lock().await;
            let record = sandbox.record();
            if !record.state.is_ready() {
                return Err(EngineError::SandboxNotReady { id: sandbox.id.clone(), state: record.state.name() });
            }
            let overhead = change.overhead.unwrap_or_else(|| record.config.overhead.clone());
            let resources = change.resources.unwrap_or_else(|| record.config.resources.clone());
            // Checked, also where somebody else writes them.
            spec::limits(&overhead)?;
            spec::limits(&resources)?;
            engine.limit_sandbox(&sandbox, &resources.plus(&overhead)).await?;
            sandbox.change(|record| (record.config.overhead, record.config.resources) = (overhead, resources))
        })
        .await
    }

    /// Writes a pod's limits where its cgroup is ours.
    pub(crate) async fn limit_sandbox(
        &self,
        sandbox: &crate::world::Sandbox,
        limits: &Resources,
    ) -> Result<(), EngineError> {
        if sandbox.record().config.cgroup_parent.is_some() || *limits == Resources::default() {
            return Ok(());
        }
        let cgroup = format!("{}/{}", self.config.pods_cgroup(), sandbox.id);
        let request = Request::UpdateSandbox { cgroup, resources: Box::new(spec::limits(limits)?) };
        sandbox.link()?.tell("change the pod's limits", request, self.config.limits.supervisor_answer).await
    }
}

/// 0 is "not given".
fn score(change: &Resources) -> Result<Option<i32>, EngineError> {
    let score = i32::try_from(change.oom_score_adj).ok().filter(|score| (-1000..=1000).contains(score));
    match score {
        None => Err(EngineError::invalid("oom_score_adj", format!("{} is not -1000 to 1000", change.oom_score_adj))),
        Some(0) => Ok(None),
        Some(score) => Ok(Some(score)),
    }
}
