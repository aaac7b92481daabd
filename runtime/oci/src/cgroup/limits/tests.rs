use oci_spec::runtime::LinuxResources;

use super::*;

fn check(json: &str, version: Version, expected: &[&str]) {
    let resources: LinuxResources = serde_json::from_str(json).expect("parses");
    let lines: Vec<String> = writes(&resources, version)
        .expect("is valid")
        .into_iter()
        .map(|write| format!("{}={}", write.file.to_string_lossy(), write.value))
        .collect();
    assert_eq!(lines, expected, "{json}");
}

#[test]
fn limits_of_both_versions() {
    let json = r#"{"memory":{"limit":1048576,"swap":2097152},"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1"},"pids":{"limit":10}}"#;
    check(
        json,
        Version::V1,
        &[
            "memory.limit_in_bytes=1048576",
            "memory.memsw.limit_in_bytes=2097152",
            "cpu.shares=1024",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "cpuset.cpus=0-1",
            "pids.max=10",
        ],
    );
    check(
        json,
        Version::V2,
        &[
            "memory.max=1048576",
            "memory.swap.max=1048576",
            "cpu.weight=39",
            "cpu.max=50000 100000",
            "cpuset.cpus=0-1",
            "pids.max=10",
        ],
    );
}

#[test]
fn unlimited_and_unset() {
    check(
        r#"{"memory":{"limit":-1},"pids":{"limit":-1},"cpu":{"quota":-1}}"#,
        Version::V2,
        &["memory.max=max", "cpu.max=max 100000", "pids.max=max"],
    );
    check(r#"{"memory":{"limit":0},"pids":{"limit":0},"cpu":{"shares":0}}"#, Version::V1, &[]);
}

#[test]
fn huge_pages_are_limited_by_their_size() {
    let json = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304},{"pageSize":"1GB","limit":0}]}"#;
    check(json, Version::V1, &["hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.1GB.limit_in_bytes=0"]);
    check(json, Version::V2, &["hugetlb.2MB.max=4194304", "hugetlb.1GB.max=0"]);
}

#[test]
fn files_by_name_are_written_on_version_2_and_refused_on_1() {
    let json = r#"{"unified":{"memory.high":"1048576"},"cpu":{"mems":"0"}}"#;
    check(json, Version::V2, &["cpuset.mems=0", "memory.high=1048576"]);
    let resources: LinuxResources = serde_json::from_str(json).expect("parses");
    let error = writes(&resources, Version::V1).expect_err("is refused");
    assert!(error.to_string().contains("cgroup v1"), "{error}");
    check(r#"{"unified":{}}"#, Version::V1, &[]);
}

#[test]
fn what_is_no_limit_is_refused() {
    for json in [
        r#"{"unified":{"cgroup.procs":"1"}}"#,
        r#"{"unified":{"../memory.max":"1"}}"#,
        r#"{"cpu":{"cpus":"0\n1"}}"#,
        r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#,
    ] {
        let resources: LinuxResources = serde_json::from_str(json).expect("parses");
        assert!(writes(&resources, Version::V2).is_err(), "{json}");
    }
}

#[test]
fn devices_begin_with_nothing() {
    let rules = device_rules(None, &[]).expect("is valid");
    let mut line = String::new();
    let lines: Vec<String> = rules
        .iter()
        .map(|rule| {
            let file = device_line(rule, &mut line);
            format!("{} {line}", file.to_string_lossy())
        })
        .collect();
    assert_eq!(
        lines[..4],
        ["devices.deny a", "devices.allow c *:* m", "devices.allow b *:* m", "devices.allow c 1:3 rwm",]
    );
    assert!(lines.contains(&"devices.allow c 136:* rwm".to_owned()));
}
