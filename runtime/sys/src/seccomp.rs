//! Loading a system-call filter. What is in it is decided elsewhere.

use crate::error::{SysError, SysResult};
use crate::process::checked;

/// One instruction of classic BPF: the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip when a comparison holds.
    pub jump_true: u8,
    /// And when it doesn't.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

/// Most instructions of a filter: the kernel's `BPF_MAXINSNS`.
pub const INSTRUCTIONS_MAX: u16 = 4096;

/// A filter, ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Box<[Instruction]>,
    count: u16,
    flags: u32,
}

/// Flags of `seccomp(SECCOMP_SET_MODE_FILTER)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadFlags {
    /// Log every answer but "allow".
    pub log: bool,
    /// Leave speculative store bypass as it is.
    pub speculation_allowed: bool,
}

impl Program {
    /// Of these instructions; `E2BIG` when there are more than [`INSTRUCTIONS_MAX`].
    pub fn new(instructions: Vec<Instruction>, flags: LoadFlags) -> SysResult<Self> {
        let count = u16::try_from(instructions.len()).ok().filter(|count| *count <= INSTRUCTIONS_MAX);
        let count = count.ok_or_else(|| SysError::new("seccomp(SECCOMP_SET_MODE_FILTER)", libc::E2BIG))?;
        const LOG: u32 = 2;
        const SPEC_ALLOW: u32 = 4;
        let flags = if flags.log { LOG } else { 0 } | if flags.speculation_allowed { SPEC_ALLOW } else { 0 };
        Ok(Self { instructions: instructions.into(), count, flags })
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }

    /// What the kernel will run.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// `seccomp(SECCOMP_SET_MODE_FILTER, flags, program)` for the calling thread, for ever. Needs `no_new_privs` or
    /// CAP_SYS_ADMIN.
    /// <https://man7.org/linux/man-pages/man2/seccomp.2.html>
    pub fn load(&self) -> SysResult<()> {
        #[repr(C)]
        struct FilterProgram {
            count: libc::c_ushort,
            instructions: *const Instruction,
        }
        const SECCOMP_SET_MODE_FILTER: u32 = 1;
        let program = FilterProgram { count: self.count, instructions: self.instructions.as_ptr() };
        // SAFETY: the kernel copies `count` instructions from a live slice of that length; Instruction has the layout of
        // struct sock_filter.
        let answer =
            unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, self.flags, &raw const program) };
        checked(answer, || format!("seccomp(SECCOMP_SET_MODE_FILTER, {:#x}, {} instructions)", self.flags, self.count))
            .map(drop)
    }
}
