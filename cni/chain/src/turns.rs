//! Operations on one sandbox run one after the other, in the order in which they were asked for, also when the asker has
//! gone away meanwhile: a DEL that overtook its ADD would leave an address behind.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Lines {
    numbers: u64,
    lines: BTreeMap<String, VecDeque<u64>>,
}

/// Who waits for which sandbox.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    lines: Mutex<Lines>,
    moved: Condvar,
}

/// A place in a sandbox's line; dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    sandbox: String,
    number: u64,
}

impl Turns {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody is at work on this sandbox, or waits to be.
    pub(crate) fn is_busy(&self, sandbox: &str) -> bool {
        self.lines().lines.contains_key(sandbox)
    }
}

impl Turn {
    pub(crate) fn take(turns: &Arc<Turns>, sandbox: &str) -> Self {
        let mut lines = turns.lines();
        lines.numbers += 1;
        let number = lines.numbers;
        lines.lines.entry(sandbox.to_owned()).or_default().push_back(number);
        Self { turns: Arc::clone(turns), sandbox: sandbox.to_owned(), number }
    }

    /// Waits until nobody is in front.
    pub(crate) fn wait(&self) {
        let behind =
            |lines: &mut Lines| lines.lines.get(&self.sandbox).and_then(|line| line.front()) != Some(&self.number);
        drop(self.turns.moved.wait_while(self.turns.lines(), behind).unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lines = self.turns.lines();
        if let Some(line) = lines.lines.get_mut(&self.sandbox) {
            line.retain(|number| *number != self.number);
            if line.is_empty() {
                lines.lines.remove(&self.sandbox);
            }
        }
        self.turns.moved.notify_all();
    }
}
