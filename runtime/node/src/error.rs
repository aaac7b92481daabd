//! Why a verb failed: what, where, and the way out, in one message.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use runtime_streaming::client::ClientError;
use runtime_sys::SysError;

use crate::address::Address;
use crate::config::ConfigError;
use crate::serve::ServeError;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(
        "no node answers at {address} ({cause}): start one with `podwright node`, run pods with `podwright run FILE`, or name \
             another with --address"
    )]
    NoNode { address: Address, cause: io::Error },
    #[error("the node's socket {address} is not for this user: run the command with sudo")]
    NotAllowed { address: Address },
    #[error("cannot speak to the node at {address}")]
    Transport { address: Address, source: tonic::transport::Error },
    #[error("{what}: {}", told(.status))]
    Refused { what: String, status: Box<tonic::Status> },
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} has more than {limit_bytes} bytes: it is no manifest")]
    TooLarge { path: PathBuf, limit_bytes: u64 },
    #[error("cannot write {path:?}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Manifest(String),
    #[error("there is no pod in the given files")]
    NoPod,
    #[error("there is no pod {pod}; `podwright ps` lists them")]
    NoSuchPod { pod: String },
    #[error("pod {pod} has no container {container}; it has {}", .names.join(", "))]
    NoSuchContainer { pod: String, container: String, names: Vec<String> },
    #[error("container {container} of pod {pod} is not running")]
    NotRunning { pod: String, container: String },
    #[error("pod {pod} is not running: it is {state}")]
    PodNotRunning { pod: String, state: String },
    #[error("{id} is the beginning of several ids: {}; write more of it", .ids.join(", "))]
    AmbiguousId { id: String, ids: Vec<String> },
    #[error("{what}")]
    Stream { what: String, source: ClientError },
    #[error("{what}: the command did not end within {limit:?} and was killed")]
    CommandLate { what: String, limit: Duration },
    #[error("cannot use this program's own standard streams")]
    OwnStreams { source: io::Error },
    #[error("cannot use the terminal")]
    Terminal { source: SysError },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("pod {pod} is there already: delete it with `podwright delete {pod}`, or change it with `podwright apply`")]
    PodExists { pod: String },
    #[error("pod {pod}: {reason}: {message}")]
    PodFailed { pod: String, reason: String, message: String },
    #[error("pod {pod} is not ready after {seconds} s: {state}")]
    NotReadyInTime { pod: String, seconds: u64, state: String },
    #[error("the node ended while its pods were watched")]
    NodeGone,
    #[error("the node at {address} did not end within {seconds} s: stop its process and try again")]
    StillThere { address: Address, seconds: u64 },
    #[error("cannot start the node in the background")]
    Background { source: io::Error },
    #[error("the node in the background ended at its start: {tail}")]
    BackgroundEnded { tail: String },
    #[error("the node did not answer within {seconds} s; its log is {log:?}")]
    BackgroundSilent { log: PathBuf, seconds: u64 },
    #[error("cannot start the program's threads")]
    Threads { source: io::Error },
    #[error("the keeper: {0}")]
    Keeper(String),
    #[error("{}", .0.join("\n"))]
    Several(Vec<String>),
}

/// What a status says to people: the message that the node made, and where there is none, the code. A status with a source
/// was made on this side: the connection broke.
fn told(status: &tonic::Status) -> String {
    match (status.message(), status.source()) {
        (_, Some(_)) => "the connection to the node broke off; does it still run?".to_owned(),
        ("", None) => status.code().to_string(),
        (message, None) => message.to_owned(),
    }
}

/// Turns a status into an error that says what was asked.
pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(tonic::Status) -> Error {
    let what = what.into();
    move |status| Error::Refused { what, status: Box::new(status) }
}

/// An error and all its causes on one line. A cause that its effect quotes already is not said twice.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Error, chain, refused};

    #[test]
    fn an_error_says_what_where_and_the_way_out() {
        let address = "unix:///run/podwright/podwright.sock".parse().expect("an address");
        let error = Error::NoNode { address, cause: io::ErrorKind::NotFound.into() };
        let text = chain(&error);
        for word in ["unix:///run/podwright/podwright.sock", "podwright node", "--address", "not found"] {
            assert!(text.contains(word), "{word} is missing in {text}");
        }
    }

    #[test]
    fn a_refusal_carries_the_nodes_words_and_no_grpc() {
        let text = chain(&refused("pull x")(tonic::Status::not_found("no such image")));
        assert_eq!(text, "pull x: no such image");
    }

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] io::Error);
        assert_eq!(chain(&Outer(io::Error::other("inner"))), "outer: inner");
    }
}
