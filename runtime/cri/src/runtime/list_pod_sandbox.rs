//! ListPodSandbox and StreamPodSandboxes, from memory.

use runtime_cri_api::v1::{PodSandbox, PodSandboxFilter};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{parse, render};

pub(super) fn list(verbs: &RuntimeVerbs, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, Status> {
    let Some(filter) = parse::sandbox_filter(&verbs.engine, filter)? else { return Ok(Vec::new()) };
    // The newest first, as other runtimes have it.
    Ok(verbs.engine.sandboxes(&filter).iter().rev().map(|record| render::sandbox(record)).collect())
}
