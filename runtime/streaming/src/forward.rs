//! Port-forward: many connections into a pod, on one connection of the client.
//!
//! Over SPDY the client opens two streams for each, `data` and `error`, with the port in a header; in WebSocket channels
//! the ports are fixed and each has two channels. A connection that fails ends alone.
//!
//! SPDY as clients speak it has no flow control of single streams, so a pod that doesn't read holds up the other
//! connections of the same session once [`INPUT_BYTES_MAX`] wait for it; the kubelet's own server does so, too. Dropping
//! instead would lose bytes.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use crate::channels::{self, Said};
use crate::handshake::Transport;
use crate::link::{self, Carrier, Farewell, LinkError};
use crate::remote::Ended;
use crate::socket::Socket;
use crate::spdy::{self, Frame, Headers};
use crate::{Backend, Limits, PortForwardRequest};

mod lane;

use lane::{Lane, Pipe, forward};

/// Input that a pod hasn't taken, in bytes, before the client's connection is not read any more.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Most connections of one session at a time: each holds a descriptor of the daemon and a socket in the pod. A browser
/// that loads a page through a forwarded port opens six per host.
const FORWARDS_MAX: usize = 256;
/// Most ports of one session in WebSocket channels: each has two, and a channel's number is a byte.
const CHANNEL_PORTS_MAX: usize = 128;
/// Longest `requestid`, in bytes; client-go counts from 0.
const REQUEST_ID_BYTES_MAX: usize = 64;
/// How long the client may take to read the rest and close, after we have said everything.
const LINGER: Duration = Duration::from_secs(10);

