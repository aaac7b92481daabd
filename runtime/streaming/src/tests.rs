//! The server with a runtime of its own making, and clients that send what they like.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::{Config, ExecRequest, Limits, PortForwardRequest, Server, Streaming};

mod client;
mod exec;
mod fake;
mod forward;
mod hostile;
mod judge;
mod limits;
mod ours;

use client::{Got, Spdy, Web};
use fake::Fake;

/// A server that runs.
struct World {
    streaming: Streaming,
    fake: Arc<Fake>,
    server: JoinHandle<()>,
}

impl World {
    async fn new() -> World {
        World::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> World {
        let fake = Arc::new(Fake::default());
        let config = Config { limits, ..Config::default() };
        let (streaming, server): (Streaming, Server) = Streaming::bind(config, Arc::clone(&fake) as _).await.unwrap();
        let server = tokio::spawn(server.run(std::future::pending()));
        World { streaming, fake, server }
    }

    /// A URL for a command with all its streams but a terminal.
    fn exec(&self, command: &[&str]) -> String {
        self.streaming.exec(exec(command)).unwrap()
    }

    fn forward(&self, ports: &[u16]) -> String {
        self.streaming.port_forward(PortForwardRequest { sandbox: "pod".to_owned(), ports: ports.to_vec() }).unwrap()
    }

    /// Waits until no session is left, at most 30 s: other tests run beside this one.
    async fn settled(&self) {
        let free = || self.streaming.sessions_free() == self.streaming.sessions_max();
        for _ in 0..3000 {
            if self.fake.live() == 0 && free() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} processes are left, sessions all free: {}", self.fake.live(), free());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn exec(command: &[&str]) -> ExecRequest {
    ExecRequest {
        container: "c".to_owned(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    }
}

fn terminal(command: &[&str]) -> ExecRequest {
    ExecRequest { stderr: false, tty: true, ..exec(command) }
}
