//! StartContainer.

use runtime_cri_api::v1::{StartContainerRequest, StartContainerResponse};
use tonic::Status;

use super::RuntimeVerbs;
use crate::error::engine;

pub(super) async fn answer(
    verbs: &RuntimeVerbs,
    request: StartContainerRequest,
) -> Result<StartContainerResponse, Status> {
    let id = verbs.engine.find_container(&request.container_id).map_err(|error| engine(&error))?;
    verbs.engine.start_container(&id).await.map_err(|error| engine(&error))?;
    Ok(StartContainerResponse {})
}
