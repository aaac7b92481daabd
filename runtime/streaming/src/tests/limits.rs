use std::time::Duration;

use super::client::{request, spdy_headers, web_headers};
use super::{Got, Spdy, World, exec};
use crate::spdy::Frame;
use crate::{Config, Limits, Streaming, StreamingError};

#[tokio::test]
async fn a_url_serves_once_and_not_for_ever() {
    let world = World::with(Limits { token_lifetime: Duration::from_millis(300), ..Limits::default() }).await;
    let check = async |url: &str, headers: &str, status: &str, text: &str| {
        let (mut tcp, head) = request(url, headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        let mut body = String::new();
        if status != "101" {
            tokio::io::AsyncReadExt::read_to_string(&mut tcp, &mut body).await.unwrap();
        }
        assert!(body.contains(text) && !head.to_lowercase().contains("location:"), "{body}");
    };
    let spdy = spdy_headers("v4.channel.k8s.io");
    let url = world.exec(&["cat"]);
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    // What is refused for its protocol may come again.
    check(&url, "", "400", "takes an upgrade").await;
    check(&url, &web_headers("v9.channel.k8s.io"), "403", "cannot agree").await;
    check(&url, &spdy, "101", "").await;
    check(&url, &spdy, "404", "used already").await;
    check(&world.exec(&["cat"]).replace("/exec/", "/attach/"), &spdy, "404", "never given out").await;
    check(&world.exec(&["cat"]).replace("/exec/", "/"), &spdy, "404", "never given out").await;
    let url = world.exec(&["cat"]);
    tokio::time::sleep(Duration::from_millis(350)).await;
    check(&url, &spdy, "410", "was not used within 300ms").await;
    world.settled().await;
}

#[tokio::test]
async fn sessions_and_urls_are_counted() {
    let world = World::with(Limits { sessions_max: 1, tokens_max: 2, ..Limits::default() }).await;
    let (first, second) = (world.exec(&["cat"]), world.exec(&["cat"]));
    let third = world.streaming.exec(exec(&["cat"]));
    assert!(matches!(third, Err(StreamingError::TooManyTokens { max: 2, .. })), "{third:?}");
    let client = Spdy::exec(&first, "v4.channel.k8s.io").await;
    let (_, head) = request(&second, &spdy_headers("v4.channel.k8s.io")).await;
    assert!(head.starts_with("HTTP/1.1 429 ") && head.to_lowercase().contains("retry-after: 5"), "{head}");
    let third = world.streaming.exec(exec(&["cat"]));
    assert!(matches!(third, Err(StreamingError::TooManySessions { max: 1 })), "{third:?}");
    drop(client);
    world.settled().await;
    // The one that was refused is still good.
    Spdy::exec(&second, "v4.channel.k8s.io").await;
}

#[tokio::test]
async fn deadlines_end_what_does_not_move() {
    let brief = Duration::from_millis(300);
    let world = World::with(Limits { creation: brief, ..Limits::default() }).await;
    // Streams that are never opened.
    let mut client = Spdy::connect(&world.exec(&["cat"]), "v4.channel.k8s.io").await;
    client.open(&[("streamtype", "error")]).await;
    let Some(Got::Data { stream: 1, bytes, .. }) = client.next().await else { panic!("an error") };
    assert!(String::from_utf8_lossy(&bytes).contains("did not open its streams within 300ms"), "{bytes:?}");
    assert_eq!(client.next().await, Some(Got::Data { stream: 1, bytes: Vec::new(), fin: true }));
    assert!(matches!(client.next().await, Some(Got::Frame(Frame::GoAway { .. }))));
    drop(client);
    // A session without a byte.
    let world = World::with(Limits { creation: brief, idle: brief, ..Limits::default() }).await;
    let mut client = Spdy::exec(&world.exec(&["cat"]), "v4.channel.k8s.io").await;
    client.send(3, b"x", false).await;
    assert!(client.next().await.is_some());
    assert_eq!(client.next().await, None, "closed when idle");
    // A request that never comes.
    let url = world.exec(&["cat"]);
    let address = url.strip_prefix("http://").unwrap().split_once('/').unwrap().0;
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut answer);
    tokio::time::timeout(Duration::from_secs(3), read).await.expect("closed").unwrap();
    world.settled().await;
}

#[tokio::test]
async fn the_server_ends_with_its_sessions() {
    let fake = std::sync::Arc::new(super::Fake::default());
    let config = Config { base_url: Some("http://node:1/prefix/".to_owned()), ..Config::default() };
    let (streaming, server) = Streaming::bind(config, std::sync::Arc::clone(&fake) as _).await.unwrap();
    let url = streaming.exec(exec(&["hang"])).unwrap();
    assert!(url.starts_with("http://node:1/prefix/exec/"), "{url}");
    let address = server.address().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    let url = url.replace("node:1", &address.to_string());
    let mut client = Spdy::exec(&url, "v4.channel.k8s.io").await;
    stop.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(client.next().await, None);
    assert_eq!(fake.live(), 0);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config { listen: taken.local_addr().unwrap(), ..Config::default() };
    let error = Streaming::bind(config, std::sync::Arc::new(super::Fake::default())).await.unwrap_err();
    assert_eq!(error.to_string(), format!("streaming: cannot listen on {}", taken.local_addr().unwrap()));
}
