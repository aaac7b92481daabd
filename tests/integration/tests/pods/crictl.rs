//! crictl 1.36 as somebody uses it who has just installed Podwright: each subcommand once, by what it prints.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tests_integration::image::{self, Dialect, Packing};
use tests_integration::node::free_port;
use tests_integration::registry::Registry;
use tests_integration::{Node, Options, Outcome, machine};

use crate::{BUSYBOX, World};

const SOON: Duration = Duration::from_secs(30);

/// crictl 1.36: the one on PATH or in `PODWRIGHT_TEST_CRICTL`.
pub(crate) fn program() -> Option<PathBuf> {
    std::env::var_os("PODWRIGHT_TEST_CRICTL")
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .or_else(|| machine::find("crictl"))
}

/// crictl with a node, and a directory for its files.
struct Crictl {
    program: PathBuf,
    endpoint: String,
    folder: tempfile::TempDir,
}

/// A sandbox as crictl made it, with the file that it was made from.
struct Pod {
    id: String,
    file: String,
}

impl Crictl {
    fn of(node: &Node) -> anyhow::Result<Crictl> {
        let program = program().context("looked for before")?;
        let folder = tempfile::Builder::new().prefix(&machine::scratch_prefix()).tempdir()?;
        Ok(Crictl { program, endpoint: node.endpoint(), folder })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--runtime-endpoint", &self.endpoint, "--config", "/dev/null", "--timeout", "20s"])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.command(arguments).output().context("crictl can be run")
    }

    /// What it prints; an error unless it ends with 0.
    fn call(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.output(arguments)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("crictl {arguments:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// What it prints, as JSON.
    fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.call(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("crictl {arguments:?} prints no JSON: {text}"))
    }

    /// What it complains about; an error if it does not.
    fn refused(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.output(arguments)?;
        ensure!(!output.status.success(), "crictl {arguments:?} succeeded");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What it prints when `input` is typed into it; with `terminal`, on one of its own, each line at a shell's prompt.
    fn typed(&self, input: &str, terminal: Terminal, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(arguments);
        if terminal != Terminal::None {
            let words: Vec<String> = std::iter::once(command.get_program())
                .chain(command.get_args())
                .map(|word| format!("'{}'", word.to_string_lossy()))
                .collect();
            command = Command::new("script");
            command.args(["-qefc", &words.join(" "), "/dev/null"]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("stdin is a pipe")?;
        let mut said = Said::of(child.stdout.take().context("stdout is a pipe")?);
        let child = Running(child);
        for line in input.split_inclusive('\n') {
            if terminal == Terminal::Attached {
                // The prompt went by before this client came: an empty line brings another.
                stdin.write_all(b"\n")?;
            }
            if terminal != Terminal::None {
                said.wait_for("# ")?;
            }
            stdin.write_all(line.as_bytes())?;
        }
        drop(stdin);
        let output = child.ended(SOON)?;
        Ok(said.all()? + &String::from_utf8_lossy(&output.stderr))
    }

    fn write(&self, name: &str, value: &Value) -> anyhow::Result<String> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, serde_json::to_vec(value)?)?;
        Ok(path.display().to_string())
    }

    fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        let file = self.write(&format!("{name}.json"), &self.pod_config(name))?;
        Ok(Pod { id: self.call(&["runp", &file])?.trim().to_owned(), file })
    }

    fn pod_config(&self, name: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "crictl", "attempt": 1, "uid": format!("uid-{name}")},
            "hostname": name, "log_directory": self.folder.path().join("logs"), "linux": {}, "labels": {"app": name, "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "crictl"},
        })
    }

    /// A running container of `pod`, its configuration with the fields of `more`.
    fn container(&self, pod: &Pod, name: &str, script: &str, more: Value) -> anyhow::Result<String> {
        let file = self.write(&format!("{name}-container.json"), &container_config(name, script, more))?;
        let id = self.call(&["create", &pod.id, &file, &pod.file])?.trim().to_owned();
        ensure!(self.call(&["start", &id])?.trim() == id, "start does not tell the id");
        Ok(id)
    }

    fn end(&self, pod: &Pod) -> Outcome {
        self.call(&["stopp", &pod.id])?;
        self.call(&["rmp", &pod.id])?;
        Ok(())
    }
}

