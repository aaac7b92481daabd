//! Pause, and containers that share its namespaces.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use runtime_oci::{Pause, PidNamespace, PodSpec, Processes, Progress, SeccompChoice, spawn_pause};
use runtime_sys::process::{
    Ended, Limit, Resource, pidfd_open, pidfd_send_signal, resource_limit, set_resource_limit, wait,
};
use runtime_sys::sync::readable;
use serde_json::json;

use crate::Test;
use crate::support::{Fixture, launch, spec, start};

pub(crate) const TESTS: &[Test] = &[
    ("pause_is_confined", confined),
    ("pause_ends_on_a_signal", ends),
    ("containers_share_the_pod", shared),
    ("a_shared_process_namespace_is_reaped_by_pause", reaped),
    ("a_process_that_can_not_be_held_does_not_run", not_held),
    ("a_target_that_is_gone_is_named", gone),
    ("a_parameter_of_the_host_is_refused", refused),
    ("how_fast_is_pause", speed),
];

fn pod(this: &Fixture, pid: PidNamespace) -> PodSpec {
    PodSpec {
        hostname: "podname".to_owned(),
        network: true,
        ipc: true,
        pid,
        cgroup: this.cgroup("pause"),
        sysctls: vec![("net.ipv4.ip_unprivileged_port_start".to_owned(), "81".to_owned())],
        shm_bytes: 1024 * 1024,
        users: None,
    }
}

fn end(pause: Pause) {
    pidfd_send_signal(pause.process.pidfd.as_fd(), 9).expect("kills");
    wait(pause.process.pidfd.as_fd()).expect("waits");
    pause.cgroup.remove().expect("removes");
}

