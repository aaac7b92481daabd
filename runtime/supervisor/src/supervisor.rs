//! The event loop and everything it knows.

mod attaches;
mod children;
mod deadlines;
mod execs;
mod lifecycle;
mod removal;
mod requests;
mod stop;
mod updates;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use runtime_oci::{ContainerCgroup, Pause};
use runtime_sys::epoll::{Epoll, Interest, Ready};
use runtime_sys::signals::{Signal, SignalFd};
use runtime_sys::{SysResult, socket};
use runtime_wire::{Answer, Event, Failure, Frame, ProcessIdentity};

use crate::clock;
use crate::connection::{Connection, ConnectionError, Received};
use crate::container::{Container, Look};
use crate::exec::Exec;
use crate::stdio::{Buffers, Pumped, Readers};
use crate::warn::warn;
use removal::Removal;
use stop::Stopping;
use updates::Updating;

/// Most connections at once: a node has one or two; the rest is for its successors while it dies.
const CONNECTIONS_MAX: usize = 16;

/// Longest that memory of a burst is kept after its begin: a pod that writes a line a second must not pay for each.
const TIDY_AFTER: Duration = Duration::from_secs(2);

/// Who asked, to be answered later. The connection may be gone by then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) connection: u64,
    pub(crate) call: u64,
}

/// A call's outcome, with the descriptors that travel beside it.
pub(crate) type Outcome = Result<(Answer, Vec<OwnedFd>), Failure>;

/// The pod's sandbox.
#[derive(Debug)]
struct Sandbox {
    id: String,
    exits: PathBuf,
    process: ProcessIdentity,
    cgroup: ContainerCgroup,
    /// The namespaces and the process's descriptor; gone once it is stopped, so that the namespaces can go.
    pause: Option<Pause>,
    alive: Alive,
}

/// Whether the pause process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alive {
    Yes,
    No,
}

/// A cgroup that has to be emptied and removed, whoever it belonged to.
#[derive(Debug)]
struct Remains {
    cgroup: ContainerCgroup,
    look: Look,
}

/// One pod.
#[derive(Debug)]
pub(crate) struct Supervisor {
    epoll: Epoll,
    signals: SignalFd,
    listener: OwnedFd,
    /// Numbers for connections, containers and execs: never used twice, so an event can't reach a later object.
    last_number: u64,
    connections: BTreeMap<u64, Connection>,
    sandbox: Option<Sandbox>,
    containers: BTreeMap<u64, Container>,
    execs: BTreeMap<u64, Exec>,
    updates: BTreeMap<u64, Updating>,
    remains: Vec<Remains>,
    removals: Vec<Removal>,
    stopping: Option<Stopping>,
    /// `Hello`s that are answered once no container is between two phases.
    hellos: Vec<(Caller, Instant)>,
    buffers: Buffers,
    /// When memory is given back; `None` when there is nothing to give.
    tidy_at: Option<Instant>,
    oom_score_adj: i32,
    going: Going,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Going {
    On,
    /// The loop ends when the answers are out.
    Quitting,
}

/// What an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Signals,
    Connection(u64),
    /// A container's check or launch.
    Progress(u64),
    /// Standard output, or the terminal, of a container.
    Stdout(u64),
    Stderr(u64),
    Exec(u64),
    /// A pipe of an attached client.
    Client(u64),
    /// A change of limits.
    Update(u64),
}

/// Bits of a token that hold the object's number: enough for a thousand execs a second over two million years.
const NUMBER_BITS: u32 = 56;

impl Token {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Token::Listener => (0, 0),
            Token::Signals => (1, 0),
            Token::Connection(number) => (2, number),
            Token::Progress(number) => (3, number),
            Token::Stdout(number) => (4, number),
            Token::Stderr(number) => (5, number),
            Token::Exec(number) => (6, number),
            Token::Client(number) => (7, number),
            Token::Update(number) => (8, number),
        };
        kind << NUMBER_BITS | number
    }

    fn unpack(raw: u64) -> Option<Self> {
        let number = raw & ((1 << NUMBER_BITS) - 1);
        Some(match raw >> NUMBER_BITS {
            0 => Token::Listener,
            1 => Token::Signals,
            2 => Token::Connection(number),
            3 => Token::Progress(number),
            4 => Token::Stdout(number),
            5 => Token::Stderr(number),
            6 => Token::Exec(number),
            7 => Token::Client(number),
            8 => Token::Update(number),
            _ => return None,
        })
    }
}

