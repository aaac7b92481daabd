//! The small tasks.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::command::{DemoError, DemoTask};
use crate::output;
use crate::server::Memory;

/// The exit code of a program that SIGTERM ended. The first process of a PID namespace must end itself: the kernel
/// doesn't deliver a signal to it that it has no handler for.
const TERMINATED: i32 = 128 + 15;
/// What `cat` copies at once, in bytes.
const COPY_BYTES: usize = 64 * 1024;

pub(crate) async fn run(task: DemoTask) -> Result<i32, DemoError> {
    let mut term = signal(SignalKind::terminate()).map_err(DemoError::Signal)?;
    tokio::select! {
        ended = perform(task) => ended,
        _ = term.recv() => Ok(TERMINATED),
    }
}

async fn perform(task: DemoTask) -> Result<i32, DemoError> {
    match task {
        DemoTask::Sleep { time } => tokio::time::sleep(time).await,
        DemoTask::Exit { code } => return Ok(i32::from(code)),
        DemoTask::Print { count, every } => print(count, every).await,
        DemoTask::Check { url, timeout } => check(&url, timeout).await?,
        DemoTask::Write { file, text } => write(&file, &text)?,
        DemoTask::Cat { file } => {
            let copied = tokio::task::spawn_blocking(move || cat(file)).await;
            copied.unwrap_or(Ok(()))?;
        }
        DemoTask::Env => env(),
        DemoTask::Orphan { time } => orphan(&time)?,
        DemoTask::True => {}
        DemoTask::False => return Ok(1),
        DemoTask::Hog { size } => {
            let mut memory = Memory::default();
            memory.grow(size);
            output::line(&format!("demo: holding {} bytes", memory.bytes()));
            std::future::pending::<()>().await;
        }
    }
    Ok(0)
}

async fn print(count: u64, every: Duration) {
    for number in 1.. {
        if count > 0 && number > count {
            return;
        }
        output::line(&number.to_string());
        if every.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(every).await;
        }
    }
}

async fn check(url: &str, timeout: Duration) -> Result<(), DemoError> {
    let failed = |why: String| DemoError::Check { url: url.to_owned(), why };
    match tokio::time::timeout(timeout, status_of(url)).await {
        Ok(Ok(status)) if (200..400).contains(&status) => {
            output::line(&format!("{url}: {status}"));
            Ok(())
        }
        Ok(Ok(status)) => Err(failed(format!("answered {status}"))),
        Ok(Err(why)) => Err(failed(why)),
        Err(_) => Err(failed(format!("no answer within {timeout:?}"))),
    }
}

async fn status_of(url: &str) -> Result<u16, String> {
    let uri: Uri = url.parse().map_err(|error| format!("no URL: {error}"))?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err("only http://host:port/path can be checked".to_owned());
    };
    let told = |error: &dyn std::error::Error| error.to_string();
    let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await.map_err(|error| told(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header("host", host).body(Empty::<Bytes>::new()).map_err(|error| told(&error))?;
    let driven = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| told(&error));
    driven.abort();
    Ok(response?.status().as_u16())
}

fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    let written = std::fs::File::create(path).and_then(|mut file| writeln!(file, "{text}"));
    written.map_err(|source| DemoError::File { path: path.to_owned(), source })
}

fn cat(path: Option<PathBuf>) -> Result<(), DemoError> {
    let failed = |source| DemoError::File { path: path.clone().unwrap_or_else(|| "standard input".into()), source };
    let mut input: Box<dyn std::io::Read> = match &path {
        Some(path) => Box::new(std::fs::File::open(path).map_err(failed)?),
        None => Box::new(std::io::stdin()),
    };
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match input.read(&mut buffer).map_err(failed)? {
            0 => return Ok(()),
            read => output::raw(&buffer[..read]).map_err(failed)?,
        }
    }
}

fn env() {
    let mut lines: Vec<String> =
        std::env::vars_os().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
    lines.sort();
    lines.iter().for_each(|line| output::line(line));
}

/// The child inherits standard output: whoever reads that to its end has to deal with it.
fn orphan(time: &str) -> Result<(), DemoError> {
    let program = std::env::current_exe().map_err(DemoError::Spawn)?;
    let child = std::process::Command::new(program).args(["demo", "sleep", time]).spawn().map_err(DemoError::Spawn)?;
    output::line(&format!("demo: left process {} behind", child.id()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(task: DemoTask) -> Result<i32, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(task)).map_err(|error| error.to_string())
    }

    #[test]
    fn tasks_end_with_their_code() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        assert_eq!(code(DemoTask::True), Ok(0));
        assert_eq!(code(DemoTask::False), Ok(1));
        assert_eq!(code(DemoTask::Exit { code: 9 }), Ok(9));
        assert_eq!(code(DemoTask::Sleep { time: Duration::from_millis(1) }), Ok(0));
        assert_eq!(code(DemoTask::Print { count: 2, every: Duration::ZERO }), Ok(0));
        assert_eq!(code(DemoTask::Write { file: file.clone(), text: "x".into() }), Ok(0));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "x\n");
        assert_eq!(code(DemoTask::Cat { file: Some(file) }), Ok(0));
        let missing = directory.path().join("no/file");
        let error = code(DemoTask::Write { file: missing, text: String::new() }).unwrap_err();
        assert!(error.contains("no/file") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_check_of_nothing_says_so() {
        for (url, says) in [
            ("http://127.0.0.1:1/", "refused"),
            ("https://127.0.0.1/", "only http://"),
            ("127.0.0.1", "only http://"),
            ("http://[", "no URL"),
        ] {
            let error = code(DemoTask::Check { url: url.to_owned(), timeout: Duration::from_secs(2) }).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
