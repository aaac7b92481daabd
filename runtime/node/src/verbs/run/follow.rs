//! Follows pods and their logs until what was waited for has come.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use runtime_control_api::v1::pod_update::Update;
use runtime_control_api::v1::{LogsRequest, Pod, PodKey, PodUpdate, WatchPodsRequest};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::judge::{Verdict, judge};
use super::{Job, note, pod_name, tell, until_deadline};
use crate::cli::{PodName, Until};
use crate::client::Client;
use crate::error::{Error, refused};
use crate::output;
use crate::progress::Screen;
use crate::verbs::logs::{Joiner, Prefix, Style, Time, print};

/// How long the last lines may take once the pods are gone.
const LAST_LINES_DEADLINE: Duration = Duration::from_secs(2);
/// How often a pod without any container yet is asked for its logs.
const FIRST_LINES_PERIOD: Duration = Duration::from_millis(100);

/// How the pods came to an end, as far as this command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// All are ready.
    Ready,
    /// All have ended by themselves.
    Over { failed: bool },
    /// A person had enough.
    Interrupted,
}

/// The pods' logs on their way to the terminal.
#[derive(Debug, Default)]
pub(super) struct Logs {
    printers: JoinSet<()>,
    /// Cancelled once the pods are gone: one that never had a container has no lines that could be waited for.
    gone: CancellationToken,
}

impl Logs {
    /// Waits for the last lines of pods that have ended and are still there: they go with the pod.
    pub(super) async fn of_ended(&mut self) {
        let all = async { while self.printers.join_next().await.is_some() {} };
        // Those of a pod that hasn't ended have no end: what came until now is enough.
        drop(tokio::time::timeout(LAST_LINES_DEADLINE, all).await);
    }

    /// Waits for the last lines of pods that are gone.
    pub(super) async fn finish(mut self) {
        self.gone.cancel();
        self.of_ended().await;
    }
}

/// Pods that are being watched.
#[derive(Debug)]
pub(super) struct Followed<'a> {
    client: Client,
    job: &'a Job,
    screen: Screen,
    until: Until,
    /// No more once all pods have been ready.
    deadline: Option<Instant>,
    updates: Streaming<PodUpdate>,
    pods: BTreeMap<String, Pod>,
    spinner: ProgressBar,
    logs: &'a mut Logs,
}

