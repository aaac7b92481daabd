//! A supervisor of its own per test, in temporary directories and cgroups of its own, and a client that speaks to it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runtime_oci::ContainerCgroup;
use runtime_sys::epoll::{Epoll, Interest};
use runtime_sys::socket;
use runtime_wire::{
    Answer, Call, ContainerSpec, Event, ExecSpec, Exit, ExitRecord, Failure, Frame, Namespaces, PidMode, Request, Root,
    SandboxSpec, Seccomp, State, Stdin, VERSION, decode, encode, supervisor_arguments,
};
use serde_json::json;

/// Longest wait for anything in a test.
const PATIENCE: Duration = Duration::from_secs(20);

static TESTS: AtomicU32 = AtomicU32::new(0);

/// One supervisor with its directories. Dropping it kills whatever is left and fails the test if something was.
pub(crate) struct Pod {
    pub(crate) sandbox: String,
    pub(crate) directory: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) process: Child,
    pid: PidMode,
    expected: Cell<usize>,
    _temporary: tempfile::TempDir,
}

/// `false`, with a line that says why, where the kernel can't be asked for what the test needs.
pub(crate) fn may_run() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
    let busybox = Path::new("/bin/busybox").exists();
    if !root {
        eprintln!("skipped: needs root");
    } else if !busybox {
        eprintln!("skipped: needs a static /bin/busybox");
    }
    root && busybox
}

impl Pod {
    pub(crate) fn start() -> Self {
        let number = TESTS.fetch_add(1, Ordering::Relaxed);
        let temporary = tempfile::tempdir().expect("a directory");
        let directory = temporary.path().to_owned();
        let name = format!("pw-sv-{}-{number}", std::process::id());
        let sandbox = format!("{:0>64x}", (u64::from(std::process::id()) << 32) + u64::from(number) + 0xabc0_0000);
        layer(&directory.join("layer"));
        fs::create_dir(directory.join("exits")).expect("makes a directory");
        let path = directory.join("supervisor.sock");
        let listener = socket::listen_unix(&path, 0o600, 16).expect("listens");
        let cgroup = format!("/{name}");
        let log = File::create(directory.join("supervisor.log")).expect("makes a file");
        let process = Command::new(env!("CARGO_BIN_EXE_podwright-pod"))
            .args(supervisor_arguments(&sandbox, &format!("{cgroup}/supervisors")))
            .env_clear()
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .expect("starts the supervisor");
        Self {
            sandbox,
            directory,
            cgroup,
            process,
            pid: PidMode::Container,
            expected: Cell::new(0),
            _temporary: temporary,
        }
    }

