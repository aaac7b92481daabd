//! The end of a process that only holds namespaces: everything it had is taken from it, and then it waits.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{SysError, SysResult};
use crate::process::checked;
use crate::procfs::ProcHandle;
use crate::seccomp::{Instruction, Program};

/// Most instructions of a filter for [`hold`]: it is copied onto the stack.
const FILTER_MAX: usize = 64;

/// Most mappings that are emptied, which are listed on the stack. A process has a dozen: neighbours are one.
const MAPPINGS_MAX: usize = 256;

/// `ioctl(SIOCSIFFLAGS, "lo", IFF_UP)` in the calling thread's network namespace: the kernel gives it its addresses.
/// <https://man7.org/linux/man-pages/man7/netdevice.7.html>
pub fn bring_loopback_up() -> SysResult<()> {
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| SysError::new("socket(AF_INET, SOCK_DGRAM)", errno.raw_os_error()))?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("small flags");
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives here.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    checked(answer.into(), || "ioctl(SIOCSIFFLAGS, \"lo\", IFF_UP)".to_owned()).map(drop)
}

/// The calling process, already without rights, loses its descriptors, its arguments, environment and heap (a process
/// that may trace it finds zeros), gets the filter, and reaps children until SIGTERM or SIGINT. Comes back only with an
/// error, and then before anything was taken. Signals must
/// be blocked ([`crate::process::block_signals`]), and the filter must allow rt_sigtimedwait, wait4 and exit_group.
pub fn hold(proc: &ProcHandle, filter: &Program) -> SysResult<()> {
    let instructions = filter.instructions();
    if instructions.len() > FILTER_MAX {
        return Err(SysError::new("seccomp(SECCOMP_SET_MODE_FILTER)", libc::E2BIG));
    }
    let mut local = [Instruction { code: 0, jump_true: 0, jump_false: 0, operand: 0 }; FILTER_MAX];
    local[..instructions.len()].copy_from_slice(instructions);
    let count = libc::c_ushort::try_from(instructions.len()).expect("at most FILTER_MAX");
    let wipe = wipe_list(proc)?;
    let signals = 1u64 << (libc::SIGTERM - 1) | 1 << (libc::SIGINT - 1) | 1 << (libc::SIGCHLD - 1);
    // SAFETY: nothing of this process is used after it but this frame, and it never returns.
    unsafe { wipe_and_wait(&wipe, &local, count, signals) }
}

/// What is emptied: memory that is zeroed in place, and mappings whose pages are given back.
struct Wipe {
    /// Arguments and environment, on the stack.
    strings: (usize, usize),
    mappings: [(usize, usize); MAPPINGS_MAX],
}

fn wipe_list(proc: &ProcHandle) -> SysResult<Wipe> {
    let stat = proc.read(c"self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_ascii_whitespace().collect();
    // Fields 48 (arg_start) and 51 (env_end), counted from 1; the first after the name is field 3. Arguments and
    // environment lie side by side. They read as 0 without the right to trace, and then nothing is zeroed.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let strings = (field(48), field(51));
    let mut wipe = Wipe { strings, mappings: [(0, 0); MAPPINGS_MAX] };
    for (place, range) in wipe.mappings.iter_mut().zip(private_mappings(proc)?) {
        *place = range;
    }
    Ok(wipe)
}

/// The calling process's heap and its other writable anonymous memory, without its stack.
/// `E2BIG` above [`MAPPINGS_MAX`]: one that is left out would be shown to whoever may look.
fn private_mappings(proc: &ProcHandle) -> SysResult<Vec<(usize, usize)>> {
    let maps = fs::File::from(proc.open_namespace(c"self/maps")?);
    let maps = std::io::read_to_string(maps).map_err(|error| SysError::from_io("read(\"/proc/self/maps\")", &error))?;
    let here = ptr::from_ref(&maps).expose_provenance();
    let found: Vec<(usize, usize)> =
        maps.lines().filter_map(private_memory).filter(|range| !(range.0..range.1).contains(&here)).collect();
    if found.len() > MAPPINGS_MAX {
        return Err(SysError::new("read(\"/proc/self/maps\")", libc::E2BIG));
    }
    Ok(found)
}

/// The range of a line of `maps` that is the heap or other writable anonymous memory. The program's own data has a file's
/// name or follows it without one; the stack has a name.
fn private_memory(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, _, _, inode) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let name = fields.next();
    // Anonymous memory below the heap is the program's .bss, which the last few calls still use.
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let mapped = start >= 0x7000_0000_0000 && name.is_none();
    let wanted = rights == "rw-p" && inode == "0" && (name == Some("[heap]") || mapped);
    wanted.then_some((start, usize::from_str_radix(end, 16).ok()?))
}

/// # Safety
/// The process must be single-threaded and must have nothing left to do: its heap is gone afterwards, the C library's
/// thread-local memory with it, so that only raw calls may follow.
unsafe fn wipe_and_wait(wipe: &Wipe, filter: &[Instruction; FILTER_MAX], count: libc::c_ushort, signals: u64) -> ! {
    #[repr(C)]
    struct FilterProgram {
        count: libc::c_ushort,
        instructions: *const Instruction,
    }
    let program = FilterProgram { count, instructions: filter.as_ptr() };
    // SAFETY: closes every descriptor; no OwnedFd of this process is ever dropped after this, since nothing returns.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
    let (start, end) = wipe.strings;
    if start != 0 && end > start {
        // SAFETY: the kernel put the strings there at exec, on the stack, writable; nothing reads them any more.
        unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(start), 0, end - start) };
    }
    for (start, end) in wipe.mappings {
        if start != 0 {
            // SAFETY: whole mappings that aren't this frame's; their pages read as zeros from here on, by the caller's
            // contract unused.
            unsafe { libc::syscall(libc::SYS_madvise, start, end - start, libc::MADV_DONTNEED) };
        }
    }
    // SAFETY: a program of `count` instructions that live in this frame's caller.
    let loaded = unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const program) };
    loop {
        if loaded != 0 {
            // SAFETY: an integer; it doesn't return.
            unsafe { libc::syscall(libc::SYS_exit_group, 1) };
        }
        let none = ptr::null::<u8>();
        // SAFETY: a live set of 8 bytes; no information and no timeout are asked for.
        let signal = unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const signals, none, none, 8) };
        if signal == libc::c_long::from(libc::SIGTERM) || signal == libc::c_long::from(libc::SIGINT) {
            // SAFETY: an integer; it doesn't return.
            unsafe { libc::syscall(libc::SYS_exit_group, 0) };
        }
        // SAFETY: any child, no status wanted, no waiting.
        while unsafe { libc::syscall(libc::SYS_wait4, -1, none, libc::WNOHANG, none) } > 0 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_and_mappings_are_emptied_and_the_program_is_not() {
        let check = |line: &str, expected: Option<(usize, usize)>| assert_eq!(private_memory(line), expected, "{line}");
        check(
            "01000000-01020000 rw-p 00000000 00:00 0                          [heap]",
            Some((0x100_0000, 0x102_0000)),
        );
        check("7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ", Some((0x7f00_0000_0000, 0x7f00_0000_1000)));
        check("00500000-00501000 rw-p 00100000 fe:00 7 /bin/podwright-pod", None);
        check("00501000-00502000 rw-p 00000000 00:00 0 ", None);
        check("7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]", None);
    }
}
