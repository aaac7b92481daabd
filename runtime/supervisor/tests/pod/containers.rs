//! From `CreateSandbox` to `Quit`.

use std::fs;
use std::os::fd::AsRawFd;
use std::process::Command;

use runtime_oci::ContainerCgroup;
use runtime_wire::{Answer, ContainerState, Event, Exit, FailureKind, Phase, PidMode, Request, State};

use crate::harness::{Pod, may_run, until};

#[test]
fn a_container_runs_writes_its_log_and_leaves_its_exit_code() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.container("c1", "echo one; echo two >&2; echo $$; printf three; exit 7"));
    let exit = client.container_exit("c1");
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
    let record = pod.record("c1").expect("the record is there before the event");
    assert_eq!(record.exit, exit);
    assert!(record.started_unix_nanos > 0 && record.started_unix_nanos <= exit.at_unix_nanos);
    let mut lines = pod.log("c1");
    lines.sort();
    assert_eq!(lines, ["stderr F two", "stdout F 1", "stdout F one", "stdout P three"]);
    until("the container's cgroup is gone", || !pod.cgroup_directories().iter().any(|path| path.ends_with("c1")));
    pod.end(client);
}

#[test]
fn exit_codes_are_those_of_a_shell() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Pod);
    let mut code = |id: &str, script: &str| {
        client.run(pod.container(id, script));
        let Exit { code, signal, .. } = client.container_exit(id);
        (code, signal)
    };
    assert_eq!(code("zero", "true"), (0, None));
    assert_eq!(code("one", "exit 255"), (255, None));
    assert_eq!(code("kill", "kill -9 $$"), (137, Some(9)));
    assert_eq!(code("term", "kill -15 $$"), (143, Some(15)));
    assert_eq!(code("real-time", "kill -40 $$"), (168, Some(40)));
    for (id, signal, every_process, code) in [("s1", 15, false, 143), ("s2", 9, true, 137)] {
        client.run(pod.program(id, &["/bin/sleep", "300"]));
        let call = Request::Signal { container: id.into(), signal, every_process };
        assert_eq!(client.call(call.clone()), Ok(Answer::Done));
        assert_eq!(client.container_exit(id).code, code);
        assert_eq!(client.call(call), Ok(Answer::Done), "nothing happens to one that has ended");
    }
    pod.end(client);
}

#[test]
fn what_cannot_be_executed_says_so_and_ends_with_128() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.create(pod.program("c1", &["/bin/nope"]));
    let failure = client.call(Request::StartContainer { container: "c1".into() }).expect_err("not there");
    assert_eq!(failure.kind, FailureKind::CannotExecute);
    assert!(failure.message.contains("/bin/nope") && failure.message.contains("no such file"), "{}", failure.message);
    assert_eq!(client.container_exit("c1").code, 128);
    assert_eq!(pod.record("c1").map(|record| (record.exit.code, record.started_unix_nanos)), Some((128, 0)));
    let again = client.call(Request::StartContainer { container: "c1".into() }).expect_err("over");
    assert_eq!(again.kind, FailureKind::Refused);

    client.create(pod.program("c2", &["/etc"]));
    let failure = client.call(Request::StartContainer { container: "c2".into() }).expect_err("a directory");
    assert_eq!(failure.kind, FailureKind::CannotExecute, "{}", failure.message);
    client.container_exit("c2");
    pod.end(client);
}

