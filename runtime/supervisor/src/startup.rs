//! From a fresh process to a running supervisor.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::Path;

use runtime_sys::SysError;
use runtime_sys::cgroup::Cgroup;
use runtime_sys::signals::{self, Signal, SignalFd};
use runtime_sys::{privileges, process, socket, stdio};

use crate::supervisor::Supervisor;
use crate::warn::warn;

/// Why a supervisor can't begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The arguments are not two words.
    #[error("usage: podwright-pod NAME CGROUP, with a listening unix socket as descriptor 0; the node starts it")]
    Usage,
    /// A call that everything rests on failed.
    #[error("the supervisor cannot begin")]
    Kernel(#[from] SysError),
    /// The event loop failed.
    #[error("the supervisor cannot go on waiting for events")]
    Events(#[source] SysError),
}

/// Least chance of being taken by the out-of-memory killer; the kubelet's own processes have the same.
const OOM_SCORE_ADJ: i32 = -999;

/// Runs the supervisor of one pod on the listening socket that is descriptor 0, until it is told to quit.
///
/// # Errors
/// The arguments are wrong, or the kernel refuses something that the supervisor can't be without.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), StartError> {
    let words: Vec<String> = arguments.filter_map(|word| word.into_string().ok()).collect();
    let [_name, cgroup] = words.as_slice() else { return Err(StartError::Usage) };
    // First of all: nothing of the node's may be held open by a process that outlives it.
    stdio::close_inherited()?;
    let listener = stdio::take_stdin()?;
    socket::set_nonblocking(listener.as_fd())?;
    leave_the_node()?;
    signals::ignore(Signal::Pipe)?;
    signals::ignore(Signal::Hangup)?;
    signals::ignore(Signal::Interrupt)?;
    let signals = SignalFd::block(&[Signal::Child, Signal::Terminate])?;
    signals::become_subreaper()?;
    privileges::set_not_dumpable()?;
    // Both are protection and not function: a pod without them is better than no pod, and the line says what is missing.
    let oom_score_adj = lower_oom_score();
    if let Err(error) = join(cgroup) {
        warn(format_args!("stays in the node's cgroup: {error}"));
    }
    Supervisor::new(listener, signals, oom_score_adj)?.run().map_err(StartError::Events)
}

/// A session, a working directory and a umask of its own: the node's terminal must not reach it, nor may it keep a file
/// system busy for as long as the pod lives.
#[expect(clippy::disallowed_methods, reason = "the first act of a program with one thread")]
fn leave_the_node() -> Result<(), SysError> {
    // EPERM: whoever started us has done it already.
    process::setsid().or_else(|error| if error.kind() == ErrorKind::PermissionDenied { Ok(()) } else { Err(error) })?;
    process::set_umask(0o022);
    std::env::set_current_dir("/").map_err(|error| SysError::from_io("chdir(\"/\")", &error))
}

/// Moves this process into the cgroup, in every hierarchy.
fn join(cgroup: &str) -> Result<(), SysError> {
    for door in Cgroup::make(Path::new(cgroup))?.doors()? {
        let written = File::from(door).write_all(b"0");
        written.map_err(|error| SysError::from_io(format!("write(\"{cgroup}/cgroup.procs\", \"0\")"), &error))?;
    }
    Ok(())
}

/// Lowers our own score and answers with the one that we were started with, which is what a container gets that names
/// none. Without CAP_SYS_RESOURCE it can't be lowered.
fn lower_oom_score() -> i32 {
    const PATH: &str = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(PATH).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if before > OOM_SCORE_ADJ
        && let Err(error) = fs::write(PATH, OOM_SCORE_ADJ.to_string())
    {
        warn(format_args!("keeps its out-of-memory score of {before}: {error}"));
    }
    before
}