impl Supervisor {
    pub(crate) fn new(listener: OwnedFd, signals: SignalFd, oom_score_adj: i32) -> SysResult<Self> {
        let epoll = Epoll::new()?;
        epoll.add(listener.as_fd(), Token::Listener.pack(), Interest::Read)?;
        epoll.add(signals.as_fd(), Token::Signals.pack(), Interest::Read)?;
        Ok(Self {
            epoll,
            signals,
            listener,
            last_number: 0,
            connections: BTreeMap::new(),
            sandbox: None,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            updates: BTreeMap::new(),
            remains: Vec::new(),
            removals: Vec::new(),
            stopping: None,
            hellos: Vec::new(),
            buffers: Buffers::new(),
            tidy_at: None,
            oom_score_adj,
            going: Going::On,
        })
    }

    /// Serves until told to quit. Only the failure of waiting itself ends it otherwise.
    pub(crate) fn run(mut self) -> SysResult<()> {
        let mut events = Vec::new();
        while self.going == Going::On {
            let timeout = self.next_deadline().map(|at| at.saturating_duration_since(clock::now()));
            self.epoll.wait(&mut events, timeout)?;
            for event in &events {
                self.handle(*event);
            }
            self.pass_deadlines(clock::now());
            self.flush_all();
        }
        Ok(())
    }

    fn handle(&mut self, event: Ready) {
        match Token::unpack(event.token) {
            Some(Token::Listener) => self.accept(),
            Some(Token::Signals) => self.take_signals(),
            Some(Token::Connection(number)) if event.readable || event.hangup => self.receive(number),
            // Room to write: everything that waits is sent at the end of the turn.
            Some(Token::Connection(_)) => {}
            Some(Token::Progress(number)) => self.progress(number),
            Some(Token::Stdout(number)) => self.pump(number, 0),
            Some(Token::Stderr(number)) => self.pump(number, 1),
            Some(Token::Exec(number)) => self.progress_exec(number),
            Some(Token::Client(number)) => self.client_left(number),
            Some(Token::Update(number)) => self.progress_update(number),
            None => {}
        }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn accept(&mut self) {
        loop {
            let socket = match socket::accept(self.listener.as_fd()) {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(error) => return warn(format_args!("a connection is not accepted: {error}")),
            };
            // The socket's mode keeps others out already; this holds if somebody changed it.
            match socket::peer_credentials(socket.as_fd()) {
                Ok(peer) if peer.uid == 0 => {}
                Ok(peer) => {
                    warn(format_args!("refuses a connection of user {} (process {})", peer.uid, peer.pid));
                    continue;
                }
                Err(error) => {
                    warn(format_args!("refuses a connection of nobody knows whom: {error}"));
                    continue;
                }
            }
            if self.connections.len() >= CONNECTIONS_MAX {
                warn(format_args!("refuses a connection: there are {CONNECTIONS_MAX}"));
                continue;
            }
            let number = self.number();
            match self.epoll.add(socket.as_fd(), Token::Connection(number).pack(), Interest::Read) {
                Ok(()) => drop(self.connections.insert(number, Connection::new(socket))),
                Err(error) => warn(format_args!("a connection is not watched: {error}")),
            }
        }
    }

    fn take_signals(&mut self) {
        let mut terminate = false;
        loop {
            match self.signals.take() {
                Ok(Some(signal)) => terminate |= signal == Signal::Terminate.number(),
                Ok(None) => break,
                Err(error) => {
                    warn(error);
                    break;
                }
            }
        }
        self.reap();
        // A supervisor outlives its node; only one that has nothing left to look after may be asked to go.
        if terminate && !self.anything_runs() {
            self.going = Going::Quitting;
        }
    }

    fn receive(&mut self, number: u64) {
        self.tidy_soon();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let end = match connection.receive(self.buffers.room()) {
            Ok(received) => received,
            Err(error) => return self.close(number, &error),
        };
        loop {
            // A call may close connections, this one too.
            let Some(connection) = self.connections.get_mut(&number) else { return };
            match connection.next_call() {
                Ok(Some(call)) => {
                    if let Err(error) = self.serve(number, call) {
                        return self.close(number, &error);
                    }
                }
                Ok(None) => break,
                Err(error) => return self.close(number, &error),
            }
        }
        if end == Received::End {
            self.close(number, &ConnectionError::Closed);
        }
    }

    /// Ends a connection and everything that lives only as long as it.
    fn close(&mut self, number: u64, why: &ConnectionError) {
        let Some(connection) = self.connections.remove(&number) else { return };
        if !matches!(why, ConnectionError::Closed) {
            let cause = std::error::Error::source(why).map(|error| format!(": {error}")).unwrap_or_default();
            warn(format_args!("closes a connection: {why}{cause}"));
        }
        if let Err(error) = self.epoll.remove(connection.socket()) {
            warn(error);
        }
        drop(connection);
        self.hellos.retain(|(caller, _)| caller.connection != number);
        self.kill_execs_of(number);
    }

    /// Answers a call, now or later. One whose connection is gone is answered to nobody.
    fn answer(&mut self, caller: Caller, outcome: Outcome) {
        let (result, descriptors) = match outcome {
            Ok((answer, descriptors)) => (Ok(answer), descriptors),
            Err(failure) => (Err(failure), Vec::new()),
        };
        self.send(caller.connection, &Frame::Answer { id: caller.call, result }, descriptors);
    }

    fn answer_done(&mut self, caller: Caller) {
        self.answer(caller, Ok((Answer::Done, Vec::new())));
    }

    /// Tells everybody who said `Hello`.
    fn tell(&mut self, event: Event) {
        let greeted: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| connection.greeted).map(|(number, _)| *number).collect();
        let frame = Frame::Event(event);
        for number in greeted {
            self.send(number, &frame, Vec::new());
        }
    }

