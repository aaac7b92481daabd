//! The URLs that were given out and not yet used.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use crate::{AttachRequest, ExecRequest, Limits, PortForwardRequest, StreamingError};

/// Random bytes in a token: 256 bits can't be guessed.
const TOKEN_BYTES: usize = 32;
/// A token's length in a URL.
const TOKEN_DIGITS: usize = 2 * TOKEN_BYTES;
/// Where they come from.
pub(crate) const RANDOM: &str = "/dev/urandom";

/// What a URL stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
}

impl Request {
    /// The first part of its URL's path.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Request::Exec(_) => "exec",
            Request::Attach(_) => "attach",
            Request::PortForward(_) => "portforward",
        }
    }
}

/// Why a URL is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Used already, never given out, or another verb's.
    Unknown,
    /// It waited too long.
    Expired,
}

/// The store. `Read` is the source of random bytes.
pub(crate) struct Tokens<R> {
    random: Mutex<R>,
    waiting: Mutex<HashMap<String, (Instant, Request)>>,
    lifetime: Duration,
    max: usize,
}

impl<R: Read> Tokens<R> {
    pub(crate) fn new(random: R, limits: &Limits) -> Tokens<R> {
        Tokens {
            random: Mutex::new(random),
            waiting: Mutex::default(),
            lifetime: limits.token_lifetime,
            max: limits.tokens_max,
        }
    }

    /// A new token for `request`.
    pub(crate) fn insert(&self, request: Request, now: Instant) -> Result<String, StreamingError> {
        let mut bytes = [0; TOKEN_BYTES];
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read_exact(&mut bytes)
            .map_err(|source| StreamingError::Random { path: RANDOM, source })?;
        let token = bytes.iter().fold(String::with_capacity(TOKEN_DIGITS), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // An expired one is kept for as long again, so that a late client is told why; not when room is needed.
        let lifetime = self.lifetime;
        waiting.retain(|_, (born, _)| now.duration_since(*born) < 2 * lifetime);
        if waiting.len() >= self.max {
            waiting.retain(|_, (born, _)| now.duration_since(*born) < lifetime);
        }
        if waiting.len() >= self.max {
            return Err(StreamingError::TooManyTokens { max: self.max, lifetime });
        }
        waiting.insert(token.clone(), (now, request));
        Ok(token)
    }

    /// Whether `verb`'s `token` would be taken, without taking it.
    pub(crate) fn check(&self, verb: &str, token: &str, now: Instant) -> Result<Request, Missing> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.get(token) {
            Some((_, request)) if request.verb() != verb => Err(Missing::Unknown),
            Some((born, _)) if now.duration_since(*born) >= self.lifetime => Err(Missing::Expired),
            Some((_, request)) => Ok(request.clone()),
            None => Err(Missing::Unknown),
        }
    }

    /// Takes it: a second client of the same URL is refused.
    pub(crate) fn take(&self, verb: &str, token: &str, now: Instant) -> Result<Request, Missing> {
        let request = self.check(verb, token, now)?;
        let taken = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
        // Another connection may have been faster since the check.
        taken.map(|_| request).ok_or(Missing::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio::time::{Duration, Instant};

    use super::{Missing, Request, Tokens};
    use crate::{Limits, PortForwardRequest, StreamingError};

    fn request() -> Request {
        Request::PortForward(PortForwardRequest { sandbox: "s".to_owned(), ports: vec![80] })
    }

    fn tokens(max: usize) -> Tokens<Cursor<Vec<u8>>> {
        let random = (0..=255).cycle().take(32 * 100).collect();
        Tokens::new(Cursor::new(random), &Limits { tokens_max: max, ..Limits::default() })
    }

    #[tokio::test]
    async fn a_token_serves_once() {
        let (tokens, now) = (tokens(10), Instant::now());
        let token = tokens.insert(request(), now).unwrap();
        assert_eq!(token.len(), 64);
        assert!(token.starts_with("000102030405") && token.ends_with("1e1f"), "{token}");
        assert_eq!(tokens.check("portforward", &token, now), Ok(request()));
        assert_eq!(tokens.take("exec", &token, now), Err(Missing::Unknown), "another verb's");
        assert_eq!(tokens.take("portforward", &token, now), Ok(request()));
        assert_eq!(tokens.take("portforward", &token, now), Err(Missing::Unknown), "a second time");
    }

    #[tokio::test]
    async fn a_token_expires_and_is_told_so_for_a_while() {
        let (tokens, now) = (tokens(2), Instant::now());
        let token = tokens.insert(request(), now).unwrap();
        let late = now + Duration::from_secs(60);
        assert_eq!(tokens.take("portforward", &token, late - Duration::from_millis(1)).map(|_| ()), Ok(()));
        let token = tokens.insert(request(), now).unwrap();
        assert_eq!(tokens.take("portforward", &token, late), Err(Missing::Expired));
        // Expired ones make room, waiting ones don't.
        tokens.insert(request(), late).unwrap();
        tokens.insert(request(), late).unwrap();
        assert_eq!(tokens.take("portforward", &token, late), Err(Missing::Unknown));
        assert!(matches!(tokens.insert(request(), late), Err(StreamingError::TooManyTokens { max: 2, .. })));
    }

    #[tokio::test]
    async fn without_random_bytes_there_is_no_token() {
        let tokens = Tokens::new(Cursor::new(vec![1; 31]), &Limits::default());
        assert!(matches!(tokens.insert(request(), Instant::now()), Err(StreamingError::Random { .. })));
    }
}
