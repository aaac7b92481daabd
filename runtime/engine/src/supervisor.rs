//! The other end of the wire: starts supervisors and talks to them.

use std::{
    collections::{HashMap, VecDeque},
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use runtime_lifecycle::SandboxId;
use runtime_sys::socket::{connect_unix, listen_unix, recv, send};
use runtime_wire::{Answer, Call, Event, Exit, Failure, Frame, Request, decode, encode};
use tokio::{io::Interest, net::UnixStream, sync::oneshot, time::timeout};

use crate::{Engine, EngineError, records::PodDirectory, world::lock};

/// Connections that may wait for a supervisor's accept: ours, and those of daemons that died meanwhile.
const BACKLOG: i32 = 16;

/// Bytes read at once. Frames are mostly shorter; a state of a hundred containers takes several.
const CHUNK_BYTES: usize = 16 * 1024;

/// Starts a supervisor on a socket in the pod's directory. May block for as long as the start of a program takes.
pub(crate) fn spawn(
    program: BorrowedFd<'_>,
    dir: &PodDirectory,
    id: &SandboxId,
    cgroup: &str,
) -> Result<(Child, OwnedFd), EngineError> {
    let socket = dir.socket();
    let kernel = |step| move |source| EngineError::Kernel { step, source };
    let listener = listen_unix(&socket, 0o600, BACKLOG).map_err(kernel("listen for the supervisor"))?;
    let failed = |source: io::Error| EngineError::Spawn { id: id.clone(), source };
    let log: File = OpenOptions::new().append(true).create(true).open(dir.log()).map_err(failed)?;
    let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("podwright-pod")
        .args([id.short(), cgroup])
        .env_clear()
        // The terminal's Ctrl-C is for the daemon alone.
        .process_group(0)
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(failed)?;
    let stream = connect_unix(&socket).map_err(kernel("connect to the supervisor"))?;
    Ok((child, stream))
}

/// Connects to one that an earlier daemon started.
pub(crate) fn connect(dir: &PodDirectory) -> Result<OwnedFd, EngineError> {
    connect_unix(&dir.socket()).map_err(|source| EngineError::Kernel { step: "connect to the supervisor", source })
}

/// A connection to one supervisor. Calls may be made from many tasks at once; answers find them by number.
#[derive(Debug)]
pub(crate) struct Link {
    sandbox: SandboxId,
    stream: UnixStream,
    /// A frame must not be cut by another.
    writing: tokio::sync::Mutex<()>,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
    /// We closed it: its end is no news.
    closing: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    closed: bool,
    calls: HashMap<u64, Waiter>,
    execs: HashMap<String, oneshot::Sender<Exit>>,
}

#[derive(Debug)]
struct Waiter {
    /// A descriptor travels beside a good answer.
    brings: Brings,
    answer: oneshot::Sender<Result<(Answer, Option<OwnedFd>), Failure>>,
}

/// Whether a descriptor travels beside the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brings {
    Nothing,
    Descriptor,
    /// The answer says so.
    AsAnswered,
}

/// One question.
pub(crate) struct Ask<'a> {
    /// For errors.
    pub(crate) step: &'static str,
    pub(crate) request: Request,
    pub(crate) descriptors: &'a [BorrowedFd<'a>],
    pub(crate) brings: Brings,
    pub(crate) deadline: Duration,
}

