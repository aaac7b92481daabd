//! nftables over nfnetlink: the messages and expressions that the fixed rule set needs.
//!
//! The tool `nft` would be a program start per pod, and its library is C; the kernel's own words are few.
//! Numbers are those of `linux/netfilter/nf_tables.h`; all of them travel in network byte order.

pub(crate) mod firewall;
pub(crate) mod rules;

use std::net::Ipv4Addr;

use cni_spec::Protocol;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP};

use crate::netlink::{self, Answer, Message, Netlink, NetlinkError};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const GETGEN: u16 = SUBSYSTEM | 16;

/// Bytes of `struct nfgenmsg`.
const GENERIC_BYTES: usize = 4;
/// Most elements in one message: with at most 60 bytes each they stay far below an attribute's 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 256;

pub(crate) const FAMILY_INET: u8 = 1;
pub(crate) const FAMILY_IPV4: u8 = 2;

/// The first 16-byte register, and the second 4-byte slot of it.
const REGISTER: u32 = 1;
const REGISTER_SLOT_0: u32 = 8;

const SET_MAP: u32 = 8;
/// nft's numbers of data types, so that `nft list` prints the maps readably: the kernel only keeps them.
const TYPE_IPV4: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;

fn header(family: u8) -> [u8; GENERIC_BYTES] {
    [family, 0, 0, 0]
}

fn batch_edge(what: &str, kind: u16) -> Message {
    let [high, low] = (SUBSYSTEM >> 8).to_be_bytes();
    Message::new(what, kind, 0).body(&[0, 0, high, low])
}

/// Changes all or nothing, and only if nobody changed anything since `generation`: else `ERESTART`.
pub(crate) fn commit(netlink: &mut Netlink, generation: u32, changes: Vec<Message>) -> Result<(), NetlinkError> {
    let Some(last) = changes.len().checked_sub(1) else { return Ok(()) };
    let mut batch = Vec::with_capacity(changes.len() + 2);
    batch.push(batch_edge("nft begin", BATCH_BEGIN).big(1, generation));
    batch.extend(changes);
    batch.push(batch_edge("nft commit", BATCH_END));
    netlink.run_acknowledged(&batch, last + 1)
}

/// The number that grows by one with each change of the namespace's rules by anybody.
pub(crate) fn generation(netlink: &mut Netlink) -> Result<u32, NetlinkError> {
    let answers = netlink.ask(&Message::new("NFT_MSG_GETGEN", GETGEN, 0).body(&header(0)))?;
    let number = |answer: &Answer| netlink::find(answer.body.get(GENERIC_BYTES..)?, 1).and_then(netlink::big);
    answers.iter().find_map(number).ok_or_else(|| NetlinkError::new("NFT_MSG_GETGEN", netlink::errno::EPROTO))
}

/// The generation after `generation`; the kernel passes over 0.
pub(crate) fn next_generation(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}

pub(crate) fn new_table(table: &str) -> Message {
    Message::new(format!("NFT_MSG_NEWTABLE({table})"), NEWTABLE, NLM_F_CREATE).body(&header(FAMILY_INET)).text(1, table)
}

pub(crate) fn delete_table(table: &str) -> Message {
    Message::new(format!("NFT_MSG_DELTABLE({table})"), DELTABLE, 0).body(&header(FAMILY_INET)).text(1, table)
}

/// Where a base chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

pub(crate) fn new_chain(table: &str, chain: &str, base: Option<(&str, Hook, i32)>) -> Message {
    let message = Message::new(format!("NFT_MSG_NEWCHAIN({table} {chain})"), NEWCHAIN, NLM_F_CREATE)
        .body(&header(FAMILY_INET))
        .text(1, table)
        .text(3, chain);
    let Some((kind, hook, priority)) = base else { return message };
    message.nest(4, |inner| inner.big(1, hook.number()).attr(2, &priority.to_be_bytes())).text(7, kind)
}

