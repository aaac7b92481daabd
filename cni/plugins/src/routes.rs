//! The host's routes, looked at once when a network is opened.
//!
//! The request path has sockets and threads of its own ([`crate::Worker`]); this look happens in async code, where
//! rtnetlink does all that is needed.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use runtime_sys::SysError;

use crate::error::BridgeError;
use crate::netlink::{NetlinkError, errno};

/// The routes of the network namespace in which [`host_routes`] was called.
#[derive(Debug)]
pub struct HostRoutes {
    handle: rtnetlink::Handle,
}

/// Opens a socket in the calling thread's namespace, within a tokio runtime. The future is the socket's other side: the
/// caller spawns it, and it ends when the [`HostRoutes`] are dropped.
pub fn host_routes() -> Result<(impl Future<Output = ()> + Send + 'static, HostRoutes), BridgeError> {
    let failed = |error| NetlinkError { error: SysError::from_io("socket(AF_NETLINK)", &error), said: String::new() };
    let opened = rtnetlink::new_connection().map_err(failed);
    let (connection, handle, _unasked) = opened.map_err(BridgeError::netlink("open a netlink socket"))?;
    Ok((connection, HostRoutes { handle }))
}

impl HostRoutes {
    /// The first route that overlaps a network, with its link; routes by `own_bridge` don't count, nor does the default one.
    pub async fn overlap(&self, net: IpNet, own_bridge: &str) -> Result<Option<(IpNet, String)>, BridgeError> {
        let links = self.links().await.map_err(failed("RTM_GETLINK(all)"))?;
        let mut request = RouteMessage::default();
        request.header.address_family = match net {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        // One by one: a router's table has a million.
        let mut answers = std::pin::pin!(self.handle.route().get(request).execute());
        while let Some(answer) = answers.try_next().await.map_err(failed("RTM_GETROUTE(all)"))? {
            let Some((route, link)) = destination(&answer) else { continue };
            let name = link.and_then(|link| links.get(&link)).map_or("no link", String::as_str);
            if name != own_bridge && (route.contains(&net) || net.contains(&route)) {
                return Ok(Some((route, name.to_owned())));
            }
        }
        Ok(None)
    }

    async fn links(&self) -> Result<BTreeMap<u32, String>, rtnetlink::Error> {
        let mut links = BTreeMap::new();
        let mut answers = std::pin::pin!(self.handle.link().get().execute());
        while let Some(answer) = answers.try_next().await? {
            let name = answer.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            links.extend(name.map(|name| (answer.header.index, name)));
        }
        Ok(links)
    }
}

/// Where a route leads, and by which link; none for the default route, and for those that lead nowhere or to the host.
fn destination(route: &RouteMessage) -> Option<(IpNet, Option<u32>)> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut to, mut link) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = Some((*ip).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => to = Some((*ip).into()),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    Some((IpNet::new(to?, route.header.destination_prefix_length).ok()?, link))
}

fn failed(request: &'static str) -> impl FnOnce(rtnetlink::Error) -> BridgeError {
    move |error| {
        let source = match &error {
            rtnetlink::Error::NetlinkError(error) => NetlinkError::new(request, error.raw_code().saturating_neg()),
            other => NetlinkError { said: other.to_string(), ..NetlinkError::new(request, errno::EPROTO) },
        };
        BridgeError::netlink("read the host's routes")(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `destination link`, of a route of this kind.
    fn check(kind: RouteType, attributes: Vec<RouteAttribute>, expected: Option<(&str, Option<u32>)>) {
        let mut route = RouteMessage::default();
        route.header.kind = kind;
        route.header.destination_prefix_length = 24;
        route.attributes = attributes;
        assert_eq!(destination(&route), expected.map(|(net, link)| (net.parse().unwrap(), link)));
    }

    #[test]
    fn which_routes_count() {
        let to = || RouteAttribute::Destination(RouteAddress::Inet([10, 1, 2, 0].into()));
        check(RouteType::Unicast, vec![to(), RouteAttribute::Oif(7)], Some(("10.1.2.0/24", Some(7))));
        check(RouteType::Unicast, vec![to()], Some(("10.1.2.0/24", None)));
        check(RouteType::Unicast, vec![RouteAttribute::Oif(7)], None);
        check(RouteType::Local, vec![to(), RouteAttribute::Oif(1)], None);
        check(RouteType::BlackHole, vec![to()], None);
    }
}
