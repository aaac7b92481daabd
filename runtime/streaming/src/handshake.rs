//! Which protocol a client and we speak. Pure: headers in, headers out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::{Method, StatusCode};

use crate::channels::{Closes, Coding};
use crate::link::Carrier;
use crate::{spdy, websocket};

pub(crate) const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const SUBPROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

pub(crate) const SPDY: &str = "SPDY/3.1";
const PORT_FORWARD: &str = "portforward.k8s.io";

/// The two families of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Exec and attach.
    Remote,
    PortForward,
}

/// What goes over the connection after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Spdy(Carrier),
    Channels { coding: Coding, closes: Closes },
}

impl Transport {
    /// A frame that a client takes and forgets.
    pub(crate) fn probe(self) -> Vec<u8> {
        match self {
            // Not a ping: client-go answers it from the task that also takes our data, and must not wait there.
            Transport::Spdy(Carrier::Plain) => spdy::settings().to_vec(),
            Transport::Spdy(Carrier::WebSocket) | Transport::Channels { .. } => websocket::pong(&[]),
        }
    }
}

/// How the end of an exec or attach is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// Failures alone, as text: before `v4.channel.k8s.io`.
    Text,
    /// A `metav1.Status`, with the exit code.
    Status,
}

/// What was agreed.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) transport: Transport,
    pub(crate) report: Report,
    /// For the response 101.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why not.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Protocols of one transport, best first for the case that a client has no order of its own (it always has).
type Table = &'static [(&'static str, Transport, Report)];

const SPDY_PLAIN: Transport = Transport::Spdy(Carrier::Plain);
const BINARY: Transport = Transport::Channels { coding: Coding::Binary, closes: Closes::Never };
const BASE64: Transport = Transport::Channels { coding: Coding::Base64, closes: Closes::Never };
const CLOSABLE: Transport = Transport::Channels { coding: Coding::Binary, closes: Closes::Channels };

const REMOTE_SPDY: Table = &[
    ("v4.channel.k8s.io", SPDY_PLAIN, Report::Status),
    ("v3.channel.k8s.io", SPDY_PLAIN, Report::Text),
    ("v2.channel.k8s.io", SPDY_PLAIN, Report::Text),
    ("channel.k8s.io", SPDY_PLAIN, Report::Text),
];
/// v5 adds to v4 what SPDY has of its own. The kubelet's server doesn't know it, so clients that offer others as well get
/// one of those, as they are used to.
const REMOTE_SPDY_LAST: Table = &[("v5.channel.k8s.io", SPDY_PLAIN, Report::Status)];
const REMOTE_WEBSOCKET: Table = &[
    ("v5.channel.k8s.io", CLOSABLE, Report::Status),
    ("v4.channel.k8s.io", BINARY, Report::Status),
    ("v4.base64.channel.k8s.io", BASE64, Report::Status),
    ("channel.k8s.io", BINARY, Report::Text),
    ("base64.channel.k8s.io", BASE64, Report::Text),
];
const FORWARD_SPDY: Table = &[(PORT_FORWARD, SPDY_PLAIN, Report::Text)];
const FORWARD_WEBSOCKET: Table = &[
    ("SPDY/3.1+portforward.k8s.io", Transport::Spdy(Carrier::WebSocket), Report::Text),
    ("v4.channel.k8s.io", BINARY, Report::Text),
    ("v4.base64.channel.k8s.io", BASE64, Report::Text),
];

