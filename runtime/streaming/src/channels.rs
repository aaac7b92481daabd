//! Kubernetes' channels in WebSocket messages: each message is one byte that names the channel, and the bytes; or, in the
//! `base64.` variants, one digit and base64 in text messages.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::link::{Farewell, LinkError};
use crate::socket::{Incoming, Outgoing, Socket};
use crate::websocket::{self, Decoder, Event, Kind};

/// `v5.channel.k8s.io`: the message's next byte is a channel that the client closes.
const CLOSE_CHANNEL: u8 = 255;

/// How bytes lie in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Binary,
    Base64,
}

impl Coding {
    fn kind(self) -> Kind {
        match self {
            Coding::Binary => Kind::Binary,
            Coding::Base64 => Kind::Text,
        }
    }
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Bytes of a channel; [`Reader::bytes`] has them.
    Bytes { channel: u8, bytes: Range<usize> },
    /// It sends no more on a channel.
    Closed { channel: u8 },
}

/// The reading side.
pub(crate) struct Reader {
    socket: Arc<Socket>,
    incoming: Incoming,
    decoder: Decoder,
    coding: Coding,
    /// Whether [`CLOSE_CHANNEL`] is one.
    closes: Closes,
    /// The channel of the message that is being read.
    channel: Option<u8>,
    /// Base64 that doesn't make whole bytes yet, and what was decoded last.
    carry: Vec<u8>,
    decoded: Vec<u8>,
    consumed: usize,
}

/// Whether a protocol can close single channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closes {
    Channels,
    Never,
}

impl Reader {
    pub(crate) fn new(socket: Arc<Socket>, coding: Coding, closes: Closes) -> Reader {
        Reader {
            socket,
            incoming: Incoming::new(),
            decoder: Decoder::new(coding.kind()),
            coding,
            closes,
            channel: None,
            carry: Vec::new(),
            decoded: Vec::new(),
            consumed: 0,
        }
    }

    /// The next thing said; `None` when the client is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<Said>, LinkError> {
        loop {
            let step = self.decoder.decode(self.incoming.unread())?;
            self.incoming.consume(step.consumed);
            self.consumed = step.consumed;
            match step.event {
                None => {
                    if !self.incoming.more(&self.socket).await? {
                        return Ok(None);
                    }
                }
                Some(Event::Ping { payload }) => {
                    let pong = websocket::pong(self.incoming.consumed(self.consumed, payload));
                    self.socket.write(&pong).await?;
                }
                Some(Event::Pong) => {}
                Some(Event::Close) => return Ok(None),
                Some(Event::Piece { bytes, first, last }) => {
                    if first {
                        self.channel = None;
                        self.carry.clear();
                    }
                    if let Some(said) = self.piece(bytes, last)? {
                        return Ok(Some(said));
                    }
                }
            }
        }
    }

    /// The bytes of the last [`Said::Bytes`].
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        match self.coding {
            Coding::Binary => self.incoming.consumed(self.consumed, range),
            Coding::Base64 => &self.decoded[range],
        }
    }

    fn piece(&mut self, mut bytes: Range<usize>, last: bool) -> Result<Option<Said>, LinkError> {
        let piece = self.incoming.consumed(self.consumed, bytes.clone());
        let channel = match (self.channel, piece.first()) {
            (Some(channel), _) => channel,
            // A message without a byte is nothing.
            (None, None) => return Ok(None),
            (None, Some(first)) => {
                let channel = match self.coding {
                    Coding::Binary => *first,
                    Coding::Base64 => first.wrapping_sub(b'0'),
                };
                self.channel = Some(channel);
                bytes.start += 1;
                channel
            }
        };
        let piece = self.incoming.consumed(self.consumed, bytes.clone());
        if self.closes == Closes::Channels && channel == CLOSE_CHANNEL {
            return match piece {
                [channel] => Ok(Some(Said::Closed { channel: *channel })),
                [] => Ok(None),
                _ => Err(LinkError::Channel("more than one byte behind a close signal")),
            };
        }
        let length = match self.coding {
            Coding::Binary => bytes.len(),
            Coding::Base64 => {
                self.carry.extend_from_slice(piece);
                let whole = if last { self.carry.len() } else { self.carry.len() / 4 * 4 };
                self.decoded.clear();
                STANDARD
                    .decode_vec(&self.carry[..whole], &mut self.decoded)
                    .map_err(|_| LinkError::Channel("a text message that isn't base64"))?;
                self.carry.drain(..whole);
                bytes = 0..self.decoded.len();
                bytes.len()
            }
        };
        Ok((length > 0).then_some(Said::Bytes { channel, bytes }))
    }
}

/// The writing side.
#[derive(Clone)]
pub(crate) struct Writer {
    socket: Arc<Socket>,
    coding: Coding,
}

impl Writer {
    pub(crate) fn new(socket: Arc<Socket>, coding: Coding) -> Writer {
        Writer { socket, coding }
    }

    /// The payload as a message of a channel.
    pub(crate) async fn data(&self, channel: u8, payload: &mut Outgoing) -> io::Result<()> {
        match self.coding {
            Coding::Binary => {
                payload.prepend(&[channel]);
                payload.prepend(websocket::message_header(Kind::Binary, payload.bytes().len()).bytes());
                self.socket.write(payload.bytes()).await?;
            }
            Coding::Base64 => {
                let mut text = String::from(char::from(b'0'.wrapping_add(channel)));
                STANDARD.encode_string(payload.bytes(), &mut text);
                let header = websocket::message_header(Kind::Text, text.len());
                self.socket.write(&[header.bytes(), text.as_bytes()].concat()).await?;
            }
        }
        payload.sent();
        Ok(())
    }

    /// The session is over: the last frame, and then nothing more.
    pub(crate) async fn leave(&self, farewell: Farewell) -> io::Result<()> {
        self.socket.write(&websocket::close(farewell.code())).await?;
        self.socket.shutdown().await
    }
}
