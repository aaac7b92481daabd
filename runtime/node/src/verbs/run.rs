//! `podwright run`: pods from files, in the node that answers, or else in one of its own.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use kubelet_shim_manifest::{Pod, PullPolicy};
use runtime_control_api::v1::{self as control, ApplyRequest, ListPodsRequest, Manifest, PullRequest};
use tokio::time::Instant;

use crate::address::Address;
use crate::cli::{PodName, Run, Until};
use crate::client::{self, Client};
use crate::config::{LogLevel, Settings};
use crate::error::{Error, refused};
use crate::output;
use crate::progress::Screen;
use crate::serve::{Node, Purpose};
use crate::verbs::node::{Ends, write_log};
use crate::verbs::{Answer, delete, manifests, pull, several, single};

mod background;
mod follow;
mod judge;
mod tell;

use follow::{Ended, Followed, Logs};

/// What is to be run, and how far.
#[derive(Debug)]
struct Job {
    manifests: Vec<Manifest>,
    pods: Vec<Pod>,
    until: Until,
    timeout: Option<Duration>,
}

impl Job {
    fn names(&self) -> Vec<PodName> {
        let names = self.pods.iter().map(|pod| pod.key());
        names.map(|key| PodName { namespace: key.namespace, name: key.name }).collect()
    }
}

pub(super) fn run(address: Option<Address>, arguments: Run) -> Answer {
    let Run { files, detach, until, timeout, mut node } = arguments;
    let manifests = manifests::read(&files)?;
    let pods = manifests::parse(&manifests)?;
    if node.options.listen.is_none() {
        node.options.listen = address;
    }
    let config = node.config.clone();
    let settings = node.settings()?;
    let job = Job { manifests, pods, until, timeout };
    let screen = Screen::new();
    if client::answers(&settings.listen)? {
        return single()?.block_on(async {
            let client = Client::connect(&settings.listen).await?;
            if detach {
                detached(client, &job, &screen).await
            } else {
                attached(client, &job, &screen, &mut Ends::new()?).await
            }
        });
    }
    if detach {
        return single()?.block_on(in_background(&settings, config, &job, &screen));
    }
    write_log(settings.log_level.unwrap_or(LogLevel::Warn));
    several(settings.threads)?.block_on(in_own_node(settings, &job, &screen))
}

/// A node in this process that ends with the pods and leaves nothing but images.
async fn in_own_node(settings: Settings, job: &Job, screen: &Screen) -> Answer {
    // Before the node starts: a signal must never end this process with half a node.
    let mut ends = Ends::new()?;
    let listen = settings.listen.clone();
    let node = Node::start(settings, Purpose::Foreground).await?;
    let answer = match Client::connect(&listen).await {
        Ok(client) => attached(client, job, screen, &mut ends).await,
        Err(error) => Err(error),
    };
    for failure in node.vanish().await {
        screen.note(&format!("warning: {failure}"));
    }
    answer
}

/// A node that outlives this process.
async fn in_background(settings: &Settings, config: Option<PathBuf>, job: &Job, screen: &Screen) -> Answer {
    let spinner = screen.spinner();
    spinner.set_message("starting a node in the background");
    let started = background::start(settings, config).await;
    spinner.finish_and_clear();
    let client = started?;
    screen.note(&format!("a node runs in the background at {}", settings.listen));
    let answer = detached(client.clone(), job, screen).await;
    if answer.is_err() {
        // It was started for these pods alone.
        background::end(client, settings).await;
    }
    answer
}

/// Leaves the pods running and returns when they are ready.
async fn detached(mut client: Client, job: &Job, screen: &Screen) -> Answer {
    let mut ends = Ends::new()?;
    let known = kept(&mut client).await?;
    let mut logs = Logs::default();
    match follow_to(&mut client, job, screen, &mut ends, (Until::Ready, &mut logs)).await {
        Ok(Ended::Ready | Ended::Over { failed: false }) => Ok(0),
        Ok(Ended::Over { failed: true }) => Ok(1),
        Ok(Ended::Interrupted) => {
            screen.note("not waited for any longer; the pods stay: podwright ps");
            Ok(1)
        }
        Err(error) => {
            // A pod that was there before is somebody's, in whatever state the new manifest brought it into.
            let ours = job.names().into_iter().filter(|name| !known.contains(&name.to_string())).collect();
            take_away(&client, ours, screen, &mut ends).await;
            Err(error)
        }
    }
}

