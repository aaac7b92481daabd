//! RuntimeConfig and UpdateRuntimeConfig.

use runtime_cri_api::v1::{
    CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigResponse, UpdateRuntimeConfigRequest,
    UpdateRuntimeConfigResponse,
};
use tonic::Status;

use super::RuntimeVerbs;
use crate::error::invalid;

/// Longest list of pod networks, in bytes: two addresses with their lengths.
const CIDR_BYTES_MAX: usize = 256;

pub(super) fn answer() -> RuntimeConfigResponse {
    RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() }) }
}

pub(super) fn update(
    verbs: &RuntimeVerbs,
    request: UpdateRuntimeConfigRequest,
) -> Result<UpdateRuntimeConfigResponse, Status> {
    let cidr = request.runtime_config.and_then(|config| config.network_config).map(|network| network.pod_cidr);
    if let Some(cidr) = cidr.filter(|cidr| !cidr.is_empty()) {
        if cidr.len() > CIDR_BYTES_MAX || cidr.contains('\0') {
            return Err(invalid("pod_cidr", "is not a list of networks"));
        }
        verbs.engine.announce_pod_cidr(cidr);
    }
    Ok(UpdateRuntimeConfigResponse {})
}
