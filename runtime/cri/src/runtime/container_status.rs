//! ContainerStatus, from memory.

use std::collections::HashMap;

use runtime_cri_api::v1::{ContainerStatus, ContainerStatusRequest, ContainerStatusResponse};
use runtime_lifecycle::ContainerRecord;
use tonic::Status;

use super::RuntimeVerbs;
use crate::{error::engine, render};

pub(super) fn answer(verbs: &RuntimeVerbs, request: ContainerStatusRequest) -> Result<ContainerStatusResponse, Status> {
    let found = verbs.engine.find_container(&request.container_id).and_then(|id| verbs.engine.container(&id));
    let record = found.map_err(|error| engine(&error))?;
    let info = if request.verbose { render::container_verbose(&record) } else { HashMap::new() };
    Ok(ContainerStatusResponse { status: Some(status(verbs, &record)), info })
}

/// One container's status.
pub(super) fn status(verbs: &RuntimeVerbs, record: &ContainerRecord) -> ContainerStatus {
    let reference = |id: &String| {
        let image = verbs.images.find(id);
        image.and_then(|image| image.repo_digests.first().cloned()).unwrap_or_else(|| id.clone())
    };
    let volumes: Vec<String> = record.volume_images.iter().map(reference).collect();
    render::container_status(record, verbs.images.find(&record.image_id).as_deref(), &volumes)
}
