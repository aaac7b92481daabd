//! Links, addresses and routes: the messages, and what is read of them.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NlasIterator, Parseable, ParseableParametrized,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkHeader, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Answer, Message, Netlink, NetlinkError, errno};

/// How long a link may take until it passes packets; longer means a machine in trouble, and the pod is started all the
/// same: packets are sent again.
const PASSING_MAX: Duration = Duration::from_millis(100);
const PASSING_POLL: Duration = Duration::from_micros(200);

/// The attributes of a link that are read: address, name, master, operating state, kind. To parse all the others (the
/// settings of IPv4 and IPv6, above all) would cost each attach some 50 µs.
const READ: [u16; 5] = [1, 3, 10, 16, 18];

/// The loopback link has this index in every namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl Mac {
    /// A locally administered one made of the IPv4 address, so that an address which is handed out again keeps its
    /// hardware address and no neighbour has to forget one.
    pub(crate) fn of(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x0a, 0x58, a, b, c, d])
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn message(index: u32, flags: LinkFlags, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = flags;
    message.header.change_mask = flags;
    message.attributes = attributes;
    message
}

/// The pod's end of a pair.
#[derive(Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
    pub(crate) netns: BorrowedFd<'a>,
}

/// A veth pair in one message: the host's end up and on the bridge, the pod's end born in the pod under its name. One
/// queue each, since the kernel else makes one per processor.
pub(crate) fn veth(host: &str, bridge_index: u32, peer: &Peer<'_>, mtu: Option<u32>) -> Message {
    let common = || {
        let queues = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
        queues.into_iter().chain(mtu.map(LinkAttribute::Mtu))
    };
    let mut inner = vec![
        LinkAttribute::IfName(peer.name.to_owned()),
        LinkAttribute::Address(peer.mac.0.to_vec()),
        LinkAttribute::NetNsFd(peer.netns.as_raw_fd()),
    ];
    inner.extend(common());
    let inner = InfoVeth::Peer(message(0, LinkFlags::empty(), inner));
    let mut attributes = vec![LinkAttribute::IfName(host.to_owned()), LinkAttribute::Controller(bridge_index)];
    attributes.extend(common());
    attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(inner))]));
    let pair = RouteNetlinkMessage::NewLink(message(0, LinkFlags::Up, attributes));
    Message::route(format!("RTM_NEWLINK(veth {host})"), NLM_F_CREATE | NLM_F_EXCL, &pair)
}

/// Lets the bridge send a frame back out of the port it came in by, so that a pod reaches itself by an address of the host.
pub(crate) fn hairpin(host: &str) -> Message {
    let attributes = vec![
        LinkAttribute::IfName(host.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]),
    ];
    let port = RouteNetlinkMessage::NewLink(message(0, LinkFlags::empty(), attributes));
    Message::route(format!("RTM_NEWLINK({host}, hairpin on)"), 0, &port)
}

/// Sets a link up.
pub(crate) fn up(index: u32) -> Message {
    let link = RouteNetlinkMessage::NewLink(message(index, LinkFlags::Up, Vec::new()));
    Message::route(format!("RTM_NEWLINK(index {index}, up)"), 0, &link)
}

/// Adds an address to a link.
pub(crate) fn address(index: u32, net: Ipv4Net) -> Message {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(net.addr().into()),
        AddressAttribute::Address(net.addr().into()),
        AddressAttribute::Broadcast(net.broadcast()),
    ];
    let message = RouteNetlinkMessage::NewAddress(message);
    Message::route(format!("RTM_NEWADDR({net})"), NLM_F_CREATE | NLM_F_EXCL, &message)
}

/// Adds a route by a gateway.
pub(crate) fn route(to: Ipv4Net, gateway: Ipv4Addr) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = to.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    if to.prefix_len() != 0 {
        message.attributes.push(RouteAttribute::Destination(IpAddr::V4(to.network()).into()));
    }
    message.attributes.push(RouteAttribute::Gateway(IpAddr::V4(gateway).into()));
    let message = RouteNetlinkMessage::NewRoute(message);
    Message::route(format!("RTM_NEWROUTE({to} via {gateway})"), NLM_F_CREATE | NLM_F_EXCL, &message)
}

/// Makes a bridge, up. Its hardware address is set: one that follows the ports would change with each pod.
pub(crate) fn bridge(name: &str, mac: Mac, mtu: Option<u32>) -> Message {
    let mut attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Address(mac.0.to_vec())];
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    let bridge = RouteNetlinkMessage::NewLink(message(0, LinkFlags::empty(), attributes));
    Message::route(format!("RTM_NEWLINK(bridge {name})"), NLM_F_CREATE | NLM_F_EXCL, &bridge)
}

/// Deletes a link, and waits for the kernel to do so: 8 to 20 ms. Never on the way of a request that succeeds.
pub(crate) fn delete(name: &str) -> Message {
    let link = message(0, LinkFlags::empty(), vec![LinkAttribute::IfName(name.to_owned())]);
    Message::route(format!("RTM_DELLINK({name})"), 0, &RouteNetlinkMessage::DelLink(link))
}

