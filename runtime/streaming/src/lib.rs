//! Exec, attach and port-forward: the streaming server of the CRI, and the client's side for our command line.
//!
//! *In*: requests of the CRI verbs `Exec`, `Attach` and `PortForward`, answered by a URL with a one-time token, and the HTTP
//! connections that clients (a kubelet, crictl, client-go) then open to it. *Out*: calls of a [`Backend`] and bytes moved
//! between its streams and the client. *Not here*: containers, namespaces, terminals (the backend's), TLS (the server
//! listens on loopback, behind the kubelet), and redirects (it answers none).
//!
//! Protocols, each a pure codec under one loop per connection:
//! - SPDY/3.1 with `channel.k8s.io` … `v5.channel.k8s.io` (exec, attach) and `portforward.k8s.io`;
//! - WebSocket with `channel.k8s.io`, `v4.` and `v5.channel.k8s.io`, each also as `base64.`; `v4.channel.k8s.io` for
//!   port-forward; `SPDY/3.1+portforward.k8s.io`, which is SPDY inside WebSocket messages.
//!
//! A connection is one task that owns all it uses: when it ends, for whatever reason, nothing of it is left. Memory is
//! bounded per connection; where a buffer is full, the reading stops (back-pressure), nothing is dropped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

mod backend;
mod channels;
pub mod client;
mod forward;
mod handshake;
mod link;
mod remote;
mod server;
mod socket;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod token;
mod websocket;

pub use backend::{
    AttachRequest, Backend, BackendError, BoxFuture, Connection, ExecRequest, ExitStatus, Input, Output,
    PortForwardRequest, Session, Size, Terminal,
};
pub use server::{Server, Streaming};

/// Where the server listens and what it allows.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What URLs begin with when clients reach the server under another name (`http://10.0.0.5:10010`); without it,
    /// `http://` and the address that is listened on.
    pub base_url: Option<String>,
    /// The limits.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Config {
        Config { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), base_url: None, limits: Limits::default() }
    }
}

/// What one server allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most URLs that were given out and not yet used. As the kubelet's library: a client that asks and never comes must
    /// not fill the memory.
    pub tokens_max: usize,
    /// How long a URL may wait for its client. The kubelet connects at once.
    pub token_lifetime: Duration,
    /// Most sessions at a time, all kinds together; each holds a few descriptors of the daemon.
    pub sessions_max: usize,
    /// Most connections into pods at a time, of all port-forward sessions together, since a session may have 256: each
    /// holds a descriptor of the daemon, a socket in the pod and, both sides being slow, 192 KiB of buffers.
    pub connections_max: usize,
    /// How long a client may take for its request and then for opening its streams.
    pub creation: Duration,
    /// How long a session may be without a byte in either direction; the kubelet's `streamingConnectionIdleTimeout`.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            tokens_max: 1000,
            token_lifetime: Duration::from_secs(60),
            sessions_max: 1000,
            connections_max: 1024,
            creation: Duration::from_secs(30),
            idle: Duration::from_secs(4 * 60 * 60),
        }
    }
}

/// Why the server can't do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StreamingError {
    /// The address can't be listened on.
    #[error("streaming: cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No random bytes from the kernel.
    #[error("streaming: cannot read {path}")]
    Random {
        /// Where they come from.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Too many URLs wait for their client.
    #[error("{max} streaming URLs are waiting for their clients, which is the limit; try again within {lifetime:?}")]
    TooManyTokens {
        /// The limit.
        max: usize,
        /// When the oldest ends at the latest.
        lifetime: Duration,
    },
    /// Too many sessions run.
    #[error("{max} streaming sessions are open, which is the limit; end some or try again later")]
    TooManySessions {
        /// The limit.
        max: usize,
    },
}
