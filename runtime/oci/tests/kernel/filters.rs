//! System-call filters against programs that try to get around them: upper halves of registers, the numbers of x32, the
//! gate of i386.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use runtime_oci::{Joins, SeccompChoice};
use serde_json::{Value, json};

use crate::support::{Fixture, spec, start};

#[cfg(target_arch = "x86_64")]
pub(crate) const TESTS: &[(&str, fn())] = &[
    ("the_default_filter_has_no_way_around", the_default_filter_has_no_way_around),
    ("a_profile_has_no_way_around", a_profile_has_no_way_around),
    ("every_action_is_the_kernels", every_action_is_the_kernels),
];
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const TESTS: &[(&str, fn())] = &[];

/// Where the program is loaded.
const BASE: u32 = 0x40_0000;
const HEADERS_BYTES: u32 = 120;

/// Three words for i386's `socketcall`, right behind the headers: AF_ALG, SOCK_SEQPACKET, 0.
const WORDS: u32 = BASE + HEADERS_BYTES;
const WORDS_BYTES: u32 = 12;

/// One system call, by `syscall` or by `int 0x80`; the exit code is the error number, or 0.
struct Probe {
    name: &'static str,
    gate: Gate,
    number: u32,
    arguments: [u64; 3],
}

#[derive(Clone, Copy, PartialEq)]
enum Gate {
    Native,
    Compat,
}

const X32: u32 = 0x4000_0000;

impl Probe {
    fn code(&self) -> Vec<u8> {
        let mut code = Vec::new();
        match self.gate {
            Gate::Native => {
                for (load, argument) in [[0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba]].iter().zip(self.arguments) {
                    code.extend(load);
                    code.extend(argument.to_le_bytes());
                }
            }
            Gate::Compat => {
                for (load, argument) in [0xbb, 0xb9, 0xba].iter().zip(self.arguments) {
                    code.push(*load);
                    code.extend(u32::try_from(argument).expect("32 bits").to_le_bytes());
                }
            }
        }
        code.push(0xb8);
        code.extend(self.number.to_le_bytes());
        code.extend(if self.gate == Gate::Native { [0x0f, 0x05] } else { [0xcd, 0x80] });
        // xor edi, edi; test eax, eax; jns +4; mov edi, eax; neg edi; mov eax, 60 (exit); syscall.
        code.extend([0x31, 0xff, 0x85, 0xc0, 0x79, 0x04, 0x89, 0xc7, 0xf7, 0xdf, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05]);
        code
    }

