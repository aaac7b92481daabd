//! Bytes from the async side to a thread that reads them as a file.

use std::io::{self, Read};

use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;

/// How many chunks wait between the two sides: enough to keep both busy, few enough that a layer in flight holds little.
pub const PIPE_CHUNKS: usize = 16;

/// A pipe of chunks.
#[must_use]
pub fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, receiver) = mpsc::channel(PIPE_CHUNKS);
    (PipeWriter(sender), PipeReader { receiver, current: Bytes::new(), ended: false })
}

/// The async end.
#[derive(Debug)]
pub struct PipeWriter(mpsc::Sender<Message>);

#[derive(Debug)]
enum Message {
    Chunk(Bytes),
    End,
}

/// The reading side has gone: it has failed or has all that it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reading side has ended")]
pub struct ReaderGone;

impl PipeWriter {
    /// Hands a chunk over; waits while the reader is busy.
    ///
    /// # Errors
    /// The reader has ended.
    pub async fn write(&self, chunk: Bytes) -> Result<(), ReaderGone> {
        self.0.send(Message::Chunk(chunk)).await.map_err(|_gone| ReaderGone)
    }

    /// Says that the stream is complete. A writer that is dropped without it gives the reader an error, not an end.
    ///
    /// # Errors
    /// The reader has ended.
    pub async fn finish(self) -> Result<(), ReaderGone> {
        self.0.send(Message::End).await.map_err(|_gone| ReaderGone)
    }
}

/// The reading end. Blocks its thread: never for an async worker.
#[derive(Debug)]
pub struct PipeReader {
    receiver: mpsc::Receiver<Message>,
    current: Bytes,
    ended: bool,
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Message::Chunk(chunk)) => self.current = chunk,
                Some(Message::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream was given up")),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}
