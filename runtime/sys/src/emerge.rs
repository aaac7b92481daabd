//! The last step of a process that joins a process-id namespace where others may trace it: it prepares itself outside,
//! gives everything away that those inside may not see, and only then is a copy of it born inside, which executes.
//!
//! A process with CAP_SYS_PTRACE may read and write the memory and take the descriptors of every process that it sees
//! and whose user namespace is its own, dumpable or not. So what it can see must never hold a right, a descriptor or a
//! byte that isn't the container's: the copy has the final credentials, four descriptors and an empty heap.

use std::arch::asm;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::error::{SysError, SysResult};
use crate::pause::private_mappings;
use crate::privileges::{CapData, CapHeader, Capabilities, capability_words};
use crate::process::StringList;
use crate::procfs::ProcHandle;
use crate::seccomp::{Instruction, Program};

/// Exit code of a process that came to nothing; its message says more.
const FAILED_CODE: usize = 125;

/// A word that a process and its parent both see: who goes on in the process's place.
#[derive(Debug)]
pub struct Successor {
    word: *mut i32,
}

/// Of a page: the least that is mapped.
const PAGE_BYTES: usize = 4096;

impl Successor {
    /// `mmap(MAP_SHARED | MAP_ANONYMOUS)`, before the first of the two processes is made.
    pub fn new() -> SysResult<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping; no address is asked for.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(SysError::last("mmap(MAP_SHARED | MAP_ANONYMOUS)"));
        }
        Ok(Self { word: page.cast() })
    }

    /// The pid of the process that goes on, once there is one. Written before that process runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        // SAFETY: a live, aligned word that another process writes once.
        let pid = unsafe { ptr::read_volatile(self.word) };
        (pid > 0).then_some(pid)
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's and nothing points into it any more. It can't fail for a whole mapping.
        unsafe { libc::munmap(self.word.cast(), PAGE_BYTES) };
    }
}

/// When the filter is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// By the process outside, which still may: the filter must allow `capset`, `clone`, `exit_group`, `setsid` and,
    /// with a terminal, `ioctl`.
    Outside,
    /// By the process inside; without `no_new_privs` it has CAP_SYS_ADMIN until then.
    Inside,
}

/// Whether descriptor 0 becomes the session's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionTerminal {
    /// It does.
    Input,
    /// There is none.
    None,
}

/// What is left to do.
#[derive(Debug)]
pub struct Last<'a> {
    /// The paths to try.
    pub candidates: &'a [CString],
    /// The arguments.
    pub arguments: &'a StringList,
    /// The environment.
    pub environment: &'a StringList,
    /// The filter.
    pub filter: Option<(&'a Program, Load)>,
    /// Effective, permitted and inheritable capabilities, set once the filter is loaded.
    pub capabilities: Option<[Capabilities; 3]>,
    /// The new session's terminal.
    pub terminal: SessionTerminal,
    /// Where failures are told.
    pub report: Report<'a>,
}

/// How failures are told: a message of a first byte, the number of the step (two bytes) and of the error (four).
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The socket; executing closes it.
    pub to: BorrowedFd<'a>,
    /// The first byte.
    pub head: u8,
    /// Numbers of the steps: going inside, the filter, the capabilities, executing.
    pub steps: [u16; 4],
}

/// The calling process, single-threaded, with its later children in another process-id namespace (`setns`) and all else
/// final, loses its descriptors but the streams and the socket, and its heap; makes a copy of itself there, as a child
/// of its own parent (`clone(CLONE_PARENT | CLONE_PARENT_SETTID)`), and ends. The copy begins a session and executes.
/// Comes back only with an error, and then before anything was taken.
/// <https://man7.org/linux/man-pages/man2/clone.2.html>
pub fn emerge(proc: &ProcHandle, successor: &Successor, last: &Last<'_>) -> SysError {
    let mappings = match private_mappings(proc) {
        Ok(mappings) => mappings,
        Err(error) => return error,
    };
    let mut raw = match prepare(last) {
        Ok(raw) => raw,
        Err(error) => return error,
    };
    raw.successor = successor.word;
    // SAFETY: nothing of this process is used after it but `raw` and what that points to, none of which is on the heap,
    // and it never returns.
    unsafe { go(&raw, &mappings) }
}

