//! Lines that containers wrote: the CRI log files of a pod's containers, followed over restarts and rotations.
//!
//! Which containers there are and where their logs lie is asked of CRI, so that pods of a kubelet are served too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime_control_api::v1::{LogLine, LogsRequest};
use runtime_cri_api::v1 as cri;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

use crate::client::Client;

mod file;
use file::LogFile;

/// How often a follower looks for new lines. A person doesn't see the difference to at once, and an idle follower costs
/// some system calls a second.
const LINES_PERIOD: Duration = Duration::from_millis(50);
/// How often a follower looks for new containers.
const CONTAINERS_PERIOD: Duration = Duration::from_millis(200);
/// Lines between the readers and the client; a client that doesn't read stops the readers, not the containers.
pub(super) const LINES_AHEAD_MAX: usize = 256;

/// Labels that the kubelet and our keeper put on each container.
const LABEL_POD: &str = "io.kubernetes.pod.name";
const LABEL_NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// Where lines go; closed when the client is gone.
type Lines = mpsc::Sender<Result<LogLine, Status>>;

/// One run of one container.
#[derive(Debug, Clone)]
struct Run {
    id: String,
    name: String,
    created: i64,
    attempt: u32,
}

/// Sends what is asked for, until the end, the pod's end or the client's. `ended` says whether the pod has come to its end:
/// none of its containers will be started again, though it is still there.
pub(super) async fn send(client: Client, request: LogsRequest, ended: impl Fn() -> bool, lines: Lines) {
    if let Err(status) = serve(client, request, ended, &lines).await {
        // A client that is gone needs no answer.
        drop(lines.send(Err(status)).await);
    }
}

