//! Links, addresses and routes: the messages, and what is read of them.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};

use crate::netlink::{self, Answer, CREATE, DUMP, EXCL, Message, Netlink, NetlinkError, errno};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_STATE: u16 = 1;
/// Hairpin mode.
const IFLA_BRPORT_MODE: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_UNIVERSE: u8 = 0;
const TYPE_UNICAST: u8 = 1;

/// `RTEXT_FILTER_SKIP_STATS`: counters of a link are most of its answer and of the time to make it.
const WITHOUT_COUNTERS: u32 = 8;
/// `IF_OPER_UP` and `BR_STATE_FORWARDING`.
const OPERATING: u8 = 6;
const FORWARDING: u8 = 3;
/// How long a link may take until it passes packets; longer means a machine in trouble, and the pod is started all the
/// same: packets are sent again.
const PASSING_MAX: Duration = Duration::from_millis(100);
const PASSING_POLL: Duration = Duration::from_micros(200);

/// Bytes of `struct ifinfomsg`, `struct ifaddrmsg` and `struct rtmsg`.
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;

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

fn link_body(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&change.to_ne_bytes());
    body
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
    let common = |message: Message| {
        let message = message.native(IFLA_NUM_TX_QUEUES, 1).native(IFLA_NUM_RX_QUEUES, 1);
        mtu.into_iter().fold(message, |message, mtu| message.native(IFLA_MTU, mtu))
    };
    let message = Message::new(format!("RTM_NEWLINK(veth {host})"), RTM_NEWLINK, CREATE | EXCL)
        .body(&link_body(0, IFF_UP, IFF_UP))
        .text(IFLA_IFNAME, host)
        .native(IFLA_MASTER, bridge_index);
    common(message).nest(IFLA_LINKINFO, |info| {
        info.attr(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |inner| {
                let inner = inner
                    .body(&link_body(0, 0, 0))
                    .text(IFLA_IFNAME, peer.name)
                    .attr(IFLA_ADDRESS, &peer.mac.0)
                    .attr(IFLA_NET_NS_FD, &peer.netns.as_raw_fd().to_ne_bytes());
                common(inner)
            })
        })
    })
}

/// Lets the bridge send a frame back out of the port it came in by, so that a pod reaches itself by an address of the host.
pub(crate) fn hairpin(host: &str) -> Message {
    Message::new(format!("RTM_NEWLINK({host}, hairpin on)"), RTM_NEWLINK, 0)
        .body(&link_body(0, 0, 0))
        .text(IFLA_IFNAME, host)
        .nest(IFLA_LINKINFO, |info| {
            info.attr(IFLA_INFO_SLAVE_KIND, b"bridge")
                .nest(IFLA_INFO_SLAVE_DATA, |data| data.attr(IFLA_BRPORT_MODE, &[1]))
        })
}

/// Sets a link up.
pub(crate) fn up(index: u32) -> Message {
    Message::new(format!("RTM_NEWLINK(index {index}, up)"), RTM_NEWLINK, 0).body(&link_body(index, IFF_UP, IFF_UP))
}

