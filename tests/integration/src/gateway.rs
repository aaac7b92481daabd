//! A way to a registry that somebody else could stand on: it notes what passes, and breaks it where a test says so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Passing {
    /// `GET`, `HEAD`, `CONNECT`.
    pub method: String,
    /// The path, or what a proxy is asked for.
    pub target: String,
    /// All lines of its head.
    pub head: String,
}

impl Passing {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Fate {
    /// It goes on.
    Pass,
    /// This status line and these headers are the answer.
    Answer(String),
    /// The answer's body ends after so many bytes, and so does the connection.
    Cut(usize),
    /// The answer's body stops after so many bytes, the connection stays.
    Hang(usize),
    /// The answer waits so long.
    Late(Duration),
}

type Judge = Arc<dyn Fn(&Passing) -> Fate + Send + Sync>;

/// Forwards to one address, whoever is asked for. Ends when dropped.
pub struct Gateway {
    /// `127.0.0.1:PORT`.
    pub address: String,
    passed: Arc<Mutex<Vec<Passing>>>,
    task: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gateway {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start(to: &str, judge: impl Fn(&Passing) -> Fate + Send + Sync + 'static) -> anyhow::Result<Gateway> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let passed = Arc::new(Mutex::default());
        let (noted, judge, to): (_, Judge, _) = (Arc::clone(&passed), Arc::new(judge), to.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that breaks is what tests are about.
                let (noted, judge, to) = (Arc::clone(&noted), Arc::clone(&judge), to.clone());
                tokio::spawn(async move { serve(client, &to, &noted, &judge).await });
            }
        });
        Ok(Gateway { address, passed, task })
    }

    /// What has passed so far.
    pub fn passed(&self) -> Vec<Passing> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those whose target contains `part`.
    pub fn passed_with(&self, part: &str) -> Vec<Passing> {
        self.passed().into_iter().filter(|passing| passing.target.contains(part)).collect()
    }
}

async fn serve(mut client: TcpStream, to: &str, noted: &Mutex<Vec<Passing>>, judge: &Judge) -> std::io::Result<()> {
    let head = read_head(&mut client).await?;
    let mut words = head.split(' ').map(ToOwned::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let passing = Passing { method, target, head };
    noted.lock().unwrap_or_else(PoisonError::into_inner).push(passing.clone());
    let fate = judge(&passing);
    if let Fate::Answer(answer) = &fate {
        client
            .write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes())
            .await?;
        return client.shutdown().await;
    }
    if let Fate::Late(wait) = fate {
        tokio::time::sleep(wait).await;
    }
    let mut server = TcpStream::connect(to).await?;
    if passing.method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    server.write_all(forwarded(&passing).as_bytes()).await?;
    let head = read_head(&mut server).await?;
    client.write_all(head.as_bytes()).await?;
    let mut left = match fate {
        Fate::Cut(bytes) | Fate::Hang(bytes) => bytes,
        Fate::Pass | Fate::Answer(_) | Fate::Late(_) => usize::MAX,
    };
    let mut buffer = vec![0; 16 * 1024];
    while left > 0 {
        let length = server.read(&mut buffer).await?.min(left);
        if length == 0 {
            return client.shutdown().await;
        }
        client.write_all(&buffer[..length]).await?;
        left -= length;
    }
    if matches!(fate, Fate::Hang(_)) {
        // Until the client has had enough.
        let _gone = client.read(&mut buffer).await;
    }
    Ok(())
}

/// The request as a server gets it: a path, and one answer per connection.
fn forwarded(passing: &Passing) -> String {
    let path = match passing.target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => &passing.target,
    };
    let kept = passing.head.lines().skip(1).filter(|line| !line.is_empty());
    let kept = kept.filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let lines: String = kept.map(|line| format!("{line}\r\n")).collect();
    format!("{} {path} HTTP/1.1\r\n{lines}connection: close\r\n\r\n", passing.method)
}

/// All up to the empty line. Reads byte by byte, so that the body stays where it is.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
