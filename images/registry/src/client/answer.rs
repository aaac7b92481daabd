//! What an answer's status means.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_ENCODING, HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::Call;
use crate::error::{Cause, words};
use crate::guard::{Guarded, Pace};

/// How much of an error's body is read, in bytes.
const ERROR_BODY_BYTES_MAX: u64 = 8 * 1024;
/// How long an error's body is waited for: it only explains.
const ERROR_BODY_WAIT_MAX: Duration = Duration::from_secs(5);

/// The answer, if it is a success and its bytes are as stored.
pub(super) async fn accepted(response: Response, call: &Call<'_>, pace: Pace) -> Result<Response, Cause> {
    let success = match response.status() {
        StatusCode::OK => true,
        StatusCode::PARTIAL_CONTENT => call.from_byte > 0,
        _ => false,
    };
    if !success {
        return Err(failure(response, pace).await);
    }
    match response.headers().get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            let value = words(&String::from_utf8_lossy(encoding.as_bytes()));
            Err(Cause::Header { name: "Content-Encoding", value })
        }
        _ => Ok(response),
    }
}

/// The cause that an unsuccessful answer is.
pub(super) async fn failure(response: Response, pace: Pace) -> Cause {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let detail = detail(response, pace).await;
    match status {
        StatusCode::NOT_FOUND => Cause::NotFound(detail),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Cause::Unauthorized(format!("answered {}{detail}", status.as_u16()))
        }
        StatusCode::TOO_MANY_REQUESTS => Cause::RateLimited { detail, retry_after },
        _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Cause::ServerError { status: status.as_u16(), detail, retry_after }
        }
        _ => Cause::Status { status: status.as_u16(), detail },
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Option<Vec<ErrorEntry>>,
    details: Option<String>,
    /// Of a token service that speaks OAuth.
    error: Option<String>,
    error_description: Option<String>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    code: Option<String>,
    message: Option<String>,
}

/// The registry's own words about an error, as ` (…)`, or nothing.
pub(super) async fn detail(response: Response, pace: Pace) -> String {
    let body = Guarded::new(response, pace).whole(ERROR_BODY_BYTES_MAX);
    let Ok(Ok(body)) = tokio::time::timeout(ERROR_BODY_WAIT_MAX, body).await else { return String::new() };
    let Ok(parsed) = serde_json::from_slice::<ErrorBody>(&body) else { return String::new() };
    let first = parsed.errors.unwrap_or_default().into_iter().next();
    let text = match first {
        Some(ErrorEntry { code: Some(code), message: Some(message) }) => format!("{code}: {message}"),
        Some(ErrorEntry { code, message }) => code.or(message).unwrap_or_default(),
        None => parsed.details.or(parsed.error_description).or(parsed.error).unwrap_or_default(),
    };
    if text.is_empty() { text } else { format!(" ({})", words(&text)) }
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    // A date in the past means now.
    Some(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(read("Wed, 21 Oct 2099 07:28:00 GMT").unwrap() > Duration::from_secs(1_000_000));
        for wrong in ["soon", "-1", "", "1e9"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