/// Adds an address to a link.
pub(crate) fn address(index: u32, net: Ipv4Net) -> Message {
    let mut body = vec![AF_INET, net.prefix_len(), 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    Message::new(format!("RTM_NEWADDR({net})"), RTM_NEWADDR, CREATE | EXCL)
        .body(&body)
        .attr(IFA_LOCAL, &net.addr().octets())
        .attr(IFA_ADDRESS, &net.addr().octets())
        .attr(IFA_BROADCAST, &net.broadcast().octets())
}

/// Adds a route by a gateway.
pub(crate) fn route(to: Ipv4Net, gateway: Ipv4Addr) -> Message {
    let body = [AF_INET, to.prefix_len(), 0, 0, TABLE_MAIN, PROTOCOL_BOOT, SCOPE_UNIVERSE, TYPE_UNICAST, 0, 0, 0, 0];
    let message = Message::new(format!("RTM_NEWROUTE({to} via {gateway})"), RTM_NEWROUTE, CREATE | EXCL).body(&body);
    let message = if to.prefix_len() == 0 { message } else { message.attr(RTA_DST, &to.network().octets()) };
    message.attr(RTA_GATEWAY, &gateway.octets())
}

/// Makes a bridge, up. Its hardware address is set: one that follows the ports would change with each pod.
pub(crate) fn bridge(name: &str, mac: Mac, mtu: Option<u32>) -> Message {
    let message = Message::new(format!("RTM_NEWLINK(bridge {name})"), RTM_NEWLINK, CREATE | EXCL)
        .body(&link_body(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .attr(IFLA_ADDRESS, &mac.0);
    mtu.into_iter()
        .fold(message, |message, mtu| message.native(IFLA_MTU, mtu))
        .nest(IFLA_LINKINFO, |info| info.attr(IFLA_INFO_KIND, b"bridge"))
}

/// Deletes a link, and waits for the kernel to do so: 8 to 20 ms. Never on the way of a request that succeeds.
pub(crate) fn delete(name: &str) -> Message {
    Message::new(format!("RTM_DELLINK({name})"), RTM_DELLINK, 0).body(&link_body(0, 0, 0)).text(IFLA_IFNAME, name)
}

/// A link, as far as it is of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) master: Option<u32>,
    pub(crate) kind: String,
    pub(crate) mac: Option<Mac>,
    /// Whether it passes packets: it operates, and forwards where it is a bridge's port.
    pub(crate) passes: bool,
}

fn parse_link(answer: &Answer) -> Option<Link> {
    if answer.kind != RTM_NEWLINK {
        return None;
    }
    let attrs = answer.body.get(LINK_BYTES..)?;
    let info = netlink::find(attrs, IFLA_LINKINFO).unwrap_or_default();
    let port = netlink::find(info, IFLA_INFO_SLAVE_DATA).unwrap_or_default();
    let operates = netlink::find(attrs, IFLA_OPERSTATE) == Some(&[OPERATING]);
    Some(Link {
        index: netlink::native(answer.body.get(4..8)?)?,
        name: netlink::text(netlink::find(attrs, IFLA_IFNAME)?),
        master: netlink::find(attrs, IFLA_MASTER).and_then(netlink::native),
        kind: netlink::find(info, IFLA_INFO_KIND).map(netlink::text).unwrap_or_default(),
        passes: operates && netlink::find(port, IFLA_BRPORT_STATE).is_none_or(|state| state == [FORWARDING]),
        mac: netlink::find(attrs, IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()).map(Mac),
    })
}

/// The link of this name, if there is one.
pub(crate) fn by_name(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, NetlinkError> {
    let request = Message::new(format!("RTM_GETLINK({name})"), RTM_GETLINK, 0)
        .body(&link_body(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .native(IFLA_EXT_MASK, WITHOUT_COUNTERS);
    match netlink.ask(&request) {
        Ok(answers) => Ok(answers.iter().find_map(parse_link)),
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

/// All links of the namespace.
pub(crate) fn all(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let request = Message::new("RTM_GETLINK(all)", RTM_GETLINK, DUMP).body(&link_body(0, 0, 0));
    Ok(netlink.ask(&request)?.iter().filter_map(parse_link).collect())
}

/// The IPv4 addresses of a link.
pub(crate) fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<Ipv4Net>, NetlinkError> {
    let request = Message::new("RTM_GETADDR(all)", RTM_GETADDR, DUMP).body(&[AF_INET, 0, 0, 0, 0, 0, 0, 0]);
    let answers = netlink.ask(&request)?;
    let parse = |answer: &Answer| {
        let found = netlink::native(answer.body.get(4..8)?)?;
        let octets: [u8; 4] = netlink::find(answer.body.get(ADDRESS_BYTES..)?, IFA_LOCAL)?.try_into().ok()?;
        if found == index { Ipv4Net::new(octets.into(), *answer.body.get(1)?).ok() } else { None }
    };
    Ok(answers.iter().filter_map(parse).collect())
}

/// A route of the main table: where it leads, and by which link.
pub(crate) fn routes(netlink: &mut Netlink) -> Result<Vec<(IpNet, u32)>, NetlinkError> {
    let mut body = vec![0; ROUTE_BYTES];
    body[0] = AF_INET;
    let request = Message::new("RTM_GETROUTE(all)", RTM_GETROUTE, DUMP).body(&body);
    let answers = netlink.ask(&request)?;
    let parse = |answer: &Answer| {
        let attrs = answer.body.get(ROUTE_BYTES..)?;
        let octets: [u8; 4] = netlink::find(attrs, RTA_DST)?.try_into().ok()?;
        let net = Ipv4Net::new(octets.into(), *answer.body.get(1)?).ok()?;
        let unicast = *answer.body.get(7)? == TYPE_UNICAST;
        let link = netlink::find(attrs, RTA_OIF).and_then(netlink::native).unwrap_or_default();
        unicast.then_some((IpNet::V4(net), link))
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