/// Where crictl's standard input comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Terminal {
    /// A pseudo-terminal, made by `script`, of a shell that has yet to begin.
    Own,
    /// Such a one, of a shell that is at its prompt.
    Attached,
    /// A pipe.
    None,
}

/// What a child says, read while it says it.
struct Said {
    pieces: Receiver<Vec<u8>>,
    bytes: Vec<u8>,
    /// What comes from here on has not been waited for.
    heard: usize,
}

impl Said {
    fn of(mut stream: impl Read + Send + 'static) -> Said {
        let (sender, pieces) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                // Nobody listens any more: read on, or the child would wait for a reader.
                let _ = sender.send(buffer[..length].to_vec());
            }
        });
        Said { pieces, bytes: Vec::new(), heard: 0 }
    }

    /// Returns once it says `word`, behind what was waited for before.
    fn wait_for(&mut self, word: &str) -> Outcome {
        let until = Instant::now() + SOON;
        loop {
            let new = &self.bytes[self.heard..];
            if new.windows(word.len()).any(|window| window == word.as_bytes()) {
                self.heard = self.bytes.len();
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            let piece = self.pieces.recv_timeout(left);
            let piece = piece.with_context(|| format!("no {word:?} in {:?}", String::from_utf8_lossy(new)))?;
            self.bytes.extend(piece);
        }
    }

    /// Everything, once it says no more.
    fn all(mut self) -> anyhow::Result<String> {
        loop {
            match self.pieces.recv_timeout(SOON) {
                Ok(piece) => self.bytes.extend(piece),
                Err(RecvTimeoutError::Disconnected) => return Ok(String::from_utf8_lossy(&self.bytes).into_owned()),
                Err(RecvTimeoutError::Timeout) => bail!("somebody has its output still open"),
            }
        }
    }
}

/// A child that doesn't outlive its test.
struct Running(Child);

impl Running {
    /// Its output, read while it runs.
    fn ended(mut self, limit: Duration) -> anyhow::Result<Output> {
        let read = |stream: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
                bytes
            })
        };
        let out = read(self.0.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>));
        let err = read(self.0.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>));
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.0.try_wait()? {
                break status;
            }
            if began.elapsed() > limit {
                let _ = self.0.kill();
                bail!("crictl did not end within {limit:?}: {:?}", out.join().map(String::from_utf8));
            }
            pause(Duration::from_millis(10));
        };
        let (Ok(stdout), Ok(stderr)) = (out.join(), err.join()) else { bail!("a reader panicked") };
        Ok(Output { status, stdout, stderr })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn container_config(name: &str, script: &str, more: Value) -> Value {
    let mut config = json!({
        "metadata": {"name": name}, "image": {"image": BUSYBOX}, "log_path": format!("{name}.log"), "linux": {},
        "command": ["/bin/sh", "-c", script], "labels": {"container": name, "io.kubernetes.pod.name": "of-crictl"},
    });
    if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
        config.extend(more);
    }
    config
}

#[expect(clippy::disallowed_methods, reason = "a test's own thread; nobody else waits for it")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Tries `check` until it holds, at most [`SOON`].
fn until(mut check: impl FnMut() -> anyhow::Result<bool>, what: &str) -> Outcome {
    let began = Instant::now();
    while !check()? {
        ensure!(began.elapsed() < SOON, "{what}: not within {SOON:?}");
        pause(Duration::from_millis(50));
    }
    Ok(())
}

