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
            EQUAL => jump = registers[target] == immediate,
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
fn a_denial_meets_what_asks_for_any_of_it() {
    let rules = [
        rule(Verdict::Allow, None, (None, None), "rwm"),
        rule(Verdict::Deny, Some(DeviceKind::Character), (Some(1), Some(1)), "w"),
    ];
    let program = assemble(&rules);
    assert!(run(&program, 2, Access::READ, 1, 1));
    assert!(!run(&program, 2, Access::READ | Access::WRITE, 1, 1));
    assert!(!run(&program, 2, Access::WRITE, 1, 1));
    assert!(run(&program, 2, Access::WRITE, 1, 3));
}

/// The kernel's verifier has the last word on the form: unreachable instructions, jumps, the answer.
#[test]
fn the_kernel_takes_the_program_and_a_second_replaces_the_first() {
    let mounts = crate::procfs::mounts().expect("reads");
    let Some(version_2) = mounts.iter().find(|mount| mount.filesystem == "cgroup2") else {
        eprintln!("skipped: no cgroup version 2 is mounted");
        return;
    };
    let path = version_2.mount_point.join(format!("podwright-test-devices-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir(&path) {
        eprintln!("skipped: no group can be made: {error}");
        return;
    }
    let directory = std::fs::File::open(&path).expect("just made");
    let rules = [
        rule(Verdict::Deny, None, (None, None), "rwm"),
        rule(Verdict::Allow, Some(DeviceKind::Character), (None, None), "m"),
        rule(Verdict::Deny, Some(DeviceKind::Character), (Some(1), Some(3)), "w"),
        rule(Verdict::Allow, Some(DeviceKind::Block), (Some(u32::MAX), Some(0)), "r"),
    ];
    let many: Vec<DeviceRule> = rules.iter().copied().cycle().take(200).collect();
    let lists: [&[DeviceRule]; 4] = [&rules, &[], &rules[1..2], &many];
    let answers: Vec<_> =
        lists.iter().map(|list| set_device_rules(std::os::fd::AsFd::as_fd(&directory), list)).collect();
    std::fs::remove_dir(&path).expect("nobody is in it");
    for answer in answers {
        answer.expect("the kernel takes it");
    }
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
