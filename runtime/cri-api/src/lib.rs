//! The CRI v1 messages and stubs, client and server.
//!
//! *In*: `proto/api.proto`, unaltered from `staging/src/k8s.io/cri-api/pkg/apis/runtime/v1/api.proto` of Kubernetes
//! (k8s.io/cri-api v0.37.0). *Out*: the module [`v1`], generated at build time. *Not here*: meaning; only `runtime/cri`
//! and the keeper speak these words.

use std::fmt;

/// Package `runtime.v1`. Documented in `proto/api.proto`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "generated")]
#[allow(clippy::all, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The definition as a `google.protobuf.FileDescriptorSet`: what these messages are generated from.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));

/// Names who, never with what: the definition marks these fields `debug_redact`.
impl fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::v1::{AuthConfig, KeyValue};

    #[test]
    fn secrets_are_not_printed() {
        let auth = AuthConfig {
            username: "ann".to_owned(),
            password: "hunter2".to_owned(),
            auth: "YW5uOmh1bnRlcjI=".to_owned(),
            server_address: "registry.test".to_owned(),
            identity_token: "idtoken".to_owned(),
            registry_token: "regtoken".to_owned(),
        };
        let text = format!("{auth:?}");
        assert!(text.contains("ann") && text.contains("registry.test"), "{text}");
        for secret in ["hunter2", "YW5u", "idtoken", "regtoken"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }

    #[test]
    fn environment_values_are_bytes() {
        assert_eq!(KeyValue { key: "K".to_owned(), value: vec![0xff] }.value, [0xff]);
    }
}
