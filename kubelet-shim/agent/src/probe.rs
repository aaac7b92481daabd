//! Probes and hooks: one file per way.

use std::{fmt::Write as _, time::Duration};

use kubelet_shim_manifest::{Handler, Probe, ProbeHandler};
use kubelet_shim_reconcile::ProbeResult;

use crate::cri::Cri;

mod exec;
mod grpc;
mod http;
mod tcp;

pub(crate) use http::Client;

/// Longest piece of a probe's output that an event repeats, as in the kubelet.
const OUTPUT_BYTES_MAX: usize = 1024;

/// How it went, and what to tell about it.
pub(crate) type Verdict = (ProbeResult, String);

/// Whom to probe.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The container's id.
    pub(crate) id: String,
    /// The pod's address.
    pub(crate) ip: String,
}

/// Carries a probe out once; never takes longer than its timeout and a little.
pub(crate) async fn probe(cri: &Cri, client: &Client, target: &Target, probe: &Probe) -> Verdict {
    match &probe.handler {
        ProbeHandler::Exec(command) => exec::probe(cri, &target.id, command, probe.timeout).await,
        ProbeHandler::Http(get) => client.probe(get, &target.ip, probe.timeout).await,
        ProbeHandler::Tcp { host, port } => {
            tcp::probe(host.as_deref().unwrap_or(&target.ip), *port, probe.timeout).await
        }
        ProbeHandler::Grpc { port, service } => grpc::probe(&target.ip, *port, service, probe.timeout).await,
    }
}

/// Runs a hook; `None` is no limit.
pub(crate) async fn hook(
    cri: &Cri,
    client: &Client,
    target: &Target,
    handler: &Handler,
    timeout: Option<Duration>,
) -> Result<(), String> {
    match handler {
        Handler::Exec(command) => match cri.exec(&target.id, command, timeout).await {
            Ok(answer) if answer.exit_code == 0 => Ok(()),
            Ok(answer) => {
                let output = exec::output(&answer);
                Err(format!("command {command:?} ended with code {}: {output}", answer.exit_code))
            }
            Err(status) => Err(format!("command {command:?} failed: {}", status.message())),
        },
        Handler::Http(get) => {
            // The kubelet's limit for hooks is the client's default.
            let limit = timeout.unwrap_or(Duration::from_secs(600));
            match client.probe(get, &target.ip, limit).await {
                (ProbeResult::Success, _) => Ok(()),
                (_, message) => Err(message),
            }
        }
        Handler::Sleep(time) => {
            tokio::time::sleep(*time).await;
            Ok(())
        }
    }
}

/// Output fit for an event: short, on one line, without control characters.
fn tidy(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(&bytes[..bytes.len().min(OUTPUT_BYTES_MAX)]).trim().chars() {
        match c {
            '\n' | '\t' | '\r' => text.push(' '),
            c if c.is_control() => drop(write!(text, "\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}
