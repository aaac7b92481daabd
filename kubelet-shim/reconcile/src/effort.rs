//! Something to be done until it has succeeded.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{action::Token, moment::Moment};

/// First pause after a failed call to the runtime.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between calls that fail: how late the keeper may notice that the runtime is well again.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Whether it is under way, and if not, when to try. The intention outlives the keeper, the flight doesn't.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Effort {
    flight: Option<Token>,
    pub(crate) not_before: Moment,
    pub(crate) failures: u32,
}

impl Effort {
    pub(crate) fn holds(&self, token: Token) -> bool {
        self.flight == Some(token)
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.flight.is_some()
    }

    pub(crate) fn is_due(&self, now: Moment) -> bool {
        self.flight.is_none() && now >= self.not_before
    }

    /// When to try; `None` while it is under way.
    pub(crate) fn due(&self) -> Option<Moment> {
        self.flight.is_none().then_some(self.not_before)
    }

    pub(crate) fn launch(&mut self, token: Token) {
        self.flight = Some(token);
    }

    /// It failed; the next try comes after a pause that doubles.
    pub(crate) fn failed(&mut self, now: Moment) {
        self.flight = None;
        let pause = PAUSE.saturating_mul(1 << self.failures.min(8)).min(PAUSE_MAX);
        self.not_before = now + pause;
        self.failures = self.failures.saturating_add(1);
    }

    /// It succeeded, yet what it should bring about is still to be seen.
    pub(crate) fn answered(&mut self, now: Moment) {
        self.flight = None;
        self.failures = 0;
        self.not_before = now + PAUSE;
    }

    /// The keeper that had it under way is gone.
    pub(crate) fn resume(&mut self) {
        self.flight = None;
    }
}
