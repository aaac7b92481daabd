use oci_spec::runtime::LinuxSeccompOperator;

use super::*;

fn resolved(json: &str, capabilities: &[Capability], kernel: (u32, u32)) -> Result<LinuxSeccomp, String> {
    let bounding = capabilities.iter().copied().collect();
    resolve(json.as_bytes(), &Facts { bounding: &bounding, kernel })
}

/// The names of the rules that are left.
fn names(json: &str, capabilities: &[Capability], kernel: (u32, u32)) -> Vec<String> {
    let profile = resolved(json, capabilities, kernel).expect(json);
    profile.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
}

fn rules(rules: &str) -> String {
    format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{rules}]}}"#)
}

#[test]
fn the_form_of_the_specification() {
    let profile = resolved(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW","SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW"},
                        {"names":["ioctl"],"action":"SCMP_ACT_TRACE","errnoRet":7,"args":[{"index":1,"value":255,"valueTwo":3,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        &[],
        (6, 1),
    )
    .expect("good");
    assert_eq!(profile.default_errno_ret(), Some(38));
    assert_eq!(profile.architectures().as_ref().map(Vec::len), Some(3));
    assert_eq!(profile.flags().as_ref().map(Vec::len), Some(4));
    let [plain, tested] = profile.syscalls().as_deref().expect("two") else { panic!("two rules") };
    assert_eq!(plain.names(), &["read", "write"]);
    assert_eq!(tested.errno_ret(), Some(7));
    let [arg] = tested.args().as_deref().expect("one") else { panic!("one argument") };
    assert_eq!((arg.index(), arg.value(), arg.value_two()), (1, 255, Some(3)));
    assert_eq!(arg.op(), LinuxSeccompOperator::ScmpCmpMaskedEq);
}

#[test]
fn the_form_of_docker() {
    let conditions = rules(
        r#"{"name":"old","action":"SCMP_ACT_ALLOW","args":null,"comment":"x","includes":{},"excludes":{}},
           {"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_BPF"]}},
           {"names":["both"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_BPF","CAP_SYS_ADMIN"]}},
           {"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}},
           {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
           {"names":["late"],"action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"4.8"}},
           {"names":["native"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64","arm64"]}},
           {"names":["foreign"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}},
           {"names":["elsewhere"],"action":"SCMP_ACT_ALLOW","excludes":{"arches":["amd64","arm64"]}}"#,
    );
    assert_eq!(names(&conditions, &[], (4, 7)), ["old", "clone", "late", "native"]);
    assert_eq!(names(&conditions, &[], (6, 1)), ["old", "clone", "ptrace", "native"]);
    assert_eq!(names(&conditions, &[Capability::Bpf], (6, 1)), ["old", "bpf", "clone", "ptrace", "native"]);
    let admin = [Capability::Bpf, Capability::SysAdmin];
    assert_eq!(names(&conditions, &admin, (6, 1)), ["old", "bpf", "both", "ptrace", "native"]);
    let mapped = resolved(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[
            {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]},
            {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM","SCMP_ARCH_X32"]},
            {"architecture":"SCMP_ARCH_S390X","subArchitectures":["SCMP_ARCH_S390"]}]}"#,
        &[],
        (6, 1),
    );
    assert_eq!(mapped.expect("good").architectures().as_ref().map(Vec::len), Some(3));
}

#[test]
fn what_is_no_profile() {
    for json in [
        "",
        "{}",
        "null",
        "[]",
        r#"{"syscalls":[]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALOW"}"#,
        r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/agent.sock"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_X"]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x86"]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
        &rules(r#"{"action":"SCMP_ACT_ALLOW"}"#),
        &rules(r#"{"names":[""],"action":"SCMP_ACT_ALLOW"}"#),
        &rules(r#"{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}"#),
        &rules(r#"{"names":["a"]}"#),
        &rules(r#"{"names":["a"],"action":"SCMP_ACT_NOTIFY"}"#),
        &rules(r#"{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"EQ"}]}"#),
        &rules(r#"{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":-1,"op":"SCMP_CMP_EQ"}]}"#),
        &rules(r#"{"names":["a"],"action":"SCMP_ACT_LOG","includes":{"minKernel":"new"}}"#),
        &format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)),
    ] {
        assert!(resolved(json, &[], (6, 1)).is_err(), "{json}");
    }
}

#[test]
fn a_file_that_is_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let bounding = Capabilities::new();
    let facts = Facts { bounding: &bounding, kernel: (6, 1) };
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("good"), r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).expect("writes");
    std::os::unix::fs::symlink("good", path("link")).expect("links");
    for good in ["good", "link"] {
        read(&path(good), &facts).expect(good);
    }
    std::fs::write(path("empty"), "").expect("writes");
    std::fs::create_dir(path("directory")).expect("makes");
    let fifo = std::process::Command::new("mkfifo").arg(path("fifo")).status().expect("runs");
    assert!(fifo.success());
    let sparse = std::fs::File::create(path("huge")).expect("makes");
    sparse.set_len(4 * 1024 * 1024 * 1024).expect("sparse");
    for bad in ["none", "empty", "directory", "fifo", "huge", "good/x"] {
        let error = read(&path(bad), &facts).expect_err(bad);
        assert_eq!(error.kind(), crate::Kind::Invalid, "{error}");
        assert!(error.to_string().contains(bad), "{error}");
    }
    assert_eq!(read(Path::new("/dev/zero"), &facts).expect_err("no file").kind(), crate::Kind::Invalid);
}