#[test]
fn requests_in_the_wrong_state_are_refused_and_repetitions_answer_the_same() {
    if !may_run() {
        return;
    }
    let pod = Pod::start();
    let mut client = pod.greet();
    let kind = |outcome: Result<Answer, runtime_wire::Failure>| outcome.expect_err("refused").kind;
    assert_eq!(client.call(Request::StopSandbox), Ok(Answer::Done), "nothing to stop");
    assert_eq!(kind(client.call(Request::Sandbox)), FailureKind::NotFound);
    let early = client.call(Request::CreateContainer(Box::new(pod.container("early", "true"))));
    assert_eq!(kind(early), FailureKind::Refused);

    let spec = pod.sandbox_spec(PidMode::Container);
    let made = client.call(Request::CreateSandbox(Box::new(spec.clone()))).expect("made");
    let network = client.descriptor();
    assert_eq!(client.call(Request::CreateSandbox(Box::new(spec.clone()))), Ok(made.clone()));
    assert_eq!(client.call(Request::Sandbox), Ok(made.clone()));
    let Answer::Sandbox { pause } = made else { panic!("no sandbox") };
    let name = |path: String| fs::read_link(path).expect("a namespace");
    let theirs = name(format!("/proc/{}/ns/net", pause.pid));
    for descriptor in [network, client.descriptor(), client.descriptor()] {
        assert_eq!(name(format!("/proc/self/fd/{}", descriptor.as_raw_fd())), theirs);
    }
    assert_ne!(theirs, name("/proc/self/ns/net".into()));
    let other = runtime_wire::SandboxSpec { id: "other".into(), ..spec };
    assert_eq!(kind(client.call(Request::CreateSandbox(Box::new(other)))), FailureKind::Refused);

    let start = |container: &str| Request::StartContainer { container: container.into() };
    assert_eq!(kind(client.call(start("nobody"))), FailureKind::NotFound);
    client.create(pod.container("c1", "sleep 300"));
    let twice = client.call(Request::CreateContainer(Box::new(pod.container("c1", "true"))));
    assert_eq!(kind(twice), FailureKind::Refused);
    let unstarted = client.call(Request::Signal { container: "c1".into(), signal: 9, every_process: false });
    assert_eq!(kind(unstarted), FailureKind::Refused);
    let started = client.call(start("c1")).expect("starts");
    assert_eq!(client.call(start("c1")), Ok(started));
    assert_eq!(kind(client.call(Request::RemoveContainer { container: "c1".into() })), FailureKind::Refused);
    assert_eq!(kind(client.call(Request::Quit)), FailureKind::Refused);
    let wrong = client.call(Request::Signal { container: "c1".into(), signal: 0, every_process: false });
    assert_eq!(kind(wrong), FailureKind::Invalid);
    let hostile = client.call(Request::CreateContainer(Box::new(pod.container("../x", "true"))));
    assert_eq!(kind(hostile), FailureKind::Invalid);
    assert_eq!(kind(client.call(Request::KillExec { exec: "nobody".into() })), FailureKind::NotFound);
    assert_eq!(kind(client.call(Request::Unknown)), FailureKind::Unknown);
    pod.end(client);
}

#[test]
fn a_missing_volume_source_is_named_and_leaves_nothing() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    let with = |id: &str, source: &str| {
        let mut spec = pod.container(id, "cat /tmp/data/word");
        let mount = serde_json::json!({ "destination": "/tmp/data", "type": "bind", "source": source,
                                        "options": ["rbind", "ro"] });
        let mut mounts = spec.spec.mounts().clone().expect("mounts");
        mounts.push(serde_json::from_value(mount).expect("a mount"));
        spec.spec.set_mounts(Some(mounts));
        spec
    };
    let failure = client.call(Request::CreateContainer(Box::new(with("c1", "/no/such/place")))).expect_err("missing");
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(failure.message.contains("/no/such/place"), "{}", failure.message);
    let State { containers, .. } = pod.greet().state.expect("greeted");
    assert_eq!(containers, []);

    let data = pod.directory.join("data");
    fs::create_dir(&data).expect("makes a directory");
    fs::write(data.join("word"), "from a volume\n").expect("writes");
    client.run(with("c2", data.to_str().expect("text")));
    assert_eq!(client.container_exit("c2").code, 0);
    assert_eq!(pod.log("c2"), ["stdout F from a volume"]);
    pod.end(client);
}

#[test]
fn everything_in_a_container_dies_with_its_first_process() {
    if !may_run() {
        return;
    }
    // In a shared namespace the kernel does not do it.
    let (pod, mut client) = Pod::with_sandbox(PidMode::Pod);
    let pause = pod.processes();
    client.run(pod.container("c1", "sleep 300 & sleep 301 & (sleep 302 &) ; echo started; exit 3"));
    assert_eq!(client.container_exit("c1").code, 3);
    assert_eq!(pod.log("c1"), ["stdout F started"]);
    assert_eq!(pod.processes(), pause);
    pod.end(client);
}

#[test]
fn the_out_of_memory_killer_is_told() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    let mut spec = pod.container("c1", "exec dd if=/dev/zero of=/dev/null bs=200M count=1");
    let resources = serde_json::json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } });
    let resources = serde_json::from_value(resources).expect("resources");
    spec.spec.linux_mut().as_mut().expect("linux").set_resources(Some(resources));
    client.run(spec);
    let exit = client.container_exit("c1");
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    client.event(|event| matches!(event, Event::OomKilled { container } if container == "c1").then_some(()));
    pod.end(client);
}

