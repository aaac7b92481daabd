//! Processes: making, finding, waiting for and signalling them, and the state that a new one inherits.

use std::ffi::CStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::error::{SysError, SysResult};

/// A set of namespaces, as flags of `clone3`, `unshare` and `setns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces(u32);

impl Namespaces {
    /// None.
    pub const NONE: Self = Self(0);
    /// Mounts.
    pub const MOUNT: Self = Self(0x0002_0000);
    /// Control groups.
    pub const CGROUP: Self = Self(0x0200_0000);
    /// Host name.
    pub const UTS: Self = Self(0x0400_0000);
    /// System V IPC and POSIX message queues.
    pub const IPC: Self = Self(0x0800_0000);
    /// Users and groups; owns what is made after it.
    pub const USER: Self = Self(0x1000_0000);
    /// Process ids; takes effect for children.
    pub const PID: Self = Self(0x2000_0000);
    /// Network.
    pub const NETWORK: Self = Self(0x4000_0000);

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn bits(self) -> libc::c_int {
        libc::c_int::try_from(self.0).expect("all flags are below bit 31")
    }
}

/// A child that runs.
#[derive(Debug)]
pub struct Child {
    /// Its pid in the caller's namespace.
    pub pid: i32,
    /// Readable when it has ended; never comes to mean another process.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

/// `struct clone_args`, version 2 (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Ends the child whatever way its body is left, a panic included: it must never return into the parent's code.
struct EndOfChild(i32);

impl Drop for EndOfChild {
    fn drop(&mut self) {
        // SAFETY: takes an integer and does not return; nothing of the parent's state (buffers, files) is flushed.
        unsafe { libc::_exit(self.0) }
    }
}

/// `clone3(CLONE_PIDFD | CLONE_CLEAR_SIGHAND | namespaces [| CLONE_INTO_CGROUP])`: a child with its own copy of the memory,
/// which runs `body` and exits with its answer. Linux 5.7.
/// <https://man7.org/linux/man-pages/man2/clone3.2.html>
///
/// The caller must be single-threaded, or `body` must not allocate: the child has the locks of the other threads as
/// they were. Descriptors are copied, so the parent drops what only the child needs.
pub fn clone3(namespaces: Namespaces, cgroup: Option<BorrowedFd<'_>>, body: impl FnOnce() -> i32) -> SysResult<Child> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut args = CloneArgs {
        flags: u64::from(namespaces.0),
        exit_signal: u64::try_from(libc::SIGCHLD).expect("signals are positive"),
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).expect("descriptors are not negative");
    }
    clone(args, body)
}

/// The same with `CLONE_PARENT`: the new process is a child of the caller's parent, which reaps it; the signal of its end is
/// the caller's own.
pub fn clone3_sibling(namespaces: Namespaces, body: impl FnOnce() -> i32) -> SysResult<Child> {
    const CLONE_PARENT: u64 = 0x8000;
    clone(CloneArgs { flags: CLONE_PARENT | u64::from(namespaces.0), ..CloneArgs::default() }, body)
}

