//! Frames: a little-endian `u32` length, then that many bytes of JSON.

use serde::{Serialize, de::DeserializeOwned};

/// Longest frame, in bytes without its length. An OCI specification with 1 MiB of environment and arguments (more than
/// `execve` takes here) fits with room; a hostile length can't make either side allocate more.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most descriptors beside one frame: stdin, stdout and stderr of an exec.
pub const FRAME_DESCRIPTORS_MAX: usize = 3;

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`FRAME_BYTES_MAX`].
    #[error("a frame of {bytes} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not the JSON of this message.
    #[error("a frame is not a message of this protocol")]
    Malformed(#[from] serde_json::Error),
}

/// The bytes of `message`, length first.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let body = bytes.len() - 4;
    let length =
        u32::try_from(body).ok().filter(|_| body <= FRAME_BYTES_MAX).ok_or(FrameError::TooLong { bytes: body })?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// The length of the first frame in `bytes` with its own four bytes; `None` while not even that is there. For a reader
/// that must know how much to expect before it takes more.
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some((length, _)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { bytes: length });
    }
    Ok(Some(4 + length))
}

/// The first message in `bytes` and how many bytes it took; `None` while it is not complete.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>, FrameError> {
    let Some(length) = frame_length(bytes)? else { return Ok(None) };
    let Some(body) = bytes.get(4..length) else { return Ok(None) };
    Ok(Some((serde_json::from_slice(body)?, length)))
}
