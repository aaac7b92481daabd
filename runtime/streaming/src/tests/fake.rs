//! A runtime of streams in memory: what a "process" does is its first word.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    AttachRequest, Backend, BackendError, BoxFuture, Connection, ExecRequest, ExitStatus, Input, Output, Session, Size,
};

/// A pipe's size.
const PIPE_BYTES: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Fake {
    live: Arc<AtomicUsize>,
    /// What all processes wrote.
    pub(super) written: Arc<AtomicU64>,
    pub(super) sizes: Arc<Mutex<Vec<Size>>>,
    /// Connections into pods that are open.
    pub(super) connections: Arc<AtomicUsize>,
}

/// Counts what it stands for.
struct Guard(Arc<AtomicUsize>);

impl Guard {
    fn new(count: &Arc<AtomicUsize>) -> Guard {
        count.fetch_add(1, Ordering::SeqCst);
        Guard(Arc::clone(count))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Fake {
    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst) + self.connections.load(Ordering::SeqCst)
    }
}

/// The far ends of a process's streams.
struct Process {
    stdin: DuplexStream,
    stdout: DuplexStream,
    stderr: DuplexStream,
    written: Arc<AtomicU64>,
}

/// The bytes that `zeros` writes, which are no zeros: position-dependent, so that a lost piece shows.
pub(super) fn pattern(position: u64) -> u8 {
    position.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

async fn run(command: Vec<String>, process: Process) -> i32 {
    let Process { mut stdin, mut stdout, mut stderr, written } = process;
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words[..] {
        ["cat"] => {
            // The client may have gone meanwhile.
            let _ = tokio::io::copy_buf(&mut tokio::io::BufReader::with_capacity(PIPE_BYTES, stdin), &mut stdout).await;
            0
        }
        ["exit", code] => code.parse().unwrap(),
        ["both"] => {
            stdout.write_all(b"out").await.unwrap();
            stderr.write_all(b"err").await.unwrap();
            0
        }
        ["write", bytes] => {
            let total: usize = bytes.parse().unwrap();
            let block: Vec<u8> = (0..1 << 20).map(pattern).collect();
            let mut at = 0;
            while at < total {
                let from = at % (1 << 20);
                let most = (total - at).min(PIPE_BYTES);
                let to = (from + most).min(block.len());
                if stdout.write_all(&block[from..to]).await.is_err() {
                    return 1;
                }
                at += to - from;
                written.fetch_add((to - from) as u64, Ordering::SeqCst);
            }
            0
        }
        ["sum"] => {
            let (mut hash, mut total) = (Sha256::new(), 0_u64);
            let mut piece = vec![0; PIPE_BYTES];
            loop {
                let read = stdin.read(&mut piece).await.unwrap();
                if read == 0 {
                    break;
                }
                hash.update(&piece[..read]);
                total += read as u64;
            }
            let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            stdout.write_all(format!("{total} {digest}").as_bytes()).await.unwrap();
            0
        }
        // Reads one byte, and then takes no more.
        ["deaf"] => {
            let _ = stdin.read_u8().await;
            drop(stdin);
            stdout.write_all(b"enough").await.unwrap();
            std::future::pending().await
        }
        ["hang"] => {
            std::future::pending::<()>().await;
            0
        }
        // Ends, and somebody else has its output.
        ["held"] => {
            stdout.write_all(b"said").await.unwrap();
            tokio::spawn(async move {
                let _held = (stdout, stderr);
                tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            });
            7
        }
        _ => 127,
    }
}

impl Fake {
    fn session(&self, command: Vec<String>, tty: bool) -> Session {
        let (stdin, stdin_far) = duplex(PIPE_BYTES);
        let (stdout, stdout_far) = duplex(PIPE_BYTES);
        let (stderr, stderr_far) = duplex(PIPE_BYTES);
        let process =
            Process { stdin: stdin_far, stdout: stdout_far, stderr: stderr_far, written: Arc::clone(&self.written) };
        let guard = Guard::new(&self.live);
        let running = tokio::spawn(run(command, process));
        let kill = Kill(running.abort_handle());
        let sizes = Arc::clone(&self.sizes);
        Session {
            stdin: Some(Box::new(stdin) as Input),
            stdout: Some(Box::new(stdout) as Output),
            stderr: (!tty).then(|| Box::new(stderr) as Output),
            terminal: tty.then(|| Box::new(move |size| sizes.lock().unwrap().push(size)) as _),
            ended: Box::pin(async move {
                let _dropped_at_the_end = (guard, kill);
                running
                    .await
                    .map(|code| ExitStatus { code })
                    .map_err(|error| BackendError { message: error.to_string() })
            }),
        }
    }
}

struct Kill(tokio::task::AbortHandle);

impl Drop for Kill {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Backend for Fake {
    fn exec<'a>(&'a self, request: &'a ExecRequest) -> BoxFuture<'a, Result<Session, BackendError>> {
        Box::pin(async {
            if request.command == ["nothing"] {
                return Err(BackendError { message: "exec: \"nothing\": no such file or directory".to_owned() });
            }
            Ok(self.session(request.command.clone(), request.tty))
        })
    }

    fn attach<'a>(&'a self, request: &'a AttachRequest) -> BoxFuture<'a, Result<Session, BackendError>> {
        Box::pin(async { Ok(self.session(vec![request.container.clone(), "3".to_owned()], request.tty)) })
    }

    fn connect<'a>(&'a self, _sandbox: &'a str, port: u16) -> BoxFuture<'a, Result<Box<dyn Connection>, BackendError>> {
        Box::pin(async move {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(tcp) => Ok(Box::new(Counted { tcp, _guard: Guard::new(&self.connections) }) as _),
                Err(error) => Err(BackendError { message: format!("connect to 127.0.0.1:{port}: {error}") }),
            }
        })
    }
}

struct Counted {
    tcp: TcpStream,
    _guard: Guard,
}

impl tokio::io::AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

/// A port where each connection is handed over.
pub(super) async fn listen() -> (u16, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap().port(), listener)
}

/// A port that echoes, with half-close.
pub(super) async fn echo() -> u16 {
    let (port, listener) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    port
}