async fn serve(client: Client, request: LogsRequest, ended: impl Fn() -> bool, lines: &Lines) -> Result<(), Status> {
    let runs = runs(&client, &request).await?;
    if runs.is_empty() && !(request.follow && sandbox_exists(&client, &request).await?) {
        return Err(Status::not_found(format!("no container of pod {} has run here", pod_name(&request))));
    }
    if !request.container.is_empty() && !request.follow && !runs.iter().any(|run| run.name == request.container) {
        let names: BTreeSet<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Status::not_found(format!(
            "pod {} has no container {} with a log; it has {names}",
            pod_name(&request),
            request.container
        )));
    }
    let chosen = choose(runs, request.previous);
    if request.follow {
        return follow(client, request, chosen, ended, lines).await;
    }
    if chosen.is_empty() {
        return Err(Status::not_found(format!("no container of pod {} ran before", pod_name(&request))));
    }
    for run in chosen.iter().filter(|run| wanted(&request, run)) {
        let Some(path) = status(&client, &run.id).await?.map(|found| found.path) else { continue };
        let mut file = LogFile::open(&path, request.tail_lines).await.map_err(|error| unreadable(&path, &error))?;
        while let Some(line) = file.next().await.map_err(|error| unreadable(&path, &error))? {
            if lines.send(Ok(LogLine { container: run.name.clone(), ..line })).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Of each container the last run, or the one before it.
fn choose(runs: Vec<Run>, previous: bool) -> Vec<Run> {
    let mut by_name: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for run in runs {
        by_name.entry(run.name.clone()).or_default().push(run);
    }
    let mut chosen: Vec<Run> = by_name
        .into_values()
        .filter_map(|mut runs| {
            runs.sort_by_key(|run| (run.attempt, run.created));
            if previous {
                runs.pop();
            }
            runs.pop()
        })
        .collect();
    chosen.sort_by_key(|run| run.created);
    chosen
}

/// One reader for each run, and more as containers are started, until the pod has ended or is gone.
async fn follow(
    client: Client,
    request: LogsRequest,
    first: Vec<Run>,
    ended: impl Fn() -> bool,
    lines: &Lines,
) -> Result<(), Status> {
    let mut readers = JoinSet::new();
    // Runs before the chosen ones are not shown.
    let mut seen: BTreeSet<String> = runs(&client, &request).await?.into_iter().map(|run| run.id).collect();
    let mut tail = request.tail_lines;
    let mut fresh = first;
    loop {
        for run in fresh.drain(..).filter(|run| wanted(&request, run)) {
            seen.insert(run.id.clone());
            readers.spawn(follow_run(client.clone(), run, tail, lines.clone()));
        }
        // What starts from now on is shown from its first line.
        tail = None;
        tokio::time::sleep(CONTAINERS_PERIOD).await;
        if lines.is_closed() {
            return Ok(());
        }
        while readers.try_join_next().is_some() {}
        // Asked before the containers are listed: an ended pod's list is complete.
        let over = ended();
        let known = runs(&client, &request).await?;
        fresh = known.iter().filter(|run| !seen.contains(&run.id)).cloned().collect();
        seen.extend(fresh.iter().map(|run| run.id.clone()));
        if (over && fresh.is_empty()) || (known.is_empty() && !sandbox_exists(&client, &request).await?) {
            // Each reader ends by itself once it has sent the last line of a container that is gone.
            while readers.join_next().await.is_some() {}
            return Ok(());
        }
    }
}

/// Sends one run's lines until it has ended and its log is read.
async fn follow_run(client: Client, run: Run, tail: Option<u64>, lines: Lines) {
    let mut file: Option<LogFile> = None;
    let mut ended = false;
    loop {
        if file.is_none()
            && let Ok(Some(found)) = status(&client, &run.id).await
        {
            file = LogFile::open(&found.path, tail).await.ok();
        }
        if let Some(file) = &mut file {
            while let Ok(Some(line)) = file.next().await {
                if lines.send(Ok(LogLine { container: run.name.clone(), ..line })).await.is_err() {
                    return;
                }
            }
            if file.rotated().await {
                continue;
            }
        }
        if ended || lines.is_closed() {
            return;
        }
        tokio::time::sleep(LINES_PERIOD).await;
        // Asked before the next look at the file: lines written before the end are read after it was seen.
        ended = match status(&client, &run.id).await {
            Ok(Some(found)) => found.ended,
            Ok(None) => true,
            Err(_) => return,
        };
    }
}

/// What is known of one run.
struct RunStatus {
    path: PathBuf,
    ended: bool,
}

async fn status(client: &Client, id: &str) -> Result<Option<RunStatus>, Status> {
    let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    match client.runtime.clone().container_status(request).await {
        Ok(answer) => Ok(answer.into_inner().status.map(|status| RunStatus {
            ended: status.state() == cri::ContainerState::ContainerExited,
            path: PathBuf::from(status.log_path),
        })),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

async fn runs(client: &Client, request: &LogsRequest) -> Result<Vec<Run>, Status> {
    let filter = cri::ContainerFilter { label_selector: selector(request), ..Default::default() };
    let answer = client.runtime.clone().list_containers(cri::ListContainersRequest { filter: Some(filter) }).await?;
    let containers = answer.into_inner().containers.into_iter();
    Ok(containers
        .map(|container| {
            let metadata = container.metadata.unwrap_or_default();
            Run { id: container.id, name: metadata.name, attempt: metadata.attempt, created: container.created_at }
        })
        .collect())
}

async fn sandbox_exists(client: &Client, request: &LogsRequest) -> Result<bool, Status> {
    let filter = cri::PodSandboxFilter { label_selector: selector(request), ..Default::default() };
    let answer = client.runtime.clone().list_pod_sandbox(cri::ListPodSandboxRequest { filter: Some(filter) }).await?;
    Ok(!answer.into_inner().items.is_empty())
}

fn selector(request: &LogsRequest) -> HashMap<String, String> {
    let pod = request.pod.clone().unwrap_or_default();
    HashMap::from([(LABEL_POD.to_owned(), pod.name), (LABEL_NAMESPACE.to_owned(), pod.namespace)])
}

fn wanted(request: &LogsRequest, run: &Run) -> bool {
    request.container.is_empty() || request.container == run.name
}

fn pod_name(request: &LogsRequest) -> String {
    let pod = request.pod.clone().unwrap_or_default();
    format!("{}/{}", pod.namespace, pod.name)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Status {
    Status::internal(format!("cannot read the log {path:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{Run, choose};

    fn check(runs: &[(&str, u32, i64)], previous: bool, expected: &[(&str, u32)]) {
        let runs = runs
            .iter()
            .map(|(name, attempt, created)| Run {
                id: format!("{name}-{attempt}"),
                name: (*name).to_owned(),
                attempt: *attempt,
                created: *created,
            })
            .collect();
        let chosen = choose(runs, previous);
        let found: Vec<(&str, u32)> = chosen.iter().map(|run| (run.name.as_str(), run.attempt)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_last_run_of_each_container_in_order_of_birth() {
        check(
            &[("web", 0, 5), ("web", 1, 9), ("init", 0, 1), ("side", 0, 6)],
            false,
            &[("init", 0), ("side", 0), ("web", 1)],
        );
    }

    #[test]
    fn the_run_before_it() {
        check(&[("web", 0, 5), ("web", 1, 9), ("web", 2, 12), ("side", 0, 6)], true, &[("web", 1)]);
    }
}