/// A map from host ports to pods.
pub(crate) fn new_map(table: &str, map: &PortMap) -> Message {
    Message::new(format!("NFT_MSG_NEWSET({table} {})", map.name), NEWSET, NLM_F_CREATE)
        .body(&header(FAMILY_INET))
        .text(1, table)
        .text(2, map.name)
        .big(3, SET_MAP)
        .big(4, map.key_type)
        .big(5, map.key_bytes)
        .big(6, TYPE_IPV4 << 6 | TYPE_SERVICE)
        .big(7, 8)
        .big(10, map.id)
}

/// A map of the rule set.
#[derive(Debug)]
pub(crate) struct PortMap {
    pub(crate) name: &'static str,
    id: u32,
    key_type: u32,
    key_bytes: u32,
}

/// Host ports that answer on every address of the host.
pub(crate) const ANY: PortMap =
    PortMap { name: "hostports", id: 1, key_type: TYPE_PROTOCOL << 6 | TYPE_SERVICE, key_bytes: 8 };
/// Host ports that answer on one address.
pub(crate) const BY_ADDRESS: PortMap = PortMap {
    name: "hostports-by-address",
    id: 2,
    key_type: TYPE_IPV4 << 12 | TYPE_PROTOCOL << 6 | TYPE_SERVICE,
    key_bytes: 12,
};

/// One host port in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) host_ip: Option<Ipv4Addr>,
    pub(crate) protocol: Protocol,
    pub(crate) host_port: u16,
    pub(crate) pod_ip: Ipv4Addr,
    pub(crate) pod_port: u16,
}

impl Element {
    pub(crate) fn map(&self) -> &'static PortMap {
        if self.host_ip.is_some() { &BY_ADDRESS } else { &ANY }
    }

    /// Each part of a key stands in four bytes of its own.
    pub(crate) fn key(&self) -> Vec<u8> {
        let mut key = self.host_ip.map(|ip| ip.octets().to_vec()).unwrap_or_default();
        key.extend_from_slice(&[self.protocol.number(), 0, 0, 0]);
        key.extend_from_slice(&self.host_port.to_be_bytes());
        key.extend_from_slice(&[0, 0]);
        key
    }

    pub(crate) fn value(&self) -> Vec<u8> {
        let mut value = self.pod_ip.octets().to_vec();
        value.extend_from_slice(&self.pod_port.to_be_bytes());
        value.extend_from_slice(&[0, 0]);
        value
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    Delete,
}

/// The messages that add or delete elements.
pub(crate) fn elements(table: &str, change: Change, elements: &[Element]) -> Vec<Message> {
    let (verb, kind, flags) = match change {
        Change::Add => ("NFT_MSG_NEWSETELEM", NEWSETELEM, NLM_F_CREATE),
        Change::Delete => ("NFT_MSG_DELSETELEM", DELSETELEM, 0),
    };
    let mut messages = Vec::new();
    for map in [&ANY, &BY_ADDRESS] {
        let of_map: Vec<&Element> = elements.iter().filter(|element| element.map().name == map.name).collect();
        for some in of_map.chunks(ELEMENTS_PER_MESSAGE) {
            let message = Message::new(format!("{verb}({table} {})", map.name), kind, flags)
                .body(&header(FAMILY_INET))
                .text(1, table)
                .text(2, map.name)
                .nest(3, |list| {
                    some.iter().fold(list, |list, element| {
                        list.nest(1, |item| {
                            item.nest(1, |key| key.attr(1, &element.key()))
                                .nest(2, |data| data.attr(1, &element.value()))
                        })
                    })
                });
            messages.push(message);
        }
    }
    messages
}

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// The keys and values of a map.
pub(crate) fn list_elements(netlink: &mut Netlink, table: &str, map: &PortMap) -> Result<Vec<Pair>, NetlinkError> {
    let request = Message::new(format!("NFT_MSG_GETSETELEM({table} {})", map.name), GETSETELEM, NLM_F_DUMP)
        .body(&header(FAMILY_INET))
        .text(1, table)
        .text(2, map.name);
    let value = |item: &[u8], kind| netlink::find(netlink::find(item, kind)?, 1).map(<[u8]>::to_vec);
    let mut found = Vec::new();
    for answer in netlink.ask(&request)? {
        let list = answer.body.get(GENERIC_BYTES..).and_then(|attrs| netlink::find(attrs, 3)).unwrap_or_default();
        found.extend(
            netlink::attributes(list)
                .filter_map(|(_, item)| Some((value(item, 1)?, value(item, 2).unwrap_or_default()))),
        );
    }
    Ok(found)
}

