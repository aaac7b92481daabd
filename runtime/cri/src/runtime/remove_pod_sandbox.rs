//! RemovePodSandbox: with whatever still runs in it; one that isn't there is as good.

use runtime_cri_api::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};
use tonic::Status;

use super::{RuntimeVerbs, gone_is_good};

pub(super) async fn answer(
    verbs: &RuntimeVerbs,
    request: RemovePodSandboxRequest,
) -> Result<RemovePodSandboxResponse, Status> {
    let removed = match verbs.engine.find_sandbox(&request.pod_sandbox_id) {
        Ok(id) => verbs.engine.remove_sandbox(&id).await,
        Err(error) => Err(error),
    };
    gone_is_good(removed).map(|()| RemovePodSandboxResponse {})
}
