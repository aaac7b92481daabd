//! Clients that watch a container's output: each has a pipe per stream, filled beside the log.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime_sys::stdio::{grow_pipe, pipe_bytes};
use runtime_sys::{SysError, socket};

/// Most pipes of attached clients of one container: sixteen clients with both streams. Each may hold
/// [`CLIENT_PIPE_BYTES`] of the kernel's memory, and each is one more copy of every byte.
pub(crate) const CLIENT_PIPES_MAX: usize = 32;

/// What is kept for a client that doesn't read: the pipe itself, so nothing of it is this process's memory. The largest
/// that an unprivileged process may have (`/proc/sys/fs/pipe-max-size`).
const CLIENT_PIPE_BYTES: usize = 1024 * 1024;

/// Room that output never takes, so that a marker that says what is missing always fits: three pages, since the first may
/// be read in part and the last written in part. 64 KiB is the largest page of the machines that we run on.
const MARKER_ROOM_BYTES: usize = 3 * 64 * 1024;
const _: () = assert!(MARKER_ROOM_BYTES < CLIENT_PIPE_BYTES / 2);

/// The clients of one container. Empty, which it nearly always is, it holds no memory.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    pipes: Vec<ClientPipe>,
}

/// One client's pipe for one of the container's streams.
#[derive(Debug)]
pub(crate) struct ClientPipe {
    /// Names it in the event loop.
    number: u64,
    /// The container's stream: 0 its output (or its terminal), 1 its error.
    stream: usize,
    pipe: File,
    capacity: usize,
    /// Bytes that it did not take since the last marker, and in all.
    missing: u64,
    missing_in_all: u64,
}

impl Attachments {
    pub(crate) fn len(&self) -> usize {
        self.pipes.len()
    }

    pub(crate) fn add(&mut self, pipe: ClientPipe) {
        self.pipes.push(pipe);
    }

    /// Gives every client of a stream what the container wrote. Never waits.
    pub(crate) fn take(&mut self, stream: usize, bytes: &[u8]) {
        for client in self.pipes.iter_mut().filter(|client| client.stream == stream) {
            client.give(bytes);
        }
    }

    /// Takes out the one of that number: its reader is gone.
    pub(crate) fn remove(&mut self, number: u64) -> Option<ClientPipe> {
        let at = self.pipes.iter().position(|client| client.number == number)?;
        let client = self.pipes.swap_remove(at);
        if self.pipes.is_empty() {
            self.pipes = Vec::new();
        }
        Some(client)
    }

    /// Takes out those of a stream that has ended.
    pub(crate) fn end(&mut self, stream: usize) -> Vec<ClientPipe> {
        let (ended, left) = std::mem::take(&mut self.pipes).into_iter().partition(|client| client.stream == stream);
        self.pipes = left;
        ended
    }
}

