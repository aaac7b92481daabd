//! PodSandboxStatus, from memory.

use std::collections::HashMap;

use runtime_cri_api::v1::{PodSandboxStatusRequest, PodSandboxStatusResponse};
use runtime_lifecycle::ContainerFilter;
use tonic::Status;

use super::{RuntimeVerbs, container_status};
use crate::{error::engine, render};

pub(super) fn answer(
    verbs: &RuntimeVerbs,
    request: PodSandboxStatusRequest,
) -> Result<PodSandboxStatusResponse, Status> {
    let found = verbs.engine.find_sandbox(&request.pod_sandbox_id).and_then(|id| verbs.engine.sandbox(&id));
    let record = found.map_err(|error| engine(&error))?;
    let filter = ContainerFilter { sandbox: Some(record.id.clone()), ..ContainerFilter::default() };
    let containers = verbs.engine.containers(&filter);
    Ok(PodSandboxStatusResponse {
        status: Some(render::sandbox_status(&record)),
        info: if request.verbose { render::sandbox_verbose(&record) } else { HashMap::new() },
        containers_statuses: containers.iter().map(|record| container_status::status(verbs, record)).collect(),
        timestamp: verbs.engine.display_time().0,
    })
}
