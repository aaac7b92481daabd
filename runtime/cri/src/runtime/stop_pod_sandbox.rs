//! StopPodSandbox: repeated at will; one that isn't there is as good.

use runtime_cri_api::v1::{StopPodSandboxRequest, StopPodSandboxResponse};
use tonic::Status;

use super::{RuntimeVerbs, gone_is_good};

pub(super) async fn answer(
    verbs: &RuntimeVerbs,
    request: StopPodSandboxRequest,
) -> Result<StopPodSandboxResponse, Status> {
    let stopped = match verbs.engine.find_sandbox(&request.pod_sandbox_id) {
        Ok(id) => verbs.engine.stop_sandbox(&id).await,
        Err(error) => Err(error),
    };
    gone_is_good(stopped).map(|()| StopPodSandboxResponse {})
}