impl Link {
    /// Takes a connected socket over. What happens at the other end is told to `engine`.
    pub(crate) fn start(sandbox: SandboxId, stream: OwnedFd, engine: Weak<Engine>) -> Result<Arc<Self>, EngineError> {
        let failed = |source: io::Error| EngineError::Spawn { id: sandbox.clone(), source };
        // Made non-blocking by whoever opened it.
        let stream = UnixStream::from_std(std::os::unix::net::UnixStream::from(stream)).map_err(failed)?;
        let link = Arc::new(Self {
            sandbox,
            stream,
            writing: tokio::sync::Mutex::default(),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        tokio::spawn(listen(Arc::clone(&link), engine));
        Ok(link)
    }

    /// From now on its end is no news.
    pub(crate) fn closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<(Answer, Option<OwnedFd>), EngineError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let step = ask.step;
        let deadline = ask.deadline;
        let frame = encode(&Call { id, request: ask.request })
            .map_err(|error| EngineError::invalid(step, error.to_string()))?;
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.closed {
                return Err(self.gone());
            }
            waiting.calls.insert(id, Waiter { brings: ask.brings, answer });
        }
        let mut asking = Asking { link: self, id, is_sent: false };
        let told = timeout(deadline, async {
            self.write(&frame, ask.descriptors).await?;
            asking.is_sent = true;
            answered.await.map_err(|_| self.gone())
        })
        .await;
        match told {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(Failure { kind, message }))) => Err(EngineError::Supervisor { step, kind, message }),
            Ok(Err(error)) => Err(error),
            // Its waiter stays: an answer that comes all the same may bring a descriptor, which must not be taken for the
            // next answer's.
            Err(_) => Err(EngineError::Deadline {
                what: format!("{step} of sandbox {}", self.sandbox.short()),
                after: deadline,
            }),
        }
    }

    /// Asks for what is only done or not.
    pub(crate) async fn tell(
        &self,
        step: &'static str,
        request: Request,
        deadline: Duration,
    ) -> Result<(), EngineError> {
        match self.ask(Ask { step, request, descriptors: &[], brings: Brings::Nothing, deadline }).await?.0 {
            Answer::Done => Ok(()),
            Answer::State(_) | Answer::Sandbox { .. } | Answer::Started { .. } | Answer::Attached { .. } => {
                Err(self.protocol(step))
            }
        }
    }

    /// Announces an exec, before it is asked for: its end may be told before its beginning.
    pub(crate) fn expect_exec(&self, exec: &str) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).execs.insert(exec.to_owned(), sender);
        receiver
    }

    /// Nobody waits for it any more.
    pub(crate) fn forget_exec(&self, exec: &str) {
        lock(&self.waiting).execs.remove(exec);
    }

    pub(crate) fn protocol(&self, step: &'static str) -> EngineError {
        EngineError::Protocol { id: self.sandbox.clone(), step }
    }

    fn gone(&self) -> EngineError {
        EngineError::SupervisorGone { id: self.sandbox.clone() }
    }

    async fn write(&self, mut bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), EngineError> {
        let _writing = self.writing.lock().await;
        let mut descriptors = descriptors;
        let mut cut = Cut { link: self, begun: false };
        while !bytes.is_empty() {
            let sent = self.stream.try_io(Interest::WRITABLE, || send(self.stream.as_fd(), bytes, descriptors));
            match sent {
                Ok(count) => {
                    bytes = bytes.get(count..).unwrap_or_default();
                    descriptors = &[];
                    cut.begun = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await.map_err(|_| self.gone())?;
                }
                Err(_) => return Err(self.gone()),
            }
        }
        Ok(())
    }

    fn take(&self, frame: Frame, descriptors: &mut VecDeque<OwnedFd>) -> Option<Event> {
        match frame {
            Frame::Answer { id, result } => {
                let waiter = lock(&self.waiting).calls.remove(&id)?;
                let descriptor = match (&result, waiter.brings) {
                    (Ok(Answer::Attached { terminal, input }), Brings::AsAnswered) if *terminal || *input => {
                        descriptors.pop_front()
                    }
                    (Ok(_), Brings::Descriptor) => descriptors.pop_front(),
                    _ => None,
                };
                // Whoever asked may have given up.
                let _ = waiter.answer.send(result.map(|answer| (answer, descriptor)));
                None
            }
            Frame::Event(Event::ExecExited { exec, exit }) => {
                let waiter = lock(&self.waiting).execs.remove(&exec);
                if let Some(waiter) = waiter {
                    let _ = waiter.send(exit);
                }
                None
            }
            Frame::Event(event) => Some(event),
        }
    }
}

/// A question that is given up before it is sent is never answered: nobody waits for it, however often that happens while a
/// supervisor is stopped.
struct Asking<'a> {
    link: &'a Link,
    id: u64,
    is_sent: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.is_sent {
            lock(&self.link.waiting).calls.remove(&self.id);
        }
    }
}

/// A frame that is given up half-way leaves the other end in the middle of a message: the connection is closed, and made
/// anew by whoever reads it.
struct Cut<'a> {
    link: &'a Link,
    begun: bool,
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if self.begun
            && let Ok(descriptor) = self.link.stream.as_fd().try_clone_to_owned()
        {
            // One that is closed already is as good.
            let _ = std::os::unix::net::UnixStream::from(descriptor).shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Reads until the other end closes; then whoever waits is told, and the engine.
async fn listen(link: Arc<Link>, engine: Weak<Engine>) {
    let mut bytes: Vec<u8> = Vec::new();
    let mut descriptors = VecDeque::new();
    while link.stream.readable().await.is_ok() {
        // One per wake, not one per pod for ever.
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = link.stream.try_io(Interest::READABLE, || recv(link.stream.as_fd(), &mut chunk));
        match read {
            Ok((0, _)) => break,
            Ok((count, beside)) => {
                bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
                descriptors.extend(beside);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        }
        let mut taken = 0;
        let broken = loop {
            match decode::<Frame>(bytes.get(taken..).unwrap_or_default()) {
                Ok(Some((frame, length))) => {
                    taken += length;
                    if let (Some(event), Some(engine)) = (link.take(frame, &mut descriptors), engine.upgrade()) {
                        engine.on_event(&link.sandbox, event);
                    }
                }
                Ok(None) => break false,
                Err(error) => {
                    tracing::error!(sandbox = link.sandbox.short(), %error, "the supervisor's words make no sense");
                    break true;
                }
            }
        };
        bytes.drain(..taken);
        if bytes.is_empty() {
            bytes = Vec::new();
        }
        if broken {
            break;
        }
    }
    let waiting = {
        let mut waiting = lock(&link.waiting);
        waiting.closed = true;
        (std::mem::take(&mut waiting.calls), std::mem::take(&mut waiting.execs))
    };
    // Dropped senders tell whoever waits.
    drop(waiting);
    if !link.closing.load(Ordering::Acquire)
        && let Some(engine) = engine.upgrade()
    {
        engine.on_link_lost(link.sandbox.clone()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, sync::Weak, time::Duration};

    use runtime_lifecycle::SandboxId;
    use runtime_wire::Request;

    use super::Link;
    use crate::{Kind, world::lock};

    #[tokio::test]
    async fn a_question_that_was_never_sent_is_forgotten_and_one_that_was_is_not() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("sets");
        let link = Link::start(SandboxId::from_random([1; 32]), ours.into(), Weak::new()).expect("starts");
        let ask = async || {
            let asked = link.tell("greet", Request::Sandbox, Duration::from_millis(10)).await;
            assert_eq!(asked.expect_err("nobody answers").kind(), Kind::DeadlineExceeded);
            lock(&link.waiting).calls.len()
        };
        let writing = link.writing.lock().await;
        assert_eq!(ask().await, 0);
        drop(writing);
        assert_eq!(ask().await, 1);
    }
}
