//! The terminal that a program was started on: its size, and raw mode that never outlives the program.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use rustix::termios::{OptionalActions, Termios};

use crate::error::{SysError, SysResult};
use crate::pty::WindowSize;

/// Signals that end a program which doesn't handle them, and that people or their shells send. A panic in a program that
/// aborts on panics comes as SIGABRT; SIGKILL can't be caught by anyone.
const ENDING: [i32; 5] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGABRT];

/// What a signal's handler puts back; null while no terminal is raw. What it points to is never freed, since a handler may
/// be reading it.
static SAVED: AtomicPtr<Saved> = AtomicPtr::new(null_mut());

struct Saved {
    terminal: RawFd,
    mode: libc::termios,
}

/// A terminal in raw mode: what is typed comes as it is typed, Ctrl-C too, and is not echoed. Its former mode comes back
/// when this is dropped, and when a signal ends the program.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
    /// What the signals did before.
    actions: Vec<(i32, libc::sigaction)>,
}

impl RawMode {
    /// `tcgetattr(terminal)`, `sigaction` of the signals that end a program, `tcsetattr(terminal, TCSANOW)`. `EBUSY` when a
    /// terminal is raw already: one program has one.
    /// <https://man7.org/linux/man-pages/man3/termios.3.html>
    pub fn enter(terminal: BorrowedFd<'_>) -> SysResult<RawMode> {
        let call = |name: &str| format!("{name}({})", terminal.as_raw_fd());
        let own = terminal.try_clone_to_owned().map_err(|error| SysError::from_io(call("dup"), &error))?;
        let before =
            rustix::termios::tcgetattr(&own).map_err(|errno| SysError::new(call("tcgetattr"), errno.raw_os_error()))?;
        let saved = Box::into_raw(Box::new(Saved { terminal: own.as_raw_fd(), mode: mode_of(&own)? }));
        if SAVED.compare_exchange(null_mut(), saved, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // SAFETY: it was made by `Box::into_raw` above and given to nobody.
            drop(unsafe { Box::from_raw(saved) });
            return Err(SysError::new(call("tcsetattr"), libc::EBUSY));
        }
        // From here on dropping it undoes whatever was done.
        let mut raw = RawMode { terminal: own, before, actions: Vec::new() };
        for signal in ENDING {
            raw.actions.push((signal, handle(signal)?));
        }
        let mut mode = raw.before.clone();
        mode.make_raw();
        rustix::termios::tcsetattr(&raw.terminal, OptionalActions::Now, &mode)
            .map_err(|errno| SysError::new(call("tcsetattr"), errno.raw_os_error()))?;
        Ok(raw)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = rustix::termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
        SAVED.store(null_mut(), Ordering::SeqCst);
        for (signal, action) in &self.actions {
            // SAFETY: `action` is what the kernel gave out for this signal.
            unsafe { libc::sigaction(*signal, &raw const *action, null_mut()) };
        }
    }
}

