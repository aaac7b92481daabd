//! Attach: a URL under which a client joins a container's streams.

use runtime_cri_api::v1::{AttachRequest, AttachResponse};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{
    error::engine,
    streams::{check, refused},
};

pub(super) fn answer(verbs: &RuntimeVerbs, request: AttachRequest) -> Result<AttachResponse, Status> {
    let AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    check(stdin, stdout, stderr, tty)?;
    let id = verbs.engine.find_container(&container_id).map_err(|error| engine(&error))?;
    verbs.engine.check_running(&id).map_err(|error| engine(&error))?;
    let wanted = runtime_streaming::AttachRequest { container: id.to_string(), stdin, stdout, stderr, tty };
    let url = verbs.streaming.attach(wanted).map_err(|error| refused(&error))?;
    Ok(AttachResponse { url })
}
