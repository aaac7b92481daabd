//! Streams of execs and of running containers, and ports of pods.

use std::time::{Duration, Instant};

use runtime_engine::{EXEC_OUTPUT_BYTES_MAX, Kind, Output, Streams, Wanted};
use runtime_lifecycle::{NetworkMode, Stdin, Terminal};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::machine::{machine, words};

const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

async fn all(output: Option<Output>) -> String {
    let mut text = String::new();
    let mut output = output.expect("asked for");
    timeout(PATIENCE, output.read_to_string(&mut text)).await.expect("in time").expect("reads");
    text
}

#[test]
fn an_exec_reads_and_writes() {
    let Some(mut machine) = machine("execs") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let sandbox = engine.run_sandbox(machine.pod("execs")).await.expect("a sandbox");
        let id = machine.started(&sandbox, "exec sleep 1000").await;
        let mut started = engine.exec(&id, words("sh -c 'cat; echo err >&2; exit 7'"), ALL).await.expect("executed");
        let Streams { stdin, stdout, stderr, terminal } = std::mem::take(&mut started.streams);
        assert!(terminal.is_none());
        let mut stdin = stdin.expect("asked for");
        stdin.write_all(b"typed").await.expect("writes");
        // Half of the connection ends; what it answers still comes.
        stdin.shutdown().await.expect("closes");
        assert_eq!((all(stdout).await, all(stderr).await), ("typed".into(), "err\n".into()));
        assert_eq!(started.ended().await.expect("ended").code, 7);

        let wanted = Wanted { stdin: true, stdout: true, tty: true, stderr: false };
        let mut started = engine.exec(&id, words("sh -c 'read go; stty size; tty'"), wanted).await.expect("executed");
        let Streams { stdin, stdout, stderr, terminal } = std::mem::take(&mut started.streams);
        assert!(stderr.is_none());
        terminal.expect("a terminal").resize(37, 91).expect("resizes");
        stdin.expect("asked for").write_all(b"go\n").await.expect("types");
        assert_eq!(all(stdout).await, "go\r\n37 91\r\n/dev/pts/0\r\n");
        assert_eq!(started.ended().await.expect("ended").code, 0);

        let none = engine.exec(&id, words("/no/such/program"), ALL).await.expect_err("not there");
        assert_eq!(none.kind(), Kind::CannotExecute, "{none}");
        engine.remove_sandbox(&sandbox).await.expect("removed");
    });
}

#[test]
fn an_exec_that_nobody_waits_for_is_killed_whole() {
    let Some(mut machine) = machine("vanish") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let sandbox = engine.run_sandbox(machine.pod("vanish")).await.expect("a sandbox");
        let id = machine.started(&sandbox, "exec sleep 1000").await;
        let count = async || {
            let output = engine.exec_sync(&id, words("sh -c 'ps | grep -c \"sleep 77[7]\"; true'"), None).await;
            String::from_utf8(output.expect("counts").stdout).expect("text").trim().to_owned()
        };
        let script = "setsid sleep 777 & (setsid sleep 777 &) ; sleep 777 & echo begun; wait";
        let mut started = engine.exec(&id, vec!["sh".into(), "-c".into(), script.into()], ALL).await.expect("executed");
        let mut begun = [0; 6];
        let mut stdout = std::mem::take(&mut started.streams).stdout.expect("asked for");
        timeout(PATIENCE, stdout.read_exact(&mut begun)).await.expect("in time").expect("begins");
        // The three and the shell that has their name in its script.
        let begun = Instant::now();
        while count().await != "4" {
            assert!(begun.elapsed() < PATIENCE, "not all has begun");
        }
        drop((started, stdout));
        let begun = Instant::now();
        while count().await != "0" {
            assert!(begun.elapsed() < PATIENCE, "what an exec started lives on");
        }
        engine.remove_sandbox(&sandbox).await.expect("removed");
    });
}

#[test]
fn an_execs_limit_holds_for_its_output_too() {
    let Some(mut machine) = machine("limits") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let sandbox = engine.run_sandbox(machine.pod("limits")).await.expect("a sandbox");
        // A process of the container, not of the execs, holds their output open.
        let hold = |number: u32| {
            format!(
                "until test -s /tmp/pid{number}; do true; done; exec {number}> /proc/$(cat /tmp/pid{number})/fd/1; \
                 echo > /tmp/held{number}; "
            )
        };
        let id = machine.started(&sandbox, &format!("{}{}exec sleep 1000", hold(8), hold(9))).await;
        for (number, limit, at_least, at_most) in [(8, 20, 1900, 10_000), (9, 1, 0, 1900)] {
            let script =
                format!("echo out; echo $$ > /tmp/pid{number}; until test -e /tmp/held{number}; do true; done; exit 4");
            let argv = vec!["sh".into(), "-c".into(), script];
            let begun = Instant::now();
            let output = engine.exec_sync(&id, argv, Some(Duration::from_secs(limit))).await;
            let took = begun.elapsed().as_millis();
            assert!((at_least..at_most).contains(&took), "with a limit of {limit} s it took {took} ms: {output:?}");
            match output {
                Ok(output) => assert_eq!((output.exit.code, output.stdout.as_slice()), (4, b"out\n".as_slice())),
                // A busy machine needs the second for the command alone.
                Err(error) => assert!(error.kind() == Kind::DeadlineExceeded && limit == 1, "{error}"),
            }
        }
        let cut = engine.exec_sync(&id, words("sh -c 'yes | busybox head -c 20000000; echo end >&2'"), None).await;
        let cut = cut.expect("executed");
        assert_eq!((cut.stdout.len(), cut.stderr.as_slice()), (EXEC_OUTPUT_BYTES_MAX, b"end\n".as_slice()));
        engine.remove_sandbox(&sandbox).await.expect("removed");
    });
}

