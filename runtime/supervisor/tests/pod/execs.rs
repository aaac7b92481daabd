//! Execs and their ends.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use runtime_wire::{Answer, FailureKind, PidMode, Request};

use crate::harness::{Pod, may_run, text, until};

/// A pod with a container that sleeps.
fn sleeper() -> (Pod, crate::harness::Client) {
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.container("c1", "sleep 1000"));
    (pod, client)
}

#[test]
fn an_exec_runs_in_the_container_and_its_end_is_told() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = sleeper();
    let (exit, stdout, stderr) =
        client.exec(pod.exec("x1", "c1", &["/bin/sh", "-c", "echo out; echo err >&2; ls /; exit 3"]));
    assert_eq!((exit.code, exit.signal), (3, None));
    assert_eq!(stdout, "out\nbin\ndev\netc\nproc\nsys\ntmp\n");
    assert_eq!(stderr, "err\n");
    let (exit, stdout, _) = client.exec(pod.exec(
        "x2",
        "c1",
        &["/bin/sh", "-c", "ls /proc > /tmp/list; grep -c '^[0-9]' /tmp/list; kill -9 $$"],
    ));
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert_eq!(stdout.trim(), "3", "the container's processes: sleep, the shell and ls");

    let (call, _stdout, _stderr) = client.begin_exec(pod.exec("x3", "c1", &["/bin/nope"]));
    let failure = client.wait(call).expect_err("not there");
    assert_eq!(failure.kind, FailureKind::CannotExecute, "{}", failure.message);
    assert!(failure.message.contains("/bin/nope"), "{}", failure.message);
    let (call, _stdout, _stderr) = client.begin_exec(pod.exec("x4", "nobody", &["/bin/true"]));
    assert_eq!(client.wait(call).expect_err("nobody").kind, FailureKind::NotFound);
    until("no exec has left a cgroup", || !pod.cgroup_directories().iter().any(|path| path.ends_with("x1")));
    pod.end(client);
}

#[test]
fn standard_input_reaches_an_exec() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = sleeper();
    let mut spec = pod.exec("x1", "c1", &["/bin/cat"]);
    spec.stdin = true;
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let (stdout, stdout_writer) = io::pipe().expect("a pipe");
    let (stderr, stderr_writer) = io::pipe().expect("a pipe");
    let ends = [reader.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()];
    let call = client.send(Request::Exec(Box::new(spec)), &ends);
    drop((reader, stdout_writer, stderr_writer));
    assert!(client.wait(call).is_ok());
    writer.write_all(b"typed\n").expect("writes");
    drop(writer);
    assert_eq!(client.exec_exit("x1").code, 0);
    assert_eq!((text(stdout), text(stderr)), ("typed\n".into(), String::new()));
    pod.end(client);
}

#[test]
fn what_an_exec_left_in_the_background_dies_with_it() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = sleeper();
    let before = pod.processes().len();
    let script = "(trap '' TERM HUP; sleep 300) & sleep 301 & echo started";
    let (exit, stdout, _) = client.exec(pod.exec("x1", "c1", &["/bin/sh", "-c", script]));
    assert_eq!((exit.code, stdout.as_str()), (0, "started\n"), "the pipe ends though a child held it");
    until("its processes are gone", || pod.processes().len() == before);
    pod.end(client);
}

#[test]
fn an_exec_is_killed_whole_on_demand_and_when_its_node_goes() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = sleeper();
    let before = pod.processes().len();
    let script = "trap '' TERM HUP; sleep 300 & sleep 301 & while :; do sleep 1; done";
    let (call, stdout, _stderr) = client.begin_exec(pod.exec("x1", "c1", &["/bin/sh", "-c", script]));
    assert!(client.wait(call).is_ok());
    assert_eq!(client.call(Request::KillExec { exec: "x1".into() }), Ok(Answer::Done));
    assert_eq!(client.exec_exit("x1").code, 137);
    assert_eq!(text(stdout), "");
    until("its processes are gone", || pod.processes().len() == before);

    let mut other = pod.greet();
    let (call, stdout, _stderr) = other.begin_exec(pod.exec("x2", "c1", &["/bin/sh", "-c", script]));
    assert!(other.wait(call).is_ok());
    drop(other);
    assert_eq!(text(stdout), "", "ends, though nobody asked for it");
    until("its processes are gone", || pod.processes().len() == before);
    assert!(client.events.is_empty(), "the end of an exec is its connection's alone: {:?}", client.events);
    pod.end(client);
}

#[test]
fn a_terminal_comes_with_the_answer() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = sleeper();
    let mut spec = pod.exec("x1", "c1", &["/bin/sh", "-c", "tty; read word; echo got $word; exit 5"]);
    spec.tty = true;
    spec.process.set_terminal(Some(true));
    let call = client.send(Request::Exec(Box::new(spec)), &[]);
    assert!(client.wait(call).is_ok());
    let mut master = File::from(client.descriptor());
    master.write_all(b"word\n").expect("types");
    assert_eq!(client.exec_exit("x1").code, 5);
    let mut shown = Vec::new();
    // EIO at the end: nobody holds the other end any more.
    drop(master.read_to_end(&mut shown));
    let shown = String::from_utf8(shown).expect("text");
    assert!(shown.contains("/dev/pts/") && shown.contains("got word\r\n"), "{shown:?}");
    pod.end(client);
}

#[test]
fn there_are_at_most_64_execs_and_all_leave_nothing() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = sleeper();
    let (descriptors, processes) = (pod.descriptors(), pod.processes().len());
    let mut pipes = Vec::new();
    for number in 0..64 {
        let (call, stdout, stderr) = client.begin_exec(pod.exec(&format!("x{number}"), "c1", &["/bin/sleep", "300"]));
        assert!(client.wait(call).is_ok(), "exec {number}");
        pipes.push((stdout, stderr));
    }
    let (call, _stdout, _stderr) = client.begin_exec(pod.exec("over", "c1", &["/bin/true"]));
    assert_eq!(client.wait(call).expect_err("too many").kind, FailureKind::Refused);
    for number in 0..64 {
        assert_eq!(client.call(Request::KillExec { exec: format!("x{number}") }), Ok(Answer::Done));
    }
    for number in 0..64 {
        assert_eq!(client.exec_exit(&format!("x{number}")).code, 137);
    }
    until("all are gone", || pod.processes().len() == processes && pod.descriptors() == descriptors);
    for number in 0..200 {
        let (exit, stdout, _) = client.exec(pod.exec(&format!("y{number}"), "c1", &["/bin/echo", "hello"]));
        assert_eq!((exit.code, stdout.as_str()), (0, "hello\n"));
    }
    until("no descriptor is kept", || pod.descriptors() == descriptors);
    pod.end(client);
}
