//! The programs that people use: `podwright run` and its verbs, the keeper alone.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tests_integration::{Ledger, Node, Options, Outcome, machine};

use crate::World;

/// A `podwright run` in a directory of its own.
struct Run {
    folder: tempfile::TempDir,
    run: tempfile::TempDir,
    places: Vec<String>,
}

impl Run {
    fn new() -> anyhow::Result<Run> {
        let folder = tempfile::Builder::new().prefix(&machine::scratch_prefix()).tempdir()?;
        let run = tempfile::Builder::new().prefix(&machine::scratch_prefix()).tempdir_in("/dev/shm")?;
        let path = |path: &Path| path.display().to_string();
        let places = vec![
            "--listen".into(),
            format!("unix://{}", path(&run.path().join("podwright.sock"))),
            "--root".into(),
            path(&folder.path().join("root")),
            "--run".into(),
            path(run.path()),
            "--pod-cidr".into(),
            "10.166.200.0/24".into(),
            "--bridge".into(),
            "pwtrun".into(),
            "--supervisor".into(),
            path(&machine::built("podwright-pod")?),
        ];
        Ok(Run { folder, run, places })
    }

    fn endpoint(&self) -> String {
        self.places[1].clone()
    }

    fn start(&self, file: &Path, arguments: &[&str]) -> anyhow::Result<Child> {
        Ok(Command::new(machine::built("podwright")?)
            .arg("run")
            .arg(file)
            .args(&self.places)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(self.folder.path().join("stderr"))?)
            .spawn()?)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    fn verb(&self, arguments: &[&str]) -> anyhow::Result<std::process::Output> {
        Ok(Command::new(machine::built("podwright")?)
            .args(arguments)
            .env("PODWRIGHT_ADDRESS", self.endpoint())
            .output()?)
    }

    fn cleanup(&self) -> Outcome {
        let output =
            Command::new(machine::built("podwright")?).arg("cleanup").arg("--images").args(&self.places).output()?;
        ensure!(output.status.success(), "cleanup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn hello() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello.yaml")
}

/// What curl gets, tried until it answers, at most `limit`.
async fn curl(url: &str, limit: Duration) -> anyhow::Result<String> {
    let began = Instant::now();
    loop {
        match machine::run("curl", &["-sS", "-m", "2", "-f", url]) {
            Ok(text) => return Ok(text),
            Err(error) if began.elapsed() > limit => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A test whose hostPort others could hold waits for it.
fn port_8080_is_free() -> bool {
    TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], 8080)), Duration::from_millis(200)).is_err()
}

/// Only one of these tests at a time: both bind port 8080.
static HELLO: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(crate) async fn hello_runs_and_ends_without_a_trace(_: Arc<World>) -> Outcome {
    let _alone = HELLO.lock().await;
    ensure!(port_8080_is_free(), "port 8080 is in use in the test's own network namespace");
    let run = Run::new()?;
    let mut child = run.start(&hello(), &[])?;
    let output = child.stdout.take().context("its output is a pipe")?;
    let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            sink.lock().expect("no holder panics").push(line);
        }
    });
    let answered = curl("http://127.0.0.1:8080", Duration::from_secs(30)).await;
    let text = |lines: &std::sync::Mutex<Vec<String>>| lines.lock().expect("no holder panics").join("\n");
    if answered.is_err() {
        let _ = child.kill();
        bail!("{:#}\n{}\n{}", answered.expect_err("checked"), text(&lines), run.said());
    }
    let began = Instant::now();
    while !(text(&lines) + &run.said()).to_lowercase().contains("ready") {
        ensure!(began.elapsed() < Duration::from_secs(60), "readiness is not told:\n{}\n{}", text(&lines), run.said());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let said = text(&lines) + &run.said();
    let address = said
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .find(|word| word.starts_with("10.166.200."))
        .context("the address is told")?
        .to_owned();
    curl(&format!("http://{address}:8080"), Duration::from_secs(20)).await.context("the pod's own address")?;
    machine::run("kill", &["-INT", &child.id().to_string()])?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "it did not end within 60 s of Ctrl-C:\n{}", run.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    ensure!(status.success(), "it ended with {status}:\n{}\n{}", text(&lines), run.said());
    ensure!(machine::run("ip", &["link", "show", "pwtrun"]).is_err(), "the bridge is left");
    ensure!(!run.run.path().join("podwright.sock").exists(), "the socket is left");
    let own = Ledger::take();
    ensure!(
        own.mentions("pwtrun").is_empty() && own.mentions("10.166.200.").is_empty(),
        "{:?}",
        own.mentions("pwtrun")
    );
    run.cleanup()
}

