//! The network of a node against the kernel, in network namespaces of its own.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cni_chain::{Attach, Dns, ErrorKind, Network, NetworkConfig, PortMapping, Protocol, Readiness};
use runtime_sys::netns;

const BRIDGE: &str = "pwchain0";

/// Runs an async test in a fresh namespace; says why where there is none.
fn in_a_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let host = match netns::make() {
        Ok(host) => host,
        Err(error) => {
            eprintln!("skipped, needs root: {error}");
            return;
        }
    };
    netns::inside(host.as_fd(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        runtime.block_on(test());
    })
    .unwrap();
}

fn config(dir: &Path) -> NetworkConfig {
    NetworkConfig {
        state_dir: dir.join("network"),
        conf_dir: None,
        bin_dirs: vec![dir.join("bin")],
        pod_cidr: "10.166.0.0/16".parse().unwrap(),
        bridge: BRIDGE.to_owned(),
        mtu: None,
    }
}

fn pod(sandbox: &str, netns: &OwnedFd, ports: &[u16]) -> Attach {
    let port = |host_port: &u16| PortMapping {
        host_port: *host_port,
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    };
    Attach {
        sandbox: sandbox.to_owned(),
        netns: netns.try_clone().unwrap(),
        netns_path: PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd())),
        pod_name: sandbox.to_owned(),
        pod_namespace: "default".to_owned(),
        pod_uid: "uid".to_owned(),
        ports: ports.iter().map(port).collect(),
        dns: Dns::default(),
    }
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One answer of a server in the pod to a client on the host.
fn answers(netns: &OwnedFd, to: &str) -> bool {
    let listener = netns::inside(netns.as_fd(), || TcpListener::bind("0.0.0.0:80").unwrap()).unwrap();
    let Ok(mut client) = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_millis(300)) else {
        return false;
    };
    listener.accept().unwrap().0.write_all(b"hello").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer == "hello"
}

#[test]
fn attach_status_restart_detach() {
    in_a_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(config(dir.path())).await.unwrap();
        assert_eq!(network.readiness(), Readiness::Ready);
        assert!(!output("ip", &["link"]).contains(BRIDGE), "nothing is made before a pod comes");
        let netns = netns::make().unwrap();
        let attached = network.attach(pod("a", &netns, &[8080])).await.unwrap();
        assert_eq!(attached.ips, ["10.166.0.2".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!((attached.interface.as_str(), attached.mac.as_str()), ("eth0", "0a:58:0a:a6:00:02"));
        assert_eq!(network.attach(pod("a", &netns, &[8080])).await.unwrap(), attached, "asked again");
        assert!(answers(&netns, "127.0.0.1:8080") && answers(&netns, "10.166.0.2:80"));
        drop(network);

        // The next daemon knows it, and keeps its address and port.
        let network = Network::open(config(dir.path())).await.unwrap();
        assert_eq!(network.status("a").await, Some(attached.clone()));
        let other = netns::make().unwrap();
        let error = network.attach(pod("b", &other, &[8080])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PortInUse);
        let second = network.attach(pod("b", &other, &[])).await.unwrap();
        assert_ne!(second.ips, attached.ips);
        assert!(answers(&netns, "127.0.0.1:8080"));

        // With the namespace gone, and twice.
        drop(netns);
        network.detach("a").await.unwrap();
        network.detach("a").await.unwrap();
        network.detach("never-there").await.unwrap();
        assert_eq!(network.status("a").await, None);
        let fresh = netns::make().unwrap();
        network.attach(pod("c", &fresh, &[8080])).await.unwrap();

        let told = network.remove_everything().await;
        assert!(!told.iter().any(|line| line.starts_with("left")), "{told:?}");
        assert!(!dir.path().join("network").exists());
        assert_eq!(output("ip", &["-o", "link"]).lines().count(), 1, "loopback alone is left");
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "0");
    });
}

#[test]
fn reconcile_frees_the_dead_of_an_earlier_daemon() {
    in_a_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(config(dir.path())).await.unwrap();
        let (a, b) = (netns::make().unwrap(), netns::make().unwrap());
        network.attach(pod("a", &a, &[8080])).await.unwrap();
        network.attach(pod("b", &b, &[])).await.unwrap();
        // A daemon that died in the middle of an attach leaves an address and no record.
        let addresses = dir.path().join("network/addresses").join(BRIDGE);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        fs::write(addresses.join("10.166.0.77"), format!("half\n{boot}")).unwrap();
        // One of another boot.
        fs::write(addresses.join("10.166.0.78"), "old\nanother-boot\n").unwrap();
        assert_eq!(network.reconcile(&BTreeSet::new()).await.detached, [""; 0], "they are young");
        drop(network);

        let network = Network::open(config(dir.path())).await.unwrap();
        assert!(!addresses.join("10.166.0.78").exists());
        let report = network.reconcile(&BTreeSet::from(["b".to_owned()])).await;
        assert_eq!(report.detached, ["a", "half"]);
        assert_eq!((report.links.len(), report.failures.len()), (1, 0), "{report:?}");
        assert!(!answers(&a, "127.0.0.1:8080") && answers(&b, "10.166.0.3:80"));
        assert_eq!(fs::read_dir(&addresses).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path().join("network/results")).unwrap().count(), 1);
        network.remove_everything().await;
    });
}

