//! Addresses, host ports, and what stops at the border.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::Outcome;
use tests_integration::client::Sandbox;
use tests_integration::machine::{self, Neighbour};
use tests_integration::node::free_port;

use crate::{BUSYBOX, World};

/// One test turns the FORWARD policy of the shared network namespace; those whose packets are forwarded wait for it.
static FORWARD_POLICY: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

/// A web server that answers with `text` on port 80.
fn server(text: &str) -> String {
    format!("mkdir -p /srv/w; echo {text} > /srv/w/index.html; exec httpd -f -p 80 -h /srv/w")
}

/// A shell line that prints what a GET of / brings. Not wget: Debian's static busybox resolves names by dlopen and crashes.
fn fetch(address: &str, port: u16) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 15 {address} {port} 2>&1 | tail -n 1")
}

/// What a GET of / brings from `address`, tried until it answers, at most 20 s.
async fn get(address: &str) -> anyhow::Result<String> {
    let began = Instant::now();
    loop {
        let address = address.to_owned();
        let tried = tokio::task::spawn_blocking(move || -> anyhow::Result<String> {
            let mut stream = TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.rsplit("\r\n").next().unwrap_or_default().trim().to_owned())
        })
        .await?;
        match tried {
            Ok(answer) => return Ok(answer),
            Err(error) if began.elapsed() > Duration::from_secs(20) => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn served(world: &World, name: &str, ports: Vec<cri::PortMapping>) -> anyhow::Result<(Sandbox, String)> {
    let mut config = world.pod(name);
    config.port_mappings = ports;
    let sandbox = world.client.run(config).await?;
    let id = world.client.launch(&sandbox, "web", BUSYBOX, &["/bin/sh", "-c", &server(name)]).await?;
    Ok((sandbox, id))
}

fn port(host: u16) -> cri::PortMapping {
    cri::PortMapping {
        protocol: cri::Protocol::Tcp as i32,
        container_port: 80,
        host_port: host.into(),
        host_ip: String::new(),
    }
}

pub(crate) async fn pods_reach_each_other_the_host_and_back(world: Arc<World>) -> Outcome {
    let _policy = FORWARD_POLICY.read().await;
    let ((one, _), (two, second)) = tokio::try_join!(served(&world, "one", vec![]), served(&world, "two", vec![]))?;
    let (first, gateway) = (world.client.address(&one).await?, world.node.pod_cidr.replace(".0/24", ".1"));
    ensure!(get(&format!("{first}:80")).await? == "one", "the host does not reach a pod");
    let answer = world.client.shell(&second, &fetch(&first, 80)).await?;
    ensure!(answer.trim() == "one", "a pod does not reach a pod: {answer}");
    let listener = TcpListener::bind((gateway.as_str(), 0)).context("the gateway's address is the host's")?;
    let port = listener.local_addr()?.port();
    let answering = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"hello\n")
    });
    let heard = world.client.shell(&second, &format!("nc -w 5 {gateway} {port} < /dev/null")).await?;
    ensure!(heard == "hello\n", "a pod does not reach the host: {heard}");
    answering.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;
    // The world outside sees the host's address, not the pod's.
    let neighbour = Neighbour::new(1)?;
    let mut catch = std::process::Command::new("nsenter")
        .args([&format!("--net=/run/netns/{}", neighbour.name), "/bin/busybox", "nc", "-l", "-p", "4000"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let talk = format!(
        "for i in 1 2 3 4 5 6 7 8; do (echo hi; sleep 1) | nc -w 3 {} 4000 && exit; sleep 0.2; done",
        neighbour.own
    );
    let (sent, seen) = tokio::join!(world.client.shell(&second, &talk), async {
        let mut seen = String::new();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            seen = neighbour.run(&["ss", "-tnH", "state", "established"])?;
            if !seen.is_empty() {
                break;
            }
        }
        anyhow::Ok(seen)
    });
    catch.kill()?;
    catch.wait()?;
    sent?;
    let seen = seen?;
    ensure!(seen.contains(&format!("{}]:", neighbour.host)) && !seen.contains("10.166."), "not masqueraded: {seen}");
    world.client.end(&one).await?;
    world.client.end(&two).await
}

pub(crate) async fn a_host_port_answers_on_loopback_and_on_the_host(world: Arc<World>) -> Outcome {
    let _policy = FORWARD_POLICY.read().await;
    let number = free_port()?;
    let (sandbox, id) = served(&world, "ported", vec![port(number)]).await?;
    let gateway = world.node.pod_cidr.replace(".0/24", ".1");
    for address in ["127.0.0.1", gateway.as_str()] {
        ensure!(get(&format!("{address}:{number}")).await? == "ported", "the port does not answer on {address}");
    }
    let neighbour = Neighbour::new(2)?;
    let answer = neighbour.run(&["/bin/busybox", "sh", "-c", &fetch(&neighbour.host, number)])?;
    ensure!(answer.trim() == "ported", "a neighbour does not reach the port: {answer}");
    let own = world.client.shell(&id, &fetch(&gateway, number)).await?;
    ensure!(own.trim() == "ported", "the pod does not reach itself by its port: {own}");
    world.client.end(&sandbox).await?;
    let refused = TcpStream::connect_timeout(&format!("127.0.0.1:{number}").parse()?, Duration::from_secs(2));
    ensure!(refused.is_err(), "the port answers after the pod's end");
    Ok(())
}