pub(crate) async fn hello_detached_is_reached_by_the_verbs(_: Arc<World>) -> Outcome {
    let _alone = HELLO.lock().await;
    ensure!(port_8080_is_free(), "port 8080 is in use in the test's own network namespace");
    let run = Run::new()?;
    let checked = detached(&run).await;
    let cleaned = run.cleanup();
    checked?;
    cleaned?;
    ensure!(machine::run("ip", &["link", "show", "pwtrun"]).is_err(), "the bridge is left");
    Ok(())
}

async fn detached(run: &Run) -> Outcome {
    let status = run.start(&hello(), &["--detach"])?.wait()?;
    ensure!(status.success(), "run --detach: {status}: {}", run.said());
    curl("http://127.0.0.1:8080", Duration::from_secs(30)).await?;
    let said = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = run.verb(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let table = said(&["ps"])?;
    ensure!(table.contains("hello") && table.contains("10.166.200."), "{table}");
    ensure!(!said(&["logs", "hello", "-c", "web"])?.is_empty(), "no log of web");
    ensure!(
        said(&["exec", "hello", "-c", "web", "--", "/podwright", "demo", "print", "2"])?.lines().count() >= 2,
        "exec prints nothing"
    );
    let failed = run.verb(&["exec", "hello", "-c", "web", "--", "/podwright", "demo", "exit", "7"])?;
    ensure!(failed.status.code() == Some(7), "exec's code is lost: {failed:?}");
    said(&["delete", "hello"])?;
    ensure!(!said(&["ps"])?.contains("hello"), "the pod is still listed");
    Ok(())
}

pub(crate) async fn liveness_restarts_and_readiness_does_not(_: Arc<World>) -> Outcome {
    let _alone = HELLO.lock().await;
    let run = Run::new()?;
    let file = run.folder.path().join("sick.yaml");
    std::fs::write(&file, include_str!("sick.yaml"))?;
    let checked = sick(&run, &file).await;
    let cleaned = run.cleanup();
    checked?;
    cleaned
}

async fn sick(run: &Run, file: &Path) -> Outcome {
    // One of its containers is never ready, so the command would wait for ever; ended by SIGTERM, it leaves the pod.
    let mut child = run.start(file, &["--detach"])?;
    let checked = restarted(run).await;
    machine::run("kill", &["-TERM", &child.id().to_string()])?;
    child.wait()?;
    checked
}

async fn restarted(run: &Run) -> Outcome {
    let began = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let output = run.verb(&["ps", "-o", "json"])?;
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let restarts = |name: &str| -> i64 { find(&list, name).and_then(|one| one["restarts"].as_i64()).unwrap_or(-1) };
        if restarts("dying") >= 2 {
            ensure!(restarts("unready") == 0, "readiness restarted a container: {list}");
            ensure!(find(&list, "unready").is_some_and(|one| one["ready"] == serde_json::json!(false)), "{list}");
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "liveness restarted nothing: {list}\n{}", run.said());
    }
}

/// The first object below `value` whose name is `name` and that counts restarts.
fn find<'a>(value: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    match value {
        serde_json::Value::Object(fields) => {
            if fields.get("name").is_some_and(|own| own == name) && fields.contains_key("restarts") {
                return Some(value);
            }
            fields.values().find_map(|field| find(field, name))
        }
        serde_json::Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}

pub(crate) async fn bad_input_gets_one_message(_: Arc<World>) -> Outcome {
    let run = Run::new()?;
    let cases: &[(&str, &str, &[&str])] = &[
        ("broken", "apiVersion: v1\nkind: Pod\nmetadata: {name: a\n", &["broken.yaml", ":"]),
        (
            "unknown",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    imige: x\n",
            &["unknown.yaml:7", "imige", "image"],
        ),
        (
            "absent",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    image: localhost:1/none:1\n",
            &["localhost:1/none:1"],
        ),
        (
            "path",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    image: podwright.local/demo:1\n    volumeMounts: [{name: v, mountPath: /v}]\n  volumes:\n  - name: v\n    hostPath: {path: /no/such/path, type: Directory}\n",
            &["/no/such/path"],
        ),
    ];
    for (name, text, words) in cases {
        let file = run.folder.path().join(format!("{name}.yaml"));
        std::fs::write(&file, text)?;
        let mut child = run.start(&file, &["--timeout", "15s"])?;
        let status = child.wait()?;
        let said = run.said();
        ensure!(!status.success(), "{name}: it succeeded: {said}");
        for word in *words {
            ensure!(said.contains(word), "{name}: {word:?} is not told: {said}");
        }
        ensure!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{name}: {said}");
    }
    let output = Command::new(machine::built("podwright")?).args(["run", "/no/such/file.yaml"]).output()?;
    ensure!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("/no/such/file.yaml"),
        "{output:?}"
    );
    let output = run.verb(&["ps"])?;
    ensure!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains(&run.endpoint()),
        "{output:?}"
    );
    overlapping(&run)?;
    without_root()?;
    run.cleanup()
}

