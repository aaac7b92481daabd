//! The fixed rule set: one table per bridge, whose rules never change; pods are elements of its two maps.
//!
//! ```text
//! table inet podwright-BRIDGE {
//!     map hostports            { protocol . port : pod address . pod port }
//!     map hostports-by-address { host address . protocol . port : pod address . pod port }
//!     chain guard       { prerouting -300; on the bridge: 127/8 as destination or source is dropped }
//!     chain prerouting  { nat; destination 127/8 returns; a local destination jumps to hostports }
//!     chain output      { nat; a local destination jumps to hostports }
//!     chain hostports   { dnat to hostports-by-address, then to hostports }
//!     chain postrouting { masquerades: 127/8 to the bridge, DNATed pod to pod, pods to the world }
//! }
//! ```
//!
//! The guard is what `route_localnet` of the bridge asks for (CVE-2020-8558): the host's connections to 127.0.0.1 are
//! translated before they reach the bridge, so a 127/8 address on its wire is never ours. Only destinations of the host
//! itself are translated (CVE-2025-67499), and from outside never 127/8 ones.

use ipnet::Ipv4Net;

use super::{
    ANY, BY_ADDRESS, Change, Element, Expression, FAMILY_INET, FAMILY_IPV4, Hook, Is, Meta, Verdict, delete_table,
    elements, new_chain, new_map, new_rule, new_table, slot,
};
use crate::netlink::Message;

/// Bytes that a link's name takes in a register.
const LINK_NAME_BYTES: usize = 16;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_SRCNAT: i32 = 100;
const RTN_LOCAL: u32 = 2;
const STATUS_DNAT: u32 = 0x20;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: two pods that pick the same port at once would else race for it, and one packet
/// would be lost (the five-second DNS lookups of old clusters).
const FULLY_RANDOM: u32 = 0x10;
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

/// The name of a bridge's table.
pub(crate) fn table_name(bridge: &str) -> String {
    format!("podwright-{bridge}")
}

fn padded(link: &str) -> Vec<u8> {
    let mut name = link.as_bytes().to_vec();
    name.resize(LINK_NAME_BYTES, 0);
    name
}

fn link(side: Meta, is: Is, bridge: &str) -> Vec<Expression> {
    vec![Expression::Meta(side, slot(0)), Expression::Compare(is, padded(bridge))]
}

fn ipv4() -> Vec<Expression> {
    vec![Expression::Meta(Meta::Family, slot(0)), Expression::Compare(Is::Equal, vec![FAMILY_IPV4])]
}

fn within(at: u32, is: Is, net: Ipv4Net) -> Vec<Expression> {
    vec![
        Expression::Network(at, 4, slot(0)),
        Expression::Mask(net.netmask().octets().to_vec()),
        Expression::Compare(is, net.network().octets().to_vec()),
    ]
}

fn network(text: &str) -> Ipv4Net {
    text.parse().expect("a constant")
}

fn to_local() -> Vec<Expression> {
    vec![Expression::DestinationType, Expression::Compare(Is::Equal, RTN_LOCAL.to_ne_bytes().to_vec())]
}

fn translated() -> Vec<Expression> {
    vec![
        Expression::ConnectionStatus,
        Expression::Mask(STATUS_DNAT.to_ne_bytes().to_vec()),
        Expression::Compare(Is::Different, vec![0; 4]),
    ]
}

fn dnat(map: &'static str, load: Vec<Expression>) -> Vec<Expression> {
    [ipv4(), load, vec![Expression::Lookup(map), Expression::Dnat]].concat()
}

/// A rule: its chain, its comment, its instructions.
type Line = (&'static str, &'static str, Vec<Expression>);