fn clone(mut args: CloneArgs, body: impl FnOnce() -> i32) -> SysResult<Child> {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    let mut pidfd: libc::c_int = -1;
    args.flags |= CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
    args.pidfd = ptr::from_mut(&mut pidfd).expose_provenance() as u64;
    // SAFETY: `args` is a whole clone_args of this size whose one pointer is to a live c_int; without CLONE_VM the child
    // returns here on its own copy of the stack.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut args), size_of::<CloneArgs>()) };
    if answer == 0 {
        let mut end = EndOfChild(101);
        end.0 = body();
        drop(end);
        unreachable!("EndOfChild does not return");
    }
    let pid = checked(answer, || format!("clone3({:#x})", args.flags))?;
    // SAFETY: the kernel made `pidfd` in this call, so no one else can own it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// `pidfd_open(pid, 0)`: a handle that can never come to mean another process. Linux 5.3.
/// <https://man7.org/linux/man-pages/man2/pidfd_open.2.html>
pub fn pidfd_open(pid: i32) -> SysResult<OwnedFd> {
    // SAFETY: both arguments are integers; the kernel dereferences nothing.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let raw = checked(answer, || format!("pidfd_open({pid}, 0)"))?;
    // SAFETY: the kernel made `raw` in this call, so no one else can own it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `pidfd_send_signal(pidfd, signal, NULL, 0)`. Linux 5.1. `ESRCH` when the process has ended.
/// <https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html>
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> SysResult<()> {
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: integers, and a null siginfo, which the call allows.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    checked(answer, || format!("pidfd_send_signal({}, {signal})", pidfd.as_raw_fd())).map(drop)
}

/// `kill(pid, signal)`. Only for a pid that can't be given anew: a child that isn't reaped, a task in a frozen cgroup.
pub fn kill(pid: i32, signal: i32) -> SysResult<()> {
    if pid <= 0 {
        // 0 and negative numbers mean process groups, the caller's own among them.
        return Err(SysError::new(format!("kill({pid}, {signal})"), libc::EINVAL));
    }
    // SAFETY: two integers.
    let answer = unsafe { libc::kill(pid, signal) };
    checked(answer.into(), || format!("kill({pid}, {signal})")).map(drop)
}

/// `waitid(P_PIDFD, pidfd, WEXITED | WNOHANG)`: reaps a child that has ended; `None` while it lives. Linux 5.4.
/// <https://man7.org/linux/man-pages/man2/waitid.2.html>
pub fn reap(pidfd: BorrowedFd<'_>) -> SysResult<Option<Ended>> {
    waitid(pidfd, libc::WEXITED | libc::WNOHANG)
}

/// [`reap`] that waits for the end.
pub fn wait(pidfd: BorrowedFd<'_>) -> SysResult<Ended> {
    loop {
        match waitid(pidfd, libc::WEXITED) {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => {}
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error),
        }
    }
}

fn waitid(pidfd: BorrowedFd<'_>, options: i32) -> SysResult<Option<Ended>> {
    let id = libc::id_t::try_from(pidfd.as_raw_fd()).expect("descriptors are not negative");
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel writes one siginfo_t into `info`, which is that large.
    let answer = unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), options) };
    checked(answer.into(), || format!("waitid(P_PIDFD, {id}, {options:#x})"))?;
    // SAFETY: zeroed at first, and all-zero bytes are a valid siginfo_t.
    let info = unsafe { info.assume_init() };
    // SAFETY: after waitid the union holds the SIGCHLD fields, or zeros when no child had ended.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Ok(match (pid, info.si_code) {
        (0, _) => None,
        (_, libc::CLD_EXITED) => Some(Ended::Exited(status)),
        _ => Some(Ended::Signalled(status)),
    })
}

/// Field 22 of `/proc/PID/stat`: clock ticks between boot and the process's start. Together with the pid it names a process
/// for ever (within one boot).
pub fn start_ticks(pid: i32) -> SysResult<u64> {
    let call = || format!("read(\"/proc/{pid}/stat\")");
    let text = fs::read(format!("/proc/{pid}/stat")).map_err(|error| SysError::from_io(call(), &error))?;
    parse_start_ticks(&text).ok_or_else(|| SysError::new(call(), libc::EBADMSG))
}

/// The name (field 2) may hold blanks and parentheses: the last `)` ends it, and field 3 follows.
fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// `setns(fd, namespaces)`: of a namespace's own descriptor, or of several at once of a process by its pidfd (Linux 5.8).
/// With [`Namespaces::PID`] it is the caller's later children that are affected.
/// <https://man7.org/linux/man-pages/man2/setns.2.html>
pub fn setns(of: BorrowedFd<'_>, namespaces: Namespaces) -> SysResult<()> {
    // SAFETY: two integers.
    let answer = unsafe { libc::setns(of.as_raw_fd(), namespaces.bits()) };
    checked(answer.into(), || format!("setns({}, {:#x})", of.as_raw_fd(), namespaces.0)).map(drop)
}

/// `unshare(namespaces)`.
/// <https://man7.org/linux/man-pages/man2/unshare.2.html>
pub fn unshare(namespaces: Namespaces) -> SysResult<()> {
    // SAFETY: one integer; no CLONE_FILES or CLONE_VM can be in it.
    let answer = unsafe { libc::unshare(namespaces.bits()) };
    checked(answer.into(), || format!("unshare({:#x})", namespaces.0)).map(drop)
}

/// `setsid()`.
pub fn setsid() -> SysResult<()> {
    // SAFETY: no argument.
    let answer = unsafe { libc::setsid() };
    checked(answer.into(), || "setsid()".to_owned()).map(drop)
}

/// `ioctl(terminal, TIOCSCTTY, 0)`: the terminal becomes the session's.
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    checked(answer.into(), || format!("ioctl({}, TIOCSCTTY)", terminal.as_raw_fd())).map(drop)
}

