//! What can go wrong between a name and its bytes.

use std::fmt;
use std::time::Duration;

use oci_spec::image::Digest;

use crate::hosts::HostsError;
use crate::manifest::DocumentError;
use crate::net::RedirectRefused;

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The registry answered that it has no such image, manifest or blob.
    NotFound,
    /// The registry wants other credentials, or none could safely be sent.
    Unauthorized,
    /// No endpoint could be reached, or none answered in time, or all are broken. Later may be better.
    Unreachable,
    /// The registry asks for patience, longer than we wait.
    RateLimited,
    /// The answer, the request or the configuration is wrong: repeating it won't help.
    Invalid,
}

/// An operation that no endpoint could do. The message lists every endpoint tried with its cause.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The mirror settings can't be used.
    #[error("mirror settings of {registry}: {source}")]
    Hosts {
        /// The reference's registry.
        registry: String,
        /// What is wrong, with file and line.
        source: Box<HostsError>,
    },
    /// The settings leave no endpoint for this.
    #[error("cannot {what}: no endpoint of {registry} has the capability {capability:?} in its hosts.toml")]
    NoEndpoint {
        /// What was wanted.
        what: String,
        /// The reference's registry.
        registry: String,
        /// `pull` or `resolve`.
        capability: &'static str,
    },
    /// Every endpoint failed.
    #[error("cannot {what}: {}", Attempts(attempts))]
    Endpoints {
        /// What was wanted, naming the reference.
        what: String,
        /// Every endpoint in the order tried; the registry's own is the last.
        attempts: Vec<Attempt>,
    },
    /// The documents of the image don't lead to an image for this platform.
    #[error("cannot use {reference}: {source}")]
    Document {
        /// The image.
        reference: String,
        /// What is wrong.
        source: Box<DocumentError>,
    },
    /// A blob is asked for from beyond its end.
    #[error("cannot fetch {digest} from byte {from_byte}: it has {size} bytes")]
    BeyondEnd {
        /// The blob.
        digest: Box<Digest>,
        /// First byte asked for.
        from_byte: u64,
        /// The blob's size in bytes.
        size: u64,
    },
}

/// One endpoint that was tried.
#[derive(Debug)]
pub struct Attempt {
    /// Its address, without credentials.
    pub endpoint: String,
    /// Why it couldn't serve.
    pub cause: Cause,
}

struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attempt) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", attempt.endpoint, attempt.cause)?;
        }
        Ok(())
    }
}

/// Why one endpoint couldn't serve. Texts from the registry are cut and hold no control characters.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// No connection, no TLS session, or no name: by way of which proxy, and why.
    #[error("cannot connect{0}")]
    Connect(String),
    /// The connection ended in the middle.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It took the request and said nothing.
    #[error("no answer within {limit:?}")]
    NoAnswer {
        /// How long was waited.
        limit: Duration,
    },
    /// It began to send and stopped.
    #[error("no data within {limit:?}")]
    Silent {
        /// How long was waited.
        limit: Duration,
    },
    /// Bytes came, but too few to ever end.
    #[error("only {bytes} bytes came in {window:?}")]
    TooSlow {
        /// How many.
        bytes: u64,
        /// In which time.
        window: Duration,
    },
    /// The TLS client couldn't be made.
    #[error("cannot use the TLS settings: {0}")]
    Tls(String),
    /// There is no such thing.
    #[error("not found{0}")]
    NotFound(String),
    /// 401 or 403.
    #[error("refused: {0}")]
    Unauthorized(String),
    /// 429.
    #[error("rate limited{}{detail}", retry_after.map(|wait| format!(", may be tried again in {wait:?}")).unwrap_or_default())]
    RateLimited {
        /// The registry's words.
        detail: String,
        /// What the registry said in Retry-After.
        retry_after: Option<Duration>,
    },
    /// 5xx.
    #[error("answered {status}{detail}")]
    ServerError {
        /// The HTTP status.
        status: u16,
        /// The registry's words.
        detail: String,
        /// What the registry said in Retry-After.
        retry_after: Option<Duration>,
    },
    /// Any other status.
    #[error("answered {status}{detail}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The registry's words.
        detail: String,
    },
    /// A redirect that isn't followed.
    #[error("refused {0}")]
    Redirect(RedirectRefused),
    /// The answer is longer or shorter than promised.
    #[error("sends {actual} bytes where {expected} were promised")]
    Size {
        /// By the descriptor, in bytes.
        expected: u64,
        /// By the answer, in bytes; at least so many.
        actual: u64,
    },
    /// A document is longer than the limit.
    #[error("sends a document of more than {limit} bytes")]
    TooLarge {
        /// In bytes.
        limit: u64,
    },
    /// The bytes aren't those that were asked for.
    #[error("sends {actual} where {expected} was asked for")]
    Digest {
        /// Asked for.
        expected: String,
        /// Sent.
        actual: String,
    },
    /// A header is wrong.
    #[error("sends a wrong header {name}: {value}")]
    Header {
        /// Its name.
        name: &'static str,
        /// Its value, cut.
        value: String,
    },
    /// A manifest or index is wrong.
    #[error("sends a document that can't be used: {0}")]
    Document(DocumentError),
}

