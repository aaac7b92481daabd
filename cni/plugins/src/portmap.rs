//! The portmap plugin: who has which port of the host, and whom a port leads to.
//!
//! [`HostPorts`] is the plan; what it answers is put into the kernel by [`crate::nft`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use cni_spec::{PortMapping, Protocol};
use runtime_sys::netns::{self, Transport};

use crate::netlink::errno;
use crate::nft::Element;

/// Most host ports of one pod: a manifest that maps a thousand is a mistake or an attack.
pub const PORTS_PER_POD_MAX: usize = 1024;

/// Why a pod can't have its host ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Another pod has it.
    #[error("host port {port}/{protocol} is taken by pod {pod}, sandbox {sandbox}")]
    Pod {
        /// The port, with its address if it has one.
        port: String,
        /// The protocol.
        protocol: Protocol,
        /// The pod that has it.
        pod: String,
        /// Its sandbox.
        sandbox: String,
    },
    /// A process of the host has it.
    #[error("host port {port}/{protocol} is taken by {who}")]
    Process {
        /// The port, with its address if it has one.
        port: String,
        /// The protocol.
        protocol: Protocol,
        /// The process, as far as it can be told.
        who: String,
    },
    /// The same port twice in one pod.
    #[error("host port {port}/{protocol} is asked for twice")]
    Twice {
        /// The port, with its address if it has one.
        port: String,
        /// The protocol.
        protocol: Protocol,
    },
    /// More than a pod may have.
    #[error("{count} host ports are asked for; a pod may have {PORTS_PER_POD_MAX}")]
    Many {
        /// How many.
        count: usize,
    },
    /// A mapping that can't be made.
    #[error("host port mapping {mapping}: {problem}")]
    Mapping {
        /// The mapping.
        mapping: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// A pod's claim.
#[derive(Debug, Clone)]
struct Claim {
    sandbox: String,
    pod: String,
    element: Element,
}

/// All host ports of a network. Pure.
#[derive(Debug, Default)]
pub(crate) struct HostPorts {
    claims: BTreeMap<(Protocol, u16), Vec<Claim>>,
}

fn port_text(element: &Element) -> String {
    element.host_ip.map_or_else(|| element.host_port.to_string(), |ip| format!("{ip}:{}", element.host_port))
}

/// Whether one packet could be meant for both.
fn overlap(one: Option<Ipv4Addr>, other: Option<Ipv4Addr>) -> bool {
    one.is_none() || other.is_none() || one == other
}

/// Checks a pod's mappings and turns them into elements for its address.
pub(crate) fn plan(ports: &[PortMapping], pod_ip: Ipv4Addr) -> Result<Vec<Element>, PortError> {
    if ports.len() > PORTS_PER_POD_MAX {
        return Err(PortError::Many { count: ports.len() });
    }
    let mut planned: Vec<Element> = Vec::new();
    for port in ports.iter().filter(|port| port.host_port != 0) {
        let refused = |problem| PortError::Mapping { mapping: port.to_string(), problem };
        let host_ip = match port.bound_to() {
            Some(IpAddr::V6(_)) => return Err(refused("the bundled bridge serves IPv4 only, hostIP is IPv6")),
            Some(IpAddr::V4(ip)) => Some(ip),
            None => None,
        };
        if port.container_port == 0 {
            return Err(refused("the container port is 0"));
        }
        let element = Element {
            host_ip,
            protocol: port.protocol,
            host_port: port.host_port,
            pod_ip,
            pod_port: port.container_port,
        };
        let same = |other: &Element| {
            (other.protocol, other.host_port) == (element.protocol, element.host_port)
                && overlap(other.host_ip, element.host_ip)
        };
        if planned.iter().any(same) {
            return Err(PortError::Twice { port: port_text(&element), protocol: element.protocol });
        }
        planned.push(element);
    }
    Ok(planned)
}

impl HostPorts {
    /// Claims all of these ports for a pod, or none.
    pub(crate) fn claim(&mut self, sandbox: &str, pod: &str, elements: &[Element]) -> Result<(), PortError> {
        for element in elements {
            let others = self.claims.get(&(element.protocol, element.host_port)).into_iter().flatten();
            let mut taken =
                others.filter(|claim| claim.sandbox != sandbox && overlap(claim.element.host_ip, element.host_ip));
            if let Some(claim) = taken.next() {
                return Err(PortError::Pod {
                    port: port_text(element),
                    protocol: element.protocol,
                    pod: claim.pod.clone(),
                    sandbox: claim.sandbox.clone(),
                });
            }
        }
        for element in elements {
            let claims = self.claims.entry((element.protocol, element.host_port)).or_default();
            claims.retain(|claim| claim.element != *element);
            claims.push(Claim { sandbox: sandbox.to_owned(), pod: pod.to_owned(), element: element.clone() });
        }
        Ok(())
    }

    /// Gives a pod's ports back, and says which they were.
    pub(crate) fn release(&mut self, sandbox: &str) -> Vec<Element> {
        let mut released = Vec::new();
        self.claims.retain(|_, claims| {
            for gone in claims.extract_if(.., |claim| claim.sandbox == sandbox) {
                released.push(gone.element);
            }
            !claims.is_empty()
        });
        released
    }

    /// What the kernel should have.
    pub(crate) fn wanted(&self) -> BTreeSet<Element> {
        self.claims.values().flatten().map(|claim| claim.element.clone()).collect()
    }
}

/// Looks whether a process of the calling thread's namespace has one of the ports: it would no longer be reached.
pub(crate) fn check_sockets(elements: &[Element]) -> Result<(), PortError> {
    for element in elements {
        let transport = match element.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            Protocol::Sctp => Transport::Sctp,
        };
        let address = IpAddr::V4(element.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED));
        match netns::bind_port(transport, address, element.host_port) {
            Err(error) if error.errno() == errno::EADDRINUSE => {
                let who = holder(element.protocol, element.host_port);
                let who = who.unwrap_or_else(|| "a process of the host".to_owned());
                return Err(PortError::Process { port: port_text(element), protocol: element.protocol, who });
            }
            // A kernel without SCTP has nobody listening; an address the host doesn't have yet may come later.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The process that has a port, by its sockets' inodes; slow, and only for the error's text.
fn holder(protocol: Protocol, port: u16) -> Option<String> {
    let inodes: BTreeSet<String> = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
        Protocol::Sctp => return None,
    }
    .iter()
    .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
    .flat_map(|table| table.lines().filter_map(|line| socket_inode(line, protocol, port)).collect::<Vec<_>>())
    .map(|inode| format!("socket:[{inode}]"))
    .collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let leads_to = fs::read_link(descriptor.path()).ok();
            if leads_to.and_then(|path| path.to_str().map(|path| inodes.contains(path))).unwrap_or_default() {
                let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("process {pid} ({}) of the host", command.trim()));
            }
        }
    }
    None
}

