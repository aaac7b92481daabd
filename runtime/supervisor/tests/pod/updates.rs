//! Limits that change while the pod is there, read back from the kernel.

use std::path::Path;

use runtime_sys::cgroup::{Cgroup, Version};
use runtime_wire::{Answer, Failure, FailureKind, PidMode, Request};
use serde_json::{Value, json};

use crate::harness::{Client, Pod, may_run, until};

const MIB: u64 = 1 << 20;

/// The group of a container, and the files that hold a limit of memory, one of memory and swap, and a weight.
struct Limits {
    group: Cgroup,
    v1: bool,
}

impl Limits {
    /// `None`, with a line that says why, where the kernel counts no memory.
    fn of(pod: &Pod, id: &str) -> Option<Self> {
        let group = Cgroup::open(Path::new(&format!("{}/{}/{id}", pod.cgroup, pod.sandbox))).expect("is there");
        let limits = Self { v1: group.version() == Version::V1, group };
        if limits.group.figures().is_ok_and(|figures| figures.memory.max_usage.is_none()) {
            eprintln!("skipped: no memory controller here");
            return None;
        }
        Some(limits)
    }

    fn memory(&self) -> u64 {
        self.group.figures().expect("reads").limits.memory_bytes
    }

    /// Memory and swap together.
    fn both(&self) -> u64 {
        let limits = self.group.figures().expect("reads").limits;
        if self.v1 { limits.memory_swap_bytes } else { limits.memory_bytes + limits.memory_swap_bytes }
    }

    fn shares(&self) -> u64 {
        self.group.figures().expect("reads").limits.cpu_shares
    }
}

fn update(client: &mut Client, id: &str, resources: &Value) -> Result<Answer, Failure> {
    let resources = serde_json::from_value(resources.clone()).expect("resources");
    client.call(Request::UpdateResources {
        container: id.to_owned(),
        resources: Box::new(resources),
        oom_score_adj: None,
    })
}

#[test]
fn memory_and_swap_grow_and_shrink_in_an_order_that_the_kernel_takes() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.program("c", &["/bin/sleep", "300"]));
    if let Some(limits) = Limits::of(&pod, "c") {
        for (memory, both) in [(64, 64), (128, 256), (32, 32), (256, 256), (16, 64)] {
            let wanted = json!({ "memory": { "limit": memory * MIB, "swap": both * MIB } });
            assert_eq!(update(&mut client, "c", &wanted), Ok(Answer::Done), "{memory} {both}");
            assert_eq!((limits.memory(), limits.both()), (memory * MIB, both * MIB));
        }
        let shares = limits.shares();
        assert_eq!(
            update(&mut client, "c", &json!({ "cpu": { "quota": 20_000, "period": 10_000 } })),
            Ok(Answer::Done)
        );
        assert_eq!(update(&mut client, "c", &json!({ "cpu": { "quota": 5_000, "period": 50_000 } })), Ok(Answer::Done));
        let told = limits.group.figures().expect("reads").limits;
        assert_eq!((told.cpu_quota_micros, told.cpu_period_micros), (5_000, 50_000));
        assert_eq!((limits.memory(), limits.shares()), (16 * MIB, shares), "what isn't named stays");
    }
    pod.end(client);
}

