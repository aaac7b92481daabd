//! The last step of a process that joins a process-id namespace where others may trace it: it prepares itself outside,
//! gives everything away that those inside may not see, and only then is a copy of it born inside, which executes.
//!
//! A process with CAP_SYS_PTRACE may read and write the memory and take the descriptors of every process that it sees
//! and whose user namespace is its own, dumpable or not. So what it can see must never hold a right, a descriptor or a
//! byte that isn't the container's: the copy has the final credentials, four descriptors, and of memory that can be
//! written one mapping, with what it executes and a stack. All else is given back before: heap, stack and data may hold
//! the environment of other containers, from whose supervisor this process was copied.

use std::arch::asm;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::error::{SysError, SysResult};
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

/// Of the largest page that a kernel may have been made for (arm64).
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// The stack for the last dozen calls. Their frames take a few hundred bytes, unoptimised some thousand.
const STACK_BYTES: usize = 16 * 1024;

/// Most mappings that are emptied. A process has a dozen: neighbours are one.
const MAPPINGS_MAX: usize = 256;

/// Longest list of mappings that is read, in bytes: a line has a path of at most a page.
const MAPS_BYTES_MAX: u64 = 4 * 1024 * 1024;

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
/// final, loses its descriptors but the streams and the socket, and all memory that can be written; makes a copy of itself
/// there, as a child of its own parent (`clone(CLONE_PARENT | CLONE_PARENT_SETTID)`), and ends. The copy begins a session
/// and executes. Comes back only with an error, and then before anything was taken.
/// <https://man7.org/linux/man-pages/man2/clone.2.html>
pub fn emerge(proc: &ProcHandle, successor: &Successor, last: &Last<'_>) -> SysError {
    match prepare(proc, successor, last) {
        // SAFETY: nothing of this process is used after it but what is in the mapping that was prepared, and it never
        // returns.
        Ok(prepared) => unsafe { leave_stack(&prepared) },
        Err(error) => error,
    }
}

/// All that is left, in one mapping.
struct Prepared {
    raw: *const Raw,
    /// Where the stack begins, which grows downwards: a multiple of 16.
    stack: *mut u8,
}

/// Everything that is needed at the end.
#[derive(Clone, Copy)]
struct Raw {
    /// What is emptied, of this many.
    mappings: *const (usize, usize),
    mapping_count: usize,
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
#[derive(Clone, Copy)]
struct FilterProgram {
    count: libc::c_ushort,
    instructions: *const Instruction,
}

/// One mapping that takes bytes, one after the other, above a stack.
struct Arena {
    start: *mut u8,
    used: usize,
    size: usize,
}

/// Every piece begins at a multiple of this.
const ALIGNMENT: usize = 8;

impl Arena {
    /// Of whole pages, so that it begins and ends where others end and begin.
    fn new(size: usize) -> SysResult<Self> {
        let size = size.next_multiple_of(PAGE_BYTES_MAX);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping; no address is asked for.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(SysError::last(format!("mmap({size})")));
        }
        Ok(Self { start: start.cast(), used: STACK_BYTES, size })
    }

    fn range(&self) -> (usize, usize) {
        let start = self.start.expose_provenance();
        (start, start + self.size)
    }

    /// Copies of these, for as long as the mapping is.
    fn put<T: Copy>(&mut self, values: &[T]) -> SysResult<*const T> {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        let end = self.used + size_of_val(values);
        if end > self.size {
            return Err(SysError::new("mmap()", libc::ENOMEM));
        }
        // SAFETY: `used` is at most `size`, the length of the mapping.
        let place: *mut T = unsafe { self.start.add(self.used) }.cast();
        // SAFETY: there is room for the values from `place` on, an aligned one, which nothing else uses.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr(), place, values.len()) };
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
        self.put(&addresses)
    }
}

fn prepare(proc: &ProcHandle, successor: &Successor, last: &Last<'_>) -> SysResult<Prepared> {
    let lists = [last.candidates, last.arguments.strings(), last.environment.strings()];
    let string = |string: &CString| string.as_bytes_with_nul().len() + ALIGNMENT + size_of::<usize>();
    let strings: usize = lists.iter().map(|list| list.iter().map(string).sum::<usize>() + 2 * ALIGNMENT).sum();
    let instructions = last.filter.map_or(&[][..], |(program, _)| program.instructions());
    let filter = (instructions.len() + 1) * size_of::<Instruction>();
    let mappings = MAPPINGS_MAX * size_of::<(usize, usize)>();
    let mut arena = Arena::new(STACK_BYTES + strings + filter + mappings + size_of::<Raw>())?;
    let mut raw = Raw {
        mappings: ptr::null(),
        mapping_count: 0,
        candidates: arena.put_list(lists[0])?,
        arguments: arena.put_list(lists[1])?,
        environment: arena.put_list(lists[2])?,
        filter: FilterProgram {
            count: last.filter.map_or(0, |(program, _)| program.count()),
            instructions: arena.put(instructions)?,
        },
        filter_flags: last.filter.map_or(0, |(program, _)| program.flags()),
        load: last.filter.map(|(_, load)| load),
        header: CapHeader::own(),
        data: last.capabilities.map(capability_words),
        terminal: last.terminal,
        socket: usize::try_from(last.report.to.as_raw_fd()).expect("descriptors are not negative"),
        head: last.report.head,
        steps: last.report.steps,
        successor: successor.word,
    };
    // Last, for what lies here may have grown by the above.
    let mappings = private_mappings(proc, arena.range())?;
    raw.mapping_count = mappings.len();
    raw.mappings = arena.put(&mappings)?;
    // SAFETY: the mapping is longer than the stack.
    let stack = unsafe { arena.start.add(STACK_BYTES) };
    Ok(Prepared { raw: arena.put(&[raw])?, stack })
}

