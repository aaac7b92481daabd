//! The one table from errors to status codes. The message is the whole chain, rendered once, here.

use std::error::Error;

use images_service::{ImageError, Kind as ImageKind};
use runtime_engine::{EngineError, Kind};
use tonic::{Code, Status};

/// Longest message, in bytes: a status travels in HTTP/2 headers, which clients limit to 8 or 16 KiB.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Of the engine.
pub(crate) fn engine(error: &EngineError) -> Status {
    let code = match error.kind() {
        Kind::NotFound => Code::NotFound,
        Kind::NameTaken => Code::AlreadyExists,
        Kind::Refused => Code::FailedPrecondition,
        Kind::Invalid => Code::InvalidArgument,
        Kind::Unavailable => Code::Unavailable,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Unauthorized => Code::Unauthenticated,
        // As containerd and CRI-O have it, so that clients see one kind of failure on every runtime.
        Kind::CannotExecute => Code::Unknown,
        Kind::Internal => Code::Internal,
    };
    Status::new(code, chain(error))
}

/// Of the image service.
pub(crate) fn image(error: &ImageError) -> Status {
    let code = match error.kind() {
        ImageKind::NotFound => Code::NotFound,
        ImageKind::Unauthorized => Code::Unauthenticated,
        ImageKind::Unreachable => Code::Unavailable,
        ImageKind::Invalid => Code::InvalidArgument,
        ImageKind::NoSpace => Code::ResourceExhausted,
        ImageKind::InUse => Code::FailedPrecondition,
        ImageKind::Disk => Code::Internal,
    };
    Status::new(code, chain(error))
}

/// Checkpoint and restore, which are left out on purpose.
pub(crate) fn untrusted_checkpoint(verb: &'static str) -> Status {
    Status::unimplemented(format!(
        "{verb} is not offered by podwright: a checkpoint is an untrusted container's memory and files, which would be \
         read, labelled and restored with the node's rights; move state by a volume, or end and start the pod"
    ))
}

/// A request that is wrong.
pub(crate) fn invalid(what: &str, why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(shortened(format!("{what}: {why}")))
}

/// One line: the error and its causes, outermost first.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // A transparent error says what its cause says.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    shortened(text)
}

fn shortened(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        let cut = (0..=MESSAGE_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use runtime_engine::EngineError;
    use tonic::Code;

    use super::{engine, invalid};

    #[test]
    fn codes_and_chains() {
        let disk = EngineError::Disk {
            step: "write",
            path: "/run/x".into(),
            source: io::Error::new(io::ErrorKind::StorageFull, "no space left on device"),
        };
        let status = engine(&disk);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let wanted = "cannot write \"/run/x\" (its file system is full: make room there, in files or in inodes, and try again): \
                      no space left on device";
        assert_eq!(status.message(), wanted);
        let none = EngineError::NoSuchContainer { id: "feed".to_owned() };
        assert_eq!(engine(&none).code(), Code::NotFound);
        let joined = EngineError::Joined(std::sync::Arc::new(disk));
        assert_eq!(engine(&joined).message(), status.message());
        assert!(invalid("labels", "é".repeat(10_000)).message().len() < 5000);
    }
}
