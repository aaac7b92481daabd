//! Blocks of headers: a count, then each name and value behind its length; all of it in one zlib stream per direction,
//! flushed after each block.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;
use super::{HEADER_BLOCK_BYTES_MAX, HEADERS_MAX, SpdyError};

/// Inflated or deflated at a time, in bytes.
const PIECE_BYTES: usize = 4096;

/// Names and values, in their order. Names are in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// The value of a name, which is given in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// One direction's reading side.
pub(super) struct Inflater {
    zlib: Decompress,
}

impl Inflater {
    pub(super) fn new() -> Inflater {
        Inflater { zlib: Decompress::new(true) }
    }

    /// The headers of one block.
    pub(super) fn block(&mut self, mut input: &[u8]) -> Result<Headers, SpdyError> {
        let mut block = Vec::new();
        let mut piece = [0; PIECE_BYTES];
        loop {
            let (taken, given) = (self.zlib.total_in(), self.zlib.total_out());
            let answer = self.zlib.decompress(input, &mut piece, FlushDecompress::Sync);
            input = &input[difference(taken, self.zlib.total_in()).min(input.len())..];
            let produced = difference(given, self.zlib.total_out());
            match answer {
                Ok(Status::StreamEnd) => return Err(SpdyError::Inflate),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Inflate)?;
                    continue;
                }
                Err(_) => return Err(SpdyError::Inflate),
            }
            if block.len() + produced > HEADER_BLOCK_BYTES_MAX {
                return Err(SpdyError::HeadersTooLong);
            }
            block.extend_from_slice(&piece[..produced]);
            let progress = produced > 0 || self.zlib.total_in() > taken;
            match (input.is_empty() && produced < PIECE_BYTES, progress) {
                (true, _) => return parse(&block),
                (false, true) => {}
                (false, false) => return Err(SpdyError::Inflate),
            }
        }
    }
}

/// One direction's writing side.
pub(super) struct Deflater {
    zlib: Compress,
}

impl Deflater {
    pub(super) fn new() -> Deflater {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(&DICTIONARY).expect("a compressor that was just made takes a dictionary");
        Deflater { zlib }
    }

    /// Appends one block to `output`.
    pub(super) fn block(&mut self, headers: &Headers, output: &mut Vec<u8>) {
        let mut block = Vec::new();
        block.extend_from_slice(&length(headers.0.len()).to_be_bytes());
        for (name, value) in &headers.0 {
            for text in [name, value] {
                block.extend_from_slice(&length(text.len()).to_be_bytes());
                block.extend_from_slice(text.as_bytes());
            }
        }
        let mut input = &block[..];
        let mut piece = [0; PIECE_BYTES];
        loop {
            let (taken, given) = (self.zlib.total_in(), self.zlib.total_out());
            // Its only error is a call out of order.
            let answer = self.zlib.compress(input, &mut piece, FlushCompress::Sync);
            debug_assert!(answer.is_ok(), "{answer:?}");
            input = &input[difference(taken, self.zlib.total_in()).min(input.len())..];
            let produced = difference(given, self.zlib.total_out());
            output.extend_from_slice(&piece[..produced]);
            // A piece that isn't full says that the flush is complete.
            if produced < PIECE_BYTES {
                break;
            }
        }
    }
}

fn difference(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}

/// Ours are short; a longer one would be refused by the peer.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn parse(mut block: &[u8]) -> Result<Headers, SpdyError> {
    let count = number(&mut block)?;
    let expected = usize::try_from(count).unwrap_or(usize::MAX);
    if expected > HEADERS_MAX {
        return Err(SpdyError::TooManyHeaders { count });
    }
    let mut headers = Headers(Vec::with_capacity(expected));
    for _ in 0..expected {
        let name = String::from_utf8_lossy(text(&mut block)?).into_owned();
        let value = String::from_utf8_lossy(text(&mut block)?).into_owned();
        if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) || headers.get(&name).is_some() {
            return Err(SpdyError::HeaderName { name });
        }
        headers.0.push((name, value));
    }
    if block.is_empty() { Ok(headers) } else { Err(SpdyError::HeadersMalformed) }
}

fn number(block: &mut &[u8]) -> Result<u32, SpdyError> {
    let (bytes, rest) = block.split_first_chunk::<4>().ok_or(SpdyError::HeadersMalformed)?;
    *block = rest;
    Ok(u32::from_be_bytes(*bytes))
}

fn text<'a>(block: &mut &'a [u8]) -> Result<&'a [u8], SpdyError> {
    let length = usize::try_from(number(block)?).unwrap_or(usize::MAX);
    let (bytes, rest) = block.split_at_checked(length).ok_or(SpdyError::HeadersMalformed)?;
    *block = rest;
    Ok(bytes)
}
