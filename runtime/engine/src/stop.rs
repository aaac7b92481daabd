//! Stopping a container: asked to end, given its grace, then killed whole. The moment of the kill is in the record before the
//! signal is sent, so that a daemon that dies in between sees the stop through when it is back.

use std::{sync::Arc, time::Duration};

use runtime_lifecycle::{BootTime, ContainerEvent, ContainerId, ContainerState};
use runtime_wire::{FailureKind, Request};
use tokio::time::timeout;

use crate::{Engine, EngineError, boot_time, spec, to_the_end, world::Container};

/// How long a container may take to end after it was killed; what is longer hangs in the kernel, and is told.
const KILL_ANSWER: Duration = Duration::from_secs(10);

/// Longest grace: a year. A client's "for ever" must not overflow a clock.
const GRACE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

impl Engine {
    /// Asks a container to end, waits for `grace`, kills what is left. Returns when it has ended. One that doesn't run is as
    /// good. A second stop with less grace shortens the first one's.
    pub async fn stop_container(self: &Arc<Self>, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let container = self.world.container(id)?;
        let engine = Arc::clone(self);
        to_the_end(async move { engine.stop(&container, grace).await }).await
    }

    pub(crate) async fn stop(self: &Arc<Self>, container: &Arc<Container>, grace: Duration) -> Result<(), EngineError> {
        // Not over the whole grace: a second stop must get through. Held for the step, so that a start under way is over.
        let before = {
            let _order = container.order.lock().await;
            let before = container.record();
            if before.state.process().is_none() {
                return Ok(());
            }
            let kill_at = BootTime(boot_time().0.saturating_add(grace.min(GRACE_MAX)));
            container.step(ContainerEvent::StopAsked { kill_at })?;
            before
        };
        if matches!(before.state, ContainerState::Running { .. }) && !grace.is_zero() {
            self.signal(container, before.stop_signal).await?;
        }
        self.see_through(container).await
    }

    /// Waits until a container that is being stopped has ended, and kills it when its time is up.
    pub(crate) async fn see_through(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        loop {
            let ContainerState::Stopping { kill_at, .. } = container.record().state else { return Ok(()) };
            let left = kill_at.0.saturating_sub(boot_time().0);
            if left.is_zero() {
                break;
            }
            // Another stop may have shortened it meanwhile: looked at again every second.
            if timeout(left.min(Duration::from_secs(1)), container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        self.signal(container, spec::SIGKILL).await?;
        if timeout(KILL_ANSWER, container.ended()).await.is_ok() {
            return Ok(());
        }
        Err(EngineError::Deadline {
            what: format!(
                "the end of container {} after SIGKILL (a task of it hangs in the kernel)",
                container.id.short()
            ),
            after: KILL_ANSWER,
        })
    }

    /// SIGKILL is for every process of the container, anything else for its first.
    async fn signal(&self, container: &Container, signal: i32) -> Result<(), EngineError> {
        let every_process = signal == spec::SIGKILL;
        let sandbox = self.world.sandbox(&container.sandbox)?;
        let request = Request::Signal { container: container.id.to_string(), signal, every_process };
        let told = match sandbox.link() {
            Ok(link) => link.tell("signal the container", request, self.config.limits.supervisor_answer).await,
            Err(error) => Err(error),
        };
        match told {
            // It has ended, or will be ended with its supervisor: either way `ended` comes.
            Ok(())
            | Err(
                EngineError::Supervisor { kind: FailureKind::NotFound | FailureKind::Refused, .. }
                | EngineError::SupervisorGone { .. },
            ) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
