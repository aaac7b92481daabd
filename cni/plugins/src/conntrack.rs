//! Connection tracking over nfnetlink: finds flows and forgets them.
//!
//! A flow keeps the way that the rules gave to its first packet. Rules that change later don't touch it, so a client that
//! goes on sending from one port (UDP) would talk to a pod that is gone for as long as it does so.
//! Numbers are those of `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::Ipv4Addr;

use cni_spec::Protocol;
use netlink_packet_core::NLM_F_DUMP;

use crate::netlink::{self, Message, Netlink, NetlinkError, errno};
use crate::nft::FAMILY_IPV4;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
/// Bytes of `struct nfgenmsg`.
const GENERIC_BYTES: usize = 4;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// What of a tuple is compared (`nf_internals.h`): the source address, the protocol, the destination port.
const BY_SOURCE: u32 = 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE_PORT: u16 = 2;
const PROTO_DESTINATION_PORT: u16 = 3;

/// Most flows that one look forgets; with some 300 bytes kept of each these are 5 MB. What is above ends by its
/// timeout.
const FLOWS_MAX: usize = 16 * 1024;
/// Most deletions in one send: some 5 KiB.
const DELETIONS_PER_SEND: usize = 64;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) protocol: u8,
    pub(crate) source: (Ipv4Addr, u16),
    pub(crate) destination: (Ipv4Addr, u16),
}

impl Tuple {
    fn parse(tuple: &[u8]) -> Option<Self> {
        let (ip, proto) = (netlink::find(tuple, TUPLE_IP)?, netlink::find(tuple, TUPLE_PROTO)?);
        let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(netlink::find(ip, kind)?).ok()?));
        let port = |kind| Some(u16::from_be_bytes(netlink::find(proto, kind)?.try_into().ok()?));
        Some(Self {
            protocol: *netlink::find(proto, PROTO_NUMBER)?.first()?,
            source: (address(IP_SOURCE)?, port(PROTO_SOURCE_PORT)?),
            destination: (address(IP_DESTINATION)?, port(PROTO_DESTINATION_PORT)?),
        })
    }
}

/// A flow: how its first packet was addressed, and how the answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) original: Tuple,
    pub(crate) reply: Tuple,
}

fn dump(what: String) -> Message {
    Message::new(what, GET, NLM_F_DUMP).body(&[FAMILY_IPV4, 0, 0, 0])
}

/// Asks for all flows that are answered by this address.
pub(crate) fn answered_by(ip: Ipv4Addr) -> Message {
    dump(format!("IPCTNL_MSG_CT_GET(answered by {ip})"))
        .nest(FILTER, |filter| filter.native(FILTER_ORIGINAL, 0).native(FILTER_REPLY, BY_SOURCE))
        .nest(REPLY, |tuple| tuple.nest(TUPLE_IP, |inner| inner.attr(IP_SOURCE, &ip.octets())))
}

/// Asks for all flows that were addressed to this port.
pub(crate) fn sent_to(protocol: Protocol, port: u16) -> Message {
    dump(format!("IPCTNL_MSG_CT_GET(sent to {port}/{protocol})"))
        .nest(FILTER, |filter| {
            filter.native(FILTER_ORIGINAL, BY_PROTOCOL | BY_DESTINATION_PORT).native(FILTER_REPLY, 0)
        })
        .nest(ORIGINAL, |tuple| {
            tuple.nest(TUPLE_PROTO, |proto| {
                proto.attr(PROTO_NUMBER, &[protocol.number()]).attr(PROTO_DESTINATION_PORT, &port.to_be_bytes())
            })
        })
}

/// Forgets those flows of a dump that are stale, and says how many. A kernel before 5.8 doesn't filter the dump; so
/// `is_stale` has to look at all that matters.
pub(crate) fn forget(
    netlink: &mut Netlink,
    flows: &Message,
    is_stale: impl Fn(&Flow) -> bool,
) -> Result<usize, NetlinkError> {
    let mut deletions = Vec::new();
    netlink.ask_each(flows, |_, body| {
        if deletions.len() < FLOWS_MAX {
            deletions.extend(deletion(body, &is_stale));
        }
    })?;
    for some in deletions.chunks(DELETIONS_PER_SEND) {
        match netlink.run(some) {
            // It timed out meanwhile; the others have been tried all the same.
            Err(error) if error.errno() == errno::ENOENT => {}
            answer => answer?,
        }
    }
    Ok(deletions.len())
}

/// The message that forgets a flow, if it is stale. With its id, so that a new flow of the same addresses stays.
fn deletion(body: &[u8], is_stale: &impl Fn(&Flow) -> bool) -> Option<Message> {
    let attrs = body.get(GENERIC_BYTES..)?;
    let original = netlink::find(attrs, ORIGINAL)?;
    let flow = Flow { original: Tuple::parse(original)?, reply: Tuple::parse(netlink::find(attrs, REPLY)?)? };
    if !is_stale(&flow) {
        return None;
    }
    let message = Message::new("IPCTNL_MSG_CT_DELETE", DELETE, 0)
        .body(&[FAMILY_IPV4, 0, 0, 0])
        .nest(ORIGINAL, |tuple| tuple.body(original));
    let same = [ID, ZONE].into_iter().filter_map(|kind| Some((kind, netlink::find(attrs, kind)?)));
    Some(same.fold(message, |message, (kind, value)| message.attr(kind, value)))
}
