//! `podwright ps`: pods and their containers, those of the keeper and those of any other client of CRI.

use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use runtime_control_api::v1::{self as control, ListPodsRequest};
use runtime_cri_api::v1 as cri;
use serde_json::{Value, json};

use crate::cli::{Format, PodName, Ps};
use crate::client::Client;
use crate::error::refused;
use crate::output;
use crate::verbs::Answer;

/// One pod as it is shown.
#[derive(Debug, Default, PartialEq)]
struct Row {
    namespace: String,
    name: String,
    uid: String,
    sandbox: String,
    phase: String,
    reason: String,
    ready: bool,
    ip: String,
    kept: bool,
    started_unix_nanos: i64,
    containers: Vec<ContainerRow>,
}

/// One container as it is shown.
#[derive(Debug, Default, PartialEq)]
struct ContainerRow {
    name: String,
    id: String,
    image: String,
    init: bool,
    /// Unknown for a container that the keeper doesn't probe.
    ready: Option<bool>,
    restarts: u32,
    state: String,
    exit_code: Option<i32>,
}

pub(super) async fn run(mut client: Client, arguments: &Ps) -> Answer {
    // A node without a keeper still has pods.
    let kept =
        client.control.list_pods(ListPodsRequest {}).await.map(|answer| answer.into_inner().pods).unwrap_or_default();
    let sandboxes = client
        .runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest { filter: None })
        .await
        .map_err(refused("pods"))?
        .into_inner()
        .items;
    let containers = client
        .runtime
        .list_containers(cri::ListContainersRequest { filter: None })
        .await
        .map_err(refused("containers"))?
        .into_inner()
        .containers;
    let rows = join(kept, sandboxes, containers);
    match arguments.output {
        Format::Json => output::json(&json!({ "pods": rows.iter().map(as_json).collect::<Vec<_>>() })),
        Format::Table => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
            let now = i64::try_from(now).unwrap_or(i64::MAX);
            let cells: Vec<Vec<String>> = rows.iter().flat_map(|row| as_cells(row, now)).collect();
            output::table(&["POD", "READY", "STATUS", "RESTARTS", "IP", "AGE", "IMAGE"], &cells);
        }
    }
    Ok(0)
}

/// The keeper's pods, and the sandboxes that aren't its own with their containers.
fn join(kept: Vec<control::Pod>, sandboxes: Vec<cri::PodSandbox>, containers: Vec<cri::Container>) -> Vec<Row> {
    let uids: HashSet<String> = kept.iter().map(|pod| pod.uid.clone()).collect();
    let mut of_sandbox: HashMap<String, Vec<cri::Container>> = HashMap::new();
    for container in containers {
        of_sandbox.entry(container.pod_sandbox_id.clone()).or_default().push(container);
    }
    let mut rows: Vec<Row> = kept.into_iter().map(kept_row).collect();
    for sandbox in sandboxes {
        let metadata = sandbox.metadata.clone().unwrap_or_default();
        if uids.contains(&metadata.uid) {
            continue;
        }
        let mut containers = of_sandbox.remove(&sandbox.id).unwrap_or_default();
        containers.sort_by_key(|container| container.created_at);
        let ready = sandbox.state() == cri::PodSandboxState::SandboxReady;
        rows.push(Row {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            phase: if ready { "Ready" } else { "NotReady" }.to_owned(),
            ready,
            started_unix_nanos: sandbox.created_at,
            containers: containers.into_iter().map(other_row).collect(),
            sandbox: sandbox.id,
            ..Default::default()
        });
    }
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    rows
}

fn kept_row(pod: control::Pod) -> Row {
    let key = pod.key.unwrap_or_default();
    Row {
        namespace: key.namespace,
        name: key.name,
        uid: pod.uid,
        sandbox: pod.sandbox,
        phase: if pod.deleting { "Terminating".to_owned() } else { pod.phase },
        reason: pod.reason,
        ready: pod.ready,
        ip: pod.ip,
        kept: true,
        started_unix_nanos: pod.started_unix_nanos,
        containers: pod
            .containers
            .into_iter()
            .map(|container| ContainerRow {
                state: if container.reason.is_empty() { capital(&container.state) } else { container.reason },
                name: container.name,
                id: container.id,
                image: container.image,
                init: container.init,
                ready: Some(container.ready),
                restarts: container.restarts,
                exit_code: container.exit_code,
            })
            .collect(),
    }
}