pub(crate) async fn a_host_port_in_use_is_named(world: Arc<World>) -> Outcome {
    let number = free_port()?;
    let (sandbox, _) = served(&world, "holder", vec![port(number)]).await?;
    let mut config = world.pod("late");
    config.port_mappings = vec![port(number)];
    let Err(error) = world.client.run(config).await else { bail!("two pods hold port {number}") };
    ensure!(format!("{error:#}").contains(&number.to_string()), "{error:#}");
    world.client.end(&sandbox).await?;
    let held = TcpListener::bind("0.0.0.0:0")?;
    let number = held.local_addr()?.port();
    let mut config = world.pod("later");
    config.port_mappings = vec![port(number)];
    let Err(error) = world.client.run(config).await else {
        bail!("a pod took port {number} from a process of the host")
    };
    ensure!(format!("{error:#}").contains(&number.to_string()), "{error:#}");
    Ok(())
}

pub(crate) async fn loopback_of_the_host_stays_its_own(world: Arc<World>) -> Outcome {
    let _policy = FORWARD_POLICY.read().await;
    let number = free_port()?;
    let (sandbox, id) = served(&world, "border", vec![port(number)]).await?;
    ensure!(get(&format!("127.0.0.1:{number}")).await? == "border", "the port does not answer");
    let secret = TcpListener::bind("127.0.0.1:0")?;
    let (target, gateway) = (secret.local_addr()?.port(), world.node.pod_cidr.replace(".0/24", ".1"));
    // A pod with a route for 127.0.0.0/8 through the bridge is what CVE-2020-8558 needs; NET_ADMIN is not its own, so the
    // route is made for it from outside.
    let pid = pid_in(&id)?;
    let inside = |command: &[&str]| machine::output("nsenter", &[&["-t", &pid, "-n"], command].concat());
    for command in [
        vec!["ip", "link", "set", "lo", "down"],
        vec!["sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"],
        vec!["ip", "route", "add", "127.0.0.0/8", "via", &gateway],
    ] {
        inside(&command)?;
    }
    let tried = inside(&["/bin/busybox", "nc", "-w", "2", "127.0.0.1", &target.to_string()])?;
    secret.set_nonblocking(true)?;
    ensure!(!tried.status.success() && secret.accept().is_err(), "a pod reached the host's loopback");
    let neighbour = Neighbour::new(3)?;
    neighbour.run(&["ip", "link", "set", "lo", "down"])?;
    neighbour.run(&["sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"])?;
    neighbour.run(&["ip", "route", "add", "127.0.0.0/8", "via", &neighbour.host])?;
    let _ = neighbour.run(&["/bin/busybox", "nc", "-w", "2", "127.0.0.1", &target.to_string()]);
    ensure!(secret.accept().is_err(), "a neighbour reached the host's loopback");
    world.client.end(&sandbox).await
}

/// A pid of a container's process, found by its cgroup.
fn pid_in(id: &str) -> anyhow::Result<String> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_ok()
            && std::fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|text| text.contains(id))
        {
            return Ok(name);
        }
    }
    bail!("no process in the cgroup of {id}")
}

pub(crate) async fn a_forward_policy_of_drop_does_not_stop_pods(world: Arc<World>) -> Outcome {
    let _policy = FORWARD_POLICY.write().await;
    machine::run("iptables-nft", &["-P", "FORWARD", "DROP"])?;
    let checked = forwarded(&world).await;
    machine::run("nft", &["delete", "table", "ip", "filter"])?;
    checked
}

async fn forwarded(world: &World) -> Outcome {
    let number = free_port()?;
    let ((one, _), (two, second)) =
        tokio::try_join!(served(world, "fone", vec![port(number)]), served(world, "ftwo", vec![]))?;
    let first = world.client.address(&one).await?;
    get(&format!("{first}:80")).await.context("the server is not up")?;
    let answer = world.client.shell(&second, &fetch(&first, 80)).await?;
    ensure!(
        answer.trim() == "fone",
        "a pod does not reach a pod: {answer}\n{}",
        machine::run("nft", &["list", "ruleset"])?
    );
    let neighbour = Neighbour::new(4)?;
    let answer = neighbour.run(&["/bin/busybox", "sh", "-c", &fetch(&neighbour.host, number)])?;
    ensure!(answer.trim() == "fone", "a neighbour does not reach the port: {answer}");
    world
        .client
        .shell(&second, &format!("ping -c 1 -W 3 {}", neighbour.own))
        .await
        .context("a pod does not get out")?;
    world.client.end(&one).await?;
    world.client.end(&two).await
}

pub(crate) async fn nothing_is_left_when_the_pod_is_gone(world: Arc<World>) -> Outcome {
    let rows = || -> anyhow::Result<(usize, usize)> {
        let links = machine::run("ip", &["-o", "link", "show", "master", &world.node.bridge]).unwrap_or_default();
        let rules = machine::run("nft", &["list", "ruleset"])?;
        Ok((links.lines().count(), rules.matches("4711").count()))
    };
    let (sandbox, _) = served(&world, "gone", vec![port(4711)]).await?;
    let address = world.client.address(&sandbox).await?;
    ensure!(rows()?.1 > 0, "the host port is in no rule");
    world.client.end(&sandbox).await?;
    let began = Instant::now();
    while rows()?.1 > 0 {
        ensure!(began.elapsed() < Duration::from_secs(20), "the rules of a host port are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let files = machine::run("grep", &["-rl", &sandbox.id, &world.node.run_directory().display().to_string()])
        .unwrap_or_default();
    ensure!(files.is_empty(), "files of the pod are left: {files} ({address})");
    Ok(())
}
