//! What containers write, and what becomes of it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use runtime_wire::{Answer, FailureKind, PidMode, Request, Stdin};

use crate::harness::{Pod, may_run, until};

/// Where the log writer cuts a line.
const LINE_BYTES_MAX: usize = 16 * 1024;

#[test]
fn a_mebibyte_without_a_newline_is_cut_into_pieces() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.container("c1", "head -c 1048576 /dev/zero | tr '\\0' x"));
    assert_eq!(client.container_exit("c1").code, 0);
    let lines = pod.log("c1");
    assert_eq!(lines.len(), 64);
    for line in lines {
        let text = line.strip_prefix("stdout P ").expect("a piece");
        assert!(text.len() == LINE_BYTES_MAX && text.bytes().all(|byte| byte == b'x'));
    }
    pod.end(client);
}

#[test]
fn fast_output_is_complete_and_takes_no_memory() {
    if !may_run() {
        return;
    }
    const LINES: usize = 2_000_000;
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    let line = "x".repeat(99);
    client.run(pod.container("c1", &format!("yes {line} | head -n {LINES}")));
    client.run(pod.container("c2", "for i in 1 2 3; do echo $i; done"));
    // The other container is not kept waiting.
    client.container_exit("c2");
    assert_eq!(pod.log("c2"), ["stdout F 1", "stdout F 2", "stdout F 3"]);
    assert_eq!(client.container_exit("c1").code, 0);
    let length = fs::metadata(pod.log_path("c1")).expect("there").len();
    let expected = u64::try_from(LINES * (30 + " stdout F ".len() + 100)).expect("fits");
    assert_eq!(length, expected, "200 MB of lines, none lost and none torn");
    let peak = pod.status_kb("VmHWM");
    assert!(peak < 16 * 1024, "the supervisor took {peak} kB");
    pod.end(client);
}

#[test]
fn a_log_is_reopened_after_a_rotation_without_a_gap() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.container("c1", "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i; done; sleep 300"));
    let path = pod.log_path("c1");
    let reopen = || Request::ReopenLog { container: "c1".into() };
    assert_eq!(client.call(reopen()), Ok(Answer::Done), "the same file");
    let mut parts = Vec::new();
    for number in 0..3 {
        until("something is written", || fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0));
        let old = pod.directory.join(format!("rotated.{number}"));
        fs::rename(&path, &old).expect("rotates");
        assert_eq!(client.call(reopen()), Ok(Answer::Done));
        assert_eq!(client.call(reopen()), Ok(Answer::Done), "twice does no harm");
        parts.push(old);
        if number < 2 {
            client.call(Request::Signal { container: "c1".into(), signal: 18, every_process: false }).expect("SIGCONT");
        }
        let total: usize = parts.iter().map(|part| lines(part)).sum();
        if total == 4000 {
            break;
        }
    }
    parts.push(path.clone());
    until("all lines are there", || parts.iter().map(|part| lines(part)).sum::<usize>() == 4000);
    let text: String = parts.iter().map(|part| fs::read_to_string(part).expect("reads")).collect();
    for (at, line) in text.lines().enumerate() {
        assert_eq!(line.rsplit(' ').next(), Some((at + 1).to_string().as_str()));
    }
    fs::remove_file(&path).expect("removes");
    fs::create_dir(&path).expect("makes a directory");
    let failure = client.call(reopen()).expect_err("a directory");
    assert!(failure.message.contains("directory"), "{}", failure.message);
    fs::remove_dir(&path).expect("removes");
    pod.end(client);
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).expect("reads").lines().count()
}

#[test]
fn a_log_that_is_no_file_is_refused_and_the_start_may_be_repeated() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.create(pod.container("c1", "echo hello"));
    let path = pod.log_path("c1");
    std::os::unix::fs::symlink("/dev/null", &path).expect("links");
    let start = || Request::StartContainer { container: "c1".into() };
    let failure = client.call(start()).expect_err("a link");
    assert_eq!(failure.kind, FailureKind::Kernel);
    assert!(failure.message.contains("symbolic link"), "{}", failure.message);
    fs::remove_file(&path).expect("removes");
    assert!(client.call(start()).is_ok());
    client.container_exit("c1");
    assert_eq!(pod.log("c1"), ["stdout F hello"]);
    pod.end(client);
}

#[test]
fn a_user_that_is_not_root_may_open_its_streams_again() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    let mut spec = pod.container("c1", "echo out > /proc/self/fd/1 && echo err > /proc/self/fd/2 && id -u");
    let user = serde_json::from_value(serde_json::json!({ "uid": 1000, "gid": 1000 })).expect("a user");
    spec.spec.process_mut().as_mut().expect("a process").set_user(user);
    client.run(spec);
    let code = client.container_exit("c1").code;
    let mut log = pod.log("c1");
    log.sort();
    assert_eq!((code, log), (0, vec!["stderr F err".into(), "stdout F 1000".into(), "stdout F out".into()]));
    pod.end(client);
}

#[test]
fn standard_input_is_closed_or_stays_open() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    client.run(pod.container("closed", "cat; echo end"));
    assert_eq!(client.container_exit("closed").code, 0);
    assert_eq!(pod.log("closed"), ["stdout F end"]);
    let mut spec = pod.container("open", "echo waits; cat; echo end");
    spec.stdin = Stdin::Open;
    client.run(spec);
    until("it waits", || pod.log("open") == ["stdout F waits"]);
    let kill = Request::Signal { container: "open".into(), signal: 9, every_process: true };
    assert_eq!(client.call(kill), Ok(Answer::Done));
    assert_eq!(client.container_exit("open").code, 137);
    pod.end(client);
}

#[test]
fn without_a_log_the_output_is_thrown_away() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    let mut spec = pod.container("c1", "head -c 10000000 /dev/zero; echo >&2");
    spec.log = None;
    client.run(spec);
    assert_eq!(client.container_exit("c1").code, 0);
    assert!(!pod.log_path("c1").exists());
    pod.end(client);
}

#[test]
fn a_terminal_is_shown_in_the_log() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    let mut spec = pod.container("c1", "tty; stty size; echo seen >&2");
    let process = spec.spec.process_mut().as_mut().expect("a process");
    process.set_terminal(Some(true));
    process.set_console_size(Some(
        serde_json::from_value(serde_json::json!({ "height": 33, "width": 77 })).expect("a size"),
    ));
    client.run(spec);
    assert_eq!(client.container_exit("c1").code, 0);
    assert_eq!(pod.log("c1"), ["stdout F /dev/pts/0\r", "stdout F 33 77\r", "stdout F seen\r"]);
    pod.end(client);
}

#[test]
fn a_descriptor_that_was_given_away_holds_the_log_up_for_two_seconds_at_most() {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(PidMode::Container);
    let pid = client.run(pod.container("c1", "echo before; sleep 300"));
    until("it has begun", || pod.log("c1") == ["stdout F before"]);
    // Somebody outside holds the container's end of the pipe.
    let mut stolen = File::options().write(true).open(format!("/proc/{pid}/fd/1")).expect("opens");
    let kill = Request::Signal { container: "c1".into(), signal: 9, every_process: false };
    assert_eq!(client.call(kill), Ok(Answer::Done));
    writeln!(stolen, "after").expect("writes");
    let begun = std::time::Instant::now();
    assert_eq!(client.container_exit("c1").code, 137);
    let waited = begun.elapsed();
    assert!((1000..5000).contains(&waited.as_millis()), "waited {waited:?}");
    assert_eq!(pod.log("c1"), ["stdout F before", "stdout F after"]);
    pod.end(client);
}
