//! Status.

use std::collections::HashMap;

use runtime_cri_api::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};
use runtime_engine::NetworkReadiness;
use tonic::Status;

use super::RuntimeVerbs;

pub(super) fn answer(verbs: &RuntimeVerbs, request: StatusRequest) -> Result<StatusResponse, Status> {
    let condition = |name: &str, reason: String, message: String| RuntimeCondition {
        r#type: name.to_owned(),
        status: reason.is_empty(),
        reason,
        message,
    };
    let network = match verbs.engine.network_readiness() {
        NetworkReadiness::Ready => condition("NetworkReady", String::new(), String::new()),
        NetworkReadiness::NotReady { reason, message } => {
            let reason = if reason.is_empty() { "NetworkNotReady".to_owned() } else { reason };
            condition("NetworkReady", reason, message)
        }
    };
    // Whoever answers has recovered: the socket opens after that.
    let mut conditions = vec![condition("RuntimeReady", String::new(), String::new()), network];
    // Not one that a kubelet waits for: for whoever asks why a container isn't confined.
    let warning = verbs.engine.security_warning();
    conditions.extend(
        warning.map(|message| condition("DefaultSecurityProfileLoaded", "AppArmorProfileMissing".to_owned(), message)),
    );
    let user_namespaces = verbs.engine.has_user_namespaces();
    let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces };
    let handlers =
        crate::RUNTIME_HANDLERS.map(|name| RuntimeHandler { name: name.to_owned(), features: Some(features) });
    Ok(StatusResponse {
        status: Some(RuntimeStatus { conditions }),
        info: if request.verbose { verbose(verbs) } else { HashMap::new() },
        runtime_handlers: handlers.to_vec(),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: true,
        }),
    })
}

fn verbose(verbs: &RuntimeVerbs) -> HashMap<String, String> {
    let config = verbs.engine.config();
    let info = serde_json::json!({
        "version": verbs.info.version,
        "settings": verbs.info.settings,
        "root": config.root,
        "run": config.run,
        "cgroupRoot": config.cgroup_root,
        "cgroupDriver": "cgroupfs",
        "cgroupVersion": verbs.engine.cgroup_version(),
        "announcedPodCidr": verbs.engine.announced_pod_cidr(),
    });
    HashMap::from([("config".to_owned(), info.to_string())])
}
