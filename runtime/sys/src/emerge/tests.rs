use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::*;
use crate::process::{self, Namespaces};
use crate::sync;

/// What the process had before.
const MARK: [u8; 16] = *b"\xf1had-it-before-\xf2";

/// What it takes along.
const OWN: &str = "OWN=taken-along";

static DATA: [std::sync::atomic::AtomicU8; 64] = [const { std::sync::atomic::AtomicU8::new(7) }; 64];

/// A copy that its maker traces stands still before its first instruction, so it can be looked at in peace.
#[test]
fn a_copy_has_nothing_that_can_be_written_but_what_it_executes() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let proc = ProcHandle::new().expect("opens");
    let successor = Successor::new().expect("maps");
    let (ours, theirs) = sync::pair().expect("a socket");
    // SAFETY: the child does nothing but the below and ends; the C library gives it an allocator that works.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(before(&proc, &successor, theirs.as_fd()));
        // SAFETY: ends the child without what the test program does at its end.
        unsafe { libc::_exit(1) };
    }
    let traced = Traced(child);
    seize(child);
    sync::send(ours.as_fd(), b"G").expect("sends");
    wait(child);
    let copy = Traced(successor.pid().expect("a copy is made"));
    wait(copy.0);
    let memory = memory(copy.0);
    let holding = |wanted: &[u8]| -> Vec<&String> {
        let holds = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
        memory.iter().filter(|(_, bytes)| holds(bytes)).map(|(line, _)| line).collect()
    };
    assert_eq!(holding(&MARK), [] as [&String; 0]);
    assert_eq!(holding(OWN.as_bytes()).len(), 1, "what it takes along, so this is the memory that was meant");
    let written: Vec<&String> = memory
        .iter()
        .filter(|(line, bytes)| line.contains(" 00:00 0") && bytes.iter().any(|byte| *byte != 0))
        .map(|(line, _)| line)
        .collect();
    assert_eq!(written.len(), 1, "one mapping has bytes that no file has: {written:#?}");
    drop((copy, traced));
}

/// In the child: the mark is on the heap, on the stack, in the data and in a mapping.
fn before(proc: &ProcHandle, successor: &Successor, socket: BorrowedFd<'_>) -> SysResult<()> {
    let on_heap = vec![MARK; 64];
    let on_stack = [MARK; 64];
    for (place, byte) in DATA.iter().zip(MARK) {
        place.store(byte, std::sync::atomic::Ordering::Relaxed);
    }
    let mapped = vec![MARK; 64 * 1024];
    std::hint::black_box((&on_heap, &on_stack, &mapped));
    deeper(100);
    sync::receive(socket, &mut [0])?;
    process::unshare(Namespaces::PID)?;
    let lists = [vec![c"true".to_owned()], vec![CString::new(OWN).expect("has no NUL")]].map(StringList::new);
    let error = emerge(
        proc,
        successor,
        &Last {
            candidates: &[c"/bin/true".to_owned()],
            arguments: &lists[0],
            environment: &lists[1],
            filter: None,
            capabilities: None,
            terminal: SessionTerminal::None,
            report: Report { to: socket, head: b'F', steps: [0; 4] },
        },
    );
    drop((on_heap, on_stack, mapped));
    Err(error)
}

/// Leaves the mark on the stack below.
fn deeper(depth: usize) {
    let local = std::hint::black_box([MARK; 16]);
    if depth > 0 {
        deeper(depth - 1);
    }
    std::hint::black_box(&local);
}

/// All that it may write, shared or not: the line of the list of mappings, and the bytes.
fn memory(pid: i32) -> Vec<(String, Vec<u8>)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("reads");
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("opens");
    let mut all = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split([' ', '-']);
        let mut next = || fields.next().expect("a field");
        let [start, end] = [next(), next()].map(|text| usize::from_str_radix(text, 16).expect("a number"));
        if !next().contains('w') {
            continue;
        }
        let mut bytes = vec![0; end - start];
        memory.read_exact_at(&mut bytes, start as u64).expect("reads");
        all.push((line.to_owned(), bytes));
    }
    all
}

/// A process that is traced; killed and reaped at the end.
struct Traced(i32);

impl Drop for Traced {
    fn drop(&mut self) {
        drop(process::kill(self.0, 9));
        let mut status = 0;
        // SAFETY: a child or a traced process of this thread; `status` takes the answer.
        while unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) } == self.0 && libc::WIFSTOPPED(status) {}
    }
}

fn seize(pid: i32) {
    let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_EXITKILL;
    // SAFETY: a child of this thread; integers.
    let answer = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, options) };
    assert_eq!(answer, 0, "{}", SysError::last("ptrace(PTRACE_SEIZE)"));
}

/// Until it stands still.
fn wait(pid: i32) {
    let mut status = 0;
    // SAFETY: a child or a traced process of this thread; `status` takes the answer.
    let answer = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    assert!(answer == pid && libc::WIFSTOPPED(status), "{pid}: {answer}, {status:#x}");
}

#[test]
fn private_memory_is_all_that_can_be_written_and_is_nobody_elses() {
    let check = |line: &str, expected: Option<(usize, usize)>| assert_eq!(private_memory(line), expected, "{line}");
    check("01000000-01020000 rw-p 00000000 00:00 0     [heap]", Some((0x100_0000, 0x102_0000)));
    check("00500000-00501000 rw-p 00100000 fe:00 7 /bin/podwright-pod", Some((0x50_0000, 0x50_1000)));
    check("7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]", Some((0x7ffc_0000_0000, 0x7ffc_0002_1000)));
    check("7f0000000000-7f0000001000 rwxp 00000000 00:00 0 ", Some((0x7f00_0000_0000, 0x7f00_0000_1000)));
    check("7f0000000000-7f0000001000 rw-s 00000000 00:01 9 /dev/zero (deleted)", None);
    check("00400000-00500000 r-xp 00000000 fe:00 7 /bin/podwright-pod", None);
    check("", None);
}
