//! `podwright kubelet`: the keeper alone, on any CRI runtime.

use kubelet_shim_agent::{Agent, AgentConfig, PodEvent, Shutdown, Tuning};
use tokio::sync::broadcast::error::RecvError;

use crate::address::Address;
use crate::cli::Kubelet;
use crate::config::LogLevel;
use crate::error::{Error, chain};
use crate::serve;
use crate::verbs::node::{Ends, write_log};
use crate::verbs::{Answer, default};

pub(super) async fn run(address: Option<Address>, arguments: Kubelet) -> Answer {
    write_log(LogLevel::Info);
    let endpoint = arguments.runtime_endpoint.or(address).unwrap_or_else(default);
    let config = AgentConfig {
        cri: endpoint.to_string(),
        state_dir: arguments.root,
        log_dir: arguments.log_dir,
        manifests: Some(arguments.manifests),
        node_name: arguments.node_name.unwrap_or_else(serve::host_name),
        cgroup_parent: String::new(),
        seed: serve::seed(),
        tuning: Tuning::default(),
    };
    let mut ends = Ends::new()?;
    let keeper = Agent::start(config).await.map_err(|error| Error::Keeper(chain(&error)))?;
    let mut events = keeper.watch();
    tracing::info!(%endpoint, "keeping pods");
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = ends.next() => break,
        };
        match event {
            Ok(PodEvent::Manifest { file, message }) if message.is_empty() => {
                tracing::info!(file, "manifest is fine again")
            }
            Ok(PodEvent::Manifest { file, message }) => tracing::warn!(file, message, "manifest refused"),
            Ok(PodEvent::Changed(view)) => {
                tracing::debug!(pod = %view.key, phase = ?view.phase, ready = view.is_ready(), "pod changed");
            }
            Ok(PodEvent::Gone(key)) => tracing::info!(pod = %key, "pod is gone"),
            Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "events were missed"),
            Err(RecvError::Closed) => break,
        }
    }
    // As a kubelet that is stopped: its pods are not its own life.
    keeper.shutdown(Shutdown::LeavePods).await;
    Ok(0)
}
