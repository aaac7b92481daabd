//! The bridge against the kernel, in namespaces of its own: a host, a neighbour of it, and pods.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cni_spec::Protocol;
use runtime_sys::netns;
use tempfile::TempDir;

use super::*;
use crate::conntrack;
use crate::nft::rules;

const PATIENCE: Duration = Duration::from_millis(400);
const HOST: &str = "192.168.77.1";
const NEIGHBOUR: &str = "192.168.77.2";

struct Host {
    netns: OwnedFd,
    neighbour: OwnedFd,
    network: BridgeNetwork,
    dir: TempDir,
}

fn config(bridge: &str, pods: &str) -> BridgeConfig {
    BridgeConfig::of(bridge, pods.parse().unwrap(), None).unwrap()
}

/// Runs in a namespace, with a worker of it.
fn at<T: Send>(netns: &OwnedFd, work: impl FnOnce(&mut Worker) -> T + Send) -> T {
    netns::inside(netns.as_fd(), || work(&mut Worker::new().unwrap())).unwrap()
}

impl Host {
    /// `None`, with one line saying why, where namespaces can't be made.
    fn new() -> Option<Self> {
        let netns = match netns::make() {
            Ok(netns) => netns,
            Err(error) => {
                eprintln!("skipped, needs root: {error}");
                return None;
            }
        };
        let neighbour = netns::make().unwrap();
        let dir = tempfile::tempdir().unwrap();
        at(&netns, |worker| {
            let mac = Mac::of(NEIGHBOUR.parse().unwrap());
            let peer = Peer { name: "eth0", mac, netns: neighbour.as_fd() };
            worker.route.run(&[link::up(LOOPBACK_INDEX), link::veth("nb0", 0, &peer, None)]).unwrap();
            let index = link::by_name(&mut worker.route, "nb0").unwrap().unwrap().index;
            worker.route.run(&[link::address(index, format!("{HOST}/24").parse().unwrap())]).unwrap();
        });
        at(&neighbour, |worker| {
            let address = link::address(2, format!("{NEIGHBOUR}/24").parse().unwrap());
            worker.route.run(&[address, link::up(2), link::route(Ipv4Net::default(), HOST.parse().unwrap())]).unwrap();
        });
        let network = BridgeNetwork::open(config("pwtest0", "10.166.0.0/16"), dir.path(), "boot").unwrap();
        Some(Self { netns, neighbour, network, dir })
    }

    fn try_attach(&self, netns: &OwnedFd, sandbox: &str, ports: &[PortMapping]) -> Result<Attachment, BridgeError> {
        let pod = Pod { sandbox, name: format!("default/{sandbox}"), netns: netns.as_fd(), ports };
        at(&self.netns, |worker| self.network.attach(worker, &pod))
    }

    fn attach(&self, sandbox: &str, ports: &[PortMapping]) -> (OwnedFd, Attachment) {
        let netns = netns::make().unwrap();
        let attachment = self.try_attach(&netns, sandbox, ports).unwrap();
        (netns, attachment)
    }

    fn detach(&self, sandbox: &str) {
        at(&self.netns, |worker| self.network.detach(worker, sandbox)).unwrap();
    }

    fn links(&self) -> Vec<String> {
        at(&self.netns, |worker| link::all(&mut worker.route).unwrap().into_iter().map(|link| link.name).collect())
    }

    fn elements(&self) -> usize {
        let table = rules::table_name("pwtest0");
        at(&self.netns, |worker| {
            [&crate::nft::ANY, &crate::nft::BY_ADDRESS]
                .map(|map| crate::nft::list_elements(&mut worker.filter, &table, map).unwrap().len())
                .iter()
                .sum()
        })
    }

    fn run(&self, program: &str, args: &[&str]) -> Option<String> {
        let output = netns::inside(self.netns.as_fd(), || Command::new(program).args(args).output()).unwrap();
        match output {
            Ok(output) if output.status.success() => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => panic!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => {
                eprintln!("skipped, {program}: {error}");
                None
            }
        }
    }
}

fn ip(attachment: &Attachment) -> String {
    attachment.ips[0].addr().to_string()
}

fn port(host_ip: Option<&str>, host_port: u16, protocol: Protocol) -> PortMapping {
    PortMapping { host_port, container_port: 80, protocol, host_ip: host_ip.map(|ip| ip.parse().unwrap()) }
}

