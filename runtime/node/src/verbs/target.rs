//! Which pod and which container are meant: by name as `podwright ps` shows them, or by the beginning of an id. Asked of
//! CRI, so that pods of a kubelet or of crictl are found as well as the keeper's.

use runtime_control_api::v1::{ListPodsRequest, Pod};
use runtime_cri_api::v1 as cri;

use crate::cli::{PodName, PodOrId};
use crate::client::Client;
use crate::error::{Error, refused};

/// Digits of an id that are shown: as many as crictl shows.
const ID_DIGITS: usize = 13;

/// A pod, and the container of it where the id was one's.
#[derive(Debug)]
pub(super) struct Target {
    /// As it is told to people.
    pub(super) pod: String,
    pub(super) sandbox: cri::PodSandbox,
    container: Option<cri::Container>,
}

/// The sandbox that is meant; the youngest that is ready, where a pod has several.
pub(super) async fn find(client: &mut Client, wanted: &PodOrId) -> Result<Target, Error> {
    let what = || refused(format!("pod {wanted}"));
    let request = cri::ListPodSandboxRequest { filter: None };
    let sandboxes = client.runtime.list_pod_sandbox(request).await.map_err(what())?.into_inner().items;
    let named = sandboxes.iter().filter(|sandbox| name_of(sandbox) == wanted.pod);
    if let Some(sandbox) = named.max_by_key(|sandbox| (is_ready(sandbox), sandbox.created_at)) {
        return Ok(Target { pod: wanted.to_string(), sandbox: sandbox.clone(), container: None });
    }
    if let Some(pod) = kept(client, &wanted.pod).await {
        let state = if pod.reason.is_empty() { pod.phase } else { pod.reason };
        return Err(Error::PodNotRunning { pod: wanted.to_string(), state });
    }
    let Some(id) = &wanted.id else { return Err(Error::NoSuchPod { pod: wanted.to_string() }) };
    let request = cri::ListContainersRequest { filter: None };
    let containers = client.runtime.list_containers(request).await.map_err(what())?.into_inner().containers;
    by_id(id, sandboxes, containers)
}

/// The one sandbox or container whose id begins so.
fn by_id(id: &str, sandboxes: Vec<cri::PodSandbox>, containers: Vec<cri::Container>) -> Result<Target, Error> {
    let mut found: Vec<(String, Option<cri::Container>)> = sandboxes
        .iter()
        .filter(|sandbox| sandbox.id.starts_with(id))
        .map(|sandbox| (sandbox.id.clone(), None))
        .chain(containers.into_iter().filter(|container| container.id.starts_with(id)).map(|container| {
            let sandbox = container.pod_sandbox_id.clone();
            (sandbox, Some(container))
        }))
        .collect();
    if found.len() > 1 {
        let ids = found.iter().map(|(sandbox, container)| {
            container.as_ref().map_or(sandbox, |container| &container.id).chars().take(ID_DIGITS).collect()
        });
        return Err(Error::AmbiguousId { id: id.to_owned(), ids: ids.collect() });
    }
    let no_such = || Error::NoSuchPod { pod: id.to_owned() };
    let (sandbox, container) = found.pop().ok_or_else(no_such)?;
    let sandbox = sandboxes.into_iter().find(|one| one.id == sandbox).ok_or_else(no_such)?;
    Ok(Target { pod: name_of(&sandbox).to_string(), sandbox, container })
}

/// The running container of the pod that is meant: the one of that name, or else the first.
pub(super) async fn container(
    client: &mut Client,
    target: Target,
    name: Option<&str>,
) -> Result<cri::Container, Error> {
    let Target { pod, sandbox, container } = target;
    let running = |container: &cri::Container| container.state() == cri::ContainerState::ContainerRunning;
    if let Some(container) = container {
        let name = container_name(&container);
        return if running(&container) { Ok(container) } else { Err(Error::NotRunning { pod, container: name }) };
    }
    let filter = cri::ContainerFilter { pod_sandbox_id: sandbox.id.clone(), ..Default::default() };
    let answer = client
        .runtime
        .list_containers(cri::ListContainersRequest { filter: Some(filter) })
        .await
        .map_err(refused(format!("containers of {pod}")))?;
    let mut containers = answer.into_inner().containers;
    containers.sort_by_key(|container| container.created_at);
    let mut names: Vec<String> = Vec::new();
    for name in containers.iter().map(container_name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let Some(first) = names.first().cloned() else {
        return Err(Error::PodNotRunning { pod, state: "without a container".to_owned() });
    };
    let wanted = match name {
        Some(name) => name.to_owned(),
        // Not a pod of the keeper: the one that was made first.
        None => first_of_manifest(client, &name_of(&sandbox)).await.unwrap_or(first),
    };
    if !names.contains(&wanted) {
        return Err(Error::NoSuchContainer { pod, container: wanted, names });
    }
    let found = containers.into_iter().rev().find(|one| container_name(one) == wanted && running(one));
    found.ok_or(Error::NotRunning { pod, container: wanted })
}

/// The first container of the pod's manifest that isn't an init container, as kubectl chooses.
async fn first_of_manifest(client: &mut Client, pod: &PodName) -> Option<String> {
    let containers = kept(client, pod).await?.containers;
    containers.into_iter().find(|container| !container.init).map(|container| container.name)
}

/// The keeper's view of a pod, where there is a keeper that has it.
async fn kept(client: &mut Client, pod: &PodName) -> Option<Pod> {
    let pods = client.control.list_pods(ListPodsRequest {}).await.ok()?.into_inner().pods;
    let is_it =
        |found: &Pod| found.key.as_ref().is_some_and(|key| key.name == pod.name && key.namespace == pod.namespace);
    pods.into_iter().find(is_it)
}

pub(super) fn is_ready(sandbox: &cri::PodSandbox) -> bool {
    sandbox.state() == cri::PodSandboxState::SandboxReady
}

fn name_of(sandbox: &cri::PodSandbox) -> PodName {
    let metadata = sandbox.metadata.clone().unwrap_or_default();
    PodName { namespace: metadata.namespace, name: metadata.name }
}

fn container_name(container: &cri::Container) -> String {
    container.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use runtime_cri_api::v1 as cri;

    use super::by_id;
    use crate::error::chain;

    #[test]
    fn an_id_may_be_cut_as_long_as_it_is_one() {
        let check = |id: &str, expected: Result<(&str, Option<&str>), &str>| {
            let sandboxes = ["abc1", "abd2"].map(|id| cri::PodSandbox {
                id: id.to_owned(),
                metadata: Some(cri::PodSandboxMetadata {
                    name: format!("pod-{id}"),
                    namespace: "default".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            });
            let containers = [("fe01", "abc1"), ("ab99", "abd2")].map(|(id, sandbox)| cri::Container {
                id: id.to_owned(),
                pod_sandbox_id: sandbox.to_owned(),
                ..Default::default()
            });
            let found = by_id(id, sandboxes.to_vec(), containers.to_vec());
            let found = found.as_ref().map(|target| (&*target.pod, target.container.as_ref().map(|one| &*one.id)));
            assert_eq!(found.map_err(|error| chain(error)), expected.map_err(str::to_owned), "{id}");
        };
        check("abc", Ok(("pod-abc1", None)));
        check("f", Ok(("pod-abc1", Some("fe01"))));
        check("ab9", Ok(("pod-abd2", Some("ab99"))));
        check("ab", Err("ab is the beginning of several ids: abc1, abd2, ab99; write more of it"));
        check("0", Err("there is no pod 0; `podwright ps` lists them"));
    }
}