/// Whether the ports of a request fit the transport: in WebSocket channels they are fixed by it.
pub(crate) fn check_ports(transport: Transport, ports: &[u16]) -> Result<(), String> {
    const INSTEAD: &str = "SPDY/3.1 and the WebSocket protocol SPDY/3.1+portforward.k8s.io take any";
    match (transport, ports.len()) {
        (Transport::Channels { .. }, 0) => Err(format!(
            "the request names no port, and a client of WebSocket channels can't name one later; {INSTEAD}"
        )),
        (Transport::Channels { .. }, count) if count > CHANNEL_PORTS_MAX => Err(format!(
            "the request names {count} ports, and WebSocket channels have room for {CHANNEL_PORTS_MAX}; {INSTEAD}"
        )),
        (Transport::Channels { .. } | Transport::Spdy(_), _) => Ok(()),
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    socket: Arc<Socket>,
    transport: Transport,
    request: &PortForwardRequest,
    backend: Arc<dyn Backend>,
    connections: Arc<Semaphore>,
    limits: &Limits,
) -> Ended {
    let Limits { creation, connections_max, .. } = *limits;
    let pod = Pod { backend, sandbox: request.sandbox.clone().into(), creation, connections, connections_max };
    let serving = async {
        match transport {
            Transport::Spdy(carrier) => serve_spdy(&socket, carrier, pod).await.map(|()| Ended::Left),
            Transport::Channels { coding, closes } => {
                let reader = channels::Reader::new(Arc::clone(&socket), coding, closes);
                serve_channels(reader, channels::Writer::new(Arc::clone(&socket), coding), pod, &request.ports).await
            }
        }
    };
    let probe = transport.probe();
    tokio::select! {
        served = serving => served.unwrap_or_else(Ended::from),
        () = socket.hung_up(&probe) => Ended::Left,
        () = socket.idle(limits.idle) => Ended::Idle { limit: limits.idle },
    }
}

/// Where connections go.
#[derive(Clone)]
struct Pod {
    backend: Arc<dyn Backend>,
    sandbox: Arc<str>,
    creation: Duration,
    /// Of all sessions, and how many there are.
    connections: Arc<Semaphore>,
    connections_max: usize,
}

async fn serve_spdy(socket: &Arc<Socket>, carrier: Carrier, pod: Pod) -> Result<(), LinkError> {
    let writer = link::Writer::new(Arc::clone(socket), carrier);
    let mut session =
        Spdy { writer: writer.clone(), pod, forwards: HashMap::new(), streams: HashMap::new(), tasks: JoinSet::new() };
    let mut reader = link::Reader::new(Arc::clone(socket), carrier);
    let read = loop {
        match reader.next(&writer).await {
            Ok(Some(Frame::SynStream { stream, headers, fin, .. })) => {
                session.reap();
                match session.open(stream, &headers) {
                    Some(lane) => {
                        reader.accept(stream, &writer).await?;
                        session.accepted(stream, fin, lane);
                    }
                    None => writer.frame(&spdy::reset(stream, spdy::RESET_REFUSED)).await?,
                }
            }
            Ok(Some(Frame::Data { stream, bytes, fin })) => {
                session.data(stream, reader.bytes(bytes)).await;
                if fin {
                    session.end(stream);
                }
            }
            Ok(Some(Frame::Reset { stream, .. })) => session.cancel(stream),
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // What is in flight ends with the session's tasks; the client is told if it still listens.
    drop(session);
    let farewell = if read.is_ok() { Farewell::Done } else { Farewell::Broken };
    let _ = timeout(LINGER, writer.leave(0, farewell)).await;
    read
}

/// One session over SPDY.
struct Spdy {
    writer: link::Writer,
    pod: Pod,
    /// By the client's request id. Kept until its task has ended.
    forwards: HashMap<String, Forward>,
    /// The request id of each data stream.
    streams: HashMap<u32, String>,
    /// Each ends with its request id.
    tasks: JoinSet<String>,
}

/// One connection, or the half of it that the client has opened.
struct Forward {
    port: u16,
    /// Where the client's bytes go; `None` when it sends no more.
    sink: Option<DuplexStream>,
    /// Dropped to end it at once.
    cancel: Option<watch::Sender<()>>,
    /// Tells its task which streams there are.
    opened: watch::Sender<Opened>,
}

/// The streams of a connection that the client has opened.
#[derive(Clone, Copy, Default)]
struct Opened {
    data: Option<u32>,
    error: Option<u32>,
}

/// Which stream of a connection one is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Data,
    Error,
}

impl Spdy {
    /// Forgets those that have ended.
    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Some(forward) = ended.ok().and_then(|id| self.forwards.remove(&id))
                && let Some(data) = forward.opened.borrow().data
            {
                self.streams.remove(&data);
            }
        }
    }

    /// The connection and the part that a new stream is; `None` to refuse it.
    fn open(&mut self, stream: u32, headers: &Headers) -> Option<(String, Part)> {
        let port = headers.get("port")?.parse::<u16>().ok().filter(|port| *port > 0)?;
        let part = match headers.get("streamtype")? {
            "data" => Part::Data,
            "error" => Part::Error,
            _ => return None,
        };
        let id = match headers.get("requestid") {
            Some(id) if id.len() <= REQUEST_ID_BYTES_MAX => id.to_owned(),
            Some(_) => return None,
            // The oldest clients send none: they open the error stream first and the data stream next.
            None if part == Part::Data => format!("stream {}", stream.checked_sub(2)?),
            None => format!("stream {stream}"),
        };
        match self.forwards.get(&id) {
            Some(forward) => {
                let opened = *forward.opened.borrow();
                let taken = if part == Part::Data { opened.data } else { opened.error };
                (taken.is_none() && forward.port == port).then_some((id, part))
            }
            None if self.forwards.len() >= FORWARDS_MAX => None,
            None => {
                self.begin(id.clone(), port);
                Some((id, part))
            }
        }
    }

    /// A connection whose streams are to come.
    fn begin(&mut self, id: String, port: u16) {
        let (near, far) = duplex(INPUT_BYTES_MAX);
        let (cancel, cancelled) = watch::channel(());
        let (opened, streams) = watch::channel(Opened::default());
        let (pod, writer, name) = (self.pod.clone(), self.writer.clone(), id.clone());
        self.tasks.spawn(async move {
            match both(streams, pod.creation).await {
                Ok((data, error)) => {
                    let lane = Lane::Spdy { writer, data, error };
                    forward(&lane, Pipe { near, cancelled }, &pod, port).await;
                }
                Err(Opened { data, error }) => told(lane::give_up(&writer, data, error, &name).await),
            }
            name
        });
        let forward = Forward { port, sink: Some(far), cancel: Some(cancel), opened };
        self.forwards.insert(id, forward);
    }

    /// The client knows that a stream is open.
    fn accepted(&mut self, stream: u32, fin: bool, (id, part): (String, Part)) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        if part == Part::Data {
            self.streams.insert(stream, id);
            if fin {
                forward.sink = None;
            }
        }
        forward.opened.send_modify(|opened| match part {
            Part::Data => opened.data = Some(stream),
            Part::Error => opened.error = Some(stream),
        });
    }

    fn of(&mut self, stream: u32) -> Option<&mut Forward> {
        self.streams.get(&stream).and_then(|id| self.forwards.get_mut(id))
    }

    /// Waits while the pod doesn't take what it has.
    async fn data(&mut self, stream: u32, bytes: &[u8]) {
        if let Some(forward) = self.of(stream)
            && let Some(sink) = &mut forward.sink
            && sink.write_all(bytes).await.is_err()
        {
            forward.sink = None;
        }
    }

    fn end(&mut self, stream: u32) {
        if let Some(forward) = self.of(stream) {
            forward.sink = None;
        }
    }

    fn cancel(&mut self, stream: u32) {
        if let Some(forward) = self.of(stream) {
            forward.cancel = None;
            forward.sink = None;
        }
    }
}