    /// With a connection that said `Hello` and a sandbox.
    pub(crate) fn with_sandbox(pid: PidMode) -> (Self, Client) {
        let mut pod = Self::start();
        pod.pid = pid;
        let mut client = pod.greet();
        client.call(Request::CreateSandbox(Box::new(pod.sandbox_spec(pid)))).expect("makes the sandbox");
        drop(client.descriptor());
        (pod, client)
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.directory.join("supervisor.sock"))
    }

    pub(crate) fn greet(&self) -> Client {
        let mut client = self.connect();
        client.hello();
        client
    }

    pub(crate) fn sandbox_spec(&self, pid: PidMode) -> SandboxSpec {
        SandboxSpec {
            id: self.sandbox.clone(),
            hostname: "pod".into(),
            namespaces: Namespaces { network: true, ipc: true, pid },
            cgroup: format!("{}/{}/pause", self.cgroup, self.sandbox),
            sysctls: Vec::new(),
            shm_bytes: 1 << 20,
            user: None,
            exits: self.directory.join("exits"),
        }
    }

    /// A container that runs a line of shell.
    pub(crate) fn container(&self, id: &str, script: &str) -> ContainerSpec {
        self.program(id, &["/bin/sh", "-c", script])
    }

    pub(crate) fn program(&self, id: &str, arguments: &[&str]) -> ContainerSpec {
        let writable = self.directory.join("containers").join(id);
        fs::create_dir_all(writable.join("upper")).expect("makes a directory");
        fs::create_dir_all(writable.join("work")).expect("makes a directory");
        let mut namespaces = vec![json!({ "type": "mount" }), json!({ "type": "cgroup" })];
        if self.pid == PidMode::Container {
            namespaces.push(json!({ "type": "pid" }));
        }
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": process(arguments),
            "root": { "path": "unused", "readonly": false },
            "hostname": "pod",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            ],
            "linux": {
                "cgroupsPath": format!("{}/{}/{id}", self.cgroup, self.sandbox),
                "namespaces": namespaces,
                "resources": {},
            },
        });
        ContainerSpec {
            id: id.to_owned(),
            spec: serde_json::from_value(spec).expect("a specification"),
            root: Root::Overlay {
                lowers: vec![self.directory.join("layer")],
                upper: writable.join("upper"),
                work: writable.join("work"),
                volatile: true,
            },
            seccomp: Seccomp::RuntimeDefault,
            log: Some(self.log_path(id)),
            stdin: Stdin::Closed,
            pid_target: None,
            image_volumes: Vec::new(),
        }
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.log"))
    }

    /// The log's lines without their times, which are checked for their form and order.
    pub(crate) fn log(&self, id: &str) -> Vec<String> {
        let text = fs::read_to_string(self.log_path(id)).expect("reads the log");
        assert!(text.is_empty() || text.ends_with('\n'), "the log ends inside a line");
        let mut last = String::new();
        text.split_terminator('\n')
            .map(|line| {
                let (time, rest) = line.split_once(' ').expect("a time");
                assert!(time.len() == 30 && time.starts_with("20") && time.ends_with('Z'), "{time}");
                assert!(time >= last.as_str(), "time goes back from {last} to {time}");
                last = time.to_owned();
                rest.to_owned()
            })
            .collect()
    }

    pub(crate) fn record(&self, id: &str) -> Option<ExitRecord> {
        let text = fs::read(self.directory.join("exits").join(format!("{id}.json"))).ok()?;
        Some(serde_json::from_slice(&text).expect("a record"))
    }

    pub(crate) fn exec(&self, id: &str, container: &str, arguments: &[&str]) -> ExecSpec {
        ExecSpec {
            id: id.to_owned(),
            container: container.to_owned(),
            process: serde_json::from_value(process(arguments)).expect("a process"),
            stdin: false,
            tty: false,
        }
    }

    /// Processes of the pod's containers and its pause process.
    pub(crate) fn processes(&self) -> Vec<i32> {
        match ContainerCgroup::open(&format!("{}/{}", self.cgroup, self.sandbox)) {
            Ok(cgroup) => cgroup.pids().expect("lists"),
            Err(_) => Vec::new(),
        }
    }

    pub(crate) fn cgroup_directories(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("reads").flatten() {
            collect(&hierarchy.path().join(&self.cgroup[1..]), &mut found);
        }
        found
    }

    /// The supervisor's warnings, without those that the test expected already, and without the one that depends on
    /// the capabilities of who runs the test.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("supervisor.log")).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.contains("keeps its out-of-memory score"));
        lines.skip(self.expected.get()).map(str::to_owned).collect()
    }

    /// Takes the warnings that are there as expected.
    pub(crate) fn expect_warnings(&self, word: &str, count: usize) {
        let warnings = self.warnings();
        assert!(warnings.len() == count && warnings.iter().all(|line| line.contains(word)), "{warnings:#?}");
        self.expected.set(self.expected.get() + count);
    }

    /// How many descriptors the supervisor has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("reads").count()
    }

    /// A line of /proc/PID/status in kB.
    pub(crate) fn status_kb(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("reads");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("there");
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Stops the pod and ends the supervisor, as a node does; then nothing of it may be left.
    pub(crate) fn end(mut self, mut client: Client) {
        assert_eq!(client.call(Request::StopSandbox), Ok(Answer::Done), "{:?}", self.warnings());
        assert_eq!(self.processes(), [] as [i32; 0]);
        assert_eq!(client.call(Request::StopSandbox), Ok(Answer::Done), "a repetition answers at once");
        let State { containers, sandbox, .. } = self.greet().state.take().expect("greeted");
        assert!(sandbox.is_none_or(|sandbox| !sandbox.alive));
        for container in containers {
            let removed = client.call(Request::RemoveContainer { container: container.id.clone() });
            assert_eq!(removed, Ok(Answer::Done), "{}", container.id);
        }
        assert_eq!(fs::read_dir(self.directory.join("exits")).expect("reads").count(), 0, "exit records");
        assert_eq!(client.call(Request::Quit), Ok(Answer::Done));
        assert!(self.process.wait().expect("waits").success());
        let left = self.cgroup_directories();
        // The node's own directories stay; what was made for a container, for pause or for the sandbox is gone.
        let own = [self.cgroup.clone(), format!("{}/supervisors", self.cgroup)];
        let foreign: Vec<&PathBuf> =
            left.iter().filter(|path| !own.iter().any(|own| path.ends_with(&own[1..]))).collect();
        assert!(foreign.is_empty(), "cgroups are left: {foreign:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
        assert!(!mounts.contains(self.directory.to_str().expect("text")), "a mount is left");
        assert_eq!(self.warnings(), [] as [&str; 0], "warnings");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the supervisor's warnings: {:#?}", self.warnings());
        }
        drop(self.process.kill());
        drop(self.process.wait());
        if let Ok(cgroup) = ContainerCgroup::open(&self.cgroup) {
            let until = Instant::now() + PATIENCE;
            while !cgroup.is_empty().unwrap_or(true) && Instant::now() < until {
                drop(cgroup.kill_all());
                std::thread::yield_now();
            }
            while cgroup.remove().is_err() && Instant::now() < until {
                std::thread::yield_now();
            }
        }
    }
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    found.push(directory.to_owned());
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect(&entry.path(), found);
    }
}