fn confined() {
    let this = Fixture::new();
    let pause = spawn_pause(&pod(&this, PidNamespace::Shared)).expect("starts");
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", pause.process.pid)).expect("reads");
    // The filter is loaded right after the report.
    let begun = Instant::now();
    while !read("status").contains("Seccomp:\t2") && begun.elapsed() < Duration::from_secs(5) {
        std::thread::yield_now();
    }
    let status = read("status");
    for line in [
        "Name:\tpause",
        "Uid:\t65535\t65535\t65535\t65535",
        "Gid:\t65535\t65535\t65535\t65535",
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NSpid:",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert_eq!(read("mountinfo").lines().count(), 1, "{}", read("mountinfo"));
    let root = format!("/proc/{}/root", pause.process.pid);
    assert_eq!(fs::read_dir(root).expect("reads").count(), 0);
    assert_eq!(fs::read_dir(format!("/proc/{}/fd", pause.process.pid)).expect("reads").count(), 0);
    assert!(!read("environ").contains('='), "{:?}", read("environ"));
    assert!(read("cmdline").trim_matches('\0').is_empty(), "{:?}", read("cmdline"));
    end(pause);
}

fn ends() {
    let this = Fixture::new();
    for signal in [15, 2] {
        let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
        pidfd_send_signal(pause.process.pidfd.as_fd(), signal).expect("signals");
        assert!(readable(pause.process.pidfd.as_fd(), Duration::from_secs(10)).expect("polls"));
        assert_eq!(wait(pause.process.pidfd.as_fd()).expect("waits"), Ended::Exited(0));
        pause.cgroup.remove().expect("removes");
    }
}

fn shared() {
    let this = Fixture::new();
    let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
    let script = "echo $$; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ip addr show lo | grep -c 127.0.0.1; \
                  ls /sys/class/net | tr '\\n' ' '; echo x >> /dev/shm/f; cat /dev/shm/f; grep -c . /proc/self/mountinfo; \
                  dd if=/dev/zero of=/dev/shm/full bs=1M count=2 2>&1 | grep -o 'No space'";
    let value = spec(&this, script);
    for times in 1..=2 {
        let running =
            start(&this, &value, SeccompChoice::RuntimeDefault, pause.joins().expect("copies")).expect("starts");
        let text = running.finish().output;
        let expected = format!("1\npodname\n81\n1\nlo {}", "x\n".repeat(times));
        assert!(text.starts_with(&expected) && text.contains("No space"), "{text}");
    }
    end(pause);
}

fn reaped() {
    let this = Fixture::new();
    let pause = spawn_pause(&pod(&this, PidNamespace::Shared)).expect("starts");
    let mut value =
        spec(&this, "(sleep 0.1 & ) ; cat /proc/1/comm; sleep 0.5; ls /proc | grep -c '^[0-9]'; ls /proc/1/root/ 2>&1");
    value["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
    let joins = pause.joins().expect("copies");
    let text = start(&this, &value, SeccompChoice::RuntimeDefault, joins).expect("starts").finish().output;
    // pause, the shell, ls and grep: the orphan is gone.
    assert!(text.starts_with("pause\n4\n"), "{text}");
    end(pause);
}

/// Without a pidfd nobody would hear of its end.
fn not_held() {
    let this = Fixture::new();
    let pause = spawn_pause(&pod(&this, PidNamespace::Shared)).expect("starts");
    let mut value = spec(&this, "exec sleep 1000");
    value["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
    let mut launching = launch(&this, &value, pause.joins().expect("copies"));
    let cgroup = launching.cgroup();
    // The socket's end: the program runs.
    assert!(readable(launching.descriptor(), Duration::from_secs(20)).expect("polls"));
    let [pid] = cgroup.pids().expect("lists").try_into().expect("one process");
    let process = pidfd_open(pid).expect("opens");
    let files = Resource::named("RLIMIT_NOFILE").expect("is one");
    let limit = resource_limit(files).expect("reads");
    set_resource_limit(files, Limit { soft: 3, ..limit }).expect("sets");
    let progress = launching.advance();
    set_resource_limit(files, limit).expect("sets");
    let Progress::Failed(error) = progress else { panic!("{progress:?}") };
    let text = format!("{error}");
    assert!(text.contains("get hold of the new process") && text.contains("pidfd_open"), "{text}");
    assert!(readable(process.as_fd(), Duration::from_secs(10)).expect("polls"), "it runs on");
    assert_eq!(wait(process.as_fd()).expect("waits"), Ended::Signalled(9));
    drop(launching);
    cgroup.remove().expect("removes");
    end(pause);
}

fn gone() {
    let this = Fixture::new();
    let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
    let joins = pause.joins().expect("copies");
    let target = start(&this, &spec(&this, "exec sleep 1000"), SeccompChoice::RuntimeDefault, joins).expect("starts");
    let mut value = spec(&this, "true");
    value["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
    value["linux"]["cgroupsPath"] = json!(this.cgroup("debugger"));
    let joins = || pause.joins_for(Processes::Of(target.process.pidfd.as_fd())).expect("copies");
    let finished = start(&this, &value, SeccompChoice::RuntimeDefault, joins()).expect("starts").finish();
    assert_eq!(finished.ended, Ended::Exited(0));
    let joins = joins();
    target.kill();
    let error = start(&this, &value, SeccompChoice::RuntimeDefault, joins).err().expect("there is nothing to join");
    assert_eq!(error.to_string(), "the container whose processes it is to see has ended");
    end(pause);
}

fn refused() {
    let this = Fixture::new();
    let mut spec = pod(&this, PidNamespace::Own);
    spec.sysctls = vec![("kernel.core_pattern".to_owned(), "x".to_owned())];
    let error = spawn_pause(&spec).expect_err("refuses");
    assert!(error.to_string().contains("kernel.core_pattern"), "{error}");
    let mut spec = pod(&this, PidNamespace::Own);
    spec.network = false;
    assert!(spawn_pause(&spec).is_err());
}

fn speed() {
    let this = Fixture::new();
    let mut times = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
        times.push(begun.elapsed());
        end(pause);
    }
    times.sort();
    eprintln!("pause: {:?} at best, {:?} in the middle", times[0], times[10]);
    assert!(times[10] < Duration::from_millis(500));
}
