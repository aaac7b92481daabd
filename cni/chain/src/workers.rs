//! The threads that kernel work runs on.
//!
//! They are started when there is work and end after a while without; how many there are and how much waits is bounded.
//! One that is stranded in a pod's namespace ends. New ones are started by whoever hands work in, never by one of them: a
//! thread begins its life in the namespace of the thread that started it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cni_plugins::{BridgeError, Worker};

use crate::request::NetworkError;

/// Most threads. The kernel does most of the work under one lock (RTNL), so more would wait there.
const THREADS_MAX: usize = 4;
/// Most operations that wait; at a millisecond each this is a second's work.
const WAITING_MAX: usize = 1024;
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(20);

/// Whether the thread can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    GoOn,
    /// It is stuck in a pod's namespace.
    End,
}

impl Fate {
    pub(crate) fn of(error: &BridgeError) -> Self {
        if error.is_stranded() { Self::End } else { Self::GoOn }
    }
}

type Job = Box<dyn FnOnce(Result<&mut Worker, BridgeError>) -> Fate + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    later: BTreeMap<(Instant, u64), Job>,
    numbers: u64,
    idle: usize,
    alive: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads; ends them when dropped.
pub(crate) struct Workers(Arc<Shared>);

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.0.queue();
        f.debug_struct("Workers").field("alive", &queue.alive).field("waiting", &queue.jobs.len()).finish()
    }
}

impl Workers {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Runs a job on one of the threads, in turn.
    pub(crate) fn run(
        &self,
        job: impl FnOnce(Result<&mut Worker, BridgeError>) -> Fate + Send + 'static,
    ) -> Result<(), NetworkError> {
        let mut queue = self.0.queue();
        if queue.jobs.len() >= WAITING_MAX {
            return Err(NetworkError::Busy { waiting: queue.jobs.len() });
        }
        queue.jobs.push_back(Box::new(job));
        self.staff(queue)
    }

    /// Runs a job some time from now, when one of the threads is free.
    pub(crate) fn run_later(
        &self,
        pause: Duration,
        job: impl FnOnce(Result<&mut Worker, BridgeError>) -> Fate + Send + 'static,
    ) {
        let mut queue = self.0.queue();
        queue.numbers += 1;
        let key = (Instant::now() + pause, queue.numbers);
        queue.later.insert(key, Box::new(job));
        drop(queue);
        self.0.wake.notify_one();
    }

    fn staff(&self, mut queue: MutexGuard<'_, Queue>) -> Result<(), NetworkError> {
        let needed = queue.idle < queue.jobs.len() && queue.alive < THREADS_MAX;
        if needed {
            queue.alive += 1;
        }
        let alone = queue.alive == 1;
        drop(queue);
        if needed {
            let shared = Arc::clone(&self.0);
            let started = thread::Builder::new().name("network".to_owned()).spawn(move || live(&shared));
            if let Err(source) = started {
                let mut queue = self.0.queue();
                queue.alive -= 1;
                // Others will come to it, if there are any.
                if alone {
                    queue.jobs.pop_back();
                    return Err(NetworkError::Run { plugin: "bridge".to_owned(), source });
                }
            }
        }
        self.0.wake.notify_one();
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.wake.notify_all();
    }
}

/// One thread's life.
fn live(shared: &Shared) {
    let mut worker = None;
    while let Some(job) = next(shared) {
        let fate = catch_unwind(AssertUnwindSafe(|| {
            if worker.is_none() {
                match Worker::new() {
                    Ok(new) => worker = Some(new),
                    Err(error) => return job(Err(error)),
                }
            }
            worker.as_mut().map_or(Fate::GoOn, |worker| job(Ok(worker)))
        }));
        if !matches!(fate, Ok(Fate::GoOn)) {
            break;
        }
    }
    shared.queue().alive -= 1;
}

/// The next job; `None` when the thread is to end.
fn next(shared: &Shared) -> Option<Job> {
    let mut queue = shared.queue();
    let since = Instant::now();
    loop {
        let now = Instant::now();
        let due = queue.later.first_key_value().map(|(key, _)| key.0);
        if due.is_some_and(|due| due <= now) {
            return queue.later.pop_first().map(|(_, job)| job);
        }
        if let Some(job) = queue.jobs.pop_front() {
            return Some(job);
        }
        // What was to be done later is found by the next start's reconcile.
        if queue.closed || (due.is_none() && now.duration_since(since) >= IDLE) {
            return None;
        }
        let pause = due.map_or(IDLE, |due| due.saturating_duration_since(now));
        queue.idle += 1;
        queue = shared.wake.wait_timeout(queue, pause).unwrap_or_else(PoisonError::into_inner).0;
        queue.idle -= 1;
    }
}
