//! A registry that misbehaves on request: each connection takes one request, the reply's bytes are written by hand.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    /// With its query.
    pub(super) target: String,
    head: String,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// The first byte of a Range header.
    pub(super) fn range(&self) -> usize {
        self.header("range").map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap())
    }
}

#[derive(Debug, Clone)]
pub(super) enum Fault {
    None,
    /// This Content-Length in place of the right one.
    Length(usize),
    /// No Content-Length: the end of the connection ends the body.
    NoLength,
    /// Ends the connection after so many bytes of the body.
    Cut(usize),
    /// One byte per pause.
    Drip(Duration),
    /// Takes the request and says nothing.
    Silent,
}

#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    pub(super) fault: Fault,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), fault: Fault::None }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn fault(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }
}

/// Gets the request and its number, from 0.
type Handler = Arc<dyn Fn(&Seen, usize) -> Reply + Send + Sync>;

/// Lives as long as the test's runtime.
#[derive(Clone)]
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// On a free port of 127.0.0.1, or of another loopback address to be another host.
    pub(super) async fn on(host: &str, handler: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let fake = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let (seen, handler) = (fake.seen.clone(), Arc::new(handler) as Handler);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, seen.clone(), handler.clone()));
            }
        });
        fake
    }

    pub(super) async fn start(handler: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::on("127.0.0.1", handler).await
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The paths that were asked for, in order.
    pub(super) fn paths(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.path().to_owned()).collect()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Seen>>>, handler: Handler) {
    let Some(request) = read_request(&mut stream).await else { return };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    let reply = handler(&request, number);
    // The client may go away whenever it likes.
    let _ = write_reply(&mut stream, &request, reply).await;
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut words = head.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut seen = Seen { method, target, head: head.clone(), body: String::new() };
    let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes[head_end + 4..].to_vec();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    seen.body = String::from_utf8(body).unwrap();
    Some(seen)
}

async fn write_reply(stream: &mut TcpStream, request: &Seen, reply: Reply) -> std::io::Result<()> {
    if matches!(reply.fault, Fault::Silent) {
        // Until the client gives up.
        stream.read_u8().await?;
        return Ok(());
    }
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match reply.fault {
        Fault::NoLength => {}
        Fault::Length(length) => head += &format!("content-length: {length}\r\n"),
        _ => head += &format!("content-length: {}\r\n", reply.body.len()),
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    if request.method == "HEAD" {
        return Ok(());
    }
    match reply.fault {
        Fault::Cut(after) => stream.write_all(&reply.body[..after.min(reply.body.len())]).await?,
        Fault::Drip(pause) => {
            for byte in reply.body {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
        }
        _ => stream.write_all(&reply.body).await?,
    }
    stream.shutdown().await
}
