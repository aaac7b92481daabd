//! From tables to classic BPF: a binary tree over ranges of call numbers. A chain of comparisons would do the same and
//! load ten times slower, since the kernel runs the filter once for every number when it is loaded.

use runtime_sys::SysResult;
use runtime_sys::seccomp::{Instruction, LoadFlags, Program};

use super::{Condition, ENOSYS, Rule, Table, Test, Verdict, Width};

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const GREATER_OR_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
/// i386.
#[cfg(target_arch = "x86_64")]
const COMPAT: u32 = 0x4000_0003;
/// 32-bit ARM.
#[cfg(target_arch = "aarch64")]
const COMPAT: u32 = 0x4000_0028;

/// Where ARM's private calls begin: far above all others, and no measure of how new a profile is.
const PRIVATE: u32 = 0x000f_0000;

/// Where x32's numbers begin on x86-64. Nearly no kernel has it switched on; it is answered as if none had, since its
/// numbers would be a way around every rule. (Also -1, which no call has.)
const X32: u32 = 0x4000_0000;

/// The filter: native calls, those of `compat` where given, every other architecture kills.
pub(super) fn program(
    native: &Table,
    compat: Option<&Table>,
    default: Verdict,
    flags: LoadFlags,
) -> SysResult<Program> {
    let mut body = vec![plain(LOAD, NUMBER), jump(GREATER_OR_EQUAL, X32, 0, 1), answer(Verdict::errno(ENOSYS))];
    body.extend(tree(&segments(native, default), default));
    let mut all = vec![plain(LOAD, ARCHITECTURE), jump(EQUAL, NATIVE, 1, 0), plain(JUMP, length(&body))];
    all.extend(body);
    if let Some(compat) = compat {
        all.push(jump(EQUAL, COMPAT, 1, 0));
        all.push(answer(Verdict::KILL_PROCESS));
        all.push(plain(LOAD, NUMBER));
        all.extend(tree(&segments(compat, default), default));
    } else {
        all.push(answer(Verdict::KILL_PROCESS));
    }
    Program::new(all, flags)
}

fn plain(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

fn answer(verdict: Verdict) -> Instruction {
    plain(RETURN, verdict.0)
}

fn length(code: &[Instruction]) -> u32 {
    u32::try_from(code.len()).expect("a filter that is too long is refused by its number, not its length in bytes")
}

/// What is done from one call number up to the next segment's.
struct Segment<'a> {
    start: u32,
    leaf: Leaf<'a>,
}

#[derive(Clone, Copy, PartialEq)]
enum Leaf<'a> {
    Always(Verdict),
    Rules(&'a [Rule]),
}

/// Every number from 0 on, neighbours with the same verdict joined.
fn segments(table: &Table, default: Verdict) -> Vec<Segment<'_>> {
    let mut segments: Vec<Segment<'_>> = Vec::new();
    let mut push = |start: u32, leaf| match segments.last() {
        Some(Segment { leaf: last, .. }) if *last == leaf && matches!(leaf, Leaf::Always(_)) => {}
        _ => segments.push(Segment { start, leaf }),
    };
    // A call that is newer than all that are named: programs fall back on ENOSYS, not on EPERM.
    let newest = table.keys().copied().filter(|number| *number < PRIVATE).max();
    let unknown = if default.is_errno() && newest.is_some() { Verdict::errno(ENOSYS) } else { default };
    let gap = |number: u32| Leaf::Always(if newest.is_some_and(|newest| number > newest) { unknown } else { default });
    let mut next = 0;
    for (number, rules) in table {
        if *number > next {
            push(next, gap(next));
        }
        push(*number, leaf(rules));
        next = number + 1;
    }
    push(next, gap(next));
    segments
}

fn leaf(rules: &[Rule]) -> Leaf<'_> {
    let certain = rules.iter().position(|rule| rule.conditions.is_empty());
    match certain {
        // Whatever is tested before it leads to the same verdict.
        Some(place) if rules[..place].iter().all(|rule| rule.verdict == rules[place].verdict) => {
            Leaf::Always(rules[place].verdict)
        }
        _ => Leaf::Rules(rules),
    }
}

