//! What the server does at which moment. Pure: time and counts are given.

use std::time::Duration;

use crate::command::DemoArgs;
use crate::units::{UnitError, duration};

/// The script, as started and as changed by `/control`.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    args: DemoArgs,
    fail: Option<Switch>,
    hang: Option<Switch>,
    ready: Option<Switch>,
    crash: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Healthy,
    /// Alive, but not ready yet.
    NotReady,
    Failing,
    /// No answer at all.
    Hanging,
}

/// A word of `/control` that isn't understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("unknown word {0:?}; there are fail, hang, ready (on, off, auto), latency (50ms), crash (an exit code)")]
    Unknown(String),
    #[error("{0} takes on, off or auto")]
    NoSwitch(String),
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error("crash takes an exit code from 0 to 255, or nothing")]
    Code,
}

impl Script {
    pub(crate) fn new(args: DemoArgs) -> Self {
        Self { args, fail: None, hang: None, ready: None, crash: None }
    }

    /// The verdict on the `count`th request (from 1), `uptime` after the start.
    pub(crate) fn verdict(&self, uptime: Duration, count: u64) -> Verdict {
        let passed = |moment: Option<Duration>| moment.is_some_and(|moment| uptime >= moment);
        let exhausted = self.args.fail_after_requests.is_some_and(|max| count > max);
        let decided = |switch: Option<Switch>, by_itself: bool| switch.map_or(by_itself, |switch| switch == Switch::On);
        if decided(self.hang, passed(self.args.hang_after)) {
            Verdict::Hanging
        } else if decided(self.fail, exhausted || passed(self.args.fail_after)) {
            Verdict::Failing
        } else if !decided(self.ready, uptime >= self.args.ready_after) {
            Verdict::NotReady
        } else {
            Verdict::Healthy
        }
    }

    pub(crate) fn latency(&self) -> Duration {
        self.args.latency
    }

    /// The exit code, when the script wants the program to end now.
    pub(crate) fn crash(&self, uptime: Duration) -> Option<u8> {
        let timed = self.args.crash_after.is_some_and(|moment| uptime >= moment);
        self.crash.or(timed.then_some(self.args.exit_code))
    }

    /// How much memory should be held, in bytes.
    pub(crate) fn memory(&self, uptime: Duration) -> u64 {
        let millis = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        self.args.grow.map_or(0, |rate| (rate / 1000).saturating_mul(millis).min(self.args.grow_max))
    }

    /// Takes `fail=on&latency=50ms` and the like. Nothing changes when a word is wrong.
    pub(crate) fn control(&mut self, query: &str) -> Result<(), ControlError> {
        let mut next = self.clone();
        for word in query.split('&').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "fail" => next.fail = switch(name, value)?,
                "hang" => next.hang = switch(name, value)?,
                "ready" => next.ready = switch(name, value)?,
                "latency" => next.args.latency = duration(value)?,
                "crash" if value.is_empty() => next.crash = Some(next.args.exit_code),
                "crash" => next.crash = Some(value.parse().map_err(|_| ControlError::Code)?),
                _ => return Err(ControlError::Unknown(name.to_owned())),
            }
        }
        *self = next;
        Ok(())
    }
}

/// `auto` gives the decision back to the flags.
fn switch(name: &str, value: &str) -> Result<Option<Switch>, ControlError> {
    match value {
        "on" => Ok(Some(Switch::On)),
        "off" => Ok(Some(Switch::Off)),
        "auto" => Ok(None),
        _ => Err(ControlError::NoSwitch(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn verdicts(args: DemoArgs, moments: &[(u64, u64)]) -> Vec<Verdict> {
        let script = Script::new(args);
        moments.iter().map(|(second, count)| script.verdict(s(*second), *count)).collect()
    }

    #[test]
    fn the_flags_are_a_timeline() {
        use Verdict::{Failing, Hanging, Healthy, NotReady};
        let timed =
            DemoArgs { ready_after: s(2), fail_after: Some(s(5)), hang_after: Some(s(9)), ..Default::default() };
        let moments = [(0, 1), (2, 2), (5, 3), (9, 4)];
        assert_eq!(verdicts(timed, &moments), [NotReady, Healthy, Failing, Hanging]);
        let counted = DemoArgs { fail_after_requests: Some(2), ..Default::default() };
        assert_eq!(verdicts(counted, &[(0, 1), (0, 2), (0, 3)]), [Healthy, Healthy, Failing]);
        let crashing = Script::new(DemoArgs { crash_after: Some(s(4)), exit_code: 7, ..Default::default() });
        assert_eq!((crashing.crash(s(3)), crashing.crash(s(4))), (None, Some(7)));
        let growing = Script::new(DemoArgs { grow: Some(10_000), grow_max: 25_000, ..Default::default() });
        assert_eq!([1, 2, 3].map(|second| growing.memory(s(second))), [10_000, 20_000, 25_000]);
    }

    #[test]
    fn control_overrides_and_gives_back() {
        let mut script = Script::new(DemoArgs { fail_after: Some(s(5)), ..Default::default() });
        for (query, at, verdict) in [
            ("fail=on", 0, Verdict::Failing),
            ("fail=off", 6, Verdict::Healthy),
            ("fail=auto", 6, Verdict::Failing),
            ("fail=off&ready=off", 6, Verdict::NotReady),
            ("hang=on", 6, Verdict::Hanging),
        ] {
            script.control(query).unwrap();
            assert_eq!(script.verdict(s(at), 1), verdict, "{query}");
        }
        script.control("latency=50ms&crash=9").unwrap();
        assert_eq!((script.latency(), script.crash(s(0))), (Duration::from_millis(50), Some(9)));
        for wrong in ["fail=maybe", "explode", "latency=soon", "crash=256"] {
            assert!(script.control(&format!("hang=off&{wrong}")).is_err(), "{wrong}");
        }
        assert_eq!(script.verdict(s(0), 1), Verdict::Hanging, "a wrong query changes nothing");
    }
}
