//! A client's connection after the handshake, shared by what reads and what writes, and the buffers on both ways.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::{spdy, websocket};

/// A buffer's first size, in bytes: an interactive session never needs more.
const BUFFER_BYTES_MIN: usize = 4 * 1024;
/// Its last, doubled from the first while reads fill it: what a pipe gives at a time.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How often a connection whose reading is held back is looked at: its end would not be read.
const HANGUP_PERIOD: Duration = Duration::from_millis(500);
/// Room in front of outgoing bytes for the headers of both layers and a channel's number.
const HEADROOM: usize = 24;
/// A channel's number.
const CHANNEL_BYTES: usize = 1;
const _: () = assert!(HEADROOM >= spdy::HEADER_BYTES + websocket::HEADER_BYTES_MAX + CHANNEL_BYTES);
// The reader's buffer can always take a whole control frame.
const _: () = assert!(BUFFER_BYTES_MAX >= 2 * (spdy::HEADER_BYTES + spdy::CONTROL_BYTES_MAX));
const _: () = assert!(BUFFER_BYTES_MAX <= spdy::DATA_BYTES_MAX);

/// The connection. One reads, any write; whole frames only.
pub(crate) struct Socket {
    read: OwnedReadHalf,
    /// What came right behind the request and was read with it.
    early: Mutex<Bytes>,
    write: tokio::sync::Mutex<Writing>,
    born: Instant,
    /// The last byte in either direction, in milliseconds since `born`.
    active: AtomicU64,
    /// How often something was read.
    reads: AtomicU64,
}

struct Writing {
    half: OwnedWriteHalf,
    /// A write was given up in its middle; what came next would be taken for the rest of its frame.
    torn: bool,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream, early: Bytes) -> Socket {
        let (read, write) = tcp.into_split();
        Socket {
            read,
            early: Mutex::new(early),
            write: tokio::sync::Mutex::new(Writing { half: write, torn: false }),
            born: Instant::now(),
            active: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        }
    }

    /// Reads what is there, at least a byte; 0 at the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // A client that never stops sending would keep the thread to itself otherwise.
        tokio::task::coop::consume_budget().await;
        {
            let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
            if !early.is_empty() {
                let length = early.len().min(buffer.len());
                let piece = early.split_to(length);
                buffer[..piece.len()].copy_from_slice(&piece);
                return Ok(piece.len());
            }
        }
        loop {
            match self.read.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.read.readable().await?,
                answer => {
                    self.reads.fetch_add(1, Ordering::Relaxed);
                    self.touch();
                    return answer;
                }
            }
        }
    }

    /// Writes all of one frame.
    pub(crate) async fn write(&self, frame: &[u8]) -> io::Result<()> {
        self.write_quietly(frame).await?;
        self.touch();
        Ok(())
    }

    /// Writes without being active by it.
    async fn write_quietly(&self, frame: &[u8]) -> io::Result<()> {
        let mut writing = self.write.lock().await;
        if writing.torn {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        writing.torn = true;
        writing.half.write_all(frame).await?;
        writing.torn = false;
        Ok(())
    }

    /// Nothing more will be written; the client reads to the end.
    pub(crate) async fn shutdown(&self) -> io::Result<()> {
        self.write.lock().await.half.shutdown().await
    }

    fn touch(&self) {
        self.active.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Done when the client is gone, also while bytes from before that are unread because nobody takes them. As long as
    /// such bytes fill both sides' buffers, the client's kernel can't even say that it is gone; but it refuses what a
    /// client that is gone is sent. So `probe` is sent, a frame that means nothing.
    pub(crate) async fn hung_up(&self, probe: &[u8]) {
        loop {
            match self.read.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => {}
                Ok(_) | Err(_) => return,
            }
            let reads = self.reads.load(Ordering::Relaxed);
            sleep(HANGUP_PERIOD).await;
            let stalled = self.reads.load(Ordering::Relaxed) == reads;
            if stalled && self.write_quietly(probe).await.is_err() {
                return;
            }
        }
    }

    /// Done when no byte moved in either direction for `limit`.
    pub(crate) async fn idle(&self, limit: Duration) {
        loop {
            let last = self.born + Duration::from_millis(self.active.load(Ordering::Relaxed));
            if last.elapsed() >= limit {
                return;
            }
            sleep_until(last + limit).await;
        }
    }
}

/// Bytes that came and are not decoded yet.
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    pub(crate) fn new() -> Incoming {
        Incoming { bytes: vec![0; BUFFER_BYTES_MIN], start: 0, end: 0 }
    }

    /// What is there.
    pub(crate) fn unread(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// A range of what [`Incoming::unread`] gave before the last [`Incoming::consume`] of `consumed` bytes.
    pub(crate) fn consumed(&self, consumed: usize, range: std::ops::Range<usize>) -> &[u8] {
        let base = self.start - consumed;
        &self.bytes[base + range.start..base + range.end]
    }

    /// The first bytes are done with.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Room for more, behind what is there; never empty, since no frame that must be whole is as long as the buffer.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end > self.bytes.len() / 2 && self.bytes.len() < BUFFER_BYTES_MAX {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes of the room are filled.
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
        if self.end == self.bytes.len() && self.bytes.len() < BUFFER_BYTES_MAX {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
    }

    /// More from the client; false at its end.
    pub(crate) async fn more(&mut self, socket: &Socket) -> io::Result<bool> {
        let read = socket.read(self.room()).await?;
        self.filled(read);
        Ok(read > 0)
    }
}

/// A frame to be sent, with room for headers in front: the payload is never copied.
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outgoing {
    pub(crate) fn new() -> Outgoing {
        Outgoing { bytes: vec![0; HEADROOM + BUFFER_BYTES_MIN], start: HEADROOM, end: HEADROOM }
    }

    /// A frame of its own.
    pub(crate) fn of(payload: &[u8]) -> Outgoing {
        let mut bytes = vec![0; HEADROOM + payload.len()];
        bytes[HEADROOM..].copy_from_slice(payload);
        Outgoing { start: HEADROOM, end: bytes.len(), bytes }
    }

    /// A new payload, read from `source`; 0 bytes at its end. Nothing is lost when it is given up.
    pub(crate) async fn fill(&mut self, source: &mut (impl AsyncRead + Unpin + ?Sized)) -> io::Result<usize> {
        self.start = HEADROOM;
        self.end = HEADROOM;
        let read = source.read(&mut self.bytes[HEADROOM..]).await?;
        self.end += read;
        Ok(read)
    }

    /// Puts a header in front.
    pub(crate) fn prepend(&mut self, header: &[u8]) {
        let start = self.start - header.len();
        self.bytes[start..self.start].copy_from_slice(header);
        self.start = start;
    }

    /// The frame, as far as it is.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// After it was sent: a payload that filled the buffer says that more waits.
    pub(crate) fn sent(&mut self) {
        if self.end == self.bytes.len() && self.end < HEADROOM + BUFFER_BYTES_MAX {
            self.bytes.resize(HEADROOM + 2 * (self.bytes.len() - HEADROOM), 0);
        }
    }
}
