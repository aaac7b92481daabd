//! The client's side of this crate, with its server on the other.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::fake::{echo, listen, pattern};
use super::{World, exec, terminal};
use crate::client::{ClientError, Streams, forward, remote};
use crate::{ExecRequest, Limits, Size};

/// The command's end and output, given `input`.
async fn run(url: &str, input: Vec<u8>) -> (Result<i32, ClientError>, Vec<u8>, Vec<u8>) {
    let (out, mut stdout) = duplex(1 << 16);
    let (err, mut stderr) = duplex(1 << 16);
    let (stdin, mut typed) = duplex(1 << 16);
    let streams =
        Streams { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(out)), stderr: Some(Box::new(err)), sizes: None };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let (ended, ..) =
        tokio::join!(remote(url, streams), stdout.read_to_end(&mut first), stderr.read_to_end(&mut second), async {
            // It may end before it has read all.
            let _ = typed.write_all(&input).await;
            drop(typed);
        },);
    (ended.map(|status| status.code), first, second)
}

#[tokio::test]
async fn output_codes_and_the_end_of_input_come_through() {
    let world = World::new().await;
    let (ended, out, err) = run(&world.exec(&["both"]), Vec::new()).await;
    assert_eq!((ended.unwrap(), &*out, &*err), (0, &b"out"[..], &b"err"[..]));
    let (ended, ..) = run(&world.exec(&["exit", "137"]), Vec::new()).await;
    assert_eq!(ended.unwrap(), 137);
    let input: Vec<u8> = (0..5_000_000).map(pattern).collect();
    let (ended, out, _) = run(&world.exec(&["cat"]), input.clone()).await;
    assert_eq!(ended.unwrap(), 0);
    assert!(out == input, "{} of {} bytes", out.len(), input.len());
    // It reads one byte and no more, and is waited for.
    let url = world.exec(&["deaf"]);
    let deaf = run(&url, input);
    assert!(tokio::time::timeout(Duration::from_millis(300), deaf).await.is_err(), "it never ends");
    let (ended, ..) = run(&world.exec(&["nothing"]), Vec::new()).await;
    assert_eq!(ended.unwrap_err().to_string(), "exec: \"nothing\": no such file or directory");
    // Dropped, the session ends and the process with it.
    world.settled().await;
}

