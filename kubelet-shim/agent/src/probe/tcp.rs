//! A TCP connection.

use std::time::Duration;

use kubelet_shim_reconcile::ProbeResult;
use tokio::net::TcpStream;

use super::Verdict;

pub(super) async fn probe(host: &str, port: u16, timeout: Duration) -> Verdict {
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => {
            drop(stream);
            (ProbeResult::Success, String::new())
        }
        Ok(Err(error)) => (ProbeResult::Failure, format!("dial tcp {host}:{port}: {error}")),
        Err(_) => (ProbeResult::Failure, format!("dial tcp {host}:{port}: timed out after {} s", timeout.as_secs())),
    }
}