/// A root file system of busybox alone.
fn layer(root: &Path) {
    for name in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir_all(root.join(name)).expect("makes a directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("copies");
    let tools = "sh cat echo sleep true false yes head dd tr id kill seq mkdir ls readlink tty stty wc grep touch";
    for tool in tools.split(' ') {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).expect("links");
    }
}

fn process(arguments: &[&str]) -> serde_json::Value {
    let capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"];
    json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0 },
        "args": arguments,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                          "inheritable": [], "ambient": [] },
        "noNewPrivileges": true,
    })
}

/// A node's end of a connection.
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    epoll: Epoll,
    incoming: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    pub(crate) events: VecDeque<Event>,
    answers: Vec<(u64, Result<Answer, Failure>)>,
    last: u64,
    pub(crate) state: Option<State>,
}

impl Client {
    fn connect(path: &Path) -> Self {
        let socket = socket::connect_unix(path).expect("connects");
        let epoll = Epoll::new().expect("an epoll instance");
        epoll.add(socket.as_fd(), 0, Interest::Read).expect("adds");
        Self {
            socket,
            epoll,
            incoming: Vec::new(),
            descriptors: VecDeque::new(),
            events: VecDeque::new(),
            answers: Vec::new(),
            last: 0,
            state: None,
        }
    }

    pub(crate) fn hello(&mut self) {
        let Ok(Answer::State(state)) = self.call(Request::Hello { version: VERSION }) else { panic!("no state") };
        assert_eq!(state.version, VERSION);
        self.state = Some(state);
    }

    pub(crate) fn call(&mut self, request: Request) -> Result<Answer, Failure> {
        let id = self.send(request, &[]);
        self.wait(id)
    }

    pub(crate) fn send(&mut self, request: Request, descriptors: &[BorrowedFd<'_>]) -> u64 {
        self.last += 1;
        let bytes = encode(&Call { id: self.last, request }).expect("encodes");
        self.send_bytes(&bytes, descriptors);
        self.last
    }

    pub(crate) fn send_bytes(&mut self, mut bytes: &[u8], mut descriptors: &[BorrowedFd<'_>]) {
        let until = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            match socket::send(self.socket.as_fd(), bytes, descriptors) {
                Ok(count) => {
                    bytes = &bytes[count..];
                    descriptors = &[];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("sends: {error}"),
            }
        }
    }

    pub(crate) fn wait(&mut self, id: u64) -> Result<Answer, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.answers.iter().position(|(answered, _)| *answered == id) {
                return self.answers.remove(at).1;
            }
            assert!(self.receive(until), "the supervisor closed the connection or is silent; call {id}");
        }
    }

