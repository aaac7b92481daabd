//! From a plan to a process that executes its program.

use std::io::ErrorKind as IoKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use runtime_sys::emerge::Successor;
use runtime_sys::process::{self, Child, Ended};
use runtime_sys::seccomp::Program;
use runtime_sys::userns::IdMap;
use runtime_sys::{socket, sync};

use crate::error::During;
use crate::host::host;
use crate::input::{Stdio, StopBefore};
use crate::plan::{self, Plan};
use crate::step::Step;
use crate::{ContainerCgroup, Input, OciError, child};

mod failures;
mod sources;
pub(crate) use sources::Object;
pub use sources::{OneShot, Seen, check_sources};

const SIGKILL: i32 = 9;
const ESRCH: i32 = 3;

/// A process that was launched.
#[derive(Debug)]
pub struct Process {
    /// The pid in the caller's namespace.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub start_ticks: u64,
    /// Readable when the process has ended.
    pub pidfd: OwnedFd,
}

/// A container whose cgroup stands and whose steps are decided.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    cgroup: ContainerCgroup,
}

impl Prepared {
    /// Starts it: one `clone3`.
    ///
    /// # Errors
    /// The clone failed; nothing runs.
    pub fn launch(self, stdio: Stdio, stop: StopBefore) -> Result<Launching, OciError> {
        start(self.plan, self.cgroup, stdio, stop)
    }

    /// The container's cgroup; cheap to clone, outlives the launch.
    #[must_use]
    pub fn cgroup(&self) -> ContainerCgroup {
        self.cgroup.clone()
    }

    /// Changes the OOM score adjustment that it will be started with.
    pub fn set_oom_score_adj(&mut self, score: i32) {
        for step in &mut self.plan.steps {
            if let Step::OomScore(value) = step {
                *value = score.to_string();
            }
        }
    }

    /// The compiled filter, for execs.
    #[must_use]
    pub fn seccomp(&self) -> Option<Arc<Program>> {
        self.plan.seccomp.clone()
    }

    /// What the kernel or this process's rights did not allow as asked, for people.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.plan.warnings
    }
}

/// Checks the specification and makes the cgroup with its limits. The path is `linux.cgroupsPath`. When it fails, no cgroup
/// of the container is left.
///
/// # Errors
/// The specification is wrong, or the kernel refuses the cgroup.
pub fn prepare(input: Input<'_>) -> Result<Prepared, OciError> {
    let facts = &host()?.facts;
    let path = input.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let path = path.and_then(|path| path.to_str());
    let path = path.ok_or_else(|| OciError::invalid("linux.cgroupsPath: is missing or no text"))?;
    let cgroup = ContainerCgroup::make(path)?;
    let planned = cgroup.limit(input.spec).and_then(|warnings| {
        let mut plan = plan::container(input, &cgroup, facts)?;
        plan.warnings.extend(warnings);
        Ok(plan)
    });
    match planned {
        Ok(plan) => Ok(Prepared { plan, cgroup }),
        Err(error) => {
            // The reason is worth more than a second one; an empty group that is left is found by the next sweep.
            drop(cgroup.remove());
            Err(error)
        }
    }
}

/// Where an exec goes.
#[derive(Debug, Clone, Copy)]
pub struct ExecTarget<'a> {
    /// The exec's id: names its cgroup leaf, so unique in the container; letters, digits, `-` and `_`.
    pub id: &'a str,
    /// The container's first process: its pidfd.
    pub init: BorrowedFd<'a>,
    /// The container's cgroup.
    pub cgroup: &'a ContainerCgroup,
    /// The ids of the container's user namespace, if it has one.
    pub users: Option<&'a IdMap>,
    /// Who may look on.
    pub tracers: Tracers,
}

/// Whether a process in the container's process-id namespace may have CAP_SYS_PTRACE. Only that opens the memory and the
/// descriptors of a process that isn't dumpable, which one on its way to its program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracers {
    /// None: the process is made inside, where nobody can look into it.
    None,
    /// One may: the process is made outside and goes inside when it has nothing left that the container may not see. Takes
    /// one more clone.
    Possible,
}

