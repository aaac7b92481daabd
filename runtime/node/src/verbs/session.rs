//! This program's own streams, joined to those of a process in a container.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, BorrowedFd};

use runtime_streaming::client::{self, ClientError, Streams};
use runtime_streaming::{ExitStatus, Size};
use runtime_sys::terminal::{self, RawMode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::Error;
use crate::output;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// Standard input is passed on.
    pub(super) stdin: bool,
    /// The process has a terminal.
    pub(super) tty: bool,
}

impl Wish {
    /// As kubectl has it: input that doesn't come from a terminal goes to none.
    pub(super) fn fitting(self) -> Wish {
        if self.stdin && self.tty && !io::stdin().is_terminal() {
            output::note("podwright: standard input is not a terminal, so the command gets none either");
            return Wish { tty: false, ..self };
        }
        self
    }
}

/// Joins the streams until the session's end; its exit code. The terminal is raw meanwhile where the process has it.
pub(super) async fn join(what: String, url: &str, wish: Wish) -> Result<i32, Error> {
    let stdin = io::stdin();
    // Input from elsewhere to a container that has a terminal anyway needs no raw one here.
    let raw = (wish.stdin && wish.tty && stdin.is_terminal()).then(|| RawMode::enter(stdin.as_fd())).transpose();
    let _raw = raw.map_err(|source| Error::Terminal { source })?;
    let (sizes, size) = watch::channel(Size { width: 0, height: 0 });
    let first = if wish.tty { size_now() } else { None };
    let streams = Streams {
        stdin: wish.stdin.then(|| own(stdin.as_fd())).transpose()?.map(|file| Box::new(file) as _),
        stdout: Some(Box::new(own(io::stdout().as_fd())?)),
        stderr: (!wish.tty).then(|| own(io::stderr().as_fd())).transpose()?.map(|file| Box::new(file) as _),
        sizes: first.map(|first| {
            sizes.send_replace(first);
            size
        }),
    };
    let ended = tokio::select! {
        ended = client::remote(url, streams) => ended,
        never = follow_size(&sizes) => match never {},
    };
    match ended {
        Ok(ExitStatus { code }) => Ok(code),
        // A reader that went away has what it wanted.
        Err(ClientError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(source) => Err(Error::Stream { what, source }),
    }
}

/// One of this program's streams. It may be a terminal, a pipe or a file, so it is read and written on a thread that may
/// wait; what is written is out once it is flushed.
fn own(stream: BorrowedFd<'_>) -> Result<tokio::fs::File, Error> {
    let own = stream.try_clone_to_owned().map_err(|source| Error::OwnStreams { source })?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(own)))
}

/// Tells each new size of the terminal.
async fn follow_size(sizes: &watch::Sender<Size>) -> Infallible {
    // Without the signal the first size stays.
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return pending().await };
    while changes.recv().await.is_some() {
        if let Some(size) = size_now() {
            sizes.send_replace(size);
        }
    }
    pending().await
}

/// The size of the terminal that is typed on, or else of the one that is shown on; none without a terminal.
fn size_now() -> Option<Size> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let size = |stream: BorrowedFd<'_>| terminal::window_size(stream).ok();
    let size = size(stdin.as_fd()).or_else(|| size(stdout.as_fd()))?;
    Some(Size { width: size.columns, height: size.rows })
}
