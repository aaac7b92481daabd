//! Signals as something to read, children that ended, and dispositions.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{SysError, SysResult};

/// The signals that a program of ours handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Terminal or session gone.
    Hangup,
    /// Ctrl-C.
    Interrupt,
    /// A write to a pipe that nobody reads.
    Pipe,
    /// A polite request to end.
    Terminate,
    /// A child ended.
    Child,
}

impl Signal {
    /// The kernel's number.
    pub fn number(self) -> i32 {
        match self {
            Signal::Hangup => libc::SIGHUP,
            Signal::Interrupt => libc::SIGINT,
            Signal::Pipe => libc::SIGPIPE,
            Signal::Terminate => libc::SIGTERM,
            Signal::Child => libc::SIGCHLD,
        }
    }
}

/// Blocked signals, read one by one. The mask is inherited by children: what they execute must reset it.
#[derive(Debug)]
pub struct SignalFd {
    descriptor: OwnedFd,
}

impl SignalFd {
    /// `sigprocmask(SIG_BLOCK)` and `signalfd4(SFD_NONBLOCK | SFD_CLOEXEC)`: from now on `signals` wait here. Only the
    /// calling thread's mask changes, so this belongs at the start of a single-threaded program.
    /// <https://man7.org/linux/man-pages/man2/signalfd.2.html>
    pub fn block(signals: &[Signal]) -> SysResult<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset only writes the set that it is given.
        let answer = unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        checked(answer, || "sigemptyset()".into())?;
        for signal in signals {
            // SAFETY: the set is initialised above; the number is a constant of libc.
            let answer = unsafe { libc::sigaddset(set.as_mut_ptr(), signal.number()) };
            checked(answer, || format!("sigaddset({signal:?})"))?;
        }
        // SAFETY: the set is initialised; the old mask is not asked for.
        let answer = unsafe { libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        checked(answer, || format!("sigprocmask(SIG_BLOCK, {signals:?})"))?;
        // SAFETY: -1 asks for a new descriptor; the set is initialised.
        let answer = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        let raw = checked(answer, || format!("signalfd4(-1, {signals:?})"))?;
        // SAFETY: the kernel made `raw` in this call, so no one else can own it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { descriptor })
    }

