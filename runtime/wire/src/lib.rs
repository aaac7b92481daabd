//! The messages between the engine (in the daemon) and a pod's supervisor, with their version.
//!
//! *In*: values of the engine. *Out*: frames for a unix stream socket and back. *Not here*: sockets, descriptors (a
//! frame only says how many travel beside it, by `SCM_RIGHTS` on its first byte), clocks, and what a message means.
//!
//! A frame is a little-endian `u32` length and that many bytes of JSON ([`Frame`]). JSON, since an upgrade with live pods
//! rests on it: an unknown field is ignored, an unknown verb arrives as [`Request::Unknown`] and is answered as such, so a
//! node speaks to supervisors of its own and of the previous version.
//!
//! How a supervisor is started: descriptor 0 is the listening socket, descriptors 1 and 2 take what it has to say
//! (warnings, one line each), the environment is empty, and the arguments are [`supervisor_arguments`].

use std::path::PathBuf;

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::{Deserialize, Serialize};

mod frame;
pub use frame::{FRAME_BYTES_MAX, FRAME_DESCRIPTORS_MAX, FrameError, decode, encode, frame_length};

/// The version that this build speaks; it also understands `VERSION - 1`.
pub const VERSION: u32 = 1;

/// The arguments of `podwright-pod` behind its own name: which pod this is (for `ps`; the first 12 digits of the id), and
/// the cgroup that it moves itself to, as a path below each hierarchy's root (`/podwright/supervisors`), made if missing.
pub fn supervisor_arguments(sandbox: &str, cgroup: &str) -> [String; 2] {
    [sandbox.chars().take(12).collect(), cgroup.to_owned()]
}

/// One frame from the engine to the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the engine, unique on a connection; the answer repeats it.
    pub id: u64,
    /// What is asked for.
    pub request: Request,
}

/// One frame from the supervisor to the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub enum Frame {
    /// The answer to the call of that id.
    Answer {
        /// The call's id.
        id: u64,
        /// What came of it.
        result: Result<Answer, Failure>,
    },
    /// Something happened by itself. Sent to every connection that said [`Request::Hello`].
    Event(Event),
}

/// What the engine asks of a supervisor. Requests on one connection are answered in any order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// First on each connection. Answered by [`Answer::State`]: everything that the supervisor knows, so that a new
    /// daemon needs no other source. Events are sent from then on; none is lost between the two.
    Hello {
        /// The engine's [`VERSION`].
        version: u32,
    },
    /// Makes the namespaces and the pause process. Once per supervisor; a repetition with the same id answers the same.
    /// Answered by [`Answer::Sandbox`] with one descriptor: the pod's network namespace (none on the host's network).
    CreateSandbox(Box<SandboxSpec>),
    /// The pod's network namespace again, for a daemon that was restarted. Answered like `CreateSandbox`.
    Sandbox,
    /// Checks the specification, opens and pins every volume source, makes the cgroup. Runs nothing yet.
    CreateContainer(Box<ContainerSpec>),
    /// Mounts the root, clones the first process and executes it. Answered when `execve` has succeeded or failed, by
    /// [`Answer::Started`]. Starting a container that already runs is answered with the running process.
    StartContainer {
        /// The container.
        container: String,
    },
    /// Runs one more process in a running container. Descriptors beside it, in this order: standard input (if `stdin`),
    /// standard output, standard error (if not `tty`). With `tty` no descriptor travels; the answer brings the
    /// pseudo-terminal's master. Answered by [`Answer::Started`] once `execve` has succeeded or failed; its end comes as
    /// [`Event::ExecExited`] on the same connection. When that connection closes, the exec is killed whole.
    Exec(Box<ExecSpec>),
    /// Sends a signal to a container's first process, or to every process in its cgroup. Nothing happens to one that has ended.
    Signal {
        /// The container.
        container: String,
        /// A Linux signal number.
        signal: i32,
        /// `true`: every process of the container (SIGKILL, thawed first on cgroup v1), `false`: only the first.
        every_process: bool,
    },
    /// Joins a running container's streams. Descriptors beside it, in this order: the writing end of a pipe for standard
    /// output (if `stdout`), one for standard error (if `stderr`). Answered by [`Answer::Attached`]. Ends when the reader of
    /// the last pipe closes it, or with the container.
    Attach(AttachSpec),
    /// Changes a container's limits; what isn't named stays. All or nothing.
    UpdateResources {
        /// The container.
        container: String,
        /// The new limits.
        resources: Box<LinuxResources>,
        /// For every process of it; `None`: stays.
        #[serde(default)]
        oom_score_adj: Option<i32>,
    },
    /// Changes the limits of a cgroup above the containers, which is the pod's alone; what isn't named stays. All or nothing.
    UpdateSandbox {
        /// Its path below each hierarchy's root.
        cgroup: String,
        /// The new limits.
        resources: Box<LinuxResources>,
    },
    /// Kills an exec and all that it started.
    KillExec {
        /// The exec's id.
        exec: String,
    },
    /// Closes the log and opens its path anew, after a rotation. The file is not made when this fails.
    ReopenLog {
        /// The container.
        container: String,
    },
    /// Forgets a container that isn't running: its cgroup, mounts and exit record. A running one is refused.
    RemoveContainer {
        /// The container.
        container: String,
    },
    /// Kills every container and the pause process, waits for their ends, removes the cgroups. The supervisor stays and
    /// answers for exit codes. A repetition answers at once.
    StopSandbox,
    /// Ends the supervisor itself. Refused while something still runs.
    Quit,
    /// A verb of a later version: refused with [`FailureKind::Unknown`].
    #[serde(other)]
    Unknown,
}