/// A connection's two streams once both are open; which are, when the deadline has passed.
async fn both(mut streams: watch::Receiver<Opened>, creation: Duration) -> Result<(u32, u32), Opened> {
    // The sender is dropped with the session, as is this.
    let _ = timeout(creation, streams.wait_for(|opened| opened.data.is_some() && opened.error.is_some())).await;
    let opened = *streams.borrow();
    opened.data.zip(opened.error).ok_or(opened)
}

async fn serve_channels(
    mut reader: channels::Reader,
    writer: channels::Writer,
    pod: Pod,
    ports: &[u16],
) -> Result<Ended, LinkError> {
    let mut tasks = JoinSet::new();
    let mut sinks = Vec::new();
    // No more than there are channels for: checked before the client was let in.
    for (data, port) in (0..=u8::MAX).step_by(2).zip(ports.iter().copied()) {
        let lane = Lane::Channels { writer: writer.clone(), data, error: data + 1 };
        lane.announce(port).await?;
        let (near, far) = duplex(INPUT_BYTES_MAX);
        let (cancel, cancelled) = watch::channel(());
        sinks.push(Some((far, cancel)));
        let pod = pod.clone();
        tasks.spawn(async move {
            forward(&lane, Pipe { near, cancelled }, &pod, port).await;
        });
    }
    let mut reading = std::pin::pin!(read_channels(&mut reader, &mut sinks));
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        read = &mut reading => {
            if read.is_err() {
                let _ = timeout(LINGER, writer.leave(Farewell::Broken)).await;
            }
            return read.map(|()| Ended::Left);
        }
        () = all => {}
    }
    let goodbye = async {
        writer.leave(Farewell::Done).await.ok()?;
        reading.await.ok()
    };
    let _ = timeout(LINGER, goodbye).await;
    Ok(Ended::Told)
}

async fn read_channels(
    reader: &mut channels::Reader,
    sinks: &mut [Option<(DuplexStream, watch::Sender<()>)>],
) -> Result<(), LinkError> {
    while let Some(said) = reader.next().await? {
        let (Said::Bytes { channel, .. } | Said::Closed { channel }) = &said;
        // An error channel is the client's to read alone.
        let Some(place) = sinks.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0) else { continue };
        match said {
            Said::Bytes { bytes, .. } => {
                if let Some((sink, _)) = place
                    && sink.write_all(reader.bytes(bytes)).await.is_err()
                {
                    *place = None;
                }
            }
            Said::Closed { .. } => *place = None,
        }
    }
    Ok(())
}

/// Used by [`lane`] for what can't be told to anyone.
fn told(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::trace!(%error, "the client of a port-forward is gone");
    }
}
