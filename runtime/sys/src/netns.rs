//! Work inside another network namespace.
//!
//! A socket belongs for ever to the namespace it was opened in, so a thread that goes there, opens it and comes back is
//! all that is needed. The threads are dedicated ones ([`Visitor`], [`inside`]): one whose way back failed must end, since
//! whatever it did next would happen in a pod.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::{fmt, thread};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use crate::error::{SysError, SysResult};

/// Most threads that [`inside`] runs at once; more wait. Port-forwards are the only use that comes in bursts, and each
/// thread lives for microseconds.
const VISITS_MAX: usize = 16;

/// Why a visit failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VisitError {
    /// The namespace couldn't be entered, nothing was done.
    Enter(SysError),
    /// The work was done, but the thread can't come back: it must end, and be replaced by a new one.
    Stranded(SysError),
    /// No thread could be started, nothing was done.
    Thread(SysError),
}

impl fmt::Display for VisitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enter(error) => write!(f, "cannot enter the network namespace: {error}"),
            Self::Stranded(error) => write!(f, "cannot come back from a network namespace: {error}"),
            Self::Thread(error) => write!(f, "cannot start a thread for a network namespace: {error}"),
        }
    }
}

impl std::error::Error for VisitError {}

impl VisitError {
    /// The call that failed.
    #[must_use]
    pub fn into_call(self) -> SysError {
        match self {
            Self::Enter(error) | Self::Stranded(error) | Self::Thread(error) => error,
        }
    }
}

/// The calling thread's home, to which it returns after each visit. Belongs to one thread and stays there.
#[derive(Debug)]
pub struct Visitor {
    home: OwnedFd,
    // A raw pointer is neither Send nor Sync: a visitor that moved to another thread would take that one home.
    _stays: std::marker::PhantomData<*const ()>,
}

impl Visitor {
    /// Remembers the calling thread's namespace.
    pub fn new() -> SysResult<Self> {
        Ok(Self { home: current()?, _stays: std::marker::PhantomData })
    }

    /// `setns(netns)`, the work, `setns(home)`. After [`VisitError::Stranded`] the thread must end.
    pub fn visit<T>(&self, netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T, VisitError> {
        enter(netns).map_err(VisitError::Enter)?;
        // A panic in `work` ends this thread, unless its owner catches it; the guard brings it home for that case.
        let guard = WayBack(self.home.as_fd());
        let answer = work();
        std::mem::forget(guard);
        enter(self.home.as_fd()).map_err(VisitError::Stranded)?;
        Ok(answer)
    }
}

struct WayBack<'a>(BorrowedFd<'a>);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        // Best effort on the way out of a panic.
        drop(enter(self.0));
    }
}

/// `open("/proc/thread-self/ns/net")`: the calling thread's network namespace.
/// <https://man7.org/linux/man-pages/man7/namespaces.7.html>
pub fn current() -> SysResult<OwnedFd> {
    open(Path::new("/proc/thread-self/ns/net"))
}

/// `open(path, O_RDONLY|O_CLOEXEC)` of a namespace file. What it is comes to light when it is entered.
pub fn open(path: &Path) -> SysResult<OwnedFd> {
    let file = File::open(path).map_err(|error| SysError::from_io(format!("open({path:?}, O_RDONLY)"), &error))?;
    Ok(file.into())
}

/// `setns(fd, CLONE_NEWNET)` of the calling thread.
/// <https://man7.org/linux/man-pages/man2/setns.2.html>
fn enter(netns: BorrowedFd<'_>) -> SysResult<()> {
    setns(netns, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| SysError::new(format!("setns({netns:?}, CLONE_NEWNET)"), errno as i32))
}

/// Runs `work` inside a namespace on a thread of its own, and waits for it. The thread ends afterwards, so there is no way
/// back that could fail. Blocks: an async caller runs it where blocking is allowed.
pub fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, VisitError> {
    let _turn = Turn::take();
    thread::scope(|scope| {
        let visit = || enter(netns).map(|()| work()).map_err(VisitError::Enter);
        let started = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, visit);
        let thread = started.map_err(|error| VisitError::Thread(SysError::from_io("clone3(CLONE_THREAD)", &error)))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `unshare(CLONE_NEWNET)` on a thread that ends: a new network namespace that lives as long as the descriptor.
/// <https://man7.org/linux/man-pages/man2/unshare.2.html>
pub fn make() -> Result<OwnedFd, VisitError> {
    let made = thread::Builder::new().name("netns".to_owned()).spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| SysError::new("unshare(CLONE_NEWNET)", errno as i32))
            .and_then(|()| current())
    });
    let thread = made.map_err(|error| VisitError::Thread(SysError::from_io("clone3(CLONE_THREAD)", &error)))?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(VisitError::Enter)
}