fn tree(segments: &[Segment<'_>], default: Verdict) -> Vec<Instruction> {
    match segments {
        [] => vec![answer(default)],
        [one] => match one.leaf {
            Leaf::Always(verdict) => vec![answer(verdict)],
            Leaf::Rules(rules) => chain(rules, default),
        },
        _ => {
            let (below, above) = segments.split_at(segments.len() / 2);
            let (left, right) = (tree(below, default), tree(above, default));
            let mut code = match u8::try_from(left.len()) {
                Ok(over) => vec![jump(GREATER_OR_EQUAL, above[0].start, over, 0)],
                // Conditional jumps reach 255 instructions.
                Err(_) => vec![jump(GREATER_OR_EQUAL, above[0].start, 0, 1), plain(JUMP, length(&left))],
            };
            code.extend(left);
            code.extend(right);
            code
        }
    }
}

/// Rule after rule; the first whose conditions all hold answers.
fn chain(rules: &[Rule], default: Verdict) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in rules {
        let blocks: Vec<Vec<Piece>> = rule.conditions.iter().map(compare).collect();
        let mut left: usize = blocks.iter().map(Vec::len).sum();
        for block in blocks {
            left -= block.len();
            let size = block.len();
            for (place, piece) in block.into_iter().enumerate() {
                let rest = size - place - 1;
                // Behind this condition; behind the rule, whose verdict is one more instruction.
                let (held, failed) = (rest, rest + left + 1);
                let distance = |to: To| match to {
                    To::Next => 0,
                    To::Held => u8::try_from(held).expect("a condition has at most eight instructions"),
                    To::Failed => u8::try_from(failed).expect("a rule has at most six conditions"),
                };
                code.push(jump(piece.code, piece.operand, distance(piece.on_true), distance(piece.on_false)));
            }
        }
        code.push(answer(rule.verdict));
        if rule.conditions.is_empty() {
            return code;
        }
    }
    code.push(answer(default));
    code
}

/// Where a comparison leads.
#[derive(Clone, Copy)]
enum To {
    Next,
    Held,
    Failed,
}

/// An instruction whose jumps aren't counted yet.
struct Piece {
    code: u16,
    operand: u32,
    on_true: To,
    on_false: To,
}

fn compare(condition: &Condition) -> Vec<Piece> {
    let piece = |code, operand, on_true, on_false| Piece { code, operand, on_true, on_false };
    let base = ARGUMENTS + 8 * u32::from(condition.argument);
    let load_low = || {
        let load = piece(LOAD, base, To::Next, To::Next);
        let cut = (condition.width == Width::Short).then(|| piece(AND, 0xffff, To::Next, To::Next));
        [Some(load), cut].into_iter().flatten()
    };
    let load_high = || piece(LOAD, base + 4, To::Next, To::Next);
    let (low, high) = (|value: u64| half(value, Half::Low), |value: u64| half(value, Half::High));
    let full = condition.width == Width::Full;
    let mut code = Vec::new();
    match condition.test {
        Test::Equal(value) => {
            if full {
                code.extend([load_high(), piece(EQUAL, high(value), To::Next, To::Failed)]);
            }
            code.extend(load_low().chain([piece(EQUAL, low(value), To::Next, To::Failed)]));
        }
        Test::NotEqual(value) => {
            if full {
                code.extend([load_high(), piece(EQUAL, high(value), To::Next, To::Held)]);
            }
            code.extend(load_low().chain([piece(EQUAL, low(value), To::Failed, To::Next)]));
        }
        Test::Masked(mask, value) => {
            if full {
                code.extend([load_high(), piece(AND, high(mask), To::Next, To::Next)]);
                code.push(piece(EQUAL, high(value), To::Next, To::Failed));
            }
            code.extend(load_low().chain([piece(AND, low(mask), To::Next, To::Next)]));
            code.push(piece(EQUAL, low(value), To::Next, To::Failed));
        }
        Test::Greater(value) | Test::GreaterOrEqual(value) => {
            if full {
                code.extend([load_high(), piece(GREATER, high(value), To::Held, To::Next)]);
                code.push(piece(EQUAL, high(value), To::Next, To::Failed));
            }
            let last = if matches!(condition.test, Test::Greater(_)) { GREATER } else { GREATER_OR_EQUAL };
            code.extend(load_low().chain([piece(last, low(value), To::Next, To::Failed)]));
        }
        Test::Less(value) | Test::LessOrEqual(value) => {
            if full {
                code.extend([load_high(), piece(GREATER, high(value), To::Failed, To::Next)]);
                code.push(piece(EQUAL, high(value), To::Next, To::Held));
            }
            let last = if matches!(condition.test, Test::Less(_)) { GREATER_OR_EQUAL } else { GREATER };
            code.extend(load_low().chain([piece(last, low(value), To::Failed, To::Next)]));
        }
    }
    code
}

enum Half {
    Low,
    High,
}

fn half(value: u64, which: Half) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match which {
        Half::Low => u32::from_le_bytes([a, b, c, d]),
        Half::High => u32::from_le_bytes([e, f, g, h]),
    }
}
