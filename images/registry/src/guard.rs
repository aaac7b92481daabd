//! An answer's body under watch: it must keep coming, fast enough to end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Response;

use crate::error::{Cause, told};

/// How slow a body may come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Longest silence.
    pub(crate) idle: Duration,
    /// In each window of waiting at least `bytes_min` must come.
    pub(crate) window: Duration,
    pub(crate) bytes_min: u64,
}

/// A body of which every chunk is waited for by [`Pace`]. Only the time spent waiting counts: a consumer that is busy
/// with a disk doesn't make the registry slow.
#[derive(Debug)]
pub(crate) struct Guarded {
    response: Response,
    pace: Pace,
    waited: Duration,
    came: u64,
}

impl Guarded {
    pub(crate) fn new(response: Response, pace: Pace) -> Self {
        Self { response, pace, waited: Duration::ZERO, came: 0 }
    }

    /// The next chunk; `None` at the end that the answer announced.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Cause> {
        let before = Instant::now();
        let chunk = match tokio::time::timeout(self.pace.idle, self.response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => return Err(Cause::Broken(told(error))),
            Err(_) => return Err(Cause::Silent { limit: self.pace.idle }),
        };
        self.waited += before.elapsed();
        self.came += chunk.as_ref().map_or(0, length);
        if self.waited >= self.pace.window {
            if chunk.is_some() && self.came < self.pace.bytes_min {
                return Err(Cause::TooSlow { bytes: self.came, window: self.waited });
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Ok(chunk)
    }

    /// The whole body, refused once it is longer than `limit` bytes.
    pub(crate) async fn whole(mut self, limit: u64) -> Result<Vec<u8>, Cause> {
        if self.response.content_length().is_some_and(|length| length > limit) {
            return Err(Cause::TooLarge { limit });
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            body.extend_from_slice(&chunk);
            if u64::try_from(body.len()).is_ok_and(|length| length > limit) {
                return Err(Cause::TooLarge { limit });
            }
        }
        Ok(body)
    }
}

/// A chunk's length in the unit of sizes.
pub(crate) fn length(chunk: &Bytes) -> u64 {
    u64::try_from(chunk.len()).expect("a length in memory fits 64 bits")
}
