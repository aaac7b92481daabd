use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use super::*;

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn spdy(family: Family, protocols: &[&str]) -> Result<Agreed, Refused> {
    let mut lines = vec![("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    lines.extend(protocols.iter().map(|protocol| ("x-stream-protocol-version", *protocol)));
    negotiate(family, &Method::POST, &headers(&lines))
}

fn web(family: Family, protocols: &[&str]) -> Result<Agreed, Refused> {
    let mut lines = vec![
        ("connection", "keep-alive, upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    lines.extend(protocols.iter().map(|protocol| ("sec-websocket-protocol", *protocol)));
    negotiate(family, &Method::GET, &headers(&lines))
}

/// The protocol's name in the answer, how the session is carried, and how its end is told.
fn agreed(answer: Result<Agreed, Refused>) -> (String, Transport, Report) {
    let agreed = answer.unwrap();
    let name = agreed.headers.iter().find(|(name, _)| name == PROTOCOL || name == SUBPROTOCOL);
    (name.map_or("", |(_, value)| value.to_str().unwrap()).to_owned(), agreed.transport, agreed.report)
}

#[test]
fn spdy_is_negotiated_as_the_kubelet_does() {
    let check = |protocols: &[&str], name: &str, report: Report| {
        assert_eq!(agreed(spdy(Family::Remote, protocols)), (name.to_owned(), SPDY_PLAIN, report), "{protocols:?}");
    };
    // client-go's offer, in one header each and in a list.
    let all = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
    check(&all, "v4.channel.k8s.io", Report::Status);
    check(&[&all.join(", ")], "v4.channel.k8s.io", Report::Status);
    check(&["v3.channel.k8s.io", "v4.channel.k8s.io"], "v3.channel.k8s.io", Report::Text);
    check(&["v2.channel.k8s.io"], "v2.channel.k8s.io", Report::Text);
    check(&["channel.k8s.io"], "channel.k8s.io", Report::Text);
    check(&["v5.channel.k8s.io"], "v5.channel.k8s.io", Report::Status);
    let forward = agreed(spdy(Family::PortForward, &["portforward.k8s.io"]));
    assert_eq!(forward, ("portforward.k8s.io".to_owned(), SPDY_PLAIN, Report::Text));
}

#[test]
fn websocket_is_negotiated_by_the_clients_order() {
    let check = |protocols: &[&str], name: &str, transport: Transport, report: Report| {
        assert_eq!(agreed(web(Family::Remote, protocols)), (name.to_owned(), transport, report), "{protocols:?}");
    };
    check(&["v5.channel.k8s.io"], "v5.channel.k8s.io", CLOSABLE, Report::Status);
    check(&["v9.channel.k8s.io, v4.channel.k8s.io, v5.channel.k8s.io"], "v4.channel.k8s.io", BINARY, Report::Status);
    check(&["v4.base64.channel.k8s.io"], "v4.base64.channel.k8s.io", BASE64, Report::Status);
    check(&["base64.channel.k8s.io"], "base64.channel.k8s.io", BASE64, Report::Text);
    check(&[], "", BINARY, Report::Text);
    let (name, transport, _) = agreed(web(Family::PortForward, &["SPDY/3.1+portforward.k8s.io"]));
    assert_eq!((&*name, transport), ("SPDY/3.1+portforward.k8s.io", Transport::Spdy(Carrier::WebSocket)));
    let accept = web(Family::Remote, &[]).unwrap().headers;
    assert!(accept.contains(&(ACCEPT, HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))));
}

#[test]
fn what_is_not_spoken_is_refused_with_a_sentence() {
    let check = |answer: Result<Agreed, Refused>, status: StatusCode, text: &str| {
        let refused = answer.expect_err(text);
        assert_eq!(refused.status, status, "{}", refused.text);
        assert!(refused.text.contains(text), "{}", refused.text);
    };
    let plain = negotiate(Family::Remote, &Method::GET, &headers(&[]));
    check(plain, StatusCode::BAD_REQUEST, "takes an upgrade");
    let h2c = headers(&[("connection", "upgrade"), ("upgrade", "h2c")]);
    check(negotiate(Family::Remote, &Method::GET, &h2c), StatusCode::BAD_REQUEST, "\"h2c\"");
    check(spdy(Family::Remote, &[]), StatusCode::BAD_REQUEST, "X-Stream-Protocol-Version");
    check(spdy(Family::Remote, &["v7.channel.k8s.io"]), StatusCode::FORBIDDEN, "v7.channel.k8s.io, the server v4");
    let accepted = spdy(Family::PortForward, &["v4.channel.k8s.io"]).unwrap_err();
    assert_eq!(accepted.headers, [(ACCEPTED, HeaderValue::from_static("portforward.k8s.io"))]);
    check(web(Family::PortForward, &["v5.channel.k8s.io"]), StatusCode::FORBIDDEN, "v5.channel.k8s.io");
    let old = headers(&[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "8")]);
    check(negotiate(Family::Remote, &Method::GET, &old), StatusCode::UPGRADE_REQUIRED, "version 13");
    let keyless = headers(&[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")]);
    check(negotiate(Family::Remote, &Method::GET, &keyless), StatusCode::BAD_REQUEST, "Sec-WebSocket-Key");
    check(negotiate(Family::Remote, &Method::POST, &keyless), StatusCode::METHOD_NOT_ALLOWED, "GET");
}