pub(crate) async fn version_and_info_tell_who_serves(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let version = crictl.call(&["version"])?;
    for word in ["RuntimeName:  podwright", "RuntimeApiVersion:  v1"] {
        ensure!(version.contains(word), "{word:?} is not in {version}");
    }
    let info = crictl.json(&["info"])?;
    let conditions = info["status"]["conditions"].as_array().context("info shows conditions")?;
    for name in ["RuntimeReady", "NetworkReady"] {
        ensure!(
            conditions.iter().any(|one| one["type"] == name && one["status"] == true),
            "{name} is not true: {conditions:?}"
        );
    }
    ensure!(info["runtimeHandlers"].as_array().is_some_and(|all| !all.is_empty()), "no runtime handler: {info}");
    Ok(())
}

pub(crate) async fn config_and_completion_need_no_node(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let file = crictl.folder.path().join("crictl.yaml").display().to_string();
    std::fs::write(&file, "")?;
    let call = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = Command::new(&crictl.program).args(["--config", &file]).args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    call(&["config", "--set", &format!("runtime-endpoint={}", crictl.endpoint)])?;
    ensure!(call(&["config", "--get", "runtime-endpoint"])?.trim() == crictl.endpoint, "config forgot the endpoint");
    ensure!(call(&["config", "--list"])?.contains("podwright.sock"), "config --list");
    // From here on the file alone says where the node is.
    ensure!(call(&["version"])?.contains("podwright"), "the endpoint of the file is not used");
    for shell in ["bash", "zsh", "fish"] {
        ensure!(call(&["completion", shell])?.contains("crictl"), "completion {shell}");
    }
    Ok(())
}

pub(crate) async fn runtime_config_tells_the_driver_and_takes_a_pod_network(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let told = crictl.call(&["runtime-config"])?;
    ensure!(told.contains("cgroup driver:") && told.contains("CGROUPFS"), "{told}");
    crictl.call(&["update-runtime-config", "--pod-cidr", &world.node.pod_cidr])?;
    Ok(())
}

