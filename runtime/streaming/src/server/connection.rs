//! One connection: its request, and then its session.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Shared;
use crate::handshake::{self, Agreed, Family};
use crate::remote::{Ended, Start};
use crate::socket::Socket;
use crate::token::{self, Missing};
use crate::{forward, remote};

/// Longest request head, in bytes; clients send under 1 KiB, with proxies' headers a few.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// A request whose upgrade was answered with 101.
struct Accepted {
    upgrade: OnUpgrade,
    agreed: Agreed,
    request: token::Request,
    _permit: OwnedSemaphorePermit,
}

/// Serves it to its end. All that the session uses ends with this future.
pub(super) async fn serve(tcp: TcpStream, client: SocketAddr, shared: &Arc<Shared>) {
    // Keystrokes and their echo are small and must not wait for more.
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, %client, "cannot set TCP_NODELAY");
    }
    let accepted = Mutex::new(None);
    let service = service_fn(|request| {
        let response = respond(request, shared, &accepted);
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.creation)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(tcp), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, %client, "a streaming request failed");
    }
    let Some(accepted) = accepted.into_inner().unwrap_or_else(PoisonError::into_inner) else { return };
    let upgraded = match accepted.upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, %client, "a streaming client left in the handshake"),
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        return tracing::error!(%client, "an upgraded connection is not the one that was accepted");
    };
    let socket = Arc::new(Socket::new(parts.io.into_inner(), parts.read_buf));
    let (verb, ended) = (accepted.request.verb(), session(socket, accepted.agreed, accepted.request, shared).await);
    match ended {
        Ended::Told | Ended::Left => tracing::debug!(verb, %client, %ended, "streaming session ended"),
        Ended::Link(_) | Ended::Idle { .. } | Ended::NoStreams { .. } => {
            let reason = std::error::Error::source(&ended).map(ToString::to_string);
            tracing::info!(verb, %client, %ended, reason, "streaming session ended");
        }
    }
}

async fn session(socket: Arc<Socket>, agreed: Agreed, request: token::Request, shared: &Arc<Shared>) -> Ended {
    let start = match request {
        token::Request::Exec(request) => Start::Exec(request),
        token::Request::Attach(request) => Start::Attach(request),
        token::Request::PortForward(request) => {
            let (backend, connections) = (Arc::clone(&shared.backend), Arc::clone(&shared.connections));
            return forward::serve(socket, agreed.transport, &request, backend, connections, &shared.limits).await;
        }
    };
    remote::serve(socket, agreed.transport, agreed.report, &start, &*shared.backend, &shared.limits).await
}

/// The answer, and what is to be done when it is 101. A token is taken only then: a client that was refused for its
/// protocol may come again with another. Never a redirect (CVE-2020-8559).
fn respond(
    mut request: Request<Incoming>,
    shared: &Shared,
    accepted: &Mutex<Option<Accepted>>,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::POST {
        return sentence(StatusCode::METHOD_NOT_ALLOWED, "GET and POST are answered here".to_owned());
    }
    let mut path = request.uri().path().rsplit('/');
    let (token, verb) = (path.next().unwrap_or_default().to_owned(), path.next().unwrap_or_default().to_owned());
    let now = Instant::now();
    let asked = match shared.tokens.check(&verb, &token, now) {
        Ok(asked) => asked,
        Err(missing) => return absent(missing, shared),
    };
    let family = match asked {
        token::Request::Exec(_) | token::Request::Attach(_) => Family::Remote,
        token::Request::PortForward(_) => Family::PortForward,
    };
    let agreed = match handshake::negotiate(family, request.method(), request.headers()) {
        Ok(agreed) => agreed,
        Err(refused) => return with(sentence(refused.status, refused.text), refused.headers),
    };
    if let token::Request::PortForward(request) = &asked
        && let Err(text) = forward::check_ports(agreed.transport, &request.ports)
    {
        return sentence(StatusCode::BAD_REQUEST, text);
    }
    let Ok(permit) = Arc::clone(&shared.sessions).try_acquire_owned() else {
        let max = shared.limits.sessions_max;
        let text = format!("{max} streaming sessions are open, which is the limit; end some or try again later");
        let response = sentence(StatusCode::TOO_MANY_REQUESTS, text);
        return with(response, vec![(RETRY_AFTER, HeaderValue::from_static("5"))]);
    };
    let taken = match shared.tokens.take(&verb, &token, now) {
        Ok(taken) => taken,
        Err(missing) => return absent(missing, shared),
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let response = with(response, agreed.headers.clone());
    let upgrade = hyper::upgrade::on(&mut request);
    *accepted.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Accepted { upgrade, agreed, request: taken, _permit: permit });
    response
}

fn absent(missing: Missing, shared: &Shared) -> Response<Full<Bytes>> {
    match missing {
        Missing::Unknown => sentence(
            StatusCode::NOT_FOUND,
            "no streaming session has this URL: it was used already, or was never given out; ask for a new one"
                .to_owned(),
        ),
        Missing::Expired => {
            let lifetime = shared.limits.token_lifetime;
            sentence(
                StatusCode::GONE,
                format!("this streaming URL was not used within {lifetime:?}; ask for a new one"),
            )
        }
    }
}

fn sentence(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text + "\n"));
    *response.status_mut() = status;
    let close = (CONNECTION, HeaderValue::from_static("close"));
    with(response, vec![close, (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))])
}

fn with(mut response: Response<Full<Bytes>>, headers: Vec<(HeaderName, HeaderValue)>) -> Response<Full<Bytes>> {
    for (name, value) in headers {
        response.headers_mut().append(name, value);
    }
    response
}
