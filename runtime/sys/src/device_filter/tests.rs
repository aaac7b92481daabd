use super::*;

/// Runs a program as the kernel would, on one access.
fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0u32; 8];
    let mut at = 0usize;
    loop {
        let step = program[at];
        let target = usize::from(step.registers & 15);
        let source = usize::from(step.registers >> 4);
        let immediate = step.immediate.cast_unsigned();
        let mut jump = false;
        match step.code {
            LOAD => registers[target] = context[usize::try_from(step.offset).expect("not negative") / 4],
            AND => registers[target] &= immediate,
            SHIFT_RIGHT => registers[target] >>= immediate,
            SET => registers[target] = immediate,
            MOVE => registers[target] = registers[source],
            NOT_EQUAL => jump = registers[target] != immediate,
            NOT_EQUAL_REGISTER => jump = registers[target] != registers[source],
            EXIT => return registers[0] != 0,
            other => panic!("{other:#x}"),
        }
        at += 1 + if jump { usize::try_from(step.offset).expect("forward") } else { 0 };
    }
}

fn rule(verdict: Verdict, kind: Option<DeviceKind>, number: (Option<u32>, Option<u32>), access: &str) -> DeviceRule {
    DeviceRule { verdict, kind, major: number.0, minor: number.1, access: Access::parse(access).expect("letters") }
}

#[test]
fn the_default_list() {
    let rules = [
        rule(Verdict::Deny, None, (None, None), "rwm"),
        rule(Verdict::Allow, Some(DeviceKind::Character), (None, None), "m"),
        rule(Verdict::Allow, Some(DeviceKind::Block), (None, None), "m"),
        rule(Verdict::Allow, Some(DeviceKind::Character), (Some(1), Some(3)), "rwm"),
        rule(Verdict::Allow, Some(DeviceKind::Character), (Some(136), None), "rwm"),
        rule(Verdict::Allow, Some(DeviceKind::Block), (Some(8), Some(0)), "r"),
    ];
    let program = assemble(&rules);
    let check = |kind, access, major, minor, allowed| {
        assert_eq!(run(&program, kind, access, major, minor), allowed, "{kind} {access} {major}:{minor}");
    };
    check(2, Access::READ, 1, 3, true);
    check(2, Access::READ | Access::WRITE, 1, 3, true);
    check(2, Access::READ, 1, 1, false);
    check(2, Access::MAKE, 1, 1, true);
    check(1, Access::MAKE, 9, 9, true);
    check(2, Access::WRITE, 136, 7, true);
    check(1, Access::WRITE, 136, 7, false);
    check(1, Access::READ, 8, 0, true);
    check(1, Access::READ | Access::WRITE, 8, 0, false);
}

#[test]
fn no_rule_denies() {
    assert!(!run(&assemble(&[]), 2, Access::READ, 1, 3));
}

#[test]
fn letters() {
    assert_eq!(Access::parse("mrw"), Some(Access::ALL));
    assert_eq!(Access::parse("x"), None);
    assert_eq!(Access::parse(""), None);
}
