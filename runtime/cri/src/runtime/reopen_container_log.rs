//! ReopenContainerLog.

use runtime_cri_api::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};
use tonic::Status;

use super::RuntimeVerbs;
use crate::error::engine;

pub(super) async fn answer(
    verbs: &RuntimeVerbs,
    request: ReopenContainerLogRequest,
) -> Result<ReopenContainerLogResponse, Status> {
    let id = verbs.engine.find_container(&request.container_id).map_err(|error| engine(&error))?;
    verbs.engine.reopen_log(&id).await.map_err(|error| engine(&error))?;
    Ok(ReopenContainerLogResponse {})
}