/// Runs one more process in a running container. [`Launching::cgroup`] is its leaf, which the caller removes when the exec is
/// over.
///
/// # Errors
/// The specification is wrong, the container is gone, or the clone failed.
pub fn launch_exec(
    target: &ExecTarget<'_>,
    process: &oci_spec::runtime::Process,
    seccomp: Option<Arc<Program>>,
    stdio: Stdio,
) -> Result<Launching, OciError> {
    /// A file name's limit, less "exec-".
    const ID_BYTES_MAX: usize = 250;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if target.id.is_empty() || target.id.len() > ID_BYTES_MAX || !target.id.bytes().all(plain) {
        return Err(OciError::invalid(format!("exec id {:?} is not of letters, digits, - and _", target.id)));
    }
    let init = target
        .init
        .try_clone_to_owned()
        .map_err(|error| runtime_sys::SysError::from_io("fcntl(F_DUPFD_CLOEXEC)", &error))
        .during(|| "join the container".to_owned())?;
    let leaf = target.cgroup.make_leaf(target.id)?;
    let undo = leaf.clone();
    plan::exec_steps(process, init, &leaf, target, seccomp, &host()?.facts)
        .and_then(|plan| start(plan, leaf, stdio, StopBefore::Nothing))
        .inspect_err(|_| drop(undo.remove()))
        .map_err(|error| match error {
            // The pidfd's process has ended.
            OciError::Kernel { ref source, .. } if source.errno() == ESRCH => OciError::Gone,
            other => other,
        })
}

fn start(plan: Plan, cgroup: ContainerCgroup, stdio: Stdio, stop: StopBefore) -> Result<Launching, OciError> {
    let host = host()?;
    let (ours, theirs) = sync::pair().during(|| "make a socket".to_owned())?;
    let birth = plan.birth.as_ref().and_then(|group| group.group.directory(""));
    let awaits_terminal = matches!(stdio, Stdio::Terminal { .. });
    let emerges = plan.steps.iter().any(|step| matches!(step, Step::Emerge(_)));
    let successor = emerges.then(Successor::new).transpose().during(|| "make a process".to_owned())?;
    let child = host.with_children_in(plan.pid.as_ref(), || {
        process::clone3(plan.namespaces, birth, || {
            child::run(&plan.steps, plan.slots, &host.proc, theirs.as_fd(), &stdio, stop, successor.as_ref())
        })
        .during(|| "make a process".to_owned())
    })?;
    Ok(Launching {
        child: Some(child),
        former: None,
        successor,
        sync: ours,
        plan,
        cgroup,
        stop,
        awaits_terminal,
        terminal: None,
        stage: Stage::Steps,
    })
}

/// Where a launch stands.
#[derive(Debug)]
pub enum Progress {
    /// Still at its steps.
    Pending,
    /// Waits for [`Launching::proceed`].
    Blocked,
    /// The program is executed.
    Running(Process),
    /// It failed; the process is killed, and reaped unless the kernel is still busy with its end.
    Failed(OciError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The child walks its steps.
    Steps,
    /// It has said that only the program is missing, and waits.
    Waiting,
    /// It has said so, and goes on: the socket's end means that the program runs.
    Executing,
}

/// A process on its way to its program. Dropped before it is there, it is killed (and reaped by whoever reaps the caller's
/// children).
#[derive(Debug)]
pub struct Launching {
    /// `None` once handed out.
    child: Option<Child>,
    /// The one before it.
    former: Option<Child>,
    /// Who goes on inside the process-id namespace, for one that appears among others.
    successor: Option<Successor>,
    sync: OwnedFd,
    plan: Plan,
    cgroup: ContainerCgroup,
    stop: StopBefore,
    /// Whether a terminal is still to come.
    awaits_terminal: bool,
    terminal: Option<OwnedFd>,
    stage: Stage,
}

impl Launching {
    /// Readable when [`Self::advance`] has news.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }

