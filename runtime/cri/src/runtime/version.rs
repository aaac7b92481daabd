//! Version.

use runtime_cri_api::v1::VersionResponse;

use super::RuntimeVerbs;

/// The version of the kubelet's side of the interface; every runtime says this one.
const KUBELET_API: &str = "0.1.0";

/// The version of CRI that we speak.
const RUNTIME_API: &str = "v1";

pub(super) fn answer(verbs: &RuntimeVerbs) -> VersionResponse {
    VersionResponse {
        version: KUBELET_API.to_owned(),
        runtime_name: "podwright".to_owned(),
        runtime_version: verbs.info.version.clone(),
        runtime_api_version: RUNTIME_API.to_owned(),
    }
}
