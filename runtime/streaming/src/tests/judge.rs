//! client-go as the judge: `tests/integration/streaming-client`, named by `PODWRIGHT_TEST_STREAMING_CLIENT`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::fake::{echo, pattern};
use super::{World, exec, terminal};
use crate::ExecRequest;

/// Moved each way; the whole GiB with `PODWRIGHT_TEST_STREAMING_BYTES=1073741824`.
fn total() -> u64 {
    std::env::var("PODWRIGHT_TEST_STREAMING_BYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(16 << 20)
}

fn client(arguments: &[&str]) -> Option<Child> {
    let Some(program) = std::env::var_os("PODWRIGHT_TEST_STREAMING_CLIENT") else {
        println!("skipped: PODWRIGHT_TEST_STREAMING_CLIENT names no client-go program");
        return None;
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Some(command.spawn().unwrap())
}

/// Its output, errors and exit code after `input`.
async fn run(arguments: &[&str], input: &[u8]) -> Option<(String, String, i32)> {
    let mut child = client(arguments)?;
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input).await;
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((text(&output.stdout), text(&output.stderr), output.status.code().unwrap()))
}

/// A URL for a command without standard input.
fn silent(world: &World, command: &[&str]) -> String {
    world.streaming.exec(ExecRequest { stdin: false, ..exec(command) }).unwrap()
}

/// Each transport, with the protocols to offer.
const OFFERS: &[(&str, &str)] = &[
    ("spdy", ""),
    ("spdy", "v4.channel.k8s.io"),
    ("spdy", "v3.channel.k8s.io"),
    ("spdy", "v2.channel.k8s.io"),
    ("spdy", "channel.k8s.io"),
    ("websocket", ""),
    ("websocket", "v4.channel.k8s.io"),
];

#[tokio::test(flavor = "multi_thread")]
async fn exec_in_each_protocol() {
    let world = World::new().await;
    for &(transport, protocols) in OFFERS {
        let arguments = ["exec", "-transport", transport, "-protocols", protocols];
        let both = world.exec(&["both"]);
        let Some(answer) = run(&[&arguments[..], &["-i", &both]].concat(), b"").await else { return };
        assert_eq!(answer, ("out".to_owned(), "err".to_owned(), 0), "{transport} {protocols}");
        // v1 never ends when the process waits for input; the others close it. WebSocket's v4 can't.
        if protocols != "channel.k8s.io" && (transport, protocols) != ("websocket", "v4.channel.k8s.io") {
            let cat = world.exec(&["cat"]);
            let (out, err, code) = run(&[&arguments[..], &["-i", &cat]].concat(), b"hello").await.unwrap();
            assert_eq!((&*out, &*err, code), ("hello", "", 0), "{transport} {protocols}");
        }
        let (_, err, code) = run(&[&arguments[..], &[&silent(&world, &["exit", "3"])]].concat(), b"").await.unwrap();
        match protocols {
            "v3.channel.k8s.io" | "v2.channel.k8s.io" => {
                assert!(code == 250 && err.contains("non-zero exit code 3"), "{code} {err}");
            }
            // Whether it reads the error before it ends is its own race.
            "channel.k8s.io" => {}
            _ => assert_eq!(code, 3, "{transport} {protocols}: {err}"),
        }
    }
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_and_its_sizes() {
    let world = World::new().await;
    for transport in ["spdy", "websocket"] {
        let url = world.streaming.exec(terminal(&["cat"])).unwrap();
        let arguments = ["exec", "-transport", transport, "-i", "-t", "-sizes", "5000", &url];
        let Some(mut child) = client(&arguments) else { return };
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"typed").await.unwrap();
        let last = || world.fake.sizes.lock().unwrap().last().map(|size| (size.width, size.height));
        let began = Instant::now();
        while last() != Some((132, 43)) {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", last());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.fake.sizes.lock().unwrap().clear();
        drop(stdin);
        assert_eq!(child.wait_with_output().await.unwrap().stdout, b"typed");
    }
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_both_ways_and_how_fast() {
    let world = World::new().await;
    let block: Vec<u8> = (0..1 << 20).map(pattern).collect();
    let expected = (0..total() >> 20).fold(Sha256::new(), |hash, _| hash.chain_update(&block)).finalize();
    let digest: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    for transport in ["spdy", "websocket"] {
        let began = Instant::now();
        let url = silent(&world, &["write", &total().to_string()]);
        let Some(mut child) = client(&["exec", "-transport", transport, &url]) else { return };
        let (mut stdout, mut hash, mut piece) = (child.stdout.take().unwrap(), Sha256::new(), vec![0; 1 << 16]);
        loop {
            let read = stdout.read(&mut piece).await.unwrap();
            if read == 0 {
                break;
            }
            hash.update(&piece[..read]);
        }
        assert_eq!(hash.finalize(), expected);
        speed(&format!("{transport}, from the process"), began);

        let began = Instant::now();
        let Some(mut child) = client(&["exec", "-transport", transport, "-i", &world.exec(&["sum"])]) else { return };
        let mut stdin = child.stdin.take().unwrap();
        for _ in 0..total() >> 20 {
            stdin.write_all(&block).await.unwrap();
        }
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{} {digest}", total()));
        speed(&format!("{transport}, to the process"), began);
    }
    world.settled().await;
}

fn speed(what: &str, began: Instant) {
    println!("{what}: {:.0} MB/s", total() as f64 / 1e6 / began.elapsed().as_secs_f64());
}

/// client-go's port-forwarder, and the local port that it listens on.
async fn forwarder(world: &World, transport: &str, port: u16) -> Option<(Child, u16)> {
    let mut child = client(&["forward", "-transport", transport, &world.forward(&[]), &format!(":{port}")])?;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let local = line.split_once("127.0.0.1:").unwrap().1.split_once(' ').unwrap().0.parse().unwrap();
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Some((child, local))
}

#[tokio::test(flavor = "multi_thread")]
async fn port_forward_over_both_transports() {
    let world = World::new().await;
    let port = echo().await;
    for transport in ["spdy", "websocket"] {
        let Some((mut child, local)) = forwarder(&world, transport, port).await else { return };
        let began = Instant::now();
        let one = async |index: u8| {
            let mut tcp = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
            let sent: Vec<u8> = (0..1_000_000_u64).map(|at| pattern(at) ^ index).collect();
            let (mut read, mut write) = tcp.split();
            let mut got = Vec::new();
            let (written, received) = tokio::join!(
                async {
                    write.write_all(&sent).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut got)
            );
            written.unwrap();
            received.unwrap();
            assert!(got == sent, "{transport}: {} of {} bytes", got.len(), sent.len());
        };
        for round in 0..4 {
            futures_util::future::join_all((0..20).map(|index| one(round * 20 + index))).await;
        }
        println!("{transport}: 80 connections of 1 MB each way in {:?}", began.elapsed());
        drop(child.stdin.take());
        child.wait().await.unwrap();
        world.settled().await;
    }
}
