//! `podwright kubelet`: the keeper alone, on any CRI runtime.

use std::collections::BTreeMap;

use kubelet_shim_agent::{Agent, AgentConfig, EventView, PodEvent, PodKey, PodView, Shutdown, Tuning};
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
    let mut told: BTreeMap<PodKey, PodView> = BTreeMap::new();
    tracing::info!(%endpoint, "keeping pods");
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = ends.next() => break,
        };
        match event {
            Ok(PodEvent::Manifest { file, message }) if message.is_empty() => {
                tracing::info!(file, "manifest is fine or gone")
            }
            Ok(PodEvent::Manifest { file, message }) => tracing::warn!(file, message, "manifest refused"),
            Ok(PodEvent::Changed(view)) => {
                tell(told.get(&view.key), &view);
                told.insert(view.key.clone(), *view);
            }
            Ok(PodEvent::Gone(key)) => {
                told.remove(&key);
                tracing::info!(pod = %key, "pod is gone");
            }
            Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "events were missed"),
            Err(RecvError::Closed) => break,
        }
    }
    // As a kubelet that is stopped: its pods are not its own life.
    keeper.shutdown(Shutdown::LeavePods).await;
    Ok(0)
}

/// What is new of a pod: this log is all that a person sees of a keeper that stands alone.
fn tell(before: Option<&PodView>, now: &PodView) {
    let before_events = before.into_iter().flat_map(|before| &before.events);
    for EventView { reason, message, container, .. } in news(before_events, &now.events) {
        tracing::warn!(pod = %now.key, container, reason, "{message}");
    }
    if now.is_ready() && !before.is_some_and(PodView::is_ready) {
        tracing::info!(pod = %now.key, "pod is ready");
    }
    if before.is_none_or(|before| before.phase != now.phase) {
        tracing::info!(pod = %now.key, phase = ?now.phase, "pod changed");
    }
}

/// Warnings that weren't there before. One that comes again, as a failing probe's does every few seconds, is told once.
fn news<'a>(
    before: impl Iterator<Item = &'a EventView> + Clone,
    now: impl IntoIterator<Item = &'a EventView>,
) -> impl Iterator<Item = &'a EventView> {
    let same =
        |a: &EventView, b: &EventView| (&a.reason, &a.message, &a.container) == (&b.reason, &b.message, &b.container);
    now.into_iter().filter(move |event| event.warning && !before.clone().any(|known| same(known, event)))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use kubelet_shim_agent::EventView;

    use super::news;

    #[test]
    fn a_warning_is_told_once() {
        let event = |reason: &str, warning, count| EventView {
            at: SystemTime::UNIX_EPOCH,
            count,
            warning,
            container: "web".to_owned(),
            reason: reason.to_owned(),
            message: "why".to_owned(),
        };
        let before = [event("Unhealthy", true, 1)];
        let now = [event("Unhealthy", true, 2), event("Failed", true, 1), event("Pulled", false, 1)];
        let told: Vec<&str> = news(before.iter(), &now).map(|event| event.reason.as_str()).collect();
        assert_eq!(told, ["Failed"]);
    }
}