/// A link, as far as it is of interest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) master: Option<u32>,
    pub(crate) kind: String,
    pub(crate) mac: Option<Mac>,
    /// Whether it passes packets: it operates, and forwards where it is a bridge's port.
    pub(crate) passes: bool,
}

fn parse_link(answer: &Answer) -> Result<Link, DecodeError> {
    let header = LinkHeader::parse(&answer.body)?;
    let mut link = Link { index: header.index, ..Link::default() };
    let (mut operates, mut forwards) = (false, true);
    for attribute in NlasIterator::new(answer.body.get(header.buffer_len()..).unwrap_or_default()) {
        let attribute = attribute?;
        if !READ.contains(&attribute.kind()) {
            continue;
        }
        match LinkAttribute::parse_with_param(&attribute, header.interface_family)? {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Address(mac) => link.mac = <[u8; 6]>::try_from(mac.as_slice()).ok().map(Mac),
            LinkAttribute::OperState(state) => operates = state == State::Up,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                            forwards = port.iter().all(|word| match word {
                                InfoBridgePort::State(state) => *state == BridgePortState::Forwarding,
                                _ => true,
                            });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link.passes = operates && forwards;
    Ok(link)
}

fn get(attributes: Vec<LinkAttribute>) -> RouteNetlinkMessage {
    let mut message = message(0, LinkFlags::empty(), attributes);
    // Counters of a link are most of its answer and of the time to make it.
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message)
}

/// The link of this name, if there is one.
pub(crate) fn by_name(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, NetlinkError> {
    let request = get(vec![LinkAttribute::IfName(name.to_owned())]);
    match netlink.ask(&Message::route(format!("RTM_GETLINK({name})"), 0, &request)) {
        Ok(answers) => answers.first().map(parse_link).transpose().map_err(|error| NetlinkError {
            said: error.to_string(),
            ..NetlinkError::new(format!("RTM_GETLINK({name})"), errno::EPROTO)
        }),
        Err(error) if error.errno() == errno::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until a link passes packets. The kernel sees its carrier on a work queue, and what is sent before is lost: the
/// first connection would take a second, until ARP asks again. From 6.8 on the question alone makes the kernel look.
pub(crate) fn wait_passing(netlink: &mut Netlink, name: &str) -> Result<(), NetlinkError> {
    let start = Instant::now();
    while by_name(netlink, name)?.is_some_and(|link| !link.passes) && start.elapsed() < PASSING_MAX {
        thread::park_timeout(PASSING_POLL);
    }
    Ok(())
}

/// All links of the namespace. One that can't be read is of a kind that is none of ours.
pub(crate) fn all(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let request = Message::route("RTM_GETLINK(all)", NLM_F_DUMP, &get(Vec::new()));
    Ok(netlink.ask(&request)?.iter().filter_map(|answer| parse_link(answer).ok()).collect())
}

/// The IPv4 addresses of the namespace, with the index of their link.
pub(crate) fn addresses(netlink: &mut Netlink) -> Result<Vec<(u32, Ipv4Net)>, NetlinkError> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    let request = RouteNetlinkMessage::GetAddress(request);
    let answers = netlink.ask(&Message::route("RTM_GETADDR(all)", NLM_F_DUMP, &request))?;
    let parse = |answer: &Answer| {
        let message = AddressMessage::parse(answer.body.as_slice()).ok()?;
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => v4(*ip),
            _ => None,
        });
        Some((message.header.index, Ipv4Net::new(local?, message.header.prefix_len).ok()?))
    };
    Ok(answers.iter().filter_map(parse).collect())
}

/// Parses an IPv4 address out of a general one.
pub(crate) fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(attributes: Vec<LinkAttribute>, cut: usize) -> Option<Link> {
        let message = message(7, LinkFlags::Up, attributes);
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        body.truncate(body.len() - cut);
        parse_link(&Answer { kind: 16, body }).ok()
    }

    #[test]
    fn links_and_nonsense() {
        let port = |state| {
            let data = InfoPortData::BridgePort(vec![InfoBridgePort::State(state)]);
            let infos = vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(data),
            ];
            vec![
                LinkAttribute::IfName("pw0".into()),
                LinkAttribute::Mtu(1500),
                LinkAttribute::OperState(State::Up),
                LinkAttribute::LinkInfo(infos),
            ]
        };
        let link = parsed(port(BridgePortState::Forwarding), 0).unwrap();
        assert_eq!((link.index, link.name.as_str(), link.kind.as_str(), link.passes), (7, "pw0", "veth", true));
        assert!(!parsed(port(BridgePortState::Learning), 0).unwrap().passes);
        // Of whatever is missing or cut off, there is an error and no panic.
        assert_eq!(parsed(Vec::new(), 0).unwrap(), Link { index: 7, ..Link::default() });
        for cut in 1..60 {
            parsed(port(BridgePortState::Forwarding), cut);
        }
        assert_eq!(parsed(Vec::new(), 1), None);
        assert_eq!(parsed(vec![LinkAttribute::Address(vec![1, 2])], 0).unwrap().mac, None);
    }
}
