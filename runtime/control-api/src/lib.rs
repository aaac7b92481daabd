//! What CRI has no words for: the second gRPC service on the node's socket, as messages and stubs.
//!
//! *In*: `proto/control.proto`, the definition. *Out*: its messages, a client and a server trait, made at build time.
//! *Not here*: who serves it and who calls it (both in `runtime/node`), and any word that CRI already has.

use std::fmt;

/// Version 1 of the control service. Documented in `proto/control.proto`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "generated")]
#[allow(clippy::all, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("podwright.control.v1");
}

/// Names who, never with what.
impl fmt::Debug for v1::Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Most bytes of an archive in one message of `Import` and `Export`: large enough that a message costs less than its
/// bytes, far below the message limit of the socket.
pub const ARCHIVE_CHUNK_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::v1::Credentials;

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?}", Credentials { username: "ann".to_owned(), password: "hunter2".to_owned() });
        assert!(text.contains("ann") && !text.contains("hunter2"), "{text}");
    }
}
