//! The HTTP server that plays the script.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::command::{DemoArgs, DemoError};
use crate::output;
use crate::script::{Script, Verdict};

/// How often the script is looked at for what happens without a request: crashes and memory.
const TICK: Duration = Duration::from_millis(50);
/// A client that never finishes its request head is dropped after this.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(30);
/// Pause after a failed accept (out of descriptors), so that the loop doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The exit code after SIGTERM: the server was asked to end and did.
const STOPPED: i32 = 0;

/// Serves until SIGTERM or a scripted crash; the process's exit code comes back.
pub async fn serve(args: DemoArgs) -> Result<i32, DemoError> {
    let started = Instant::now();
    let mut term = signal(SignalKind::terminate()).map_err(DemoError::Signal)?;
    let server = Server::new(args, started);
    if !server.args.start_delay.is_zero() {
        output::line(&format!("demo: starting, listening in {:?}", server.args.start_delay));
        tokio::select! {
            () = tokio::time::sleep(server.args.start_delay) => {}
            _ = term.recv() => return Ok(STOPPED),
        }
    }
    let port = server.args.port;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await;
    let listener = listener.map_err(|source| DemoError::Listen { port, source })?;
    Ok(server.run(listener, &mut term).await)
}

/// The state that all connections share.
struct Server {
    args: DemoArgs,
    started: Instant,
    requests: AtomicU64,
    script: Mutex<Script>,
}

impl Server {
    fn new(args: DemoArgs, started: Instant) -> Arc<Self> {
        let script = Mutex::new(Script::new(args.clone()));
        Arc::new(Self { args, started, requests: AtomicU64::new(0), script })
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, listener: TcpListener, term: &mut Signal) -> i32 {
        match listener.local_addr() {
            Ok(address) => output::line(&format!("demo: listening on {address}")),
            Err(error) => output::error(&format!("listening, but where: {error}")),
        }
        let mut tick = tokio::time::interval(TICK);
        let mut memory = Memory::default();
        let mut stop_at: Option<Instant> = None;
        loop {
            tokio::select! {
                accepted = listener.accept() => self.clone().accept(accepted).await,
                _ = term.recv() => match stop_at {
                    _ if self.args.ignore_term => output::line("demo: SIGTERM ignored"),
                    None => {
                        output::line(&format!("demo: SIGTERM, stopping in {:?}", self.args.stop_delay));
                        stop_at = Some(Instant::now() + self.args.stop_delay);
                    }
                    Some(_) => {}
                },
                _ = tick.tick() => {}
            }
            let uptime = self.started.elapsed();
            let (crash, wanted) = {
                let script = self.script();
                (script.crash(uptime), script.memory(uptime))
            };
            if let Some(code) = crash {
                output::line(&format!("demo: crashing with code {code}"));
                return i32::from(code);
            }
            if stop_at.is_some_and(|at| Instant::now() >= at) {
                output::line("demo: stopped");
                return STOPPED;
            }
            memory.grow(wanted);
        }
    }

    async fn accept(self: Arc<Self>, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                output::error(&format!("cannot accept: {error}"));
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let server = self.clone();
                async move { Ok::<_, Infallible>(server.answer(&request).await) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT_MAX);
            // A client that goes away in the middle is its own concern.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if path == "/control" {
            return self.control(request);
        }
        let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let uptime = self.started.elapsed();
        let (verdict, latency) = {
            let script = self.script();
            (script.verdict(uptime, count), script.latency())
        };
        if verdict == Verdict::Hanging {
            std::future::pending::<()>().await;
        }
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let (status, body) = match (path, verdict) {
            (_, Verdict::Failing | Verdict::Hanging) => (StatusCode::INTERNAL_SERVER_ERROR, "failing\n".to_owned()),
            ("/readyz", Verdict::NotReady) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
            ("/healthz" | "/readyz", _) => (StatusCode::OK, "ok\n".to_owned()),
            ("/", _) => (StatusCode::OK, self.greeting(uptime, count)),
            _ => (StatusCode::NOT_FOUND, "there are /, /healthz, /readyz and POST /control\n".to_owned()),
        };
        // Probes come every second for hours; their lines would bury what a reader looks for.
        if !matches!(path, "/healthz" | "/readyz") {
            output::line(&format!("demo: {} {path} {}", request.method(), status.as_u16()));
        }
        response(status, body)
    }

    fn greeting(&self, uptime: Duration, count: u64) -> String {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!(
            "{}\nhostname: {}\npid: {}\nuptime: {:.3} s\nrequests: {count}\n",
            self.args.message,
            hostname.trim_end(),
            std::process::id(),
            uptime.as_secs_f64(),
        )
    }

    fn control(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            return response(StatusCode::METHOD_NOT_ALLOWED, "POST, with the words in the query\n".to_owned());
        }
        let query = request.uri().query().unwrap_or_default();
        match self.script().control(query) {
            Ok(()) => {
                output::line(&format!("demo: control {query}"));
                response(StatusCode::OK, "ok\n".to_owned())
            }
            Err(error) => response(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

/// Memory that is really held: every page is written, with a byte that isn't zero.
#[derive(Default)]
pub(crate) struct Memory {
    blocks: Vec<Vec<u8>>,
    bytes: u64,
}

/// Taken at once, in bytes.
const BLOCK_BYTES: usize = 1 << 20;

impl Memory {
    pub(crate) fn grow(&mut self, wanted: u64) {
        while self.bytes < wanted {
            let missing = usize::try_from(wanted - self.bytes).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
            self.blocks.push(vec![1; missing]);
            self.bytes += u64::try_from(missing).unwrap_or(0).max(1);
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.iter().map(|block| u64::try_from(block.len()).unwrap_or(0)).sum()
    }
}

#[cfg(test)]
mod tests;