/// A base chain at the forward hook whose policy is drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DropChain {
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) chain: String,
}

/// All base chains of IPv4 and inet at the forward hook with policy drop.
pub(crate) fn forward_drops(netlink: &mut Netlink) -> Result<Vec<DropChain>, NetlinkError> {
    let answers = netlink.ask(&Message::new("NFT_MSG_GETCHAIN(all)", GETCHAIN, NLM_F_DUMP).body(&header(0)))?;
    let parse = |answer: &Answer| {
        let family = *answer.body.first()?;
        let attrs = answer.body.get(GENERIC_BYTES..)?;
        let hook = netlink::find(netlink::find(attrs, 4)?, 1).and_then(netlink::big)?;
        let policy = netlink::find(attrs, 5).and_then(netlink::big)?;
        let stops = matches!(family, FAMILY_INET | FAMILY_IPV4) && hook == Hook::Forward.number() && policy == 0;
        stops.then_some(DropChain {
            family,
            table: netlink::find(attrs, 1).map(netlink::text)?,
            chain: netlink::find(attrs, 3).map(netlink::text)?,
        })
    };
    Ok(answers.iter().filter_map(parse).collect())
}

/// A rule that stands in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) handle: Vec<u8>,
    pub(crate) comment: String,
}

/// The rules of a table, or of one chain of it.
pub(crate) fn list_rules(
    netlink: &mut Netlink,
    family: u8,
    table: &str,
    chain: Option<&str>,
) -> Result<Vec<Rule>, NetlinkError> {
    let request =
        Message::new(format!("NFT_MSG_GETRULE({table})"), GETRULE, NLM_F_DUMP).body(&header(family)).text(1, table);
    let request = chain.into_iter().fold(request, |request, chain| request.text(2, chain));
    let parse = |answer: &Answer| {
        let attrs = answer.body.get(GENERIC_BYTES..)?;
        // An older kernel doesn't filter by the request's table and chain.
        let same = netlink::find(attrs, 1).map(netlink::text)? == table
            && chain.is_none_or(|chain| netlink::find(attrs, 2).map(netlink::text).as_deref() == Some(chain));
        let data = netlink::find(attrs, 7).unwrap_or_default();
        let comment = match data {
            [0, length, rest @ ..] => netlink::text(rest.get(..usize::from(*length)).unwrap_or_default()),
            _ => String::new(),
        };
        same.then_some(Rule { handle: netlink::find(attrs, 3)?.to_vec(), comment })
    };
    Ok(netlink.ask(&request)?.iter().filter_map(parse).collect())
}

pub(crate) fn delete_rule(family: u8, table: &str, chain: &str, handle: &[u8]) -> Message {
    Message::new(format!("NFT_MSG_DELRULE({table} {chain})"), DELRULE, 0)
        .body(&header(family))
        .text(1, table)
        .text(2, chain)
        .attr(3, handle)
}

/// Appends a rule to a chain. Appended, since one put in front of another's overrides it (CVE-2019-9946).
pub(crate) fn new_rule(family: u8, table: &str, chain: &str, comment: &str, expressions: &[Expression]) -> Message {
    let length = u8::try_from(comment.len() + 1).expect("the comments are ours and short");
    let mut data = vec![0, length];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    Message::new(format!("NFT_MSG_NEWRULE({table} {chain}: {comment})"), NEWRULE, NLM_F_CREATE | NLM_F_APPEND)
        .body(&header(family))
        .text(1, table)
        .text(2, chain)
        .nest(4, |list| expressions.iter().fold(list, |list, expression| list.nest(1, |item| expression.write(item))))
        .attr(7, &data)
}

