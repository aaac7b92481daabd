//! Netlink messages and the socket they go through.
//!
//! Links, addresses and routes are messages of netlink-packet-route. Those of nftables and of connection tracking are
//! written here attribute by attribute: there is no crate for them that is not C.

use netlink_packet_core::{
    Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader, NetlinkSerializable, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use runtime_sys::SysError;

/// Bytes of the buffer for one answer: the kernel fills at most 32 KiB per `recv` of a dump.
const ANSWER_BYTES_MAX: usize = 32 * 1024;
/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

const ATTRIBUTE_NESTED: u16 = netlink_packet_core::NLA_F_NESTED;
const ERROR_TEXT: u16 = 1;

/// A request that failed, or a socket that did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}{}{said}", if .said.is_empty() { "" } else { ": " })]
pub struct NetlinkError {
    /// The request in words, and the kernel's error number.
    pub error: SysError,
    /// What the kernel says beyond the number (`NLMSGERR_ATTR_MSG`); often nothing.
    pub said: String,
}

impl NetlinkError {
    pub(crate) fn new(call: impl Into<String>, errno: i32) -> Self {
        Self { error: SysError::new(call, errno), said: String::new() }
    }

    fn io(call: &str, error: &std::io::Error) -> Self {
        Self { error: SysError::from_io(call, error), said: String::new() }
    }

    /// The positive error number.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.error.errno()
    }
}

/// Error numbers that are branched on, as in `asm-generic/errno-base.h`.
pub(crate) mod errno {
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EEXIST: i32 = 17;
    pub(crate) const ENODEV: i32 = 19;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const EPROTO: i32 = 71;
    pub(crate) const EADDRINUSE: i32 = 98;
    pub(crate) const ERESTART: i32 = 85;
}

/// One message, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The request in words, for errors.
    pub(crate) what: String,
    kind: u16,
    flags: u16,
    /// What follows the header.
    bytes: Vec<u8>,
}

impl Message {
    pub(crate) fn new(what: impl Into<String>, kind: u16, flags: u16) -> Self {
        Self { what: what.into(), kind, flags: flags | NLM_F_REQUEST, bytes: Vec::with_capacity(256) }
    }

    /// One of links, addresses and routes.
    pub(crate) fn route(what: impl Into<String>, flags: u16, message: &RouteNetlinkMessage) -> Self {
        let mut bytes = vec![0; NetlinkSerializable::buffer_len(message)];
        message.serialize(&mut bytes);
        Self { what: what.into(), kind: message.message_type(), flags: flags | NLM_F_REQUEST, bytes }
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.bytes.extend_from_slice(body);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("no value that is written here is longer than 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn native(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// In network byte order, as everything of nftables is.
    pub(crate) fn big(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// With its NUL.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    pub(crate) fn nest(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | ATTRIBUTE_NESTED).to_ne_bytes());
        let mut filled = inner(self);
        let length = u16::try_from(filled.bytes.len() - at).expect("elements are cut into messages below 64 KiB");
        filled.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn write(&self, to: &mut Vec<u8>, sequence: u32, extra_flags: u16) {
        let start = to.len();
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(HEADER_BYTES + self.bytes.len()).expect("far below 4 GiB");
        header.message_type = self.kind;
        header.flags = self.flags | extra_flags;
        header.sequence_number = sequence;
        to.resize(start + HEADER_BYTES, 0);
        header.emit(&mut to[start..]);
        to.extend_from_slice(&self.bytes);
        to.resize(to.len().next_multiple_of(4), 0);
    }
}

/// The attributes of a message or of a nested attribute; ends at the first one that makes no sense.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(4..end)?))
    })
}

pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

