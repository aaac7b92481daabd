//! The two clocks. Deadlines are [`Instant`]s; wall time is for display alone.

use std::time::{Instant, SystemTime};

/// Nanoseconds since the epoch, for people. A clock before 1970 reads as 0.
pub(crate) fn unix_nanos() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The moment that deadlines are compared with.
pub(crate) fn now() -> Instant {
    Instant::now()
}
