//! PortForward: a URL under which a client reaches ports of a pod.

use runtime_cri_api::v1::{PortForwardRequest, PortForwardResponse};
use tonic::Status;

use super::RuntimeVerbs;
use crate::{
    error::{engine, invalid},
    streams::refused,
};

/// Most ports of one request; a client that wants more asks again.
const PORTS_MAX: usize = 1024;

pub(super) fn answer(verbs: &RuntimeVerbs, request: PortForwardRequest) -> Result<PortForwardResponse, Status> {
    let PortForwardRequest { pod_sandbox_id, port } = request;
    if port.len() > PORTS_MAX {
        return Err(invalid("port", format!("names more than {PORTS_MAX}")));
    }
    let ports = port
        .into_iter()
        .map(|port| match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(invalid("port", format!("{port} is no port"))),
        })
        .collect::<Result<Vec<u16>, Status>>()?;
    let id = verbs.engine.find_sandbox(&pod_sandbox_id).map_err(|error| engine(&error))?;
    verbs.engine.check_ready(&id).map_err(|error| engine(&error))?;
    let wanted = runtime_streaming::PortForwardRequest { sandbox: id.to_string(), ports };
    let url = verbs.streaming.port_forward(wanted).map_err(|error| refused(&error))?;
    Ok(PortForwardResponse { url })
}
