//! Exec: a URL under which a client runs a command.

use runtime_cri_api::v1::{ExecRequest, ExecResponse};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{
    error::engine,
    streams::{check, refused},
};

pub(super) fn answer(verbs: &RuntimeVerbs, request: ExecRequest) -> Result<ExecResponse, Status> {
    let ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    check(stdin, stdout, stderr, tty)?;
    let id = verbs.engine.find_container(&container_id).map_err(|error| engine(&error))?;
    // Now and not when the client comes, whose command is kept until then.
    verbs.engine.check_exec(&id, &cmd).map_err(|error| engine(&error))?;
    let wanted = runtime_streaming::ExecRequest { container: id.to_string(), command: cmd, stdin, stdout, stderr, tty };
    let url = verbs.streaming.exec(wanted).map_err(|error| refused(&error))?;
    Ok(ExecResponse { url })
}
