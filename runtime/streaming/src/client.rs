//! The client's side: what the command line speaks to the streaming server of a CRI runtime, ours or another's. SPDY/3.1
//! alone, since that is what every runtime serves, with half-close in each stream.
//!
//! One connection is one session; when the future is dropped, the server sees it end, and an exec's command with it.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::pending;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::link::{LinkError, Reader, Writer};
use crate::socket::{Outgoing, Socket};
use crate::spdy::{self, Encoder, Frame, Headers};
use crate::{ExitStatus, Size, status};

mod dial;

/// With a `metav1.Status` at the end, which has the exit code.
const REMOTE: &str = "v4.channel.k8s.io";
const FORWARD: &str = "portforward.k8s.io";
/// Longest text on an error stream that is kept, in bytes; ours are a few hundred.
const TOLD_BYTES_MAX: usize = 64 * 1024;

/// What a client gives and takes in an exec or attach: the streams that were asked for, and no other.
pub struct Streams {
    /// Read and sent as standard input, its end too.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Gets standard output, or the terminal's.
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Gets standard error; never with a terminal.
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// The terminal's sizes, the one that it has first; 0 stands for one that isn't known. `None` without a terminal.
    pub sizes: Option<watch::Receiver<Size>>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Streams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("sizes", &self.sizes)
            .finish()
    }
}