/// Follows the pods to their end, and takes them away.
async fn attached(mut client: Client, job: &Job, screen: &Screen, ends: &mut Ends) -> Answer {
    let known = kept(&mut client).await?;
    if let Some(name) = job.names().iter().map(PodName::to_string).find(|name| known.contains(name)) {
        return Err(Error::PodExists { pod: name });
    }
    let mut logs = Logs::default();
    let ended = follow_to(&mut client, job, screen, ends, (job.until, &mut logs)).await;
    if let Ok(Ended::Over { .. }) = &ended {
        // A program that fails at once says why in its last lines, and they go with the pod.
        logs.of_ended().await;
    }
    take_away(&client, job.names(), screen, ends).await;
    logs.finish().await;
    match ended? {
        Ended::Ready | Ended::Interrupted | Ended::Over { failed: false } => Ok(0),
        Ended::Over { failed: true } => Ok(1),
    }
}

/// Names of the pods that the keeper has.
async fn kept(client: &mut Client) -> Result<BTreeSet<String>, Error> {
    let pods = client.control.list_pods(ListPodsRequest {}).await.map_err(refused("pods"))?.into_inner().pods;
    Ok(pods.into_iter().map(|pod| pod_name(&pod).to_string()).collect())
}

fn pod_name(pod: &control::Pod) -> PodName {
    let key = pod.key.clone().unwrap_or_default();
    PodName { namespace: key.namespace, name: key.name }
}

/// Images, then the pods, then what becomes of them.
async fn follow_to(
    client: &mut Client,
    job: &Job,
    screen: &Screen,
    ends: &mut Ends,
    (until, logs): (Until, &mut Logs),
) -> Result<Ended, Error> {
    let deadline = job.timeout.map(|timeout| Instant::now() + timeout);
    tokio::select! {
        pulled = pull_images(client, job, screen) => pulled?,
        () = ends.next() => return Ok(Ended::Interrupted),
        () = until_deadline(deadline) => {
            let pod = job.names().first().map(PodName::to_string).unwrap_or_default();
            let state = "its images are still being pulled".to_owned();
            return Err(Error::NotReadyInTime { pod, seconds: job.timeout.unwrap_or_default().as_secs(), state });
        }
    }
    // Watched before they are applied: nothing that happens to them is missed.
    let mut followed = Followed::start(client, job, screen.clone(), logs, (until, deadline)).await?;
    let request = ApplyRequest { manifests: job.manifests.clone() };
    client.control.apply(request).await.map_err(refused("apply"))?;
    tokio::select! {
        ended = followed.until_the_end() => ended,
        () = ends.next() => Ok(Ended::Interrupted),
    }
}

async fn until_deadline(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Fetched here, with progress, before the pods are applied: CRI has no words for progress.
async fn pull_images(client: &mut Client, job: &Job, screen: &Screen) -> Result<(), Error> {
    let mut done = BTreeSet::new();
    for pod in &job.pods {
        for container in pod.init_containers.iter().chain(&pod.containers) {
            if container.pull_policy == PullPolicy::Never || !done.insert(container.image.clone()) {
                continue;
            }
            let request = PullRequest {
                image: container.image.clone(),
                if_not_present: container.pull_policy == PullPolicy::IfNotPresent,
                credentials: None,
            };
            pull::pull(client, request, screen).await?;
        }
    }
    Ok(())
}

/// Stops and forgets pods. A second signal kills at once, a third one leaves.
async fn take_away(client: &Client, pods: Vec<PodName>, screen: &Screen, ends: &mut Ends) {
    if pods.is_empty() {
        return;
    }
    let spinner = screen.spinner();
    spinner.set_message("stopping; Ctrl-C once more kills at once");
    let mut stopping = Box::pin(delete_all(client.clone(), pods.clone(), None));
    let result = tokio::select! {
        result = &mut stopping => result,
        () = ends.next() => {
            let killing = delete_all(client.clone(), pods, Some(Duration::ZERO));
            tokio::select! {
                // Both are answered when the pods are gone.
                result = async { tokio::join!(stopping, killing).0 } => result,
                () = ends.next() => Err(Error::Several(vec!["left before the pods were gone".to_owned()])),
            }
        }
    };
    spinner.finish_and_clear();
    if let Err(error) = result {
        screen.note(&format!("warning: {}", crate::error::chain(&error)));
    }
}

/// All at once; a pod that isn't there (any more) is what was wanted.
async fn delete_all(client: Client, pods: Vec<PodName>, grace: Option<Duration>) -> Result<(), Error> {
    let mut deletions = tokio::task::JoinSet::new();
    for pod in pods {
        let mut client = client.clone();
        deletions.spawn(async move { delete::delete(&mut client, &pod, grace).await });
    }
    let mut failed = Ok(());
    while let Some(deleted) = deletions.join_next().await {
        match deleted {
            Ok(Err(Error::Refused { status, .. })) if status.code() == tonic::Code::NotFound => {}
            Ok(Err(error)) => failed = Err(error),
            Ok(Ok(())) | Err(_) => {}
        }
    }
    failed
}

/// What a person may need to know while bars are shown.
fn note(screen: &Screen, pod: &PodName, text: &str) {
    screen.note(&format!("pod {}: {}", output::tame(&pod.to_string()), output::tame(text)));
}
