//! `grpc.health.v1.Health/Check`.

use std::time::Duration;

use kubelet_shim_reconcile::ProbeResult;
use tonic::{Code, Request, Status, client::Grpc, transport::Endpoint};

use super::Verdict;

/// The request of the health protocol.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// Its answer; 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

pub(super) async fn probe(ip: &str, port: u16, service: &str, timeout: Duration) -> Verdict {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    match tokio::time::timeout(timeout, check(&format!("http://{host}:{port}"), service)).await {
        Ok(Ok(SERVING)) => (ProbeResult::Success, String::new()),
        Ok(Ok(status)) => (ProbeResult::Failure, format!("service unhealthy (responded with status {status})")),
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            (ProbeResult::Failure, "this server does not implement the grpc health protocol".to_owned())
        }
        Ok(Err(status)) => (ProbeResult::Failure, format!("health rpc failed: {}", status.message())),
        Err(_) => {
            (ProbeResult::Failure, format!("timeout: health rpc did not complete within {} s", timeout.as_secs()))
        }
    }
}

async fn check(uri: &str, service: &str) -> Result<i32, Status> {
    let endpoint =
        Endpoint::from_shared(uri.to_owned()).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    grpc.unary(request, path, codec).await.map(|answer| answer.into_inner().status)
}