#[test]
fn without_pause_nothing_is_started() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.create(pod.container("c1", "true"));
    let Ok(Answer::Sandbox { pause }) = client.call(Request::Sandbox) else { panic!("no sandbox") };
    runtime_sys::process::kill(pause.pid, 9).expect("kills");
    client.event(|event| matches!(event, Event::SandboxExited).then_some(()));
    let failure = client.call(Request::StartContainer { container: "c1".into() }).expect_err("no pause");
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(failure.message.contains("pause"), "{}", failure.message);
    pod.end(client);
}

#[test]
fn a_sandbox_is_stopped_whatever_its_containers_do() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.create(pod.container("idle", "true"));
    client.run(pod.container("deaf", "trap '' TERM INT HUP; while :; do sleep 1; done"));
    client.run(pod.container("forks", "while :; do (sleep 100 &) ; done"));
    client.run(pod.container("stopped", "kill -STOP $$; sleep 300"));
    let (call, _stdout, _stderr) = client.begin_exec(pod.exec("x", "deaf", &["/bin/sleep", "300"]));
    assert!(client.wait(call).is_ok());
    assert_eq!(client.call(Request::StopSandbox), Ok(Answer::Done));
    for id in ["deaf", "forks", "stopped"] {
        assert_eq!(client.container_exit(id).code, 137, "{id}");
    }
    assert_eq!(client.exec_exit("x").code, 137);
    client.event(|event| matches!(event, Event::SandboxExited).then_some(()));
    let State { containers, .. } = pod.greet().state.expect("greeted");
    let exited = |state: &&ContainerState| matches!(state.phase, Phase::Exited { .. });
    assert_eq!(containers.iter().filter(exited).count(), 3, "it answers for exit codes");
    pod.end(client);
}

#[test]
fn orphans_in_the_hosts_process_namespace_are_reaped() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Node);
    // Each shell in between ends at once, so its child becomes the supervisor's.
    client.run(pod.container("c1", "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done; echo begun; sleep 1000"));
    until("it has begun", || pod.log("c1") == ["stdout F begun"]);
    let children = || {
        let path = format!("/proc/{0}/task/{0}/children", pod.process.id());
        fs::read_to_string(path).expect("reads").split_whitespace().count()
    };
    until("only pause and the container are left", || children() == 2);
    pod.end(client);
}

#[test]
fn what_does_not_end_is_named() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.container("c1", "sleep 1000"));
    // A frozen ancestor is out of the supervisor's reach: nothing in it can die, as if it slept on a dead file server.
    let frozen = ContainerCgroup::open(&format!("{}/{}", pod.cgroup, pod.sandbox)).expect("opens");
    frozen.freeze().expect("freezes");
    let failure = client.call(Request::StopSandbox).expect_err("can't be stopped");
    frozen.thaw().expect("thaws");
    assert_eq!(failure.kind, FailureKind::DeadlineExceeded);
    // By pid and state; its name may still be `exe`, by which busybox executes itself.
    assert!(failure.message.contains("uninterruptible sleep (D)"), "{}", failure.message);
    pod.end(client);
}

#[test]
fn a_removal_waits_for_what_is_still_dying() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.create(pod.container("c1", "true"));
    // As after a start that was given up: the container doesn't run, a process in its cgroup is killed and not yet gone.
    let mut dying = Command::new("/bin/busybox").args(["sleep", "1000"]).spawn().expect("starts");
    for directory in pod.cgroup_directories().iter().filter(|directory| directory.ends_with("c1")) {
        fs::write(directory.join("cgroup.procs"), dying.id().to_string()).expect("moves it");
    }
    let frozen = ContainerCgroup::open(&format!("{}/{}", pod.cgroup, pod.sandbox)).expect("opens");
    frozen.freeze().expect("freezes");
    let calls = [(); 2].map(|()| client.send(Request::RemoveContainer { container: "c1".into() }, &[]));
    assert!(client.call(Request::Sandbox).is_ok(), "others are served meanwhile");
    drop(client.descriptor());
    frozen.thaw().expect("thaws");
    for call in calls {
        assert_eq!(client.wait(call), Ok(Answer::Done));
    }
    assert!(!dying.wait().expect("waits").success(), "it was killed");
    assert!(pod.cgroup_directories().iter().all(|directory| !directory.ends_with("c1")));
    pod.end(client);
}
