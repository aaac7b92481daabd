//! StopContainer: repeated at will; one that isn't there is as good.

use std::time::Duration;

use runtime_cri_api::v1::{StopContainerRequest, StopContainerResponse};
use tonic::Status;

use super::{RuntimeVerbs, gone_is_good};

pub(super) async fn answer(
    verbs: &RuntimeVerbs,
    request: StopContainerRequest,
) -> Result<StopContainerResponse, Status> {
    let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
    let stopped = match verbs.engine.find_container(&request.container_id) {
        Ok(id) => verbs.engine.stop_container(&id, grace).await,
        Err(error) => Err(error),
    };
    gone_is_good(stopped).map(|()| StopContainerResponse {})
}