pub(crate) fn native(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

pub(crate) fn big(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// One message of an answer, without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// A netlink socket of the namespace it was opened in. Never blocks: the kernel answers a request while it is sent.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    sending: Vec<u8>,
}

impl Netlink {
    /// `NETLINK_ROUTE`: links, addresses, routes.
    pub(crate) fn route() -> Result<Self, NetlinkError> {
        Self::open(NETLINK_ROUTE)
    }

    /// `NETLINK_NETFILTER`: nftables.
    pub(crate) fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol).map_err(|error| NetlinkError::io("socket(AF_NETLINK)", &error))?;
        socket.bind_auto().map_err(|error| NetlinkError::io("bind(AF_NETLINK)", &error))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(|error| NetlinkError::io("connect(AF_NETLINK)", &error))?;
        socket.set_non_blocking(true).map_err(|error| NetlinkError::io("fcntl(O_NONBLOCK)", &error))?;
        // Kernels that lack it answer with the bare number.
        drop(socket.set_ext_ack(true));
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(ANSWER_BYTES_MAX), sending: Vec::new() })
    }

    /// Sends all messages in one call and reports the first that failed; later ones have been tried all the same
    /// (rtnetlink) or none had effect (an nftables batch).
    pub(crate) fn run(&mut self, messages: &[Message]) -> Result<(), NetlinkError> {
        let Some(last) = messages.len().checked_sub(1) else { return Ok(()) };
        self.run_acknowledged(messages, last)
    }

    /// The same where the acknowledgement comes for the message at `acknowledged`.
    pub(crate) fn run_acknowledged(&mut self, messages: &[Message], acknowledged: usize) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        self.sending.clear();
        let mut sending = std::mem::take(&mut self.sending);
        for (index, message) in messages.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            message.write(&mut sending, self.sequence, if index == acknowledged { NLM_F_ACK } else { 0 });
        }
        let sent = self.socket.send(&sending, 0);
        self.sending = sending;
        let what = || messages.first().map(|message| message.what.clone()).unwrap_or_default();
        sent.map_err(|error| NetlinkError::io(&format!("send({}, …)", what()), &error))?;
        loop {
            self.receive(&what)?;
            for part in parts(&self.buffer) {
                let Some(message) =
                    usize::try_from(part.sequence.wrapping_sub(first)).ok().and_then(|n| messages.get(n))
                else {
                    continue;
                };
                if part.kind != NLMSG_ERROR {
                    continue;
                }
                match part.error(&message.what) {
                    Some(error) => return Err(error),
                    None if part.sequence.wrapping_sub(first) as usize == acknowledged => return Ok(()),
                    None => {}
                }
            }
        }
    }

    fn receive(&mut self, what: &dyn Fn() -> String) -> Result<(), NetlinkError> {
        self.buffer.clear();
        let taken = self.socket.recv(&mut self.buffer, 0);
        match taken {
            Ok(0) => Err(NetlinkError::new(format!("recv({})", what()), errno::EPROTO)),
            Ok(_) => Ok(()),
            Err(error) => Err(NetlinkError::io(&format!("recv({})", what()), &error)),
        }
    }

    /// Sends one request and collects its answers: a dump until its end, else one.
    pub(crate) fn ask(&mut self, message: &Message) -> Result<Vec<Answer>, NetlinkError> {
        let mut answers = Vec::new();
        self.ask_each(message, |kind, body| answers.push(Answer { kind, body: body.to_vec() }))?;
        Ok(answers)
    }

    /// Sends one request and shows its answers one by one, for a dump of which little is kept.
    pub(crate) fn ask_each(&mut self, message: &Message, mut each: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        message.write(&mut bytes, self.sequence, 0);
        let dump = message.flags & NLM_F_DUMP == NLM_F_DUMP;
        let what = || message.what.clone();
        self.socket.send(&bytes, 0).map_err(|error| NetlinkError::io(&format!("send({})", what()), &error))?;
        let mut answered = false;
        loop {
            self.receive(&what)?;
            for part in parts(&self.buffer).filter(|part| part.sequence == self.sequence) {
                match part.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return part.error(&message.what).map_or(Ok(()), Err),
                    kind => {
                        answered = true;
                        each(kind, part.body);
                    }
                }
            }
            if !dump && answered {
                return Ok(());
            }
        }
    }
}

struct Part<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Part<'_> {
    /// The error that this part tells of; `None` for an acknowledgement.
    fn error(&self, what: &str) -> Option<NetlinkError> {
        let number = ErrorBuffer::new_checked(self.body).ok()?.code()?;
        let mut error = NetlinkError::new(what, number.get().saturating_neg());
        if self.flags & NLM_F_ACK_TLVS != 0 {
            let request = self.body.get(4..8).and_then(native).and_then(|length| usize::try_from(length).ok());
            let copied = if self.flags & NLM_F_CAPPED != 0 { HEADER_BYTES } else { request.unwrap_or(HEADER_BYTES) };
            let tail = copied.checked_add(4).map(|at| at.next_multiple_of(4)).and_then(|at| self.body.get(at..));
            error.said = tail.and_then(|tail| find(tail, ERROR_TEXT)).map(text).unwrap_or_default();
        }
        Some(error)
    }
}

/// The messages of one datagram; ends at the first one that makes no sense.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(bytes).ok()?;
        let length = usize::try_from(buffer.length()).ok()?;
        let part = Part {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            body: bytes.get(HEADER_BYTES..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLM_F_CREATE;

    use super::*;

    #[test]
    fn written_and_read_again() {
        let message = Message::new("test", 16, NLM_F_CREATE)
            .body(&[1; 16])
            .text(3, "pw0")
            .nest(18, |inner| inner.attr(1, b"veth").nest(2, |data| data.native(7, 42)));
        let mut bytes = Vec::new();
        message.write(&mut bytes, 9, NLM_F_ACK);
        let part = parts(&bytes).next().unwrap();
        assert_eq!((part.kind, part.flags, part.sequence), (16, NLM_F_CREATE | NLM_F_REQUEST | NLM_F_ACK, 9));
        let attrs = &part.body[16..];
        assert_eq!(text(find(attrs, 3).unwrap()), "pw0");
        let info = find(attrs, 18).unwrap();
        assert_eq!(find(info, 1), Some(&b"veth"[..]));
        assert_eq!(find(find(info, 2).unwrap(), 7).and_then(native), Some(42));
    }

    #[test]
    fn nonsense_ends_the_walk() {
        assert_eq!(attributes(&[0; 4]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&[255, 255, 1, 0, 9]).count(), 0);
        assert_eq!(parts(&[0; 64]).count(), 0);
        assert_eq!(parts(&[255; 64]).count(), 0);
    }

    #[test]
    fn an_error_reads_like_strace() {
        let mut body = (-17i32).to_ne_bytes().to_vec();
        body.extend_from_slice(&16u32.to_ne_bytes());
        body.extend_from_slice(&[0; 12]);
        body.extend_from_slice(&[11, 0, 1, 0]);
        body.extend_from_slice(b"exists\0\0");
        let part = Part { kind: NLMSG_ERROR, flags: NLM_F_CAPPED | NLM_F_ACK_TLVS, sequence: 1, body: &body };
        let error = part.error("RTM_NEWLINK(pw0)").unwrap();
        assert_eq!(error.to_string(), "RTM_NEWLINK(pw0) = EEXIST (file exists): exists");
    }
}
