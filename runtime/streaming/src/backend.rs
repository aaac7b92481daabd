//! What the server asks of the runtime.

use std::fmt;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// A future that a [`Backend`] answers with.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// Takes what the client sends.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// Gives what the client gets.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;
/// Sets a terminal's size. Called in order; must not block.
pub type Terminal = Box<dyn Fn(Size) + Send + Sync>;

/// Both directions of a connection into a pod.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The runtime, as the streaming server sees it.
pub trait Backend: Send + Sync + 'static {
    /// Runs a command in a running container.
    ///
    /// # Errors
    /// When it can't be started; the client gets the text.
    fn exec<'a>(&'a self, request: &'a ExecRequest) -> BoxFuture<'a, Result<Session, BackendError>>;

    /// Joins the streams of a container's first process.
    ///
    /// # Errors
    /// When the container doesn't run, or has no standard input to offer; the client gets the text.
    fn attach<'a>(&'a self, request: &'a AttachRequest) -> BoxFuture<'a, Result<Session, BackendError>>;

    /// Connects to a port on the pod's loopback.
    ///
    /// # Errors
    /// When nobody listens; the client gets the text and the other connections of the session live on.
    fn connect<'a>(&'a self, sandbox: &'a str, port: u16) -> BoxFuture<'a, Result<Box<dyn Connection>, BackendError>>;
}

/// An `Exec` as the client's URL stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// The container's id.
    pub container: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// The client sends standard input.
    pub stdin: bool,
    /// The client gets standard output.
    pub stdout: bool,
    /// The client gets standard error; never together with `tty`.
    pub stderr: bool,
    /// On a terminal.
    pub tty: bool,
}

/// An `Attach` as the client's URL stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// The container's id.
    pub container: String,
    /// The client sends standard input.
    pub stdin: bool,
    /// The client gets standard output.
    pub stdout: bool,
    /// The client gets standard error; never together with `tty`.
    pub stderr: bool,
    /// The container has a terminal.
    pub tty: bool,
}

/// A `PortForward` as the client's URL stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwardRequest {
    /// The sandbox's id.
    pub sandbox: String,
    /// The ports, for clients that don't name one with each stream (WebSocket's `v4.channel.k8s.io`).
    pub ports: Vec<u16>,
}

/// A running exec or attach. When it is dropped, an exec is killed and an attach ends.
pub struct Session {
    /// Standard input; dropped when the client closes its side.
    pub stdin: Option<Input>,
    /// Standard output, or the terminal's.
    pub stdout: Option<Output>,
    /// Standard error.
    pub stderr: Option<Output>,
    /// Sets the size, with a terminal.
    pub terminal: Option<Terminal>,
    /// The end of the process. Output that is still in the streams is delivered after it.
    pub ended: BoxFuture<'static, Result<ExitStatus, BackendError>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("terminal", &self.terminal.is_some())
            .finish_non_exhaustive()
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit code; 128 and the signal's number when a signal ended it.
    pub code: i32,
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Why the runtime refused, in one line for the client to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    /// The line, causes included.
    pub message: String,
}