/// The calling process's private memory that can be written, but for a part of it. `E2BIG` above [`MAPPINGS_MAX`]: one that
/// is left out would be shown to whoever may look.
fn private_mappings(proc: &ProcHandle, but: (usize, usize)) -> SysResult<Vec<(usize, usize)>> {
    let failed = |error: std::io::Error| SysError::from_io("read(\"/proc/self/maps\")", &error);
    let mut maps = String::new();
    let file = File::from(proc.open_namespace(c"self/maps")?);
    file.take(MAPS_BYTES_MAX).read_to_string(&mut maps).map_err(failed)?;
    let found = maps.lines().filter_map(private_memory);
    // Neighbours are one mapping for the kernel.
    let around = |(start, end): (usize, usize)| {
        let parts =
            if start < but.1 && but.0 < end { [(start, but.0), (but.1, end)] } else { [(start, end), (end, end)] };
        parts.into_iter().filter(|(start, end)| start < end)
    };
    let found: Vec<(usize, usize)> = found.flat_map(around).collect();
    let cut = maps.len() as u64 >= MAPS_BYTES_MAX;
    if found.len() > MAPPINGS_MAX || cut {
        return Err(SysError::new("read(\"/proc/self/maps\")", libc::E2BIG));
    }
    Ok(found)
}

/// The range of a line of `maps` that can be written and is nobody else's: heap, stack, data.
fn private_memory(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    let (start, end) = range.split_once('-')?;
    let range = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (rights.starts_with("rw") && rights.ends_with('p')).then_some(range)
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

/// Goes on with [`go`], on the other stack.
///
/// # Safety
/// As [`go`]'s.
unsafe fn leave_stack(prepared: &Prepared) -> ! {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the new stack is live and aligned, and what is called there never returns to this one.
    unsafe {
        asm!("mov rsp, {stack}", "xor ebp, ebp", "call {go}", "ud2",
             stack = in(reg) prepared.stack, go = sym go, in("rdi") prepared.raw, options(noreturn))
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!("mov sp, {stack}", "mov x29, xzr", "mov x30, xzr", "b {go}",
             stack = in(reg) prepared.stack, go = sym go, in("x0") prepared.raw, options(noreturn))
    }
}

/// # Safety
/// `raw` and what it points to lie in a mapping that isn't among those that are emptied, the stack too. The process must be
/// single-threaded and have nothing left to do: its heap and its data are gone afterwards, the C library's with them.
unsafe extern "C" fn go(raw: *const Raw) -> ! {
    const CLONE_PARENT: usize = 0x8000;
    const CLONE_PARENT_SETTID: usize = 0x0010_0000;
    const MADV_DONTFORK: usize = 10;
    const MADV_DONTNEED: usize = 4;
    const PR_SET_DUMPABLE: usize = 4;
    // SAFETY: live, as this function's callers promise.
    let raw = unsafe { &*raw };
    let above = u32::MAX as usize;
    // The heap and the owners of these descriptors are never looked at again: nothing below returns.
    // SAFETY: closes descriptors that nothing of this process uses any more.
    unsafe { call(libc::SYS_close_range, [3, raw.socket.saturating_sub(1), 0, 0, 0]) };
    // SAFETY: as above.
    unsafe { call(libc::SYS_close_range, [raw.socket.max(2) + 1, above, 0, 0, 0]) };
    let mut at = 0;
    while at < raw.mapping_count {
        // SAFETY: one of `mapping_count` in the same mapping as `raw`.
        let mapping = unsafe { raw.mappings.add(at) };
        // SAFETY: as above.
        let (start, end) = unsafe { ptr::read(mapping) };
        // SAFETY: whole mappings, or what is left of one beside the one that is used from here on.
        let emptied = unsafe { call(libc::SYS_madvise, [start, end - start, MADV_DONTNEED, 0, 0]) };
        if emptied < 0 {
            // SAFETY: as this function's.
            unsafe { fail(raw, 0, emptied) };
        }
        at += 1;
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

#[cfg(test)]
mod tests;
