//! UpdateContainerResources.

use runtime_cri_api::v1::{UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{error::engine, parse};

pub(super) async fn answer(
    verbs: &RuntimeVerbs,
    request: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse, Status> {
    let id = verbs.engine.find_container(&request.container_id).map_err(|error| engine(&error))?;
    let change = parse::resources(request.linux.unwrap_or_default())?;
    verbs.engine.update_container(&id, change).await.map_err(|error| engine(&error))?;
    Ok(UpdateContainerResourcesResponse {})
}