fn other_row(container: cri::Container) -> ContainerRow {
    let state = match container.state() {
        cri::ContainerState::ContainerCreated => "Created",
        cri::ContainerState::ContainerRunning => "Running",
        cri::ContainerState::ContainerExited => "Exited",
        cri::ContainerState::ContainerUnknown => "Unknown",
    };
    let metadata = container.metadata.unwrap_or_default();
    let image = container.image.unwrap_or_default();
    ContainerRow {
        state: state.to_owned(),
        name: metadata.name,
        restarts: metadata.attempt,
        id: container.id,
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        ..Default::default()
    }
}

fn as_cells(row: &Row, now: i64) -> Vec<Vec<String>> {
    let main: Vec<&ContainerRow> = row.containers.iter().filter(|container| !container.init).collect();
    let ready = main.iter().filter(|container| container.ready.unwrap_or(container.state == "Running")).count();
    let restarts: u32 = row.containers.iter().map(|container| container.restarts).sum();
    let status = if row.reason.is_empty() { &row.phase } else { &row.reason };
    let age = if row.started_unix_nanos > 0 {
        output::age(now - row.started_unix_nanos / 1_000_000_000)
    } else {
        String::new()
    };
    let name = PodName { namespace: row.namespace.clone(), name: row.name.clone() }.to_string();
    let mut cells = vec![vec![
        output::tame(&name),
        format!("{ready}/{}", main.len()),
        output::tame(status),
        restarts.to_string(),
        row.ip.clone(),
        age,
        String::new(),
    ]];
    cells.extend(row.containers.iter().map(|container| {
        let ready = match container.ready {
            _ if container.init => "init",
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        vec![
            format!("  {}", output::tame(&container.name)),
            ready.to_owned(),
            output::tame(&container.state),
            container.restarts.to_string(),
            String::new(),
            String::new(),
            output::tame(&container.image),
        ]
    }));
    cells
}

fn as_json(row: &Row) -> Value {
    let containers: Vec<Value> = row
        .containers
        .iter()
        .map(|container| {
            json!({
                "name": container.name,
                "id": container.id,
                "image": container.image,
                "init": container.init,
                "ready": container.ready,
                "restarts": container.restarts,
                "state": container.state,
                "exitCode": container.exit_code,
            })
        })
        .collect();
    json!({
        "namespace": row.namespace,
        "name": row.name,
        "uid": row.uid,
        "sandbox": row.sandbox,
        "phase": row.phase,
        "reason": row.reason,
        "ready": row.ready,
        "ip": row.ip,
        "kept": row.kept,
        "startedUnixNanos": row.started_unix_nanos,
        "containers": containers,
    })
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use runtime_control_api::v1 as control;
    use runtime_cri_api::v1 as cri;

    use super::{as_cells, join};

    #[test]
    fn pods_of_the_keeper_and_of_others_stand_in_one_list() {
        let kept = control::Pod {
            key: Some(control::PodKey { namespace: "default".to_owned(), name: "hello".to_owned() }),
            uid: "u1".to_owned(),
            phase: "Running".to_owned(),
            ip: "10.0.0.2".to_owned(),
            started_unix_nanos: 1_000_000_000,
            containers: vec![
                control::Container {
                    name: "setup".to_owned(),
                    init: true,
                    reason: "Completed".to_owned(),
                    ..Default::default()
                },
                control::Container {
                    name: "web".to_owned(),
                    state: "running".to_owned(),
                    ready: true,
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let sandbox = |id: &str, uid: &str, name: &str| cri::PodSandbox {
            id: id.to_owned(),
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.to_owned(),
                namespace: "other".to_owned(),
                attempt: 0,
            }),
            ..Default::default()
        };
        let container = cri::Container { pod_sandbox_id: "s2".to_owned(), ..Default::default() };
        let rows = join(vec![kept], vec![sandbox("s1", "u1", "hello"), sandbox("s2", "u2", "alien")], vec![container]);
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["hello", "alien"], "the keeper's sandbox is shown once");
        assert_eq!(rows[1].containers.len(), 1);

        let cells = as_cells(&rows[0], 61);
        assert_eq!(cells[0], ["hello", "1/1", "Running", "0", "10.0.0.2", "1m", ""]);
        assert_eq!(cells[1][..3], ["  setup", "init", "Completed"]);
        assert_eq!(cells[2][..3], ["  web", "yes", "Running"]);
        assert_eq!(as_cells(&rows[1], 61)[0][0], "other/alien");
    }
}
