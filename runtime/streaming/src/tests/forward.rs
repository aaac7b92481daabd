use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{request, web_headers};
use super::fake::{echo, listen};
use super::{Got, Spdy, Web, World};
use crate::spdy::{Frame, reset};
use crate::{Limits, websocket};

const BINARY: u8 = 2;
const FORWARD: &str = "portforward.k8s.io";

/// Opens a connection's two streams; the data stream.
async fn open(client: &mut Spdy, port: u16, id: &str) -> (u32, u32) {
    let port = port.to_string();
    let error = client.open(&[("streamtype", "error"), ("port", &port), ("requestid", id)]).await;
    (error, client.open(&[("streamtype", "data"), ("port", &port), ("requestid", id)]).await)
}

#[tokio::test]
async fn connections_end_alone_and_half_closes_go_through() {
    let world = World::new().await;
    let (port, mut client) = (echo().await, Spdy::connect(&world.forward(&[]), FORWARD).await);
    let (error, data) = open(&mut client, port, "0").await;
    client.send(error, b"", true).await;
    client.send(data, b"ping", false).await;
    assert_eq!(client.next().await, Some(Got::Data { stream: data, bytes: b"ping".to_vec(), fin: false }));
    client.send(data, b"last", true).await;
    assert_eq!(client.next().await, Some(Got::Data { stream: data, bytes: b"last".to_vec(), fin: false }));
    assert_eq!(client.next().await, Some(Got::Data { stream: data, bytes: Vec::new(), fin: true }));
    assert_eq!(client.next().await, Some(Got::Data { stream: error, bytes: Vec::new(), fin: true }));
    // Nobody listens: told, and the session lives on.
    let refused = listen().await.0;
    let (error, data) = open(&mut client, refused, "1").await;
    let Some(Got::Data { stream, bytes, .. }) = client.next().await else { panic!("an error") };
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(stream, error);
    assert!(text.starts_with(&format!("error forwarding port {refused} to pod pod: connect to")), "{text}");
    assert_eq!(client.next().await, Some(Got::Data { stream: error, bytes: Vec::new(), fin: true }));
    assert_eq!(client.next().await, Some(Got::Frame(Frame::Reset { stream: data, status: 5 })));
    let (_, data) = open(&mut client, port, "2").await;
    client.send(data, b"alive", false).await;
    assert_eq!(client.next().await, Some(Got::Data { stream: data, bytes: b"alive".to_vec(), fin: false }));
    drop(client);
    world.settled().await;
}

#[tokio::test]
async fn the_pods_half_close_leaves_the_other_way_open() {
    let world = World::new().await;
    let ((port, listener), mut client) = (listen().await, Spdy::connect(&world.forward(&[]), FORWARD).await);
    let (error, data) = open(&mut client, port, "0").await;
    let mut pod = listener.accept().await.unwrap().0;
    pod.write_all(b"bye").await.unwrap();
    pod.shutdown().await.unwrap();
    assert_eq!(client.next().await, Some(Got::Data { stream: data, bytes: b"bye".to_vec(), fin: false }));
    assert_eq!(client.next().await, Some(Got::Data { stream: data, bytes: Vec::new(), fin: true }));
    client.send(data, b"still sent", false).await;
    client.send(data, b"", true).await;
    let mut got = String::new();
    pod.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "still sent");
    assert_eq!(client.next().await, Some(Got::Data { stream: error, bytes: Vec::new(), fin: true }));
}

#[tokio::test]
async fn a_reset_on_either_side_ends_one_connection() {
    let world = World::new().await;
    let ((port, listener), mut client) = (listen().await, Spdy::connect(&world.forward(&[]), FORWARD).await);
    let (error, data) = open(&mut client, port, "0").await;
    let mut pod = listener.accept().await.unwrap().0;
    client.send(data, b"x", false).await;
    pod.read_u8().await.unwrap();
    pod.set_zero_linger().unwrap();
    drop(pod);
    assert_eq!(client.next().await, Some(Got::Frame(Frame::Reset { stream: data, status: 5 })));
    assert_eq!(client.next().await, Some(Got::Data { stream: error, bytes: Vec::new(), fin: true }), "no error text");
    // The client's.
    let (error, data) = open(&mut client, port, "1").await;
    let mut pod = listener.accept().await.unwrap().0;
    client.raw(&reset(data, 5)).await;
    assert_eq!(pod.read(&mut [0; 10]).await.unwrap_or(0), 0, "the pod sees the end");
    assert_eq!(client.next().await, Some(Got::Data { stream: error, bytes: Vec::new(), fin: true }));
    drop(client);
    world.settled().await;
}