/// Everything that is needed at the end, in this frame and in one mapping of its own.
struct Raw {
    candidates: *const usize,
    arguments: *const usize,
    environment: *const usize,
    filter: FilterProgram,
    filter_flags: u32,
    load: Option<Load>,
    header: CapHeader,
    data: Option<[CapData; 2]>,
    terminal: SessionTerminal,
    socket: usize,
    head: u8,
    steps: [u16; 4],
    successor: *mut i32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct FilterProgram {
    count: libc::c_ushort,
    instructions: *const Instruction,
}

/// One mapping that takes bytes, one after the other.
struct Arena {
    start: *mut u8,
    used: usize,
    size: usize,
}

/// Every piece begins at a multiple of this.
const ALIGNMENT: usize = 8;

impl Arena {
    fn new(size: usize) -> SysResult<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping; no address is asked for.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(SysError::last(format!("mmap({size})")));
        }
        Ok(Self { start: start.cast(), used: 0, size })
    }

    fn put(&mut self, bytes: &[u8]) -> SysResult<*const u8> {
        let end = self.used + bytes.len();
        if end > self.size {
            return Err(SysError::new("mmap()", libc::ENOMEM));
        }
        // SAFETY: `used` is at most `size`, the length of the mapping.
        let place = unsafe { self.start.add(self.used) };
        // SAFETY: `bytes.len()` bytes from `place` are inside the mapping, which nothing else uses.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        self.used = end.next_multiple_of(ALIGNMENT);
        Ok(place)
    }

    /// A list of addresses of the strings, ended by a zero.
    fn put_list(&mut self, strings: &[CString]) -> SysResult<*const usize> {
        let mut addresses = Vec::with_capacity(strings.len() + 1);
        for string in strings {
            addresses.push(self.put(string.as_bytes_with_nul())?.expose_provenance());
        }
        addresses.push(0);
        let bytes: Vec<u8> = addresses.into_iter().flat_map(usize::to_ne_bytes).collect();
        self.put(&bytes).map(<*const u8>::cast)
    }
}

fn prepare(last: &Last<'_>) -> SysResult<Raw> {
    let lists = [last.candidates, last.arguments.strings(), last.environment.strings()];
    let string = |string: &CString| string.as_bytes_with_nul().len() + ALIGNMENT + size_of::<usize>();
    let strings: usize = lists.iter().map(|list| list.iter().map(string).sum::<usize>() + 2 * ALIGNMENT).sum();
    let instructions = last.filter.map_or(&[][..], |(program, _)| program.instructions());
    let mut arena = Arena::new(strings + (instructions.len() + 1) * size_of::<Instruction>() + PAGE_BYTES)?;
    let bytes: Vec<u8> = instructions.iter().flat_map(|instruction| instruction.bytes()).collect();
    Ok(Raw {
        candidates: arena.put_list(lists[0])?,
        arguments: arena.put_list(lists[1])?,
        environment: arena.put_list(lists[2])?,
        filter: FilterProgram {
            count: last.filter.map_or(0, |(program, _)| program.count()),
            instructions: arena.put(&bytes)?.cast(),
        },
        filter_flags: last.filter.map_or(0, |(program, _)| program.flags()),
        load: last.filter.map(|(_, load)| load),
        header: CapHeader::own(),
        data: last.capabilities.map(capability_words),
        terminal: last.terminal,
        socket: usize::try_from(last.report.to.as_raw_fd()).expect("descriptors are not negative"),
        head: last.report.head,
        steps: last.report.steps,
        successor: ptr::null_mut(),
    })
}

