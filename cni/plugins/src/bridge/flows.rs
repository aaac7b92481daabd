//! Flows by host ports that lead elsewhere now.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use cni_spec::Protocol;

use super::{Attachment, BridgeNetwork, Worker};
use crate::conntrack::{self, Flow};
use crate::error::BridgeError;
use crate::link;
use crate::nft::Element;
use crate::portmap;

/// What happened to a pod's host ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// They lead to the pod now. Before, their packets went to the host itself, which told the client that nobody is there.
    Mapped,
    /// They don't lead to the pod any more.
    Freed,
}

fn is_by(flow: &Flow, port: &Element) -> bool {
    (flow.original.protocol, flow.original.destination.1) == (port.protocol.number(), port.host_port)
}

fn leads_to(flow: &Flow, port: &Element) -> bool {
    flow.reply.source == (port.pod_ip, port.pod_port)
}

impl BridgeNetwork {
    /// Forgets flows by a pod's host ports that the kernel would go on sending elsewhere, and says how many. Walks the
    /// kernel's table of connections (milliseconds where it is large), so it is done after the request is answered.
    pub fn forget_flows(&self, worker: &mut Worker, attachment: &Attachment, now: Ports) -> Result<usize, BridgeError> {
        let Some(ip) = attachment.ips.iter().find_map(|ip| link::v4(ip.addr())) else { return Ok(0) };
        let mut ports = portmap::plan(&attachment.ports, ip).map_err(BridgeError::Port)?;
        let wanted = self.wanted();
        // The next change may be here already.
        ports.retain(|port| wanted.contains(port) == (now == Ports::Mapped));
        match now {
            Ports::Freed => forget_freed(worker, ip, &ports),
            Ports::Mapped => forget_mapped(worker, &ports),
        }
    }
}

fn forget_freed(worker: &mut Worker, ip: Ipv4Addr, ports: &[Element]) -> Result<usize, BridgeError> {
    if ports.is_empty() {
        return Ok(0);
    }
    let is_stale = |flow: &Flow| ports.iter().any(|port| is_by(flow, port) && leads_to(flow, port));
    conntrack::forget(&mut worker.filter, &conntrack::answered_by(ip), is_stale)
        .map_err(BridgeError::netlink("forget the flows of host ports"))
}

/// UDP alone: the others' clients begin anew, from another port, when they are told that nobody is there.
fn forget_mapped(worker: &mut Worker, ports: &[Element]) -> Result<usize, BridgeError> {
    let mut forgotten = 0;
    let ports: Vec<&Element> = ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
    if ports.is_empty() {
        return Ok(0);
    }
    let addresses = link::addresses(&mut worker.route).map_err(BridgeError::netlink("list the host's addresses"))?;
    let host: BTreeSet<Ipv4Addr> = addresses.iter().map(|(_, net)| net.addr()).collect();
    for port in ports {
        let is_host = |ip: Ipv4Addr| match port.host_ip {
            Some(host_ip) => ip == host_ip,
            None => ip.is_loopback() || host.contains(&ip),
        };
        let is_stale = |flow: &Flow| is_by(flow, port) && is_host(flow.original.destination.0) && !leads_to(flow, port);
        let flows = conntrack::sent_to(port.protocol, port.host_port);
        forgotten += conntrack::forget(&mut worker.filter, &flows, is_stale)
            .map_err(BridgeError::netlink("forget the flows of host ports"))?;
    }
    Ok(forgotten)
}
