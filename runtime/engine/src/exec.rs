//! One more process in a running container.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use runtime_lifecycle::{ContainerId, Terminal};
use runtime_sys::stdio::null_device;
use runtime_wire::{Answer, ExecSpec, Exit, Request};
use tokio::{
    io::AsyncReadExt as _,
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Engine, EngineError, Output, Streams, Wanted, spec,
    streams::{input, output},
    supervisor::{Ask, Brings, Link},
    world::Container,
};

/// Most bytes kept of each stream; what is above is read and thrown away (CVE-2022-1708).
pub const EXEC_OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long the streams may stay open after the command has ended: its children are killed with it, so this is for the
/// bytes that are still in the pipes, and for who was given a descriptor and isn't of the command. Never beyond the
/// command's own limit.
const DRAIN: Duration = Duration::from_secs(2);

/// How long the end of a command that was killed at its deadline is waited for.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// Bytes asked for at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Numbers execs within this daemon's life; the supervisor's ids also carry the daemon's start.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// What it wrote, up to [`EXEC_OUTPUT_BYTES_MAX`].
    pub stdout: Vec<u8>,
    /// What it wrote, up to [`EXEC_OUTPUT_BYTES_MAX`].
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: Exit,
}

/// A command that runs. Dropped, it is killed with all that it started.
#[derive(Debug)]
pub struct ExecStarted {
    /// Its streams, as they were asked for.
    pub streams: Streams,
    link: Arc<Link>,
    exec: String,
    ended: oneshot::Receiver<Exit>,
    over: bool,
    deadline: Duration,
}

impl ExecStarted {
    /// Returns once it has ended.
    pub async fn ended(&mut self) -> Result<Exit, EngineError> {
        let exit = (&mut self.ended).await.map_err(|_| self.link.protocol("execute"))?;
        self.over = true;
        Ok(exit)
    }

    /// Kills it with all that it started, and waits for its end: who is told that the deadline has passed must not find it
    /// still running. For [`KILL_WAIT`] at most, since a task that sleeps in the kernel ends when that lets it.
    async fn kill(mut self) {
        let kill = Request::KillExec { exec: self.exec.clone() };
        if self.link.tell("kill the command", kill, self.deadline).await.is_ok() {
            // Without an answer in time it is left to the supervisor, which goes on killing.
            let _ = timeout(KILL_WAIT, self.ended()).await;
        }
    }
}

impl Drop for ExecStarted {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (link, exec, deadline) = (Arc::clone(&self.link), std::mem::take(&mut self.exec), self.deadline);
        link.forget_exec(&exec);
        // Outside a runtime the daemon is ending, and its connection's end kills the exec.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // One that has ended meanwhile isn't found any more.
                let _ = link.tell("kill the command", Request::KillExec { exec }, deadline).await;
            });
        }
    }
}

impl Engine {
    /// A container that can be attached to; the error says what it is instead.
    pub fn check_running(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.running(id).map(drop)
    }

    /// The same for a command, which is only started later.
    pub fn check_exec(&self, id: &ContainerId, argv: &[String]) -> Result<(), EngineError> {
        spec::check_command(argv)?;
        self.check_running(id)
    }

    pub(crate) fn running(&self, id: &ContainerId) -> Result<Arc<Container>, EngineError> {
        let container = self.world.container(id)?;
        let record = container.record();
        if record.state.process().is_none() {
            return Err(EngineError::ContainerNotRunning { id: id.clone(), state: record.state.name() });
        }
        Ok(container)
    }

