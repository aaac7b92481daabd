//! Probes and hooks.

use std::time::Duration;

use crate::{
    pod::{Handler, HttpGet, Lifecycle, Port, Probe, ProbeHandler, Scheme},
    tree::{Fields, Value},
};

/// Most own headers of a probe.
const HEADERS_MAX: usize = 50;
/// Largest threshold; a pod that fails so often is never judged.
const THRESHOLD_MAX: i64 = 1_000_000;

/// Which probe is read: the rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

pub(super) fn probe(value: Option<Value<'_>>, ports: &[Port], kind: Kind) -> Option<Probe> {
    let value = value?;
    let mut fields = value.fields()?;
    let mut handlers = Vec::new();
    if let Some(exec) = fields.take("exec") {
        handlers.push(command(&exec).map(ProbeHandler::Exec));
    }
    if let Some(http) = fields.take("httpGet") {
        handlers.push(http_get(&http, ports).map(ProbeHandler::Http));
    }
    if let Some(tcp) = fields.take("tcpSocket") {
        handlers.push(tcp_socket(&tcp, ports));
    }
    if let Some(grpc) = fields.take("grpc") {
        handlers.push(self::grpc(&grpc));
    }
    if handlers.len() != 1 {
        value.wrong("needs exactly one of exec, httpGet, tcpSocket and grpc");
    }
    let success = fields.take("successThreshold");
    let success_threshold = success.as_ref().and_then(|value| value.integer(1, THRESHOLD_MAX)).unwrap_or(1);
    if let Some(success) = success.filter(|_| success_threshold != 1 && kind != Kind::Readiness) {
        success.wrong("must be 1 for startup and liveness probes");
    }
    let failure = fields.take("failureThreshold").and_then(|value| value.integer(1, THRESHOLD_MAX));
    let grace_field = fields.take("terminationGracePeriodSeconds");
    if let Some(grace) = grace_field.as_ref().filter(|_| kind == Kind::Readiness) {
        grace.wrong("a readiness probe never ends a container, so it has no grace; remove it");
    }
    let grace = grace_field.and_then(|value| value.integer(1, super::SECONDS_MAX));
    let probe = Probe {
        handler: handlers.into_iter().next().flatten().unwrap_or_else(|| ProbeHandler::Exec(Vec::new())),
        initial_delay: super::seconds(&mut fields, "initialDelaySeconds", 0).unwrap_or(Duration::ZERO),
        period: positive(&mut fields, "periodSeconds", 10),
        timeout: positive(&mut fields, "timeoutSeconds", 1),
        success_threshold: u32::try_from(success_threshold).unwrap_or(1),
        failure_threshold: failure.and_then(|count| u32::try_from(count).ok()).unwrap_or(3),
        grace: grace.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
    };
    fields.finish(&[]);
    Some(probe)
}

/// Zero means the default, as the API server has it.
fn positive(fields: &mut Fields<'_>, name: &'static str, default: u64) -> Duration {
    super::seconds(fields, name, 0).filter(|value| !value.is_zero()).unwrap_or(Duration::from_secs(default))
}

fn command(value: &Value<'_>) -> Option<Vec<String>> {
    let mut fields = value.fields()?;
    let list = fields.need("command");
    let words = list.as_ref().map(|value| value.texts()).unwrap_or_default();
    fields.finish(&[]);
    let list = list?;
    if words.is_empty() {
        list.wrong("must not be empty");
        return None;
    }
    Some(words)
}

fn port(fields: &mut Fields<'_>, ports: &[Port]) -> Option<u16> {
    let value = fields.need("port")?;
    let text = value.scalar()?;
    if let Ok(number) = text.parse::<u16>()
        && number > 0
    {
        return Some(number);
    }
    if let Some(port) = ports.iter().find(|port| port.name.as_deref() == Some(&text)) {
        return Some(port.container);
    }
    value.wrong(format!(
        "`{}` is neither a port from 1 to 65535 nor the name of one of the container's ports",
        crate::words::shortened(&text)
    ));
    None
}

