//! Clients that join a running container's streams.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use runtime_wire::{Answer, AttachSpec, ContainerSpec, FailureKind, PidMode, Request, Stdin};

use crate::harness::{Client, Pod, may_run, text, until};

/// One attached client.
struct Attached {
    stdout: io::PipeReader,
    stderr: io::PipeReader,
    /// Standard input, or the terminal.
    beside: Option<OwnedFd>,
    terminal: bool,
}

fn attach(client: &mut Client, container: &str, stdin: bool) -> Attached {
    let (stdout, stdout_writer) = io::pipe().expect("a pipe");
    let (stderr, stderr_writer) = io::pipe().expect("a pipe");
    let spec = AttachSpec { container: container.to_owned(), stdin, stdout: true, stderr: true };
    let call = client.send(Request::Attach(spec), &[stdout_writer.as_fd(), stderr_writer.as_fd()]);
    match client.wait(call) {
        Ok(Answer::Attached { terminal, input }) => {
            let beside = if terminal || input { Some(client.descriptor()) } else { None };
            Attached { stdout, stderr, beside, terminal }
        }
        other => panic!("not attached: {other:?}"),
    }
}

fn refused(client: &mut Client, container: &str) -> (FailureKind, String) {
    let (_stdout, writer) = io::pipe().expect("a pipe");
    let spec = AttachSpec { container: container.to_owned(), stdin: false, stdout: true, stderr: false };
    let call = client.send(Request::Attach(spec), &[writer.as_fd()]);
    let failure = client.wait(call).expect_err("is refused");
    (failure.kind, failure.message)
}

fn reader(pod: &Pod, id: &str, stdin: Stdin) -> ContainerSpec {
    let mut spec = pod.container(id, "while read line; do echo out $line; echo err $line >&2; done; echo end");
    spec.stdin = stdin;
    spec
}

fn line(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while byte != [b'\n'] {
        from.read_exact(&mut byte).expect("reads a line");
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).expect("text").trim_end().to_owned()
}

#[test]
fn a_client_types_and_sees_beside_the_log() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(reader(&pod, "c1", Stdin::Open));
    let before = pod.descriptors();
    let mut first = attach(&mut client, "c1", true);
    let mut second = attach(&mut client, "c1", false);
    assert!(!first.terminal && second.beside.is_none());
    let mut input = File::from(first.beside.take().expect("standard input"));
    writeln!(input, "one").expect("types");
    for attached in [&mut first, &mut second] {
        assert_eq!((line(&mut attached.stdout), line(&mut attached.stderr)), ("out one".into(), "err one".into()));
    }
    // A client that goes is forgotten, and what it could write to stays open for the next.
    drop((first, input));
    until("the first client is forgotten", || pod.descriptors() == before + 2);
    let mut third = attach(&mut client, "c1", true);
    let mut input = File::from(third.beside.take().expect("standard input"));
    writeln!(input, "two").expect("types");
    assert_eq!((line(&mut third.stdout), line(&mut second.stdout)), ("out two".into(), "out two".into()));
    drop(input);
    let kill = Request::Signal { container: "c1".into(), signal: 9, every_process: true };
    assert_eq!(client.call(kill), Ok(Answer::Done));
    assert_eq!(client.container_exit("c1").code, 137);
    assert_eq!((text(third.stdout), text(third.stderr)), (String::new(), "err two\n".into()));
    let mut log = pod.log("c1");
    log.sort();
    assert_eq!(log, ["stderr F err one", "stderr F err two", "stdout F out one", "stdout F out two"]);
    pod.end(client);
}

#[test]
fn the_first_clients_end_of_input_is_the_containers_where_it_was_asked_for() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(reader(&pod, "c1", Stdin::Once));
    let mut first = attach(&mut client, "c1", true);
    let mut input = File::from(first.beside.take().expect("standard input"));
    assert!(attach(&mut client, "c1", true).beside.is_none(), "the first has it");
    writeln!(input, "only").expect("types");
    drop(input);
    assert_eq!(text(first.stdout), "out only\nend\n");
    assert_eq!(text(first.stderr), "err only\n");
    assert_eq!(client.container_exit("c1").code, 0);
    pod.end(client);
}

