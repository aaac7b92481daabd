//! The daemon's ends of a process's streams: pipes, or a terminal for all.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use runtime_sys::{
    pty::{WindowSize, set_window_size},
    socket::set_nonblocking,
    stdio::{Pipe, grow_pipe, pipe},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::unix::pipe::{Receiver, Sender},
};

use crate::{EngineError, disk};

/// Size of a pipe between a client and a process: a few wakes a millisecond at full speed. Its pages are taken only while
/// bytes wait.
const PIPE_BYTES: usize = 256 * 1024;

/// The last holder of a terminal's other end is gone; the same on every architecture of Linux.
const EIO: i32 = 5;

/// What a client wants of a process's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// To write to its standard input.
    pub stdin: bool,
    /// To read its standard output.
    pub stdout: bool,
    /// To read its standard error.
    pub stderr: bool,
    /// A terminal in place of the three.
    pub tty: bool,
}

/// The daemon's ends.
#[derive(Debug, Default)]
pub struct Streams {
    /// What is written here, the process reads. Shut down or dropped, it reads the end.
    pub stdin: Option<Input>,
    /// What it writes.
    pub stdout: Option<Output>,
    /// What it writes as errors.
    pub stderr: Option<Output>,
    /// Its terminal, for the size.
    pub terminal: Option<Terminal>,
}

/// A terminal whose size can be set.
#[derive(Debug, Clone)]
pub struct Terminal(Arc<File>);

impl Terminal {
    /// Sets the size; who is in the foreground is told by SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), EngineError> {
        set_window_size(self.0.as_fd(), WindowSize { rows, columns })
            .map_err(|source| EngineError::Kernel { step: "resize the terminal", source })
    }
}

/// The writing end of a process's standard input, or its terminal.
#[derive(Debug)]
pub struct Input(Option<Sender>);

/// The reading end of what a process writes, or its terminal.
#[derive(Debug)]
pub struct Output(Receiver);

impl Streams {
    /// Of a terminal's master, for both directions.
    pub(crate) fn of_terminal(master: OwnedFd, wanted: Wanted) -> Result<Self, EngineError> {
        let file = terminal_file(master)?;
        Ok(Self {
            stdin: wanted.stdin.then(|| terminal_input(&file)).transpose()?,
            stdout: wanted.stdout.then(|| terminal_output(&file)).transpose()?,
            stderr: None,
            terminal: Some(Terminal(file)),
        })
    }

    /// Adds a terminal's master that is only typed on: what it shows is read elsewhere.
    pub(crate) fn with_terminal_input(self, master: OwnedFd, wanted: Wanted) -> Result<Self, EngineError> {
        let file = terminal_file(master)?;
        let stdin = wanted.stdin.then(|| terminal_input(&file)).transpose()?;
        Ok(Self { stdin, terminal: Some(Terminal(file)), ..self })
    }
}

fn terminal_file(master: OwnedFd) -> Result<Arc<File>, EngineError> {
    set_nonblocking(master.as_fd()).map_err(|source| EngineError::Kernel { step: "use the terminal", source })?;
    Ok(Arc::new(File::from(master)))
}

// Tokio's pipes do nothing but wait, read and write, so one that isn't looked at may as well be a terminal. Each has a
// descriptor of its own, since a descriptor is watched once.

fn terminal_input(file: &File) -> Result<Input, EngineError> {
    let end = file.try_clone().and_then(Sender::from_file_unchecked).map_err(disk("write to", "a terminal"))?;
    Ok(Input(Some(end)))
}

fn terminal_output(file: &File) -> Result<Output, EngineError> {
    let end = file.try_clone().and_then(Receiver::from_file_unchecked).map_err(disk("read from", "a terminal"))?;
    Ok(Output(end))
}

/// A pipe that a process writes and the daemon reads.
pub(crate) fn output() -> Result<(Output, OwnedFd), EngineError> {
    let Pipe { reader, writer } = sized_pipe()?;
    let reader = Receiver::from_owned_fd(reader).map_err(disk("read from", "a pipe"))?;
    Ok((Output(reader), writer))
}

/// A pipe that the daemon writes and a process reads.
pub(crate) fn input() -> Result<(OwnedFd, Input), EngineError> {
    let Pipe { reader, writer } = sized_pipe()?;
    Ok((reader, input_of(writer)?))
}

/// Of the writing end of a pipe.
pub(crate) fn input_of(writer: OwnedFd) -> Result<Input, EngineError> {
    let writer = Sender::from_owned_fd(writer).map_err(disk("write to", "a pipe"))?;
    Ok(Input(Some(writer)))
}

fn sized_pipe() -> Result<Pipe, EngineError> {
    let kernel = |source| EngineError::Kernel { step: "make a pipe", source };
    let both = pipe().map_err(kernel)?;
    grow_pipe(both.reader.as_fd(), PIPE_BYTES).map_err(kernel)?;
    Ok(both)
}

impl AsyncRead for Output {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.get_mut().0).poll_read(cx, into) {
            // Nobody has the terminal open any more: the end.
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(EIO) => Poll::Ready(Ok(())),
            answer => answer,
        }
    }
}

impl AsyncWrite for Input {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            None => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            Some(end) => Pin::new(end).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closes it: the process reads the end. A terminal has no end of input of its own and stays as it is.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0 = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{Streams, Wanted, input, output};

    #[tokio::test]
    async fn what_is_shut_down_is_read_to_the_end() {
        let (reader, mut stdin) = input().expect("a pipe");
        stdin.write_all(b"all").await.expect("writes");
        stdin.shutdown().await.expect("closes");
        assert!(stdin.write_all(b"more").await.is_err());
        let text = std::io::read_to_string(std::fs::File::from(reader)).expect("reads to the end");
        assert_eq!(text, "all");
        let (mut stdout, writer) = output().expect("a pipe");
        std::io::Write::write_all(&mut std::fs::File::from(writer), b"out").expect("writes");
        let mut text = String::new();
        stdout.read_to_string(&mut text).await.expect("reads");
        assert_eq!(text, "out");
    }

    #[tokio::test]
    async fn a_terminal_is_typed_on_read_and_resized() {
        let master = std::fs::File::options().read(true).write(true).open("/dev/ptmx").expect("a terminal");
        let pair = runtime_sys::pty::pair(OwnedFd::from(master)).expect("both ends");
        let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
        let Streams { stdin, stdout, stderr, terminal } = Streams::of_terminal(pair.master, wanted).expect("streams");
        assert!(stderr.is_none());
        terminal.expect("a terminal").resize(30, 90).expect("resizes");
        let (mut stdin, mut stdout) = (stdin.expect("an input"), stdout.expect("an output"));
        stdin.write_all(b"typed\n").await.expect("types");
        let mut echo = [0; 7];
        stdout.read_exact(&mut echo).await.expect("reads");
        assert_eq!(&echo, b"typed\r\n");
        drop((pair.slave, stdin));
        assert_eq!(stdout.read(&mut echo).await.expect("the end"), 0);
    }
}
