//! A root of busybox, a specification, a way to run it, and the leak check around every test.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oci_spec::runtime::{Process as ProcessSpec, Spec};
use runtime_oci::{
    ContainerCgroup, ExecTarget, Input, Joins, Launching, OciError, Process, Progress, RootSource, SeccompChoice,
    Stdio, StopBefore, Tracers, Volatile, Volumes, launch_exec, prepare,
};
use runtime_sys::process::{Ended, wait};
use runtime_sys::sync::readable;
use runtime_sys::userns::IdMap;
use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";

/// Why the tests can't run here.
pub(crate) fn missing() -> Option<String> {
    if fs::metadata("/proc/self").map(|own| own.uid()).unwrap_or(1) != 0 {
        return Some("needs root".to_owned());
    }
    (!Path::new(BUSYBOX).exists()).then(|| format!("needs a static {BUSYBOX}"))
}

/// Descriptors, children and mounts are the same before and after.
pub(crate) fn guarded(test: fn()) -> Result<(), String> {
    let before = ledger();
    let answer = catch_unwind(AssertUnwindSafe(test));
    if let Err(panic) = answer {
        let text = panic.downcast_ref::<String>().cloned();
        return Err(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default());
    }
    let after = ledger();
    if before == after { Ok(()) } else { Err(format!("left behind: {before:?} became {after:?}")) }
}

fn ledger() -> (usize, String, usize) {
    let descriptors = fs::read_dir("/proc/self/fd").expect("reads").count();
    let children = fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).expect("reads");
    // Others mount meanwhile; ours have our names.
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
    let mounts = mounts.lines().filter(|line| line.contains("podwright-oci-")).count();
    (descriptors, children, mounts)
}

/// A directory with layers, removed with all that is in it.
pub(crate) struct Fixture {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) name: String,
}

static COUNT: AtomicUsize = AtomicUsize::new(0);

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("podwright-oci-").tempdir().expect("makes");
        let name = format!("pwtest-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        for part in ["lower/bin", "lower/etc", "lower/tmp", "top", "upper", "work"] {
            fs::create_dir_all(directory.path().join(part)).expect("makes");
        }
        let this = Self { directory, name };
        fs::copy(BUSYBOX, this.lower().join("bin/busybox")).expect("copies");
        for applet in [
            "sh", "cat", "ls", "id", "mount", "sleep", "stat", "grep", "true", "ip", "hostname", "tr", "dd", "mknod",
            "touch", "mkdir", "chmod", "umount", "dmesg",
        ] {
            symlink("busybox", this.lower().join("bin").join(applet)).expect("links");
        }
        this
    }

    pub(crate) fn lower(&self) -> PathBuf {
        self.directory.path().join("lower")
    }

    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.directory.path().join(part)
    }

    pub(crate) fn cgroup(&self, part: &str) -> String {
        format!("/{}/{part}", self.name)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Ok(group) = ContainerCgroup::open(&self.name) {
            for _ in 0..200 {
                drop(group.kill_all());
                if group.remove().is_ok() {
                    return;
                }
            }
            eprintln!("cgroup {} is left", self.name);
        }
    }
}

pub(crate) const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

pub(crate) fn process(script: &str) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"],
        "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES}
    })
}

/// What the engine sends for a plain container of a pod, in short.
pub(crate) fn spec(this: &Fixture, script: &str) -> Value {
    json!({
        "ociVersion": "1.2.0", "process": process(script), "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "bind", "source": "podwright:shm", "options": ["rw"]},
            {"destination": "/sys", "type": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "cgroupsPath": this.cgroup("c"),
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

pub(crate) fn parse(value: &Value) -> Spec {
    serde_json::from_value(value.clone()).expect("is a specification")
}

pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) cgroup: ContainerCgroup,
    pub(crate) output: fs::File,
    pub(crate) seccomp: Option<std::sync::Arc<runtime_sys::seccomp::Program>>,
    pub(crate) warnings: Vec<String>,
    pub(crate) users: Option<IdMap>,
}

pub(crate) struct Outcome {
    pub(crate) output: String,
    pub(crate) ended: Ended,
    pub(crate) warnings: Vec<String>,
}

pub(crate) fn pipes() -> (Stdio, fs::File) {
    let (reader, writer) = std::io::pipe().expect("makes");
    let writer = OwnedFd::from(writer);
    let stdin = OwnedFd::from(fs::File::open("/dev/null").expect("opens"));
    let stderr = writer.try_clone().expect("copies");
    (Stdio::Pipes { stdin, stdout: writer, stderr }, fs::File::from(OwnedFd::from(reader)))
}

/// Nobody else reaps here.
fn settle(launching: &mut Launching) {
    if let Some(former) = launching.take_former() {
        wait(former.pidfd.as_fd()).expect("waits");
    }
}

/// Polls as the supervisor does, with a deadline.
pub(crate) fn drive(launching: &mut Launching) -> Result<Process, OciError> {
    loop {
        assert!(readable(launching.descriptor(), Duration::from_secs(20)).expect("polls"), "no news for 20 s");
        match launching.advance() {
            Progress::Pending => {}
            Progress::Blocked => launching.proceed(),
            Progress::Running(process) => {
                settle(launching);
                return Ok(process);
            }
            Progress::Failed(error) => {
                settle(launching);
                return Err(error);
            }
        }
    }
}

pub(crate) fn overlay<'a>(this: &'a Fixture, lowers: &'a [PathBuf], paths: &'a (PathBuf, PathBuf)) -> RootSource<'a> {
    let _ = this;
    RootSource::Overlay { lowers, upper: &paths.0, work: &paths.1, volatile: Volatile::Yes }
}