    fn send(&mut self, number: u64, frame: &Frame, descriptors: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if let Err(error) = connection.queue(frame, descriptors) {
            self.close(number, &error);
        }
    }

    /// Sends what is queued, and watches for room where a node doesn't read.
    fn flush_all(&mut self) {
        let mut broken = Vec::new();
        for (number, connection) in &mut self.connections {
            let left = match connection.flush() {
                Ok(left) => left,
                Err(error) => {
                    broken.push((*number, error));
                    continue;
                }
            };
            if left != connection.watched_for_room {
                let interest = if left { Interest::ReadWrite } else { Interest::Read };
                match self.epoll.modify(connection.socket(), Token::Connection(*number).pack(), interest) {
                    Ok(()) => connection.watched_for_room = left,
                    Err(error) => warn(error),
                }
            }
        }
        for (number, error) in broken {
            self.close(number, &error);
        }
    }

    /// Moves a stream's bytes to the log and to the clients.
    fn pump(&mut self, number: u64, stream: usize) {
        self.tidy_soon();
        let Some(live) = self.containers.get_mut(&number).and_then(Container::live) else { return };
        let Some(output) = live.outputs.get_mut(stream) else { return };
        let Some(open) = output else { return };
        let readers = Readers { log: live.log.as_mut(), attached: &mut live.attached, stream };
        if open.pump(readers, &mut self.buffers) == Pumped::Open {
            return;
        }
        let mut clients = Vec::new();
        if let Some(ended) = output.take() {
            if let Err(error) = self.epoll.remove(ended.descriptor()) {
                warn(error);
            }
            ended.finish(live.log.as_mut(), &mut self.buffers);
            clients = live.attached.end(stream);
        }
        if let Some(container) = self.containers.get(&number) {
            clients.into_iter().for_each(|client| self.detach(&container.id, client));
        }
        self.finish_if_over(number, clock::now());
    }

    fn find(&self, id: &str) -> Option<u64> {
        self.containers.iter().find(|(_, container)| container.id == id).map(|(number, _)| *number)
    }

    fn tidy_soon(&mut self) {
        if self.tidy_at.is_none() {
            self.tidy_at = Some(clock::now() + TIDY_AFTER);
        }
    }

    fn anything_runs(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| sandbox.alive == Alive::Yes)
            || self.containers.values().any(Container::is_live)
            || !self.execs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went() {
        let number = (1 << NUMBER_BITS) - 1;
        let numbered = [
            Token::Connection,
            Token::Progress,
            Token::Stdout,
            Token::Stderr,
            Token::Exec,
            Token::Client,
            Token::Update,
        ];
        for token in numbered.into_iter().map(|token| token(number)).chain([Token::Listener, Token::Signals]) {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