/// The inode in a line of `/proc/net/tcp` whose local port is this one and that listens (UDP sockets just are).
fn socket_inode(line: &str, protocol: Protocol, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let listens = protocol != Protocol::Tcp || *fields.get(3)? == "0A";
    let same = u16::from_str_radix(local, 16).ok()? == port;
    if same && listens { Some((*fields.get(9)?).to_owned()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[ip:]hostPort/protocol`
    fn mapping(text: &str) -> PortMapping {
        let (address, protocol) = text.split_once('/').unwrap();
        let (ip, port) = address.rsplit_once(':').map_or((None, address), |(ip, port)| (Some(ip), port));
        PortMapping {
            host_port: port.parse().unwrap(),
            container_port: 80,
            protocol: serde_json::from_str(&format!("{protocol:?}")).unwrap(),
            host_ip: ip.map(|ip| ip.parse().unwrap()),
        }
    }

    /// Claims each word for a pod of its own, and compares what was refused.
    fn check(claims: &str, refused: &[&str]) {
        let mut ports = HostPorts::default();
        let mut errors = Vec::new();
        for (n, text) in claims.split_whitespace().enumerate() {
            let planned = plan(&[mapping(text)], Ipv4Addr::new(10, 0, 0, 2));
            if let Err(error) = planned.and_then(|elements| ports.claim(&format!("s{n}"), &format!("p{n}"), &elements))
            {
                errors.push(error.to_string());
            }
        }
        assert_eq!(errors, refused, "{claims}");
    }

    #[test]
    fn who_has_which_port() {
        check("80/tcp 80/udp 80/sctp 81/tcp", &[]);
        check("80/tcp 80/tcp", &["host port 80/tcp is taken by pod p0, sandbox s0"]);
        check("127.0.0.1:80/tcp 10.0.0.9:80/tcp", &[]);
        check("127.0.0.1:80/tcp 127.0.0.1:80/tcp", &["host port 127.0.0.1:80/tcp is taken by pod p0, sandbox s0"]);
        check("127.0.0.1:80/tcp 80/tcp", &["host port 80/tcp is taken by pod p0, sandbox s0"]);
        check("0.0.0.0:80/tcp 127.0.0.1:80/tcp", &["host port 127.0.0.1:80/tcp is taken by pod p0, sandbox s0"]);
        check("0/tcp 0/tcp", &[]);
        check(
            "::1:80/tcp",
            &["host port mapping [::1]:80->80/tcp: the bundled bridge serves IPv4 only, hostIP is IPv6"],
        );
    }

    #[test]
    fn given_back() {
        let mut ports = HostPorts::default();
        let elements = plan(&[mapping("80/tcp"), mapping("81/tcp")], Ipv4Addr::new(10, 0, 0, 2)).unwrap();
        ports.claim("a", "pod", &elements).unwrap();
        ports.claim("a", "pod", &elements).unwrap();
        assert_eq!(ports.wanted().len(), 2);
        assert_eq!(ports.release("b"), []);
        assert_eq!(ports.release("a"), elements);
        assert!(ports.wanted().is_empty() && ports.claims.is_empty());
        assert!(plan(&[mapping("80/tcp"), mapping("127.0.0.1:80/tcp")], Ipv4Addr::LOCALHOST).is_err());
        assert!(plan(&vec![mapping("0/tcp"); PORTS_PER_POD_MAX + 1], Ipv4Addr::LOCALHOST).is_err());
    }

    #[test]
    fn reads_proc_net() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1";
        assert_eq!(socket_inode(line, Protocol::Tcp, 8080).as_deref(), Some("4242"));
        assert_eq!(socket_inode(line, Protocol::Tcp, 8081), None);
        assert_eq!(socket_inode(&line.replace(" 0A ", " 06 "), Protocol::Tcp, 8080), None);
        assert_eq!(socket_inode("  sl  local_address rem_address   st", Protocol::Tcp, 8080), None);
    }
}