impl Cause {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Connect(_)
            | Self::Broken(_)
            | Self::NoAnswer { .. }
            | Self::Silent { .. }
            | Self::TooSlow { .. }
            | Self::ServerError { .. } => Kind::Unreachable,
            Self::NotFound(_) => Kind::NotFound,
            Self::Unauthorized(_) => Kind::Unauthorized,
            Self::RateLimited { .. } => Kind::RateLimited,
            Self::Tls(_)
            | Self::Status { .. }
            | Self::Redirect(_)
            | Self::Size { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Header { .. }
            | Self::Document(_) => Kind::Invalid,
        }
    }

    /// Whether the same endpoint may do better soon. One that was waited for in vain isn't waited for again.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Broken(_) | Self::RateLimited { .. } => true,
            Self::ServerError { status, .. } => matches!(status, 408 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether the endpoint as a whole is in trouble, not only this request.
    pub(crate) fn is_trouble(&self) -> bool {
        self.kind() == Kind::Unreachable || self.kind() == Kind::RateLimited
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::ServerError { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl RegistryError {
    /// What callers branch on. Of several endpoints the last one counts: it is the registry itself, mirrors come before.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Endpoints { attempts, .. } => attempts.last().map_or(Kind::Unreachable, |last| last.cause.kind()),
            Self::Document { source, .. } if matches!(**source, DocumentError::NoPlatform { .. }) => Kind::NotFound,
            Self::Hosts { .. } | Self::NoEndpoint { .. } | Self::Document { .. } | Self::BeyondEnd { .. } => {
                Kind::Invalid
            }
        }
    }
}

/// What is shown of a registry's words, in characters: enough for its error message, too little to flood a log.
const WORDS_CHARS_MAX: usize = 200;

/// Words of a registry, fit for a log line.
pub(crate) fn words(text: &str) -> String {
    let mut shown: String = text.chars().take(WORDS_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// What the HTTP client says around every error; where a cause follows, these words add nothing.
const WRAPPINGS: [&str; 4] =
    ["error sending request", "client error (", "error decoding response body", "request or response body error"];

/// The chain of an HTTP client's error on one line; it names no URL, whose query may hold a signature.
pub(crate) fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut parts: Vec<String> = Vec::new();
    let mut next: Option<&dyn std::error::Error> = Some(&error);
    while let Some(link) = next {
        let text = link.to_string();
        next = link.source();
        let is_wrapping = next.is_some() && WRAPPINGS.iter().any(|wrapping| text.starts_with(wrapping));
        if !is_wrapping && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    words(&parts.join(": "))
}