#[test]
fn clients_attach_and_go() {
    let Some(mut machine) = machine("attach") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let sandbox = engine.run_sandbox(machine.pod("attach")).await.expect("a sandbox");
        let mut config = machine.container("open", "while read line; do echo got $line; done; echo end");
        config.stdin = Stdin::Open;
        let id = engine.create_container(&sandbox, config).await.expect("a container");
        assert_eq!(engine.attach(&id, ALL).await.expect_err("not started").kind(), Kind::Refused);
        engine.start_container(&id).await.expect("started");
        let mut first = engine.attach(&id, ALL).await.expect("attached");
        let mut second = engine.attach(&id, Wanted { stdin: false, ..ALL }).await.expect("attached");
        let mut stdin = first.streams.stdin.take().expect("asked for");
        stdin.write_all(b"one\n").await.expect("types");
        for stdout in [&mut first.streams.stdout, &mut second.streams.stdout] {
            let mut line = [0; 8];
            let read = stdout.as_mut().expect("asked for").read_exact(&mut line);
            timeout(PATIENCE, read).await.expect("in time").expect("reads");
            assert_eq!(&line, b"got one\n");
        }
        // The end of one client is no end of the container's input.
        drop((first, stdin));
        assert!(timeout(Duration::from_millis(300), second.ended()).await.is_err(), "it has ended");
        engine.stop_container(&id, Duration::ZERO).await.expect("stopped");
        timeout(PATIENCE, second.ended()).await.expect("in time");
        assert_eq!(all(second.streams.stdout.take()).await, "");
        assert_eq!(engine.attach(&id, ALL).await.expect_err("has ended").kind(), Kind::Refused);

        let id = machine.started(&sandbox, "exec sleep 1000").await;
        let error = engine.attach(&id, ALL).await.expect_err("has no standard input");
        assert!(error.kind() == Kind::Refused && error.to_string().contains("no standard input"), "{error}");

        let mut config = machine.container("terminal", "read line; stty size; echo got $line");
        (config.stdin, config.terminal) = (Stdin::Open, Terminal::Yes);
        let id = engine.create_container(&sandbox, config).await.expect("a container");
        engine.start_container(&id).await.expect("started");
        let wanted = Wanted { stdin: true, stdout: true, tty: true, stderr: false };
        let mut attached = engine.attach(&id, wanted).await.expect("attached");
        attached.streams.terminal.take().expect("a terminal").resize(44, 88).expect("resizes");
        attached.streams.stdin.take().expect("asked for").write_all(b"typed\n").await.expect("types");
        assert_eq!(all(attached.streams.stdout.take()).await, "typed\r\n44 88\r\ngot typed\r\n");
        engine.remove_sandbox(&sandbox).await.expect("removed");
    });
}

#[test]
fn a_port_of_a_pod_is_reached_from_inside() {
    let Some(mut machine) = machine("ports") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        // The host's own, which is this test's network namespace here.
        runtime_sys::pause::bring_loopback_up().expect("lo");
        for (name, network, port) in [("pod", NetworkMode::Pod, 7001), ("node", NetworkMode::Node, 7002)] {
            let mut config = machine.pod(name);
            config.namespaces.network = network;
            if network == NetworkMode::Node {
                config.hostname = String::new();
            }
            let sandbox = engine.run_sandbox(config).await.expect("a sandbox");
            let script = format!("exec busybox nc -ll -p {port} -e cat");
            machine.started(&sandbox, &script).await;
            let begun = Instant::now();
            let mut stream = loop {
                match engine.port_forward(&sandbox, port).await {
                    Ok(stream) => break stream,
                    Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
                }
            };
            stream.write_all(b"there and back").await.expect("writes");
            stream.shutdown().await.expect("closes");
            let mut text = String::new();
            timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("in time").expect("reads");
            assert_eq!(text, "there and back", "{name}");
            let error = engine.port_forward(&sandbox, 7003).await.expect_err("nobody listens");
            assert!(error.kind() == Kind::Unavailable && error.to_string().contains("port 7003"), "{error}");
            engine.stop_sandbox(&sandbox).await.expect("stopped");
            assert_eq!(engine.port_forward(&sandbox, port).await.expect_err("is stopped").kind(), Kind::Refused);
            engine.remove_sandbox(&sandbox).await.expect("removed");
        }
    });
}
