//! The bridge plugin: links between the pods and the host.

mod flows;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cni_spec::PortMapping;
use ipnet::{IpNet, Ipv4Net};
use runtime_sys::netns::Visitor;
use serde::{Deserialize, Serialize};

pub use flows::Ports;

use crate::config::BridgeConfig;
use crate::error::BridgeError;
use crate::host_local::HostLocal;
use crate::link::{self, LOOPBACK_INDEX, Mac, Peer};
use crate::netlink::{Netlink, NetlinkError, errno};
use crate::nft::firewall::Firewall;
use crate::nft::{Change, Element};
use crate::portmap::{self, HostPorts};
use crate::sysctl::{self, Before};

/// What our links on the host begin with; the rest is a hash.
const LINK_PREFIX: &str = "pw";
/// How many names are tried for a link: only a sandbox attached twice meets its own hash.
const LINK_NAMES_MAX: u32 = 8;
/// Says that ip_forward was 0 before us, so that cleaning up sets it back.
const FORWARD_MARK: &str = "ip_forward.was-0";

/// What a thread needs to work for the network: sockets of its own namespace, and the way back to it.
#[derive(Debug)]
pub struct Worker {
    visitor: Visitor,
    route: Netlink,
    filter: Netlink,
}

impl Worker {
    /// Opens the sockets in the calling thread's namespace.
    pub fn new() -> Result<Self, BridgeError> {
        let opened = BridgeError::netlink("open a netlink socket");
        let route = Netlink::route().map_err(opened)?;
        let filter = Netlink::netfilter().map_err(BridgeError::netlink("open a netfilter socket"))?;
        Ok(Self { visitor: Visitor::new().map_err(BridgeError::Home)?, route, filter })
    }
}

/// A pod to attach.
#[derive(Debug)]
pub struct Pod<'a> {
    /// The sandbox's id.
    pub sandbox: &'a str,
    /// `namespace/name`, for messages.
    pub name: String,
    /// Its network namespace.
    pub netns: BorrowedFd<'a>,
    /// Its host ports.
    pub ports: &'a [PortMapping],
}

/// What was made for a pod; enough to take it away again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// `namespace/name`, for messages.
    pub pod: String,
    /// The host's end of the pair.
    pub host_link: String,
    /// The pod's end.
    pub interface: String,
    /// Its hardware address.
    pub mac: String,
    /// Its addresses, with their prefix.
    pub ips: Vec<IpNet>,
    /// The gateway.
    pub gateway: IpAddr,
    /// The host ports.
    pub ports: Vec<PortMapping>,
}

/// What a look at the kernel put right.
#[derive(Debug, Default)]
pub struct Repairs {
    /// Links of nobody that were deleted.
    pub links: Vec<String>,
    /// What couldn't be put right.
    pub failures: Vec<BridgeError>,
    /// What others set up that stops the pods' traffic.
    pub warnings: Vec<String>,
}

/// A bridge with its pods. All methods work for the namespace of the worker.
#[derive(Debug)]
pub struct BridgeNetwork {
    config: BridgeConfig,
    state_dir: PathBuf,
    addresses: HostLocal,
    firewall: Firewall,
    ports: Mutex<HostPorts>,
    /// The host's ends that belong to somebody, with their sandbox.
    links: Mutex<BTreeMap<String, String>>,
    /// The bridge's index; 0 while it isn't known to stand.
    index: AtomicU32,
    /// Whether the bridge was seen to pass packets. One that lost all its ports and gets one again may not for a moment.
    passes: AtomicBool,
}

/// The loopback plugin: sets the pod's loopback link up. (The bridge does so on its own way.)
pub fn loopback(worker: &Worker, netns: BorrowedFd<'_>) -> Result<(), BridgeError> {
    let up = || Netlink::route().and_then(|mut route| route.run(&[link::up(LOOPBACK_INDEX)]));
    let failed = BridgeError::netlink("set the pod's loopback link up");
    worker.visitor.visit(netns, up).map_err(BridgeError::Visit)?.map_err(failed)
}

/// `pw` and a hash of sandbox and try: the old link of a sandbox may still be there when it is attached anew.
fn link_name(sandbox: &str, turn: u32) -> String {
    let bytes = sandbox.bytes().chain(turn.to_ne_bytes());
    // FNV-1a, 64 bits.
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{LINK_PREFIX}{:012x}", hash >> 16)
}