#[tokio::test]
async fn a_terminal_has_its_size_once_that_is_known() {
    let world = World::new().await;
    let url = world.streaming.exec(terminal(&["cat"])).unwrap();
    let (sizes, size) = watch::channel(Size { width: 0, height: 0 });
    let (stdin, typed) = duplex(1 << 10);
    let streams = Streams { stdin: Some(Box::new(stdin)), stdout: None, stderr: None, sizes: Some(size) };
    // Its output was asked for, so that stream is opened, too.
    let streams = Streams { stdout: Some(Box::new(tokio::io::sink())), ..streams };
    let set = async || {
        let last = || world.fake.sizes.lock().unwrap().last().copied();
        while last() != Some(*sizes.borrow()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let resizing = async {
        // It doesn't know its size at first, which isn't told.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(*world.fake.sizes.lock().unwrap(), []);
        sizes.send_replace(Size { width: 80, height: 24 });
        set().await;
        sizes.send_replace(Size { width: 132, height: 43 });
        set().await;
        drop(typed);
    };
    let both = async { tokio::join!(remote(&url, streams), resizing) };
    let (ended, ()) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("in time");
    assert_eq!(ended.unwrap().code, 0);
    world.settled().await;
}

#[tokio::test]
async fn what_goes_wrong_has_a_sentence() {
    let world = World::with(Limits { sessions_max: 2, ..Limits::default() }).await;
    let check = async |url: &str, words: &str| {
        let (ended, ..) = run(url, Vec::new()).await;
        let error = ended.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    for url in ["", "nonsense", "https://127.0.0.1:1/x", "http:///x", "unix:///x"] {
        check(url, "which is not http://HOST:PORT").await;
    }
    let closed = listen().await.0;
    check(&format!("http://127.0.0.1:{closed}/exec/x"), "cannot reach the runtime's streaming server at 127.0.0.1:")
        .await;
    let used = world.exec(&["exit", "0"]);
    assert_eq!(run(&used, Vec::new()).await.0.unwrap(), 0);
    check(&used, "refused: no streaming session has this URL: it was used already").await;
    // A server that leaves in the middle, and one that is none.
    let gone = std::sync::Arc::new(World::new().await);
    let url = gone.exec(&["hang"]);
    let (ended, ()) = tokio::join!(run(&url, Vec::new()), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        gone.server.abort();
    });
    let error = ended.0.unwrap_err();
    assert!(matches!(error, ClientError::Gone | ClientError::Broken { .. }), "{error:?}");
    let (port, listener) = listen().await;
    tokio::spawn(async move {
        let mut tcp = listener.accept().await.unwrap().0;
        let _ = tcp.read(&mut [0; 1024]).await;
        let _ = tcp.write_all(b"220 smtp\r\n").await;
    });
    check(&format!("http://127.0.0.1:{port}/exec/x"), "does not answer the upgrade").await;
    world.settled().await;
}

/// A connection of a local program, and the other end that is carried.
async fn local() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let program = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (program, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn a_forwarded_connection_keeps_its_half_closes() {
    let world = World::new().await;
    let (mut program, carried) = local().await;
    let url = world.forward(&[]);
    let port = echo().await;
    let input: Vec<u8> = (0..3_000_000).map(pattern).collect();
    let mut got = Vec::new();
    let (mut read, mut write) = program.split();
    let (ended, ..) = tokio::join!(forward(&url, port, carried), read.read_to_end(&mut got), async {
        write.write_all(&input).await.unwrap();
        write.shutdown().await.unwrap();
    });
    ended.unwrap();
    assert!(got == input, "{} of {} bytes", got.len(), input.len());
    world.settled().await;
}

#[tokio::test]
async fn resets_go_through_on_both_sides_and_a_refusal_is_told() {
    let world = World::new().await;
    let (port, listener) = listen().await;
    // The pod's.
    let (mut program, carried) = local().await;
    let url = world.forward(&[]);
    let ((), ended) = tokio::join!(
        async {
            let mut pod = listener.accept().await.unwrap().0;
            program.write_all(b"x").await.unwrap();
            pod.read_u8().await.unwrap();
            pod.set_zero_linger().unwrap();
        },
        forward(&url, port, carried),
    );
    ended.unwrap();
    let error = program.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // The program's.
    let (program, carried) = local().await;
    program.set_zero_linger().unwrap();
    let url = world.forward(&[]);
    let (mut pod, ended) = tokio::join!(
        async {
            let pod = listener.accept().await.unwrap().0;
            drop(program);
            pod
        },
        forward(&url, port, carried),
    );
    ended.unwrap();
    assert_eq!(pod.read(&mut [0; 1]).await.unwrap_or(0), 0, "the pod sees the end");
    drop(listener);
    let (mut program, carried) = local().await;
    let error = forward(&world.forward(&[]), port, carried).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("error forwarding port {port} to pod pod: connect to")), "{error}");
    assert_eq!(program.read(&mut [0; 1]).await.unwrap_or(0), 0);
    world.settled().await;
}

#[tokio::test]
async fn an_exec_without_input_opens_no_stream_for_it() {
    let world = World::new().await;
    let url = world.streaming.exec(ExecRequest { stdin: false, ..exec(&["both"]) }).unwrap();
    let (out, mut stdout) = duplex(1 << 10);
    let streams =
        Streams { stdin: None, stdout: Some(Box::new(out)), stderr: Some(Box::new(tokio::io::sink())), sizes: None };
    let mut got = Vec::new();
    let (ended, _) = tokio::join!(remote(&url, streams), stdout.read_to_end(&mut got));
    assert_eq!((ended.unwrap().code, &*got), (0, &b"out"[..]));
    world.settled().await;
}
