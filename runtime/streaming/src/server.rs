//! The listener, and what its URLs are.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use crate::token::{RANDOM, Request, Tokens};
use crate::{AttachRequest, Backend, Config, ExecRequest, Limits, PortForwardRequest, StreamingError};

mod connection;

/// Connections that are not sessions yet, beside all sessions; others wait in the listener's queue.
const HANDSHAKES_MAX: usize = 64;
/// How long nothing is accepted after accepting has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Gives URLs out. Cheap to clone.
#[derive(Clone)]
pub struct Streaming(Arc<Shared>);

/// What the connections share.
pub(crate) struct Shared {
    pub(crate) tokens: Tokens<File>,
    pub(crate) sessions: Arc<Semaphore>,
    /// Into pods.
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) limits: Limits,
    pub(crate) backend: Arc<dyn Backend>,
    base_url: String,
    /// Connections whose task ended by a panic, which is a defect of this crate; the others live on.
    panics: AtomicUsize,
}

/// The server. Serves while [`Server::run`] is polled.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Streaming {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Streaming").field("base_url", &self.0.base_url).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Streaming {
    /// Listens. URLs can be given out from now on; they are served while [`Server::run`] is.
    ///
    /// # Errors
    /// [`StreamingError::Bind`], [`StreamingError::Random`].
    pub async fn bind(config: Config, backend: Arc<dyn Backend>) -> Result<(Streaming, Server), StreamingError> {
        let bind = |source| StreamingError::Bind { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let random = File::open(RANDOM).map_err(|source| StreamingError::Random { path: RANDOM, source })?;
        let base_url = match config.base_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{address}"),
        };
        let shared = Arc::new(Shared {
            tokens: Tokens::new(random, &config.limits),
            sessions: Arc::new(Semaphore::new(config.limits.sessions_max)),
            connections: Arc::new(Semaphore::new(config.limits.connections_max)),
            limits: config.limits,
            backend,
            base_url,
            panics: AtomicUsize::new(0),
        });
        Ok((Streaming(Arc::clone(&shared)), Server { listener, shared }))
    }

    /// A URL for one exec.
    ///
    /// # Errors
    /// [`StreamingError::TooManyTokens`], [`StreamingError::TooManySessions`], [`StreamingError::Random`].
    pub fn exec(&self, request: ExecRequest) -> Result<String, StreamingError> {
        self.url(Request::Exec(request))
    }

    /// A URL for one attach.
    ///
    /// # Errors
    /// As [`Streaming::exec`].
    pub fn attach(&self, request: AttachRequest) -> Result<String, StreamingError> {
        self.url(Request::Attach(request))
    }

    /// A URL for one port-forward session, of many connections.
    ///
    /// # Errors
    /// As [`Streaming::exec`].
    pub fn port_forward(&self, request: PortForwardRequest) -> Result<String, StreamingError> {
        self.url(Request::PortForward(request))
    }

    #[cfg(test)]
    pub(crate) fn sessions_free(&self) -> usize {
        self.0.sessions.available_permits()
    }

    #[cfg(test)]
    pub(crate) fn connections_free(&self) -> usize {
        self.0.connections.available_permits()
    }

    #[cfg(test)]
    pub(crate) fn sessions_max(&self) -> usize {
        self.0.limits.sessions_max
    }

    #[cfg(test)]
    pub(crate) fn panics(&self) -> usize {
        self.0.panics.load(Ordering::SeqCst)
    }

    fn url(&self, request: Request) -> Result<String, StreamingError> {
        let shared = &self.0;
        if shared.sessions.available_permits() == 0 {
            return Err(StreamingError::TooManySessions { max: shared.limits.sessions_max });
        }
        let verb = request.verb();
        let token = shared.tokens.insert(request, Instant::now())?;
        Ok(format!("{}/{verb}/{token}", shared.base_url))
    }
}

impl Server {
    /// The address that is listened on.
    ///
    /// # Errors
    /// The kernel's, which has none to give for a bound socket.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is done; then every session ends.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Server { listener, shared } = self;
        let mut connections = JoinSet::new();
        let room = Arc::new(Semaphore::new(shared.limits.sessions_max + HANDSHAKES_MAX));
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        let panics = shared.panics.fetch_add(1, Ordering::SeqCst) + 1;
                        tracing::error!(%error, panics, "a streaming connection panicked");
                    }
                }
                (accepted, permit) = accept(&listener, &room) => match accepted {
                    Ok((tcp, client)) => {
                        let shared = Arc::clone(&shared);
                        connections.spawn(async move {
                            connection::serve(tcp, client, &shared).await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        // Without descriptors, say, it comes again at once; others may be freed meanwhile.
                        tracing::warn!(%error, "cannot accept a streaming connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (io::Result<(TcpStream, SocketAddr)>, OwnedSemaphorePermit) {
    let permit = Arc::clone(room).acquire_owned().await.expect("the semaphore is never closed");
    (listener.accept().await, permit)
}
