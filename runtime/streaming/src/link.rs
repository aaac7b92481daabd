//! SPDY on a client's connection, plain or inside WebSocket messages.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::socket::{Incoming, Outgoing, Socket};
use crate::spdy::{self, Encoder, Frame, Headers, SpdyError};
use crate::websocket::{self, Event, Kind, WebSocketError};

/// Why a connection ended that the client didn't end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the other side does not speak SPDY")]
    Spdy(#[from] SpdyError),
    #[error("the other side does not speak WebSocket")]
    WebSocket(#[from] WebSocketError),
    #[error("the other side does not speak the channel protocol: {0}")]
    Channel(&'static str),
}

/// How a session is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    Done,
    /// The client broke the protocol.
    Broken,
}

impl Farewell {
    /// SPDY's word for it.
    fn status(self) -> u32 {
        match self {
            Farewell::Done => spdy::GOAWAY_OK,
            Farewell::Broken => spdy::GOAWAY_PROTOCOL_ERROR,
        }
    }

    /// WebSocket's.
    pub(crate) fn code(self) -> u16 {
        match self {
            Farewell::Done => websocket::CLOSE_NORMAL,
            Farewell::Broken => websocket::CLOSE_PROTOCOL_ERROR,
        }
    }
}

/// How SPDY's bytes lie in the connection's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// As they are.
    Plain,
    /// In binary WebSocket messages, cut anywhere.
    WebSocket,
}

/// Who is on the other side: it numbers its streams and pings by one half of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    Client,
    Server,
}

impl Other {
    /// Whether a number is of its half: odd ones are the client's.
    fn owns(self, number: u32) -> bool {
        (number % 2 == 1) == (self == Other::Client)
    }
}

/// The reading side.
pub(crate) struct Reader {
    socket: Arc<Socket>,
    other: Other,
    tunnel: Option<Tunnel>,
    incoming: Incoming,
    decoder: spdy::Decoder,
    /// What the last frame took of `incoming`.
    consumed: usize,
    encoder: Encoder,
    /// The last stream that the other side opened.
    last: u32,
}

struct Tunnel {
    incoming: Incoming,
    decoder: websocket::Decoder,
}

impl Reader {
    /// A server's.
    pub(crate) fn new(socket: Arc<Socket>, carrier: Carrier) -> Reader {
        Reader::beside(Other::Client, socket, carrier)
    }

    /// A client's.
    pub(crate) fn of_client(socket: Arc<Socket>) -> Reader {
        Reader::beside(Other::Server, socket, Carrier::Plain)
    }

    fn beside(other: Other, socket: Arc<Socket>, carrier: Carrier) -> Reader {
        let tunnel = match carrier {
            Carrier::Plain => None,
            Carrier::WebSocket => {
                Some(Tunnel { incoming: Incoming::new(), decoder: websocket::Decoder::new(Kind::Binary) })
            }
        };
        Reader {
            socket,
            other,
            tunnel,
            incoming: Incoming::new(),
            decoder: spdy::Decoder::new(),
            consumed: 0,
            encoder: Encoder::new(),
            last: 0,
        }
    }

    /// The next frame that isn't the protocol's own business; `None` when the other side is gone.
    pub(crate) async fn next(&mut self, writer: &Writer) -> Result<Option<Frame>, LinkError> {
        loop {
            let step = self.decoder.decode(self.incoming.unread())?;
            self.incoming.consume(step.consumed);
            self.consumed = step.consumed;
            match step.frame {
                None => {
                    if !self.more().await? {
                        return Ok(None);
                    }
                }
                // One of our half would be the answer to ours.
                Some(Frame::Ping { id }) if self.other.owns(id) => writer.frame(&spdy::ping(id)).await?,
                Some(Frame::SynStream { stream, .. }) if !self.other.owns(stream) || stream <= self.last => {
                    writer.frame(&spdy::reset(stream, spdy::RESET_PROTOCOL_ERROR)).await?;
                }
                Some(Frame::SynStream { stream, associated, priority, fin, unidirectional, headers }) => {
                    self.last = stream;
                    return Ok(Some(Frame::SynStream { stream, associated, priority, fin, unidirectional, headers }));
                }
                Some(Frame::GoAway { .. }) => return Ok(None),
                Some(Frame::SynReply { .. } | Frame::Settings { .. } | Frame::Headers { .. } | Frame::Ping { .. }) => {}
                Some(Frame::WindowUpdate { .. } | Frame::Unknown { .. }) => {}
                Some(frame @ (Frame::Reset { .. } | Frame::Data { .. })) => return Ok(Some(frame)),
            }
        }
    }

