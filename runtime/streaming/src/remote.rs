//! Exec and attach: the streams of one process, on one connection.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{oneshot, watch};
use tokio::time::{Duration, timeout};

use crate::handshake::{Report, Transport};
use crate::link::{Farewell, LinkError};
use crate::socket::{Outgoing, Socket};
use crate::{
    AttachRequest, Backend, BackendError, ExecRequest, ExitStatus, Input, Limits, Output, Session, Size, Terminal,
    status,
};

mod peer;
mod sinks;

use peer::{Channel, Peer, Reader};
use sinks::Sinks;

/// Input that the process hasn't taken, in bytes, before the client's connection is not read any more.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// How long output may be silent after the process has ended: somebody who inherited it holds it open.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the client may take to read the rest and close, after we have said everything.
const LINGER: Duration = Duration::from_secs(10);

/// What is begun.
#[derive(Debug)]
pub(crate) enum Start {
    Exec(ExecRequest),
    Attach(AttachRequest),
}

/// How a session ended, for the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the process ended and the client was told")]
    Told,
    #[error("the client left")]
    Left,
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("no byte moved for {limit:?}")]
    Idle { limit: Duration },
    #[error("the client did not open its streams within {limit:?}")]
    NoStreams { limit: Duration },
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    socket: Arc<Socket>,
    transport: Transport,
    report: Report,
    start: &Start,
    backend: &dyn Backend,
    limits: &Limits,
) -> Ended {
    let (near, far) = duplex(INPUT_BYTES_MAX);
    let (sizes, size) = watch::channel(None);
    let (opened, all_opened) = oneshot::channel();
    let peer = Peer::new(&socket, transport);
    let reader = Reader::new(&socket, transport);
    let mut reading = std::pin::pin!(peer.read(reader, Sinks::new(far, sizes), wanted(start), opened));
    let serving = std::pin::pin!(async {
        match timeout(limits.creation, all_opened).await {
            Ok(Ok(())) => {}
            // The reader is gone, and says why.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => {
                let ended = Ended::NoStreams { limit: limits.creation };
                // On the error stream, if that is there.
                tell(&peer, report, &Err(BackendError { message: ended.to_string() })).await?;
                return Ok(ended);
            }
        }
        let outcome = process(&peer, start, backend, near, size).await?;
        tell(&peer, report, &outcome).await?;
        Ok::<_, std::io::Error>(Ended::Told)
    });
    let probe = transport.probe();
    let ended = tokio::select! {
        read = &mut reading => {
            // The client that speaks nonsense is told if it still listens.
            if read.is_err() {
                let _ = timeout(LINGER, peer.leave(Farewell::Broken)).await;
            }
            return read.map_or_else(Ended::from, |()| Ended::Left);
        }
        () = socket.hung_up(&probe) => return Ended::Left,
        () = socket.idle(limits.idle) => return Ended::Idle { limit: limits.idle },
        served = serving => served.unwrap_or_else(|error| Ended::Link(error.into())),
    };
    // The client's last bytes are read: closing a socket with unread ones resets it, and the client would lose our last.
    let goodbye = async {
        peer.leave(Farewell::Done).await.ok()?;
        reading.await.ok()
    };
    let _ = timeout(LINGER, goodbye).await;
    ended
}

/// The channels that must be open before the process begins. A size may come later.
fn wanted(start: &Start) -> Vec<Channel> {
    let (stdin, stdout, stderr) = match start {
        Start::Exec(request) => (request.stdin, request.stdout, request.stderr),
        Start::Attach(request) => (request.stdin, request.stdout, request.stderr),
    };
    let asked = [(stdin, Channel::Stdin), (stdout, Channel::Stdout), (stderr, Channel::Stderr), (true, Channel::Error)];
    asked.into_iter().filter(|(asked, _)| *asked).map(|(_, channel)| channel).collect()
}

type Outcome = Result<ExitStatus, BackendError>;

