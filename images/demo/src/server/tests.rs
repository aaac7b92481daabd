use http_body_util::BodyExt as _;

use super::*;

async fn started(args: DemoArgs) -> (SocketAddr, tokio::task::JoinHandle<i32>) {
    // A signal that no test sends.
    started_with(args, SignalKind::user_defined2()).await
}

/// A server on a free port of loopback, for as long as the test's runtime lives.
async fn started_with(args: DemoArgs, stop: SignalKind) -> (SocketAddr, tokio::task::JoinHandle<i32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(args, Instant::now());
    // Another signal in place of SIGTERM, which the other tests of this program hear too.
    let mut term = signal(stop).unwrap();
    let handle = tokio::spawn(async move { server.run(listener, &mut term).await });
    (address, handle)
}

async fn request(address: SocketAddr, method: Method, path: &str) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driven = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "demo");
    let response = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    driven.abort();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn status(address: SocketAddr, path: &str) -> u16 {
    request(address, Method::GET, path).await.0
}

#[tokio::test]
async fn the_paths_answer() {
    let (address, _handle) = started(DemoArgs { message: "moin".into(), ..Default::default() }).await;
    let (code, body) = request(address, Method::GET, "/").await;
    assert_eq!(code, 200);
    for part in ["moin\n", "hostname: ", &format!("pid: {}\n", std::process::id()), "uptime: ", "requests: 1\n"] {
        assert!(body.contains(part), "{body}");
    }
    for (path, code) in [("/healthz", 200), ("/readyz", 200), ("/nowhere", 404), ("/control", 405)] {
        assert_eq!(status(address, path).await, code, "{path}");
    }
    assert_eq!(request(address, Method::POST, "/control?explode").await.0, 400);
}

#[tokio::test]
async fn it_fails_after_so_many_requests_until_told_otherwise() {
    let (address, _handle) = started(DemoArgs { fail_after_requests: Some(2), ..Default::default() }).await;
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(status(address, "/healthz").await);
    }
    assert_eq!(codes, [200, 200, 500]);
    assert_eq!(request(address, Method::POST, "/control?fail=off").await.0, 200);
    assert_eq!(status(address, "/healthz").await, 200);
}

#[tokio::test]
async fn it_is_ready_later_than_alive() {
    let (address, _handle) = started(DemoArgs { ready_after: Duration::from_millis(400), ..Default::default() }).await;
    assert_eq!((status(address, "/healthz").await, status(address, "/readyz").await), (200, 503));
    tokio::time::sleep(Duration::from_millis(450)).await;
    assert_eq!(status(address, "/readyz").await, 200);
}

#[tokio::test]
async fn it_waits_and_hangs() {
    let (address, _handle) = started(DemoArgs { latency: Duration::from_millis(120), ..Default::default() }).await;
    let before = Instant::now();
    assert_eq!(status(address, "/").await, 200);
    assert!(before.elapsed() >= Duration::from_millis(120));
    assert_eq!(request(address, Method::POST, "/control?hang=on").await.0, 200);
    assert!(tokio::time::timeout(Duration::from_millis(400), status(address, "/healthz")).await.is_err());
    assert_eq!(request(address, Method::POST, "/control?hang=off&latency=0").await.0, 200);
    assert_eq!(status(address, "/healthz").await, 200);
}

#[tokio::test]
async fn it_crashes_by_the_clock_and_on_command() {
    let crashing = DemoArgs { crash_after: Some(Duration::from_millis(100)), exit_code: 7, ..Default::default() };
    assert_eq!(started(crashing).await.1.await.unwrap(), 7);
    let (address, handle) = started(DemoArgs::default()).await;
    assert_eq!(request(address, Method::POST, "/control?crash=9").await.0, 200);
    assert_eq!(handle.await.unwrap(), 9);
}

#[test]
fn memory_is_held() {
    let mut memory = Memory::default();
    for wanted in [0, 1, 3 << 20, (3 << 20) + 7, 5] {
        memory.grow(wanted);
    }
    assert_eq!(memory.bytes(), (3 << 20) + 7);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = serve(DemoArgs { port, ..Default::default() }).await.unwrap_err();
    assert!(error.to_string().contains(&format!("port {port}")), "{error}");
}

fn stop_signal() {
    let kill = format!("kill -USR1 {}", std::process::id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

#[tokio::test]
async fn it_stops_when_told_after_its_delay_or_not_at_all() {
    let usr1 = SignalKind::user_defined1();
    let slow = DemoArgs { stop_delay: Duration::from_millis(300), ..Default::default() };
    let (address, handle) = started_with(slow, usr1).await;
    let before = Instant::now();
    stop_signal();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(status(address, "/healthz").await, 200, "it serves during the delay");
    assert_eq!(handle.await.unwrap(), 0);
    assert!(before.elapsed() >= Duration::from_millis(300));

    let (address, handle) = started_with(DemoArgs { ignore_term: true, ..Default::default() }, usr1).await;
    stop_signal();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(status(address, "/healthz").await, 200);
    assert!(!handle.is_finished());
}