    /// The bytes of the [`Frame::Data`] that was the last frame.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.incoming.consumed(self.consumed, range)
    }

    /// Accepts a stream that the client opened.
    pub(crate) async fn accept(&mut self, stream: u32, writer: &Writer) -> io::Result<()> {
        let frame = self.encoder.syn_reply(stream, &Headers::default());
        writer.frame(&frame).await
    }

    async fn more(&mut self) -> Result<bool, LinkError> {
        let Some(tunnel) = &mut self.tunnel else { return Ok(self.incoming.more(&self.socket).await?) };
        loop {
            let room = self.incoming.room();
            let unread = tunnel.incoming.unread();
            // No more than there is room for; a control frame always fits.
            let window = unread.len().min(room.len());
            let step = tunnel.decoder.decode(&mut unread[..window])?;
            match step.event {
                Some(Event::Piece { bytes, .. }) => {
                    let length = bytes.len();
                    room[..length].copy_from_slice(&unread[bytes]);
                    tunnel.incoming.consume(step.consumed);
                    self.incoming.filled(length);
                    if length > 0 {
                        return Ok(true);
                    }
                }
                Some(Event::Ping { payload }) => {
                    let pong = websocket::pong(&unread[payload]);
                    tunnel.incoming.consume(step.consumed);
                    self.socket.write(&pong).await?;
                }
                Some(Event::Pong) => tunnel.incoming.consume(step.consumed),
                Some(Event::Close) => return Ok(false),
                None => {
                    if !tunnel.incoming.more(&self.socket).await? {
                        return Ok(false);
                    }
                }
            }
        }
    }
}

/// The writing side, for any number of streams.
#[derive(Clone)]
pub(crate) struct Writer {
    socket: Arc<Socket>,
    carrier: Carrier,
}

impl Writer {
    pub(crate) fn new(socket: Arc<Socket>, carrier: Carrier) -> Writer {
        Writer { socket, carrier }
    }

    /// The payload as a DATA frame.
    pub(crate) async fn data(&self, stream: u32, payload: &mut Outgoing) -> io::Result<()> {
        payload.prepend(&spdy::data_header(stream, false, payload.bytes().len()));
        self.send(payload).await
    }

    /// The end of our side of a stream.
    pub(crate) async fn finish(&self, stream: u32) -> io::Result<()> {
        self.frame(&spdy::data_header(stream, true, 0)).await
    }

    /// A control frame, as it is.
    pub(crate) async fn frame(&self, frame: &[u8]) -> io::Result<()> {
        match self.carrier {
            Carrier::Plain => self.socket.write(frame).await,
            Carrier::WebSocket => self.send(&mut Outgoing::of(frame)).await,
        }
    }

    /// The session is over: the last frames, and then nothing more.
    pub(crate) async fn leave(&self, last: u32, farewell: Farewell) -> io::Result<()> {
        self.frame(&spdy::go_away(last, farewell.status())).await?;
        if self.carrier == Carrier::WebSocket {
            self.socket.write(&websocket::close(farewell.code())).await?;
        }
        self.socket.shutdown().await
    }

    async fn send(&self, frame: &mut Outgoing) -> io::Result<()> {
        if self.carrier == Carrier::WebSocket {
            frame.prepend(websocket::message_header(Kind::Binary, frame.bytes().len()).bytes());
        }
        self.socket.write(frame.bytes()).await?;
        frame.sent();
        Ok(())
    }
}