    /// The next event that fits; others stay.
    pub(crate) fn event<T>(&mut self, fits: impl Fn(&Event) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some((at, found)) = self.events.iter().enumerate().find_map(|(at, event)| Some((at, fits(event)?))) {
                self.events.remove(at);
                return found;
            }
            assert!(self.receive(until), "no such event; there are {:?}", self.events);
        }
    }

    pub(crate) fn container_exit(&mut self, id: &str) -> Exit {
        self.event(|event| match event {
            Event::ContainerExited { container, exit } if container == id => Some(exit.clone()),
            _ => None,
        })
    }

    pub(crate) fn exec_exit(&mut self, id: &str) -> Exit {
        self.event(|event| match event {
            Event::ExecExited { exec, exit } if exec == id => Some(exit.clone()),
            _ => None,
        })
    }

    /// `true` once the supervisor has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        while self.receive(until) {}
        Instant::now() < until
    }

    /// Takes what comes next. `false` at the end of the connection or of patience.
    fn receive(&mut self, until: Instant) -> bool {
        let mut events = Vec::new();
        self.epoll.wait(&mut events, Some(until.saturating_duration_since(Instant::now()))).expect("waits");
        let mut buffer = [0; 64 * 1024];
        match socket::recv(self.socket.as_fd(), &mut buffer) {
            Ok((0, _)) => return false,
            Ok((count, descriptors)) => {
                self.incoming.extend_from_slice(&buffer[..count]);
                self.descriptors.extend(descriptors);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Instant::now() < until,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return false,
            Err(error) => panic!("receives: {error}"),
        }
        while let Some((frame, length)) = decode::<Frame>(&self.incoming).expect("a frame") {
            self.incoming.drain(..length);
            match frame {
                Frame::Answer { id, result } => self.answers.push((id, result)),
                Frame::Event(event) => self.events.push_back(event),
            }
        }
        true
    }

    pub(crate) fn descriptor(&mut self) -> OwnedFd {
        self.descriptors.pop_front().expect("a descriptor beside the answer")
    }

    pub(crate) fn create(&mut self, spec: ContainerSpec) {
        let id = spec.id.clone();
        let created = self.call(Request::CreateContainer(Box::new(spec)));
        assert_eq!(created, Ok(Answer::Done), "create {id}");
    }

    pub(crate) fn run(&mut self, spec: ContainerSpec) -> i32 {
        let container = spec.id.clone();
        self.create(spec);
        match self.call(Request::StartContainer { container }) {
            Ok(Answer::Started { process, .. }) => process.pid,
            other => panic!("not started: {other:?}"),
        }
    }

    /// Runs an exec to the end of its output. The code is the exec's, the text all that it wrote.
    pub(crate) fn exec(&mut self, spec: ExecSpec) -> (Exit, String, String) {
        let id = spec.id.clone();
        let (call, stdout, stderr) = self.begin_exec(spec);
        match self.wait(call) {
            Ok(Answer::Started { .. }) => {}
            other => panic!("not started: {other:?}"),
        }
        let exit = self.exec_exit(&id);
        (exit, text(stdout), text(stderr))
    }

    pub(crate) fn begin_exec(&mut self, spec: ExecSpec) -> (u64, io::PipeReader, io::PipeReader) {
        let (stdout, stdout_writer) = io::pipe().expect("a pipe");
        let (stderr, stderr_writer) = io::pipe().expect("a pipe");
        let call = self.send(Request::Exec(Box::new(spec)), &[stdout_writer.as_fd(), stderr_writer.as_fd()]);
        (call, stdout, stderr)
    }
}

pub(crate) fn text(mut pipe: io::PipeReader) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).expect("reads to the end");
    text
}

/// Waits for something that comes by itself.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::yield_now();
    }
}