/// Why a session failed, or never was.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is none that can be dialled.
    #[error("the runtime gave the streaming URL {url:?}, which is not http://HOST:PORT/…")]
    Url {
        /// The URL.
        url: String,
    },
    /// Nobody answers there.
    #[error("cannot reach the runtime's streaming server at {address}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It answers, but not as a streaming server does.
    #[error("the runtime's streaming server at {address} does not answer the upgrade")]
    Handshake {
        /// Host and port.
        address: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// It refused the session.
    #[error("the runtime's streaming server refused: {text}")]
    Refused {
        /// Its words.
        text: String,
    },
    /// The connection failed in the middle.
    #[error("the connection to the runtime's streaming server broke")]
    Broken {
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The connection ended in the middle.
    #[error("the runtime's streaming server ended the connection too early: was the node stopped?")]
    Gone,
    /// The runtime's words on the error stream.
    #[error("{0}")]
    Told(String),
    /// What came can't be written.
    #[error("cannot write the output")]
    Output(io::Error),
}

fn broken(error: impl Into<LinkError>) -> ClientError {
    ClientError::Broken { source: Box::new(error.into()) }
}

/// Joins the streams of an exec or attach until it ends; the exit code, which is 0 for every attach.
///
/// # Errors
/// All of [`ClientError`].
pub async fn remote(url: &str, streams: Streams) -> Result<ExitStatus, ClientError> {
    let Streams { stdin, stdout, stderr, sizes } = streams;
    let mut link = Link::dial(url, REMOTE).await?;
    let error = link.open(&[("streamtype", "error")]).await?;
    let channel = async |link: &mut Link, name: &str, wanted: bool| match wanted {
        true => link.open(&[("streamtype", name)]).await.map(Some),
        false => Ok(None),
    };
    let stdin_id = channel(&mut link, "stdin", stdin.is_some()).await?;
    let outputs = [
        (channel(&mut link, "stdout", stdout.is_some()).await?, stdout),
        (channel(&mut link, "stderr", stderr.is_some()).await?, stderr),
    ];
    let resize = channel(&mut link, "resize", sizes.is_some()).await?;
    let Link { writer, reader, .. } = link;
    let enough = Notify::new();
    let reading = read_remote(reader, &writer, Ids { error, stdin: stdin_id }, outputs, &enough);
    let beside = async {
        tokio::join!(send_input(&writer, stdin_id.zip(stdin), &enough), send_sizes(&writer, resize.zip(sizes)));
        pending::<Infallible>().await
    };
    tokio::select! {
        read = reading => read,
        never = beside => match never {},
    }
}

struct Ids {
    error: u32,
    stdin: Option<u32>,
}

type Sink = Option<Box<dyn AsyncWrite + Send + Unpin>>;

async fn read_remote(
    mut reader: Reader,
    writer: &Writer,
    ids: Ids,
    mut outputs: [(Option<u32>, Sink); 2],
    enough: &Notify,
) -> Result<ExitStatus, ClientError> {
    let mut told = Vec::new();
    while let Some(frame) = reader.next(writer).await.map_err(broken)? {
        match frame {
            Frame::Data { stream, bytes, fin } if stream == ids.error => {
                let bytes = reader.bytes(bytes);
                told.extend_from_slice(&bytes[..bytes.len().min(TOLD_BYTES_MAX - told.len())]);
                if fin {
                    break;
                }
            }
            Frame::Data { stream, bytes, .. } if ids.stdin != Some(stream) => {
                let output = outputs.iter_mut().find(|(id, _)| *id == Some(stream));
                if let Some((_, Some(output))) = output {
                    output.write_all(reader.bytes(bytes)).await.map_err(ClientError::Output)?;
                    // What isn't a whole line is shown, too: prompts aren't.
                    output.flush().await.map_err(ClientError::Output)?;
                }
            }
            // The process takes no more.
            Frame::Data { fin: true, .. } => enough.notify_one(),
            Frame::Reset { stream, .. } if ids.stdin == Some(stream) => enough.notify_one(),
            Frame::Reset { stream, .. } if stream == ids.error => break,
            Frame::SynStream { stream, .. } => refuse(writer, stream).await?,
            // The reader keeps the others to itself.
            _ => {}
        }
    }
    match status::read(&told) {
        Some(Ok(code)) => Ok(ExitStatus { code }),
        Some(Err(text)) => Err(ClientError::Told(text)),
        None => Err(ClientError::Gone),
    }
}

/// Standard input, until its end or until nobody takes it. That the connection is broken is found by the reader.
async fn send_input(writer: &Writer, input: Option<(u32, Box<dyn AsyncRead + Send + Unpin>)>, enough: &Notify) {
    let Some((stream, mut source)) = input else { return };
    let mut payload = Outgoing::new();
    loop {
        let read = tokio::select! {
            read = payload.fill(&mut source) => read,
            () = enough.notified() => return,
        };
        // An input that can't be read has ended.
        if read.unwrap_or(0) == 0 {
            let _ = writer.finish(stream).await;
            return;
        }
        if writer.data(stream, &mut payload).await.is_err() {
            return;
        }
    }
}

async fn send_sizes(writer: &Writer, sizes: Option<(u32, watch::Receiver<Size>)>) {
    let Some((stream, mut sizes)) = sizes else { return };
    sizes.mark_changed();
    while sizes.changed().await.is_ok() {
        let size = *sizes.borrow_and_update();
        // A terminal that doesn't know its own size yet.
        if size.width == 0 || size.height == 0 {
            continue;
        }
        let mut text = serde_json::to_vec(&size).expect("two numbers are JSON");
        text.push(b'\n');
        if writer.data(stream, &mut Outgoing::of(&text)).await.is_err() {
            return;
        }
    }
}

/// Carries one connection to a port of a pod until both sides have ended it. Where the pod's side resets it, so is `local`.
///
/// # Errors
/// All of [`ClientError`] but `Output`; [`ClientError::Told`] where nobody listens.
pub async fn forward(url: &str, port: u16, mut local: TcpStream) -> Result<(), ClientError> {
    let mut link = Link::dial(url, FORWARD).await?;
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", &*port), ("requestid", "0")];
    let error = link.open(&headers("error")).await?;
    link.writer.finish(error).await.map_err(broken)?;
    let data = link.open(&headers("data")).await?;
    let Link { writer, reader, .. } = link;
    let (mut from, mut to) = local.split();
    let up = async {
        let mut payload = Outgoing::new();
        while let Ok(read) = payload.fill(&mut from).await {
            let sent = match read {
                0 => writer.finish(data).await,
                _ => writer.data(data, &mut payload).await,
            };
            if read == 0 || sent.is_err() {
                // The other way may go on; a broken connection is found by its reader.
                pending::<Infallible>().await;
            }
        }
    };
    let ended = tokio::select! {
        ended = read_forward(reader, &writer, Pair { error, data }, &mut to) => ended?,
        // The local client reset it: the session's end resets the pod's side.
        () = up => Ended::Done,
    };
    if ended == Ended::Reset {
        // A program that waits for its peer's last bytes must not take a cut for their end.
        let _ = local.set_zero_linger();
    }
    Ok(())
}

/// The streams of a forwarded connection.
struct Pair {
    error: u32,
    data: u32,
}

#[derive(PartialEq, Eq)]
enum Ended {
    Done,
    Reset,
}

async fn read_forward(
    mut reader: Reader,
    writer: &Writer,
    ids: Pair,
    local: &mut (impl AsyncWrite + Unpin),
) -> Result<Ended, ClientError> {
    let (mut told, mut ended) = (Vec::new(), Ended::Done);
    loop {
        match reader.next(writer).await.map_err(broken)?.ok_or(ClientError::Gone)? {
            Frame::Data { stream, bytes, fin } if stream == ids.data => {
                if local.write_all(reader.bytes(bytes)).await.is_err() {
                    return Ok(Ended::Done);
                }
                if fin {
                    // It may have gone meanwhile.
                    let _ = local.shutdown().await;
                }
            }
            Frame::Data { stream, bytes, fin } if stream == ids.error => {
                let bytes = reader.bytes(bytes);
                told.extend_from_slice(&bytes[..bytes.len().min(TOLD_BYTES_MAX - told.len())]);
                if fin && !told.is_empty() {
                    return Err(ClientError::Told(String::from_utf8_lossy(&told).into_owned()));
                }
                if fin {
                    return Ok(ended);
                }
            }
            Frame::Reset { stream, .. } if stream == ids.data => ended = Ended::Reset,
            Frame::Reset { stream, .. } if stream == ids.error => return Ok(Ended::Reset),
            Frame::SynStream { stream, .. } => refuse(writer, stream).await?,
            _ => {}
        }
    }
}

/// A server opens no streams.
async fn refuse(writer: &Writer, stream: u32) -> Result<(), ClientError> {
    writer.frame(&spdy::reset(stream, spdy::RESET_REFUSED)).await.map_err(broken)
}

/// A connection whose streams are being opened.
struct Link {
    writer: Writer,
    reader: Reader,
    encoder: Encoder,
    /// The next stream's number.
    next: u32,
}

impl Link {
    async fn dial(url: &str, protocol: &'static str) -> Result<Link, ClientError> {
        let (tcp, early) = dial::dial(url, protocol).await?;
        let socket = Arc::new(Socket::new(tcp, early));
        Ok(Link {
            writer: Writer::new(Arc::clone(&socket), crate::link::Carrier::Plain),
            reader: Reader::of_client(socket),
            encoder: Encoder::new(),
            next: 1,
        })
    }

    /// Opens a stream, without waiting for the answer: the server takes frames in their order.
    async fn open(&mut self, headers: &[(&str, &str)]) -> Result<u32, ClientError> {
        let stream = self.next;
        self.next += 2;
        let headers = Headers(headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect());
        let frame = self.encoder.syn_stream(stream, &headers);
        self.writer.frame(&frame).await.map_err(broken)?;
        Ok(stream)
    }
}
