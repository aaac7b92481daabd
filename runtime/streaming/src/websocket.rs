//! WebSocket frames, a server's side ([RFC 6455](https://www.rfc-editor.org/rfc/rfc6455)): bytes in, pieces of messages
//! out, and the headers of frames to send. Pure; no sockets, no clock.
//!
//! Ours and not a library's, since a library hands out whole messages: clients send standard input of any length as one
//! message, which must not become memory.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

#[cfg(test)]
pub(crate) mod tests;

/// Longest header of a frame that a server sends, in bytes: two, and eight of length.
pub(crate) const HEADER_BYTES_MAX: usize = 10;
/// Longest payload of a control frame, in bytes (RFC 6455, section 5.5).
pub(crate) const CONTROL_BYTES_MAX: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Close code: done.
pub(crate) const CLOSE_NORMAL: u16 = 1000;
/// Close code: the peer broke the protocol.
pub(crate) const CLOSE_PROTOCOL_ERROR: u16 = 1002;

/// What a message is, as its frames say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
}

/// A piece of a message, or a control frame. Ranges say where in the input, which is unmasked in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Bytes of a message, as many as there were; `first` and `last` of the message.
    Piece { bytes: Range<usize>, first: bool, last: bool },
    /// To be answered with a pong of the same payload.
    Ping { payload: Range<usize> },
    /// The answer to a ping, which we don't send.
    Pong,
    /// The peer sends no more.
    Close,
}

/// What a [`Decoder`] made of the input's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes that are done with.
    pub(crate) consumed: usize,
    /// What they were; `None` when more input is needed.
    pub(crate) event: Option<Event>,
}

/// Why bytes are not WebSocket frames of a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebSocketError {
    #[error("a WebSocket frame with reserved bits {bits:#04x}")]
    Reserved { bits: u8 },
    #[error("a WebSocket frame with the unknown opcode {opcode}")]
    Opcode { opcode: u8 },
    #[error("a WebSocket frame of a client that is not masked")]
    Unmasked,
    #[error("a WebSocket control frame that is fragmented or longer than {CONTROL_BYTES_MAX} bytes")]
    Control,
    #[error("a WebSocket frame whose length is not written in the shortest way, or beyond 2^63")]
    Length,
    #[error("a WebSocket continuation without a message, or a message within another")]
    Order,
    #[error("a message of the wrong kind: {got:?} where {expected:?} is spoken")]
    Kind { got: Kind, expected: Kind },
}

/// One connection's reading side.
pub(crate) struct Decoder {
    expected: Kind,
    /// A message whose last frame has not begun.
    in_message: bool,
    payload: Option<Payload>,
}

/// A frame whose payload comes next.
struct Payload {
    remaining: u64,
    mask: [u8; 4],
    first: bool,
    fin: bool,
}

impl Decoder {
    /// For messages of one kind.
    pub(crate) fn new(expected: Kind) -> Decoder {
        Decoder { expected, in_message: false, payload: None }
    }

    /// What `input` begins with. A control frame is taken whole, of a message what is there.
    pub(crate) fn decode(&mut self, input: &mut [u8]) -> Result<Step, WebSocketError> {
        const MORE: Step = Step { consumed: 0, event: None };
        if let Some(payload) = self.payload.take() {
            if input.is_empty() {
                self.payload = Some(payload);
                return Ok(MORE);
            }
            return Ok(self.piece(payload, 0, input));
        }
        let Some(header) = Header::parse(input)? else { return Ok(MORE) };
        match header.opcode {
            CLOSE | PING | PONG => {
                let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                if !header.fin || length > CONTROL_BYTES_MAX {
                    return Err(WebSocketError::Control);
                }
                let range = header.bytes..header.bytes + length;
                let Some(payload) = input.get_mut(range.clone()) else { return Ok(MORE) };
                unmask(payload, header.mask);
                let event = match header.opcode {
                    CLOSE => Event::Close,
                    PING => Event::Ping { payload: range.clone() },
                    _ => Event::Pong,
                };
                Ok(Step { consumed: range.end, event: Some(event) })
            }
            opcode => {
                let first = opcode != CONTINUATION;
                if first == self.in_message {
                    return Err(WebSocketError::Order);
                }
                let got = if opcode == TEXT { Kind::Text } else { Kind::Binary };
                if first && got != self.expected {
                    return Err(WebSocketError::Kind { got, expected: self.expected });
                }
                self.in_message = !header.fin;
                let payload = Payload { remaining: header.length, mask: header.mask, first, fin: header.fin };
                Ok(self.piece(payload, header.bytes, input))
            }
        }
    }

