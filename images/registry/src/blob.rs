//! One blob as a stream that survives broken connections.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use oci_spec::image::{Descriptor, Digest};
use reqwest::header::{CONTENT_RANGE, HeaderMap};
use reqwest::{Method, Response, StatusCode};

use crate::auth::Auth;
use crate::client::{Call, Registry};
use crate::error::{Attempt, Cause, RegistryError, words};
use crate::guard::{Guarded, length};
use crate::reference::Reference;

/// How often a connection may bring nothing that counts before the blob is given up.
const FRUITLESS_MAX: u32 = 3;
/// A connection that brought so many bytes was worth it, so that a link which breaks now and then still gets a large
/// blob through, and one which breaks after each byte doesn't go on for ever.
const PROGRESS_BYTES_MIN: u64 = 64 * 1024;

/// The bytes of one blob from an offset to its end, never more than its descriptor says. The digest isn't checked here:
/// the reader hashes what it writes.
#[derive(Debug)]
pub struct BlobStream {
    registry: Registry,
    reference: Reference,
    auth: Option<Auth>,
    digest: Digest,
    size: u64,
    next_byte: u64,
    body: Option<Body>,
    fruitless: u32,
    attempts: Vec<Attempt>,
    ended: bool,
}

#[derive(Debug)]
struct Body {
    guarded: Guarded,
    endpoint: String,
    /// Bytes before the offset that a server without ranges sends all the same.
    skip: u64,
    /// Whether the answer's own length ends it at the blob's end.
    is_exact: bool,
    brought: u64,
}

impl Registry {
    /// Opens a blob from byte `from_byte` on. It is asked for at once, so a blob that isn't there is an error here.
    pub async fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        auth: Option<&Auth>,
        from_byte: u64,
    ) -> Result<BlobStream, RegistryError> {
        let size = descriptor.size();
        let digest = descriptor.digest().clone();
        if from_byte > size {
            return Err(RegistryError::BeyondEnd { digest: Box::new(digest), from_byte, size });
        }
        let mut stream = BlobStream {
            registry: self.clone(),
            reference: reference.clone(),
            auth: auth.cloned(),
            digest,
            size,
            next_byte: from_byte,
            body: None,
            fruitless: 0,
            attempts: Vec::new(),
            ended: false,
        };
        if from_byte < size {
            stream.body = Some(stream.open().await?);
        }
        Ok(stream)
    }
}

