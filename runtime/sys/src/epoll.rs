//! Waiting for many descriptors at once.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

use crate::error::{SysError, SysResult};

/// What is waited for on a descriptor. Errors and hang-ups are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Nothing but errors and hang-ups.
    Hangup,
    /// Bytes to read, or the end.
    Read,
    /// Room to write.
    Write,
    /// Both.
    ReadWrite,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Interest::Hangup => epoll::EventFlags::empty(),
            Interest::Read => epoll::EventFlags::IN,
            Interest::Write => epoll::EventFlags::OUT,
            Interest::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }
}

/// A descriptor that has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The number that it was added with.
    pub token: u64,
    /// A read gives bytes, the end or an error.
    pub readable: bool,
    /// A write takes bytes or gives an error.
    pub writable: bool,
    /// The other side is gone, or an error is pending.
    pub hangup: bool,
}

/// An epoll instance, level-triggered.
#[derive(Debug)]
pub struct Epoll {
    descriptor: OwnedFd,
}

/// Most events that one [`Epoll::wait`] takes; what is left over comes with the next.
pub const EVENTS_MAX: usize = 32;

impl Epoll {
    /// `epoll_create1(EPOLL_CLOEXEC)`.
    pub fn new() -> SysResult<Self> {
        let descriptor = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| SysError::new("epoll_create1(EPOLL_CLOEXEC)", errno.raw_os_error()))?;
        Ok(Self { descriptor })
    }

    /// `epoll_ctl(EPOLL_CTL_ADD)`: waits for `source` from now on. It must be removed before it is closed if a copy of it
    /// lives elsewhere (in a child, in a message on its way), else it goes on reporting.
    pub fn add(&self, source: BorrowedFd<'_>, token: u64, interest: Interest) -> SysResult<()> {
        epoll::add(&self.descriptor, source, epoll::EventData::new_u64(token), interest.flags())
            .map_err(|errno| self.failed("EPOLL_CTL_ADD", source, errno))
    }

    /// `epoll_ctl(EPOLL_CTL_MOD)`.
    pub fn modify(&self, source: BorrowedFd<'_>, token: u64, interest: Interest) -> SysResult<()> {
        epoll::modify(&self.descriptor, source, epoll::EventData::new_u64(token), interest.flags())
            .map_err(|errno| self.failed("EPOLL_CTL_MOD", source, errno))
    }

    /// `epoll_ctl(EPOLL_CTL_DEL)`.
    pub fn remove(&self, source: BorrowedFd<'_>) -> SysResult<()> {
        epoll::delete(&self.descriptor, source).map_err(|errno| self.failed("EPOLL_CTL_DEL", source, errno))
    }

    /// `epoll_wait`: replaces what is in `events`. `None` waits for ever; an interruption by a signal is no event and no
    /// error. A timeout is rounded up to whole milliseconds, so that a deadline has passed when the wait is over.
    pub fn wait(&self, events: &mut Vec<Ready>, timeout: Option<Duration>) -> SysResult<()> {
        const EMPTY: epoll::Event =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        events.clear();
        let timeout = timeout.map(|limit| {
            let millis = limit.as_nanos().div_ceil(1_000_000);
            let whole = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX).min(86_400_000));
            Timespec {
                tv_sec: i64::try_from(whole.as_secs()).unwrap_or(86_400),
                tv_nsec: i64::from(whole.subsec_nanos()),
            }
        });
        let mut raw = [EMPTY; EVENTS_MAX];
        let count = match epoll::wait(&self.descriptor, &mut raw[..], timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(errno) => {
                return Err(SysError::new(
                    format!("epoll_wait({})", self.descriptor.as_raw_fd()),
                    errno.raw_os_error(),
                ));
            }
        };
        events.extend(raw.iter().take(count).map(|event| {
            let flags = event.flags;
            let hangup = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
            Ready {
                token: event.data.u64(),
                readable: flags.contains(epoll::EventFlags::IN),
                writable: flags.contains(epoll::EventFlags::OUT),
                hangup,
            }
        }));
        Ok(())
    }

    fn failed(&self, operation: &str, source: BorrowedFd<'_>, errno: rustix::io::Errno) -> SysError {
        let call = format!("epoll_ctl({}, {operation}, {})", self.descriptor.as_raw_fd(), source.as_raw_fd());
        SysError::new(call, errno.raw_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn tells_bytes_room_and_the_end() {
        let epoll = Epoll::new().expect("an instance");
        let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
        epoll.add(reader.as_fd(), 7, Interest::Read).expect("adds");
        epoll.add(writer.as_fd(), 8, Interest::Hangup).expect("adds");
        let mut events = Vec::new();
        epoll.wait(&mut events, Some(Duration::from_micros(100))).expect("waits");
        assert_eq!(events, []);
        writer.write_all(b"x").expect("writes");
        epoll.wait(&mut events, None).expect("waits");
        assert_eq!(events, [Ready { token: 7, readable: true, writable: false, hangup: false }]);
        epoll.modify(writer.as_fd(), 9, Interest::Write).expect("modifies");
        reader.read_exact(&mut [0]).expect("reads");
        epoll.wait(&mut events, None).expect("waits");
        assert_eq!(events, [Ready { token: 9, readable: false, writable: true, hangup: false }]);
        epoll.remove(writer.as_fd()).expect("removes");
        drop(writer);
        epoll.wait(&mut events, None).expect("waits");
        assert_eq!(events, [Ready { token: 7, readable: false, writable: false, hangup: true }]);
        assert!(epoll.remove(epoll.descriptor.as_fd()).expect_err("never added").to_string().contains("EPOLL_CTL_DEL"));
    }
}
