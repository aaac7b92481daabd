//! What standard streams are made of: pipes of a chosen size, log files, the null device.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use crate::error::{SysError, SysResult};

/// Both ends of a pipe, close-on-exec.
#[derive(Debug)]
pub struct Pipe {
    /// Gives what was written.
    pub reader: OwnedFd,
    /// Takes bytes.
    pub writer: OwnedFd,
}

/// `pipe2(O_CLOEXEC)`, both ends blocking.
pub fn pipe() -> SysResult<Pipe> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|errno| SysError::new("pipe2(O_CLOEXEC)", errno.raw_os_error()))?;
    Ok(Pipe { reader, writer })
}

/// `fcntl(pipe, F_SETPIPE_SZ, bytes)`: the size that it has now, which is the old one where the user's quota of pipe
/// pages (`/proc/sys/fs/pipe-user-pages-soft`) doesn't allow more.
pub fn grow_pipe(pipe: BorrowedFd<'_>, bytes: usize) -> SysResult<usize> {
    match rustix::pipe::fcntl_setpipe_size(pipe, bytes) {
        Ok(size) => Ok(size),
        Err(rustix::io::Errno::PERM | rustix::io::Errno::BUSY) => rustix::pipe::fcntl_getpipe_size(pipe)
            .map_err(|errno| SysError::new(format!("fcntl({}, F_GETPIPE_SZ)", pipe.as_raw_fd()), errno.raw_os_error())),
        Err(errno) => {
            let call = format!("fcntl({}, F_SETPIPE_SZ, {bytes})", pipe.as_raw_fd());
            Err(SysError::new(call, errno.raw_os_error()))
        }
    }
}

/// `ioctl(pipe, FIONREAD)`: how many bytes wait in a pipe for its reader; either end may be asked.
pub fn pipe_bytes(pipe: BorrowedFd<'_>) -> SysResult<usize> {
    let call = || format!("ioctl({}, FIONREAD)", pipe.as_raw_fd());
    let bytes = rustix::io::ioctl_fionread(pipe).map_err(|errno| SysError::new(call(), errno.raw_os_error()))?;
    usize::try_from(bytes).map_err(|_| SysError::new(call(), libc::EOVERFLOW))
}

/// `open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, mode)`: a log file. A
/// symbolic link is refused (`ELOOP`), a pipe without a reader too (`ENXIO`); what else it may be is the caller's to look
/// at.
pub fn open_append(path: &Path, mode: u32) -> SysResult<File> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(mode)).map(File::from).map_err(|errno| {
        SysError::new(format!("open({path:?}, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW)"), errno.raw_os_error())
    })
}

/// `open("/dev/null", O_RDWR | O_CLOEXEC)`.
pub fn null_device() -> SysResult<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| SysError::new("open(\"/dev/null\", O_RDWR)", errno.raw_os_error()))
}

/// `close_range(3, ~0)`: closes everything but the standard streams. Only as the first act of a program, when nothing else
/// owns a descriptor yet. Linux 5.9.
pub fn close_inherited() -> SysResult<()> {
    // SAFETY: takes integers only; by the contract above no owner of a descriptor exists that would be surprised.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if answer < 0 { Err(SysError::last("close_range(3, ~0, 0)")) } else { Ok(()) }
}

/// `fcntl(0, F_DUPFD_CLOEXEC, 3)`, then `dup2(null device, 0)`: takes what a program was given as standard input.
pub fn take_stdin() -> SysResult<OwnedFd> {
    let given = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .map_err(|errno| SysError::new("fcntl(0, F_DUPFD_CLOEXEC, 3)", errno.raw_os_error()))?;
    rustix::stdio::dup2_stdin(null_device()?)
        .map_err(|errno| SysError::new("dup2(\"/dev/null\", 0)", errno.raw_os_error()))?;
    Ok(given)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_pipe_grows() {
        let pipe = pipe().expect("a pipe");
        assert!(grow_pipe(pipe.reader.as_fd(), 256 * 1024).expect("grows") >= 64 * 1024);
    }

    #[test]
    fn a_link_is_not_appended_to() {
        let link = std::env::temp_dir().join(format!("pw-append-{}", std::process::id()));
        std::os::unix::fs::symlink("nowhere", &link).expect("links");
        let error = open_append(&link, 0o600).expect_err("refused");
        std::fs::remove_file(&link).expect("cleans up");
        assert_eq!(error.errno(), libc::ELOOP);
        assert!(null_device().is_ok());
    }
}