/// A pod network that the host already routes is refused by the route's name.
fn overlapping(run: &Run) -> Outcome {
    machine::run("ip", &["link", "add", "pwtaken", "type", "bridge"])?;
    machine::run("ip", &["addr", "add", "10.166.220.1/24", "dev", "pwtaken"])?;
    machine::run("ip", &["link", "set", "pwtaken", "up"])?;
    let mut places = run.places.clone();
    places[7] = "10.166.220.0/22".into();
    let output = Command::new(machine::built("podwright")?).arg("node").args(&places).output();
    machine::run("ip", &["link", "del", "pwtaken"])?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("10.166.220.0/22") && said.contains("pwtaken"), "{said}");
    Ok(())
}

fn without_root() -> Outcome {
    let folder = tempfile::Builder::new().prefix(&machine::scratch_prefix()).tempdir()?;
    let program = folder.path().join("podwright");
    std::fs::copy(machine::built("podwright")?, &program)?;
    machine::run("chmod", &["-R", "a+rx", &folder.path().display().to_string()])?;
    let output = machine::output(
        "setpriv",
        &["--reuid=65534", "--regid=65534", "--clear-groups", &program.display().to_string(), "node"],
    )?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("root"), "{said}");
    Ok(())
}

pub(crate) async fn a_missing_kernel_feature_is_named(_: Arc<World>) -> Outcome {
    let run = Run::new()?;
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsopen", "-e", "inject=fsopen:error=ENODEV"])
        .arg(machine::built("podwright")?)
        .arg("node")
        .args(&run.places)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("overlay"), "{said}");
    run.cleanup()
}

pub(crate) async fn the_keeper_alone_keeps_a_directory(_: Arc<World>) -> Outcome {
    let _alone = HELLO.lock().await;
    let node = Node::start(Options { arguments: vec!["--keeper".into(), "off".into()], ..Default::default() }).await?;
    let (manifests, state) = (node.scratch().join("manifests"), node.scratch().join("keeper"));
    std::fs::create_dir(&manifests)?;
    let start = || -> anyhow::Result<Child> {
        let path = |path: &Path| path.display().to_string();
        Ok(Command::new(machine::built("podwright")?)
            .args(["kubelet", "--manifests", &path(&manifests), "--runtime-endpoint", &node.endpoint()])
            .args(["--root", &path(&state), "--log-dir", &path(&node.scratch().join("pod-logs"))])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(node.scratch().join("keeper.log"))?)
            .spawn()?)
    };
    let mut keeper = start()?;
    let checked = kept(&node, &manifests, &mut keeper, &start).await;
    let _ = keeper.kill();
    keeper.wait()?;
    checked.with_context(|| std::fs::read_to_string(node.scratch().join("keeper.log")).unwrap_or_default())
}

async fn kept(
    node: &Node,
    manifests: &Path,
    keeper: &mut Child,
    start: &impl Fn() -> anyhow::Result<Child>,
) -> Outcome {
    let text = std::fs::read_to_string(hello())?;
    std::fs::write(manifests.join(".new"), &text)?;
    std::fs::rename(manifests.join(".new"), manifests.join("hello.yaml"))?;
    curl("http://127.0.0.1:8080", Duration::from_secs(30)).await?;
    let client = node.client().await?;
    let containers = || async {
        let list = client
            .runtime
            .clone()
            .list_containers(runtime_cri_api::v1::ListContainersRequest::default())
            .await?
            .into_inner();
        let mut ids: Vec<String> = list.containers.into_iter().map(|one| one.id).collect();
        ids.sort();
        anyhow::Ok(ids)
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = containers().await?;
    keeper.kill()?;
    keeper.wait()?;
    *keeper = start()?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(containers().await? == before, "a restart of the keeper restarted a container");
    std::fs::remove_file(manifests.join("hello.yaml"))?;
    let began = Instant::now();
    while !containers().await?.is_empty() {
        ensure!(began.elapsed() < Duration::from_secs(60), "the pod outlives its manifest");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