/// `umask(mask)`. Of the whole process: only in a child.
pub fn set_umask(mask: u32) {
    // SAFETY: one integer; it can't fail.
    unsafe { libc::umask(mask & 0o777) };
}

/// `sethostname(name)` of the calling process's UTS namespace.
pub fn set_hostname(name: &[u8]) -> SysResult<()> {
    // SAFETY: the pointer and length are of one slice.
    let answer = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
    checked(answer.into(), || format!("sethostname({:?})", String::from_utf8_lossy(name))).map(drop)
}

/// `setdomainname(name)` of the calling process's UTS namespace.
pub fn set_domainname(name: &[u8]) -> SysResult<()> {
    // SAFETY: the pointer and length are of one slice.
    let answer = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    checked(answer.into(), || format!("setdomainname({:?})", String::from_utf8_lossy(name))).map(drop)
}

/// `dup2` onto the three standard streams; the copies survive exec.
pub fn set_stdio(stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> SysResult<()> {
    for (target, source) in [(0, stdin), (1, stdout), (2, stderr)] {
        // SAFETY: two integers; what stood at 0, 1 and 2 belongs to no OwnedFd of this process.
        let answer = unsafe { libc::dup2(source.as_raw_fd(), target) };
        checked(answer.into(), || format!("dup2({}, {target})", source.as_raw_fd()))?;
        if source.as_raw_fd() == target {
            // dup2 of a descriptor onto itself does nothing, and leaves its close-on-exec flag.
            // SAFETY: F_SETFD takes an integer.
            let answer = unsafe { libc::fcntl(target, libc::F_SETFD, 0) };
            checked(answer.into(), || format!("fcntl({target}, F_SETFD, 0)"))?;
        }
    }
    Ok(())
}

/// `close_range(3, ~0, CLOSE_RANGE_CLOEXEC)`: nothing above standard error survives exec. Linux 5.11.
/// <https://man7.org/linux/man-pages/man2/close_range.2.html>
pub fn close_on_exec_from(first: u32) -> SysResult<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: three integers.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    checked(answer, || format!("close_range({first}, ~0, CLOSE_RANGE_CLOEXEC)")).map(drop)
}

/// Arguments or environment in the form that the kernel takes; made before the clone.
#[derive(Debug)]
pub struct StringList {
    pointers: Vec<*const libc::c_char>,
    strings: Vec<std::ffi::CString>,
}

impl StringList {
    /// Of these strings.
    #[must_use]
    pub fn new(strings: Vec<std::ffi::CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, strings }
    }

    pub(crate) fn strings(&self) -> &[std::ffi::CString] {
        &self.strings
    }
}

/// `execve(program, arguments, environment)`: returns only when it failed.
pub fn execve(program: &CStr, arguments: &StringList, environment: &StringList) -> SysError {
    // SAFETY: three live strings and lists; each list ends with a null pointer and owns what it points to.
    unsafe { libc::execve(program.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    SysError::last(format!("execve({program:?})"))
}

/// Every handler to its default and no signal blocked. What `CLONE_CLEAR_SIGHAND` leaves are the ignored ones (SIGPIPE,
/// which the standard library ignores).
pub fn reset_signals() -> SysResult<()> {
    /// `struct sigaction` of the kernel, all zero: SIG_DFL, no flags, no mask. The C library's own call refuses the two
    /// signals that it keeps for itself, and a caller may have been started with those ignored.
    const DEFAULT: [u64; 4] = [0; 4];
    const SET_BYTES: usize = 8;
    for signal in 1..=64 {
        let none = ptr::null_mut::<u64>();
        // SIGKILL and SIGSTOP refuse, and are at their default anyhow.
        // SAFETY: a whole, zeroed kernel sigaction is read; the old one isn't asked for.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), none, SET_BYTES) };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset only writes the set that it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set is initialised; the old mask isn't asked for.
    let answer = unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
    checked(answer.into(), || "sigprocmask(SIG_SETMASK, {})".to_owned()).map(drop)
}

/// No signal is delivered any more; each waits until it is asked for.
pub fn block_signals() -> SysResult<()> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset only writes the set that it is given.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the set is initialised; the old mask isn't asked for.
    let answer = unsafe { libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut()) };
    checked(answer.into(), || "sigprocmask(SIG_SETMASK, all)".to_owned()).map(drop)
}

/// Every processor, the default scheduling class, nice 0 and no I/O priority, whatever the caller was given. What the
/// kernel refuses (a cpuset that is narrower, a class that can't be left) stays.
pub fn reset_scheduling() {
    // SAFETY: all-zero bytes are an empty cpu_set_t.
    let mut all: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for processor in 0..usize::try_from(libc::CPU_SETSIZE).expect("1024") {
        // SAFETY: the number is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(processor, &mut all) };
    }
    // SAFETY: a whole cpu_set_t and its size.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const all) };
    let normal = libc::sched_param { sched_priority: 0 };
    // SAFETY: a live sched_param.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const normal) };
    // SAFETY: three integers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: three integers.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0) };
}

/// A resource of `setrlimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource(u32);

/// The kernel's names and numbers, as in `getrlimit(2)`.
const RESOURCES: [(&str, u32); 16] = [
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
];

impl Resource {
    /// By its name: `RLIMIT_NOFILE`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        RESOURCES.iter().find(|(known, _)| *known == name).map(|(_, number)| Self(*number))
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        RESOURCES.iter().find(|(_, number)| *number == self.0).map_or("RLIMIT_?", |(name, _)| name)
    }
}