/// Agrees with the client on a protocol.
pub(crate) fn negotiate(family: Family, method: &Method, headers: &HeaderMap) -> Result<Agreed, Refused> {
    if !values(headers, &CONNECTION).any(|value| value.eq_ignore_ascii_case("upgrade")) {
        return Err(refused(
            StatusCode::BAD_REQUEST,
            format!("this URL takes an upgrade to {SPDY} or websocket alone"),
        ));
    }
    let upgrades: Vec<&str> = values(headers, &UPGRADE).collect();
    if upgrades.iter().any(|upgrade| upgrade.eq_ignore_ascii_case("websocket")) {
        return websocket(family, method, headers);
    }
    if !upgrades.iter().any(|upgrade| upgrade.eq_ignore_ascii_case(SPDY)) {
        return Err(refused(
            StatusCode::BAD_REQUEST,
            format!("cannot upgrade to {:?}: {SPDY} and websocket are spoken here", upgrades.join(", ")),
        ));
    }
    let offered: Vec<&str> = values(headers, &PROTOCOL).collect();
    if offered.is_empty() {
        return Err(refused(
            StatusCode::BAD_REQUEST,
            "cannot upgrade: the header X-Stream-Protocol-Version is missing or empty".to_owned(),
        ));
    }
    let (table, last) = match family {
        Family::Remote => (REMOTE_SPDY, REMOTE_SPDY_LAST),
        Family::PortForward => (FORWARD_SPDY, FORWARD_SPDY),
    };
    let Some((name, transport, report)) = choose(&offered, table).or_else(|| choose(&offered, last)) else {
        let mut refused = disagreed(&offered, table);
        refused.headers = table.iter().map(|(name, ..)| (ACCEPTED, HeaderValue::from_static(name))).collect();
        return Err(refused);
    };
    Ok(Agreed {
        transport,
        report,
        headers: vec![
            (CONNECTION, HeaderValue::from_static("Upgrade")),
            (UPGRADE, HeaderValue::from_static(SPDY)),
            (PROTOCOL, HeaderValue::from_static(name)),
        ],
    })
}

fn websocket(family: Family, method: &Method, headers: &HeaderMap) -> Result<Agreed, Refused> {
    if method != Method::GET {
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET".to_owned()));
    }
    if headers.get(WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut refused = refused(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is spoken here".to_owned());
        refused.headers.push((WEBSOCKET_VERSION, HeaderValue::from_static("13")));
        return Err(refused);
    }
    let key = headers.get(KEY).map(HeaderValue::as_bytes).filter(|key| is_key(key)).ok_or_else(|| {
        refused(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing or not 16 bytes in base64".to_owned())
    })?;
    let accept = HeaderValue::from_str(&websocket::accept(key)).expect("base64 is a header's value");
    let mut answer = vec![
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (ACCEPT, accept),
    ];
    let table = match family {
        Family::Remote => REMOTE_WEBSOCKET,
        Family::PortForward => FORWARD_WEBSOCKET,
    };
    let offered: Vec<&str> = values(headers, &SUBPROTOCOL).collect();
    if offered.is_empty() {
        // The oldest clients name none.
        return Ok(Agreed { transport: BINARY, report: Report::Text, headers: answer });
    }
    let (name, transport, report) = choose(&offered, table).ok_or_else(|| disagreed(&offered, table))?;
    answer.push((SUBPROTOCOL, HeaderValue::from_static(name)));
    Ok(Agreed { transport, report, headers: answer })
}

/// The first of the client's that we speak.
fn choose(offered: &[&str], table: Table) -> Option<(&'static str, Transport, Report)> {
    offered.iter().find_map(|offer| table.iter().find(|(name, ..)| name == offer).copied())
}

fn disagreed(offered: &[&str], table: Table) -> Refused {
    let spoken: Vec<&str> = table.iter().map(|(name, ..)| *name).collect();
    let text = format!(
        "cannot agree on a protocol: the client speaks {}, the server {}",
        offered.join(", "),
        spoken.join(", ")
    );
    refused(StatusCode::FORBIDDEN, text)
}

fn refused(status: StatusCode, text: String) -> Refused {
    Refused { status, text, headers: Vec::new() }
}

/// All values of a header, which may be there often and hold lists.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|key| key.len() == 16)
}

#[cfg(test)]
mod tests;