    /// Looks for news. Never blocks. Not to be called again after `Running` or `Failed`.
    pub fn advance(&mut self) -> Progress {
        let mut message = [0; child::MESSAGE_BYTES_MAX];
        if let Err(error) = self.succeed() {
            return self.fail(error);
        }
        // Looked at before the socket: what it had to say was said by then.
        let is_over = self.stage == Stage::Executing && self.emerges() && self.has_ended();
        loop {
            match socket::recv(self.sync.as_fd(), &mut message) {
                Ok((0, _)) => return self.ended(),
                Ok((count, descriptors)) => match message.get(..count).unwrap_or_default() {
                    [child::TERMINAL] if self.awaits_terminal => {
                        self.awaits_terminal = false;
                        self.terminal = descriptors.into_iter().next();
                    }
                    [child::MOVED, a, b, c, d] if !self.emerges() => {
                        self.moved(i32::from_le_bytes([*a, *b, *c, *d]), descriptors);
                    }
                    [child::READY] if self.stop == StopBefore::Exec && self.stage == Stage::Steps => {
                        self.stage = Stage::Waiting;
                        return Progress::Blocked;
                    }
                    [child::READY] if !self.emerges() => self.stage = Stage::Executing,
                    [child::FAILED, low, high, a, b, c, d, detail @ ..] => {
                        let step = usize::from(u16::from_le_bytes([*low, *high]));
                        let errno = i32::from_le_bytes([*a, *b, *c, *d]);
                        self.finish();
                        return Progress::Failed(self.failure(step, errno, &String::from_utf8_lossy(detail)));
                    }
                    // Whoever may trace a process that goes on inside may take its end of the socket, too, and say anything:
                    // another's pid, a descriptor of its own, or no end of words.
                    _ => return self.fail(OciError::Died { how: "it said what it can't have to say".to_owned() }),
                },
                Err(error) if error.kind() == IoKind::WouldBlock => {
                    return match self.stage {
                        Stage::Waiting => Progress::Blocked,
                        // Its program has run already, while the process before it is still about to close the socket.
                        Stage::Executing if is_over => self.ended(),
                        Stage::Steps | Stage::Executing => Progress::Pending,
                    };
                }
                Err(error) => {
                    let source = runtime_sys::SysError::from_io("recvmsg()", &error);
                    return self.fail(OciError::Kernel { step: "hear from the new process".to_owned(), source });
                }
            }
        }
    }

    /// The socket is at its end: the program runs, or the process died on the way.
    fn ended(&mut self) -> Progress {
        if let Err(error) = self.succeed() {
            return self.fail(error);
        }
        if self.stage != Stage::Executing {
            let how = match self.finish() {
                Some(Ended::Exited(code)) => format!("exit code {code}"),
                Some(Ended::Signalled(signal)) => format!("signal {signal}"),
                None => "killed".to_owned(),
            };
            return Progress::Failed(OciError::Died { how });
        }
        let Some(child) = self.child.take() else { return Progress::Failed(OciError::Gone) };
        match process::start_ticks(child.pid) {
            Ok(start_ticks) => Progress::Running(Process { pid: child.pid, start_ticks, pidfd: child.pidfd }),
            Err(source) => {
                self.child = Some(child);
                self.fail(OciError::Kernel { step: "identify the new process".to_owned(), source })
            }
        }
    }

    fn fail(&mut self, error: OciError) -> Progress {
        self.finish();
        Progress::Failed(error)
    }

    fn finish(&mut self) -> Option<Ended> {
        let child = self.child.as_ref()?;
        drop(process::pidfd_send_signal(child.pidfd.as_fd(), SIGKILL));
        let ended = settle(child);
        // It may have made one right before its end.
        self.kill_successor();
        self.child = None;
        ended
    }

    /// The process that goes on inside, once there is one, takes the place of the one that made it. It is the caller's
    /// child and not reaped, so the pid can't be another's. One that can't be held must not run: nobody would hear of its
    /// end.
    fn succeed(&mut self) -> Result<(), OciError> {
        let Some(pid) = self.unheld_successor() else { return Ok(()) };
        let pidfd = process::pidfd_open(pid).during(|| "get hold of the new process".to_owned())?;
        if let Some(child) = &mut self.child {
            self.former = Some(std::mem::replace(child, Child { pid, pidfd }));
            self.stage = Stage::Executing;
        }
        Ok(())
    }

    /// The pid of the process that goes on inside, until it is the child.
    fn unheld_successor(&self) -> Option<i32> {
        let pid = self.successor.as_ref().and_then(Successor::pid)?;
        self.child.as_ref().is_some_and(|child| child.pid != pid).then_some(pid)
    }

    /// Without a descriptor: whoever reaps the caller's children reaps it.
    fn kill_successor(&self) {
        if let Some(pid) = self.unheld_successor() {
            drop(process::kill(pid, SIGKILL));
        }
    }