    /// A static program of one segment.
    fn program(&self) -> Vec<u8> {
        let code = self.code();
        let size = u64::from(HEADERS_BYTES + WORDS_BYTES) + u64::try_from(code.len()).expect("small");
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        file.extend(u64::from(WORDS + WORDS_BYTES).to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend([0; 12]);
        file.extend([64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
        // PT_LOAD, readable and executable, from the start of the file.
        file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
        for field in [0, u64::from(BASE), u64::from(BASE), size, size, 0x1000] {
            file.extend(field.to_le_bytes());
        }
        for word in [38u32, 5, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(code);
        file
    }
}

/// What each program's exit code was.
fn outcomes(probes: &[Probe], profile: Option<Value>) -> Vec<i32> {
    let this = Fixture::new();
    let mut script = String::new();
    for (place, probe) in probes.iter().enumerate() {
        let path = this.lower().join(format!("bin/probe-{place}"));
        fs::write(&path, probe.program()).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("sets");
        script.push_str(&format!("probe-{place}; echo $?\n"));
    }
    let mut value = spec(&this, &script);
    let choice = match profile {
        None => SeccompChoice::RuntimeDefault,
        Some(profile) => {
            value["linux"]["seccomp"] = profile;
            SeccompChoice::Spec
        }
    };
    let outcome = start(&this, &value, choice, Joins::default()).expect("starts").finish();
    let codes: Vec<i32> = outcome.output.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(codes.len(), probes.len(), "{}", outcome.output);
    codes
}

fn check(profile: Option<Value>, list: Vec<(Probe, i32)>) {
    const SEGMENTATION_FAULT: i32 = 139;
    let (probes, wanted): (Vec<Probe>, Vec<i32>) = list.into_iter().unzip();
    for (probe, (code, wanted)) in probes.iter().zip(outcomes(&probes, profile).into_iter().zip(wanted)) {
        if probe.gate == Gate::Compat && code == SEGMENTATION_FAULT {
            eprintln!("skipped: {}: this kernel has no i386 emulation", probe.name);
            continue;
        }
        assert_eq!(code, wanted, "{}", probe.name);
    }
}

fn native(name: &'static str, number: u32, arguments: [u64; 3]) -> Probe {
    Probe { name, gate: Gate::Native, number, arguments }
}

fn compat(name: &'static str, number: u32, arguments: [u64; 3]) -> Probe {
    Probe { name, gate: Gate::Compat, number, arguments }
}

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;
/// 128 and SIGSYS.
const KILLED: i32 = 159;

fn the_default_filter_has_no_way_around() {
    check(
        None,
        vec![
            (native("AF_INET", 41, [2, 1, 0]), 0),
            (native("AF_ALG", 41, [38, 5, 0]), EPERM),
            (native("AF_ALG with an upper half", 41, [0x1_0000_0026, 5, 0]), EPERM),
            (native("AF_VSOCK", 41, [40, 1, 0]), EPERM),
            (native("AF_VSOCK with an upper half", 41, [0xffff_ffff_0000_0028, 1, 0]), EPERM),
            (native("x32 socket", X32 | 41, [38, 5, 0]), ENOSYS),
            (native("x32 getpid", X32 | 39, [0; 3]), ENOSYS),
            (native("clone3", 435, [0; 3]), ENOSYS),
            (native("a call to come", 4000, [0; 3]), ENOSYS),
            (native("bpf", 321, [0; 3]), EPERM),
            (native("keyctl", 250, [0; 3]), EPERM),
            (native("unshare(NEWUSER)", 272, [0x1000_0000, 0, 0]), EPERM),
            (compat("i386 getpid", 20, [0; 3]), 0),
            (compat("i386 socket(AF_ALG)", 359, [38, 5, 0]), EPERM),
            (compat("i386 socketcall(socket, AF_ALG)", 102, [1, WORDS.into(), 0]), EPERM),
            (compat("i386 mount", 21, [0; 3]), EPERM),
            (compat("i386 keyctl", 288, [0; 3]), EPERM),
            (compat("i386 bpf", 357, [0; 3]), EPERM),
        ],
    );
}

fn a_profile_has_no_way_around() {
    let rules = json!([
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
         "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]},
        {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99,
         "args": [{"index": 1, "value": 0o4755, "op": "SCMP_CMP_EQ"}]},
        {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77,
         "args": [{"index": 1, "value": 0x1_0000_0000u64, "op": "SCMP_CMP_GE"}, {"index": 2, "value": 0, "op": "SCMP_CMP_EQ"}]}
    ]);
    let both = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules,
                      "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]});
    check(
        Some(both),
        vec![
            (native("AF_ALG", 41, [38, 5, 0]), 13),
            (native("AF_ALG with an upper half", 41, [0x7_0000_0026, 5, 0]), 13),
            (native("x32", X32 | 39, [0; 3]), ENOSYS),
            (native("a mode", 90, [0, 0o4755, 0]), 99),
            (native("a mode with upper bits", 90, [0, 0xabcd_0000_0001_0000 | 0o4755, 0]), 99),
            (native("another mode", 90, [0, 0o755, 0]), 14),
            (native("64 bits, below", 8, [99, 0xffff_ffff, 0]), 9),
            (native("64 bits, above", 8, [99, 0x1_0000_0001, 0]), 77),
            (native("64 bits, above, the other not", 8, [99, 0x1_0000_0001, 1]), 9),
            (compat("i386 socket", 359, [38, 5, 0]), 13),
            (compat("i386 socketcall", 102, [1, WORDS.into(), 0]), 13),
            (compat("i386 getpid", 20, [0; 3]), 0),
        ],
    );
    let alone = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"]});
    check(Some(alone), vec![(compat("i386, which the profile doesn't name", 20, [0; 3]), KILLED)]);
}

fn every_action_is_the_kernels() {
    let rule = |name: &str, action: &str, errno: Option<u32>| {
        let mut rule = json!({"names": [name], "action": action});
        if let Some(errno) = errno {
            rule["errnoRet"] = json!(errno);
        }
        rule
    };
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [
            rule("getuid", "SCMP_ACT_LOG", None), rule("getgid", "SCMP_ACT_ERRNO", None), rule("getppid", "SCMP_ACT_ERRNO", Some(0)),
            rule("sync", "SCMP_ACT_TRACE", Some(7)), rule("acct", "SCMP_ACT_TRAP", None), rule("swapon", "SCMP_ACT_KILL", None),
            rule("swapoff", "SCMP_ACT_KILL_THREAD", None), rule("reboot", "SCMP_ACT_KILL_PROCESS", None)
        ]
    });
    check(
        Some(profile),
        vec![
            (native("log", 102, [0; 3]), 0),
            (native("errno", 104, [0; 3]), EPERM),
            (native("errno 0", 110, [0; 3]), 0),
            (native("trace without a tracer", 162, [0; 3]), ENOSYS),
            (native("trap", 163, [0; 3]), KILLED),
            (native("kill", 167, [0; 3]), KILLED),
            (native("kill thread", 168, [0; 3]), KILLED),
            (native("kill process", 169, [0; 3]), KILLED),
        ],
    );
}
