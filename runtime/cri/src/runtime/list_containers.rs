//! ListContainers and StreamContainers, from memory.

use runtime_cri_api::v1::{Container, ContainerFilter};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{parse, render};

pub(super) fn list(verbs: &RuntimeVerbs, filter: Option<ContainerFilter>) -> Result<Vec<Container>, Status> {
    let Some(filter) = parse::container_filter(&verbs.engine, filter)? else { return Ok(Vec::new()) };
    Ok(verbs.engine.containers(&filter).iter().rev().map(|record| render::container(record)).collect())
}
