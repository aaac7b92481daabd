//! One probe of one container: when it runs next, and what its outcomes come to.
//!
//! The rules are those of the kubelet's prober/worker.go (1.36): a ticker with the probe's period that starts with the
//! pod, not with the container, and keeps its phase when the container restarts; ticks before the initial delay are
//! skipped; ticks that pass while a probe runs come to one.

use std::time::Duration;

use kubelet_shim_manifest::Probe;
use serde::{Deserialize, Serialize};

use crate::{
    action::{ProbeResult, Token},
    moment::Moment,
    status::ProbeKind,
};

/// The state of one probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Worker {
    /// The next tick.
    next: Moment,
    /// A tick has passed, or a probe is wanted at once.
    owed: bool,
    flight: Option<Token>,
    /// Judged: nothing more until the container is another one.
    hold: bool,
    last: Option<bool>,
    run: u32,
    /// The verdict; `None` before the first.
    pub(crate) result: Option<bool>,
}

impl Worker {
    pub(crate) fn new(began: Moment) -> Self {
        Self { next: began, ..Self::default() }
    }

    /// Another container runs under the name.
    pub(crate) fn reset(&mut self, now: Moment, period: Duration) {
        // `last` and `run` stay, as in the kubelet: outcomes of the former run count into the first threshold.
        self.hold = false;
        self.owed = false;
        self.flight = None;
        self.result = None;
        self.pass(now, period);
    }

    /// Probe at once and count periods from now.
    pub(crate) fn trigger(&mut self, now: Moment, period: Duration) {
        if !self.hold && self.flight.is_none() {
            self.owed = true;
            self.next = now + period;
        }
    }

    /// Ticks up to now are lost: nothing could be probed.
    pub(crate) fn skip(&mut self, now: Moment, period: Duration) {
        self.pass(now, period);
    }

    /// Moves the next tick past `now`, keeping its phase; tells whether one had come.
    fn pass(&mut self, now: Moment, period: Duration) -> bool {
        if now < self.next {
            return false;
        }
        self.next = first_tick_after(self.next, now, period);
        true
    }

    /// Whether to probe now. `open` is the end of the initial delay.
    pub(crate) fn poll(&mut self, now: Moment, open: Moment, period: Duration) -> bool {
        if self.hold || self.flight.is_some() {
            return false;
        }
        // A tick before the delay's end doesn't count, however late somebody looks.
        let ticked = self.pass(now, period) && self.next - period >= open;
        let wanted = std::mem::take(&mut self.owed) || ticked;
        wanted && now >= open
    }

    /// When `poll` may say yes.
    pub(crate) fn due(&self, open: Moment, period: Duration) -> Option<Moment> {
        if self.hold || self.flight.is_some() {
            return None;
        }
        if self.owed {
            return Some(Moment(0));
        }
        if self.next >= open {
            return Some(self.next);
        }
        let tick = first_tick_after(self.next, open, period);
        // A tick exactly at the delay's end counts.
        let before = tick - period;
        Some(if before >= open { before } else { tick })
    }

    pub(crate) fn launch(&mut self, token: Token) {
        self.flight = Some(token);
    }

    pub(crate) fn holds(&self, token: Token) -> bool {
        self.flight == Some(token)
    }

    /// The keeper that had the probe under way is gone: it is owed again.
    pub(crate) fn resume(&mut self) {
        self.owed |= self.flight.take().is_some();
    }

    /// How often the same outcome came in a row.
    pub(crate) fn run(&self) -> u32 {
        self.run
    }

    /// Records an outcome; gives the verdict when there is one.
    pub(crate) fn outcome(&mut self, now: Moment, spec: &Probe, kind: ProbeKind, result: ProbeResult) -> Option<bool> {
        self.flight = None;
        self.owed |= self.pass(now, spec.period);
        let good = match result {
            ProbeResult::Success => true,
            ProbeResult::Failure | ProbeResult::Unrunnable => false,
            ProbeResult::Error => return None,
        };
        self.run = if self.last == Some(good) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(good);
        if self.run < if good { spec.success_threshold } else { spec.failure_threshold } {
            return None;
        }
        self.result = Some(good);
        if kind == ProbeKind::Startup || (kind == ProbeKind::Liveness && !good) {
            self.hold = true;
            self.owed = false;
        }
        Some(good)
    }

    /// The verdict was acted upon: the next container's count begins anew.
    pub(crate) fn clear_run(&mut self) {
        self.run = 0;
    }
}

fn first_tick_after(tick: Moment, now: Moment, period: Duration) -> Moment {
    let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
    let missed = now.0.saturating_sub(tick.0) / period;
    Moment(tick.0.saturating_add(period.saturating_mul(missed.saturating_add(1))))
}