/// What a link's name is compared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    InputLink,
    OutputLink,
    Family,
    Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    Equal,
    Different,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Accept,
    Return,
    Jump(&'static str),
}

/// One instruction of a rule. Loads go to the first register, or to a four-byte slot of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    Meta(Meta, u32),
    /// Bytes of the network header: offset, length, register.
    Network(u32, u32, u32),
    /// Bytes of the transport header.
    Transport(u32, u32, u32),
    Compare(Is, Vec<u8>),
    Mask(Vec<u8>),
    /// The type of the destination address by the routing table.
    DestinationType,
    ConnectionStatus,
    Lookup(&'static str),
    /// To the address in the first slot and the port in the second.
    Dnat,
    Masquerade(u32),
    Counter,
    Verdict(Verdict),
}

/// The register of the n-th four-byte slot; slot 0 is the start of the first register.
pub(crate) fn slot(n: u32) -> u32 {
    if n == 0 { REGISTER } else { REGISTER_SLOT_0 + n }
}

impl Expression {
    fn write(&self, item: Message) -> Message {
        let named = |item: Message, name: &str, data: &dyn Fn(Message) -> Message| item.text(1, name).nest(2, data);
        let payload = |base: u32, (offset, length, register): (u32, u32, u32)| {
            move |data: Message| data.big(1, register).big(2, base).big(3, offset).big(4, length)
        };
        match self {
            Self::Meta(key, register) => {
                let key = match key {
                    Meta::InputLink => 6,
                    Meta::OutputLink => 7,
                    Meta::Family => 15,
                    Meta::Protocol => 16,
                };
                named(item, "meta", &|data| data.big(1, *register).big(2, key))
            }
            Self::Network(offset, length, register) => {
                named(item, "payload", &payload(1, (*offset, *length, *register)))
            }
            Self::Transport(offset, length, register) => {
                named(item, "payload", &payload(2, (*offset, *length, *register)))
            }
            Self::Compare(is, value) => {
                let operator = u32::from(*is == Is::Different);
                named(item, "cmp", &|data| data.big(1, REGISTER).big(2, operator).nest(3, |inner| inner.attr(1, value)))
            }
            Self::Mask(mask) => {
                let length = u32::try_from(mask.len()).expect("a mask is four bytes long");
                named(item, "bitwise", &|data| {
                    data.big(1, REGISTER)
                        .big(2, REGISTER)
                        .big(3, length)
                        .nest(4, |inner| inner.attr(1, mask))
                        .nest(5, |inner| inner.attr(1, &vec![0; mask.len()]))
                })
            }
            Self::DestinationType => named(item, "fib", &|data| data.big(1, REGISTER).big(2, 3).big(3, 2)),
            Self::ConnectionStatus => named(item, "ct", &|data| data.big(1, REGISTER).big(2, 2)),
            Self::Lookup(map) => named(item, "lookup", &|data| data.text(1, map).big(2, REGISTER).big(3, REGISTER)),
            Self::Dnat => named(item, "nat", &|data| {
                data.big(1, 1).big(2, u32::from(FAMILY_IPV4)).big(3, REGISTER).big(5, slot(1))
            }),
            Self::Masquerade(0) => named(item, "masq", &|data| data),
            Self::Masquerade(flags) => named(item, "masq", &|data| data.big(1, *flags)),
            Self::Counter => named(item, "counter", &|data| data.attr(1, &[0; 8]).attr(2, &[0; 8])),
            Self::Verdict(verdict) => named(item, "immediate", &|data| data.big(1, 0).nest(2, |to| verdict.write(to))),
        }
    }
}

impl Verdict {
    fn write(self, to: Message) -> Message {
        let code: i32 = match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Return => -5,
        };
        to.nest(2, |inner| {
            let inner = inner.attr(1, &code.to_be_bytes());
            if let Self::Jump(chain) = self { inner.text(2, chain) } else { inner }
        })
    }
}
