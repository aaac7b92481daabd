//! `podwright exec`: a command in a container; its output and its exit code are passed on.

use std::collections::HashMap;
use std::path::PathBuf;

use runtime_control_api::v1::ListPodsRequest;
use runtime_cri_api::v1 as cri;

use crate::cli::{Exec, PodName};
use crate::client::Client;
use crate::error::{Error, refused};
use crate::output;
use crate::verbs::{Answer, exit_code};

pub(super) async fn run(mut client: Client, arguments: Exec) -> Answer {
    let container = choose(&mut client, &arguments.pod, arguments.container.as_deref()).await?;
    // CRI counts whole seconds and means none by 0: a part of one is a second.
    let seconds = arguments.timeout.map_or(0, |timeout| timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0));
    let request = cri::ExecSyncRequest {
        container_id: container,
        cmd: arguments.command,
        timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
    };
    let answer = client.runtime.exec_sync(request).await.map_err(refused(format!("exec in {}", arguments.pod)))?;
    let answer = answer.into_inner();
    let failed = |source| Error::Write { path: PathBuf::from("standard output"), source };
    output::bytes(&answer.stdout).map_err(failed)?;
    output::error_bytes(&answer.stderr).map_err(failed)?;
    Ok(exit_code(answer.exit_code))
}

/// The id of the running container that is meant.
async fn choose(client: &mut Client, pod: &PodName, name: Option<&str>) -> Result<String, Error> {
    let selector = HashMap::from([
        ("io.kubernetes.pod.name".to_owned(), pod.name.clone()),
        ("io.kubernetes.pod.namespace".to_owned(), pod.namespace.clone()),
    ]);
    let filter = cri::ContainerFilter { label_selector: selector, ..Default::default() };
    let answer = client
        .runtime
        .list_containers(cri::ListContainersRequest { filter: Some(filter) })
        .await
        .map_err(refused(format!("containers of {pod}")))?;
    let mut containers = answer.into_inner().containers;
    if containers.is_empty() {
        return Err(Error::NoSuchPod { pod: pod.to_string() });
    }
    containers.sort_by_key(|container| container.created_at);
    let mut names: Vec<String> = Vec::new();
    for container in &containers {
        let name = name_of(container);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let wanted = match name {
        Some(name) => name.to_owned(),
        None => match first_of_manifest(client, pod).await {
            Some(first) => first,
            // Not a pod of the keeper: the one that was made first.
            None => names.first().cloned().unwrap_or_default(),
        },
    };
    if !names.contains(&wanted) {
        return Err(Error::NoSuchContainer { pod: pod.to_string(), container: wanted, names });
    }
    containers
        .into_iter()
        .rev()
        .find(|container| name_of(container) == wanted && container.state() == cri::ContainerState::ContainerRunning)
        .map(|container| container.id)
        .ok_or(Error::NotRunning { pod: pod.to_string(), container: wanted })
}

/// The first container of the pod's manifest that isn't an init container, as kubectl chooses.
async fn first_of_manifest(client: &mut Client, pod: &PodName) -> Option<String> {
    let pods = client.control.list_pods(ListPodsRequest {}).await.ok()?.into_inner().pods;
    let found = pods
        .into_iter()
        .find(|found| found.key.as_ref().is_some_and(|key| key.name == pod.name && key.namespace == pod.namespace))?;
    found.containers.into_iter().find(|container| !container.init).map(|container| container.name)
}

fn name_of(container: &cri::Container) -> String {
    container.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default()
}