/// What a pod's processes share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The sandbox's id.
    pub id: String,
    /// Name in the UTS namespace; empty on the host's network.
    pub hostname: String,
    /// Who shares which namespace.
    pub namespaces: Namespaces,
    /// The pause process's cgroup: a path below each hierarchy's root, as in `linux.cgroupsPath`.
    pub cgroup: String,
    /// Namespaced kernel parameters, name in dotted form; already checked by the engine.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// Size of `/dev/shm` in bytes, shared by the pod's containers.
    pub shm_bytes: u64,
    /// A user namespace of the pod's own, which owns its other namespaces; the host's without one.
    #[serde(default)]
    pub user: Option<IdMappings>,
    /// Where exit records are written: a directory in the run directory that belongs to this sandbox alone.
    pub exits: PathBuf,
}

/// Which ids of a user namespace are which of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMappings {
    /// Users.
    pub uids: IdRange,
    /// Groups.
    pub gids: IdRange,
}

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first inside.
    pub container: u32,
    /// The first on the host.
    pub host: u32,
    /// How many.
    pub length: u32,
}

/// Which namespaces are the pod's own. `false` means the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// A network namespace for the pod.
    pub network: bool,
    /// An IPC namespace for the pod.
    pub ipc: bool,
    /// Who sees whose processes.
    pub pid: PidMode,
}

/// The process-id namespace mode of a pod (CRI `NamespaceOption.pid`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidMode {
    /// Each container has its own.
    Container,
    /// All containers share the pause process's, which reaps.
    Pod,
    /// The host's.
    Node,
}

/// One container, ready to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The container's id.
    pub id: String,
    /// The OCI runtime specification. `root.path` is ignored (see `root`); `linux.namespaces` says which namespaces are
    /// new; those that the pod shares are left out of the list and joined from the sandbox. `linux.seccomp` is left empty
    /// where `seccomp` names a profile. A mount of type `bind` whose source is `podwright:shm` is the pod's `/dev/shm`.
    pub spec: Spec,
    /// Where the root file system comes from.
    pub root: Root,
    /// The system-call filter.
    pub seccomp: Seccomp,
    /// The CRI log: absolute path; its directory exists. `None` throws the output away.
    pub log: Option<PathBuf>,
    /// What standard input is.
    pub stdin: Stdin,
    /// A running container of the pod whose process-id namespace is joined.
    #[serde(default)]
    pub pid_target: Option<String>,
    /// Images as volumes: a mount of type `bind` whose source is `podwright:image/N` is number N of these, counted from 0.
    #[serde(default)]
    pub image_volumes: Vec<ImageVolume>,
}

/// An image as a read-only volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// Unpacked layers, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// What of it, relative to its root; empty: all.
    #[serde(default)]
    pub sub_path: String,
}

/// Where a container's root file system comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Root {
    /// Unpacked layers below a writable directory, joined by overlayfs.
    Overlay {
        /// Unpacked layers, the topmost first.
        lowers: Vec<PathBuf>,
        /// The writable layer; exists and is empty at first start.
        upper: PathBuf,
        /// Overlayfs's work directory, on the same file system.
        work: PathBuf,
        /// The `volatile` option: no sync of the writable layer, ever.
        volatile: bool,
    },
}

/// The system-call filter of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Seccomp {
    /// The built-in default profile, cut to the container's capabilities.
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// The profile in `spec.linux.seccomp`.
    Spec,
}

/// What a container reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// Nothing: end of file at once.
    Closed,
    /// A pipe that stays open for attached clients.
    Open,
    /// A pipe that is closed after the first attached client (CRI `stdin_once`).
    Once,
}