    fn has_ended(&self) -> bool {
        self.child.as_ref().is_some_and(|child| sync::readable(child.pidfd.as_fd(), Duration::ZERO).unwrap_or(false))
    }

    /// Another process goes on in its place; the one before it has nothing left to do.
    fn moved(&mut self, pid: i32, descriptors: Vec<OwnedFd>) {
        if let (Some(pidfd), Some(child)) = (descriptors.into_iter().next(), &mut self.child) {
            self.former = Some(std::mem::replace(child, Child { pid, pidfd }));
        }
    }

    /// The process that began the launch, where another went on in its place and it has not ended yet: the kernel may still
    /// be unmounting what it had mounted. The caller reaps it when its pidfd is readable, as after [`Self::abandon`].
    pub fn take_former(&mut self) -> Option<Process> {
        let former = self.former.take()?;
        match process::reap(former.pidfd.as_fd()) {
            Ok(None) => {
                let start_ticks = process::start_ticks(former.pid).unwrap_or(0);
                Some(Process { pid: former.pid, start_ticks, pidfd: former.pidfd })
            }
            Ok(Some(_)) | Err(_) => None,
        }
    }

    /// Whether it goes on inside, among processes that may look into it.
    fn emerges(&self) -> bool {
        self.successor.is_some()
    }

    /// Before a process is killed: which one is it by now?
    fn catch_up(&mut self) {
        if self.emerges() {
            if self.succeed().is_err() {
                self.kill_successor();
            }
            return;
        }
        let mut message = [0; child::MESSAGE_BYTES_MAX];
        while let Ok((count @ 1.., descriptors)) = socket::recv(self.sync.as_fd(), &mut message) {
            if let Some([child::MOVED, a, b, c, d]) = message.get(..count) {
                self.moved(i32::from_le_bytes([*a, *b, *c, *d]), descriptors);
            }
        }
    }

    /// The process's pid; 0 once the process is handed out.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }

    /// The process's descriptor, until the process is handed out.
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().map(|child| child.pidfd.as_fd())
    }

    /// The cgroup: the container's, or the exec's leaf.
    #[must_use]
    pub fn cgroup(&self) -> ContainerCgroup {
        self.cgroup.clone()
    }

    /// What the kernel or this process's rights did not allow as asked, for people.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.plan.warnings
    }

    /// The pseudo-terminal's master, once, from `Blocked` or `Running` on.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Lets a blocked process go on.
    pub fn proceed(&mut self) {
        if self.stage == Stage::Waiting {
            self.stage = Stage::Executing;
            // A process that is gone meanwhile is found by the next advance().
            drop(sync::send(self.sync.as_fd(), b"G"));
        }
    }

    /// Kills and reaps. `Some`: it has not ended yet (it sleeps in the kernel, on a dead file server perhaps); the caller
    /// reaps it when its pidfd is readable.
    pub fn abandon(mut self) -> Option<Process> {
        self.catch_up();
        abandon(self.child.take()?)
    }
}

impl Drop for Launching {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.catch_up();
        }
        if let Some(child) = &self.child {
            drop(process::pidfd_send_signal(child.pidfd.as_fd(), SIGKILL));
        }
    }
}

/// How long the end of a process that is at its end is waited for. It has closed its socket and has nothing left to do, but
/// the kernel may still be unmounting what it had mounted.
const SETTLE_MAX: Duration = Duration::from_millis(100);

/// Reaps a process that is at its end. `None`: it takes longer; whoever reaps the caller's children reaps it.
pub(crate) fn settle(child: &Child) -> Option<Ended> {
    if sync::readable(child.pidfd.as_fd(), SETTLE_MAX).unwrap_or(false) {
        process::reap(child.pidfd.as_fd()).ok().flatten()
    } else {
        None
    }
}

/// Kills; reaps what ends at once.
pub(crate) fn abandon(child: Child) -> Option<Process> {
    let start_ticks = process::start_ticks(child.pid).unwrap_or(0);
    drop(process::pidfd_send_signal(child.pidfd.as_fd(), SIGKILL));
    match process::reap(child.pidfd.as_fd()) {
        Ok(None) => Some(Process { pid: child.pid, start_ticks, pidfd: child.pidfd }),
        Ok(Some(_)) | Err(_) => None,
    }
}