impl ClientPipe {
    /// Of the writing end of a client's pipe.
    pub(crate) fn new(number: u64, stream: usize, pipe: OwnedFd) -> Result<Self, SysError> {
        socket::set_nonblocking(pipe.as_fd())?;
        let capacity = grow_pipe(pipe.as_fd(), CLIENT_PIPE_BYTES)?;
        Ok(Self { number, stream, pipe: File::from(pipe), capacity, missing: 0, missing_in_all: 0 })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Closes it. What it did not take is told to its reader, who may still come to it, and answered.
    pub(crate) fn close(mut self) -> u64 {
        if self.missing > 0 {
            self.mark();
        }
        self.missing_in_all
    }

    fn give(&mut self, bytes: &[u8]) {
        let Ok(waiting) = pipe_bytes(self.pipe.as_fd()) else { return };
        if self.missing > 0 {
            // One large gap in place of many small ones: it is filled again once its reader has really come back.
            if waiting > self.room() / 2 {
                return self.lose(bytes);
            }
            self.mark();
            // What follows a gap that isn't told would be taken for what follows the bytes before it.
            if self.missing > 0 {
                return self.lose(bytes);
            }
        }
        let room = self.room().saturating_sub(waiting);
        let (mut fits, rest) = bytes.split_at(room.min(bytes.len()));
        while !fits.is_empty() {
            match self.pipe.write(fits) {
                Ok(count) => fits = fits.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Full all the same, or without a reader: that is told by an event of its own.
                Err(_) => break,
            }
        }
        self.lose(fits);
        self.lose(rest);
    }

    /// How many bytes may wait. A pipe counts in pages, and a write that doesn't fit into the rest of the last one begins a
    /// new one: with writes of just over half a page, half of it is never used. Two neighbours hold more than one page's
    /// bytes, so that with half of the capacity there is a page left for the marker, however it was written.
    fn room(&self) -> usize {
        // A pipe that couldn't be grown is smaller than the room.
        self.capacity / 2 - MARKER_ROOM_BYTES.min(self.capacity / 4)
    }

    fn lose(&mut self, bytes: &[u8]) {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.missing = self.missing.saturating_add(count);
        self.missing_in_all = self.missing_in_all.saturating_add(count);
    }

    /// Says how much is missing, in one write: a pipe takes all of so few bytes or none.
    fn mark(&mut self) {
        let marker =
            format!("\r\npodwright: {} bytes of output are missing here: they were not read\r\n", self.missing);
        if self.pipe.write(marker.as_bytes()).is_ok() {
            self.missing = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn client(stream: usize) -> (Attachments, io::PipeReader) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut attachments = Attachments::default();
        attachments.add(ClientPipe::new(7, stream, writer.into()).expect("a client"));
        (attachments, reader)
    }

    fn read_all(attachments: &mut Attachments, stream: usize, mut reader: io::PipeReader) -> (Vec<u8>, Vec<u64>) {
        let missing = attachments.end(stream).into_iter().map(ClientPipe::close).collect();
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("reads");
        (all, missing)
    }

    #[test]
    fn a_client_gets_the_stream_that_it_asked_for() {
        let (mut attachments, reader) = client(1);
        attachments.take(0, b"out");
        attachments.take(1, b"err");
        assert_eq!(attachments.end(0).len(), 0);
        assert_eq!(read_all(&mut attachments, 1, reader), (b"err".to_vec(), vec![0]));
        assert_eq!(attachments.len(), 0);
    }

    #[test]
    fn what_is_not_read_is_dropped_and_counted_at_the_gap() {
        let (mut attachments, mut reader) = client(0);
        let block = vec![b'x'; 64 * 1024];
        for _ in 0..32 {
            attachments.take(0, &block);
        }
        let capacity = attachments.pipes[0].capacity;
        let missing = attachments.pipes[0].missing;
        let kept = 32 * 64 * 1024 - missing;
        assert!(missing > 0 && kept <= capacity as u64, "{missing} of 2 MiB are missing with a pipe of {capacity}");
        let mut first = vec![0; usize::try_from(kept).expect("small")];
        reader.read_exact(&mut first).expect("reads");
        assert!(first.iter().all(|byte| *byte == b'x'));
        attachments.take(0, b"after");
        let (rest, counted) = read_all(&mut attachments, 0, reader);
        let expected =
            format!("\r\npodwright: {missing} bytes of output are missing here: they were not read\r\nafter");
        assert_eq!((String::from_utf8_lossy(&rest), counted), (expected.into(), vec![missing]));
    }

    #[test]
    fn a_gap_at_the_end_is_told_although_the_pipe_is_full() {
        let (mut attachments, reader) = client(0);
        for _ in 0..300 {
            attachments.take(0, &[b'y'; 8192]);
        }
        let (all, counted) = read_all(&mut attachments, 0, reader);
        let text = String::from_utf8(all).expect("text");
        let (output, marker) = text.split_once('\r').expect("a marker");
        assert_eq!(u64::try_from(output.len()).expect("small") + counted[0], 300 * 8192);
        assert!(marker.contains(&format!("podwright: {} bytes", counted[0])), "{marker}");
    }

    /// A pipe counts in pages: however the output is cut, there is one for the marker, and nothing comes before it.
    #[test]
    fn a_gap_is_told_in_its_place_however_the_output_is_cut() {
        for cut in [1, 7, 2049, 4095, 4097, 6145, 20_000] {
            let (mut attachments, mut reader) = client(0);
            let mut given = 0_u64;
            let mut give = |attachments: &mut Attachments| {
                attachments.take(0, &vec![b'z'; cut]);
                given += cut as u64;
            };
            while attachments.pipes[0].missing == 0 {
                give(&mut attachments);
            }
            // Its reader takes a little at a time, so that there is room in the middle of pages.
            let (mut got, mut piece) = (Vec::new(), [0; 3001]);
            for _ in 0..600 {
                let read = reader.read(&mut piece).expect("reads");
                got.extend_from_slice(&piece[..read]);
                give(&mut attachments);
            }
            while attachments.pipes[0].missing == 0 {
                give(&mut attachments);
            }
            let missing = attachments.end(0).into_iter().map(ClientPipe::close).sum::<u64>();
            reader.read_to_end(&mut got).expect("reads");
            let text = String::from_utf8(got).expect("text");
            let told: Vec<u64> = text
                .split("podwright: ")
                .skip(1)
                .map(|rest| rest.split(' ').next().expect("a word").parse().expect("a number"))
                .collect();
            let kept = u64::try_from(text.bytes().filter(|byte| *byte == b'z').count()).expect("small");
            assert!(told.len() >= 2, "{cut}: gaps {told:?}");
            assert_eq!((told.iter().sum::<u64>(), kept + missing), (missing, given), "pieces of {cut}");
        }
    }

    #[test]
    fn a_client_without_a_reader_takes_nothing_and_harms_nobody() {
        let (mut attachments, reader) = client(0);
        drop(reader);
        attachments.take(0, b"nobody reads");
        assert_eq!(attachments.remove(8).map(|client| client.number), None);
        assert_eq!(attachments.remove(7).map(ClientPipe::close), Some(12));
    }
}
