//! How the end of an exec or attach is told on the error channel, and how that is read.

use serde::{Deserialize, Serialize};

use crate::handshake::Report;
use crate::{BackendError, ExitStatus};

/// The part of `metav1.Status` that clients read.
#[derive(Serialize)]
struct Status<'a> {
    metadata: Metadata,
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Metadata {}

#[derive(Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
}

/// What is written on the error channel; `None` for nothing.
pub(crate) fn report(report: Report, outcome: &Result<ExitStatus, BackendError>) -> Option<Vec<u8>> {
    let (message, status) = match outcome {
        Ok(ExitStatus { code: 0 }) => (String::new(), None),
        Ok(ExitStatus { code }) => (format!("command terminated with non-zero exit code {code}"), Some(*code)),
        Err(error) => (format!("error executing command in container: {error}"), None),
    };
    let json = |status: &Status<'_>| serde_json::to_vec(status).expect("strings and numbers are JSON");
    match (report, outcome, status) {
        (Report::Text, Ok(ExitStatus { code: 0 }), _) => None,
        (Report::Text, ..) => Some(message.into_bytes()),
        (Report::Status, Ok(_), None) => Some(json(&Status {
            metadata: Metadata {},
            status: "Success",
            message: "",
            reason: "",
            details: None,
            code: None,
        })),
        (Report::Status, Ok(_), Some(code)) => {
            let cause = Cause { reason: "ExitCode", message: code.to_string() };
            Some(json(&Status {
                metadata: Metadata {},
                status: "Failure",
                message: &message,
                reason: "NonZeroExitCode",
                details: Some(Details { causes: [cause] }),
                code: None,
            }))
        }
        (Report::Status, Err(_), _) => Some(json(&Status {
            metadata: Metadata {},
            status: "Failure",
            message: &format!("Internal error occurred: {message}"),
            reason: "InternalError",
            details: None,
            code: Some(500),
        })),
    }
}

/// What stands before the runtime's own words in `metav1.Status`, and says nothing that isn't said anyway.
const PREAMBLES: [&str; 2] = ["Internal error occurred: ", "error executing command in container: "];

/// The part of `metav1.Status` that is read, of any runtime.
#[derive(Deserialize)]
struct Told {
    status: String,
    #[serde(default)]
    message: String,
    details: Option<ToldDetails>,
}

#[derive(Deserialize)]
struct ToldDetails {
    #[serde(default)]
    causes: Vec<ToldCause>,
}

#[derive(Deserialize)]
struct ToldCause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// What was told on the error channel: the exit code, or why there is none; `None` where nothing was.
pub(crate) fn read(text: &[u8]) -> Option<Result<i32, String>> {
    if text.is_empty() {
        return None;
    }
    let Ok(told) = serde_json::from_slice::<Told>(text) else {
        return Some(Err(String::from_utf8_lossy(text).trim().to_owned()));
    };
    if told.status == "Success" {
        return Some(Ok(0));
    }
    let causes = told.details.map(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason == "ExitCode").and_then(|cause| cause.message.parse().ok());
    Some(match code {
        Some(code) => Ok(code),
        None => {
            let bare = PREAMBLES.iter().fold(&*told.message, |text, words| text.strip_prefix(words).unwrap_or(text));
            Err(bare.to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{read, report};
    use crate::handshake::Report;
    use crate::{BackendError, ExitStatus};

    #[test]
    fn the_end_is_told_as_the_kubelet_tells_it() {
        let check = |form: Report, outcome: Result<ExitStatus, BackendError>, expected: &str| {
            let text = report(form, &outcome).map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(text.as_deref().unwrap_or("nothing"), expected);
        };
        let gone = || Err(BackendError { message: "no \"such\" container".to_owned() });
        check(Report::Status, Ok(ExitStatus { code: 0 }), r#"{"metadata":{},"status":"Success"}"#);
        check(
            Report::Status,
            Ok(ExitStatus { code: 137 }),
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code 137","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"137"}]}}"#,
        );
        check(
            Report::Status,
            gone(),
            r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: error executing command in container: no \"such\" container","reason":"InternalError","code":500}"#,
        );
        check(Report::Text, Ok(ExitStatus { code: 0 }), "nothing");
        check(Report::Text, Ok(ExitStatus { code: 3 }), "command terminated with non-zero exit code 3");
        check(Report::Text, gone(), "error executing command in container: no \"such\" container");
    }

    #[test]
    fn what_is_told_is_read_again() {
        let check = |outcome: Result<ExitStatus, BackendError>, expected: Result<i32, &str>| {
            let told = report(Report::Status, &outcome).unwrap();
            assert_eq!(read(&told), Some(expected.map_err(str::to_owned)));
        };
        check(Ok(ExitStatus { code: 0 }), Ok(0));
        check(Ok(ExitStatus { code: 137 }), Ok(137));
        check(Err(BackendError { message: "no such container".to_owned() }), Err("no such container"));
        assert_eq!(read(b""), None);
        assert_eq!(read(b"plain words\n"), Some(Err("plain words".to_owned())));
        let strange =
            br#"{"status":"Failure","message":"m","details":{"causes":[{"reason":"ExitCode","message":"x"}]}}"#;
        assert_eq!(read(strange), Some(Err("m".to_owned())));
    }
}