#[tokio::test]
async fn many_connections_at_once_and_no_more_than_the_limit() {
    let world = World::new().await;
    let (port, mut client) = (echo().await, Spdy::connect(&world.forward(&[]), FORWARD).await);
    let mut streams = Vec::new();
    for id in 0..256 {
        let (error, data) = open(&mut client, port, &id.to_string()).await;
        streams.push(data);
        let _ = error;
        client.send(data, format!("to {id}").as_bytes(), false).await;
        assert!(matches!(client.next().await, Some(Got::Data { stream, .. }) if stream == data));
    }
    let (stream, frame) = client.syn_stream(&[("streamtype", "error"), ("port", "80"), ("requestid", "x")]);
    client.raw(&frame).await;
    assert_eq!(client.next().await, Some(Got::Frame(Frame::Reset { stream, status: 3 })));
    assert_eq!(world.fake.live(), 256);
    // One ends, and there is room again.
    client.send(streams[7], b"", true).await;
    while !matches!(client.next().await, Some(Got::Data { stream, fin: true, .. }) if stream == streams[7] - 2) {}
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (_, data) = open(&mut client, port, "y").await;
    client.send(data, b"room", false).await;
    assert_eq!(client.next().await, Some(Got::Data { stream: data, bytes: b"room".to_vec(), fin: false }));
    drop(client);
    world.settled().await;
}

#[tokio::test]
async fn connections_of_all_sessions_have_one_limit() {
    let world = World::with(Limits { connections_max: 2, ..Limits::default() }).await;
    let port = echo().await;
    let mut first = Spdy::connect(&world.forward(&[]), FORWARD).await;
    let mut second = Spdy::connect(&world.forward(&[]), FORWARD).await;
    let check = async |client: &mut Spdy, id: &str, room: bool| {
        let (error, data) = open(client, port, id).await;
        client.send(data, b"hello", false).await;
        let Some(Got::Data { stream, bytes, .. }) = client.next().await else { panic!("an answer") };
        if room {
            assert_eq!((stream, &*bytes), (data, &b"hello"[..]));
            return data;
        }
        let text = String::from_utf8(bytes).unwrap();
        let expected = format!(
            "error forwarding port {port} to pod pod: 2 connections into pods are open, which is the limit; end some or try \
             again later"
        );
        assert_eq!((stream, text), (error, expected));
        assert_eq!(client.next().await, Some(Got::Data { stream: error, bytes: Vec::new(), fin: true }));
        assert_eq!(client.next().await, Some(Got::Frame(Frame::Reset { stream: data, status: 5 })));
        data
    };
    let one = check(&mut first, "0", true).await;
    check(&mut second, "0", true).await;
    check(&mut second, "1", false).await;
    let mut web = Web::connect(&world.forward(&[port]), "v4.channel.k8s.io").await;
    let told = async |web: &mut Web| web.next().await.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned());
    let (_, _, text) = (told(&mut web).await, told(&mut web).await, told(&mut web).await.unwrap());
    assert!(text.starts_with('\u{1}') && text.contains("2 connections into pods are open"), "{text:?}");
    // One ends, and there is room in every session.
    first.send(one, b"", true).await;
    while world.streaming.connections_free() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    check(&mut second, "2", true).await;
    drop((first, second, web));
    world.settled().await;
    assert_eq!(world.streaming.connections_free(), 2);
}

#[tokio::test]
async fn ports_that_have_no_channels_are_refused() {
    let world = World::new().await;
    let ports: Vec<u16> = (1..=129).collect();
    let check = async |url: &str, protocol: &str, status: &str, words: &str| {
        let (mut tcp, head) = request(url, &web_headers(protocol)).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        let mut body = String::new();
        if status != "101" {
            tcp.read_to_string(&mut body).await.unwrap();
        }
        assert!(body.contains(words), "{body}");
    };
    let url = world.forward(&ports);
    check(&url, "v4.channel.k8s.io", "400", "names 129 ports, and WebSocket channels have room for 128").await;
    check(&url, "v4.base64.channel.k8s.io", "400", "names 129 ports").await;
    // The URL is still good for who names ports with the streams.
    check(&url, "SPDY/3.1+portforward.k8s.io", "101", "").await;
    check(&world.forward(&[]), "v4.channel.k8s.io", "400", "names no port").await;
    let mut web = Web::connect(&world.forward(&ports[..128]), "v4.channel.k8s.io").await;
    let mut announced = 0;
    while announced < 256 {
        // In between, nobody listens on most.
        let (_, message) = web.next().await.unwrap();
        announced += usize::from(message.len() == 3);
    }
    drop(web);
    world.settled().await;
}

