//! Exec: a URL under which a client runs a command.

use runtime_cri_api::v1::{ExecRequest, ExecResponse};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{
    error::{engine, invalid},
    streams::{check, refused},
};

pub(super) fn answer(verbs: &RuntimeVerbs, request: ExecRequest) -> Result<ExecResponse, Status> {
    let ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    check(stdin, stdout, stderr, tty)?;
    if cmd.is_empty() {
        return Err(invalid("cmd", "is empty: there is no program to execute"));
    }
    let id = verbs.engine.find_container(&container_id).map_err(|error| engine(&error))?;
    verbs.engine.check_running(&id).map_err(|error| engine(&error))?;
    let wanted = runtime_streaming::ExecRequest { container: id.to_string(), command: cmd, stdin, stdout, stderr, tty };
    let url = verbs.streaming.exec(wanted).map_err(|error| refused(&error))?;
    Ok(ExecResponse { url })
}
