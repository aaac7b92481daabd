//! One forwarded connection.

use std::io;
use std::pin::pin;

use tokio::io::{AsyncWriteExt as _, DuplexStream, split};
use tokio::sync::watch;

use super::{Pod, told};
use crate::socket::Outgoing;
use crate::{channels, link, spdy};

/// Its way to the client.
pub(super) enum Lane {
    Spdy { writer: link::Writer, data: u32, error: u32 },
    Channels { writer: channels::Writer, data: u8, error: u8 },
}

/// Its way from the client.
pub(super) struct Pipe {
    pub(super) near: DuplexStream,
    /// Closed when the client wants it ended at once.
    pub(super) cancelled: watch::Receiver<()>,
}

impl Lane {
    /// WebSocket's first messages on a port's two channels: which port it is.
    pub(super) async fn announce(&self, port: u16) -> io::Result<()> {
        let Lane::Channels { writer, data, error } = self else { return Ok(()) };
        writer.data(*data, &mut Outgoing::of(&port.to_le_bytes())).await?;
        writer.data(*error, &mut Outgoing::of(&port.to_le_bytes())).await
    }

    async fn data(&self, payload: &mut Outgoing) -> io::Result<()> {
        match self {
            Lane::Spdy { writer, data, .. } => writer.data(*data, payload).await,
            Lane::Channels { writer, data, .. } => writer.data(*data, payload).await,
        }
    }

    /// The pod sends no more.
    async fn finish_data(&self) -> io::Result<()> {
        match self {
            Lane::Spdy { writer, data, .. } => writer.finish(*data).await,
            Lane::Channels { .. } => Ok(()),
        }
    }

    /// The pod's side was reset: so is the client's stream, and no other.
    async fn reset_data(&self) -> io::Result<()> {
        match self {
            Lane::Spdy { writer, data, .. } => writer.frame(&spdy::reset(*data, spdy::RESET_CANCEL)).await,
            Lane::Channels { .. } => Ok(()),
        }
    }

    /// It is over, without an error to tell.
    async fn finish_error(&self) -> io::Result<()> {
        match self {
            Lane::Spdy { writer, error, .. } => writer.finish(*error).await,
            Lane::Channels { .. } => Ok(()),
        }
    }

    async fn fail(&self, text: &str) -> io::Result<()> {
        let mut payload = Outgoing::of(text.as_bytes());
        match self {
            Lane::Spdy { writer, error, .. } => writer.data(*error, &mut payload).await?,
            Lane::Channels { writer, error, .. } => writer.data(*error, &mut payload).await?,
        }
        self.finish_error().await?;
        self.reset_data().await
    }
}

/// How the pod's side ended.
enum Down {
    Finished,
    Reset,
    Cancelled,
    ClientGone,
}

/// Connects, moves bytes both ways until both sides have ended, or one failed.
pub(super) async fn forward(lane: &Lane, pipe: Pipe, pod: &Pod, port: u16) {
    let Pipe { mut near, cancelled } = pipe;
    let sandbox = &pod.sandbox;
    let Ok(_permit) = pod.connections.try_acquire() else {
        let max = pod.connections_max;
        let text = format!(
            "error forwarding port {port} to pod {sandbox}: {max} connections into pods are open, which is the limit; end \
             some or try again later"
        );
        return told(lane.fail(&text).await);
    };
    let connected = tokio::select! {
        connected = pod.backend.connect(sandbox, port) => connected,
        () = closed(cancelled.clone()) => return told(lane.finish_error().await),
    };
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => {
            let text = format!("error forwarding port {port} to pod {sandbox}: {error}");
            return told(lane.fail(&text).await);
        }
    };
    let (mut from_pod, mut to_pod) = split(connection);
    let mut up = pin!(async {
        let copying = async {
            let mut payload = Outgoing::new();
            while payload.fill(&mut near).await.is_ok_and(|read| read > 0) {
                if to_pod.write_all(payload.bytes()).await.is_err() || to_pod.flush().await.is_err() {
                    // The pod takes no more; what it sends may still come.
                    return;
                }
                payload.sent();
            }
            // The client's half-close.
            let _ = to_pod.shutdown().await;
        };
        tokio::select! {
            () = copying => {}
            () = closed(cancelled.clone()) => {}
        }
        drop(near);
    });
    // Not given up while it writes, which would tear a frame that belongs to all connections of the session.
    let mut down = pin!(async {
        let mut payload = Outgoing::new();
        loop {
            let read = tokio::select! {
                read = payload.fill(&mut from_pod) => read,
                () = closed(cancelled.clone()) => return Down::Cancelled,
            };
            let sent = match read {
                Ok(0) => return if lane.finish_data().await.is_ok() { Down::Finished } else { Down::ClientGone },
                Ok(_) => lane.data(&mut payload).await,
                Err(_) => return Down::Reset,
            };
            if sent.is_err() {
                return Down::ClientGone;
            }
        }
    });
    let mut up_ended = false;
    let ended = loop {
        tokio::select! {
            () = &mut up, if !up_ended => up_ended = true,
            ended = &mut down => break ended,
        }
    };
    match ended {
        Down::Finished if !up_ended => up.await,
        Down::Finished | Down::Cancelled => {}
        // The connection's own business: told by the reset, not as an error of forwarding, for which clients end all.
        Down::Reset => told(lane.reset_data().await),
        Down::ClientGone => return,
    }
    told(lane.finish_error().await);
}

/// A connection of which the client has opened one stream alone.
pub(super) async fn give_up(writer: &link::Writer, data: Option<u32>, error: Option<u32>, id: &str) -> io::Result<()> {
    if let Some(data) = data {
        writer.frame(&spdy::reset(data, spdy::RESET_CANCEL)).await?;
    }
    if let Some(error) = error {
        let text = format!("timed out waiting for the streams of request {id}");
        writer.data(error, &mut Outgoing::of(text.as_bytes())).await?;
        writer.finish(error).await?;
    }
    Ok(())
}

/// Done when the sender is dropped.
async fn closed(mut cancelled: watch::Receiver<()>) {
    while cancelled.changed().await.is_ok() {}
}
