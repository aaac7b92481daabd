use std::time::Instant;

use super::*;

mod profiles;

/// Classic BPF as the kernel runs it, on one call.
fn run(program: &Program, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = vec![number, architecture, 0, 0];
    for argument in arguments {
        let bytes = argument.to_le_bytes();
        data.push(u32::from_le_bytes(bytes[..4].try_into().expect("four")));
        data.push(u32::from_le_bytes(bytes[4..].try_into().expect("four")));
    }
    let code = program.instructions();
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let step = code[at];
        let holds = match step.code {
            0x20 => {
                accumulator = data[usize::try_from(step.operand).expect("small") / 4];
                true
            }
            0x54 => {
                accumulator &= step.operand;
                true
            }
            0x05 => {
                at += usize::try_from(step.operand).expect("small");
                true
            }
            0x15 => accumulator == step.operand,
            0x25 => accumulator > step.operand,
            0x35 => accumulator >= step.operand,
            0x06 => return step.operand,
            other => panic!("{other:#x}"),
        };
        at += 1 + usize::from(if holds { step.jump_true } else { step.jump_false });
    }
}

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const DENY: u32 = 0x0005_0001;
const ABSENT: u32 = 0x0005_0000 | 38;
const KILL: u32 = 0x8000_0000;

fn native(name: &str) -> u32 {
    names::NATIVE.iter().find(|(known, _)| *known == name).expect(name).1
}

fn compat(name: &str) -> u32 {
    names::COMPAT.iter().find(|(known, _)| *known == name).expect(name).1
}

fn default_profile(capabilities: &[&str]) -> Arc<Program> {
    let set = capabilities.iter().fold(Capabilities::NONE, |set, name| set.and(Capabilities::named(name).expect(name)));
    runtime_default(set).expect("compiles")
}

