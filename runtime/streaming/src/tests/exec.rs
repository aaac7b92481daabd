use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::fake::pattern;
use super::{Got, Spdy, Web, World, exec, terminal};
use crate::spdy::{Frame, ping, reset};
use crate::{AttachRequest, Size};

const OK: &str = r#"{"metadata":{},"status":"Success"}"#;
const BINARY: u8 = 2;

#[tokio::test]
async fn a_half_close_reaches_the_process_and_its_output_still_comes() {
    let world = World::new().await;
    let mut client = Spdy::exec(&world.exec(&["cat"]), "v4.channel.k8s.io").await;
    client.send(3, b"hello ", false).await;
    client.send(3, b"world", false).await;
    client.send(3, b"", true).await;
    let streams = client.all().await;
    assert_eq!(streams[5], ("hello world".to_owned(), true));
    assert_eq!(streams[7], (String::new(), true));
    assert_eq!(streams[1], (OK.to_owned(), true));
    drop(client);
    world.settled().await;
}

#[tokio::test]
async fn ends_are_told_in_each_protocol() {
    let world = World::new().await;
    let check = async |command: &[&str], protocol: &str, expected: &str| {
        let streams = Spdy::exec(&world.exec(command), protocol).await.all().await;
        assert!(streams[1].0.contains(expected) && streams[1].1, "{command:?} over {protocol}: {:?}", streams[1]);
        assert!(streams[5].1 && streams[7].1, "both outputs are finished");
        (streams[5].0.clone(), streams[7].0.clone())
    };
    assert_eq!(check(&["both"], "v4.channel.k8s.io", OK).await, ("out".to_owned(), "err".to_owned()));
    check(&["exit", "3"], "v4.channel.k8s.io", r#""causes":[{"reason":"ExitCode","message":"3"}]"#).await;
    check(&["exit", "137"], "v5.channel.k8s.io", r#""message":"137""#).await;
    check(&["nothing"], "v4.channel.k8s.io", r#"no such file or directory","reason":"InternalError","code":500"#).await;
    check(&["exit", "3"], "v3.channel.k8s.io", "command terminated with non-zero exit code 3").await;
    check(&["nothing"], "v2.channel.k8s.io", "error executing command in container: exec: \"nothing\"").await;
    assert_eq!(check(&["both"], "channel.k8s.io", "").await, ("out".to_owned(), "err".to_owned()));
    world.settled().await;
}

#[tokio::test]
async fn an_attach_ends_with_success_whatever_the_code() {
    let world = World::new().await;
    let request = AttachRequest { container: "exit".to_owned(), stdin: true, stdout: true, stderr: true, tty: false };
    let url = world.streaming.attach(request).unwrap();
    assert!(url.contains("/attach/"), "{url}");
    let streams = Spdy::exec(&url, "v4.channel.k8s.io").await.all().await;
    assert_eq!(streams[1].0, OK);
}

#[tokio::test]
async fn output_that_somebody_else_holds_open_does_not_keep_the_end_back_for_ever() {
    let world = World::new().await;
    let began = Instant::now();
    let streams = Spdy::exec(&world.exec(&["held"]), "v4.channel.k8s.io").await.all().await;
    assert_eq!(streams[5].0, "said");
    assert!(streams[1].0.contains(r#""message":"7""#), "{streams:?}");
    assert!(began.elapsed() >= Duration::from_secs(5), "silence is waited for");
}

#[tokio::test]
async fn pings_are_answered_and_strange_streams_refused() {
    let world = World::new().await;
    let mut client = Spdy::exec(&world.exec(&["cat"]), "v4.channel.k8s.io").await;
    client.raw(&ping(77)).await;
    assert_eq!(client.next().await, Some(Got::Frame(Frame::Ping { id: 77 })));
    for (headers, status) in [(&[("streamtype", "stdout")], 3), (&[("streamtype", "stdfoo")], 3)] {
        let (stream, frame) = client.syn_stream(headers);
        client.raw(&frame).await;
        assert_eq!(client.next().await, Some(Got::Frame(Frame::Reset { stream, status })));
    }
    // An id that was used already.
    let mut again = Spdy::connect(&world.exec(&["cat"]), "v4.channel.k8s.io").await;
    let stream = again.open(&[("streamtype", "error")]).await;
    again.raw(&ping(2)).await;
    let (_, frame) = again.syn_stream(&[("streamtype", "stdin")]);
    let mut same = frame.clone();
    same[8..12].copy_from_slice(&stream.to_be_bytes());
    again.raw(&same).await;
    assert_eq!(again.next().await, Some(Got::Frame(Frame::Reset { stream, status: 1 })), "and no answer to ping 2");
}

#[tokio::test]
async fn a_stream_that_the_client_resets_gets_no_more() {
    let world = World::new().await;
    let mut client = Spdy::exec(&world.exec(&["write", "50000000"]), "v4.channel.k8s.io").await;
    client.raw(&reset(5, 5)).await;
    let streams = client.all().await;
    assert!(!streams[5].1, "no end of a stream that is gone");
    assert_eq!(streams[1].0, OK, "the process wrote all the same");
    let mut client = Spdy::exec(&world.exec(&["cat"]), "v4.channel.k8s.io").await;
    client.send(3, b"x", false).await;
    client.raw(&reset(3, 5)).await;
    assert_eq!(client.all().await[5].0, "x", "a reset of stdin ends it");
}

#[tokio::test]
async fn a_storm_of_sizes_ends_with_the_last() {
    let world = World::new().await;
    let url = world.streaming.exec(terminal(&["cat"])).unwrap();
    let mut client = Spdy::connect(&url, "v4.channel.k8s.io").await;
    for name in ["error", "stdin", "stdout", "resize"] {
        client.open(&[("streamtype", name)]).await;
    }
    for width in 0..10_000 {
        let size = format!("{{\"Width\":{width},\"Height\":24}}\n");
        client.send(7, size.as_bytes(), false).await;
    }
    client.send(3, b"still here", false).await;
    assert_eq!(
        client.next().await,
        Some(Got::Data { stream: 5, bytes: b"still here".to_vec(), fin: false }),
        "the storm held nothing up"
    );
    for _ in 0..100 {
        if world.fake.sizes.lock().unwrap().last() == Some(&Size { width: 9_999, height: 24 }) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the last size was {:?}", world.fake.sizes.lock().unwrap().last());
}

#[tokio::test]
async fn many_bytes_arrive_as_they_were_sent() {
    const TOTAL: u64 = 16 << 20;
    let world = World::new().await;
    let block: Vec<u8> = (0..1 << 20).map(pattern).collect();
    let expected = (0..TOTAL >> 20).fold(Sha256::new(), |hash, _| hash.chain_update(&block)).finalize();
    // From the process.
    let mut client = Spdy::exec(&world.exec(&["write", &TOTAL.to_string()]), "v4.channel.k8s.io").await;
    let mut hash = Sha256::new();
    while let Some(got) = client.next().await {
        if let Got::Data { stream: 5, bytes, .. } = got {
            hash.update(&bytes);
        }
    }
    assert_eq!(hash.finalize(), expected);
    drop(client);
    // To the process, in frames of odd lengths.
    let mut client = Spdy::exec(&world.exec(&["sum"]), "v4.channel.k8s.io").await;
    for _ in 0..TOTAL >> 20 {
        for piece in block.chunks(99_991) {
            client.send(3, piece, false).await;
        }
    }
    client.send(3, b"", true).await;
    let digest: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(client.all().await[5].0, format!("{TOTAL} {digest}"));
    drop(client);
    // And to the process in one WebSocket message, which is longer than any buffer here.
    let mut client = Web::connect(&world.exec(&["sum"]), "v5.channel.k8s.io").await;
    let mut message = vec![0];
    (0..8).for_each(|_| message.extend_from_slice(&block));
    client.send(BINARY, &message).await;
    client.send(BINARY, &[255, 0]).await;
    assert!(client.all().await[1].starts_with(&(8 << 20).to_string()));
    drop(client);
    world.settled().await;
}

#[tokio::test]
async fn a_process_that_closes_its_input_ends_the_clients() {
    let world = World::new().await;
    let mut client = Spdy::exec(&world.exec(&["deaf"]), "v4.channel.k8s.io").await;
    let (piece, mut sent) = (vec![b'x'; 65_536], 0);
    // More than all buffers together: what nobody takes is dropped, not waited for.
    let sending = async {
        for _ in 0..512 {
            client.tcp.write_all(&super::client::data(3, &piece, false)).await.unwrap();
            sent += piece.len();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), sending).await.expect("the input is taken");
    let mut seen = (false, false);
    while seen != (true, true) {
        match client.next().await {
            Some(Got::Data { stream: 3, fin: true, .. }) => seen.0 = true,
            Some(Got::Data { stream: 5, bytes, .. }) if bytes == b"enough" => seen.1 = true,
            other => panic!("{other:?}"),
        }
    }
    drop(client);
    world.settled().await;
}

#[tokio::test]
async fn websocket_channels_in_all_their_forms() {
    let world = World::new().await;
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"] {
        let mut client = Web::connect(&world.exec(&["both"]), protocol).await;
        assert_eq!(client.next().await, Some((BINARY, vec![1])), "an empty message first");
        let channels = client.all().await;
        let status = if protocol == "channel.k8s.io" { "" } else { OK };
        assert_eq!((&*channels[1], &*channels[2], &*channels[3]), ("out", "err", status), "{protocol}");
        // The echo of the close frame, and then the end.
        client.send(8, &1000_u16.to_be_bytes()).await;
        assert_eq!(client.next().await, None);
    }
    // v5 can close standard input.
    let mut client = Web::connect(&world.exec(&["cat"]), "v5.channel.k8s.io").await;
    client.send(BINARY, b"\0hello").await;
    client.send(BINARY, &[]).await;
    client.send(BINARY, &[255, 0]).await;
    assert_eq!(client.all().await[1], "hello");
    drop(client);
    // v4 can't: 255 is a channel that nobody has.
    let mut client = Web::connect(&world.exec(&["cat"]), "v4.channel.k8s.io").await;
    client.next().await;
    client.send(BINARY, &[255, 0]).await;
    client.send(BINARY, b"\0hello").await;
    assert_eq!(client.next().await, Some((BINARY, b"\x01hello".to_vec())));
    client.send(9, b"there?").await;
    assert_eq!(client.next().await, Some((10, b"there?".to_vec())));
    drop(client);
    world.settled().await;
}

#[tokio::test]
async fn websocket_in_base64() {
    const TEXT: u8 = 1;
    let world = World::new().await;
    let mut client = Web::connect(&world.exec(&["cat"]), "v4.base64.channel.k8s.io").await;
    assert_eq!(client.next().await, Some((TEXT, b"1".to_vec())));
    client.send(TEXT, b"0aGVsbG8=").await;
    assert_eq!(client.next().await, Some((TEXT, b"1aGVsbG8=".to_vec())));
    client.send(TEXT, b"0no base64!").await;
    assert_eq!(client.next().await, Some((8, 1002_u16.to_be_bytes().to_vec())), "refused");
    // A message that is cut within its quads.
    let mut client = Web::connect(&world.exec(&["cat"]), "base64.channel.k8s.io").await;
    client.next().await;
    let whole = crate::websocket::tests::frame(true, TEXT, [0; 4], b"0aGVsbG8=");
    for byte in whole {
        client.tcp.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut text = String::new();
    // Echoed in two messages, or in one when the machine is busy.
    while text != "1aGVs1bG8=" && text != "1aGVsbG8=" {
        text.push_str(&String::from_utf8(client.next().await.unwrap().1).unwrap());
    }
    let request = terminal(&["exit", "0"]);
    let mut client = Web::connect(&world.streaming.exec(request).unwrap(), "v5.channel.k8s.io").await;
    client.all().await;
    assert_eq!(exec(&["x"]).command, ["x"]);
}