    /// Starts a command in a running container.
    pub async fn exec(&self, id: &ContainerId, argv: Vec<String>, wanted: Wanted) -> Result<ExecStarted, EngineError> {
        let container = self.running(id)?;
        let link = self.world.sandbox(&container.sandbox)?.link()?;
        let mode = if wanted.tty { Terminal::Yes } else { Terminal::No };
        let process = spec::exec_process(&container.process, argv, mode)?;
        let exec = format!("{}-{}", self.started.0.as_nanos(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (streams, theirs) = if wanted.tty { (Streams::default(), Vec::new()) } else { pipes(wanted)? };
        let descriptors: Vec<BorrowedFd<'_>> = theirs.iter().map(|fd| fd.as_fd()).collect();
        let spec = ExecSpec {
            id: exec.clone(),
            container: id.to_string(),
            process,
            stdin: wanted.stdin && !wanted.tty,
            tty: wanted.tty,
        };
        let deadline = self.config.limits.supervisor_answer;
        // Guards the exec from here on: given up or failed, it is killed.
        let mut started = ExecStarted {
            streams,
            ended: link.expect_exec(&exec),
            link: Arc::clone(&link),
            exec,
            over: false,
            deadline,
        };
        let asked = Ask {
            step: "execute",
            request: Request::Exec(Box::new(spec)),
            descriptors: &descriptors,
            brings: if wanted.tty { Brings::Descriptor } else { Brings::Nothing },
            deadline,
        };
        match link.ask(asked).await {
            Ok((Answer::Started { .. }, None)) if !wanted.tty => Ok(started),
            Ok((Answer::Started { .. }, Some(master))) if wanted.tty => {
                started.streams = Streams::of_terminal(master, wanted)?;
                Ok(started)
            }
            Ok(_) => Err(link.protocol("execute")),
            Err(error) => {
                if matches!(error, EngineError::Supervisor { .. }) {
                    link.forget_exec(&started.exec);
                    started.over = true;
                }
                Err(error)
            }
        }
    }

    /// Runs a command to its end and returns what it wrote. After `limit` it is killed with all that it started, and the
    /// error is [`crate::Kind::DeadlineExceeded`]; so it is when whoever asked goes away.
    pub async fn exec_sync(
        &self,
        id: &ContainerId,
        argv: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<ExecOutput, EngineError> {
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        let late = || EngineError::Deadline {
            what: format!("the command in container {}", id.short()),
            after: limit.unwrap_or_default(),
        };
        let wanted = Wanted { stdout: true, stderr: true, ..Wanted::default() };
        let mut started = within(until, self.exec(id, argv, wanted)).await.ok_or_else(late)??;
        let Streams { stdout: out, stderr: err, .. } = std::mem::take(&mut started.streams);
        let (mut stdout, mut stderr) = (Kept::default(), Kept::default());
        let exit = {
            let mut reading = std::pin::pin!(async {
                tokio::join!(stdout.collect(out), stderr.collect(err));
            });
            let mut read = false;
            let running = async {
                loop {
                    tokio::select! {
                        exit = started.ended() => return exit,
                        () = &mut reading, if !read => read = true,
                    }
                }
            };
            let exit = within(until, running).await.transpose()?;
            if exit.is_some() && !read {
                let drained = Instant::now() + DRAIN;
                let drained = until.map_or(drained, |until| until.min(drained));
                if timeout_at(drained, &mut reading).await.is_err() {
                    // The command has ended and its code counts; only what a stranger might still write is missing.
                    tracing::warn!(container = id.short(), "the output of a command is held open after its end");
                }
            }
            exit
        };
        let Some(exit) = exit else {
            started.kill().await;
            return Err(late());
        };
        for (stream, kept) in [("stdout", &stdout), ("stderr", &stderr)] {
            if kept.dropped > 0 {
                let (container, dropped) = (id.short(), kept.dropped);
                tracing::warn!(
                    container,
                    stream,
                    dropped,
                    limit = EXEC_OUTPUT_BYTES_MAX,
                    "the output of a command is cut"
                );
            }
        }
        Ok(ExecOutput { stdout: stdout.bytes, stderr: stderr.bytes, exit })
    }
}

/// Pipes for a command: our ends, and theirs in the order in which they travel.
fn pipes(wanted: Wanted) -> Result<(Streams, Vec<OwnedFd>), EngineError> {
    let mut streams = Streams::default();
    let mut theirs = Vec::with_capacity(3);
    if wanted.stdin {
        let (reader, writer) = input()?;
        streams.stdin = Some(writer);
        theirs.push(reader);
    }
    for (wanted, ours) in [(wanted.stdout, &mut streams.stdout), (wanted.stderr, &mut streams.stderr)] {
        theirs.push(if wanted {
            let (reader, writer) = output()?;
            *ours = Some(reader);
            writer
        } else {
            null_device().map_err(|source| EngineError::Kernel { step: "make the command's streams", source })?
        });
    }
    Ok((streams, theirs))
}

async fn within<T>(until: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => timeout_at(until, work).await.ok(),
        None => Some(work.await),
    }
}

/// What is kept of a stream.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    dropped: u64,
}

impl Kept {
    /// Reads to the end; keeps what fits, and counts the rest.
    async fn collect(&mut self, from: Option<Output>) {
        let Some(mut from) = from else { return };
        let mut rest = Vec::new();
        loop {
            let full = self.bytes.len() >= EXEC_OUTPUT_BYTES_MAX;
            let into = if full { &mut rest } else { &mut self.bytes };
            if into.capacity() - into.len() < 4096 {
                into.reserve(CHUNK_BYTES.min(into.len().max(4096)));
            }
            match from.read_buf(into).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    let over = rest.len() + self.bytes.len().saturating_sub(EXEC_OUTPUT_BYTES_MAX);
                    self.dropped = self.dropped.saturating_add(u64::try_from(over).unwrap_or(u64::MAX));
                    self.bytes.truncate(EXEC_OUTPUT_BYTES_MAX);
                    rest.clear();
                }
            }
        }
    }
}
