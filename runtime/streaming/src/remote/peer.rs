//! The five channels of a process, on either transport.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::oneshot;

use super::sinks::Sinks;
use crate::channels;
use crate::handshake::Transport;
use crate::link::{self, Farewell, LinkError};
use crate::socket::{Outgoing, Socket};
use crate::spdy::{self, Frame};

/// One of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Stdin,
    Stdout,
    Stderr,
    Error,
    Resize,
}

impl Channel {
    const ALL: [Channel; 5] = [Channel::Stdin, Channel::Stdout, Channel::Stderr, Channel::Error, Channel::Resize];

    /// Its number in WebSocket messages.
    fn number(self) -> u8 {
        match self {
            Channel::Stdin => 0,
            Channel::Stdout => 1,
            Channel::Stderr => 2,
            Channel::Error => 3,
            Channel::Resize => 4,
        }
    }

    /// Its name in SPDY's `streamtype` header.
    fn name(self) -> &'static str {
        match self {
            Channel::Stdin => "stdin",
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
            Channel::Error => "error",
            Channel::Resize => "resize",
        }
    }
}

/// The reading side.
pub(super) enum Reader {
    Spdy(Box<link::Reader>),
    Channels(Box<channels::Reader>),
}

impl Reader {
    pub(super) fn new(socket: &Arc<Socket>, transport: Transport) -> Reader {
        let socket = Arc::clone(socket);
        match transport {
            Transport::Spdy(carrier) => Reader::Spdy(Box::new(link::Reader::new(socket, carrier))),
            Transport::Channels { coding, closes } => {
                Reader::Channels(Box::new(channels::Reader::new(socket, coding, closes)))
            }
        }
    }
}

/// The writing side.
pub(super) enum Peer {
    Spdy { writer: link::Writer, streams: Streams },
    Channels { writer: channels::Writer },
}

/// The streams that are open for writing, by channel; 0 for none.
pub(super) struct Streams([AtomicU32; 5]);

impl Streams {
    fn of(&self, channel: Channel) -> &AtomicU32 {
        &self.0[usize::from(channel.number())]
    }

    fn find(&self, stream: u32) -> Option<Channel> {
        Channel::ALL.into_iter().find(|channel| self.of(*channel).load(Ordering::Relaxed) == stream)
    }
}

impl Peer {
    pub(super) fn new(socket: &Arc<Socket>, transport: Transport) -> Peer {
        let socket = Arc::clone(socket);
        match transport {
            Transport::Spdy(carrier) => {
                Peer::Spdy { writer: link::Writer::new(socket, carrier), streams: Streams(Default::default()) }
            }
            Transport::Channels { coding, .. } => Peer::Channels { writer: channels::Writer::new(socket, coding) },
        }
    }

    /// Bytes for the client; nothing where it has closed the stream or never opened it.
    pub(super) async fn data(&self, channel: Channel, payload: &mut Outgoing) -> io::Result<()> {
        match self {
            Peer::Spdy { writer, streams } => match streams.of(channel).load(Ordering::Relaxed) {
                0 => Ok(()),
                stream => writer.data(stream, payload).await,
            },
            Peer::Channels { writer } => writer.data(channel.number(), payload).await,
        }
    }

    /// No more bytes for the client. Repeating it does nothing; WebSocket's channels have no end of their own.
    pub(super) async fn finish(&self, channel: Channel) -> io::Result<()> {
        match self {
            Peer::Spdy { writer, streams } => match streams.of(channel).swap(0, Ordering::Relaxed) {
                0 => Ok(()),
                stream => writer.finish(stream).await,
            },
            Peer::Channels { .. } => Ok(()),
        }
    }

    /// The session is over.
    pub(super) async fn leave(&self, farewell: Farewell) -> io::Result<()> {
        match self {
            Peer::Spdy { writer, .. } => writer.leave(0, farewell).await,
            Peer::Channels { writer } => writer.leave(farewell).await,
        }
    }

