//! What the runtime says of a pod.

use std::collections::{BTreeMap, BTreeSet};

use kubelet_shim_manifest::Pod;
use kubelet_shim_reconcile::{ContainerSeen, Done, Observation, SandboxSeen, Seen};
use runtime_cri_api::v1::{ContainerState, PodSandboxState};
use tonic::Status;

use crate::{clock::Wall, cri::Cri, words};

/// Looks at one pod; remembers what doesn't change.
#[derive(Debug)]
pub(crate) struct Observer {
    cri: Cri,
    wall: Wall,
    /// What running and ended containers said.
    states: BTreeMap<String, Seen>,
    /// The address of each sandbox.
    ips: BTreeMap<String, String>,
    last: (Vec<SandboxSeen>, Vec<ContainerSeen>),
}

impl Observer {
    pub(crate) fn new(cri: Cri, wall: Wall) -> Self {
        Self { cri, wall, states: BTreeMap::new(), ips: BTreeMap::new(), last: (Vec::new(), Vec::new()) }
    }

    /// The former observation with new answers.
    pub(crate) fn again(&self, done: Vec<Done>) -> Observation {
        Observation { sandboxes: self.last.0.clone(), containers: self.last.1.clone(), done }
    }

    pub(crate) async fn look(&mut self, pod: &Pod) -> Result<(), Status> {
        let labels = words::selector(pod);
        let (sandboxes, containers) =
            tokio::try_join!(self.cri.sandboxes(labels.clone()), self.cri.containers(labels))?;
        let mut seen_sandboxes = Vec::new();
        for sandbox in sandboxes {
            let ready = sandbox.state() == PodSandboxState::SandboxReady;
            if ready && !pod.host_network && !self.ips.contains_key(&sandbox.id) {
                let status = self.cri.sandbox_status(&sandbox.id).await?;
                let ip = status.and_then(|status| status.network).map(|network| network.ip).unwrap_or_default();
                if !ip.is_empty() {
                    self.ips.insert(sandbox.id.clone(), ip);
                }
            }
            let own = if pod.host_network { Some("127.0.0.1".to_owned()) } else { self.ips.get(&sandbox.id).cloned() };
            seen_sandboxes.push(SandboxSeen {
                attempt: sandbox.metadata.map_or(0, |metadata| metadata.attempt),
                ready,
                ip: own.filter(|_| ready),
                id: sandbox.id,
            });
        }
        let mut seen_containers = Vec::new();
        for container in containers {
            let Some(metadata) = container.metadata.clone() else { continue };
            let Some(state) = self.state(&container.id, container.state()).await? else { continue };
            seen_containers.push(ContainerSeen {
                id: container.id,
                name: metadata.name,
                attempt: metadata.attempt,
                state,
            });
        }
        let ids: BTreeSet<&str> = seen_containers.iter().map(|found| found.id.as_str()).collect();
        self.states.retain(|id, _| ids.contains(id.as_str()));
        self.last = (seen_sandboxes, seen_containers);
        Ok(())
    }

    /// `None`: it went away in between.
    async fn state(&mut self, id: &str, state: ContainerState) -> Result<Option<Seen>, Status> {
        match (state, self.states.get(id)) {
            (ContainerState::ContainerCreated, _) => return Ok(Some(Seen::Created)),
            (ContainerState::ContainerRunning, Some(known @ Seen::Running(_)))
            | (ContainerState::ContainerExited, Some(known @ Seen::Exited { .. })) => return Ok(Some(known.clone())),
            _ => {}
        }
        let Some(status) = self.cri.container_status(id).await? else { return Ok(None) };
        let seen = match status.state() {
            ContainerState::ContainerCreated => return Ok(Some(Seen::Created)),
            ContainerState::ContainerRunning => Seen::Running(self.wall.moment(status.started_at)),
            ContainerState::ContainerExited => Seen::Exited {
                code: status.exit_code,
                reason: status.reason,
                message: status.message,
                at: self.wall.moment(status.finished_at),
            },
            // The runtime doesn't know; the kubelet, too, takes it for ended and removes it.
            ContainerState::ContainerUnknown => Seen::Exited {
                code: 137,
                reason: "ContainerStatusUnknown".to_owned(),
                message: "the runtime doesn't know the container's state".to_owned(),
                at: crate::clock::now(),
            },
        };
        self.states.insert(id.to_owned(), seen.clone());
        Ok(Some(seen))
    }
}
