//! Frames to bytes.

use super::headers::{Deflater, Headers};
use super::{
    CONTROL, DATA_BYTES_MAX, FLAG_FIN, GOAWAY, HEADER_BYTES, PING, RST_STREAM, SETTINGS, SYN_REPLY, SYN_STREAM, VERSION,
};

/// One connection's writing side, for frames with headers; the others are functions, since they share no state.
pub(crate) struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder { deflater: Deflater::new() }
    }

    /// Opens a stream, of no other's and of no priority. Frames must be sent in the order in which they are made.
    pub(crate) fn syn_stream(&mut self, stream: u32, headers: &Headers) -> Vec<u8> {
        let mut fixed = [0; 10];
        fixed[..4].copy_from_slice(&stream.to_be_bytes());
        self.with_headers(SYN_STREAM, 0, &fixed, headers)
    }

    /// Accepts a stream. Frames must be sent in the order in which they are made.
    pub(crate) fn syn_reply(&mut self, stream: u32, headers: &Headers) -> Vec<u8> {
        self.with_headers(SYN_REPLY, 0, &stream.to_be_bytes(), headers)
    }

    /// A control frame that ends with headers.
    pub(super) fn with_headers(&mut self, kind: u16, flags: u8, fixed: &[u8], headers: &Headers) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend_from_slice(fixed);
        self.deflater.block(headers, &mut frame);
        let header = control_header(kind, flags, frame.len() - HEADER_BYTES);
        frame[..HEADER_BYTES].copy_from_slice(&header);
        frame
    }
}

/// The header of a DATA frame of `length` bytes, at most [`DATA_BYTES_MAX`].
pub(crate) fn data_header(stream: u32, fin: bool, length: usize) -> [u8; HEADER_BYTES] {
    debug_assert!(length <= DATA_BYTES_MAX);
    let [a, b, c, d] = stream.to_be_bytes();
    let [e, f, g] = length_bytes(length);
    [a, b, c, d, if fin { FLAG_FIN } else { 0 }, e, f, g]
}

/// The stream is over.
pub(crate) fn reset(stream: u32, status: u32) -> [u8; HEADER_BYTES + 8] {
    pair(RST_STREAM, stream, status)
}

/// No streams after `last`.
pub(crate) fn go_away(last: u32, status: u32) -> [u8; HEADER_BYTES + 8] {
    pair(GOAWAY, last, status)
}

/// Settings, none of them: the peer has nothing to do.
pub(crate) fn settings() -> [u8; HEADER_BYTES + 4] {
    let mut frame = [0; HEADER_BYTES + 4];
    frame[..HEADER_BYTES].copy_from_slice(&control_header(SETTINGS, 0, 4));
    frame
}

/// A ping, or the answer to one.
pub(crate) fn ping(id: u32) -> [u8; HEADER_BYTES + 4] {
    let mut frame = [0; HEADER_BYTES + 4];
    frame[..HEADER_BYTES].copy_from_slice(&control_header(PING, 0, 4));
    frame[HEADER_BYTES..].copy_from_slice(&id.to_be_bytes());
    frame
}

/// A control frame of two numbers.
pub(super) fn pair(kind: u16, first: u32, second: u32) -> [u8; HEADER_BYTES + 8] {
    let mut frame = [0; HEADER_BYTES + 8];
    frame[..HEADER_BYTES].copy_from_slice(&control_header(kind, 0, 8));
    frame[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&first.to_be_bytes());
    frame[HEADER_BYTES + 4..].copy_from_slice(&second.to_be_bytes());
    frame
}

pub(super) fn control_header(kind: u16, flags: u8, length: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = (CONTROL | u32::from(VERSION) << 16 | u32::from(kind)).to_be_bytes();
    let [e, f, g] = length_bytes(length);
    [a, b, c, d, flags, e, f, g]
}

/// The low three bytes.
fn length_bytes(length: usize) -> [u8; 3] {
    let [.., a, b, c] = length.to_be_bytes();
    [a, b, c]
}
