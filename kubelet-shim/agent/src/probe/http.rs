//! An HTTP GET, on the wire as the kubelet's: a fresh connection each time, `Connection: close`, its user agent.

use std::{net::IpAddr, sync::OnceLock, time::Duration};

use kubelet_shim_manifest::{HttpGet, Scheme};
use kubelet_shim_reconcile::ProbeResult;
use reqwest::{
    header::{ACCEPT, CONNECTION, HeaderMap, HeaderName, HeaderValue, USER_AGENT},
    redirect::{Attempt, Policy},
};

use super::{OUTPUT_BYTES_MAX, Verdict, tidy};

/// Programs look for this name in their logs and rules.
const AGENT: &str = "kube-probe/1.36";
/// Most redirects that are followed.
const REDIRECTS_MAX: usize = 10;

/// The one client of all probes. It is made by the first probe; it holds no connection between two.
#[derive(Debug, Default)]
pub(crate) struct Client(OnceLock<Result<reqwest::Client, String>>);

impl Client {
    fn get(&self) -> Result<&reqwest::Client, String> {
        let made = self.0.get_or_init(|| {
            reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .no_proxy()
                .http1_only()
                .redirect(Policy::custom(follow))
                // Certificates aren't verified, as in Kubernetes: the probe asks whether the container answers.
                .tls_danger_accept_invalid_certs(true)
                .build()
                .map_err(|error| error.to_string())
        });
        made.as_ref().map_err(Clone::clone)
    }

    pub(crate) async fn probe(&self, get: &HttpGet, ip: &str, timeout: Duration) -> Verdict {
        let client = match self.get() {
            Ok(client) => client,
            Err(error) => return (ProbeResult::Error, format!("no HTTP client: {error}")),
        };
        let url = url(get, ip);
        let request = client.get(&url).headers(headers(get)).timeout(timeout);
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_timeout() => {
                return (ProbeResult::Failure, format!("Get \"{url}\": timed out after {} s", timeout.as_secs()));
            }
            Err(error) => return (ProbeResult::Failure, format!("Get \"{url}\": {}", root(&error))),
        };
        let code = answer.status().as_u16();
        match code {
            200..300 => (ProbeResult::Success, String::new()),
            300..400 => (ProbeResult::Success, format!("probe answered {code}, which counts as success")),
            _ => {
                let mut body = Vec::new();
                while body.len() < OUTPUT_BYTES_MAX
                    && let Ok(Some(chunk)) = answer.chunk().await
                {
                    body.extend_from_slice(&chunk);
                }
                (
                    ProbeResult::Failure,
                    format!("HTTP probe failed with statuscode: {code} {}", tidy(&body)).trim().to_owned(),
                )
            }
        }
    }
}

/// A redirect to the same host is followed; one that leads elsewhere is an answer, and a success.
fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let is_same = attempt.previous().first().is_some_and(|first| first.host_str() == attempt.url().host_str());
    if is_same && attempt.previous().len() <= REDIRECTS_MAX { attempt.follow() } else { attempt.stop() }
}

fn url(get: &HttpGet, ip: &str) -> String {
    let scheme = match get.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let host = get.host.as_deref().unwrap_or(ip);
    let host = if matches!(host.parse(), Ok(IpAddr::V6(_))) { format!("[{host}]") } else { host.to_owned() };
    format!("{scheme}://{host}:{}{}", get.port, get.path)
}

fn headers(get: &HttpGet) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &get.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    }
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
    headers
}

/// The innermost cause; the outer ones only repeat the address.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