fn http_get(value: &Value<'_>, ports: &[Port]) -> Option<HttpGet> {
    let mut fields = value.fields()?;
    let port = port(&mut fields, ports);
    let host = fields.take("host").and_then(|value| host(&value));
    let path = fields.take("path").and_then(|value| Some((value.text()?, value)));
    let path = match path {
        None | Some(("", _)) => "/".to_owned(),
        Some((path, value)) => {
            if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
                value.wrong("must not hold spaces or control characters");
            }
            if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
        }
    };
    let words = [("HTTP", Scheme::Http), ("HTTPS", Scheme::Https)];
    let scheme = fields.take("scheme").and_then(|value| value.word(&words)).unwrap_or(Scheme::Http);
    let headers = fields.take("httpHeaders").map(|value| headers(&value)).unwrap_or_default();
    fields.finish(&[]);
    Some(HttpGet { host, port: port?, path, scheme, headers })
}

fn host(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.parse::<std::net::IpAddr>().is_ok() || crate::words::is_subdomain(&text.to_ascii_lowercase()) {
        return Some(text.to_owned());
    }
    value.wrong("must be an IP address or a host name");
    None
}

fn headers(value: &Value<'_>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for item in value.list().into_iter().take(HEADERS_MAX) {
        let Some(mut fields) = item.fields() else { continue };
        let name = fields.need("name").and_then(|value| {
            let text = value.text()?;
            let good =
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
            if !good {
                value.wrong("is not the name of an HTTP header");
            }
            good.then(|| text.to_owned())
        });
        let content = fields.take("value").map_or(Some(""), |value| {
            let text = value.text()?;
            let good = text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
            if !good {
                value.wrong("must not hold control characters");
            }
            good.then_some(text)
        });
        fields.finish(&[]);
        headers.extend(name.zip(content.map(str::to_owned)));
    }
    headers
}

fn tcp_socket(value: &Value<'_>, ports: &[Port]) -> Option<ProbeHandler> {
    let mut fields = value.fields()?;
    let port = port(&mut fields, ports);
    let host = fields.take("host").and_then(|value| host(&value));
    fields.finish(&[]);
    Some(ProbeHandler::Tcp { host, port: port? })
}

fn grpc(value: &Value<'_>) -> Option<ProbeHandler> {
    let mut fields = value.fields()?;
    let port = fields.need("port").and_then(|value| value.integer(1, 65_535));
    let service = fields.take("service").and_then(|value| value.text().map(str::to_owned));
    fields.finish(&[]);
    let port = u16::try_from(port?).ok()?;
    Some(ProbeHandler::Grpc { port, service: service.unwrap_or_default() })
}

pub(super) fn lifecycle(value: Option<Value<'_>>, ports: &[Port]) -> Lifecycle {
    let Some(mut fields) = value.and_then(|value| value.fields()) else { return Lifecycle::default() };
    let post_start = fields.take("postStart").and_then(|value| hook(&value, ports));
    let pre_stop = fields.take("preStop").and_then(|value| hook(&value, ports));
    fields.finish(&[("stopSignal", "Podwright uses the image's stop signal")]);
    Lifecycle { post_start, pre_stop }
}

fn hook(value: &Value<'_>, ports: &[Port]) -> Option<Handler> {
    let mut fields = value.fields()?;
    let mut handlers = Vec::new();
    if let Some(exec) = fields.take("exec") {
        handlers.push(command(&exec).map(Handler::Exec));
    }
    if let Some(http) = fields.take("httpGet") {
        handlers.push(http_get(&http, ports).map(Handler::Http));
    }
    if let Some(sleep) = fields.take("sleep") {
        handlers.push(sleep.fields().and_then(|mut fields| {
            fields.need("seconds");
            let seconds = super::seconds(&mut fields, "seconds", 0);
            fields.finish(&[]);
            seconds.map(Handler::Sleep)
        }));
    }
    if handlers.len() != 1 {
        value.wrong("needs exactly one of exec, httpGet and sleep");
    }
    fields.finish(&[("tcpSocket", "Kubernetes doesn't run it either; use exec or httpGet")]);
    handlers.into_iter().next().flatten()
}
