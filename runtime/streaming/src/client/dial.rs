//! The way to a streaming server: a connection, and the upgrade to SPDY.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ClientError;
use crate::handshake::{PROTOCOL, SPDY};

/// How long the server may take to answer: it listens on loopback or beside it.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest text of a refusal that is read, in bytes.
const REFUSAL_BYTES_MAX: usize = 4096;

/// The connection after the upgrade, and what came right behind the answer.
pub(super) async fn dial(url: &str, protocol: &'static str) -> Result<(TcpStream, Bytes), ClientError> {
    let no_url = || ClientError::Url { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| no_url())?;
    if uri.scheme_str() != Some("http") {
        return Err(no_url());
    }
    let host = uri.host().ok_or_else(no_url)?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(80);
    let authority = uri.authority().ok_or_else(no_url)?.as_str();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let answering = async {
        let unreachable = |source| ClientError::Unreachable { address: authority.to_owned(), source };
        let tcp = TcpStream::connect((host, port)).await.map_err(unreachable)?;
        // Keystrokes are small and must not wait for more.
        tcp.set_nodelay(true).map_err(unreachable)?;
        upgrade(tcp, authority, path, protocol).await
    };
    let late = || ClientError::Handshake {
        address: authority.to_owned(),
        source: format!("no answer within {ANSWER:?}").into(),
    };
    timeout(ANSWER, answering).await.map_err(|_| late())?
}

async fn upgrade(
    tcp: TcpStream,
    authority: &str,
    path: &str,
    protocol: &'static str,
) -> Result<(TcpStream, Bytes), ClientError> {
    let failed = |source| ClientError::Handshake { address: authority.to_owned(), source: Box::new(source) };
    let request = Request::post(path)
        .header(HOST, authority)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, SPDY)
        .header(PROTOCOL, protocol)
        .body(Empty::<Bytes>::new())
        .map_err(|_| ClientError::Url { url: format!("http://{authority}{path}") })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(failed)?;
    // It ends with the upgrade, or with the response to whoever is refused.
    let driving = tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(ClientError::Refused { text: refusal(response).await });
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(failed)?;
    drop(driving);
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("it was made of one above");
    Ok((parts.io.into_inner(), parts.read_buf))
}

/// The server's sentence; where it has none, the status.
async fn refusal(response: Response<impl Body<Data = Bytes, Error = hyper::Error>>) -> String {
    let status = response.status();
    let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    if text.is_empty() { status.to_string() } else { text }
}
