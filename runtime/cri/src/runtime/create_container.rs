//! CreateContainer.

use runtime_cri_api::v1::{CreateContainerRequest, CreateContainerResponse};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{error::engine, parse};

pub(super) async fn answer(
    verbs: &RuntimeVerbs,
    request: CreateContainerRequest,
) -> Result<CreateContainerResponse, Status> {
    let config = parse::container_config(request.config)?;
    // The sandbox is as it was made: the copy of its configuration in the request says nothing new.
    let sandbox = verbs.engine.find_sandbox(&request.pod_sandbox_id).map_err(|error| engine(&error))?;
    let id = verbs.engine.create_container(&sandbox, config).await.map_err(|error| engine(&error))?;
    Ok(CreateContainerResponse { container_id: id.to_string() })
}