#[tokio::test]
async fn old_clients_and_strange_headers() {
    let world = World::new().await;
    let (port, mut client) = (echo().await.to_string(), Spdy::connect(&world.forward(&[]), FORWARD).await);
    // Without request ids: the error stream first, the data stream next.
    client.open(&[("streamtype", "error"), ("port", &port)]).await;
    let data = client.open(&[("streamtype", "data"), ("port", &port)]).await;
    client.send(data, b"old", false).await;
    assert_eq!(client.next().await, Some(Got::Data { stream: data, bytes: b"old".to_vec(), fin: false }));
    let long = "1".repeat(65);
    for headers in [
        &[("streamtype", "data")][..],
        &[("port", "80")],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "65536")],
        &[("streamtype", "data"), ("port", "-1")],
        &[("streamtype", "other"), ("port", "80")],
        &[("streamtype", "data"), ("port", "80"), ("requestid", &long)],
    ] {
        let (stream, frame) = client.syn_stream(headers);
        client.raw(&frame).await;
        assert_eq!(client.next().await, Some(Got::Frame(Frame::Reset { stream, status: 3 })), "{headers:?}");
    }
}

#[tokio::test]
async fn a_stream_without_its_other_half_is_told_at_the_deadline() {
    let world = World::with(Limits { creation: Duration::from_millis(200), ..Limits::default() }).await;
    let mut client = Spdy::connect(&world.forward(&[]), FORWARD).await;
    let error = client.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "0")]).await;
    let Some(Got::Data { stream, bytes, .. }) = client.next().await else { panic!("an error") };
    assert_eq!((stream, &*bytes), (error, &b"timed out waiting for the streams of request 0"[..]));
}

#[tokio::test]
async fn spdy_inside_websocket() {
    let world = World::new().await;
    let port = echo().await.to_string();
    let mut web = Web::connect(&world.forward(&[]), "SPDY/3.1+portforward.k8s.io").await;
    let mut spdy = Spdy::without_connection();
    let mut sent = Vec::new();
    for kind in ["error", "data"] {
        sent.extend(spdy.syn_stream(&[("streamtype", kind), ("port", &port), ("requestid", "0")]).1);
    }
    sent.extend(super::client::data(3, b"hello", true));
    // In messages of 7 bytes, which begin and end anywhere in frames.
    for piece in sent.chunks(7) {
        web.send(BINARY, piece).await;
    }
    web.send(9, b"p").await;
    let (mut got, mut pong) = (Vec::new(), false);
    loop {
        match web.next().await {
            Some((BINARY, payload)) => got.extend(payload),
            Some((10, _)) => pong = true,
            other => panic!("{other:?}"),
        }
        let echoed = got.windows(5).any(|window| window == b"hello");
        if echoed && pong {
            break;
        }
    }
    web.send(8, &1000_u16.to_be_bytes()).await;
    while let Some((opcode, _)) = web.next().await {
        assert!(opcode == BINARY || opcode == 8);
    }
    drop(web);
    world.settled().await;
}

#[tokio::test]
async fn websocket_channels_with_fixed_ports() {
    let world = World::new().await;
    let (port, refused) = (echo().await, listen().await.0);
    let mut web = Web::connect(&world.forward(&[port, refused]), "v4.channel.k8s.io").await;
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for (channel, port) in [(0, port), (1, port), (2, refused), (3, refused)] {
        expected.push([&[channel][..], &port.to_le_bytes()].concat());
    }
    for expected in expected {
        assert_eq!(web.next().await, Some((BINARY, expected)));
    }
    let (_, error) = web.next().await.unwrap();
    assert!(error[0] == 3 && String::from_utf8_lossy(&error).contains("error forwarding port"), "{error:?}");
    web.send(BINARY, b"\0hello").await;
    assert_eq!(web.next().await, Some((BINARY, b"\0hello".to_vec())));
    web.send(BINARY, b"\x09nobody").await;
    drop(web);
    world.settled().await;
    // When all ports have ended, so does the session.
    let mut web = Web::connect(&world.forward(&[refused]), "v4.base64.channel.k8s.io").await;
    let mut last = None;
    while let Some(frame) = web.next().await {
        last = Some(frame);
        if last.as_ref().is_some_and(|(opcode, _)| *opcode == 8) {
            break;
        }
    }
    assert_eq!(last, Some((8, websocket::CLOSE_NORMAL.to_be_bytes().to_vec())));
}

#[tokio::test]
async fn a_pod_that_does_not_read_is_waited_for_and_its_clients_end_is_seen() {
    let world = World::new().await;
    let ((port, listener), mut client) = (listen().await, Spdy::connect(&world.forward(&[]), FORWARD).await);
    let (_, data) = open(&mut client, port, "0").await;
    let pod: TcpStream = listener.accept().await.unwrap().0;
    let piece = vec![b'x'; 65_536];
    let frame = super::client::data(data, &piece, false);
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_millis(500), client.tcp.write_all(&frame)).await.is_ok() {
        sent += piece.len();
        assert!(sent < 256 << 20, "{sent} bytes were taken for a pod that reads none");
    }
    drop(client);
    world.settled().await;
    drop(pod);
}
