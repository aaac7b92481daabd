//! Pseudo-terminals.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::error::{SysError, SysResult};

/// Both ends of a pseudo-terminal, close-on-exec.
#[derive(Debug)]
pub struct Pty {
    /// What a client holds: writes are typed, reads are shown.
    pub master: OwnedFd,
    /// What the program holds.
    pub slave: OwnedFd,
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// `ioctl(master, TIOCSPTLCK, 0)`, `ioctl(master, TIOCGPTPEER)`: the slave of a master that was opened in a container's
/// own devpts. It is opened through the master, so no path is trusted. Linux 4.13.
/// <https://man7.org/linux/man-pages/man2/TIOCGPTPEER.2const.html>
pub fn pair(master: OwnedFd) -> SysResult<Pty> {
    let call = |name: &str| format!("ioctl({}, {name})", master.as_raw_fd());
    rustix::pty::unlockpt(&master).map_err(|errno| SysError::new(call("TIOCSPTLCK"), errno.raw_os_error()))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)
        .map_err(|errno| SysError::new(call("TIOCGPTPEER"), errno.raw_os_error()))?;
    Ok(Pty { master, slave })
}

/// `ioctl(terminal, TIOCSWINSZ)`: the foreground process gets SIGWINCH when the size changed.
pub fn set_window_size(terminal: BorrowedFd<'_>, size: WindowSize) -> SysResult<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
        .map_err(|errno| SysError::new(format!("ioctl({}, TIOCSWINSZ)", terminal.as_raw_fd()), errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_typed_arrives_and_the_size_is_shared() {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a master");
        let Pty { master, slave } = pair(master).expect("a terminal");
        set_window_size(master.as_fd(), WindowSize { rows: 24, columns: 100 }).expect("sets");
        let size = rustix::termios::tcgetwinsize(&slave).expect("asks");
        assert_eq!((size.ws_row, size.ws_col), (24, 100));
        let mut master = File::from(master);
        master.write_all(b"typed\n").expect("writes");
        let mut line = [0; 6];
        File::from(slave).read_exact(&mut line).expect("reads");
        assert_eq!(&line, b"typed\n");
        let mut echo = [0; 7];
        master.read_exact(&mut echo).expect("reads");
        assert_eq!(&echo, b"typed\r\n");
    }
}
