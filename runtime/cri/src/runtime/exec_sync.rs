//! ExecSync.

use std::time::Duration;

use runtime_cri_api::v1::{ExecSyncRequest, ExecSyncResponse};
use tonic::Status;

use super::RuntimeVerbs;
use crate::error::{engine, invalid};

pub(super) async fn answer(verbs: &RuntimeVerbs, request: ExecSyncRequest) -> Result<ExecSyncResponse, Status> {
    let limit = match u64::try_from(request.timeout) {
        Ok(0) => None,
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => return Err(invalid("timeout", "is negative")),
    };
    let id = verbs.engine.find_container(&request.container_id).map_err(|error| engine(&error))?;
    let output = verbs.engine.exec_sync(&id, request.cmd, limit).await.map_err(|error| engine(&error))?;
    Ok(ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit.code })
}