pub(crate) async fn images_are_pulled_listed_inspected_and_removed(world: Arc<World>) -> Outcome {
    let registry = Registry::start(&world.node.scratch().join("crictl-registry")).await?;
    let image = image::image(Dialect::Docker, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
    for tag in ["1", "2"] {
        registry.push("library/busybox", tag, &image).await?;
    }
    let node = Node::start(Options { mirror: Some(registry.address.clone()), ..Default::default() }).await?;
    let crictl = Crictl::of(&node)?;
    let pulled = crictl.call(&["pull", "busybox:1"])?;
    ensure!(pulled.contains("Image is up to date for") && pulled.contains("sha256:"), "{pulled}");
    crictl.call(&["pull", "busybox:2"])?;
    let table = crictl.call(&["images"])?;
    for word in ["IMAGE", "TAG", "IMAGE ID", "SIZE", "docker.io/library/busybox"] {
        ensure!(table.contains(word), "{word:?} is not in {table}");
    }
    let digests = crictl.call(&["images", "--digests", "busybox:1"])?;
    ensure!(digests.contains(&image.manifest.digest()[7..20]), "no digest: {digests}");
    let id = crictl.call(&["images", "-q"])?.trim().to_owned();
    ensure!(id.lines().count() == 1 && id.starts_with("sha256:"), "one image with two tags: {id}");
    for reference in ["busybox:1", &id, &id.trim_start_matches("sha256:")[..12]] {
        let shown = crictl.json(&["inspecti", reference])?;
        ensure!(shown["status"]["id"] == id.as_str(), "inspecti {reference}: {shown}");
        let tags = shown["status"]["repoTags"].as_array().map_or(0, Vec::len);
        ensure!(tags == 2, "inspecti {reference} shows {tags} tags");
        ensure!(shown.to_string().contains("FROM_IMAGE=yes"), "inspecti does not show the configuration");
    }
    ensure!(crictl.refused(&["inspecti", "nothing:1"])?.contains("no such image"), "inspecti of nothing");
    ensure!(crictl.refused(&["pull", "busybox:none"])?.contains("busybox:none"), "the missing image is not named");
    let removed = crictl.call(&["rmi", "busybox:1"])?;
    ensure!(removed.contains("Deleted: docker.io/library/busybox:1"), "{removed}");
    ensure!(!crictl.call(&["images"])?.contains("busybox"), "rmi left the image");
    crictl.call(&["pull", "busybox:2"])?;
    crictl.call(&["rmi", "--prune"])?;
    ensure!(!crictl.call(&["images"])?.contains("busybox"), "rmi --prune left an unused image");
    Ok(())
}

pub(crate) async fn imagefsinfo_tells_what_images_take(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let told = crictl.json(&["imagefsinfo"])?;
    let systems = told["status"]["imageFilesystems"].as_array().context("it lists image file systems")?;
    let first = systems.first().context("there is one")?;
    ensure!(first["fsId"]["mountpoint"].as_str().is_some_and(|place| place.starts_with('/')), "{told}");
    let bytes: u64 = first["usedBytes"]["value"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    ensure!(bytes > 500_000, "busybox takes {bytes} bytes: {told}");
    Ok(())
}

pub(crate) async fn a_sandbox_is_run_listed_inspected_stopped_and_removed(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("walk")?;
    let table = crictl.call(&["pods", "--name", "^walk$"])?;
    for word in ["POD ID", &pod.id[..13], "Ready", "walk", "crictl", "1"] {
        ensure!(table.contains(word), "{word:?} is not in {table}");
    }
    ensure!(crictl.call(&["pods", "-q", "--label", "app=walk"])?.trim() == pod.id, "pods --label");
    let shown = crictl.json(&["inspectp", &pod.id[..10]])?;
    ensure!(shown["status"]["network"]["ip"].as_str().is_some_and(|ip| ip.starts_with("10.166.")), "{shown}");
    ensure!(shown["status"]["state"] == "SANDBOX_READY" && shown["info"].is_object(), "{shown}");
    for _ in 0..2 {
        ensure!(crictl.call(&["stopp", &pod.id])?.contains(&pod.id), "stopp does not tell the pod");
    }
    ensure!(crictl.call(&["pods", "--name", "walk"])?.contains("NotReady"), "a stopped sandbox is ready");
    ensure!(crictl.call(&["rmp", &pod.id])?.contains(&pod.id), "rmp does not tell the pod");
    ensure!(!crictl.refused(&["inspectp", &pod.id])?.is_empty(), "a removed sandbox is shown");
    Ok(())
}

pub(crate) async fn a_container_is_created_started_listed_inspected_stopped_and_removed(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("life")?;
    let file = crictl.write("life-container.json", &container_config("c", "exec sleep 1000", json!({})))?;
    let id = crictl.call(&["create", &pod.id, &file, &pod.file])?.trim().to_owned();
    let listed = crictl.call(&["ps", "-a", "--pod", &pod.id])?;
    ensure!(listed.contains("Created") && listed.contains(&id[..13]), "{listed}");
    crictl.call(&["start", &id])?;
    let table = crictl.call(&["ps", "--pod", &pod.id])?;
    for word in ["CONTAINER", "IMAGE", "STATE", "NAME", "ATTEMPT", "POD ID", "Running", "of-crictl"] {
        ensure!(table.contains(word), "{word:?} is not in {table}");
    }
    let shown = crictl.json(&["inspect", &id])?;
    ensure!(shown["status"]["state"] == "CONTAINER_RUNNING", "{shown}");
    ensure!(shown["info"]["pid"].as_i64().is_some_and(|pid| pid > 1), "inspect shows no pid: {}", shown["info"]);
    ensure!(shown["status"]["logPath"].as_str().is_some_and(|path| path.ends_with("/c.log")), "{shown}");
    ensure!(!crictl.refused(&["rm", &id])?.is_empty(), "rm takes a running container away");
    ensure!(crictl.call(&["stop", "-t", "0", &id])?.trim() == id, "stop does not tell the id");
    let table = crictl.call(&["ps", "-a", "--id", &id])?;
    ensure!(table.contains("Exited"), "{table}");
    ensure!(crictl.json(&["inspect", &id])?["status"]["exitCode"] == 137, "the exit code");
    crictl.call(&["rm", &id])?;
    let running = crictl.container(&pod, "again", "exec sleep 1000", json!({}))?;
    crictl.call(&["rm", "-f", &running])?;
    ensure!(crictl.call(&["ps", "-aq", "--pod", &pod.id])?.trim().is_empty(), "containers are left");
    crictl.end(&pod)
}

pub(crate) async fn run_makes_both_at_once(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.write("both.json", &crictl.pod_config("both"))?;
    let file = crictl.write("container.json", &container_config("c", "echo hello; exec sleep 1000", json!({})))?;
    let id = crictl.call(&["run", "--no-pull", &file, &pod])?.trim().to_owned();
    let id = match id.len() {
        64 => id,
        _ => crictl.call(&["ps", "-q", "--label", "container=c"])?.trim().to_owned(),
    };
    until(|| Ok(crictl.call(&["logs", &id])?.contains("hello")), "its log")?;
    let sandbox = crictl.json(&["inspect", &id])?["info"]["sandboxID"].as_str().map(str::to_owned);
    let sandbox = match sandbox {
        Some(id) => id,
        None => crictl.call(&["pods", "-q", "--name", "both"])?.trim().to_owned(),
    };
    ensure!(crictl.call(&["rmp", "-f", &sandbox])?.contains("Removed sandbox"), "rmp -f");
    Ok(())
}

pub(crate) async fn logs_are_cut_followed_and_dated(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("logs")?;
    let script =
        "for i in 1 2 3; do echo line $i; done; echo wrong >&2; while [ ! -e /go ]; do sleep 0.1; done; echo last";
    let id = crictl.container(&pod, "talker", script, json!({}))?;
    until(|| Ok(crictl.output(&["logs", &id])?.stderr.ends_with(b"wrong\n")), "the first lines")?;
    ensure!(crictl.call(&["logs", &id])? == "line 1\nline 2\nline 3\n", "stdout apart from stderr");
    ensure!(crictl.call(&["logs", "--tail", "2", &id])? == "line 3\n", "--tail counts the lines of both streams");
    ensure!(crictl.call(&["logs", "-s", "stderr", &id])?.is_empty(), "--stream shows the other stream");
    let dated = crictl.call(&["logs", "-t", &id])?;
    let (date, rest) = dated.split_once(' ').context("a date and a line")?;
    ensure!(date.len() > 20 && date.contains('T') && rest.starts_with("line 1"), "{dated}");
    for (since, lines) in [("1h", 3), ("2000-01-02T03:04:05Z", 3), ("2200-01-02T03:04:05Z", 0)] {
        ensure!(crictl.call(&["logs", "--since", since, &id])?.lines().count() == lines, "--since {since}");
    }
    ensure!(crictl.call(&["logs", "--limit-bytes", "8", &id])?.len() <= 8, "--limit-bytes");
    let mut child = crictl.command(&["logs", "-f", &id]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
    let child = Running(child);
    for number in 1..=3 {
        ensure!(lines.next().context("a line")?? == format!("line {number}"), "logs -f");
    }
    // A rotation amid: crictl asks for it as the kubelet does, and the follower goes on in the new file.
    let path = crictl.folder.path().join("logs/talker.log");
    std::fs::rename(&path, path.with_extension("old"))?;
    crictl.call(&["logs", "--reopen", &id])?;
    ensure!(path.exists(), "--reopen made no new file");
    crictl.call(&["exec", "-s", &id, "touch", "/go"])?;
    ensure!(lines.next().context("a line")?? == "last", "logs -f does not see the line after the rotation");
    ensure!(lines.next().is_none(), "logs -f goes on after the end");
    child.ended(SOON)?;
    crictl.end(&pod)
}

pub(crate) async fn exec_brings_output_and_code_over_both_transports(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("exec")?;
    let id = crictl.container(&pod, "c", "exec sleep 1000", json!({}))?;
    // It prints both streams, each with a line's end of its own.
    ensure!(crictl.call(&["exec", "-s", &id, "sh", "-c", "echo a; echo b >&2"])? == "a\n\nb\n\n", "exec -s");
    let failed = crictl.refused(&["exec", "-s", &id, "sh", "-c", "echo no >&2; exit 7"])?;
    ensure!(failed.contains("exited with 7: no"), "exec -s: {failed}");
    let late = crictl.refused(&["exec", "-s", "--timeout", "1", &id, "sleep", "1000"])?;
    ensure!(late.contains("DeadlineExceeded"), "exec -s --timeout: {late}");
    for transport in ["spdy", "websocket"] {
        let over = ["exec", "-r", transport];
        let call = |more: &[&str]| crictl.output(&[&over[..], more].concat());
        let both = call(&[&id, "sh", "-c", "echo out; echo err >&2"])?;
        ensure!(both.status.success() && both.stdout == b"out\n" && both.stderr == b"err\n", "{transport}: {both:?}");
        let failed = call(&[&id, "sh", "-c", "exit 5"])?;
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        ensure!(!failed.status.success() && said.contains("exit code 5"), "{transport}: {failed:?}");
        let typed = crictl.typed("one\ntwo\n", Terminal::None, &["exec", "-i", "-r", transport, &id, "sort", "-r"])?;
        ensure!(typed == "two\none\n", "{transport}: what is typed comes back as {typed:?}");
        let missing = call(&[&id, "/no/such/program"])?;
        ensure!(
            !missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("/no/such/program"),
            "{transport}: {missing:?}"
        );
    }
    let unknown = crictl.refused(&["exec", "0123456789ab", "true"])?;
    ensure!(unknown.contains("0123456789ab"), "{unknown}");
    crictl.end(&pod)
}

pub(crate) async fn exec_on_a_terminal_has_its_size_and_ends_with_exit(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("terminal")?;
    let id = crictl.container(&pod, "c", "exec sleep 1000", json!({}))?;
    for transport in ["spdy", "websocket"] {
        let input = "tty; stty size\necho $((6*7))-$TERM\nexit\n";
        let said = crictl.typed(input, Terminal::Own, &["exec", "-it", "-r", transport, &id, "/bin/sh"])?;
        ensure!(said.contains("/dev/pts/") && said.contains("42-"), "{transport}: {said}");
    }
    crictl.end(&pod)
}

pub(crate) async fn a_folder_is_copied_in_and_out_by_tar(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("copy")?;
    let id = crictl.container(&pod, "c", "exec sleep 1000", json!({}))?;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    std::fs::create_dir(crictl.folder.path().join("data"))?;
    std::fs::write(crictl.folder.path().join("data/blob"), &bytes)?;
    let (folder, back) = (crictl.folder.path().display().to_string(), crictl.folder.path().join("back"));
    std::fs::create_dir(&back)?;
    for transport in ["spdy", "websocket"] {
        let prefix = format!("{} -r {} -c /dev/null exec -r {transport}", crictl.program.display(), crictl.endpoint);
        let back = back.display();
        let into = format!("tar -C {folder} -cf - data | {prefix} -i {id} tar -C /tmp -xf -");
        let out = format!(
            "{prefix} {id} tar -C /tmp -cf - data | tar -C {back} -xf - && cmp {back}/data/blob {folder}/data/blob"
        );
        for script in [into, out, format!("rm -r {back}/data")] {
            machine::run("sh", &["-c", &script]).with_context(|| transport.to_owned())?;
        }
        crictl.call(&["exec", "-s", &id, "rm", "-r", "/tmp/data"])?;
    }
    crictl.end(&pod)
}

pub(crate) async fn attach_reads_and_writes(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("attach")?;
    for transport in ["spdy", "websocket"] {
        let name = format!("echo-{transport}");
        let more = json!({"stdin": true, "stdin_once": true});
        let id = crictl.container(&pod, &name, "while read -r word; do echo got $word; done; echo bye", more)?;
        let said = crictl.typed("one\ntwo\n", Terminal::None, &["attach", "-i", "-r", transport, &id])?;
        ensure!(said == "got one\ngot two\nbye\n", "{transport}: {said:?}");
        until(|| Ok(crictl.json(&["inspect", &id])?["status"]["exitCode"] == 0), "it ends with its input")?;
        let log = std::fs::read_to_string(crictl.folder.path().join(format!("logs/{name}.log")))?;
        ensure!(log.contains("stdout F got one") && log.contains("stdout F bye"), "the log lacks lines: {log}");
        let gone = crictl.refused(&["attach", "-r", transport, &id])?;
        ensure!(gone.contains(&id[..12]), "attach to an ended container: {gone}");
    }
    let id = crictl.container(&pod, "shell", "exec /bin/sh -i", json!({"stdin": true, "tty": true}))?;
    let said = crictl.typed("echo $((6*7)); exit\n", Terminal::Attached, &["attach", "-it", &id])?;
    ensure!(said.contains("42"), "attach -it: {said}");
    crictl.end(&pod)
}

pub(crate) async fn port_forward_reaches_a_server_in_the_pod(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("forward")?;
    let script = "mkdir -p /srv; echo forwarded > /srv/index.html; exec httpd -f -p 127.0.0.1:8080 -h /srv";
    crictl.container(&pod, "c", script, json!({}))?;
    for transport in ["spdy", "websocket"] {
        let port = free_port()?;
        let ports = format!("{port}:8080");
        let child = crictl
            .command(&["port-forward", "-r", transport, &pod.id, &ports])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let child = Running(child);
        until(|| Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()), "crictl listens")?;
        let url = format!("http://127.0.0.1:{port}/");
        for _ in 0..5 {
            let page = machine::run("curl", &["-sS", "-m", "5", "-f", &url]).context(transport)?;
            ensure!(page == "forwarded\n", "{transport}: {page}");
        }
        drop(child);
    }
    crictl.end(&pod)
}

pub(crate) async fn stats_of_containers_and_pods_count(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("stats")?;
    let script = "dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null; while true; do :; done";
    let id = crictl.container(&pod, "busy", script, json!({}))?;
    let mut told = Value::Null;
    let counted = || {
        told = crictl.json(&["stats", "-o", "json", &id])?;
        let least = [
            ("/cpu/usageCoreNanoSeconds", 1_000_000),
            ("/memory/workingSetBytes", 1_000),
            ("/writableLayer/usedBytes", 3 << 20),
        ];
        Ok(least.into_iter().all(|(place, least)| {
            let figure = told.pointer(&format!("/stats/0{place}/value")).and_then(Value::as_str);
            figure.and_then(|text| text.parse::<u64>().ok()).is_some_and(|figure| figure >= least)
        }))
    };
    until(counted, "what it does is counted").with_context(|| told.to_string())?;
    let table = crictl.call(&["stats", &id])?;
    let row = table.lines().find(|line| line.starts_with(&id[..13])).context("a row of it")?;
    ensure!(table.contains("CPU %") && row.contains("busy"), "{table}");
    let percent: f64 = row.split_whitespace().nth(2).and_then(|word| word.parse().ok()).unwrap_or(0.0);
    ensure!(percent > 5.0, "an endless loop takes {percent} %: {table}");
    let table = crictl.call(&["statsp", &pod.id])?;
    ensure!(table.contains(&pod.id[..13]) && table.contains("stats"), "{table}");
    let told = crictl.json(&["statsp", "-o", "json", &pod.id])?;
    let linux = &told["stats"][0]["linux"];
    ensure!(linux["network"]["defaultInterface"]["name"] == "eth0", "{linux}");
    ensure!(linux["containers"].as_array().map_or(0, Vec::len) == 1, "{linux}");
    crictl.end(&pod)
}

pub(crate) async fn metrics_have_descriptors_and_values(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("metrics")?;
    crictl.container(&pod, "c", "exec sleep 1000", json!({}))?;
    let told = crictl.json(&["metricdescs"])?;
    let all = told["descriptors"].as_array().context("a list of descriptors")?;
    let label_keys = |name: &str| -> Option<usize> {
        all.iter().find(|one| one["name"] == name)?.get("labelKeys")?.as_array().map(Vec::len)
    };
    let metrics = crictl.json(&["metricsp"])?;
    let own = metrics["podMetrics"]
        .as_array()
        .and_then(|pods| pods.iter().find(|one| one["podSandboxId"] == pod.id.as_str()))
        .with_context(|| format!("no metrics of the pod: {metrics}"))?;
    let container = &own["containerMetrics"][0]["metrics"];
    let values = container.as_array().with_context(|| format!("no metrics of the container: {own}"))?;
    ensure!(values.iter().any(|one| one["name"] == "container_memory_working_set_bytes"), "{container}");
    for one in values.iter().chain(own["metrics"].as_array().into_iter().flatten()) {
        let name = one["name"].as_str().context("a metric has a name")?;
        let keys = label_keys(name).with_context(|| format!("{name} has no descriptor"))?;
        let labels = one["labelValues"].as_array().map_or(0, Vec::len);
        ensure!(keys == labels, "{name}: {keys} keys, {labels} values");
    }
    crictl.end(&pod)
}

pub(crate) async fn events_tell_a_container_s_life(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let template = "{{.containerId}} {{.containerEventType}}";
    let mut child = crictl
        .command(&["events", "-o", "go-template", "--template", template])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = child.stdout.take().context("a pipe")?;
    let child = Running(child);
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    // The stream is open once it tells of something: pods of other tests do as well as ours.
    let opening = || {
        crictl.end(&crictl.pod("opening")?)?;
        Ok(lines.try_recv().is_ok())
    };
    until(opening, "the stream opens")?;
    let pod = crictl.pod("events")?;
    let id = crictl.container(&pod, "c", "exit 0", json!({}))?;
    let seen: &mut Vec<String> = &mut Vec::new();
    let mut wait = |wanted: &str| -> Outcome {
        let line = format!("{id} {wanted}");
        until(
            || {
                seen.extend(lines.try_iter());
                Ok(seen.contains(&line))
            },
            &line,
        )
    };
    wait("CONTAINER_STOPPED_EVENT")?;
    crictl.call(&["rm", &id])?;
    wait("CONTAINER_DELETED_EVENT")?;
    let own: Vec<&str> = seen.iter().filter_map(|line| line.strip_prefix(id.as_str())).map(str::trim).collect();
    let expected = ["CREATED", "STARTED", "STOPPED", "DELETED"].map(|word| format!("CONTAINER_{word}_EVENT"));
    ensure!(own == expected, "{own:?}");
    drop(child);
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    crictl.end(&pod)
}

pub(crate) async fn update_changes_limits_and_inspect_tells_them(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("update")?;
    let id = crictl.container(&pod, "c", "exec sleep 1000", json!({}))?;
    crictl.call(&["update", "--memory", "67108864", "--cpu-quota", "50000", "--cpu-period", "100000", &id])?;
    let limits = &crictl.json(&["inspect", &id])?["status"]["resources"]["linux"];
    ensure!(limits["memoryLimitInBytes"] == "67108864" && limits["cpuQuota"] == "50000", "{limits}");
    let refused = crictl.refused(&["update", "--memory", "4096", &id])?;
    ensure!(refused.contains("memory"), "a limit below what is used: {refused}");
    let limits = &crictl.json(&["inspect", &id])?["status"]["resources"]["linux"];
    ensure!(limits["memoryLimitInBytes"] == "67108864", "a refused update stays: {limits}");
    crictl.end(&pod)
}

pub(crate) async fn checkpoint_is_refused_with_its_reason(world: Arc<World>) -> Outcome {
    let crictl = Crictl::of(&world.node)?;
    let pod = crictl.pod("checkpoint")?;
    let id = crictl.container(&pod, "c", "exec sleep 1000", json!({}))?;
    let file = crictl.folder.path().join("checkpoint.tar");
    let said = crictl.refused(&["checkpoint", "--export", &file.display().to_string(), &id])?;
    ensure!(said.contains("Unimplemented") && said.contains("untrusted"), "{said}");
    ensure!(!file.exists(), "a refused checkpoint left a file");
    crictl.end(&pod)
}