    /// `read(signalfd)`: the number of the next signal, or none. Equal signals that came in between are one.
    pub fn take(&self) -> SysResult<Option<i32>> {
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.descriptor, &mut record) {
            // ssi_signo is the record's first field.
            Ok(count) if count == record.len() => {
                let [a, b, c, d, ..] = record;
                Ok(i32::try_from(u32::from_ne_bytes([a, b, c, d])).ok())
            }
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(errno) => {
                Err(SysError::new(format!("read({}, signalfd)", self.descriptor.as_raw_fd()), errno.raw_os_error()))
            }
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// `sigaction(signal, SIG_IGN)`. An ignored signal stays ignored across `execve`: what a child executes must reset it.
pub fn ignore(signal: Signal) -> SysResult<()> {
    let call = || format!("sigaction({signal:?}, SIG_IGN)");
    // SAFETY: all-zero is a valid sigaction: no flags, an empty mask, SIG_DFL.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = libc::SIG_IGN;
    // SAFETY: `action` is initialised; no handler of ours is installed, so no code runs in a signal's context.
    let answer = unsafe { libc::sigaction(signal.number(), &raw const action, std::ptr::null_mut()) };
    checked(answer, call).map(|_| ())
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildEnd {
    /// It called `exit` with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// Its process id.
    pub pid: i32,
    /// How it ended.
    pub end: ChildEnd,
}

/// `waitid(P_ALL, WEXITED | WNOHANG | WNOWAIT | __WALL)`: a child that has ended, left as it is, so that its owner can
/// still be asked about. None if no child has ended or there is none at all.
/// <https://man7.org/linux/man-pages/man2/waitid.2.html>
pub fn peek_child() -> SysResult<Option<Child>> {
    wait(libc::P_ALL, 0, libc::WNOWAIT, || "waitid(P_ALL, WEXITED | WNOHANG | WNOWAIT)".into())
}

/// `waitid(P_PID, pid, WEXITED | WNOHANG | __WALL)`: takes the end of this child; its pid may be given away afterwards.
/// None if it has not ended, or is no child of ours.
pub fn reap_child(pid: i32) -> SysResult<Option<Child>> {
    let Ok(id) = u32::try_from(pid) else { return Ok(None) };
    wait(libc::P_PID, id, 0, || format!("waitid(P_PID, {pid}, WEXITED | WNOHANG)"))
}

/// `prctl(PR_SET_CHILD_SUBREAPER, 1)`: orphaned descendants become children of this process.
pub fn become_subreaper() -> SysResult<()> {
    // SAFETY: takes integers only.
    let answer = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    checked(answer, || "prctl(PR_SET_CHILD_SUBREAPER, 1)".into()).map(|_| ())
}

fn wait(kind: libc::idtype_t, id: u32, flags: i32, call: impl Fn() -> String) -> SysResult<Option<Child>> {
    // SAFETY: all-zero is a valid siginfo_t; a pid of 0 in it means that nothing was found.
    let mut info: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::__WALL | flags;
    loop {
        // SAFETY: `info` is a siginfo_t that the kernel may write.
        let answer = unsafe { libc::waitid(kind, id, &raw mut info, flags) };
        match checked(answer, &call) {
            Ok(_) => break,
            Err(error) if error.errno() == libc::ECHILD => return Ok(None),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: waitid filled the SIGCHLD part of `info`, or left the zeros.
    let (pid, status) = unsafe { child_fields(&info) };
    if pid == 0 {
        return Ok(None);
    }
    let end = if info.si_code == libc::CLD_EXITED { ChildEnd::Exited(status) } else { ChildEnd::Signaled(status) };
    Ok(Some(Child { pid, end }))
}

/// # Safety
/// `info` is zeroed or was filled by `waitid`.
unsafe fn child_fields(info: &libc::siginfo_t) -> (i32, i32) {
    // SAFETY: as the caller promises, these union fields are initialised.
    let pid = unsafe { info.si_pid() };
    // SAFETY: likewise.
    let status = unsafe { info.si_status() };
    (pid, status)
}

fn checked(answer: i32, call: impl FnOnce() -> String) -> SysResult<i32> {
    if answer < 0 { Err(SysError::last(call())) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    // One test, since children are the process's and test threads share it: only children that this thread knows are
    // waited for by pid, and what `peek_child` says about others is not looked at.
    #[test]
    #[expect(clippy::zombie_processes, reason = "waiting is what is tested")]
    fn a_child_is_seen_before_it_is_taken() {
        let pid = |child: &std::process::Child| i32::try_from(child.id()).expect("fits");
        let until = |pid| {
            loop {
                if let Some(child) = reap_child(pid).expect("waits") {
                    return child.end;
                }
                std::thread::yield_now();
            }
        };
        let child = Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().expect("starts");
        let seen = loop {
            if let Some(child) = peek_child().expect("waits") {
                break child;
            }
            std::thread::yield_now();
        };
        assert!(seen.pid > 0);
        assert_eq!(until(pid(&child)), ChildEnd::Exited(7));
        assert_eq!(reap_child(pid(&child)).expect("no error"), None, "taken already");
        // A real-time signal: libraries that know only the named ones fail here.
        let child = Command::new("/bin/sh").args(["-c", "kill -40 $$"]).spawn().expect("starts");
        assert_eq!(until(pid(&child)), ChildEnd::Signaled(40));
    }

    #[test]
    fn a_blocked_signal_waits_to_be_read() {
        // The mask is the thread's; a signal to the thread alone doesn't disturb other tests.
        std::thread::spawn(|| {
            let signals = SignalFd::block(&[Signal::Terminate, Signal::Child]).expect("blocks");
            assert_eq!(signals.take().expect("reads"), None);
            // SAFETY: takes nothing.
            let own = unsafe { libc::pthread_self() };
            // SAFETY: a signal to the calling thread, which has it blocked.
            assert_eq!(unsafe { libc::pthread_kill(own, libc::SIGTERM) }, 0);
            assert_eq!(signals.take().expect("reads"), Some(libc::SIGTERM));
            assert_eq!(signals.take().expect("reads"), None);
        })
        .join()
        .expect("no panic");
    }
}
