//! The packet socket between a process and the child that it has just cloned.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType};

use crate::error::{SysError, SysResult};

/// `socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)`: a message comes whole or not at all, and exec closes the child's end.
pub fn pair() -> SysResult<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| SysError::new("socketpair(AF_UNIX, SOCK_SEQPACKET)", errno.raw_os_error()))
}

/// `write(socket, message)`: one message. `EPIPE` without a signal when the other side is gone.
pub fn send(socket: BorrowedFd<'_>, message: &[u8]) -> SysResult<()> {
    let mut nothing = SendAncillaryBuffer::default();
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut nothing, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new(format!("sendmsg({})", socket.as_raw_fd()), errno.raw_os_error())),
        }
    }
}

/// `read(socket)`: waits for one message; 0 bytes when the other side is gone.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> SysResult<usize> {
    loop {
        match rustix::io::read(socket, &mut *buffer) {
            Ok(count) => return Ok(count),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new(format!("read({})", socket.as_raw_fd()), errno.raw_os_error())),
        }
    }
}

/// `poll(fd, POLLIN, timeout)`: whether there is something to read (or the end) in time. An interruption by a signal starts
/// the wait anew.
pub fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> SysResult<bool> {
    let failed = |errno: i32| SysError::new(format!("poll({}, {timeout:?})", fd.as_raw_fd()), errno);
    let timeout = Timespec::try_from(timeout).map_err(|_| failed(libc::EINVAL))?;
    loop {
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.raw_os_error())),
        }
    }
}