pub(crate) fn start(this: &Fixture, value: &Value, seccomp: SeccompChoice, joins: Joins) -> Result<Running, OciError> {
    start_on(this, value, seccomp, joins, &[this.path("top"), this.lower()])
}

pub(crate) fn start_on(
    this: &Fixture,
    value: &Value,
    seccomp: SeccompChoice,
    joins: Joins,
    lowers: &[PathBuf],
) -> Result<Running, OciError> {
    start_all(this, value, seccomp, joins, lowers, Volumes::default())
}

/// With what the sources of mounts stand for.
pub(crate) fn start_with(this: &Fixture, value: &Value, volumes: Volumes<'_>) -> Result<Running, OciError> {
    let lowers = [this.path("top"), this.lower()];
    start_all(this, value, SeccompChoice::RuntimeDefault, Joins::default(), &lowers, volumes)
}

/// Not driven yet.
pub(crate) fn launch(this: &Fixture, value: &Value, joins: Joins) -> Launching {
    let spec = parse(value);
    let (lowers, paths) = ([this.path("top"), this.lower()], (this.path("upper"), this.path("work")));
    let (root, seccomp) = (overlay(this, &lowers, &paths), SeccompChoice::RuntimeDefault);
    let input = Input { id: "c", spec: &spec, root, seccomp, joins, volumes: Volumes::default() };
    prepare(input).expect("prepares").launch(pipes().0, StopBefore::Nothing).expect("launches")
}

fn start_all(
    this: &Fixture,
    value: &Value,
    seccomp: SeccompChoice,
    joins: Joins,
    lowers: &[PathBuf],
    volumes: Volumes<'_>,
) -> Result<Running, OciError> {
    // Fresh ones for each start: a volatile overlay can't be mounted again.
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let paths = (this.path(&format!("upper-{number}")), this.path(&format!("work-{number}")));
    fs::create_dir(&paths.0).expect("makes");
    fs::create_dir(&paths.1).expect("makes");
    let spec = parse(value);
    let users = joins.users.as_ref().map(|users| users.map);
    if let Some(map) = &users {
        chown(&paths.0, Some(map.uids.outside), Some(map.gids.outside)).expect("gives");
    }
    let root = overlay(this, lowers, &paths);
    let prepared = prepare(Input { id: "c", spec: &spec, root, seccomp, joins, volumes })?;
    let (cgroup, seccomp, warnings) = (prepared.cgroup(), prepared.seccomp(), prepared.warnings().to_vec());
    let (stdio, output) = pipes();
    let mut launching = match prepared.launch(stdio, StopBefore::Nothing) {
        Ok(launching) => launching,
        Err(error) => {
            cgroup.remove().expect("removes");
            return Err(error);
        }
    };
    match drive(&mut launching) {
        Ok(process) => Ok(Running { process, cgroup, output, seccomp, warnings, users }),
        Err(error) => {
            cgroup.remove().expect("removes");
            Err(error)
        }
    }
}

impl Running {
    fn exec_target<'a>(&'a self, id: &'a str) -> ExecTarget<'a> {
        // The longer way; the supervisor's tests take the other one.
        let tracers = Tracers::Possible;
        ExecTarget { id, init: self.process.pidfd.as_fd(), cgroup: &self.cgroup, users: self.users.as_ref(), tracers }
    }

    pub(crate) fn finish(mut self) -> Outcome {
        let mut output = String::new();
        self.output.read_to_string(&mut output).expect("reads");
        assert!(
            readable(self.process.pidfd.as_fd(), Duration::from_secs(20)).expect("polls"),
            "runs for 20 s: {output}"
        );
        let ended = wait(self.process.pidfd.as_fd()).expect("waits");
        self.cgroup.kill_all().expect("kills");
        self.cgroup.remove().expect("removes");
        Outcome { output, ended, warnings: self.warnings }
    }

    pub(crate) fn kill(self) {
        self.cgroup.kill_all().expect("kills");
        let _ = wait(self.process.pidfd.as_fd());
        for _ in 0..1000 {
            if self.cgroup.is_empty().expect("looks") {
                break;
            }
            std::thread::yield_now();
        }
        self.cgroup.remove().expect("removes");
    }

    /// One whose output nobody reads, and its group.
    pub(crate) fn begin_exec(&self, id: &str, process: &Value) -> (Process, ContainerCgroup) {
        let process: ProcessSpec = serde_json::from_value(process.clone()).expect("is a process");
        let target = self.exec_target(id);
        let mut launching = launch_exec(&target, &process, self.seccomp.clone(), pipes().0).expect("launches");
        let leaf = launching.cgroup();
        (drive(&mut launching).expect("runs"), leaf)
    }

    pub(crate) fn exec(&self, id: &str, process: &Value) -> Result<Outcome, OciError> {
        let process: ProcessSpec = serde_json::from_value(process.clone()).expect("is a process");
        let target = self.exec_target(id);
        let (stdio, mut reader) = pipes();
        let mut launching = launch_exec(&target, &process, self.seccomp.clone(), stdio)?;
        let leaf = launching.cgroup();
        let process = match drive(&mut launching) {
            Ok(process) => process,
            Err(error) => {
                leaf.remove().expect("removes");
                return Err(error);
            }
        };
        let mut output = String::new();
        reader.read_to_string(&mut output).expect("reads");
        let ended = wait(process.pidfd.as_fd()).expect("waits");
        leaf.remove().expect("removes");
        Ok(Outcome { output, ended, warnings: Vec::new() })
    }
}

/// Runs a script in the plain container and gives what it printed.
pub(crate) fn run(this: &Fixture, value: &Value) -> Outcome {
    start(this, value, SeccompChoice::RuntimeDefault, Joins::default()).expect("starts").finish()
}