impl BlobStream {
    /// The offset of the next byte.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next_byte
    }

    /// The blob's size in bytes, by its descriptor.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The endpoint that serves it now.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.body.as_ref().map(|body| body.endpoint.as_str())
    }

    /// The next bytes; `None` after the last byte of the blob, and after an error.
    pub async fn next_chunk(&mut self) -> Option<Result<Bytes, RegistryError>> {
        if self.ended {
            return None;
        }
        match self.advance().await {
            Ok(Some(chunk)) => Some(Ok(chunk)),
            Ok(None) => {
                self.ended = true;
                self.body = None;
                None
            }
            Err(error) => {
                self.ended = true;
                self.body = None;
                Some(Err(error))
            }
        }
    }

    /// The same as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, RegistryError>> + Send {
        futures_util::stream::unfold(self, |mut blob| async move { blob.next_chunk().await.map(|item| (item, blob)) })
    }

    async fn advance(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let left = self.size - self.next_byte;
            let Some(body) = &mut self.body else {
                if left == 0 {
                    return Ok(None);
                }
                self.body = Some(self.open().await?);
                continue;
            };
            if left == 0 && body.is_exact {
                return Ok(None);
            }
            match body.guarded.chunk().await {
                Ok(Some(chunk)) => {
                    if let Some(chunk) = body.keep(chunk, left).map_err(|cause| self.failed(cause))? {
                        self.next_byte += length(&chunk);
                        return Ok(Some(chunk));
                    }
                }
                // After the last byte only more bytes are wrong; how the connection ends is nobody's concern.
                Ok(None) | Err(_) if left == 0 => return Ok(None),
                Ok(None) => self.broke(Cause::Size { expected: self.size, actual: self.next_byte }).await?,
                Err(cause) => self.broke(cause).await?,
            }
        }
    }

    /// A connection ended before the blob: tries again unless that has proved useless.
    async fn broke(&mut self, cause: Cause) -> Result<(), RegistryError> {
        let Some(body) = self.body.take() else { return Ok(()) };
        if body.brought >= PROGRESS_BYTES_MIN {
            self.fruitless = 0;
            self.attempts.clear();
        }
        self.fruitless += 1;
        tracing::warn!(digest = %self.digest, endpoint = body.endpoint, position = self.next_byte, %cause, "blob broke off");
        self.attempts.push(Attempt { endpoint: body.endpoint, cause });
        if self.fruitless >= FRUITLESS_MAX {
            let attempts = std::mem::take(&mut self.attempts);
            return Err(RegistryError::Endpoints { what: self.what(), attempts });
        }
        tokio::time::sleep(self.registry.pause(self.fruitless)).await;
        Ok(())
    }

    fn failed(&mut self, cause: Cause) -> RegistryError {
        let endpoint = self.body.take().map(|body| body.endpoint).unwrap_or_default();
        RegistryError::Endpoints { what: self.what(), attempts: vec![Attempt { endpoint, cause }] }
    }

    fn what(&self) -> String {
        format!("fetch blob {} of {}", self.digest, self.reference.name())
    }

    /// Asks for the bytes from `next_byte` on. After a second fruitless connection another endpoint comes first: a mirror
    /// that always breaks off at the same place would otherwise hide the healthy ones behind it.
    async fn open(&self) -> Result<Body, RegistryError> {
        let mut endpoints = self.registry.pulling(&self.reference, &self.what()).await?;
        let turn = usize::try_from(self.fruitless.saturating_sub(1)).unwrap_or(0) % endpoints.len();
        endpoints.rotate_left(turn);
        let path = format!("blobs/{}", self.digest);
        let call = Call {
            reference: &self.reference,
            auth: self.auth.as_ref(),
            method: Method::GET,
            path: &path,
            accept: &[],
            from_byte: self.next_byte,
        };
        let (size, from_byte, pace) = (self.size, self.next_byte, self.registry.pace());
        let read = |endpoint, response: Response| async move {
            let (skip, is_exact) = answered_range(&response, from_byte, size)?;
            Ok(Body { guarded: Guarded::new(response, pace), endpoint, skip, is_exact, brought: 0 })
        };
        self.registry.first_of(&endpoints, self.what(), &call, read).await
    }
}

impl Body {
    /// The part of a chunk that is new, if any; an error if there is more than the blob has.
    fn keep(&mut self, mut chunk: Bytes, left: u64) -> Result<Option<Bytes>, Cause> {
        let skip = self.skip.min(length(&chunk));
        self.skip -= skip;
        // A skip is at most the chunk's length, which is a usize.
        drop(chunk.split_to(usize::try_from(skip).unwrap_or(chunk.len())));
        let new = length(&chunk);
        if new > left {
            return Err(Cause::Size { expected: left, actual: new });
        }
        self.brought += new;
        Ok((new > 0).then_some(chunk))
    }
}

/// How many bytes of the answer come before `from_byte`, and whether the answer's length ends at the blob's.
fn answered_range(response: &Response, from_byte: u64, size: u64) -> Result<(u64, bool), Cause> {
    let (skip, expected) = match response.status() {
        StatusCode::PARTIAL_CONTENT if from_byte > 0 => {
            check_content_range(response.headers(), from_byte, size)?;
            (0, size - from_byte)
        }
        StatusCode::OK => (from_byte, size),
        status => return Err(Cause::Status { status: status.as_u16(), detail: String::new() }),
    };
    match response.content_length() {
        Some(actual) if actual != expected => Err(Cause::Size { expected, actual }),
        Some(_) => Ok((skip, true)),
        None => Ok((skip, false)),
    }
}

fn check_content_range(headers: &HeaderMap, from_byte: u64, size: u64) -> Result<(), Cause> {
    let value = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let last = size - 1;
    if [format!("bytes {from_byte}-{last}/{size}"), format!("bytes {from_byte}-{last}/*")]
        .iter()
        .any(|own| own == value)
    {
        Ok(())
    } else {
        Err(Cause::Header { name: "Content-Range", value: words(value) })
    }
}

/// The pause before the `n`th repetition (from 1): doubled each time. Without jitter: one node's pulls are no herd, and a
/// test can name the moment.
pub(crate) fn pause(first: Duration, max: Duration, n: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(n.saturating_sub(1))).min(max)
}