/// Answers each connection with its name and the peer's address. Ends, and lets go of its namespace, when dropped.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn tcp(netns: &OwnedFd, listen: &str, name: &'static str) -> Self {
        let listener = netns::inside(netns.as_fd(), || TcpListener::bind(listen).unwrap()).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self::spawn(move || {
            if let Ok((mut stream, peer)) = listener.accept() {
                drop(write!(stream, "{name} {}", peer.ip()));
            }
        })
    }

    fn udp(netns: &OwnedFd, listen: &str, name: &'static str) -> Self {
        let socket = netns::inside(netns.as_fd(), || UdpSocket::bind(listen).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self::spawn(move || {
            if let Ok((_, peer)) = socket.recv_from(&mut [0; 16]) {
                drop(socket.send_to(name.as_bytes(), peer));
            }
        })
    }

    fn spawn(turn: impl Fn() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                turn();
                thread::park_timeout(Duration::from_millis(2));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn get(netns: &OwnedFd, to: &str) -> io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = netns::inside(netns.as_fd(), || TcpStream::connect_timeout(&to, PATIENCE)).unwrap()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn get_udp(netns: &OwnedFd, to: &str) -> io::Result<String> {
    let socket = netns::inside(netns.as_fd(), || UdpSocket::bind("0.0.0.0:0")).unwrap()?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn pods_reach_each_other_the_host_the_world_and_back() {
    let Some(host) = Host::new() else { return };
    let (a, at_a) = host.attach("a", &[]);
    let (b, at_b) = host.attach("b", &[]);
    assert_eq!((ip(&at_a), ip(&at_b)), ("10.166.0.2".to_owned(), "10.166.0.3".to_owned()));
    assert_eq!(at_a.mac, "0a:58:0a:a6:00:02");
    let _servers = [
        Server::tcp(&a, "0.0.0.0:80", "a"),
        Server::tcp(&b, "0.0.0.0:80", "b"),
        Server::tcp(&host.netns, "0.0.0.0:7000", "host"),
        Server::tcp(&host.neighbour, "0.0.0.0:7000", "neighbour"),
    ];
    assert_eq!(get(&a, "10.166.0.3:80").unwrap(), "b 10.166.0.2");
    assert_eq!(get(&b, "10.166.0.2:80").unwrap(), "a 10.166.0.3");
    assert_eq!(get(&a, "127.0.0.1:80").unwrap(), "a 127.0.0.1");
    assert_eq!(get(&host.netns, "10.166.0.3:80").unwrap(), "b 10.166.0.1");
    assert_eq!(get(&a, "10.166.0.1:7000").unwrap(), "host 10.166.0.2");
    assert_eq!(get(&a, &format!("{HOST}:7000")).unwrap(), "host 10.166.0.2");
    assert_eq!(get(&a, &format!("{NEIGHBOUR}:7000")).unwrap(), format!("neighbour {HOST}"));
    at(&a, |worker| {
        let eth0 = link::by_name(&mut worker.route, "eth0").unwrap().unwrap();
        assert_eq!((eth0.index, eth0.mac.unwrap().to_string()), (2, at_a.mac.clone()));
        assert_eq!(sysctl::set("ipv6/conf/eth0/accept_ra", "0").unwrap(), Before::Same);
    });
    if let Some(detail) = host.run("ip", &["-d", "link", "show", &at_a.host_link]) {
        assert!(detail.contains("hairpin on") && detail.contains("numtxqueues 1 "), "{detail}");
    }
    at(&host.netns, |_| {
        assert_eq!(sysctl::set("ipv6/conf/pwtest0/accept_ra", "0").unwrap(), Before::Same, "CVE-2020-10749");
    });
}

#[test]
fn host_ports_answer_everywhere_they_should() {
    let Some(host) = Host::new() else { return };
    let ports = [
        port(None, 8080, Protocol::Tcp),
        port(None, 8080, Protocol::Udp),
        port(Some("127.0.0.1"), 8081, Protocol::Tcp),
        port(Some(HOST), 8082, Protocol::Tcp),
    ];
    let (a, at_a) = host.attach("a", &ports);
    let (b, _) = host.attach("b", &[]);
    let _servers = [Server::tcp(&a, "0.0.0.0:80", "a"), Server::udp(&a, "0.0.0.0:80", "a")];
    assert_eq!(host.elements(), 4);
    for from_host in ["127.0.0.1:8080", "10.166.0.1:8080", "192.168.77.1:8080", "127.0.0.1:8081", "192.168.77.1:8082"] {
        assert!(get(&host.netns, from_host).unwrap().starts_with("a "), "{from_host}");
    }
    assert_eq!(get_udp(&host.netns, "127.0.0.1:8080").unwrap(), "a");
    assert_eq!(get(&host.neighbour, "192.168.77.1:8080").unwrap(), format!("a {NEIGHBOUR}"));
    assert_eq!(get_udp(&host.neighbour, "192.168.77.1:8080").unwrap(), "a");
    assert_eq!(get(&host.neighbour, "192.168.77.1:8082").unwrap(), format!("a {NEIGHBOUR}"));
    // Another pod, and the pod itself (hairpin).
    assert_eq!(get(&b, "192.168.77.1:8080").unwrap(), "a 10.166.0.1");
    assert_eq!(get(&a, "192.168.77.1:8080").unwrap(), "a 10.166.0.1");
    assert_eq!(get(&a, "10.166.0.1:8080").unwrap(), "a 10.166.0.1");
    // Bound to one address.
    assert!(get(&host.neighbour, "192.168.77.1:8081").is_err());
    assert!(get(&host.netns, "127.0.0.1:8082").is_err());
    // CVE-2025-67499: what is only routed through the host isn't translated.
    assert!(get(&host.neighbour, "203.0.113.9:8080").is_err());

    host.detach("a");
    assert_eq!(host.elements(), 0);
    assert!(get(&host.netns, "127.0.0.1:8080").is_err());
    assert!(fs::read_dir(host.dir.path().join("addresses/pwtest0")).unwrap().count() == 1);
    drop((_servers, a));
    eventually("the link ends with the namespace", || !host.links().contains(&at_a.host_link));
}

#[test]
fn cve_2020_8558_loopback_of_the_host_stays_its_own() {
    let Some(host) = Host::new() else { return };
    let (a, _) = host.attach("a", &[port(Some("127.0.0.1"), 8081, Protocol::Tcp)]);
    let _servers = [Server::tcp(&host.netns, "127.0.0.1:9999", "secret"), Server::tcp(&a, "0.0.0.0:80", "a")];
    let reaches_out = |netns: &OwnedFd, gateway: &str| {
        at(netns, |worker| {
            sysctl::set("ipv4/conf/eth0/route_localnet", "1").unwrap();
            let to = "127.0.0.0/8".parse().unwrap();
            worker.route.run(&[link::route(to, gateway.parse().unwrap())]).unwrap();
        });
    };
    reaches_out(&host.neighbour, HOST);
    let (b, _) = host.attach("b", &[]);
    reaches_out(&b, "10.166.0.1");
    // A pod has 127.0.0.1 on its own loopback; without it the packets leave.
    if host.run("true", &[]).is_some() {
        let flushed = netns::inside(b.as_fd(), || Command::new("ip").args(["addr", "flush", "dev", "lo"]).status());
        if !flushed.unwrap().is_ok_and(|status| status.success()) {
            eprintln!("skipped, needs ip");
            return;
        }
    }
    for target in ["127.0.0.1:9999", "127.0.0.1:8081"] {
        assert!(get(&host.neighbour, target).is_err(), "{target} from the neighbour");
        assert!(get(&b, target).is_err(), "{target} from a pod");
    }
    // The proof that it is the guard: without the rules a pod gets through.
    at(&host.netns, |worker| host.network.firewall.remove(&mut worker.filter)).unwrap();
    assert_eq!(get(&b, "127.0.0.1:9999").unwrap(), "secret 10.166.0.3");
    at(&host.netns, |worker| host.network.ensure(worker)).unwrap();
    assert!(get(&b, "127.0.0.1:9999").is_err());
}

#[test]
fn a_forward_policy_of_drop_lets_pods_through() {
    let Some(host) = Host::new() else { return };
    let Some(_) = host.run("iptables-nft", &["-P", "FORWARD", "DROP"]) else { return };
    let (a, _) = host.attach("a", &[port(None, 8080, Protocol::Tcp)]);
    let _servers = [Server::tcp(&a, "0.0.0.0:80", "a"), Server::tcp(&host.neighbour, "0.0.0.0:7000", "neighbour")];
    assert_eq!(get(&a, &format!("{NEIGHBOUR}:7000")).unwrap(), format!("neighbour {HOST}"));
    assert_eq!(get(&host.neighbour, "192.168.77.1:8080").unwrap(), format!("a {NEIGHBOUR}"));
    let listed = host.run("iptables-nft", &["-S", "FORWARD"]).unwrap();
    assert!(listed.contains("-A FORWARD -i pwtest0"), "iptables can still read its table: {listed}");
    // Once, and only once, however often it is looked at; also after somebody flushed it.
    at(&host.netns, |worker| host.network.ensure(worker)).unwrap();
    assert_eq!(host.run("iptables-nft", &["-S", "FORWARD"]).unwrap().lines().count(), 3);
    host.run("iptables-nft", &["-F", "FORWARD"]);
    assert!(get(&a, &format!("{NEIGHBOUR}:7000")).is_err());
    at(&host.netns, |worker| host.network.ensure(worker)).unwrap();
    assert!(get(&a, &format!("{NEIGHBOUR}:7000")).is_ok());
    at(&host.netns, |worker| host.network.remove(worker));
    assert_eq!(host.run("iptables-nft", &["-S", "FORWARD"]).unwrap().lines().count(), 1);
}

#[test]
fn a_drop_chain_of_others_is_named() {
    let Some(host) = Host::new() else { return };
    let chain = "add table inet fw; add chain inet fw pass { type filter hook forward priority 0; policy drop; }";
    let Some(_) = host.run("nft", &[chain]) else { return };
    let _pod = host.attach("a", &[]);
    let warnings = at(&host.netns, |worker| host.network.repair(worker)).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("inet fw pass"), "{warnings:?}");
}

#[test]
fn flushed_rules_come_back() {
    let Some(host) = Host::new() else { return };
    let (a, _) = host.attach("a", &[port(None, 8080, Protocol::Tcp)]);
    let _server = Server::tcp(&a, "0.0.0.0:80", "a");
    let broken = || get(&host.netns, "127.0.0.1:8080").is_err();
    for flush in ["flush ruleset", "flush table inet podwright-pwtest0", "flush map inet podwright-pwtest0 hostports"] {
        assert!(!broken());
        let Some(_) = host.run("nft", &[flush]) else { return };
        assert!(broken(), "{flush}");
        at(&host.netns, |worker| host.network.ensure(worker)).unwrap();
        assert!(!broken(), "{flush}");
    }
    let before = at(&host.netns, |worker| crate::nft::generation(&mut worker.filter)).unwrap();
    at(&host.netns, |worker| host.network.ensure(worker)).unwrap();
    assert_eq!(at(&host.netns, |worker| crate::nft::generation(&mut worker.filter)).unwrap(), before);
    // Somebody flushed, and the pod's end comes first.
    if host.run("nft", &["flush ruleset"]).is_some() {
        host.detach("a");
        assert_eq!(host.elements(), 0);
    }
}

#[test]
fn ports_that_are_taken() {
    let Some(host) = Host::new() else { return };
    let (_a, _) = host.attach("a", &[port(None, 8080, Protocol::Tcp)]);
    let b = netns::make().unwrap();
    let error = host.try_attach(&b, "b", &[port(None, 8080, Protocol::Tcp)]).unwrap_err();
    assert_eq!(error.problem(), crate::Problem::PortInUse);
    let text = |error: &BridgeError| std::error::Error::source(error).unwrap().to_string();
    assert_eq!(text(&error), "host port 8080/tcp is taken by pod default/a, sandbox a");

    let _server = Server::tcp(&host.netns, "127.0.0.1:9999", "host");
    let error = host.try_attach(&b, "b", &[port(None, 9999, Protocol::Tcp)]).unwrap_err();
    let expected = format!("host port 9999/tcp is taken by process {}", std::process::id());
    assert!(text(&error).starts_with(&expected), "{}", text(&error));
    // Nothing is left of what failed, and the same pod can be attached without the port.
    assert_eq!((host.elements(), host.network.holders().len()), (1, 1));
    host.try_attach(&b, "b", &[port(None, 9999, Protocol::Udp)]).unwrap();
}

#[test]
fn what_fails_half_way_is_undone() {
    let Some(host) = Host::new() else { return };
    let netns = netns::make().unwrap();
    // The pod has an eth0 already.
    host.try_attach(&netns, "a", &[]).unwrap();
    let links = host.links();
    let error = host.try_attach(&netns, "b", &[port(None, 8080, Protocol::Tcp)]).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("EEXIST"), "{error:?}");
    assert_eq!(host.links(), links);
    assert_eq!((host.elements(), host.network.holders().len()), (0, 1));
}

#[test]
fn a_namespace_with_tunnels_in_it() {
    let Some(host) = Host::new() else { return };
    let netns = netns::make().unwrap();
    at(&netns, |worker| worker.route.run(&[link::bridge("sit0", Mac::of(Ipv4Addr::LOCALHOST), None)])).unwrap();
    let attachment = host.try_attach(&netns, "a", &[]).unwrap();
    let _server = Server::tcp(&netns, "0.0.0.0:80", "a");
    assert!(get(&host.netns, &format!("{}:80", ip(&attachment))).is_ok());
}

#[test]
fn two_nodes_side_by_side() {
    let Some(host) = Host::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let other = BridgeNetwork::open(config("pwtest1", "10.167.0.0/16"), dir.path(), "boot").unwrap();
    let (a, _) = host.attach("a", &[port(None, 8080, Protocol::Tcp)]);
    let b = netns::make().unwrap();
    let ports = [port(None, 8081, Protocol::Tcp)];
    let pod = Pod { sandbox: "a", name: "default/a".into(), netns: b.as_fd(), ports: &ports };
    at(&host.netns, |worker| other.attach(worker, &pod)).unwrap();
    let _servers = [Server::tcp(&a, "0.0.0.0:80", "one"), Server::tcp(&b, "0.0.0.0:80", "two")];
    assert_eq!(get(&host.neighbour, "192.168.77.1:8080").unwrap(), format!("one {NEIGHBOUR}"));
    assert_eq!(get(&host.neighbour, "192.168.77.1:8081").unwrap(), format!("two {NEIGHBOUR}"));
    assert_eq!(get(&a, "10.167.0.2:80").unwrap(), "two 10.167.0.1");
    at(&host.netns, |worker| other.remove(worker));
    assert!(get(&host.netns, "127.0.0.1:8080").is_ok());
}

#[test]
fn links_of_nobody_and_the_end() {
    let Some(host) = Host::new() else { return };
    let (a, at_a) = host.attach("a", &[]);
    let (_b, at_b) = host.attach("b", &[]);
    // The namespace lives on after DEL.
    host.detach("a");
    host.detach("a");
    let repairs = at(&host.netns, |worker| host.network.repair(worker));
    assert_eq!((repairs.links, repairs.failures.len()), (vec![at_a.host_link.clone()], 0));
    assert!(host.links().contains(&at_b.host_link) && !host.links().contains(&at_a.host_link));
    drop(a);

    let (removed, failures) = at(&host.netns, |worker| host.network.remove(worker));
    assert!(failures.is_empty(), "{failures:?}");
    for what in ["podwright-pwtest0", "the link pwtest0", &at_b.host_link, "ip_forward"] {
        assert!(removed.iter().any(|removed| removed.contains(what)), "{what}: {removed:?}");
    }
    assert_eq!(host.links(), ["lo", "nb0"]);
    let (removed, failures) = at(&host.netns, |worker| host.network.remove(worker));
    assert!(removed.is_empty() && failures.is_empty(), "{removed:?} {failures:?}");
    // And from nothing again.
    host.attach("c", &[]);
}

#[test]
fn a_bridge_that_was_deleted_comes_back() {
    let Some(host) = Host::new() else { return };
    let _first = host.attach("a", &[]);
    at(&host.netns, |worker| worker.route.run(&[link::delete("pwtest0")])).unwrap();
    let (b, _) = host.attach("b", &[]);
    let _server = Server::tcp(&b, "0.0.0.0:80", "b");
    assert!(get(&host.netns, "10.166.0.3:80").is_ok());
}

/// One UDP socket of the neighbour that goes on asking the same port, as a client does that keeps its socket.
struct Client(UdpSocket);

impl Client {
    fn new(host: &Host) -> Self {
        let socket = netns::inside(host.neighbour.as_fd(), || UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn asks(&self, port: u16) -> Option<String> {
        let mut answer = [0; 64];
        self.0.send_to(b"?", (HOST, port)).unwrap();
        let length = self.0.recv(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}

#[test]
fn flows_do_not_stick_to_a_pod_that_is_gone() {
    let Some(host) = Host::new() else { return };
    let forget = |attachment: &Attachment, now| {
        at(&host.netns, |worker| host.network.forget_flows(worker, attachment, now)).unwrap()
    };
    let ports = [port(None, 8080, Protocol::Udp)];
    let (a, at_a) = host.attach("a", &ports);
    let (_c, at_c) = host.attach("c", &[port(None, 8081, Protocol::Udp), port(None, 8081, Protocol::Tcp)]);
    let _servers = [Server::udp(&a, "0.0.0.0:80", "a"), Server::udp(&_c, "0.0.0.0:80", "c")];
    let (client, other) = (Client::new(&host), Client::new(&host));
    assert_eq!((client.asks(8080).as_deref(), other.asks(8081).as_deref()), (Some("a"), Some("c")));
    // The kernel answers with what is asked for, and not with its whole table.
    let pod = at_a.ips[0].addr();
    let asked = [conntrack::answered_by(link::v4(pod).unwrap()), conntrack::sent_to(Protocol::Udp, 8080)];
    let found = |message: &_| at(&host.netns, |worker| worker.filter.ask(message)).unwrap().len();
    assert_eq!(asked.each_ref().map(found), [1, 1]);
    assert_eq!(found(&conntrack::sent_to(Protocol::Tcp, 8080)), 0);
    assert_eq!((forget(&at_a, Ports::Mapped), forget(&at_a, Ports::Freed)), (0, 0), "they lead where they should");

    // The pod's namespace lives on, so that what sticks is seen.
    host.detach("a");
    let (b, at_b) = host.attach("b", &ports);
    let _server = Server::udp(&b, "0.0.0.0:80", "b");
    assert_eq!(client.asks(8080).as_deref(), Some("a"), "the kernel goes on as it began");
    assert_eq!(forget(&at_a, Ports::Freed), 1);
    assert_eq!(client.asks(8080).as_deref(), Some("b"));

    // Nobody has the port for a while, and the client goes on asking.
    host.detach("b");
    assert_eq!(forget(&at_b, Ports::Freed), 1);
    assert_eq!(client.asks(8080), None);
    let (d, at_d) = host.attach("d", &ports);
    let _server = Server::udp(&d, "0.0.0.0:80", "d");
    assert_eq!(client.asks(8080), None, "the kernel goes on as it began");
    assert_eq!(forget(&at_d, Ports::Mapped), 1);
    assert_eq!(client.asks(8080).as_deref(), Some("d"));
    // Nobody else's are touched.
    assert_eq!(other.asks(8081).as_deref(), Some("c"));
    host.detach("c");
    assert_eq!(forget(&at_c, Ports::Freed), 1);
}

#[test]
fn hundreds_of_pods() {
    let Some(host) = Host::new() else { return };
    let pods: Vec<OwnedFd> = (0..100).map(|_| netns::make().unwrap()).collect();
    let mut times: Vec<Duration> = at(&host.netns, |worker| {
        host.network.ensure(worker).unwrap();
        let attach = |(n, netns): (u16, &OwnedFd)| {
            let sandbox = format!("s{n}");
            let ports = [port(None, 20_000 + n, Protocol::Tcp)];
            let pod = Pod { sandbox: &sandbox, name: sandbox.clone(), netns: netns.as_fd(), ports: &ports };
            let start = Instant::now();
            host.network.attach(worker, &pod).unwrap();
            start.elapsed()
        };
        (0..).zip(&pods).map(attach).collect()
    });
    times.sort();
    eprintln!("attach with one host port: min {:?}, p50 {:?}, max {:?}", times[0], times[50], times[99]);
    assert_eq!((host.elements(), host.network.holders().len()), (100, 100));
    let _server = Server::tcp(&pods[99], "0.0.0.0:80", "last");
    assert!(get(&host.neighbour, "192.168.77.1:20099").is_ok());
    // A bound with much room: a delete or a move on the way would cost 10 ms each.
    assert!(times[50] < Duration::from_millis(8), "p50 {:?}", times[50]);
    (0..100).for_each(|n| host.detach(&format!("s{n}")));
    assert_eq!((host.elements(), host.network.holders().len()), (0, 0));
    drop((_server, pods));
    let ended = |link: &String| !link.starts_with(LINK_PREFIX) || link == "pwtest0";
    eventually("all links end with their namespaces", || host.links().iter().all(ended));
}
