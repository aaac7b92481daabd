//! Nodes that misbehave, die and come back.

use std::io;
use std::os::fd::AsFd;

use runtime_wire::{Answer, Call, FRAME_BYTES_MAX, Phase, PidMode, Request, VERSION, encode};

use crate::harness::{Pod, may_run, until};

#[test]
fn a_node_that_comes_back_finds_the_same_state() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.create(pod.container("created", "true"));
    let pid = client.run(pod.container("running", "echo begun; sleep 1000"));
    client.run(pod.container("exited", "exit 9"));
    client.container_exit("exited");
    let Ok(Answer::Sandbox { pause }) = client.call(Request::Sandbox) else { panic!("no sandbox") };
    drop(client);

    let client = pod.greet();
    let state = client.state.clone().expect("greeted");
    let sandbox = state.sandbox.expect("a sandbox");
    assert_eq!((sandbox.id.as_str(), sandbox.pause, sandbox.alive), (pod.sandbox.as_str(), pause, true));
    let phases: Vec<(&str, &Phase)> = state.containers.iter().map(|state| (&*state.id, &state.phase)).collect();
    let [
        ("created", Phase::Created),
        ("running", Phase::Running { process, .. }),
        ("exited", Phase::Exited { exit, .. }),
    ] = phases.as_slice()
    else {
        panic!("{phases:?}")
    };
    assert_eq!((process.pid, exit.code), (pid, 9));
    assert_eq!(pod.record("exited").map(|record| record.exit), Some(exit.clone()));
    pod.end(client);
}

#[test]
fn an_end_while_nobody_listens_is_found_later() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.container("c1", "read line; exit 4"));
    drop(client);
    until("the record is written", || pod.record("c1").is_some());
    let client = pod.greet();
    let state = client.state.clone().expect("greeted");
    let [container] = state.containers.as_slice() else { panic!("{state:?}") };
    assert!(matches!(&container.phase, Phase::Exited { exit, .. } if exit.code == 4), "{container:?}");
    pod.end(client);
}

#[test]
fn a_node_that_dies_in_the_middle_of_a_frame_harms_nobody() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.container("c1", "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo $i; done; sleep 1000"));
    let descriptors = pod.descriptors();
    let call = Call { id: 1, request: Request::CreateContainer(Box::new(pod.container("never", "true"))) };
    let bytes = encode(&call).expect("encodes");
    for cut in [1, 4, 5, bytes.len() / 2, bytes.len() - 1] {
        let mut other = pod.connect();
        other.send_bytes(&bytes[..cut], &[]);
    }
    // Descriptors without a call are closed with the connection.
    let (_reader, writer) = io::pipe().expect("a pipe");
    let mut other = pod.connect();
    other.send_bytes(&bytes[..10], &[writer.as_fd(), writer.as_fd(), writer.as_fd()]);
    drop(other);
    until("their descriptors are closed", || pod.descriptors() == descriptors);
    // The node dies between the call and the answer: what it began goes on.
    let mut other = pod.greet();
    other.send(Request::CreateContainer(Box::new(pod.container("c2", "exit 6"))), &[]);
    other.send(Request::StartContainer { container: "c2".into() }, &[]);
    drop(other);
    assert_eq!(client.container_exit("c2").code, 6);
    until("all is written", || pod.log("c1").len() == 200);
    pod.end(client);
}

#[test]
fn bytes_that_are_no_call_close_that_connection_alone() {
    if !may_run() {
        return;
    }
    let pod = Pod::start();
    let mut client = pod.greet();
    let frame = |body: &[u8]| [&u32::try_from(body.len()).expect("short").to_le_bytes()[..], body].concat();
    let too_long = u32::try_from(FRAME_BYTES_MAX + 1).expect("fits").to_le_bytes().to_vec();
    let exec = encode(&Call { id: 1, request: Request::Exec(Box::new(pod.exec("x", "c1", &["/bin/true"]))) });
    let cases = [
        frame(b"no json"),
        frame(b""),
        frame(br#"{"id":1}"#),
        frame(br#"{"id":1,"request":{"verb":"signal","container":7}}"#),
        too_long,
        u32::MAX.to_le_bytes().to_vec(),
        // No descriptors beside it.
        exec.expect("encodes"),
    ];
    for (number, bytes) in cases.iter().enumerate() {
        let mut other = pod.connect();
        other.send_bytes(bytes, &[]);
        assert!(other.is_closed(), "case {number}");
    }
    assert!(client.call(Request::StopSandbox).is_ok(), "others are still served");
    pod.expect_warnings("closes a connection: the node sent", cases.len());
    pod.end(client);
}

#[test]
fn a_node_that_does_not_read_is_dropped() {
    if !may_run() {
        return;
    }
    let pod = Pod::start();
    let mut client = pod.greet();
    let deaf = pod.connect();
    let hello = encode(&Call { id: 1, request: Request::Hello { version: VERSION } }).expect("encodes");
    until("it is dropped", || {
        runtime_sys::socket::send(deaf.socket.as_fd(), &hello, &[])
            .is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
    });
    let peak = pod.status_kb("VmHWM");
    assert!(peak < 32 * 1024, "the supervisor took {peak} kB");
    assert!(client.call(Request::StopSandbox).is_ok(), "others are still served");
    pod.expect_warnings("does not read", 1);
    pod.end(client);
}

#[test]
fn connections_are_bounded_and_become_free_again() {
    if !may_run() {
        return;
    }
    let pod = Pod::start();
    let client = pod.greet();
    let others: Vec<_> = (1..16).map(|_| pod.greet()).collect();
    assert!(pod.connect().is_closed(), "the seventeenth");
    pod.expect_warnings("there are 16", 1);
    let descriptors = pod.descriptors();
    drop(others);
    until("their places are free", || pod.descriptors() == descriptors - 15);
    let mut again = pod.greet();
    assert!(again.call(Request::StopSandbox).is_ok());
    drop(again);
    pod.end(client);
}

#[test]
fn a_supervisor_stands_apart_from_its_node() {
    if !may_run() {
        return;
    }
    let pod = Pod::start();
    let client = pod.greet();
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", pod.process.id())).expect("reads");
    assert!(of("cgroup").contains(&format!("{}/supervisors\n", pod.cgroup)), "{}", of("cgroup"));
    assert!(of("cmdline").contains(&pod.sandbox[..12]), "ps shows which pod it is: {}", of("cmdline"));
    assert_eq!(of("environ"), "");
    let links = std::fs::read_dir(format!("/proc/{}/fd", pod.process.id())).expect("reads").flatten();
    for link in links.filter_map(|link| std::fs::read_link(link.path()).ok()) {
        let own = ["/dev/null", "socket:", "anon_inode:", "/sys/fs/cgroup", "/proc"];
        let own = own.iter().any(|kind| link.to_string_lossy().starts_with(kind));
        assert!(own || link.ends_with("supervisor.log"), "{link:?} is held open");
    }
    pod.end(client);
}
