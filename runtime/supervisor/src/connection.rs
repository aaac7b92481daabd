//! One connection of a node: bytes to calls, frames to bytes, descriptors beside both. Decides nothing about calls.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime_sys::socket;
use runtime_wire::{Call, FRAME_DESCRIPTORS_MAX, Frame, FrameError, decode, encode, frame_length};

/// Most bytes that wait for a node to read them. A node that is stuck is dropped; when it comes back, its new `Hello`
/// brings the state, so nothing but the wait is lost.
const OUTGOING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most descriptors that wait for the frame they belong to: those of 16 execs in one read. Above it somebody fills our
/// table.
const DESCRIPTORS_WAITING_MAX: usize = 16 * FRAME_DESCRIPTORS_MAX;

/// Most bytes read from one connection before others have their turn.
const READ_BYTES_PER_TURN: usize = 1024 * 1024;

/// Why a connection is closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The other side is gone.
    #[error("the node closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection failed")]
    Socket(#[source] io::Error),
    /// Bytes that are no frame.
    #[error("the node sent something that is not a call")]
    Frame(#[from] FrameError),
    /// More descriptors than calls that take them.
    #[error("the node sent {DESCRIPTORS_WAITING_MAX} descriptors and no call that takes them")]
    TooManyDescriptors,
    /// A call without the descriptors that belong to it.
    #[error("the node sent a call without the {missing} descriptors that belong to it")]
    DescriptorsMissing {
        /// How many are missing.
        missing: usize,
    },
    /// It doesn't read.
    #[error("the node does not read: more than {OUTGOING_BYTES_MAX} bytes wait for it")]
    Stuck,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    incoming: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
    outgoing_bytes: usize,
    /// It said `Hello` and is told of events.
    pub(crate) greeted: bool,
    /// It is watched for room to write.
    pub(crate) watched_for_room: bool,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

/// Whether a turn of reading took everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// Nothing is left in the socket, or what is left will be told again.
    Some,
    /// The other side is gone; calls that came before are still there.
    End,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            incoming: Vec::new(),
            descriptors: VecDeque::new(),
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            greeted: false,
            watched_for_room: false,
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes what has come, at most [`READ_BYTES_PER_TURN`] bytes.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<Received, ConnectionError> {
        let mut total = 0;
        while total < READ_BYTES_PER_TURN {
            let (count, descriptors) = match socket::recv(self.socket.as_fd(), buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            };
            self.descriptors.extend(descriptors);
            if self.descriptors.len() > DESCRIPTORS_WAITING_MAX {
                return Err(ConnectionError::TooManyDescriptors);
            }
            if count == 0 {
                return Ok(Received::End);
            }
            self.incoming.extend_from_slice(buffer.get(..count).unwrap_or_default());
            total += count;
            // A hostile length is refused before more of the frame is taken.
            frame_length(&self.incoming)?;
            if count < buffer.len() {
                break;
            }
        }
        Ok(Received::Some)
    }

    /// The next complete call.
    pub(crate) fn next_call(&mut self) -> Result<Option<Call>, ConnectionError> {
        let Some((call, length)) = decode::<Call>(&self.incoming)? else { return Ok(None) };
        if length >= self.incoming.len() {
            // Gives the memory of a large frame back.
            self.incoming = Vec::new();
        } else {
            self.incoming.drain(..length);
        }
        Ok(Some(call))
    }

    /// The descriptors that belong to the call that was just taken.
    pub(crate) fn take_descriptors(&mut self, count: usize) -> Result<Vec<OwnedFd>, ConnectionError> {
        match count.checked_sub(self.descriptors.len()) {
            None | Some(0) => Ok(self.descriptors.drain(..count).collect()),
            Some(missing) => Err(ConnectionError::DescriptorsMissing { missing }),
        }
    }

    /// Queues a frame. It goes with the next [`Self::flush`].
    pub(crate) fn queue(&mut self, frame: &Frame, descriptors: Vec<OwnedFd>) -> Result<(), ConnectionError> {
        let bytes = encode(frame)?;
        self.outgoing_bytes += bytes.len();
        if self.outgoing_bytes > OUTGOING_BYTES_MAX {
            return Err(ConnectionError::Stuck);
        }
        self.outgoing.push_back(Outgoing { bytes, sent: 0, descriptors });
        Ok(())
    }

    /// Sends what the socket takes. `true`: something is left.
    pub(crate) fn flush(&mut self) -> Result<bool, ConnectionError> {
        while let Some(first) = self.outgoing.front_mut() {
            let descriptors: Vec<BorrowedFd<'_>> = first.descriptors.iter().map(AsFd::as_fd).collect();
            let rest = first.bytes.get(first.sent..).unwrap_or_default();
            match socket::send(self.socket.as_fd(), rest, &descriptors) {
                Ok(count) => {
                    first.descriptors.clear();
                    first.sent += count;
                    self.outgoing_bytes -= count;
                    if first.sent >= first.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(failed(error)),
            }
        }
        self.outgoing = VecDeque::new();
        Ok(false)
    }
}

/// A node that died is no failure of the socket, whichever call finds it out.
fn failed(error: io::Error) -> ConnectionError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ConnectionError::Closed,
        _ => ConnectionError::Socket(error),
    }
}