/// How many visits run; a semaphore.
static RUNNING: Mutex<usize> = Mutex::new(0);
static LEFT: Condvar = Condvar::new();

struct Turn;

impl Turn {
    fn take() -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running =
            LEFT.wait_while(running, |running| *running >= VISITS_MAX).unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        LEFT.notify_one();
    }
}

/// A transport whose port is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `SOCK_STREAM`.
    Tcp,
    /// `SOCK_DGRAM`.
    Udp,
    /// `SOCK_STREAM`, `IPPROTO_SCTP`.
    Sctp,
}

/// `socket(AF_INET or AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)`, of the calling thread's namespace for as long
/// as it lives. The family is the address's.
/// <https://man7.org/linux/man-pages/man2/socket.2.html>
pub fn tcp_socket(family: IpAddr) -> SysResult<OwnedFd> {
    let family = if family.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
        .map_err(|errno| SysError::new(format!("socket({family:?}, SOCK_STREAM)"), errno.raw_os_error()))
}

/// `socket`, `bind`, `close`: whether a socket of the calling thread's namespace has the port. `EADDRINUSE` says so; for
/// TCP and SCTP only a listening one counts (`SO_REUSEADDR`), connections that end do not. Nothing ever listens here.
/// <https://man7.org/linux/man-pages/man2/bind.2.html>
pub fn bind_port(transport: Transport, address: IpAddr, port: u16) -> SysResult<()> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) = match transport {
        Transport::Tcp => (SocketType::STREAM, None),
        Transport::Udp => (SocketType::DGRAM, None),
        Transport::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    };
    let failed = |call: &str, errno: rustix::io::Errno| SysError::new(call, errno.raw_os_error());
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)
        .map_err(|errno| failed(&format!("socket({family:?}, {kind:?}, {protocol:?})"), errno))?;
    if transport != Transport::Udp {
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)
            .map_err(|errno| failed("setsockopt(SO_REUSEADDR)", errno))?;
    }
    let to = SocketAddr::new(address, port);
    rustix::net::bind(&socket, &to).map_err(|errno| failed(&format!("bind({transport:?}, {to})"), errno))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn number(netns: BorrowedFd<'_>) -> u64 {
        File::from(netns.try_clone_to_owned().unwrap()).metadata().unwrap().ino()
    }

    /// Namespaces need root; says so where it isn't there.
    fn namespace() -> Option<OwnedFd> {
        match make() {
            Ok(netns) => Some(netns),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    #[test]
    fn a_socket_stays_where_it_was_opened() {
        let Some(netns) = namespace() else { return };
        let there = inside(netns.as_fd(), || current().map(|fd| number(fd.as_fd()))).unwrap().unwrap();
        assert_eq!(there, number(netns.as_fd()));
        assert_ne!(there, number(current().unwrap().as_fd()));
    }

    #[test]
    fn a_visitor_comes_home() {
        let Some(netns) = namespace() else { return };
        thread::spawn(move || {
            let home = number(current().unwrap().as_fd());
            let visitor = Visitor::new().unwrap();
            let there = visitor.visit(netns.as_fd(), || number(current().unwrap().as_fd())).unwrap();
            assert_eq!(there, number(netns.as_fd()));
            assert_eq!(number(current().unwrap().as_fd()), home);
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                visitor.visit(netns.as_fd(), || panic!("on purpose")).unwrap();
            }));
            assert!(panic.is_err());
            assert_eq!(number(current().unwrap().as_fd()), home);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn not_a_namespace() {
        let file = File::open("/dev/null").unwrap();
        let error = inside(file.as_fd(), || ()).unwrap_err();
        assert!(matches!(&error, VisitError::Enter(error) if error.errno() == libc::EINVAL), "{error}");
    }

    #[test]
    fn a_listener_has_its_port() {
        let Some(netns) = namespace() else { return };
        inside(netns.as_fd(), || {
            let any: IpAddr = "0.0.0.0".parse().unwrap();
            let taken = TcpListener::bind("0.0.0.0:8080").unwrap();
            assert_eq!(bind_port(Transport::Tcp, any, 8080).unwrap_err().errno(), libc::EADDRINUSE);
            assert_eq!(bind_port(Transport::Udp, any, 8080), Ok(()));
            drop(taken);
            assert_eq!(bind_port(Transport::Tcp, any, 8080), Ok(()));
        })
        .unwrap();
    }
}
