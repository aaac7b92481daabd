//! RemoveContainer: killed if it runs; one that isn't there is as good.

use runtime_cri_api::v1::{RemoveContainerRequest, RemoveContainerResponse};
use tonic::Status;

use super::{RuntimeVerbs, gone_is_good};

pub(super) async fn answer(
    verbs: &RuntimeVerbs,
    request: RemoveContainerRequest,
) -> Result<RemoveContainerResponse, Status> {
    let removed = match verbs.engine.find_container(&request.container_id) {
        Ok(id) => verbs.engine.remove_container(&id).await,
        Err(error) => Err(error),
    };
    gone_is_good(removed).map(|()| RemoveContainerResponse {})
}