#[test]
fn less_than_is_in_use_is_refused_with_figures_and_all_is_as_before() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    // A variable of 24 MiB that stays.
    let script = "x=$(head -c 25165824 /dev/zero | tr '\\0' a); echo full; sleep 300; true";
    client.run(pod.container("c", script));
    until("the variable is full", || pod.log("c").iter().any(|line| line.ends_with("full")));
    if let Some(limits) = Limits::of(&pod, "c") {
        let (memory, shares) = (limits.memory(), limits.shares());
        let wanted = json!({ "cpu": { "shares": 300 }, "memory": { "limit": 8 * MIB } });
        let refused = update(&mut client, "c", &wanted).expect_err("refused");
        assert_eq!(refused.kind, FailureKind::Refused, "{refused:?}");
        assert!(refused.message.contains("8388608") && refused.message.contains("in use"), "{refused:?}");
        assert_eq!((limits.memory(), limits.shares()), (memory, shares));
        // The last write fails: what was written before it is put back.
        let wanted = json!({ "memory": { "limit": 512 * MIB }, "cpu": { "shares": 300, "cpus": "4000" } });
        let refused = update(&mut client, "c", &wanted).expect_err("refused");
        assert_eq!(refused.kind, FailureKind::Invalid, "{refused:?}");
        assert!(refused.message.contains("cpuset.cpus") && refused.message.contains("4000"), "{refused:?}");
        assert_eq!((limits.memory(), limits.shares()), (memory, shares));
        let wrong = json!({ "memory": { "limit": 512 * MIB, "swap": 256 * MIB } });
        if limits.v1 {
            assert_eq!(update(&mut client, "c", &wrong).expect_err("refused").kind, FailureKind::Invalid);
        }
    }
    pod.end(client);
}

#[test]
fn one_that_is_created_can_be_changed_and_one_that_has_ended_not() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.create(pod.container("c", "cat /proc/self/oom_score_adj"));
    let resources = serde_json::from_value(json!({ "memory": { "limit": 32 * MIB } })).expect("resources");
    let request =
        Request::UpdateResources { container: "c".into(), resources: Box::new(resources), oom_score_adj: Some(321) };
    assert_eq!(client.call(request), Ok(Answer::Done));
    if let Some(limits) = Limits::of(&pod, "c") {
        assert_eq!(limits.memory(), 32 * MIB);
    }
    client.call(Request::StartContainer { container: "c".into() }).expect("starts");
    assert_eq!(client.container_exit("c").code, 0);
    assert_eq!(pod.log("c"), ["stdout F 321"]);
    let late = update(&mut client, "c", &json!({ "cpu": { "shares": 300 } })).expect_err("has ended");
    assert_eq!(late.kind, FailureKind::Refused, "{late:?}");
    let none = update(&mut client, "none", &json!({})).expect_err("isn't there");
    assert_eq!(none.kind, FailureKind::NotFound, "{none:?}");
    pod.end(client);
}

#[test]
fn the_score_of_every_process_changes() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.container("c", "sleep 300 & sleep 300"));
    let group = Cgroup::open(Path::new(&format!("{}/{}/c", pod.cgroup, pod.sandbox))).expect("is there");
    until("both are there", || group.pids().is_ok_and(|pids| pids.len() >= 2));
    let resources = Box::new(serde_json::from_value(json!({})).expect("resources"));
    let request = Request::UpdateResources { container: "c".into(), resources, oom_score_adj: Some(456) };
    assert_eq!(client.call(request), Ok(Answer::Done));
    for pid in group.pids().expect("lists") {
        let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("reads");
        assert_eq!(score.trim(), "456");
    }
    pod.end(client);
}

#[test]
fn the_pod_s_own_group_can_be_limited_and_no_other() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    let mut limit = |cgroup: String| {
        let resources = serde_json::from_value(json!({ "memory": { "limit": 64 * MIB } })).expect("resources");
        client.call(Request::UpdateSandbox { cgroup, resources: Box::new(resources) })
    };
    let own = format!("{}/{}", pod.cgroup, pod.sandbox);
    assert_eq!(limit(own.clone()), Ok(Answer::Done));
    for other in [format!("{}/supervisors", pod.cgroup), "/".to_owned(), String::new(), format!("{own}/../x")] {
        assert_eq!(limit(other.clone()).expect_err("refused").kind, FailureKind::Refused, "{other:?}");
    }
    let group = Cgroup::open(Path::new(&own)).expect("is there");
    if group.figures().is_ok_and(|figures| figures.memory.max_usage.is_some()) {
        assert_eq!(group.figures().expect("reads").limits.memory_bytes, 64 * MIB);
    }
    pod.end(client);
}
