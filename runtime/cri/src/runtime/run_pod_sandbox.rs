//! RunPodSandbox.

use runtime_cri_api::v1::{RunPodSandboxRequest, RunPodSandboxResponse};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{error::engine, parse};

pub(super) async fn answer(
    verbs: &RuntimeVerbs,
    request: RunPodSandboxRequest,
) -> Result<RunPodSandboxResponse, Status> {
    let config = parse::sandbox_config(request.config, request.runtime_handler)?;
    let id = verbs.engine.run_sandbox(config).await.map_err(|error| engine(&error))?;
    Ok(RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
}
