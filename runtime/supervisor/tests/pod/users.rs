//! Pods with a user namespace, and containers that see another's processes.

use std::os::unix::fs::chown;

use runtime_wire::{ContainerSpec, FailureKind, IdMappings, IdRange, PidMode, Request, Root};

use crate::harness::{Pod, may_run};

/// Of nobody else on this machine.
const OUTSIDE: u32 = 1_900_000_000;

const RANGE: IdRange = IdRange { container: 0, host: OUTSIDE, length: 65_536 };

/// As the engine does it.
fn given(spec: ContainerSpec) -> ContainerSpec {
    let Root::Overlay { upper, .. } = &spec.root;
    chown(upper, Some(OUTSIDE), Some(OUTSIDE)).expect("gives the writable layer away");
    spec
}

/// Without a process-id namespace of its own.
fn joining(mut spec: ContainerSpec, target: Option<&str>) -> ContainerSpec {
    let linux = spec.spec.linux_mut().as_mut().expect("has it");
    let kept =
        linux.namespaces().iter().flatten().filter(|one| one.typ() != oci_spec::runtime::LinuxNamespaceType::Pid);
    let kept = kept.cloned().collect();
    linux.set_namespaces(Some(kept));
    spec.pid_target = target.map(ToOwned::to_owned);
    spec
}

#[test]
fn a_container_and_an_exec_are_in_the_pods_user_namespace() {
    if !may_run() {
        return;
    }
    let pod = Pod::start();
    let mut client = pod.greet();
    let mut spec = pod.sandbox_spec(PidMode::Container);
    spec.user = Some(IdMappings { uids: RANGE, gids: RANGE });
    client.call(Request::CreateSandbox(Box::new(spec))).expect("makes the sandbox");
    drop(client.descriptor());
    client.run(given(pod.container("c1", "cat /proc/self/uid_map | tr -s ' '; echo again > /dev/stdout; echo $$")));
    assert_eq!(client.container_exit("c1").code, 0);
    let log = pod.log("c1");
    assert_eq!(log, [format!("stdout F  0 {OUTSIDE} 65536"), "stdout F again".into(), "stdout F 1".into()]);
    // The process that made the mounts is reaped and stays unnoticed; so does one that fails on its way.
    client.call(Request::CreateContainer(Box::new(given(pod.program("c2", &["/no/such/program"]))))).expect("is made");
    let refused =
        client.call(Request::StartContainer { container: "c2".into() }).expect_err("there is no such program");
    assert_eq!(refused.kind, FailureKind::CannotExecute, "{refused:?}");
    assert_eq!(client.container_exit("c2").code, 128);
    pod.end(client);
}

#[test]
fn a_container_joins_the_processes_of_another_that_runs() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.program("app", &["/bin/sleep", "300"]));
    client.run(joining(pod.container("debug", "cat /proc/1/cmdline | tr '\\000' ' '; echo"), Some("app")));
    client.container_exit("debug");
    client.call(Request::Signal { container: "app".into(), signal: 9, every_process: true }).expect("is sent");
    assert_eq!(client.container_exit("app").signal, Some(9));
    assert_eq!(pod.log("debug")[0], "stdout F /bin/sleep 300 ");
    for (id, target, kind) in [("late", "app", FailureKind::Refused), ("stray", "nobody", FailureKind::NotFound)] {
        let spec = joining(pod.container(id, "true"), Some(target));
        let refused = client.call(Request::CreateContainer(Box::new(spec))).expect_err("has no target");
        assert_eq!(refused.kind, kind, "{refused:?}");
    }
    // Without a target, the pause process's.
    client.run(joining(pod.container("pods", "cat /proc/1/comm"), None));
    client.container_exit("pods");
    assert_eq!(pod.log("pods"), ["stdout F pause"]);
    pod.end(client);
}

#[test]
fn containers_of_a_pod_with_a_user_namespace_share_their_processes() {
    if !may_run() {
        return;
    }
    let pod = Pod::start();
    let mut client = pod.greet();
    let mut spec = pod.sandbox_spec(PidMode::Pod);
    spec.user = Some(IdMappings { uids: RANGE, gids: RANGE });
    client.call(Request::CreateSandbox(Box::new(spec))).expect("makes the sandbox");
    drop(client.descriptor());
    client.run(given(joining(pod.container("c1", "cat /proc/1/comm; [ $$ != 1 ] && ls -d /proc/$$"), None)));
    assert_eq!(client.container_exit("c1").code, 0);
    let log = pod.log("c1");
    assert!(log.first().is_some_and(|line| line.ends_with("F pause")), "{log:?}");
    assert!(log.get(1).is_some_and(|line| line.contains("F /proc/")), "{log:?}");
    let mut spec = given(joining(pod.container("c2", "test -t 0 && echo tty; cut -d' ' -f7 /proc/self/stat"), None));
    spec.spec.process_mut().as_mut().expect("a process").set_terminal(Some(true));
    client.run(spec);
    assert_eq!(client.container_exit("c2").code, 0);
    let log = pod.log("c2");
    assert!(log.first().is_some_and(|line| line.contains("F tty")) && !log[1].contains("F 0"), "{log:?}");
    pod.end(client);
}
