//! Profiles at random: what the kernel would run agrees with the profile read word by word.

use serde_json::{Value, json};

use super::*;

/// Xorshift: the same profiles in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(count).expect("small")).expect("small")
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const NAMES: [&str; 16] = [
    "read",
    "write",
    "open",
    "openat",
    "chmod",
    "mmap",
    "ioctl",
    "socket",
    "clone",
    "prctl",
    "ptrace",
    "mount",
    "kill",
    "personality",
    "keyctl",
    "no_such_call",
];

const VALUES: [u64; 14] = [
    0,
    1,
    2,
    5,
    0x7fff,
    0x1_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x5_0000_0002,
    0x7e02_0000,
    0x8000_0000_0000_0000,
    0xffff_ffff_0000_0000,
    u64::MAX,
];

fn rule(random: &mut Random) -> Value {
    let actions = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_LOG",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
    ];
    let operators = [
        "SCMP_CMP_EQ",
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_GT",
        "SCMP_CMP_GE",
        "SCMP_CMP_MASKED_EQ",
    ];
    let names: Vec<&str> = (0..=random.below(3)).map(|_| random.pick(&NAMES)).collect();
    let mut rule = json!({"names": names, "action": random.pick(&actions)});
    if random.below(3) == 0 {
        rule["errnoRet"] = json!(random.below(4096));
    }
    let count = random.below(5);
    let args: Vec<Value> = (0..count)
        .map(|_| {
            json!({"index": random.below(6), "value": random.pick(&VALUES), "valueTwo": random.pick(&VALUES),
                   "op": random.pick(&operators)})
        })
        .collect();
    rule["args"] = json!(args);
    rule
}

fn profile(random: &mut Random) -> Value {
    let default = random.pick(&["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"]);
    let rules: Vec<Value> = (0..random.below(12)).map(|_| rule(random)).collect();
    json!({"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
           "syscalls": rules})
}

/// The answer to an action, by the specification's words.
fn word(action: &Value, errno: &Value) -> u32 {
    let data = u32::try_from(errno.as_u64().unwrap_or(1)).expect("at most 4095");
    match action.as_str().expect("a word") {
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | data,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_KILL" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        other => panic!("{other}"),
    }
}

fn holds(name: &str, arg: &Value, arguments: &[u64; 6]) -> bool {
    let number = |field: &str| arg[field].as_u64().expect("a number");
    let index = number("index");
    let mask = width_of(name, u8::try_from(index).expect("small")).mask();
    let given = arguments[usize::try_from(index).expect("small")] & mask;
    let value = number("value");
    match arg["op"].as_str().expect("a word") {
        "SCMP_CMP_EQ" => given == value & mask,
        "SCMP_CMP_NE" => given != value & mask,
        "SCMP_CMP_LT" => given < value,
        "SCMP_CMP_LE" => given <= value,
        "SCMP_CMP_GT" => given > value,
        "SCMP_CMP_GE" => given >= value,
        "SCMP_CMP_MASKED_EQ" => given & value == number("valueTwo") & mask,
        other => panic!("{other}"),
    }
}

/// The profile read word by word: the first rule that names the call and whose arguments fit. Conditions on different
/// arguments hold together, two on one are alternatives.
fn by_the_word(profile: &Value, name: &str, number: u32, table: &[(&str, u32)], arguments: &[u64; 6]) -> u32 {
    let rules = profile["syscalls"].as_array().expect("a list");
    for rule in rules {
        if !rule["names"].as_array().expect("a list").iter().any(|known| known == name) {
            continue;
        }
        let args = rule["args"].as_array().expect("a list");
        let mut indices: Vec<u64> = args.iter().map(|arg| arg["index"].as_u64().expect("a number")).collect();
        indices.sort_unstable();
        let fits = if indices.windows(2).any(|pair| pair[0] == pair[1]) {
            args.iter().any(|arg| holds(name, arg, arguments))
        } else {
            args.iter().all(|arg| holds(name, arg, arguments))
        };
        if fits {
            return word(&rule["action"], &rule["errnoRet"]);
        }
    }
    let default = word(&profile["defaultAction"], &Value::Null);
    let named = rules.iter().flat_map(|rule| rule["names"].as_array().expect("a list"));
    let newest =
        named.filter_map(|known| table.iter().find(|(name, _)| known == name)).map(|(_, number)| *number).max();
    if default == DENY && newest.is_some_and(|newest| number > newest) { ABSENT } else { default }
}