impl<'a> Followed<'a> {
    pub(super) async fn start(
        client: &mut Client,
        job: &'a Job,
        screen: Screen,
        logs: &'a mut Logs,
        (until, deadline): (Until, Option<Instant>),
    ) -> Result<Followed<'a>, Error> {
        let pods = job.names().into_iter().map(|name| PodKey { namespace: name.namespace, name: name.name }).collect();
        let updates =
            client.control.watch_pods(WatchPodsRequest { pods }).await.map_err(refused("watch"))?.into_inner();
        let spinner = screen.spinner();
        Ok(Followed {
            client: client.clone(),
            job,
            screen,
            until,
            deadline,
            updates,
            pods: BTreeMap::new(),
            spinner,
            logs,
        })
    }

    /// Returns when all pods are where they were to be brought, or one of them can't be.
    pub(super) async fn until_the_end(&mut self) -> Result<Ended, Error> {
        loop {
            let update = tokio::select! {
                update = self.updates.message() => update.map_err(refused("watch"))?,
                () = until_deadline(self.deadline) => return Err(self.overdue()),
            };
            match update.and_then(|update| update.update) {
                Some(Update::Pod(pod)) => {
                    if let Some(ended) = self.seen(pod)? {
                        return Ok(ended);
                    }
                }
                Some(Update::Gone(key)) => {
                    let name = PodName { namespace: key.namespace, name: key.name };
                    if self.pods.remove(&name.to_string()).is_some() {
                        note(&self.screen, &name, "was deleted");
                        if self.pods.is_empty() {
                            return Ok(Ended::Over { failed: false });
                        }
                    }
                }
                Some(Update::Synced(_)) => {}
                None => return Err(Error::NodeGone),
            }
        }
    }

    fn seen(&mut self, pod: Pod) -> Result<Option<Ended>, Error> {
        let name = pod_name(&pod);
        let Some(manifest) = self.manifest(&name) else { return Ok(None) };
        if pod.revision != manifest.revision {
            // A former pod of that name, on its way out.
            return Ok(None);
        }
        let before = self.pods.get(&name.to_string());
        let broken = matches!(judge(&pod), Verdict::Broken { .. });
        for change in tell::changes(before, &pod) {
            // What ends this command is told once, at its end.
            if !(broken && change.starts_with(tell::WARNING)) {
                note(&self.screen, &name, &change);
            }
        }
        if pod.ready && before.is_none_or(|before| !before.ready) {
            for line in tell::ways_in(manifest, &pod.ip) {
                self.screen.note(&format!("  {}", output::tame(&line)));
            }
        }
        if before.is_none() && self.until == Until::Done {
            let prefix = if self.job.pods.len() > 1 { format!("{name}/") } else { String::new() };
            let show =
                show_logs(self.client.clone(), name.clone(), prefix, self.screen.clone(), self.logs.gone.clone());
            self.logs.printers.spawn(show);
        }
        self.pods.insert(name.to_string(), pod);
        self.decide()
    }

    fn manifest(&self, name: &PodName) -> Option<&'a kubelet_shim_manifest::Pod> {
        self.job.pods.iter().find(|pod| pod.metadata.name == name.name && pod.metadata.namespace == name.namespace)
    }

    /// What all pods together mean.
    fn decide(&mut self) -> Result<Option<Ended>, Error> {
        let mut waiting = Vec::new();
        let (mut ready, mut over, mut any_failed) = (0, 0, false);
        for (name, pod) in &self.pods {
            match judge(pod) {
                Verdict::Ready => ready += 1,
                Verdict::Over { failed } => {
                    over += 1;
                    any_failed |= failed;
                }
                Verdict::Broken { reason, message } => {
                    return Err(Error::PodFailed { pod: name.clone(), reason, message });
                }
                Verdict::Starting(what) => waiting.push(format!("{name}: {what}")),
            }
        }
        if waiting.is_empty() {
            self.spinner.finish_and_clear();
        } else {
            self.spinner.set_message(output::tame(&waiting.join(", ")));
        }
        let all = self.job.pods.len();
        if ready + over == all {
            self.deadline = None;
        }
        Ok(if over == all {
            Some(Ended::Over { failed: any_failed })
        } else if self.until == Until::Ready && ready + over == all {
            Some(Ended::Ready)
        } else {
            None
        })
    }

    /// The first pod that isn't ready, and what it waits for.
    fn overdue(&self) -> Error {
        let seconds = self.job.timeout.unwrap_or_default().as_secs();
        for name in self.job.names() {
            let pod = name.to_string();
            let state = match self.pods.get(&pod).map(judge) {
                None => "the keeper has not begun with it".to_owned(),
                Some(Verdict::Starting(state)) => state,
                Some(_) => continue,
            };
            return Error::NotReadyInTime { pod, seconds, state };
        }
        Error::NotReadyInTime { pod: String::new(), seconds, state: "not all pods were ready at once".to_owned() }
    }
}

impl Drop for Followed<'_> {
    fn drop(&mut self) {
        self.spinner.finish_and_clear();
    }
}

/// Prints what a pod's containers write, until the pod has ended or is gone.
async fn show_logs(mut client: Client, pod: PodName, prefix: String, screen: Screen, gone: CancellationToken) {
    let request = LogsRequest {
        pod: Some(PodKey { namespace: pod.namespace, name: pod.name }),
        follow: true,
        ..Default::default()
    };
    let style = Style { prefix: Prefix::Container, time: Time::Hidden };
    let mut joiner = Joiner::default();
    loop {
        // Refused until there is a sandbox; then one answer lasts as long as the pod.
        let Ok(answer) = client.control.logs(request.clone()).await else { return };
        let mut lines = answer.into_inner();
        loop {
            match lines.message().await {
                Ok(Some(line)) => {
                    if let Some(mut whole) = joiner.push(line) {
                        whole.container = format!("{prefix}{}", whole.container);
                        // Nobody reads any more: the pod runs on without being watched.
                        if screen.beside(|| print(&whole, style)).is_err() {
                            return;
                        }
                    }
                }
                Ok(None) => return,
                Err(status) if status.code() == tonic::Code::NotFound => break,
                Err(_) => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(FIRST_LINES_PERIOD) => {}
            () = gone.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LAST_LINES_DEADLINE, Logs};

    #[tokio::test]
    async fn a_pod_that_never_had_a_line_keeps_nobody_waiting() {
        let began = tokio::time::Instant::now();
        let mut logs = Logs::default();
        let gone = logs.gone.clone();
        logs.printers.spawn(async move { gone.cancelled().await });
        logs.finish().await;
        assert!(began.elapsed() < LAST_LINES_DEADLINE, "waited for lines that can't come");
    }
}
