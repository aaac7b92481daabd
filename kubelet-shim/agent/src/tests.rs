//! The keeper against a runtime that is only a table, where faults can be ordered.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use kubelet_shim_manifest::{Document, Pod, PodKey, parse};

use crate::{Agent, AgentConfig, AgentError, Phase, PodEvent, Shutdown, StateView, Tuning};

mod runtime;

use runtime::Fake;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pw-agent-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn config(&self) -> AgentConfig {
        AgentConfig {
            cri: format!("unix://{}", self.0.join("cri.sock").display()),
            state_dir: self.0.join("state"),
            log_dir: self.0.join("logs"),
            manifests: None,
            node_name: "node".to_owned(),
            cgroup_parent: String::new(),
            seed: 1,
            tuning: Tuning {
                backoff_initial: Duration::from_millis(200),
                backoff_max: Duration::from_secs(1),
                ..Tuning::default()
            },
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn text(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

fn pod(name: &str, spec: &str) -> Pod {
    match parse("p.yaml", &text(name, spec)).unwrap().remove(0) {
        Document::Pod(pod) => *pod,
        other => panic!("{other:?}"),
    }
}

fn key(name: &str) -> PodKey {
    PodKey { namespace: "default".to_owned(), name: name.to_owned() }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within ten seconds: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_starts_is_seen_and_goes_without_a_trace() {
    let scratch = Scratch::new("life");
    let fake = Fake::serve(&scratch.0.join("cri.sock")).await;
    let agent = Agent::start(scratch.config()).await.unwrap();
    let wanted = pod(
        "web",
        "terminationGracePeriodSeconds: 3, containers: [{name: c, image: i:1, env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}], \
         volumeMounts: [{name: d, mountPath: /d}], ports: [{containerPort: 80, hostPort: 8080}]}], volumes: [{name: d, emptyDir: {}}]",
    );
    agent.apply(vec![wanted.clone()]).await.unwrap();
    until("ready", || agent.get(&key("web")).is_some_and(|view| view.is_ready())).await;
    let view = agent.get(&key("web")).unwrap();
    assert_eq!(view.phase, Phase::Running);
    assert_eq!(view.ip.unwrap().to_string(), "10.9.9.9");
    {
        let world = fake.world();
        let (sandbox, container) = (&world.sandboxes[0].config, &world.containers[0].config);
        assert_eq!(sandbox.port_mappings[0].host_port, 8080);
        assert_eq!(sandbox.labels["io.kubernetes.pod.name"], "web");
        assert_eq!(container.labels["io.kubernetes.container.name"], "c");
        assert_eq!(container.envs[0].value, b"10.9.9.9");
        assert_eq!(container.log_path, "c/0.log");
        assert!(Path::new(&container.mounts[0].host_path).is_dir());
    }
    agent.apply(vec![wanted]).await.unwrap();
    assert_eq!(fake.world().containers.len(), 1, "an unchanged pod was started again");
    agent.delete(&key("web"), None).await.unwrap();
    assert!(agent.list().is_empty());
    assert!(fake.world().sandboxes.is_empty() && fake.world().containers.is_empty());
    assert_eq!(fake.world().stops, [("c".to_owned(), 3)]);
    let left: Vec<_> = ["state/pods", "state/volumes", "logs"]
        .iter()
        .flat_map(|name| std::fs::read_dir(scratch.0.join(name)).unwrap())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(matches!(agent.delete(&key("web"), None).await, Err(AgentError::NoSuchPod { .. })));
    agent.shutdown(Shutdown::StopPods).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_keeper_goes_on_where_the_old_one_died() {
    let scratch = Scratch::new("resume");
    let fake = Fake::serve(&scratch.0.join("cri.sock")).await;
    let spec = "containers: [{name: c, image: i:1, readinessProbe: {exec: {command: [ok]}, periodSeconds: 1}}]";
    let agent = Agent::start(scratch.config()).await.unwrap();
    agent.apply(vec![pod("web", spec)]).await.unwrap();
    until("ready", || agent.get(&key("web")).is_some_and(|view| view.is_ready())).await;
    for _ in 0..3 {
        agent.clone().shutdown(Shutdown::LeavePods).await;
        let next = Agent::start(scratch.config()).await.unwrap();
        let mut events = next.watch();
        until("taken up", || next.get(&key("web")).is_some_and(|view| view.is_ready())).await;
        while let Ok(event) = events.try_recv() {
            if let PodEvent::Changed(view) = event {
                assert!(view.is_ready(), "readiness flipped: {view:?}");
            }
        }
        assert_eq!(fake.world().containers.len(), 1);
        assert_eq!(fake.world().starts, 1, "the container was started again");
        next.shutdown(Shutdown::LeavePods).await;
    }
    let last = Agent::start(scratch.config()).await.unwrap();
    last.shutdown(Shutdown::StopPods).await;
    assert!(fake.world().sandboxes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_liveness_probe_restarts_and_tells_why() {
    let scratch = Scratch::new("liveness");
    let fake = Fake::serve(&scratch.0.join("cri.sock")).await;
    let agent = Agent::start(scratch.config()).await.unwrap();
    let spec = "containers: [{name: c, image: i:1, livenessProbe: {exec: {command: [bad]}, periodSeconds: 1, failureThreshold: 2}}]";
    agent.apply(vec![pod("web", spec)]).await.unwrap();
    until("restarted", || agent.get(&key("web")).is_some_and(|view| view.containers[0].restarts > 0)).await;
    let view = agent.get(&key("web")).unwrap();
    let told = |words: &str| view.events.iter().any(|event| event.message.contains(words));
    assert!(told("Liveness probe failed (2 of 2): it is bad"), "{:#?}", view.events);
    assert!(told("failed liveness probe, will be restarted"), "{:#?}", view.events);
    assert_eq!(view.containers[0].last.as_ref().unwrap().code, 143);
    agent.shutdown(Shutdown::StopPods).await;
    assert!(fake.world().containers.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_runtime_are_told_and_outlived() {
    let scratch = Scratch::new("faults");
    let fake = Fake::serve(&scratch.0.join("cri.sock")).await;
    for verb in ["pull", "sandbox", "create", "start", "list"] {
        fake.world().faults.insert(verb.to_owned(), 1);
    }
    let agent = Agent::start(scratch.config()).await.unwrap();
    agent.apply(vec![pod("web", "containers: [{name: c, image: i}]")]).await.unwrap();
    until("ready", || agent.get(&key("web")).is_some_and(|view| view.is_ready())).await;
    let view = agent.get(&key("web")).unwrap();
    for words in [
        "Failed to pull image \"i\": ordered fault in pull",
        "ordered fault in sandbox",
        "ordered fault in create",
        "ordered fault in start",
    ] {
        assert!(view.events.iter().any(|event| event.message.contains(words)), "{words}: {:#?}", view.events);
    }
    fake.world().faults.insert("stop".to_owned(), 1);
    fake.world().faults.insert("remove".to_owned(), 1);
    agent.delete(&key("web"), None).await.unwrap();
    assert!(fake.world().sandboxes.is_empty());
    agent.shutdown(Shutdown::StopPods).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_image_waits_by_its_name() {
    let scratch = Scratch::new("image");
    let fake = Fake::serve(&scratch.0.join("cri.sock")).await;
    fake.world().faults.insert("pull".to_owned(), usize::MAX);
    let agent = Agent::start(scratch.config()).await.unwrap();
    let spec = "containers: [{name: c, image: nope}, {name: n, image: i:1, imagePullPolicy: Never}]";
    agent.apply(vec![pod("web", spec)]).await.unwrap();
    until("both wait", || {
        agent.get(&key("web")).is_some_and(|view| {
            let reason = |index: usize| match &view.containers[index].state {
                StateView::Waiting { reason, .. } => reason.clone(),
                other => panic!("{other:?}"),
            };
            reason(0) == "ImagePullBackOff" && reason(1) == "ErrImageNeverPull"
        })
    })
    .await;
    agent.delete(&key("web"), Some(Duration::ZERO)).await.unwrap();
    agent.shutdown(Shutdown::LeavePods).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_is_mirrored_and_bad_files_are_named() {
    let scratch = Scratch::new("directory");
    let fake = Fake::serve(&scratch.0.join("cri.sock")).await;
    let directory = scratch.0.join("manifests");
    std::fs::create_dir(&directory).unwrap();
    let write = |name: &str, text: &str| {
        let temporary = directory.join(format!(".{name}"));
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(&temporary, directory.join(name)).unwrap();
    };
    write("a.yaml", &text("a", "terminationGracePeriodSeconds: 0, containers: [{name: c, image: i:1}]"));
    std::os::unix::fs::symlink("/etc/passwd", directory.join("link.yaml")).unwrap();
    std::fs::write(directory.join("broken.yaml"), "apiVersion: v1\nkind: Pood\n").unwrap();
    let agent = Agent::start(AgentConfig { manifests: Some(directory.clone()), ..scratch.config() }).await.unwrap();
    let mut events = agent.watch();
    until("a runs", || agent.get(&key("a")).is_some_and(|view| view.is_ready())).await;
    let mut refused = BTreeMap::new();
    while let Ok(event) = events.try_recv() {
        if let PodEvent::Manifest { file, message } = event {
            refused.insert(file, message);
        }
    }
    let about = |name: &str| refused.iter().find(|(file, _)| file.ends_with(name)).map_or("", |(_, message)| message);
    assert!(about("link.yaml").contains("not a link"), "{refused:?}");
    assert!(about("broken.yaml").contains("broken.yaml:2:7"), "{refused:?}");
    assert!(matches!(agent.delete(&key("a"), None).await, Err(AgentError::FromManifest { .. })));
    let first = fake.world().containers[0].id.clone();
    write("a.yaml", &text("a", "terminationGracePeriodSeconds: 0, containers: [{name: c, image: i:2}]"));
    until("a is another one", || fake.world().containers.first().is_some_and(|found| found.id != first)).await;
    assert!(!fake.world().overlapped, "old and new ran at the same time");
    write("a.yaml", "apiVersion: v1\nkind: Pod\n");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(agent.get(&key("a")).is_some_and(|view| !view.deleting), "a broken edit stopped the pod");
    std::fs::remove_file(directory.join("a.yaml")).unwrap();
    until("a is gone", || agent.list().is_empty()).await;
    agent.shutdown(Shutdown::StopPods).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_follows_its_file_to_another_name() {
    let scratch = Scratch::new("renamed");
    let _fake = Fake::serve(&scratch.0.join("cri.sock")).await;
    let directory = scratch.0.join("manifests");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a.yaml"), text("a", "containers: [{name: c, image: i:1}]")).unwrap();
    let config = AgentConfig { manifests: Some(directory.clone()), ..scratch.config() };
    let agent = Agent::start(config.clone()).await.unwrap();
    until("a runs", || agent.get(&key("a")).is_some_and(|view| view.is_ready())).await;
    let uid = agent.get(&key("a")).unwrap().uid;
    std::fs::rename(directory.join("a.yaml"), directory.join("b.yaml")).unwrap();
    let records = scratch.0.join("state/pods");
    let is_recorded = || {
        let record = std::fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
        std::fs::read_to_string(record).is_ok_and(|text| text.contains("manifests/b.yaml"))
    };
    until("the new name is written down", is_recorded).await;
    std::fs::write(directory.join("b.yaml"), "apiVersion: v1\nkind: Pod\n").unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(agent.get(&key("a")).is_some_and(|view| !view.deleting), "a broken edit stopped the renamed pod");
    agent.shutdown(Shutdown::LeavePods).await;
    let next = Agent::start(config).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(next.get(&key("a")).is_some_and(|view| !view.deleting && view.uid == uid), "the next keeper stopped it");
    next.shutdown(Shutdown::StopPods).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_over_the_network() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 4096];
            let length = stream.read(&mut buffer).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let answer = match request.split(' ').nth(1) {
                Some("/ok") => "HTTP/1.1 204 No Content\r\n\r\n",
                Some("/away") => "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
                Some("/near") => {
                    "HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                }
                Some("/slow") => {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    ""
                }
                _ => "HTTP/1.1 503 Busy\r\nContent-Length: 6\r\n\r\nnot up",
            };
            log.lock().unwrap().push(request);
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    let cri = crate::cri::Cri::new(PathBuf::from("/nonexistent"));
    let client = crate::probe::Client::default();
    let target = crate::probe::Target { id: String::new(), ip: "127.0.0.1".to_owned() };
    let check = async |spec: String, good: bool, says: &str| {
        let pod = pod("p", &format!("containers: [{{name: c, image: i, livenessProbe: {{{spec}}}}}]"));
        let probe = pod.containers[0].liveness.clone().unwrap();
        let began = SystemTime::now();
        let (result, message) = crate::probe::probe(&cri, &client, &target, &probe).await;
        assert_eq!(result == kubelet_shim_reconcile::ProbeResult::Success, good, "{spec}: {message}");
        assert!(message.contains(says), "{spec}: {message}");
        assert!(began.elapsed().unwrap() < Duration::from_secs(2), "{spec} took too long");
    };
    let get =
        |path: &str| format!("httpGet: {{port: {port}, path: {path}, httpHeaders: [{{name: X-A, value: \"1\"}}]}}");
    check(get("/ok"), true, "").await;
    check(get("/near"), true, "").await;
    check(get("/away"), true, "302").await;
    check(get("/busy"), false, "HTTP probe failed with statuscode: 503 not up").await;
    check(get("/slow"), false, "timed out after 1 s").await;
    check(format!("tcpSocket: {{port: {port}}}"), true, "").await;
    check("tcpSocket: {port: 1}".to_owned(), false, "refused").await;
    check("httpGet: {port: 1}".to_owned(), false, "refused").await;
    check("grpc: {port: 1}".to_owned(), false, "health rpc failed").await;
    let first = requests.lock().unwrap()[0].to_ascii_lowercase();
    for line in [
        &format!("host: 127.0.0.1:{port}"),
        "user-agent: kube-probe/1.36",
        "accept: */*",
        "connection: close",
        "x-a: 1",
    ] {
        assert!(first.contains(line), "{line} is missing:\n{first}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_named() {
    let scratch = Scratch::new("endpoint");
    let answer = Agent::start(AgentConfig { cri: "tcp://host".to_owned(), ..scratch.config() }).await;
    assert!(answer.unwrap_err().to_string().contains("unix:///path/to/socket"));
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
