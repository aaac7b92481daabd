//! Clients that send frames one by one.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::spdy::{self, Decoder, Encoder, Frame, Headers};
use crate::websocket;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connects to a URL and sends a request; the response's head.
pub(super) async fn request(url: &str, headers: &str) -> (TcpStream, String) {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        match timeout(PATIENCE, tcp.read_u8()).await.unwrap() {
            Ok(byte) => response.push(byte),
            Err(_) => break,
        }
    }
    (tcp, String::from_utf8(response).unwrap())
}

pub(super) fn spdy_headers(protocol: &str) -> String {
    format!("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n")
}

pub(super) fn web_headers(protocol: &str) -> String {
    format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
         dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n"
    )
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Got {
    Frame(Frame),
    Data { stream: u32, bytes: Vec<u8>, fin: bool },
}

/// `C` is its connection.
pub(super) struct Spdy<C = TcpStream> {
    pub(super) tcp: C,
    encoder: Encoder,
    decoder: Decoder,
    unread: Vec<u8>,
    next: u32,
}

impl Spdy {
    pub(super) async fn connect(url: &str, protocol: &str) -> Spdy {
        let (tcp, response) = request(url, &spdy_headers(protocol)).await;
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        assert!(response.to_lowercase().contains(&format!("x-stream-protocol-version: {protocol}")), "{response}");
        Spdy { tcp, encoder: Encoder::new(), decoder: Decoder::new(), unread: Vec::new(), next: 1 }
    }

    /// An exec's streams, error first: error, stdin, stdout, stderr are 1, 3, 5, 7.
    pub(super) async fn exec(url: &str, protocol: &str) -> Spdy {
        let mut client = Spdy::connect(url, protocol).await;
        for name in ["error", "stdin", "stdout", "stderr"] {
            client.open(&[("streamtype", name)]).await;
        }
        client
    }

    /// Sends `bytes` as they are.
    pub(super) async fn raw(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.unwrap();
    }
}

impl Spdy<()> {
    /// For the frames alone.
    pub(super) fn without_connection() -> Spdy<()> {
        Spdy { tcp: (), encoder: Encoder::new(), decoder: Decoder::new(), unread: Vec::new(), next: 1 }
    }
}

impl<C> Spdy<C> {
    pub(super) fn syn_stream(&mut self, headers: &[(&str, &str)]) -> (u32, Vec<u8>) {
        let stream = self.next;
        self.next += 2;
        let headers = Headers(headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect());
        let frame = Frame::SynStream { stream, associated: 0, priority: 0, fin: false, unidirectional: false, headers };
        (stream, spdy::tests::encode(&mut self.encoder, &frame))
    }
}

impl Spdy {
    /// Opens a stream and waits for the answer, as client-go does.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let (stream, frame) = self.syn_stream(headers);
        self.tcp.write_all(&frame).await.unwrap();
        match self.next().await {
            Some(Got::Frame(Frame::SynReply { stream: answered, .. })) => assert_eq!(answered, stream),
            other => panic!("{other:?} for stream {stream}"),
        }
        stream
    }

    pub(super) async fn send(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        self.tcp.write_all(&data(stream, bytes, fin)).await.unwrap();
    }

    /// The next frame; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Got> {
        loop {
            let step = self.decoder.decode(&self.unread).unwrap();
            let got = step.frame.map(|frame| match frame {
                Frame::Data { stream, bytes, fin } => Got::Data { stream, bytes: self.unread[bytes].to_vec(), fin },
                frame => Got::Frame(frame),
            });
            self.unread.drain(..step.consumed);
            if got.is_some() {
                return got;
            }
            // Room for whole frames: a piece would be given as one.
            self.unread.reserve(1 << 18);
            let read = timeout(PATIENCE, self.tcp.read_buf(&mut self.unread)).await.expect("an answer in time");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// All that comes until the end: what streams 0 to 15 got, and whether each was finished.
    pub(super) async fn all(&mut self) -> Vec<(String, bool)> {
        let mut streams = vec![(Vec::new(), false); 16];
        while let Some(got) = self.next().await {
            if let Got::Data { stream, bytes, fin } = got {
                let stream = &mut streams[usize::try_from(stream).unwrap()];
                assert!(!stream.1, "nothing behind the end");
                stream.0.extend(bytes);
                stream.1 = fin;
            }
        }
        streams.into_iter().map(|(bytes, fin)| (String::from_utf8_lossy(&bytes).into_owned(), fin)).collect()
    }
}

pub(super) fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    [&spdy::data_header(stream, fin, bytes.len())[..], bytes].concat()
}

pub(super) struct Web {
    pub(super) tcp: TcpStream,
}

impl Web {
    pub(super) async fn connect(url: &str, protocol: &str) -> Web {
        let (tcp, response) = request(url, &web_headers(protocol)).await;
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        assert!(response.to_lowercase().contains(&format!("sec-websocket-protocol: {}", protocol.to_lowercase())));
        Web { tcp }
    }

    pub(super) async fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.tcp.write_all(&websocket::tests::frame(true, opcode, [1, 2, 3, 4], payload)).await.unwrap();
    }

    /// The next frame's opcode and payload; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let reading = async {
            let first = self.tcp.read_u8().await.ok()?;
            let length = match self.tcp.read_u8().await.ok()? {
                126 => u64::from(self.tcp.read_u16().await.ok()?),
                127 => self.tcp.read_u64().await.ok()?,
                length => u64::from(length),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.tcp.read_exact(&mut payload).await.ok()?;
            Some((first & 0x0f, payload))
        };
        timeout(PATIENCE, reading).await.expect("an answer in time")
    }

    /// All messages until the close frame, by channel.
    pub(super) async fn all(&mut self) -> Vec<String> {
        let mut channels = vec![Vec::new(); 6];
        loop {
            match self.next().await {
                Some((2, payload)) => channels[usize::from(payload[0])].extend(&payload[1..]),
                Some((8, payload)) => {
                    assert_eq!(payload, 1000_u16.to_be_bytes());
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        channels.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }
}
