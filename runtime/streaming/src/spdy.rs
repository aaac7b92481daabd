//! SPDY/3.1 frames: bytes in, frames out, and back. Pure; no sockets, no clock.
//!
//! The framing is that of the [SPDY draft 3.1](https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/), the
//! dialect that of `moby/spdystream`, which every Kubernetes client speaks, with its two departures from the draft: it has
//! no flow control (it sends no WINDOW_UPDATE, ignores those it gets and writes without regard to windows), so neither do
//! we: a peer that waited for windows, or we for its, would stall after 64 KiB. And a frame for a stream that is gone is
//! ignored, not answered.

use std::ops::Range;

mod decode;
mod dictionary;
mod encode;
mod headers;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use decode::Decoder;
pub(crate) use encode::{Encoder, data_header, go_away, ping, reset, settings};
pub(crate) use headers::Headers;

/// The version in each control frame.
const VERSION: u16 = 3;
/// The first bit of a control frame.
const CONTROL: u32 = 1 << 31;
/// The bits of a stream id.
const STREAM: u32 = CONTROL - 1;
/// A frame's type or stream id, its flags and its length.
pub(crate) const HEADER_BYTES: usize = 8;
/// Flag: the sender's last frame of this stream.
const FLAG_FIN: u8 = 0x01;
/// Flag: the receiver may not answer on this stream.
const FLAG_UNIDIRECTIONAL: u8 = 0x02;

/// Longest control frame, in bytes behind its header. Kubernetes' are under 200; the reader's buffer must hold a whole one.
pub(crate) const CONTROL_BYTES_MAX: usize = 16 * 1024;
/// Longest block of headers, in bytes after inflating: the answer to a block that inflates a thousandfold.
pub(crate) const HEADER_BLOCK_BYTES_MAX: usize = 64 * 1024;
/// Most headers in a block. Kubernetes sends up to three.
pub(crate) const HEADERS_MAX: usize = 100;
/// Most settings in a frame; the draft knows eight.
pub(crate) const SETTINGS_MAX: usize = 64;
/// Longest DATA frame that the format can say, in bytes.
pub(crate) const DATA_BYTES_MAX: usize = (1 << 24) - 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// RST_STREAM: the stream breaks the protocol.
pub(crate) const RESET_PROTOCOL_ERROR: u32 = 1;
/// RST_STREAM: the stream is not served.
pub(crate) const RESET_REFUSED: u32 = 3;
/// RST_STREAM: the sender is not interested any more.
pub(crate) const RESET_CANCEL: u32 = 5;
/// GOAWAY: the session is over.
pub(crate) const GOAWAY_OK: u32 = 0;
/// GOAWAY: the peer broke the protocol.
pub(crate) const GOAWAY_PROTOCOL_ERROR: u32 = 1;

/// One frame, or a piece of a DATA frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The peer opens a stream.
    SynStream { stream: u32, associated: u32, priority: u8, fin: bool, unidirectional: bool, headers: Headers },
    /// The peer accepts a stream.
    SynReply { stream: u32, fin: bool, headers: Headers },
    /// The stream is over in both directions.
    Reset { stream: u32, status: u32 },
    /// Settings, each as its flags and id in one number, and its value.
    Settings { values: Vec<(u32, u32)> },
    /// To be sent back when the id is the peer's.
    Ping { id: u32 },
    /// The peer leaves.
    GoAway { last: u32, status: u32 },
    /// More headers of a stream.
    Headers { stream: u32, fin: bool, headers: Headers },
    /// The stream's window grows.
    WindowUpdate { stream: u32, delta: u32 },
    /// Bytes of a stream: where in the input that was decoded. A DATA frame comes in as many pieces as it arrived in;
    /// `fin` is on the last.
    Data { stream: u32, bytes: Range<usize>, fin: bool },
    /// A control frame of a type that this dialect doesn't know; the draft says to ignore it.
    Unknown { kind: u16 },
}

/// What a [`Decoder`] made of the input's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes that are done with.
    pub(crate) consumed: usize,
    /// The frame; `None` when more input is needed.
    pub(crate) frame: Option<Frame>,
}

/// Why bytes are not SPDY. The compression of headers is one stream per connection, so nothing after an error can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdyError {
    #[error("a control frame of SPDY version {version}; only 3 is spoken")]
    Version { version: u16 },
    #[error("a control frame of {bytes} bytes; at most {CONTROL_BYTES_MAX} are taken")]
    ControlTooLong { bytes: usize },
    #[error("a control frame of type {kind} has {bytes} bytes")]
    Length { kind: u16, bytes: usize },
    #[error("a frame of stream 0")]
    StreamZero,
    #[error("{count} settings in a frame; at most {SETTINGS_MAX} are taken")]
    TooManySettings { count: u32 },
    #[error("headers do not inflate")]
    Inflate,
    #[error("headers inflate to more than {HEADER_BLOCK_BYTES_MAX} bytes")]
    HeadersTooLong,
    #[error("{count} headers in a frame; at most {HEADERS_MAX} are taken")]
    TooManyHeaders { count: u32 },
    #[error("headers are cut short or have bytes behind them")]
    HeadersMalformed,
    #[error("the header name {name:?} is empty, not in lower case or there twice")]
    HeaderName { name: String },
}
