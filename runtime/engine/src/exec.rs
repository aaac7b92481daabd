//! One more process in a running container.

use std::{
    io::{PipeReader, PipeWriter, pipe},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use runtime_lifecycle::{ContainerId, Terminal};
use runtime_wire::{Answer, ExecSpec, Exit, Request};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Engine, EngineError, disk, spec,
    supervisor::{Ask, Brings, Link},
};

/// Most bytes kept of each stream; what is above is read and thrown away (CVE-2022-1708).
pub const EXEC_OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long the streams may stay open after the command has ended: its children are killed with it, so this is for the
/// bytes that are still in the pipes.
const DRAIN: Duration = Duration::from_secs(2);

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

/// What a command reads and writes.
#[derive(Debug)]
pub enum ExecIo {
    /// These.
    Descriptors {
        /// Read by it; nothing if absent.
        stdin: Option<OwnedFd>,
        /// Written by it.
        stdout: OwnedFd,
        /// Written by it.
        stderr: OwnedFd,
    },
    /// A pseudo-terminal, whose master is handed out.
    Terminal,
}

/// A command that runs. Dropped, it is killed with all that it started.
#[derive(Debug)]
pub struct ExecStarted {
    /// The master, if a terminal was asked for.
    pub terminal: Option<OwnedFd>,
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
    /// Starts a command in a running container.
    pub async fn exec(&self, id: &ContainerId, argv: Vec<String>, io: ExecIo) -> Result<ExecStarted, EngineError> {
        let container = self.world.container(id)?;
        let record = container.record();
        if record.state.process().is_none() {
            return Err(EngineError::ContainerNotRunning { id: id.clone(), state: record.state.name() });
        }
        let link = self.world.sandbox(&container.sandbox)?.link()?;
        let terminal = matches!(io, ExecIo::Terminal);
        let mode = if terminal { Terminal::Yes } else { Terminal::No };
        let process = spec::exec_process(&container.process, argv, mode)?;
        let exec = format!("{}-{}", self.started.0.as_nanos(), NEXT.fetch_add(1, Ordering::Relaxed));
        let descriptors: Vec<BorrowedFd<'_>> = match &io {
            ExecIo::Descriptors { stdin, stdout, stderr } => {
                stdin.iter().map(|fd| fd.as_fd()).chain([stdout.as_fd(), stderr.as_fd()]).collect()
            }
            ExecIo::Terminal => Vec::new(),
        };
        let wanted = ExecSpec {
            id: exec.clone(),
            container: id.to_string(),
            process,
            stdin: matches!(io, ExecIo::Descriptors { stdin: Some(_), .. }),
            tty: terminal,
        };
        let deadline = self.config.limits.supervisor_answer;
        // Guards the exec from here on: given up or failed, it is killed.
        let mut started = ExecStarted {
            terminal: None,
            ended: link.expect_exec(&exec),
            link: Arc::clone(&link),
            exec,
            over: false,
            deadline,
        };
        let asked = Ask {
            step: "execute",
            request: Request::Exec(Box::new(wanted)),
            descriptors: &descriptors,
            brings: if terminal { Brings::Descriptor } else { Brings::Nothing },
            deadline,
        };
        match link.ask(asked).await {
            Ok((Answer::Started { .. }, master)) => {
                started.terminal = master;
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
        let (out_read, stdout) = pipe_pair()?;
        let (err_read, stderr) = pipe_pair()?;
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        let late = || EngineError::Deadline {
            what: format!("the command in container {}", id.short()),
            after: limit.unwrap_or_default(),
        };
        let io = ExecIo::Descriptors { stdin: None, stdout: stdout.into(), stderr: stderr.into() };
        let mut started = within(until, self.exec(id, argv, io)).await.ok_or_else(late)??;
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        let exit = {
            let mut reading = std::pin::pin!(async {
                tokio::join!(collect(out_read, &mut stdout), collect(err_read, &mut stderr));
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
            let exit = within(until, running).await.ok_or_else(late)??;
            if !read {
                // Time-out here only cuts what a stray holder of the pipe might still write.
                let _ = timeout(DRAIN, &mut reading).await;
            }
            exit
        };
        Ok(ExecOutput { stdout, stderr, exit })
    }
}

async fn within<T>(until: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => timeout_at(until, work).await.ok(),
        None => Some(work.await),
    }
}

fn pipe_pair() -> Result<(Receiver, PipeWriter), EngineError> {
    let (reader, writer): (PipeReader, PipeWriter) = pipe().map_err(disk("make", "a pipe"))?;
    let reader = Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(disk("read from", "a pipe"))?;
    Ok((reader, writer))
}

/// Reads to the end; keeps what fits.
async fn collect(mut from: Receiver, kept: &mut Vec<u8>) {
    let mut rest = Vec::new();
    loop {
        let full = kept.len() >= EXEC_OUTPUT_BYTES_MAX;
        let into = if full { &mut rest } else { &mut *kept };
        if into.capacity() - into.len() < 4096 {
            into.reserve(CHUNK_BYTES.min(into.len().max(4096)));
        }
        match from.read_buf(into).await {
            Ok(0) | Err(_) => break,
            Ok(_) => rest.clear(),
        }
    }
    kept.truncate(EXEC_OUTPUT_BYTES_MAX);
}
