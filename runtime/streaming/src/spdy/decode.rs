//! Bytes to frames.

use super::headers::Inflater;
use super::{
    CONTROL, CONTROL_BYTES_MAX, FLAG_FIN, FLAG_UNIDIRECTIONAL, Frame, GOAWAY, HEADER_BYTES, HEADERS, PING, RST_STREAM,
    SETTINGS, SETTINGS_MAX, STREAM, SYN_REPLY, SYN_STREAM, SpdyError, Step, VERSION, WINDOW_UPDATE,
};

/// One connection's reading side.
pub(crate) struct Decoder {
    inflater: Inflater,
    /// The DATA frame whose bytes come next.
    data: Option<Data>,
}

struct Data {
    stream: u32,
    remaining: usize,
    fin: bool,
}

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder { inflater: Inflater::new(), data: None }
    }

    /// The first frame in `input`. A control frame is taken whole, so `input` must be able to grow to
    /// [`CONTROL_BYTES_MAX`] behind a header; of a DATA frame what is there.
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<Step, SpdyError> {
        const MORE: Step = Step { consumed: 0, frame: None };
        if let Some(data) = self.data.take() {
            if input.is_empty() {
                self.data = Some(data);
                return Ok(MORE);
            }
            return Ok(self.piece(data, 0, input.len()));
        }
        let Some((header, rest)) = input.split_first_chunk::<HEADER_BYTES>() else { return Ok(MORE) };
        let [a, b, c, d, flags, length @ ..] = *header;
        let word = u32::from_be_bytes([a, b, c, d]);
        let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
        if word & CONTROL == 0 {
            let data = Data { stream: stream(word)?, remaining: length, fin: flags & FLAG_FIN != 0 };
            return Ok(self.piece(data, HEADER_BYTES, input.len()));
        }
        let (version, kind) = (u16::from_be_bytes([a & 0x7f, b]), u16::from_be_bytes([c, d]));
        if version != VERSION {
            return Err(SpdyError::Version { version });
        }
        if length > CONTROL_BYTES_MAX {
            return Err(SpdyError::ControlTooLong { bytes: length });
        }
        let Some(body) = rest.get(..length) else { return Ok(MORE) };
        Ok(Step { consumed: HEADER_BYTES + length, frame: Some(self.control(kind, flags, body)?) })
    }

    /// Whether the next bytes are a DATA frame's payload.
    #[cfg(test)]
    pub(super) fn is_within_data(&self) -> bool {
        self.data.is_some()
    }

    /// What of `data` lies in the input between `from` and `to`.
    fn piece(&mut self, data: Data, from: usize, to: usize) -> Step {
        let taken = data.remaining.min(to - from);
        let remaining = data.remaining - taken;
        let frame = Frame::Data { stream: data.stream, bytes: from..from + taken, fin: data.fin && remaining == 0 };
        if remaining > 0 {
            self.data = Some(Data { remaining, ..data });
        }
        Step { consumed: from + taken, frame: Some(frame) }
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<Frame, SpdyError> {
        let short = || SpdyError::Length { kind, bytes: body.len() };
        let fin = flags & FLAG_FIN != 0;
        Ok(match kind {
            SYN_STREAM => {
                let (fixed, block) = body.split_first_chunk::<10>().ok_or_else(short)?;
                // Inflated in any case, since the next block goes on from there.
                let headers = self.inflater.block(block)?;
                Frame::SynStream {
                    stream: stream(word(fixed, 0))?,
                    associated: word(fixed, 4) & STREAM,
                    priority: fixed[8] >> 5,
                    fin,
                    unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                    headers,
                }
            }
            SYN_REPLY | HEADERS => {
                let (fixed, block) = body.split_first_chunk::<4>().ok_or_else(short)?;
                let headers = self.inflater.block(block)?;
                let stream = stream(word(fixed, 0))?;
                if kind == HEADERS {
                    Frame::Headers { stream, fin, headers }
                } else {
                    Frame::SynReply { stream, fin, headers }
                }
            }
            SETTINGS => settings(body)?,
            PING => Frame::Ping { id: u32::from_be_bytes(*<&[u8; 4]>::try_from(body).map_err(|_| short())?) },
            RST_STREAM | GOAWAY | WINDOW_UPDATE => {
                let fixed: &[u8; 8] = body.try_into().map_err(|_| short())?;
                let (first, second) = (word(fixed, 0), word(fixed, 4));
                match kind {
                    RST_STREAM => Frame::Reset { stream: stream(first)?, status: second },
                    GOAWAY => Frame::GoAway { last: first & STREAM, status: second },
                    // SPDY/3.1 has a window of the whole session, which is stream 0.
                    _ => Frame::WindowUpdate { stream: first & STREAM, delta: second & STREAM },
                }
            }
            kind => Frame::Unknown { kind },
        })
    }
}

fn settings(body: &[u8]) -> Result<Frame, SpdyError> {
    let short = SpdyError::Length { kind: SETTINGS, bytes: body.len() };
    let Some((count, values)) = body.split_first_chunk::<4>() else { return Err(short) };
    let count = u32::from_be_bytes(*count);
    let entries = usize::try_from(count).unwrap_or(usize::MAX);
    if entries > SETTINGS_MAX {
        return Err(SpdyError::TooManySettings { count });
    }
    if values.len() != entries * 8 {
        return Err(short);
    }
    Ok(Frame::Settings { values: values.chunks_exact(8).map(|value| (word(value, 0), word(value, 4))).collect() })
}

/// The number at a place that is known to be there.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn stream(word: u32) -> Result<u32, SpdyError> {
    match word & STREAM {
        0 => Err(SpdyError::StreamZero),
        stream => Ok(stream),
    }
}
