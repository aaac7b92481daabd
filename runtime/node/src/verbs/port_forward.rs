//! `podwright port-forward`: listens on this machine; each connection is carried to a port on the pod's loopback.
//!
//! Each has a session of its own, so that one whose reader is slow holds up no other, and the pod is looked up for each, so
//! that one that was made anew is found again, also by another node.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use runtime_cri_api::v1 as cri;
use runtime_streaming::client;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use crate::cli::{PodOrId, PortForward};
use crate::client::Client;
use crate::error::{Error, chain, refused};
use crate::output;
use crate::verbs::{Answer, target};

/// Most connections at a time; others wait in the listeners' queues. Each holds two descriptors here and two in the node. A
/// browser opens six per host.
const CONNECTIONS_MAX: usize = 256;
/// Free ports that are tried until one is free on all addresses.
const TRIES: usize = 16;
/// How long nothing is accepted after accepting has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(mut client: Client, arguments: PortForward) -> Answer {
    let PortForward { pod, ports, bind } = arguments;
    ready(&mut client, &pod).await?;
    let pod = Arc::new(pod);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut all = Vec::new();
    for ports in ports {
        let listeners = listen(&bind, ports.local).await?;
        all.extend(listeners.into_iter().map(|listener| (listener, ports.remote)));
    }
    let mut accepting = JoinSet::new();
    for (listener, remote) in all {
        let address = listener.local_addr().map_err(|source| Error::Listen { address: any(remote), source })?;
        output::line(&format!("Forwarding from {address} -> {remote}"));
        let to = To { client: client.clone(), pod: Arc::clone(&pod), remote };
        accepting.spawn(accept(listener, to, Arc::clone(&room)));
    }
    tokio::select! {
        // One ends when the pod is gone, and with it all.
        Some(ended) = accepting.join_next() => Err(ended.unwrap_or_else(|_| Error::NoSuchPod { pod: pod.to_string() })),
        _ = tokio::signal::ctrl_c() => Ok(0),
    }
}

/// Where connections go.
#[derive(Clone)]
struct To {
    client: Client,
    pod: Arc<PodOrId>,
    remote: u16,
}

/// Accepts until the pod is gone.
async fn accept(listener: TcpListener, to: To, room: Arc<Semaphore>) -> Error {
    let mut carrying = JoinSet::new();
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(Ok(Some(gone))) = carrying.join_next() => return gone,
        };
        match accepted {
            Ok((local, _)) => {
                let to = to.clone();
                carrying.spawn(async move {
                    let _permit = permit;
                    match carry(to.clone(), local).await {
                        Err(gone @ Error::NoSuchPod { .. }) => Some(gone),
                        Err(error) => {
                            output::failure(&chain(&error));
                            None
                        }
                        Ok(()) => None,
                    }
                });
            }
            Err(error) => {
                output::failure(&format!("cannot accept a connection: {error}"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn carry(to: To, local: TcpStream) -> Result<(), Error> {
    let To { mut client, pod, remote } = to;
    let what = format!("port {remote} of {pod}");
    let sandbox = ready(&mut client, &pod).await?;
    let request = cri::PortForwardRequest { pod_sandbox_id: sandbox, port: vec![i32::from(remote)] };
    let url = client.runtime.port_forward(request).await.map_err(refused(&what))?.into_inner().url;
    client::forward(&url, remote, local).await.map_err(|source| Error::Stream { what, source })
}

/// The pod's sandbox, which runs.
async fn ready(client: &mut Client, pod: &PodOrId) -> Result<String, Error> {
    let found = target::find(client, pod).await?;
    if !target::is_ready(&found.sandbox) {
        return Err(Error::PodNotRunning { pod: found.pod, state: "NotReady".to_owned() });
    }
    Ok(found.sandbox.id)
}

/// Listens on each address; on both of loopback where none is given, if the machine has both.
async fn listen(bind: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, Error> {
    const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let (addresses, lacking) = match bind {
        [] => (&LOOPBACK[..], Lacking::PassedOver),
        bind => (bind, Lacking::Refused),
    };
    let mut tries = TRIES;
    loop {
        tries -= 1;
        match listen_on_all(addresses, port, lacking).await {
            // The port that was free on the first isn't on another.
            Err(Error::Listen { source, .. })
                if port == 0 && tries > 0 && source.kind() == io::ErrorKind::AddrInUse => {}
            answer => return answer,
        }
    }
}

/// What becomes of an address that the machine hasn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lacking {
    PassedOver,
    Refused,
}

async fn listen_on_all(addresses: &[IpAddr], port: u16, lacking: Lacking) -> Result<Vec<TcpListener>, Error> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for ip in addresses {
        // One free port for all addresses.
        let port = listeners.first().and_then(|first| first.local_addr().ok()).map_or(port, |first| first.port());
        let address = SocketAddr::new(*ip, port);
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) if lacking == Lacking::PassedOver && !listeners.is_empty() && is_lacking(&error) => {}
            Err(source) => return Err(Error::Listen { address, source }),
        }
    }
    Ok(listeners)
}

/// A machine without IPv6 has no `::1`, or no such sockets at all.
fn is_lacking(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(NO_FAMILY)
}

/// `EAFNOSUPPORT`, for which the standard library has no word.
const NO_FAMILY: i32 = 97;

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::listen;
    use crate::error::chain;

    #[tokio::test]
    async fn one_free_port_on_all_addresses_and_a_taken_one_is_named() {
        let all = listen(&[], 0).await.expect("listens");
        let port = all[0].local_addr().expect("bound").port();
        assert!(port > 0 && all.iter().all(|one| one.local_addr().expect("bound").port() == port));
        // Also where only the second address has it.
        for held in &all {
            let ip = held.local_addr().expect("bound").ip();
            let error = chain(&listen(&[ip], port).await.expect_err("taken"));
            assert!(error.starts_with(&format!("cannot listen on {}", held.local_addr().expect("bound"))), "{error}");
        }
        let nowhere = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
        assert!(listen(&[nowhere], 0).await.is_err(), "an address that was asked for is not passed over");
        if let [_, six] = &all[..] {
            assert_eq!(six.local_addr().expect("bound").ip(), IpAddr::V6(Ipv6Addr::LOCALHOST));
        }
    }
}
