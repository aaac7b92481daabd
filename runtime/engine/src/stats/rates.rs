//! Processor time per second, from readings that are kept in memory. Pure.

use std::{collections::HashMap, time::Duration};

/// Shortest time that a rate is told over: in less, one tick of the scheduler is a tenth of a processor.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// How old the reading is that the next one is compared with, at least. Clients that ask at the same time get the same rate,
/// not each a thinner slice.
const WINDOW: Duration = Duration::from_secs(5);

/// How long a reading is kept that nobody asks for again.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Readings by cgroup.
#[derive(Debug, Default)]
pub(super) struct Rates {
    tracks: HashMap<String, Track>,
    tidied: Duration,
}

/// One reading: time since boot, and processor time in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) at: Duration,
    pub(super) cpu_nanos: u64,
}

#[derive(Debug, Clone, Copy)]
struct Track {
    older: Reading,
    newer: Reading,
}

impl Rates {
    /// Notes a reading and answers with nanoseconds of processor time per second; nothing while the readings are too close.
    /// `born`: when the group was made, if that isn't long ago: it had used nothing then.
    pub(super) fn note(&mut self, cgroup: &str, reading: Reading, born: Option<Duration>) -> Option<u64> {
        self.tidy(reading.at);
        let first = born.map_or(reading, |at| Reading { at: at.min(reading.at), cpu_nanos: 0 });
        let track = match self.tracks.get_mut(cgroup) {
            // Less than before: another group of the same name.
            Some(track) if reading.cpu_nanos >= track.newer.cpu_nanos => track,
            _ => {
                self.tracks.insert(cgroup.to_owned(), Track { older: first, newer: first });
                self.tracks.get_mut(cgroup)?
            }
        };
        if reading.at.saturating_sub(track.newer.at) >= WINDOW {
            *track = Track { older: track.newer, newer: reading };
        }
        let time = reading.at.saturating_sub(track.older.at);
        let used = reading.cpu_nanos.saturating_sub(track.older.cpu_nanos);
        let per_second = u128::from(used) * 1_000_000_000 / time.as_nanos().max(1);
        (time >= WINDOW_MIN).then(|| u64::try_from(per_second).unwrap_or(u64::MAX))
    }

    fn tidy(&mut self, now: Duration) {
        if now.saturating_sub(self.tidied) < FORGET_AFTER {
            return;
        }
        self.tidied = now;
        self.tracks.retain(|_, track| now.saturating_sub(track.newer.at) < FORGET_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `born`, then pairs of seconds since boot and milliseconds of processor time, with the expected thousandths of a
    /// processor.
    fn check(born: Option<u64>, readings: &[(f64, u64, Option<u64>)]) {
        let mut rates = Rates::default();
        for (at, cpu_millis, expected) in readings {
            let reading = Reading { at: Duration::from_secs_f64(*at), cpu_nanos: cpu_millis * 1_000_000 };
            let told = rates.note("/a", reading, born.map(Duration::from_secs));
            assert_eq!(told.map(|nanos| nanos / 1_000_000), *expected, "at {at} of {readings:?}");
        }
    }

    #[test]
    fn two_readings_make_a_rate() {
        check(None, &[(100.0, 5000, None), (110.0, 6000, Some(100)), (120.0, 6000, Some(0))]);
    }

    #[test]
    fn clients_at_the_same_time_get_the_same_rate() {
        check(None, &[(100.0, 0, None), (110.0, 1000, Some(100)), (110.1, 1100, Some(108)), (111.0, 1100, Some(100))]);
    }

    #[test]
    fn too_close_is_no_rate() {
        check(None, &[(100.0, 0, None), (100.5, 400, None), (101.0, 500, Some(500))]);
    }

    #[test]
    fn a_new_group_has_used_nothing_before() {
        check(Some(98), &[(100.0, 1000, Some(500))]);
        check(Some(100), &[(100.5, 500, None), (102.0, 1000, Some(500))]);
    }

    #[test]
    fn another_group_of_the_same_name_begins_anew() {
        check(None, &[(100.0, 5000, None), (110.0, 10, None), (120.0, 1010, Some(100))]);
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let mut rates = Rates::default();
        let reading = |seconds| Reading { at: Duration::from_secs(seconds), cpu_nanos: 1 };
        rates.note("/old", reading(1000), None);
        rates.note("/new", reading(3000), None);
        assert_eq!(rates.tracks.len(), 1);
    }
}