/// A soft and a hard limit; `u64::MAX` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What holds.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// `prlimit(0, resource, NULL, &old)`.
pub fn resource_limit(resource: Resource) -> SysResult<Limit> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limit is read; the old one is written into a live rlimit.
    let answer = unsafe { libc::prlimit(0, resource.0, ptr::null(), &raw mut old) };
    checked(answer.into(), || format!("prlimit(0, {})", resource.name()))?;
    Ok(Limit { soft: old.rlim_cur, hard: old.rlim_max })
}

/// `prlimit(0, resource, &new, NULL)`: `EPERM` when the hard limit rises and CAP_SYS_RESOURCE is missing.
pub fn set_resource_limit(resource: Resource, limit: Limit) -> SysResult<()> {
    let new = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: a live rlimit is read; the old one isn't asked for.
    let answer = unsafe { libc::prlimit(0, resource.0, &raw const new, ptr::null_mut()) };
    checked(answer.into(), || format!("prlimit(0, {}, {}:{})", resource.name(), limit.soft, limit.hard)).map(drop)
}

/// `keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)`: a new, empty session keyring.
/// <https://man7.org/linux/man-pages/man2/keyctl.2.html>
pub fn join_new_session_keyring() -> SysResult<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    let anonymous = ptr::null::<libc::c_char>();
    // SAFETY: an integer and a null name, which means a new anonymous keyring.
    let answer = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    if answer < 0 {
        return Err(SysError::last("keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)"));
    }
    Ok(())
}

/// `getcwd` as the kernel answers: `Ok(false)` where the working directory can't be reached from the root
/// ("(unreachable)/…"), which a process that is confined to a root must not have.
pub fn working_directory_is_inside_root() -> SysResult<bool> {
    let mut buffer = [0u8; 4096];
    // SAFETY: the kernel writes at most `len` bytes into the buffer. The C library's getcwd would hide "(unreachable)".
    let answer = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    checked(answer, || "getcwd()".to_owned())?;
    Ok(buffer[0] == b'/')
}

/// Turns the answer of a call into a result. Right after it: reads the thread's error number.
pub(crate) fn checked(answer: libc::c_long, call: impl FnOnce() -> String) -> SysResult<i32> {
    if answer < 0 {
        return Err(SysError::last(call()));
    }
    i32::try_from(answer).map_err(|_| SysError::new(call(), libc::EOVERFLOW))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_name_with_blanks_and_parentheses_moves_no_field() {
        let stat = b"7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 2 3";
        assert_eq!(parse_start_ticks(stat), Some(4242));
        assert_eq!(parse_start_ticks(b"7 no parenthesis"), None);
    }

    #[test]
    fn a_child_exits_with_its_answer_and_is_reaped_once() {
        // The body allocates nothing: the test harness has other threads.
        let child = clone3(Namespaces::NONE, None, || 42).expect("clones");
        assert!(start_ticks(child.pid).expect("reads") > 0);
        assert_eq!(wait(child.pidfd.as_fd()).expect("waits"), Ended::Exited(42));
        assert_eq!(reap(child.pidfd.as_fd()).expect_err("is gone").errno(), libc::ECHILD);
        assert_eq!(pidfd_send_signal(child.pidfd.as_fd(), 9).expect_err("is gone").errno(), libc::ESRCH);
    }

    #[test]
    fn process_groups_are_out_of_reach() {
        assert_eq!(kill(0, 15).expect_err("refuses").errno(), libc::EINVAL);
        assert_eq!(kill(-1, 15).expect_err("refuses").errno(), libc::EINVAL);
    }
}