/// A system call without the C library, whose error number is in memory that is wiped here. Answers with the kernel's
/// own word: a negative error number.
///
/// # Safety
/// As the call's.
unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> isize {
    let [a, b, c, d, e] = arguments;
    let mut answer: isize = isize::try_from(number).expect("system calls have small numbers");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's calling convention; memory is what the caller answers for.
    unsafe {
        asm!("syscall", inlateout("rax") answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let mut first = a.cast_signed();
        // SAFETY: the kernel's calling convention; memory is what the caller answers for.
        unsafe {
            asm!("svc 0", in("x8") answer, inlateout("x0") first, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
                 options(nostack));
        }
        answer = first;
    }
    answer
}

fn address<T>(of: *const T) -> usize {
    of.expose_provenance()
}

/// # Safety
/// The process must be single-threaded and have nothing left to do: its heap is gone afterwards, the C library's
/// thread-local memory with it.
unsafe fn go(raw: &Raw, mappings: &[(usize, usize)]) -> ! {
    const CLONE_PARENT: usize = 0x8000;
    const CLONE_PARENT_SETTID: usize = 0x0010_0000;
    const MADV_DONTFORK: usize = 10;
    const MADV_DONTNEED: usize = 4;
    const PR_SET_DUMPABLE: usize = 4;
    let mut ranges = [(0, 0); crate::pause::MAPPINGS_MAX];
    for (place, range) in ranges.iter_mut().zip(mappings) {
        *place = *range;
    }
    let above = u32::MAX as usize;
    // The heap and the owners of these descriptors are never looked at again: nothing below returns.
    // SAFETY: closes descriptors that nothing of this process uses any more.
    unsafe { call(libc::SYS_close_range, [3, raw.socket.saturating_sub(1), 0, 0, 0]) };
    // SAFETY: as above.
    unsafe { call(libc::SYS_close_range, [raw.socket.max(2) + 1, above, 0, 0, 0]) };
    for (start, end) in ranges {
        if start != 0 {
            // SAFETY: whole mappings that aren't the stack nor `raw`'s; unused from here on.
            unsafe { call(libc::SYS_madvise, [start, end - start, MADV_DONTNEED, 0, 0]) };
        }
    }
    // SAFETY: the copy has no such mapping; this process goes on having it.
    unsafe { call(libc::SYS_madvise, [address(raw.successor), PAGE_BYTES, MADV_DONTFORK, 0, 0]) };
    // Another user than before may have made it dumpable (`fs.suid_dumpable`).
    // SAFETY: integers.
    unsafe { call(libc::SYS_prctl, [PR_SET_DUMPABLE, 0, 0, 0, 0]) };
    if raw.load == Some(Load::Outside) {
        // SAFETY: as this function's.
        unsafe { confine(raw) };
    }
    let flags = CLONE_PARENT | CLONE_PARENT_SETTID;
    // SAFETY: without CLONE_VM the copy goes on here on its own copy of the stack; the kernel writes one live word.
    let pid = unsafe { call(libc::SYS_clone, [flags, 0, address(raw.successor), 0, 0]) };
    if pid < 0 {
        // SAFETY: as this function's.
        unsafe { fail(raw, 0, pid) };
    }
    if pid > 0 {
        // SAFETY: an integer; it doesn't return.
        unsafe { exit(0) };
    }
    // SAFETY: as this function's.
    unsafe { execute(raw) }
}

/// In the copy.
///
/// # Safety
/// As [`go`]'s.
unsafe fn execute(raw: &Raw) -> ! {
    let (not_there, no_directory, denied) = (-signed(libc::ENOENT), -signed(libc::ENOTDIR), -signed(libc::EACCES));
    // Of a filter that refuses both, the program is none the worse: it runs in a session that is nobody's.
    // SAFETY: no argument.
    unsafe { call(libc::SYS_setsid, [0; 5]) };
    if raw.terminal == SessionTerminal::Input {
        let request = usize::try_from(libc::TIOCSCTTY).expect("a small number");
        // SAFETY: TIOCSCTTY takes an integer.
        unsafe { call(libc::SYS_ioctl, [0, request, 0, 0, 0]) };
    }
    if raw.load == Some(Load::Inside) {
        // SAFETY: as this function's.
        unsafe { confine(raw) };
    }
    let mut worst = not_there;
    let mut at = raw.candidates;
    loop {
        // SAFETY: the list ends with a zero, which ends this loop.
        let candidate = unsafe { ptr::read(at) };
        if candidate == 0 {
            break;
        }
        // SAFETY: the path and the two lists live in the arena and end with zeros.
        let error =
            unsafe { call(libc::SYS_execve, [candidate, address(raw.arguments), address(raw.environment), 0, 0]) };
        if error == denied {
            worst = denied;
        } else if error != not_there && error != no_directory {
            worst = error;
            break;
        }
        // SAFETY: not yet at the zero, so there is one more.
        at = unsafe { at.add(1) };
    }
    // SAFETY: as this function's.
    unsafe { fail(raw, 3, worst) }
}

/// The filter, and the rights that were kept for it.
///
/// # Safety
/// As [`go`]'s.
unsafe fn confine(raw: &Raw) {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    let flags = raw.filter_flags as usize;
    // SAFETY: a program of `count` instructions in the arena.
    let loaded =
        unsafe { call(libc::SYS_seccomp, [SECCOMP_SET_MODE_FILTER, flags, address(&raw const raw.filter), 0, 0]) };
    if loaded < 0 {
        // SAFETY: as this function's.
        unsafe { fail(raw, 1, loaded) };
    }
    if let Some(data) = &raw.data {
        // SAFETY: version 3 reads a header and two data structures, which live in `raw`.
        let set = unsafe { call(libc::SYS_capset, [address(&raw const raw.header), address(data.as_ptr()), 0, 0, 0]) };
        if set < 0 {
            // SAFETY: as this function's.
            unsafe { fail(raw, 2, set) };
        }
    }
}

fn signed(errno: i32) -> isize {
    isize::try_from(errno).expect("error numbers are small")
}

/// # Safety
/// As [`go`]'s.
unsafe fn fail(raw: &Raw, step: usize, error: isize) -> ! {
    let [low, high] = raw.steps[step].to_le_bytes();
    let [a, b, c, d, ..] = (-error).to_le_bytes();
    let message = [raw.head, low, high, a, b, c, d];
    // SAFETY: seven live bytes.
    unsafe { call(libc::SYS_write, [raw.socket, address(message.as_ptr()), message.len(), 0, 0]) };
    // SAFETY: an integer; it doesn't return.
    unsafe { exit(FAILED_CODE) }
}

/// # Safety
/// None of what this process owns is dropped.
unsafe fn exit(code: usize) -> ! {
    loop {
        // SAFETY: an integer; it doesn't return.
        unsafe { call(libc::SYS_exit_group, [code, 0, 0, 0, 0]) };
    }
}