#[test]
fn a_network_of_somebody_else_is_refused_by_name() {
    in_a_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        output("ip", &["link", "add", "br-office", "type", "bridge"]);
        output("ip", &["addr", "add", "10.166.5.1/24", "dev", "br-office"]);
        output("ip", &["link", "set", "br-office", "up"]);
        let error = Network::open(config(dir.path())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let expected =
            "the pod network 10.166.0.0/16 overlaps the route 10.166.5.0/24 of br-office; choose another one";
        assert!(error.to_string().starts_with(expected), "{error}");
        let v6 = NetworkConfig { pod_cidr: "fd00::/64".parse().unwrap(), ..config(dir.path()) };
        assert_eq!(Network::open(v6).await.unwrap_err().kind(), ErrorKind::Invalid);
    });
}

#[test]
fn a_link_whose_namespace_lives_on_is_deleted_later() {
    in_a_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(config(dir.path())).await.unwrap();
        let netns = netns::make().unwrap();
        network.attach(pod("a", &netns, &[])).await.unwrap();
        assert!(output("ip", &["link"]).contains("master pwchain0"));
        network.detach("a").await.unwrap();
        let start = Instant::now();
        while output("ip", &["link"]).contains("master pwchain0") {
            assert!(start.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // And the same sandbox again, in the same namespace.
        network.attach(pod("a", &netns, &[])).await.unwrap();
        network.remove_everything().await;
    });
}

#[test]
fn a_client_that_keeps_its_socket_follows_the_port() {
    in_a_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(config(dir.path())).await.unwrap();
        let server = |netns: &OwnedFd| {
            let socket = netns::inside(netns.as_fd(), || UdpSocket::bind("0.0.0.0:80").unwrap()).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Both namespaces live on, so that a packet of the client ends in one of them.
        let (a, b) = (netns::make().unwrap(), netns::make().unwrap());
        let (at_a, at_b) = (server(&a), server(&b));
        let with_port = |sandbox, netns| {
            let mut request = pod(sandbox, netns, &[8080]);
            request.ports[0].protocol = Protocol::Udp;
            request
        };
        for (sandbox, netns, here, elsewhere) in [("a", &a, &at_a, &at_b), ("b", &b, &at_b, &at_a)] {
            // Before anybody has the port.
            client.send_to(b"?", "127.0.0.1:8080").unwrap();
            network.attach(with_port(sandbox, netns)).await.unwrap();
            let start = Instant::now();
            while here.recv(&mut [0; 8]).is_err() {
                assert!(start.elapsed() < Duration::from_secs(5), "{sandbox}");
                client.send_to(b"?", "127.0.0.1:8080").unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            while elsewhere.recv(&mut [0; 8]).is_ok() {}
            client.send_to(b"?", "127.0.0.1:8080").unwrap();
            assert!(elsewhere.recv(&mut [0; 8]).is_err());
            network.detach(sandbox).await.unwrap();
        }
        network.remove_everything().await;
    });
}

#[test]
fn many_at_once() {
    in_a_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(config(dir.path())).await.unwrap();
        let namespaces: Vec<OwnedFd> = (0..64).map(|_| netns::make().unwrap()).collect();
        let start = Instant::now();
        let mut attaching = Vec::new();
        for (n, netns) in namespaces.iter().enumerate() {
            let request = pod(&format!("s{n}"), netns, &[20_000 + u16::try_from(n).unwrap()]);
            let network = network.clone();
            attaching.push(tokio::spawn(async move { network.attach(request).await.unwrap().ips[0] }));
        }
        let mut ips = BTreeSet::new();
        for one in attaching {
            ips.insert(one.await.unwrap());
        }
        eprintln!("64 attached at once in {:?}", start.elapsed());
        assert_eq!(ips.len(), 64, "no address twice");
        assert!(answers(&namespaces[63], "127.0.0.1:20063"));
        let netns = netns::make().unwrap();
        let mut times = Vec::new();
        for _ in 0..50 {
            let request = pod("t", &netns, &[]);
            let start = Instant::now();
            network.attach(request).await.unwrap();
            times.push(start.elapsed());
            network.detach("t").await.unwrap();
            netns::inside(netns.as_fd(), || output("ip", &["link", "del", "eth0"])).unwrap();
        }
        times.sort();
        eprintln!("attach one by one: min {:?}, p50 {:?}", times[0], times[25]);
        // A detach that is asked for right behind its attach doesn't overtake it.
        let (attached, detached) = tokio::join!(network.attach(pod("u", &netns, &[])), network.detach("u"));
        assert!(attached.is_ok() && detached.is_ok());
        assert_eq!(network.status("u").await, None);
        network.remove_everything().await;
    });
}

