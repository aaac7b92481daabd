//! A connection to a port inside a pod.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use runtime_lifecycle::{NetworkMode, SandboxId, SandboxState};
use runtime_sys::netns;
use runtime_wire::{Answer, Request};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    Engine, EngineError, blocking,
    supervisor::{Ask, Brings},
    world::Sandbox,
};

/// How long a pod's own loopback may take to answer: a full queue of connections doesn't refuse, it stays silent.
const CONNECT: Duration = Duration::from_secs(10);

/// Where a port is looked for, in this order, as containerd does for "localhost".
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

impl Engine {
    /// A sandbox whose ports can be reached; the error says what it is instead.
    pub fn check_ready(&self, id: &SandboxId) -> Result<(), EngineError> {
        let record = self.world.sandbox(id)?.record();
        if matches!(record.state, SandboxState::Ready { .. }) {
            return Ok(());
        }
        Err(EngineError::SandboxNotReady { id: id.clone(), state: record.state.name() })
    }

    /// Connects to a TCP port of the pod's loopback, from inside the pod's network.
    pub async fn port_forward(&self, id: &SandboxId, port: u16) -> Result<TcpStream, EngineError> {
        self.check_ready(id)?;
        let sandbox = self.world.sandbox(id)?;
        let record = sandbox.record();
        let inside = match record.config.namespaces.network {
            NetworkMode::Pod => Some(Arc::new(self.network_namespace(&sandbox).await?)),
            NetworkMode::Node => None,
        };
        let failed = |source: io::Error| EngineError::Forward { id: id.clone(), port, source };
        let mut last = None;
        for address in LOOPBACK {
            let made = match (&inside, address) {
                (Some(netns), _) => socket_inside(Arc::clone(netns), address).await,
                (None, IpAddr::V4(_)) => TcpSocket::new_v4().map_err(failed),
                (None, IpAddr::V6(_)) => TcpSocket::new_v6().map_err(failed),
            };
            let socket = match (made, last.take()) {
                (Ok(socket), earlier) => {
                    last = earlier;
                    socket
                }
                // A kernel without IPv6: what the first address came to says more.
                (Err(_), Some(earlier)) => return Err(earlier),
                (Err(error), None) => return Err(error),
            };
            match timeout(CONNECT, socket.connect(SocketAddr::new(address, port))).await {
                Ok(Ok(stream)) => {
                    // What is typed must not wait for more; failing, it is only slower.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                // The first address says more: a pod without IPv6 answers the second one with "unreachable".
                Ok(Err(error)) => last = last.or(Some(failed(error))),
                Err(_) => {
                    let what = format!("the connection to port {port} in sandbox {}", id.short());
                    return Err(EngineError::Deadline { what, after: CONNECT });
                }
            }
        }
        Err(last.unwrap_or_else(|| failed(io::ErrorKind::ConnectionRefused.into())))
    }

    /// The pod's network namespace, as its supervisor holds it.
    async fn network_namespace(&self, sandbox: &Sandbox) -> Result<OwnedFd, EngineError> {
        let link = sandbox.link()?;
        let asked = Ask {
            step: "find the pod's network",
            request: Request::Sandbox,
            descriptors: &[],
            brings: Brings::Descriptor,
            deadline: self.config.limits.supervisor_answer,
        };
        match link.ask(asked).await? {
            (Answer::Sandbox { .. }, Some(netns)) => Ok(netns),
            _ => Err(link.protocol("find the pod's network")),
        }
    }
}

/// A socket of the pod's network. It stays there whichever thread connects it, so the thread that goes in is needed for
/// one call, and a pod that lets its connections wait holds up nobody else's.
async fn socket_inside(netns: Arc<OwnedFd>, family: IpAddr) -> Result<TcpSocket, EngineError> {
    blocking(move || {
        let step = "open a socket in the pod's network";
        let made = netns::inside(netns.as_fd(), || netns::tcp_socket(family));
        let socket = made
            .map_err(|error| error.into_call())
            .and_then(|socket| socket)
            .map_err(|source| EngineError::Kernel { step, source })?;
        Ok(TcpSocket::from_std_stream(std::net::TcpStream::from(socket)))
    })
    .await
}
