//! The moment, and what it is called on the wall.

use std::time::{Duration, SystemTime};

use kubelet_shim_reconcile::Moment;

/// The present moment.
pub(crate) fn now() -> Moment {
    Moment(u64::try_from(kubelet_shim_volumes::boottime().as_nanos()).unwrap_or(u64::MAX))
}

/// How the two clocks lay when the keeper started. Times that are shown are computed from it, so that they stay what they
/// were when somebody sets the wall clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wall {
    zero: SystemTime,
}

impl Wall {
    pub(crate) fn new() -> Self {
        let since_boot = Duration::from_nanos(now().0);
        Self { zero: SystemTime::now().checked_sub(since_boot).unwrap_or(SystemTime::UNIX_EPOCH) }
    }

    /// The wall time of a moment.
    pub(crate) fn of(self, moment: Moment) -> SystemTime {
        self.zero.checked_add(Duration::from_nanos(moment.0)).unwrap_or(self.zero)
    }

    /// The moment of a time that the runtime gives in nanoseconds since 1970; never later than now.
    pub(crate) fn moment(self, unix_nanos: i64) -> Moment {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(unix_nanos).unwrap_or(0));
        let since = time.duration_since(self.zero).unwrap_or_default();
        Moment(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)).min(now())
    }
}

/// Which boot this is: what was remembered under another one is history.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
