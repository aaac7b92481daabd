//! Clients that vanish, stall, or speak nonsense.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::client::{data, request, spdy_headers, web_headers};
use super::{Spdy, World};
use crate::websocket::tests::frame;

/// What client-go sends in a whole exec, handshake and all.
fn transcript(url: &str) -> Vec<u8> {
    let path = url.strip_prefix("http://").unwrap().split_once('/').unwrap().1;
    let head = format!("POST /{path} HTTP/1.1\r\nHost: x\r\n{}\r\n", spdy_headers("v4.channel.k8s.io"));
    let mut bytes = head.into_bytes();
    let mut client = Spdy::without_connection();
    for name in ["error", "stdin", "stdout", "stderr"] {
        bytes.extend(client.syn_stream(&[("streamtype", name)]).1);
    }
    bytes.extend(data(3, b"some input", false));
    bytes.extend(data(3, b"", true));
    bytes
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn a_client_that_vanishes_at_any_byte_leaves_nothing() {
    let world = World::new().await;
    let length = transcript(&world.exec(&["hang"])).len();
    let before = descriptors();
    for cut in 0..=length {
        let url = world.exec(&["hang"]);
        let address = url.strip_prefix("http://").unwrap().split_once('/').unwrap().0;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(&transcript(&url)[..cut]).await.unwrap();
        if cut % 2 == 0 {
            // With a reset, not a close.
            tcp.set_zero_linger().unwrap();
        }
        drop(tcp);
        // URLs whose client never got to its handshake wait for another.
        if cut % 100 == 0 {
            world.settled().await;
        }
    }
    world.settled().await;
    // Other tests have descriptors, too; what leaked would be hundreds.
    for _ in 0..300 {
        if descriptors() < before + length / 4 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} descriptors, {before} before", descriptors());
}

#[tokio::test]
async fn a_client_that_stops_reading_holds_the_process_back_and_no_memory() {
    let world = World::new().await;
    let client = Spdy::exec(&world.exec(&["write", "1000000000"]), "v4.channel.k8s.io").await;
    let mut last = u64::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let written = world.fake.written.load(Ordering::SeqCst);
        if written == last {
            break;
        }
        last = written;
    }
    // The socket's buffers on both sides are the kernel's.
    assert!(last < 64 << 20, "{last} bytes were taken from the process");
    drop(client);
    world.settled().await;
}

#[tokio::test]
async fn a_client_that_vanishes_behind_input_that_nobody_takes_is_noticed() {
    let world = World::new().await;
    for web in [false, true] {
        let (mut tcp, piece) = if web {
            let (tcp, _) = request(&world.exec(&["hang"]), &web_headers("v5.channel.k8s.io")).await;
            (tcp, frame(true, 2, [0; 4], &[0; 65_536]))
        } else {
            (Spdy::exec(&world.exec(&["hang"]), "v4.channel.k8s.io").await.tcp, data(3, &[0; 65_536], false))
        };
        while tokio::time::timeout(Duration::from_millis(300), tcp.write_all(&piece)).await.is_ok() {}
        assert_eq!(world.fake.live(), 1);
        drop(tcp);
        world.settled().await;
    }
}

#[tokio::test]
async fn nonsense_ends_a_session_with_an_error() {
    let world = World::new().await;
    let mut client = Spdy::exec(&world.exec(&["hang"]), "v4.channel.k8s.io").await;
    client.raw(b"\x80\x02nonsense").await;
    assert!(client.next().await.is_some(), "a GOAWAY");
    assert_eq!(client.next().await, None);
    world.settled().await;
}

/// Bytes to a session over any of the transports, cut anywhere: the server must come to an end with it and not panic.
fn throw(transport: u8, pieces: &[Vec<u8>]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let (url, headers) = match transport {
            0 => (world.exec(&["cat"]), spdy_headers("v4.channel.k8s.io")),
            1 => (world.exec(&["cat"]), web_headers("v5.channel.k8s.io")),
            2 => (world.exec(&["cat"]), web_headers("base64.channel.k8s.io")),
            3 => (world.forward(&[]), spdy_headers("portforward.k8s.io")),
            4 => (world.forward(&[]), web_headers("SPDY/3.1+portforward.k8s.io")),
            _ => (world.forward(&[1]), web_headers("v4.channel.k8s.io")),
        };
        let (mut tcp, head) = request(&url, &headers).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        for piece in pieces {
            // It may have closed already.
            let _ = tcp.write_all(piece).await;
        }
        drop(tcp);
        world.settled().await;
        assert_eq!(world.streaming.panics(), 0, "a connection panicked");
    });
}

/// Frames with damage, behind streams that are open.
fn piece(transport: u8) -> impl Strategy<Value = Vec<u8>> {
    let web = matches!(transport, 1 | 2 | 4 | 5);
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        (0..16_u32, proptest::collection::vec(any::<u8>(), 0..100), any::<bool>())
            .prop_map(|(stream, bytes, fin)| data(stream, &bytes, fin)),
        (0..9_usize, "[a-z]{0,8}", 0..70_000_u32).prop_map(|(index, name, port)| {
            let mut client = Spdy::without_connection();
            let kind = ["error", "stdin", "stdout", "stderr", "resize", "data"].get(index).copied().unwrap_or(&name);
            client.syn_stream(&[("streamtype", kind), ("port", &port.to_string()), ("requestid", &name)]).1
        }),
    ]
    .prop_map(move |bytes| if web { frame(true, if transport == 2 { 1 } else { 2 }, [7; 4], &bytes) } else { bytes })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn any_bytes_of_a_client_end_in_order(
        (transport, pieces) in (0..6_u8).prop_flat_map(|transport| {
            (Just(transport), proptest::collection::vec(piece(transport), 0..12))
        })
    ) {
        throw(transport, &pieces);
    }
}