#[test]
fn who_runs_can_be_attached_to_and_nobody_else() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    assert_eq!(refused(&mut client, "c1").0, FailureKind::NotFound);
    client.create(pod.container("c1", "cat; exec >&- 2>&-; sleep 1000"));
    let (kind, message) = refused(&mut client, "c1");
    assert!(kind == FailureKind::Refused && message.contains("not running"), "{message}");
    assert!(client.call(Request::StartContainer { container: "c1".into() }).is_ok());
    let closed = attach(&mut client, "c1", true);
    assert!(closed.beside.is_none(), "it reads nothing");
    assert_eq!(text(closed.stdout), "", "ends with the stream that the container closed");
    let kill = Request::Signal { container: "c1".into(), signal: 9, every_process: true };
    assert_eq!(client.call(kill), Ok(Answer::Done));
    client.container_exit("c1");
    let (kind, message) = refused(&mut client, "c1");
    assert!(kind == FailureKind::Refused && message.contains("has ended"), "{message}");
    pod.end(client);
}

#[test]
fn clients_are_counted() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.container("c1", "sleep 1000"));
    let before = pod.descriptors();
    let mut clients: Vec<Attached> = (0..16).map(|_| attach(&mut client, "c1", false)).collect();
    let (kind, message) = refused(&mut client, "c1");
    assert!(kind == FailureKind::Refused && message.contains("32 pipes"), "{message}");
    clients.pop();
    until("one is forgotten", || pod.descriptors() == before + 30);
    clients.push(attach(&mut client, "c1", false));
    drop(clients);
    until("all are forgotten", || pod.descriptors() == before);
    pod.end(client);
}

#[test]
fn a_client_that_does_not_read_stops_nobody() {
    if !may_run() {
        return;
    }
    const BURSTS: usize = 40;
    const LINES: usize = BURSTS * 5000;
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    let text_line = "y".repeat(99);
    // In bursts that fit a pipe, so that a client that reads gets its turn on a machine that has more to do.
    let burst = format!("yes {text_line} | head -n 5000; sleep 0.02");
    let mut spec = pod.container("c1", &format!("read go; for i in $(seq {BURSTS}); do {burst}; done"));
    spec.stdin = Stdin::Open;
    client.run(spec);
    let mut idle = attach(&mut client, "c1", true);
    let mut reading = attach(&mut client, "c1", false);
    let mut input = File::from(idle.beside.take().expect("standard input"));
    let watcher = std::thread::spawn(move || {
        let mut all = Vec::new();
        reading.stdout.read_to_end(&mut all).expect("reads");
        all.len()
    });
    writeln!(input, "go").expect("types");
    assert_eq!(client.container_exit("c1").code, 0);
    let complete = u64::try_from(LINES * (30 + " stdout F ".len() + 100)).expect("fits");
    assert_eq!(std::fs::metadata(pod.log_path("c1")).expect("there").len(), complete, "the log has it all");
    let seen = text(idle.stdout);
    let (kept, marker) = seen.split_once("\r\npodwright: ").expect("a marker at the end");
    let missing: usize = marker.split(' ').next().expect("a word").parse().expect("a number");
    assert_eq!(kept.len() + missing, LINES * 100, "every byte is kept or counted");
    assert!(watcher.join().expect("ends") > 2 * kept.len(), "who reads gets more");
    let warnings = pod.warnings();
    assert!(warnings.iter().any(|line| line.contains(&format!("did not read {missing} bytes"))), "{warnings:?}");
    pod.expect_warnings("did not read", warnings.len());
    let peak = pod.status_kb("VmHWM");
    assert!(peak < 16 * 1024, "the supervisor took {peak} kB");
    pod.end(client);
}

#[test]
fn a_terminal_is_handed_out() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    let mut spec = pod.container("c1", "read line; stty size; echo got $line");
    spec.stdin = Stdin::Open;
    spec.spec.process_mut().as_mut().expect("a process").set_terminal(Some(true));
    client.run(spec);
    let attached = attach(&mut client, "c1", true);
    assert!(attached.terminal);
    let master = attached.beside.expect("the terminal");
    let size = runtime_sys::pty::WindowSize { rows: 41, columns: 97 };
    runtime_sys::pty::set_window_size(master.as_fd(), size).expect("resizes");
    File::from(master).write_all(b"typed\n").expect("types");
    assert_eq!(text(attached.stdout), "typed\r\n41 97\r\ngot typed\r\n");
    assert_eq!(text(attached.stderr), "", "a terminal has one stream");
    assert_eq!(client.container_exit("c1").code, 0);
    pod.end(client);
}