/// Runs it. An error is the connection's.
async fn process(
    peer: &Peer,
    start: &Start,
    backend: &dyn Backend,
    near: DuplexStream,
    size: watch::Receiver<Option<Size>>,
) -> Result<Outcome, std::io::Error> {
    let begun = match start {
        Start::Exec(request) => backend.exec(request).await,
        Start::Attach(request) => backend.attach(request).await,
    };
    let Session { stdin, stdout, stderr, terminal, ended } = match begun {
        Ok(session) => session,
        Err(error) => return Ok(Err(error)),
    };
    let (over, is_over) = watch::channel(false);
    let ending = async {
        let outcome = ended.await;
        over.send_replace(true);
        Ok(outcome)
    };
    let whole = async {
        tokio::try_join!(
            ending,
            output(peer, Channel::Stdout, stdout, is_over.clone()),
            output(peer, Channel::Stderr, stderr, is_over.clone()),
        )
    };
    let beside = async {
        tokio::join!(input(peer, near, stdin), resizing(terminal, size));
        std::future::pending::<Infallible>().await
    };
    let outcome = tokio::select! {
        whole = whole => whole?.0,
        never = beside => match never {},
    };
    // An attach ends with the container, whose exit code is read elsewhere; clients expect no other end of it.
    Ok(match (start, outcome) {
        (Start::Attach(_), Ok(_)) => Ok(ExitStatus { code: 0 }),
        (_, outcome) => outcome,
    })
}

/// From the process to the client. What the client doesn't take waits in the process's pipe.
async fn output(
    peer: &Peer,
    channel: Channel,
    source: Option<Output>,
    mut is_over: watch::Receiver<bool>,
) -> std::io::Result<()> {
    if let Some(mut source) = source {
        let mut payload = Outgoing::new();
        loop {
            let read = if *is_over.borrow() {
                timeout(DRAIN, payload.fill(&mut source)).await.unwrap_or(Ok(0))
            } else {
                tokio::select! {
                    read = payload.fill(&mut source) => read,
                    // Its sender lives as long as this.
                    _ = is_over.changed() => continue,
                }
            };
            // A terminal's master fails when nobody is on the other side any more.
            if read.unwrap_or(0) == 0 {
                break;
            }
            peer.data(channel, &mut payload).await?;
        }
    }
    peer.finish(channel).await
}

/// From the client to the process, whose end of it closes when the client's does.
async fn input(peer: &Peer, mut near: DuplexStream, sink: Option<Input>) {
    if let Some(mut sink) = sink {
        let mut payload = Outgoing::new();
        while payload.fill(&mut near).await.is_ok_and(|read| read > 0) {
            if sink.write_all(payload.bytes()).await.is_err() || sink.flush().await.is_err() {
                break;
            }
            payload.sent();
        }
        // A sink that can't be closed alone is closed by dropping it.
        let _ = sink.shutdown().await;
    }
    drop(near);
    // The client stops sending what nobody takes; that it is gone is found by the reader.
    let _ = peer.finish(Channel::Stdin).await;
}

/// The last size is set; those that came meanwhile don't matter.
async fn resizing(terminal: Option<Terminal>, mut sizes: watch::Receiver<Option<Size>>) {
    let Some(terminal) = terminal else { return };
    while sizes.changed().await.is_ok() {
        let size = *sizes.borrow_and_update();
        if let Some(size) = size {
            terminal(size);
        }
    }
}

/// The last words.
async fn tell(peer: &Peer, report: Report, outcome: &Outcome) -> std::io::Result<()> {
    // Clients read the output to its end before they look at this.
    peer.finish(Channel::Stdout).await?;
    peer.finish(Channel::Stderr).await?;
    if let Some(text) = status::report(report, outcome) {
        peer.data(Channel::Error, &mut Outgoing::of(&text)).await?;
    }
    for channel in [Channel::Error, Channel::Stdin, Channel::Resize] {
        peer.finish(channel).await?;
    }
    Ok(())
}