#[test]
fn tables_are_sorted_for_the_search() {
    for table in [names::NATIVE, names::COMPAT, names::ARM] {
        assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}

/// The oracle: for each number of the table, the rules looked at one after the other.
fn expected(rules: Option<&Vec<Rule>>, default: Verdict, arguments: [u64; 6]) -> u32 {
    let holds = |condition: &Condition| {
        let value = arguments[usize::from(condition.argument)];
        let value = value & condition.width.mask();
        match condition.test {
            Test::Equal(with) => value == with,
            Test::NotEqual(with) => value != with,
            Test::Less(with) => value < with,
            Test::LessOrEqual(with) => value <= with,
            Test::Greater(with) => value > with,
            Test::GreaterOrEqual(with) => value >= with,
            Test::Masked(mask, with) => value & mask == with,
        }
    };
    let rules = rules.map(Vec::as_slice).unwrap_or_default();
    let found = rules.iter().find(|rule| rule.conditions.iter().all(holds));
    found.map_or(default, |rule| rule.verdict).0
}

#[test]
fn the_tree_says_what_the_rules_say_for_every_call() {
    for bounding in [Capabilities::NONE, Capabilities::SYS_ADMIN, Capabilities(u64::MAX)] {
        let program = runtime_default(bounding).expect("compiles");
        let (native, compat) = default::tables(bounding);
        for (table, known, architecture) in [(&native, names::NATIVE, X86_64), (&compat, names::COMPAT, I386)] {
            for (name, number) in known {
                for first in [0, 1, 8, 38, 40, 0x1_0000_0026, 0x1000_0000, 0x8_0000_0000, u64::MAX] {
                    let arguments = [first, 0, 0, 0, 0, 0];
                    let wanted = expected(table.get(number), Verdict::errno(EPERM), arguments);
                    assert_eq!(run(&program, architecture, *number, arguments), wanted, "{name}({first:#x})");
                }
            }
        }
    }
}

#[test]
fn comparisons_at_their_borders() {
    let values = [0, 1, 5, 6, u64::from(u32::MAX), 1 << 32, (1 << 32) + 5, (5 << 32) + 6, u64::MAX];
    for with in values {
        for test in [
            Test::Equal(with),
            Test::NotEqual(with),
            Test::Less(with),
            Test::LessOrEqual(with),
            Test::Greater(with),
            Test::GreaterOrEqual(with),
            Test::Masked(0xf_0000_000f, with & 0xf_0000_000f),
        ] {
            let condition = Condition { argument: 3, test, width: Width::Full };
            let rule = Rule { conditions: vec![condition, condition], verdict: Verdict::LOG };
            let table = Table::from([(7, vec![rule])]);
            let program = assemble::program(&table, None, Verdict::TRAP, LoadFlags::default()).expect("assembles");
            for value in values {
                let arguments = [0, 0, 0, value, 0, 0];
                let wanted = expected(table.get(&7), Verdict::TRAP, arguments);
                assert_eq!(run(&program, X86_64, 7, arguments), wanted, "{value:#x} against {test:?}");
            }
        }
    }
}

#[test]
fn what_the_default_denies() {
    let program = default_profile(&["CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_MKNOD"]);
    let check = |name: &str, first: u64, answer: u32| {
        assert_eq!(run(&program, X86_64, native(name), [first, 0, 0, 0, 0, 0]), answer, "{name}({first:#x})");
    };
    for denied in [
        "bpf",
        "mount",
        "umount2",
        "move_mount",
        "open_tree",
        "fsopen",
        "setns",
        "unshare",
        "keyctl",
        "add_key",
        "request_key",
        "userfaultfd",
        "perf_event_open",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "open_by_handle_at",
        "reboot",
        "swapon",
        "swapoff",
        "syslog",
        "clock_settime",
        "quotactl",
        "iopl",
        "ioperm",
        "lookup_dcookie",
        "pivot_root",
        "acct",
    ] {
        check(denied, 0, DENY);
    }
    for allowed in ["read", "execve", "chroot", "clone", "ptrace", "openat2", "futex", "statx"] {
        check(allowed, 0, ALLOW);
    }
    check("clone3", 0, ABSENT);
    check("clone", 0x1000_0000, DENY);
    check("socket", 2, ALLOW);
    check("socket", 38, DENY);
    check("socket", 40, DENY);
    check("socket", 0x1_0000_0026, DENY);
    check("personality", 0xffff_ffff, ALLOW);
    check("personality", 0x004_0000, DENY);
    assert_eq!(run(&program, I386, compat("socketcall"), [1, 0, 0, 0, 0, 0]), DENY);
    assert_eq!(run(&program, I386, compat("socketcall"), [3, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&program, I386, compat("socket"), [40, 0, 0, 0, 0, 0]), DENY);
    assert_eq!(run(&program, I386, compat("mount"), [0; 6]), DENY);
    assert_eq!(run(&program, X86_64, 0x4000_0000 | native("mount"), [0; 6]), ABSENT, "x32");
    assert_eq!(run(&program, X86_64, 9999, [0; 6]), ABSENT, "newer than the table");
    assert_eq!(run(&program, 0x4000_0028, 1, [0; 6]), KILL, "another architecture");
}

#[test]
fn capabilities_open_calls() {
    let admin = default_profile(&["CAP_SYS_ADMIN"]);
    for name in ["mount", "unshare", "clone3", "setns"] {
        assert_eq!(run(&admin, X86_64, native(name), [u64::MAX, 0, 0, 0, 0, 0]), ALLOW, "{name}");
    }
}

#[test]
fn a_profile_of_the_specification() {
    let profile = |json: &str| serde_json::from_str::<LinuxSeccomp>(json).expect("parses");
    let program = compile(&profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
            {"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":0,"value":38,"op":"SCMP_CMP_EQ"}]},
            {"names":["kill"],"action":"SCMP_ACT_LOG","args":[{"index":1,"value":9,"op":"SCMP_CMP_EQ"},{"index":1,"value":15,"op":"SCMP_CMP_EQ"}]}]}"#,
    ))
    .expect("compiles")
    .program;
    let answer = |name: &str, arguments| run(&program, X86_64, native(name), arguments);
    assert_eq!(answer("mkdir", [0; 6]), 0x0005_000d);
    assert_eq!(answer("rmdir", [0; 6]), ALLOW);
    assert_eq!(answer("socket", [0x7_0000_0026, 0, 0, 0, 0, 0]), KILL);
    assert_eq!(answer("kill", [1, 15, 0, 0, 0, 0]), 0x7ffc_0000);
    assert_eq!(run(&program, I386, 1, [0; 6]), KILL, "not among the profile's architectures");
    for refused in [
        r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":5000}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
    ] {
        assert_eq!(compile(&profile(refused)).expect_err("refuses").kind(), crate::ErrorKind::Invalid, "{refused}");
    }
}

#[test]
fn the_default_is_short_and_the_pause_filter_tiny() {
    let begun = Instant::now();
    let (native, compat) = default::tables(Capabilities::NONE);
    let program = assemble::program(&native, Some(&compat), Verdict::errno(EPERM), LoadFlags::default()).expect("fits");
    eprintln!("default profile: {} instructions in {:?}", program.instructions().len(), begun.elapsed());
    assert!(program.instructions().len() < 700, "{}", program.instructions().len());
    assert!(pause().expect("compiles").instructions().len() < 64);
}