#[test]
fn a_random_profile_is_kept_to_the_word() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..150 {
        let json = profile(&mut random);
        let program = compile(&serde_json::from_value(json.clone()).expect("parses")).expect("compiles").program;
        for _ in 0..40 {
            let name = random.pick(&NAMES[..15]);
            let arguments: [u64; 6] = std::array::from_fn(|_| match random.below(3) {
                0 => random.next(),
                1 => random.pick(&VALUES) | random.next() << 32,
                _ => random.pick(&VALUES),
            });
            let number = native(name);
            let wanted = by_the_word(&json, name, number, names::NATIVE, &arguments);
            assert_eq!(run(&program, X86_64, number, arguments), wanted, "{name}{arguments:x?} under {json:#}");
            assert_eq!(run(&program, X86_64, X32 | number, arguments), ABSENT, "x32 under {json:#}");
            let (number, small) = (compat(name), arguments.map(|argument| argument & 0xffff_ffff));
            let wanted = by_the_word(&json, name, number, names::COMPAT, &small);
            assert_eq!(run(&program, I386, number, small), wanted, "i386 {name}{small:x?} under {json:#}");
        }
        assert_eq!(run(&program, 0x4000_0028, 1, [0; 6]), KILL, "another architecture");
    }
}

const X32: u32 = 0x4000_0000;

/// Of i386's `socketcall` and `ipc`, first argument and second.
fn multiplexed(json: &Value, name: &str, which: u64) -> u32 {
    let program = compile(&serde_json::from_value(json.clone()).expect("parses")).expect("compiles").program;
    run(&program, I386, compat(name), [which, 0, 0, 0, 0, 0])
}

#[test]
fn what_goes_through_socketcall_and_ipc_is_no_way_around() {
    let profile = |default: &str, rules: Value| json!({"defaultAction": default, "architectures": ["SCMP_ARCH_X86"], "syscalls": rules});
    let alg = json!([{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]);
    let not_alg = json!([{"index": 0, "value": 38, "op": "SCMP_CMP_NE"}]);
    let all_but = profile(
        "SCMP_ACT_ALLOW",
        json!([
        {"names": ["socket"], "action": "SCMP_ACT_KILL_PROCESS", "args": alg},
        {"names": ["shmget"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
        {"names": ["listen"], "action": "SCMP_ACT_KILL_PROCESS"}]),
    );
    assert_eq!(multiplexed(&all_but, "socketcall", 1), DENY, "an argument decides, which isn't seen");
    assert_eq!(multiplexed(&all_but, "socketcall", 3), ALLOW);
    assert_eq!(multiplexed(&all_but, "socketcall", 4), KILL);
    assert_eq!(multiplexed(&all_but, "ipc", 23), 0x0005_000d);
    assert_eq!(multiplexed(&all_but, "ipc", 0x7_0017), 0x0005_000d, "with a version in the upper half");
    assert_eq!(multiplexed(&all_but, "ipc", 24), ALLOW);
    let only = profile(
        "SCMP_ACT_ERRNO",
        json!([
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": not_alg},
        {"names": ["connect", "send", "shmat"], "action": "SCMP_ACT_ALLOW"}]),
    );
    for (which, answer) in [(1, DENY), (2, DENY), (3, ALLOW), (9, ALLOW), (0x1_0000_0003, ALLOW)] {
        assert_eq!(multiplexed(&only, "socketcall", which), answer, "socketcall {which:#x}");
    }
    assert_eq!(multiplexed(&only, "ipc", 21), ALLOW);
    // Named itself, it is permitted as it says, but for what is denied elsewhere.
    let named = profile(
        "SCMP_ACT_ERRNO",
        json!([
        {"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": not_alg}]),
    );
    assert_eq!(multiplexed(&named, "socketcall", 1), DENY);
    assert_eq!(multiplexed(&named, "socketcall", 2), ALLOW);
    let shut = profile(
        "SCMP_ACT_ALLOW",
        json!([
        {"names": ["socketcall"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW"}]),
    );
    assert_eq!(multiplexed(&shut, "socketcall", 1), DENY);
}

#[test]
fn flags_and_unknown_names() {
    let compiled = |json: Value| compile(&serde_json::from_value(json).expect("parses")).expect("compiles");
    let told = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["read", "socketcall", "send", "s390_pci_mmio_read", "nonsense"], "action": "SCMP_ACT_LOG"}]}));
    let warning = told.warning.expect("one is unknown");
    assert!(warning.contains("nonsense") && !warning.contains("s390") && warning.starts_with("1 name"), "{warning}");
    assert_eq!(compiled(json!({"defaultAction": "SCMP_ACT_ALLOW"})).warning, None);
    let flags = |list: &[&str]| compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": list})).program;
    assert_ne!(flags(&["SECCOMP_FILTER_FLAG_LOG"]), flags(&[]));
    assert_ne!(flags(&["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]), flags(&[]));
    assert_eq!(flags(&["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), flags(&[]));
    let args = |value: u64| json!([{"index": 1, "value": value, "op": "SCMP_CMP_EQ"}]);
    let many: Vec<Value> =
        (0..2000).map(|value| json!({"names": ["mmap"], "action": "SCMP_ACT_LOG", "args": args(value)})).collect();
    let error =
        compile(&serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": many})).expect("parses"))
            .expect_err("too long");
    assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{error}");
}