/// `ioctl(terminal, TIOCGWINSZ)`.
pub fn window_size(terminal: BorrowedFd<'_>) -> SysResult<WindowSize> {
    let size = rustix::termios::tcgetwinsize(terminal)
        .map_err(|errno| SysError::new(format!("ioctl({}, TIOCGWINSZ)", terminal.as_raw_fd()), errno.raw_os_error()))?;
    Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// The mode once more, in the form that a signal's handler may use.
fn mode_of(terminal: &OwnedFd) -> SysResult<libc::termios> {
    let mut mode = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the descriptor is open and `mode` has room for the answer.
    let answer = unsafe { libc::tcgetattr(terminal.as_raw_fd(), mode.as_mut_ptr()) };
    if answer < 0 {
        return Err(SysError::last(format!("tcgetattr({})", terminal.as_raw_fd())));
    }
    // SAFETY: tcgetattr filled it.
    Ok(unsafe { mode.assume_init() })
}

/// `sigaction(signal, restore, SA_RESETHAND)`; what it did before.
fn handle(signal: i32) -> SysResult<libc::sigaction> {
    // SAFETY: all-zero is a valid sigaction: no flags, an empty mask, SIG_DFL.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: likewise.
    let mut before: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    let handler: extern "C" fn(i32) = restore_and_end;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESETHAND;
    // SAFETY: the set is a part of `action`. A program in the background would be stopped by setting the mode, and never
    // get to its end.
    unsafe { libc::sigaddset(&raw mut action.sa_mask, libc::SIGTTOU) };
    // SAFETY: both are initialised; the handler makes async-signal-safe calls alone.
    let answer = unsafe { libc::sigaction(signal, &raw const action, &raw mut before) };
    if answer < 0 { Err(SysError::last(format!("sigaction({signal}, SA_RESETHAND)"))) } else { Ok(before) }
}

/// The handler. The signal's default action is back (SA_RESETHAND), so that raising it again ends the program as the signal
/// would have done.
extern "C" fn restore_and_end(signal: i32) {
    let saved = SAVED.load(Ordering::SeqCst);
    // SAFETY: null or what `RawMode::enter` leaked.
    if let Some(Saved { terminal, mode }) = unsafe { saved.as_ref() } {
        // SAFETY: async-signal-safe (POSIX); a descriptor that was closed meanwhile is answered with an error.
        unsafe { libc::tcsetattr(*terminal, libc::TCSANOW, &raw const *mode) };
    }
    // SAFETY: async-signal-safe; takes an integer.
    unsafe { libc::raise(signal) };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;

    use rustix::pty::OpenptFlags;
    use rustix::termios::LocalModes;

    use super::*;
    use crate::pty;

    fn is_raw(terminal: &OwnedFd) -> bool {
        let modes = rustix::termios::tcgetattr(terminal).expect("asks").local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// The process has one slot for a raw terminal, so all that needs it is one test.
    #[test]
    fn raw_mode_ends_with_its_value_a_panic_and_a_signal() {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a master");
        let pty::Pty { master, slave } = pty::pair(master).expect("a terminal");
        assert!(!is_raw(&slave));
        {
            let _raw = RawMode::enter(slave.as_fd()).expect("enters");
            assert!(is_raw(&slave));
            assert_eq!(RawMode::enter(slave.as_fd()).expect_err("twice").errno(), libc::EBUSY);
            assert!(is_raw(&slave), "the refused one changed nothing");
        }
        assert!(!is_raw(&slave), "after its end");
        let panicked = std::panic::catch_unwind(|| {
            let _raw = RawMode::enter(slave.as_fd()).expect("enters");
            panic!("on purpose");
        });
        assert!(panicked.is_err() && !is_raw(&slave), "after a panic");
        for signal in ENDING {
            let (end, was_raw) = killed_by(signal, &slave);
            assert!(was_raw && end == signal, "signal {signal} ended it by {end}, raw: {was_raw}");
            assert!(!is_raw(&slave), "after signal {signal}");
        }
        let file = OwnedFd::from(std::fs::File::open("/dev/null").expect("opens"));
        assert_eq!(RawMode::enter(file.as_fd()).expect_err("no terminal").errno(), libc::ENOTTY);
        pty::set_window_size(master.as_fd(), WindowSize { rows: 7, columns: 9 }).expect("sets");
        assert_eq!(window_size(slave.as_fd()).expect("asks"), WindowSize { rows: 7, columns: 9 });
    }

    /// A child makes the terminal raw and is killed: the signal that ended it, and whether the terminal was raw before.
    fn killed_by(signal: i32, slave: &OwnedFd) -> (i32, bool) {
        let (mut ready, told) = std::io::pipe().expect("a pipe");
        // SAFETY: the child makes system calls alone, but for one allocation of the few bytes of `RawMode`; no other
        // thread of the test holds the allocator's lock for ever.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let _raw = RawMode::enter(slave.as_fd());
            drop(told);
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
            // SAFETY: ends the child without what the test program does at its end.
            unsafe { libc::_exit(1) };
        }
        drop(told);
        // The end of the pipe says that the child is ready.
        let _ = std::io::Read::read(&mut ready, &mut [0]);
        let was_raw = is_raw(slave);
        // SAFETY: a child of our own that was not waited for.
        assert_eq!(unsafe { libc::kill(child, signal) }, 0);
        let mut status = 0;
        // SAFETY: `status` takes the answer.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        (std::process::ExitStatus::from_raw(status).signal().unwrap_or(0), was_raw)
    }
}
