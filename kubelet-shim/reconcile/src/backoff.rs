//! How long a container that ends again and again waits for its next start.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{memory::Tuning, moment::Moment};

/// The current delay of one container. The rule is client-go's: a start doubles the delay that the *next* end is measured
/// by, so the first restart comes at once; a run of more than twice the longest delay begins anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backoff(Option<Entry>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    delay: Duration,
    updated: Moment,
}

impl Backoff {
    /// The moment before which a container that ended at `exit` must not start.
    pub(crate) fn held_until(&self, exit: Moment, tuning: &Tuning) -> Option<Moment> {
        let entry = self.0.as_ref().filter(|entry| !entry.is_stale(exit, tuning))?;
        Some(exit + entry.delay)
    }

    /// The delay that is being waited for.
    pub(crate) fn delay(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// A container that ended at `exit` is started again.
    pub(crate) fn restarted(&mut self, exit: Moment, now: Moment, tuning: &Tuning) {
        let delay = match &self.0 {
            Some(entry) if !entry.is_stale(exit, tuning) => entry.delay.saturating_mul(2).min(tuning.backoff_max),
            _ => tuning.backoff_initial.min(tuning.backoff_max),
        };
        self.0 = Some(Entry { delay, updated: now });
    }
}

impl Entry {
    fn is_stale(&self, exit: Moment, tuning: &Tuning) -> bool {
        exit.since(self.updated) > tuning.backoff_max.saturating_mul(2)
    }
}
