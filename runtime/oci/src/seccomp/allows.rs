//! What a filter says to one call, before it is loaded.

use runtime_sys::seccomp::Program;

use super::names;

/// The architecture in `struct seccomp_data`.
#[cfg(target_arch = "x86_64")]
const NATIVE_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE_ARCH: u32 = 0xc000_00b7;

/// The answers that let a call happen, without their data: allow, log.
const LET_HAPPEN: [u32; 2] = [0x7fff_0000, 0x7ffc_0000];

/// Whether the call is let through, with these first arguments and zeros.
pub(crate) fn allows(program: &Program, call: &str, arguments: &[u64]) -> bool {
    let Some((_, number)) = names::NATIVE.iter().find(|(name, _)| *name == call) else { return false };
    let mut data = [0; 16];
    data[0] = *number;
    data[1] = NATIVE_ARCH;
    for (place, argument) in data[4..].chunks_mut(2).zip(arguments) {
        let [a, b, c, d, e, f, g, h] = argument.to_le_bytes();
        place.copy_from_slice(&[u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]);
    }
    answer(program, &data).is_some_and(|answer| LET_HAPPEN.contains(&(answer & 0xffff_0000)))
}

/// Classic BPF as the kernel runs it; `None` for what this compiler doesn't make.
fn answer(program: &Program, data: &[u32; 16]) -> Option<u32> {
    const LOAD: u16 = 0x20;
    const AND: u16 = 0x54;
    const JUMP: u16 = 0x05;
    const EQUAL: u16 = 0x15;
    const GREATER: u16 = 0x25;
    const NOT_LESS: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let code = program.instructions();
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let step = code.get(at)?;
        let operand = usize::try_from(step.operand).ok()?;
        let skipped = match step.code {
            LOAD => {
                accumulator = *data.get(operand / 4)?;
                0
            }
            AND => {
                accumulator &= step.operand;
                0
            }
            JUMP => operand,
            EQUAL | GREATER | NOT_LESS => {
                let holds = match step.code {
                    EQUAL => accumulator == step.operand,
                    GREATER => accumulator > step.operand,
                    _ => accumulator >= step.operand,
                };
                usize::from(if holds { step.jump_true } else { step.jump_false })
            }
            RETURN => return Some(step.operand),
            _ => return None,
        };
        // Forward only, so it ends.
        at = at.checked_add(skipped)?.checked_add(1)?;
    }
}

#[cfg(test)]
mod tests {
    use runtime_sys::privileges::Capabilities;

    use super::allows;
    use crate::seccomp::{pause, runtime_default};

    #[test]
    fn the_default_profile_lets_a_process_be_born_and_a_session_begin() {
        let filter = runtime_default(Capabilities::NONE).expect("compiles");
        const CLONE_NEWUSER: u64 = 0x1000_0000;
        for (call, arguments, expected) in [
            ("clone", &[0x10_8000][..], true),
            ("clone", &[CLONE_NEWUSER], false),
            ("setsid", &[], true),
            ("capset", &[], true),
            ("ioctl", &[0, 0x540e], true),
            ("bpf", &[], false),
            ("no_such_call", &[], false),
        ] {
            assert_eq!(allows(&filter, call, arguments), expected, "{call} {arguments:?}");
        }
        let pause = pause().expect("compiles");
        assert!(!allows(&pause, "clone", &[]) && allows(&pause, "wait4", &[]));
    }
}