impl BridgeNetwork {
    /// Reads what is held from `state_dir`; touches the kernel not yet. `boot` is the boot's id.
    pub fn open(config: BridgeConfig, state_dir: &Path, boot: &str) -> Result<Self, BridgeError> {
        let dir = state_dir.join("addresses").join(config.bridge.as_str());
        let addresses = HostLocal::open(&dir, boot, config.ranges.clone()).map_err(BridgeError::Address)?;
        Ok(Self {
            firewall: Firewall::new(config.bridge.as_str(), config.pods()),
            addresses,
            ports: Mutex::default(),
            links: Mutex::default(),
            index: AtomicU32::new(0),
            passes: AtomicBool::new(false),
            state_dir: state_dir.to_owned(),
            config,
        })
    }

    fn ports(&self) -> MutexGuard<'_, HostPorts> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> BTreeSet<Element> {
        self.ports().wanted()
    }

    /// Takes over an attachment that was made by an earlier process.
    pub fn adopt(&self, sandbox: &str, attachment: &Attachment) -> Result<(), BridgeError> {
        self.links().insert(attachment.host_link.clone(), sandbox.to_owned());
        let Some(ip) = attachment.ips.iter().find_map(|ip| link::v4(ip.addr())) else { return Ok(()) };
        let elements = portmap::plan(&attachment.ports, ip).map_err(BridgeError::Port)?;
        self.ports().claim(sandbox, &attachment.pod, &elements).map_err(BridgeError::Port)
    }

    /// The bridge's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config.bridge.as_str()
    }

    /// The sandboxes that hold an address.
    #[must_use]
    pub fn holders(&self) -> BTreeSet<String> {
        self.addresses.holders()
    }

    /// Makes the bridge and the rules where they are missing.
    pub fn ensure(&self, worker: &mut Worker) -> Result<(), BridgeError> {
        self.ensure_bridge(worker)?;
        self.ensure_rules(worker)
    }

    fn ensure_rules(&self, worker: &mut Worker) -> Result<(), BridgeError> {
        self.firewall.ensure(&mut worker.filter, &|| self.wanted()).map_err(BridgeError::netlink("set up nftables"))
    }

    fn ensure_bridge(&self, worker: &mut Worker) -> Result<u32, BridgeError> {
        let name = self.config.bridge.as_str();
        let failed = || BridgeError::netlink("set up the bridge");
        let route = &mut worker.route;
        let mut found = link::by_name(route, name).map_err(failed())?;
        if found.is_none() {
            match route.run(&[link::bridge(name, Mac::of(self.config.gateway()), self.config.mtu)]) {
                // Another thread was faster.
                Err(error) if error.errno() == errno::EEXIST => {}
                answer => answer.map_err(failed())?,
            }
            found = link::by_name(route, name).map_err(failed())?;
        }
        let missing = || NetlinkError::new(format!("RTM_GETLINK({name})"), errno::ENODEV);
        let bridge = found.ok_or_else(missing).map_err(failed())?;
        if bridge.kind != "bridge" {
            let kind = if bridge.kind.is_empty() { "a device".to_owned() } else { bridge.kind };
            return Err(BridgeError::NoBridge { name: name.to_owned(), kind });
        }
        self.ensure_settings(name)?;
        let own = Ipv4Net::new(self.config.gateway(), self.config.pods().prefix_len())
            .expect("the prefix is that of a network");
        let mut messages = vec![link::up(bridge.index)];
        if !link::addresses(route).map_err(failed())?.contains(&(bridge.index, own)) {
            messages.push(link::address(bridge.index, own));
        }
        match route.run(&messages) {
            Err(error) if error.errno() == errno::EEXIST => {}
            answer => answer.map_err(failed())?,
        }
        if self.index.swap(bridge.index, Ordering::AcqRel) != bridge.index {
            self.passes.store(false, Ordering::Release);
        }
        Ok(bridge.index)
    }

    fn ensure_settings(&self, bridge: &str) -> Result<(), BridgeError> {
        // A pod's router advertisement must not become the host's route (CVE-2020-10749).
        sysctl::set(&format!("ipv6/conf/{bridge}/accept_ra"), "0").map_err(BridgeError::Sysctl)?;
        // So that 127.0.0.1:hostPort is answered; the rules' guard drops 127/8 that comes from the bridge.
        sysctl::set(&format!("ipv4/conf/{bridge}/route_localnet"), "1").map_err(BridgeError::Sysctl)?;
        if sysctl::set("ipv4/ip_forward", "1").map_err(BridgeError::Sysctl)? == Before::Different {
            let path = self.state_dir.join(FORWARD_MARK);
            fs::write(&path, "").map_err(|source| BridgeError::State { path, source })?;
        }
        Ok(())
    }

    /// Attaches a pod; on failure nothing is left.
    pub fn attach(&self, worker: &mut Worker, pod: &Pod<'_>) -> Result<Attachment, BridgeError> {
        let answer = self.try_attach(worker, pod);
        if answer.is_err() {
            let link = self.links().iter().find(|(_, sandbox)| *sandbox == pod.sandbox).map(|(link, _)| link.clone());
            if let Some(link) = link {
                // It may never have been made.
                drop(worker.route.run(&[link::delete(&link)]));
            }
            // What failed first is told; what can't be undone now is found by the next look (`repair`).
            drop(self.detach(worker, pod.sandbox));
        }
        answer
    }

    fn try_attach(&self, worker: &mut Worker, pod: &Pod<'_>) -> Result<Attachment, BridgeError> {
        let index = match self.index.load(Ordering::Acquire) {
            0 => self.ensure_bridge(worker)?,
            index => index,
        };
        self.ensure_rules(worker)?;
        let ip = self.addresses.take(pod.sandbox).map_err(BridgeError::Address)?;
        let ip = link::v4(ip).expect("the ranges are IPv4");
        let elements = portmap::plan(pod.ports, ip).map_err(BridgeError::Port)?;
        self.ports().claim(pod.sandbox, &pod.name, &elements).map_err(BridgeError::Port)?;
        portmap::check_sockets(&elements).map_err(BridgeError::Port)?;
        let host_link = self.make_pair(worker, pod, index, ip)?;
        self.firewall
            .change(&mut worker.filter, Change::Add, &elements, &|| self.wanted())
            .map_err(BridgeError::netlink("map host ports"))?;
        let net = Ipv4Net::new(ip, self.config.pods().prefix_len()).expect("the prefix is that of a network");
        Ok(Attachment {
            pod: pod.name.clone(),
            host_link,
            interface: self.config.interface.to_string(),
            mac: Mac::of(ip).to_string(),
            ips: vec![IpNet::V4(net)],
            gateway: self.config.gateway().into(),
            ports: pod.ports.to_vec(),
        })
    }

    fn make_pair(
        &self,
        worker: &mut Worker,
        pod: &Pod<'_>,
        mut bridge: u32,
        ip: Ipv4Addr,
    ) -> Result<String, BridgeError> {
        let interface = self.config.interface.as_str();
        let peer = Peer { name: interface, mac: Mac::of(ip), netns: pod.netns };
        let mut turn = 0;
        loop {
            let name = link_name(pod.sandbox, turn);
            turn += 1;
            self.links().insert(name.clone(), pod.sandbox.to_owned());
            let made = worker.route.run(&[link::veth(&name, bridge, &peer, self.config.mtu)]);
            let Err(error) = made else {
                let failed = || BridgeError::netlink("set up the pod's link");
                worker.route.run(&[link::hairpin(&name)]).map_err(failed())?;
                self.finish_pod(worker, &peer, ip)?;
                link::wait_passing(&mut worker.route, &name).map_err(failed())?;
                // Its first port gives the bridge its own carrier.
                if !self.passes.load(Ordering::Acquire) {
                    link::wait_passing(&mut worker.route, self.name()).map_err(failed())?;
                    self.passes.store(true, Ordering::Release);
                }
                return Ok(name);
            };
            self.links().remove(&name);
            match error.errno() {
                _ if turn >= LINK_NAMES_MAX => {}
                errno::EEXIST if link::by_name(&mut worker.route, &name).is_ok_and(|link| link.is_some()) => continue,
                // Somebody deleted the bridge.
                errno::ENODEV | errno::EINVAL => {
                    let again = self.ensure_bridge(worker)?;
                    if again != bridge {
                        bridge = again;
                        continue;
                    }
                }
                _ => {}
            }
            return Err(BridgeError::netlink("make the pod's link")(error));
        }
    }

    fn finish_pod(&self, worker: &Worker, peer: &Peer<'_>, ip: Ipv4Addr) -> Result<(), BridgeError> {
        let net = Ipv4Net::new(ip, self.config.pods().prefix_len()).expect("the prefix is that of a network");
        let gateway = self.config.gateway();
        let finish = || -> Result<(), BridgeError> {
            let mut route = Netlink::route().map_err(BridgeError::netlink("open a netlink socket in the pod"))?;
            let failed = || BridgeError::netlink("set up the pod's end of the link");
            // Not 2 in every namespace: tunnels may have put links of their own into it.
            let gone = || NetlinkError::new(format!("RTM_GETLINK({})", peer.name), errno::ENODEV);
            let link = link::by_name(&mut route, peer.name).and_then(|link| link.ok_or_else(gone));
            let index = link.map_err(failed())?.index;
            // Before the link is up: an advertisement of another pod would be taken at once.
            sysctl::set(&format!("ipv6/conf/{}/accept_ra", peer.name), "0").map_err(BridgeError::Sysctl)?;
            let everywhere = Ipv4Net::default();
            route
                .run(&[
                    link::up(LOOPBACK_INDEX),
                    link::address(index, net),
                    link::up(index),
                    link::route(everywhere, gateway),
                ])
                .and_then(|()| link::wait_passing(&mut route, peer.name))
                .map_err(failed())
        };
        worker.visitor.visit(peer.netns, finish).map_err(BridgeError::Visit)?
    }

    /// Detaches a pod: its ports and its address. The link ends with the pod's namespace, since deleting it takes 8 to
    /// 20 ms; where the namespace lives on, [`Self::delete_links`] does it. One that isn't attached is no error.
    pub fn detach(&self, worker: &mut Worker, sandbox: &str) -> Result<(), BridgeError> {
        let released = self.ports().release(sandbox);
        let ports = self
            .firewall
            .change(&mut worker.filter, Change::Delete, &released, &|| self.wanted())
            .map_err(BridgeError::netlink("take host ports away"));
        let mut links = self.links();
        links.retain(|_, holder| holder != sandbox);
        if links.is_empty() {
            self.passes.store(false, Ordering::Release);
        }
        drop(links);
        // While a port leads to the address, nobody else may get it.
        ports?;
        self.addresses.free(sandbox).map(drop).map_err(BridgeError::Address)
    }

    /// Deletes those of these links that are still there and belong to nobody.
    pub fn delete_links(&self, worker: &mut Worker, names: &[String]) -> Vec<BridgeError> {
        let mut failures = Vec::new();
        for name in names.iter().filter(|name| !self.links().contains_key(*name)) {
            match worker.route.run(&[link::delete(name)]) {
                Err(error) if error.errno() != errno::ENODEV => {
                    failures.push(BridgeError::netlink("delete a pod's link")(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        failures
    }

    /// Puts bridge, rules and settings right, and deletes links on the bridge that belong to nobody.
    /// A bridge that nobody needs yet isn't made.
    pub fn repair(&self, worker: &mut Worker) -> Repairs {
        let mut repairs = Repairs::default();
        let unused = self.links().is_empty() && self.holders().is_empty();
        if unused && link::by_name(&mut worker.route, self.config.bridge.as_str()).is_ok_and(|link| link.is_none()) {
            return repairs;
        }
        match self.ensure_bridge(worker) {
            Ok(bridge) => match link::all(&mut worker.route) {
                Ok(links) => {
                    let ours = links
                        .into_iter()
                        .filter(|link| link.master == Some(bridge) && link.name.starts_with(LINK_PREFIX));
                    let known = self.links().clone();
                    repairs.links = ours.map(|link| link.name).filter(|name| !known.contains_key(name)).collect();
                    repairs.failures = self.delete_links(worker, &repairs.links);
                }
                Err(error) => repairs.failures.push(BridgeError::netlink("list the links")(error)),
            },
            Err(error) => repairs.failures.push(error),
        }
        if let Err(error) = self.ensure_rules(worker) {
            repairs.failures.push(error);
        }
        repairs.warnings = self.firewall.stoppers();
        repairs
    }

    /// Takes bridge, links and rules away, and sets ip_forward back if it was set here. Answers with what was there.
    pub fn remove(&self, worker: &mut Worker) -> (Vec<String>, Vec<BridgeError>) {
        let (mut removed, mut failures) = (Vec::new(), Vec::new());
        match self.firewall.remove(&mut worker.filter) {
            Ok(rules) => removed.extend(rules),
            Err(error) => failures.push(BridgeError::netlink("take the rules away")(error)),
        }
        let name = self.config.bridge.as_str();
        self.index.store(0, Ordering::Release);
        match link::by_name(&mut worker.route, name) {
            Ok(Some(bridge)) if bridge.kind == "bridge" => {
                let links = link::all(&mut worker.route).unwrap_or_default();
                let ports = links.iter().filter(|link| link.master == Some(bridge.index));
                let mut names: Vec<&str> =
                    ports.map(|link| link.name.as_str()).filter(|name| name.starts_with(LINK_PREFIX)).collect();
                names.push(name);
                for name in names {
                    match worker.route.run(&[link::delete(name)]) {
                        Ok(()) => removed.push(format!("the link {name}")),
                        // It went with its namespace meanwhile.
                        Err(error) if error.errno() == errno::ENODEV => {}
                        Err(error) => failures.push(BridgeError::netlink("delete a link")(error)),
                    }
                }
            }
            Ok(_) => {}
            Err(error) => failures.push(BridgeError::netlink("look for the bridge")(error)),
        }
        let mark = self.state_dir.join(FORWARD_MARK);
        if mark.exists() {
            match sysctl::set("ipv4/ip_forward", "0") {
                Ok(_) => removed.push("ip_forward".to_owned()),
                Err(error) => failures.push(BridgeError::Sysctl(error)),
            }
            drop(fs::remove_file(mark));
        }
        (removed, failures)
    }
}

#[cfg(test)]
mod tests;