fn lines(bridge: &str, pods: Ipv4Net) -> Vec<Line> {
    let loopback = network("127.0.0.0/8");
    let verdict = |verdict| vec![Expression::Verdict(verdict)];
    let masquerade = |flags| vec![Expression::Masquerade(flags)];
    let on = |is| link(Meta::InputLink, is, bridge);
    let out = |is| link(Meta::OutputLink, is, bridge);
    let by_address = vec![
        Expression::Network(DESTINATION, 4, slot(0)),
        Expression::Meta(Meta::Protocol, slot(1)),
        Expression::Transport(2, 2, slot(2)),
    ];
    let any = vec![Expression::Meta(Meta::Protocol, slot(0)), Expression::Transport(2, 2, slot(1))];
    let jump = || [ipv4(), to_local(), verdict(Verdict::Jump("hostports"))].concat();
    vec![
        (
            "guard",
            "loopback from the bridge",
            [on(Is::Equal), ipv4(), within(DESTINATION, Is::Equal, loopback), verdict(Verdict::Drop)].concat(),
        ),
        (
            "guard",
            "loopback as source",
            [on(Is::Equal), ipv4(), within(SOURCE, Is::Equal, loopback), verdict(Verdict::Drop)].concat(),
        ),
        ("hostports", "of one address", dnat(BY_ADDRESS.name, by_address)),
        ("hostports", "of every address", dnat(ANY.name, any)),
        (
            "prerouting",
            "loopback from outside",
            [ipv4(), within(DESTINATION, Is::Equal, loopback), verdict(Verdict::Return)].concat(),
        ),
        ("prerouting", "host ports", jump()),
        ("output", "host ports", jump()),
        (
            "postrouting",
            "host's loopback to a pod",
            [out(Is::Equal), ipv4(), within(SOURCE, Is::Equal, loopback), masquerade(0)].concat(),
        ),
        (
            "postrouting",
            "pod to pod by a host port",
            [out(Is::Equal), translated(), ipv4(), within(SOURCE, Is::Equal, pods), masquerade(0)].concat(),
        ),
        (
            "postrouting",
            "pods to the world",
            [
                out(Is::Different),
                ipv4(),
                within(SOURCE, Is::Equal, pods),
                within(DESTINATION, Is::Different, network("224.0.0.0/4")),
                masquerade(FULLY_RANDOM),
            ]
            .concat(),
        ),
    ]
}

/// How many rules the table has when it is whole.
pub(crate) fn count(bridge: &str, pods: Ipv4Net) -> usize {
    lines(bridge, pods).len()
}

/// The messages that make the table anew with these elements, in place of one that may exist. Within one batch nobody
/// sees a moment without it.
pub(crate) fn rewrite(bridge: &str, pods: Ipv4Net, ports: &[Element]) -> Vec<Message> {
    let table = &table_name(bridge);
    // Made first so that the deletion never fails.
    let mut messages = vec![new_table(table), delete_table(table), new_table(table)];
    for (chain, base) in [
        ("hostports", None),
        ("guard", Some(("filter", Hook::Prerouting, PRIORITY_RAW))),
        ("prerouting", Some(("nat", Hook::Prerouting, PRIORITY_DSTNAT))),
        ("output", Some(("nat", Hook::Output, PRIORITY_DSTNAT))),
        ("postrouting", Some(("nat", Hook::Postrouting, PRIORITY_SRCNAT))),
    ] {
        messages.push(new_chain(table, chain, base));
    }
    messages.extend([&ANY, &BY_ADDRESS].map(|map| new_map(table, map)));
    for (chain, comment, expressions) in lines(bridge, pods) {
        messages.push(new_rule(FAMILY_INET, table, chain, comment, &expressions));
    }
    messages.extend(elements(table, Change::Add, ports));
    messages
}

/// The comment by which an inserted rule is found again.
pub(crate) fn forward_comment(bridge: &str) -> String {
    format!("podwright: pods of {bridge}")
}

/// What lets the pods' traffic through a chain of others whose policy is drop, in the shape that iptables-nft writes
/// itself: it refuses to list a table with rules of another shape.
pub(crate) fn forward_accepts(bridge: &str) -> [Vec<Expression>; 2] {
    [Meta::InputLink, Meta::OutputLink].map(|side| {
        let mut name = bridge.as_bytes().to_vec();
        name.push(0);
        vec![
            Expression::Meta(side, slot(0)),
            Expression::Compare(Is::Equal, name),
            Expression::Counter,
            Expression::Verdict(Verdict::Accept),
        ]
    })
}
