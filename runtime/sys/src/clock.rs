//! The clock that decisions use.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// `clock_gettime(CLOCK_BOOTTIME)`: time since boot, suspended time counted, never set back. Linux 2.6.39.
/// <https://man7.org/linux/man-pages/man2/clock_gettime.2.html>
#[must_use]
pub fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::boottime;

    #[test]
    fn it_runs_forward() {
        let first = boottime();
        assert!(first > std::time::Duration::ZERO);
        assert!(boottime() >= first);
    }
}