const PROGRAM: &str = r#"#!/bin/sh
request=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME ${CNI_NETNS:-gone} $CNI_ARGS" >> LOG
case "$request" in *FAIL*) [ "$CNI_COMMAND" = ADD ] && { echo '{"code":100,"msg":"on purpose"}'; exit 1; } ;; esac
case "$request" in *hostPort*) echo "with ports" >> LOG ;; esac
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.9.0.5/24","gateway":"10.9.0.1","interface":0}]}'
exit 0
"#;

fn install(dir: &Path, list: &str) -> NetworkConfig {
    for sub in ["bin", "conf"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let program = dir.join("bin/test-plugin");
    fs::write(&program, PROGRAM.replace("LOG", dir.join("log").to_str().unwrap())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    if !list.is_empty() {
        fs::write(dir.join("conf/10-test.conflist"), list).unwrap();
    }
    NetworkConfig { conf_dir: Some(dir.join("conf")), ..config(dir) }
}

fn log(dir: &Path) -> Vec<String> {
    fs::read_to_string(dir.join("log")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn plugins_that_are_programs() {
    in_a_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let config = install(dir.path(), "");
        let network = Network::open(config.clone()).await.unwrap();
        assert!(matches!(network.readiness(), Readiness::NotReady { .. }));
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"test-plugin","capabilities":{"portMappings":true}}]}"#;
        install(dir.path(), list);
        assert_eq!(network.readiness(), Readiness::Ready, "a configuration that comes later is seen");
        let netns = netns::make().unwrap();
        let attached = network.attach(pod("a", &netns, &[8080])).await.unwrap();
        assert_eq!(
            (attached.ips[0].to_string(), attached.gateway.unwrap().to_string()),
            ("10.9.0.5".into(), "10.9.0.1".into())
        );
        drop(network);
        // DEL runs from the cache, with the configuration and the namespace gone.
        fs::remove_file(dir.path().join("conf/10-test.conflist")).unwrap();
        install(dir.path(), &list.replace("test-plugin", "loopback"));
        drop(netns);
        let network = Network::open(config).await.unwrap();
        network.detach("a").await.unwrap();
        network.detach("a").await.unwrap();
        let args =
            "IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID=a;K8S_POD_NAME=a;K8S_POD_NAMESPACE=default;K8S_POD_UID=uid";
        let lines = log(dir.path());
        assert!(lines[0].starts_with("ADD a eth0 /proc/") && lines[0].ends_with(args), "{lines:?}");
        assert_eq!(lines[1..], ["with ports".to_owned(), format!("DEL a eth0 gone {args}"), "with ports".to_owned()]);
    });
}

#[test]
fn a_list_of_bundled_and_other_plugins() {
    in_a_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[
            {"type":"bridge","bridge":"pwchain0","isGateway":true,"ipMasq":true,"ipam":{"type":"host-local","subnet":"10.8.0.0/24"}},
            {"type":"portmap","capabilities":{"portMappings":true}},
            {"type":"test-plugin","word":"FAIL"}]}"#;
        let network = Network::open(install(dir.path(), list)).await.unwrap();
        let netns = netns::make().unwrap();
        let error = network.attach(pod("a", &netns, &[8080])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Plugin);
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("on purpose"));
        // All of it was undone, DEL of the failed one included.
        assert_eq!(log(dir.path()).iter().filter(|line| line.starts_with("DEL a")).count(), 1);
        assert_eq!(fs::read_dir(dir.path().join("network/results")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(dir.path().join("network/addresses/pwchain0")).unwrap().count(), 0);
        assert_eq!(network.status("a").await, None);
        drop(network);

        let network = Network::open(install(dir.path(), &list.replace("FAIL", "fine"))).await.unwrap();
        let fresh = netns::make().unwrap();
        let attached = network.attach(pod("a", &fresh, &[8080])).await.unwrap();
        assert_eq!(attached.ips[0].to_string(), "10.9.0.5", "the last plugin's answer counts");
        assert!(answers(&fresh, "127.0.0.1:8080"));
        network.remove_everything().await;
    });
}