    /// Reads until the client leaves; tells `opened` once all `wanted` channels are there.
    pub(super) async fn read(
        &self,
        reader: Reader,
        sinks: Sinks,
        wanted: Vec<Channel>,
        opened: oneshot::Sender<()>,
    ) -> Result<(), LinkError> {
        match (self, reader) {
            (Peer::Spdy { writer, streams }, Reader::Spdy(reader)) => {
                read_spdy(*reader, writer, streams, sinks, wanted, opened).await
            }
            (Peer::Channels { writer }, Reader::Channels(reader)) => {
                read_channels(*reader, writer, sinks, &wanted, opened).await
            }
            (Peer::Spdy { .. }, Reader::Channels(_)) | (Peer::Channels { .. }, Reader::Spdy(_)) => {
                unreachable!("both are made from one transport")
            }
        }
    }
}

async fn read_spdy(
    mut reader: link::Reader,
    writer: &link::Writer,
    streams: &Streams,
    mut sinks: Sinks,
    mut wanted: Vec<Channel>,
    opened: oneshot::Sender<()>,
) -> Result<(), LinkError> {
    let mut opened = Some(opened);
    // Our side of a stream may be finished while the client still sends on it.
    let mut inputs = [(0, Channel::Stdin), (0, Channel::Resize)];
    while let Some(frame) = reader.next(writer).await? {
        match frame {
            Frame::SynStream { stream, fin, headers, .. } => {
                let name = headers.get("streamtype").unwrap_or_default();
                let channel = Channel::ALL.into_iter().find(|channel| channel.name() == name);
                let free = channel.filter(|channel| streams.of(*channel).load(Ordering::Relaxed) == 0);
                let Some(channel) = free else {
                    writer.frame(&spdy::reset(stream, spdy::RESET_REFUSED)).await?;
                    continue;
                };
                reader.accept(stream, writer).await?;
                streams.of(channel).store(stream, Ordering::Relaxed);
                inputs.iter_mut().filter(|(_, input)| *input == channel).for_each(|(id, _)| *id = stream);
                if fin && channel == Channel::Stdin {
                    sinks.end_stdin();
                }
                wanted.retain(|wanted| *wanted != channel);
                if wanted.is_empty()
                    && let Some(opened) = opened.take()
                {
                    // Nobody waits any more when the deadline was missed; the session ends then.
                    let _ = opened.send(());
                }
            }
            Frame::Data { stream, bytes, fin } => {
                let input = inputs.iter().find(|(id, _)| *id == stream).map(|(_, channel)| *channel);
                match input {
                    Some(Channel::Stdin) => {
                        sinks.stdin(reader.bytes(bytes)).await;
                        if fin {
                            sinks.end_stdin();
                        }
                    }
                    Some(Channel::Resize) => sinks.resize(reader.bytes(bytes)),
                    Some(Channel::Stdout | Channel::Stderr | Channel::Error) | None => {}
                }
            }
            Frame::Reset { stream, .. } => {
                if inputs[0].0 == stream {
                    sinks.end_stdin();
                }
                if let Some(channel) = streams.find(stream) {
                    streams.of(channel).store(0, Ordering::Relaxed);
                }
            }
            // The reader keeps the others to itself.
            _ => {}
        }
    }
    Ok(())
}

async fn read_channels(
    mut reader: channels::Reader,
    writer: &channels::Writer,
    mut sinks: Sinks,
    wanted: &[Channel],
    opened: oneshot::Sender<()>,
) -> Result<(), LinkError> {
    // An empty message tells the client that it is connected, on the first channel that it reads.
    let first = wanted.iter().find(|channel| **channel != Channel::Stdin).unwrap_or(&Channel::Error);
    writer.data(first.number(), &mut Outgoing::of(&[])).await?;
    let _ = opened.send(());
    while let Some(said) = reader.next().await? {
        match said {
            channels::Said::Bytes { channel, bytes } if channel == Channel::Stdin.number() => {
                sinks.stdin(reader.bytes(bytes)).await;
            }
            channels::Said::Bytes { channel, bytes } if channel == Channel::Resize.number() => {
                sinks.resize(reader.bytes(bytes));
            }
            channels::Said::Closed { channel } if channel == Channel::Stdin.number() => sinks.end_stdin(),
            channels::Said::Bytes { .. } | channels::Said::Closed { .. } => {}
        }
    }
    Ok(())
}