/// One more process in a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The exec's id, unique within the supervisor's life.
    pub id: String,
    /// The container.
    pub container: String,
    /// Arguments, environment, user, capabilities, limits: in full (nothing is taken over from the container but its
    /// namespaces, cgroup and seccomp filter).
    pub process: Process,
    /// A descriptor for standard input travels beside the request.
    pub stdin: bool,
    /// A pseudo-terminal is made; its master comes with the answer.
    pub tty: bool,
}

/// Who wants to see and be heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachSpec {
    /// The container.
    pub container: String,
    /// Its standard input is asked for.
    pub stdin: bool,
    /// A pipe for its standard output travels beside the request.
    pub stdout: bool,
    /// A pipe for its standard error travels beside the request.
    pub stderr: bool,
}

/// A process that can't be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The pid in the host's namespace.
    pub pid: i32,
    /// `starttime` of `/proc/PID/stat`, field 22, in clock ticks since boot.
    pub start_ticks: u64,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + N after signal N, as shells and the kubelet have it.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// The kernel's out-of-memory killer took a process of this container's cgroup.
    pub oom_killed: bool,
    /// Wall-clock nanoseconds since the epoch, for display.
    pub at_unix_nanos: i64,
}

/// What a request brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Done; there is nothing more to say.
    Done,
    /// To `Hello`.
    State(State),
    /// To `CreateSandbox` and `Sandbox`. One descriptor travels beside it where the pod has a network namespace.
    Sandbox {
        /// The pause process.
        pause: ProcessIdentity,
    },
    /// To `StartContainer` and `Exec`.
    Started {
        /// The process.
        process: ProcessIdentity,
        /// Wall-clock nanoseconds since the epoch, for display.
        at_unix_nanos: i64,
    },
    /// To `Attach`. One descriptor travels beside it where `terminal` or `input`: the terminal's master (for input and
    /// size), else the writing end of standard input. With [`Stdin::Once`] it is the only one: closed, the container reads
    /// the end.
    Attached {
        /// The descriptor is a terminal's master.
        terminal: bool,
        /// Standard input can be written.
        input: bool,
    },
}

/// Everything that a supervisor knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The supervisor's [`VERSION`].
    pub version: u32,
    /// The sandbox, once made.
    pub sandbox: Option<SandboxState>,
    /// Every container that was created and not removed.
    pub containers: Vec<ContainerState>,
}

/// A sandbox as its supervisor sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxState {
    /// The sandbox's id.
    pub id: String,
    /// The pause process.
    pub pause: ProcessIdentity,
    /// Whether the pause process still lives.
    pub alive: bool,
}

/// A container as its supervisor sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerState {
    /// The container's id.
    pub id: String,
    /// What it is doing.
    pub phase: Phase,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Made, not started.
    Created,
    /// Its first process runs.
    Running {
        /// That process.
        process: ProcessIdentity,
        /// Wall-clock nanoseconds since the epoch.
        started_unix_nanos: i64,
    },
    /// Its first process has ended.
    Exited {
        /// Wall-clock nanoseconds since the epoch.
        started_unix_nanos: i64,
        /// How it ended.
        exit: Exit,
    },
}

/// Something that happened by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A container's first process ended, its remaining processes are killed, its log is complete and its exit record is on disk.
    ContainerExited {
        /// The container.
        container: String,
        /// How.
        exit: Exit,
    },
    /// An exec's process ended. What it started in the background is killed.
    ExecExited {
        /// The exec.
        exec: String,
        /// How.
        exit: Exit,
    },
    /// The pause process ended: the sandbox is not ready any more.
    SandboxExited,
    /// The out-of-memory killer took a process of this container.
    OomKilled {
        /// The container.
        container: String,
    },
    /// An event of a later version: ignored.
    #[serde(other)]
    Unknown,
}

/// Why a request brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What the engine may branch on.
    pub kind: FailureKind,
    /// For people: the step, the object and the cause.
    pub message: String,
}

/// What the engine may branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No sandbox, container or exec of that id.
    NotFound,
    /// Not in this state.
    Refused,
    /// The request itself is wrong: a specification that can't be carried out.
    Invalid,
    /// The program can't be executed: not there, no permission, wrong format. The container has exit code 128.
    CannotExecute,
    /// A step took longer than it may: a dead file server, a stuck device.
    DeadlineExceeded,
    /// The kernel said no.
    Kernel,
    /// The verb isn't known here.
    #[serde(other)]
    Unknown,
}

/// The record of an exit, as it lies in [`SandboxSpec::exits`] under `CONTAINER.json`: written there (temporary file,
/// rename) before anybody is told, so that the exit code outlives supervisor and daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The container.
    pub container: String,
    /// Wall-clock nanoseconds since the epoch of its start.
    pub started_unix_nanos: i64,
    /// How it ended.
    pub exit: Exit,
}

#[cfg(test)]
mod tests;