    /// What of `payload` lies in `input` behind `from`.
    fn piece(&mut self, mut payload: Payload, from: usize, input: &mut [u8]) -> Step {
        let there = input.len() - from;
        let taken = usize::try_from(payload.remaining).map_or(there, |remaining| remaining.min(there));
        let bytes = from..from + taken;
        unmask(&mut input[bytes.clone()], payload.mask);
        payload.mask.rotate_left(taken % 4);
        payload.remaining -= u64::try_from(taken).unwrap_or(u64::MAX);
        let event = Event::Piece { bytes, first: payload.first, last: payload.fin && payload.remaining == 0 };
        if payload.remaining > 0 {
            payload.first = false;
            self.payload = Some(payload);
        }
        Step { consumed: from + taken, event: Some(event) }
    }
}

/// A frame's header.
struct Header {
    fin: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
    /// How long it is itself.
    bytes: usize,
}

impl Header {
    fn parse(input: &[u8]) -> Result<Option<Header>, WebSocketError> {
        let [first, second, rest @ ..] = input else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(WebSocketError::Reserved { bits: first & RESERVED });
        }
        let opcode = first & 0x0f;
        if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(WebSocketError::Opcode { opcode });
        }
        if second & MASKED == 0 {
            return Err(WebSocketError::Unmasked);
        }
        let (length, minimum, rest, bytes) = match second & 0x7f {
            126 => match rest.split_first_chunk::<2>() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), 126, rest, 4),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((length, rest)) => (u64::from_be_bytes(*length), 1 << 16, rest, 10),
                None => return Ok(None),
            },
            length => (u64::from(length), 0, rest, 2),
        };
        if length < minimum || length >> 63 != 0 {
            return Err(WebSocketError::Length);
        }
        let Some((mask, _)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        Ok(Some(Header { fin: first & FIN != 0, opcode, length, mask: *mask, bytes: bytes + mask.len() }))
    }
}

/// In words of 16 bytes, which the compiler turns into vectors.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let wide = u128::from_ne_bytes(std::array::from_fn(|index| mask[index % 4]));
    let (words, rest) = bytes.as_chunks_mut::<16>();
    for word in words {
        *word = (u128::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// The header of a whole message of `length` bytes.
pub(crate) fn message_header(kind: Kind, length: usize) -> Short {
    header(if kind == Kind::Text { TEXT } else { BINARY }, length)
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    [header(PONG, payload.len()).bytes(), payload].concat()
}

/// The last frame.
pub(crate) fn close(code: u16) -> Vec<u8> {
    [header(CLOSE, 2).bytes(), &code.to_be_bytes()].concat()
}

/// A header on the stack.
pub(crate) struct Short {
    all: [u8; HEADER_BYTES_MAX],
    length: usize,
}

impl Short {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.all[..self.length]
    }
}

fn header(opcode: u8, length: usize) -> Short {
    let mut all = [0; HEADER_BYTES_MAX];
    all[0] = FIN | opcode;
    let length = match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length), _) if length < 126 => {
            all[1] = length;
            2
        }
        (_, Ok(length)) => {
            all[1] = 126;
            all[2..4].copy_from_slice(&length.to_be_bytes());
            4
        }
        _ => {
            all[1] = 127;
            all[2..].copy_from_slice(&u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
            HEADER_BYTES_MAX
        }
    };
    Short { all, length }
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455, section 4.2.2): proof that the server speaks WebSocket.
pub(crate) fn accept(key: &[u8]) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    STANDARD.encode(digest)
}
