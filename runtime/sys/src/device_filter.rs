//! The device program of cgroup version 2: a list of rules, assembled into eBPF by hand and attached to a group.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::SysResult;
use crate::process::checked;

/// One rule. The last that matches decides, as with version 1's `devices.allow` and `devices.deny` written in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allowed or denied.
    pub verdict: Verdict,
    /// Which kind; `None` is both.
    pub kind: Option<DeviceKind>,
    /// Major number; `None` is all.
    pub major: Option<u32>,
    /// Minor number; `None` is all.
    pub minor: Option<u32>,
    /// What is meant: reading, writing, making nodes.
    pub access: Access,
}

/// Allowed or denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The access goes through.
    Allow,
    /// `EPERM`.
    Deny,
}

/// Which kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Block device.
    Block,
    /// Character device.
    Character,
}

/// A set of accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u32);

impl Access {
    const MAKE: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;
    /// All three.
    pub const ALL: Self = Self(7);

    /// From letters: `r`, `w` and `m`, in any order; `None` for any other letter or none.
    #[must_use]
    pub fn parse(letters: &str) -> Option<Self> {
        let bits = letters.bytes().try_fold(0, |bits, letter| match letter {
            b'm' => Some(bits | Self::MAKE),
            b'r' => Some(bits | Self::READ),
            b'w' => Some(bits | Self::WRITE),
            _ => None,
        })?;
        (bits != 0).then_some(Self(bits))
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MAKE, "m")] {
            if self.0 & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// One instruction of eBPF: opcode, registers (source in the high half), offset, immediate.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | target, offset, immediate }
}

/// Loads a 32-bit word of the context.
const LOAD: u8 = 0x61;
/// 32-bit `target &= immediate`, `target >>= immediate`, `target = immediate`, `target = source`.
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const SET: u8 = 0xb4;
const MOVE: u8 = 0xbc;
/// 32-bit "jump if equal" to an immediate, "jump if not equal" to an immediate, to a register.
const EQUAL: u8 = 0x16;
const NOT_EQUAL: u8 = 0x56;
const NOT_EQUAL_REGISTER: u8 = 0x5e;
const EXIT: u8 = 0x95;

/// Most rules: a group's list comes from the kubelet and device plug-ins, some dozens.
pub const RULES_MAX: usize = 1024;

/// The rules from last to first: the first match answers. No match is a denial.
fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    // Context (struct bpf_cgroup_dev_ctx): access_type (access << 16 | kind), major, minor.
    let mut program = vec![
        instruction(LOAD, 2, 1, 0, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD, 4, 1, 4, 0),
        instruction(LOAD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        if let Some(kind) = rule.kind {
            tests.push(instruction(NOT_EQUAL, 2, 0, 0, if kind == DeviceKind::Block { 1 } else { 2 }));
        }
        if rule.access != Access::ALL {
            // An allowance covers what asks for no more; a denial meets what asks for any of it.
            tests.push(instruction(MOVE, 1, 3, 0, 0));
            tests.push(instruction(AND, 1, 0, 0, i32::try_from(rule.access.0).expect("three bits")));
            tests.push(match rule.verdict {
                Verdict::Allow => instruction(NOT_EQUAL_REGISTER, 1, 3, 0, 0),
                Verdict::Deny => instruction(EQUAL, 1, 0, 0, 0),
            });
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                tests.push(instruction(NOT_EQUAL, register, 0, 0, number.cast_signed()));
            }
        }
        let length = tests.len();
        let certain = length == 0;
        for (place, mut test) in tests.into_iter().enumerate() {
            if [EQUAL, NOT_EQUAL, NOT_EQUAL_REGISTER].contains(&test.code) {
                // Over the tests that are left and the two instructions of the verdict.
                test.offset = i16::try_from(length - place - 1 + 2).expect("a rule has at most six tests");
            }
            program.push(test);
        }
        program.push(instruction(SET, 0, 0, 0, i32::from(rule.verdict == Verdict::Allow)));
        program.push(instruction(EXIT, 0, 0, 0, 0));
        if certain {
            // The kernel refuses a program with instructions that nothing leads to.
            return program;
        }
    }
    program.push(instruction(SET, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

/// The whole `union bpf_attr`, zeroed: kernels 6.17 to 7.1 write past a shorter one in some commands.
#[repr(C, align(8))]
struct Attribute([u8; 168]);

impl Attribute {
    fn new(fields: &[(usize, &[u8])]) -> Self {
        let mut bytes = [0; 168];
        for (offset, value) in fields {
            bytes[*offset..*offset + value.len()].copy_from_slice(value);
        }
        Self(bytes)
    }

    fn call(&mut self, command: i32, name: &str) -> SysResult<i32> {
        // SAFETY: a whole union bpf_attr with its size; what its pointers mean is the caller's to keep alive.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut self.0, size_of::<Self>()) };
        checked(answer, || format!("bpf({name})"))
    }
}

/// Loads the rules and attaches them to a group of version 2 in place of what was attached there before: exactly one
/// program is left. `E2BIG` for more than [`RULES_MAX`] rules.
pub fn set_device_rules(cgroup: BorrowedFd<'_>, rules: &[DeviceRule]) -> SysResult<()> {
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_ATTACH: i32 = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    if rules.len() > RULES_MAX {
        return Err(crate::SysError::new("bpf(BPF_PROG_LOAD)", libc::E2BIG));
    }
    let program = assemble(rules);
    let count = u32::try_from(program.len()).expect("bounded by RULES_MAX");
    let instructions = program.as_ptr().expose_provenance() as u64;
    let licence = c"Apache-2.0".as_ptr().expose_provenance() as u64;
    let loaded = Attribute::new(&[
        (0, &BPF_PROG_TYPE_CGROUP_DEVICE.to_ne_bytes()),
        (4, &count.to_ne_bytes()),
        (8, &instructions.to_ne_bytes()),
        (16, &licence.to_ne_bytes()),
    ])
    .call(BPF_PROG_LOAD, "BPF_PROG_LOAD")?;
    // SAFETY: the kernel made `loaded` in this call, so no one else can own it.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    // Flags 0: the one program of this group, replaced by the next. The parents' programs hold as well.
    Attribute::new(&[
        (0, &cgroup.as_raw_fd().to_ne_bytes()),
        (4, &loaded.as_raw_fd().to_ne_bytes()),
        (8, &BPF_CGROUP_DEVICE.to_ne_bytes()),
    ])
    .call(BPF_PROG_ATTACH, "BPF_PROG_ATTACH")
    .map(drop)
}

#[cfg(test)]
mod tests;
