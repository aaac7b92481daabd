//! UpdatePodSandboxResources.

use runtime_cri_api::v1::{UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse};
use runtime_engine::SandboxChange;
use tonic::Status;

use super::RuntimeVerbs;
use crate::{error::engine, parse};

pub(super) async fn answer(
    verbs: &RuntimeVerbs,
    request: UpdatePodSandboxResourcesRequest,
) -> Result<UpdatePodSandboxResourcesResponse, Status> {
    let id = verbs.engine.find_sandbox(&request.pod_sandbox_id).map_err(|error| engine(&error))?;
    let change = SandboxChange {
        overhead: request.overhead.map(parse::resources).transpose()?,
        resources: request.resources.map(parse::resources).transpose()?,
    };
    verbs.engine.update_sandbox(&id, change).await.map_err(|error| engine(&error))?;
    Ok(UpdatePodSandboxResourcesResponse {})
}
