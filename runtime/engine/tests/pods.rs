//! Real pods on the real kernel: each test has its own network namespace, directories and cgroup root, and looks whether
//! anything of it is left.

#[path = "pods/machine.rs"]
mod machine;
#[path = "pods/streams.rs"]
mod streams;

use std::{fs, time::Duration};

use machine::{Machine, machine, pause, words};
use runtime_engine::{EventKind, Kind};
use runtime_lifecycle::{
    ContainerFilter, ContainerState, Exit, ExitReason, IpcMode, NamespaceModes, NetworkMode, PidMode, SandboxState,
    UserMode,
};

fn exit_of(machine: &Machine, id: &runtime_lifecycle::ContainerId) -> Exit {
    match machine.engine().container(id).expect("is there").state.clone() {
        ContainerState::Exited { exit, .. } => exit,
        state => panic!("it is {}", state.name()),
    }
}

#[test]
fn a_pod_from_beginning_to_end() {
    let Some(mut machine) = machine("life") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let mut events = engine.events();
        let sandbox = engine.run_sandbox(machine.pod("web")).await.expect("a sandbox");
        let record = engine.sandbox(&sandbox).expect("is there");
        assert!(record.state.is_ready());
        assert!(record.network.as_ref().is_some_and(|network| !network.ips.is_empty()), "{record:?}");
        let config = machine.container("main", "echo out; echo err >&2; cat /etc/hostname; exec sleep 1000");
        let id = engine.create_container(&sandbox, config.clone()).await.expect("a container");
        assert_eq!(engine.create_container(&sandbox, config).await.expect("joined"), id, "the same request again");
        engine.start_container(&id).await.expect("started");
        engine.start_container(&id).await.expect("already started is as good");
        let output =
            engine.exec_sync(&id, words("sh -c 'echo $0-$HOSTNAME; id -u; echo oops >&2; exit 3'"), None).await;
        let output = output.expect("executed");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "sh-web\n0\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "oops\n");
        assert_eq!(output.exit.code, 3);
        let hosts = engine.exec_sync(&id, words("cat /etc/hosts"), None).await.expect("executed").stdout;
        let ip = record.network.as_ref().expect("attached").ips[0].to_string();
        assert!(String::from_utf8_lossy(&hosts).contains(&format!("{ip}\tweb")), "{hosts:?}");
        let late = engine.exec_sync(&id, words("sleep 1000"), Some(Duration::from_millis(300))).await;
        assert_eq!(late.expect_err("too late").kind(), Kind::DeadlineExceeded);
        let none = engine.exec_sync(&id, words("/no/such/program"), None).await.expect_err("not there");
        assert_eq!(none.kind(), Kind::CannotExecute, "{none}");
        // A child in the background holds the pipe, and doesn't hold us.
        let background =
            engine.exec_sync(&id, words("sh -c 'sleep 1000 & echo done'"), Some(Duration::from_secs(5))).await;
        assert_eq!(background.expect("over").stdout, b"done\n");
        let usage = engine.container_usage(&id).await.expect("measured").usage;
        assert!(usage.is_some_and(|usage| usage.used.memory_bytes > 0 && usage.used.tasks >= 1), "{usage:?}");
        engine.reopen_log(&id).await.expect("reopened");
        engine.stop_container(&id, Duration::from_millis(200)).await.expect("stopped");
        assert_eq!(exit_of(machine, &id).code, 137, "a PID 1 without a handler ignores SIGTERM");
        engine.stop_container(&id, Duration::ZERO).await.expect("already stopped is as good");
        let log = fs::read_to_string(machine.logs().join("main.log")).expect("a log");
        assert!(
            log.contains(" stdout F out\n") && log.contains(" stderr F err\n") && log.contains(" stdout F web\n"),
            "{log}"
        );
        engine.remove_container(&id).await.expect("removed");
        assert_eq!(engine.remove_container(&id).await.expect_err("gone").kind(), Kind::NotFound);
        engine.stop_sandbox(&sandbox).await.expect("stopped");
        engine.stop_sandbox(&sandbox).await.expect("again");
        assert_eq!(engine.sandbox(&sandbox).expect("is there").state, SandboxState::Stopped);
        engine.remove_sandbox(&sandbox).await.expect("removed");
        assert_eq!(engine.remove_sandbox(&sandbox).await.expect_err("gone").kind(), Kind::NotFound);
        let mut kinds = Vec::new();
        while let Ok(event) = events.try_recv() {
            kinds.push((event.kind, event.container.is_some()));
        }
        use EventKind::{Created, Deleted, Started, Stopped};
        let expected = [
            (Created, false),
            (Started, false),
            (Created, true),
            (Started, true),
            (Stopped, true),
            (Deleted, true),
            (Stopped, false),
            (Deleted, false),
        ];
        assert_eq!(kinds, expected);
    });
}

#[test]
fn ends_and_their_reasons() {
    let Some(mut machine) = machine("ends") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let sandbox = engine.run_sandbox(machine.pod("ends")).await.expect("a sandbox");
        for (script, code, reason) in [
            ("true", 0, ExitReason::Completed),
            ("exit 7", 7, ExitReason::Error),
            ("kill -9 $$; sleep 1", 137, ExitReason::Error),
        ] {
            // PID 1 can't kill itself: a child does the dying and its code is passed on.
            let script = if script.contains("kill") { "sh -c 'kill -9 $$'; exit $?" } else { script };
            let id = machine.started(&sandbox, script).await;
            machine.ended(&id).await;
            let exit = exit_of(machine, &id);
            assert_eq!((exit.code, exit.reason), (code, reason), "{script}");
        }
        let mut config = machine.container("nothing", "true");
        config.command = vec!["/no/such/program".to_owned()];
        let id = engine.create_container(&sandbox, config).await.expect("a container");
        let error = engine.start_container(&id).await.expect_err("can't be executed");
        assert_eq!(error.kind(), Kind::CannotExecute, "{error}");
        let exit = exit_of(machine, &id);
        assert_eq!((exit.code, exit.reason), (128, ExitReason::StartError));
        assert!(exit.message.contains("/no/such/program"), "{exit:?}");
        let mut hungry = machine.container("hungry", "x=a; while :; do x=$x$x; done");
        hungry.resources.memory_limit_bytes = 16 << 20;
        hungry.resources.memory_swap_limit_bytes = 16 << 20;
        let id = engine.create_container(&sandbox, hungry).await.expect("a container");
        engine.start_container(&id).await.expect("started");
        machine.ended(&id).await;
        let exit = exit_of(machine, &id);
        assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled));
        let mut unknown = machine.container("unknown", "true");
        unknown.image.image = "no.such/image:1".to_owned();
        let error = engine.create_container(&sandbox, unknown).await.expect_err("no image");
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        assert!(error.to_string().contains("no.such/image:1"), "{error}");
        let mut nobody = machine.container("nobody", "true");
        nobody.security.user = Some(runtime_lifecycle::User::Name("nosuchuser".to_owned()));
        let error = engine.create_container(&sandbox, nobody).await.expect_err("no user");
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        let filter = ContainerFilter { sandbox: Some(sandbox.clone()), ..ContainerFilter::default() };
        assert_eq!(engine.containers(&filter).len(), 5, "what failed to be created is not there");
        engine.remove_sandbox(&sandbox).await.expect("removed");
    });
}

#[test]
fn a_missing_source_becomes_a_directory() {
    let Some(mut machine) = machine("volume") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let sandbox = engine.run_sandbox(machine.pod("volume")).await.expect("a sandbox");
        let source = machine.directory().join("deep/volume");
        let mut config = machine.container("main", "echo hello > /data/file; exec sleep 1000");
        config.mounts = vec![runtime_lifecycle::Mount {
            container_path: "/data".to_owned(),
            host_path: source.to_string_lossy().into_owned(),
            read_only: runtime_lifecycle::ReadOnly::No,
            propagation: runtime_lifecycle::Propagation::Private,
            options: Vec::new(),
            id_mappings: None,
            image: None,
        }];
        let id = engine.create_container(&sandbox, config).await.expect("a container");
        engine.start_container(&id).await.expect("started");
        engine.exec_sync(&id, words("test -e /data/file"), None).await.expect("executed");
        machine.until(|| fs::read_to_string(source.join("file")).is_ok_and(|text| text == "hello\n")).await;
        engine.remove_sandbox(&sandbox).await.expect("removed");
    });
}

#[test]
fn a_second_daemon_takes_over() {
    let Some(mut machine) = machine("again") else { return };
    let (sandbox, running, ended, left) = machine.run(async |machine| {
        let engine = machine.engine();
        let sandbox = engine.run_sandbox(machine.pod("again")).await.expect("a sandbox");
        let running = machine.started(&sandbox, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done").await;
        let ended = machine.started(&sandbox, "exit 5").await;
        machine.ended(&ended).await;
        let left = machine.started(&sandbox, "sleep 0.2; exit 6").await;
        (sandbox, running, ended, left)
    });
    machine.crash();
    pause(Duration::from_millis(500));
    machine.reopen();
    machine.run(async |machine| {
        let engine = machine.engine();
        assert!(engine.sandbox(&sandbox).expect("is there").state.is_ready());
        assert!(engine.container(&running).expect("is there").state.process().is_some());
        assert_eq!(exit_of(machine, &ended).code, 5);
        assert_eq!(exit_of(machine, &left).code, 6, "it ended while nobody looked");
        let output = engine.exec_sync(&running, words("echo here"), None).await.expect("executed");
        assert_eq!(output.stdout, b"here\n");
        // The same request again finds what was made before.
        assert_eq!(engine.run_sandbox(machine.pod("again")).await.expect("joined"), sandbox);
        engine.stop_container(&running, Duration::ZERO).await.expect("stopped");
        let name = engine.container(&running).expect("is there").log.clone();
        let log = fs::read_to_string(name).expect("a log");
        for (line, expected) in log.lines().zip(1..) {
            assert_eq!(line.rsplit(' ').next(), Some(expected.to_string().as_str()), "no gap and no double: {line}");
        }
        engine.remove_sandbox(&sandbox).await.expect("removed");
    });
}

#[test]
fn a_damaged_record_is_told_and_nothing_of_it_goes_on_running() {
    let Some(mut machine) = machine("damage") else { return };
    let (whole, kept, lost, gone, gone_process) = machine.run(async |machine| {
        let engine = machine.engine();
        let whole = engine.run_sandbox(machine.pod("whole")).await.expect("a sandbox");
        let kept = machine.started(&whole, "exec sleep 1000").await;
        let lost = machine.started(&whole, "exec sleep 1000").await;
        let gone = engine.run_sandbox(machine.pod("gone")).await.expect("a sandbox");
        let orphan = machine.started(&gone, "exec sleep 1000").await;
        let process = engine.container(&orphan).expect("is there").state.process().expect("runs");
        (whole, kept, lost, gone, process)
    });
    machine.crash();
    let pods = machine.directory().join("run/pods");
    fs::write(pods.join(gone.as_str()).join("sandbox.json"), b"{\"version\":1,").expect("damaged");
    fs::write(pods.join(whole.as_str()).join(format!("containers/{lost}.json")), b"\0\0").expect("damaged");
    let told = machine.reopen_damaged();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!([gone.as_str(), lost.as_str()].iter().all(|id| told.iter().any(|what| what.contains(id))), "{told:?}");
    machine.run(async |machine| {
        let engine = machine.engine();
        let same =
            || runtime_sys::process::start_ticks(gone_process.pid).is_ok_and(|ticks| ticks == gone_process.start_ticks);
        machine.until(|| !same()).await;
        assert_eq!(engine.sandboxes(&Default::default()).len(), 1);
        assert_eq!(engine.containers(&Default::default()).len(), 1);
        engine.exec_sync(&kept, words("true"), None).await.expect("the others are as they were");
        // Its name is free, its address too.
        let again = engine.run_sandbox(machine.pod("gone")).await.expect("a sandbox");
        engine.remove_sandbox(&again).await.expect("removed");
        engine.remove_sandbox(&whole).await.expect("removed");
    });
}

#[test]
fn a_source_that_can_not_be_is_named_and_a_log_stays_inside() {
    let Some(mut machine) = machine("source") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let sandbox = engine.run_sandbox(machine.pod("source")).await.expect("a sandbox");
        let here = machine.directory().to_owned();
        std::os::unix::fs::symlink("/nowhere/at/all", here.join("dangling")).expect("a link");
        fs::write(here.join("file"), b"").expect("a file");
        for source in ["dangling", "dangling/below", "file/below"] {
            let mut config = machine.container("main", "true");
            config.mounts = vec![runtime_lifecycle::Mount {
                container_path: "/data".to_owned(),
                host_path: here.join(source).to_string_lossy().into_owned(),
                read_only: runtime_lifecycle::ReadOnly::No,
                propagation: runtime_lifecycle::Propagation::Private,
                options: Vec::new(),
                id_mappings: None,
                image: None,
            }];
            let error = engine.create_container(&sandbox, config).await.expect_err("refused");
            assert_eq!(error.kind(), Kind::Invalid, "{source}: {error}");
            assert!(error.to_string().contains(source), "{source}: {error}");
        }
        for log in ["../out", "/etc/x", "a/../../b", ".", "./", &"x".repeat(300), &"x/".repeat(3000)] {
            let mut config = machine.container("main", "true");
            config.log_path = log.into();
            let error = engine.create_container(&sandbox, config).await.expect_err("refused");
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
        }
        assert!(engine.containers(&Default::default()).is_empty());
        engine.remove_sandbox(&sandbox).await.expect("removed");
    });
}

#[test]
fn a_lost_supervisor_ends_its_pod_alone() {
    let Some(mut machine) = machine("lost") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let sandbox = engine.run_sandbox(machine.pod("lost")).await.expect("a sandbox");
        let other = engine.run_sandbox(machine.pod("other")).await.expect("a sandbox");
        let id = machine.started(&sandbox, "exec sleep 1000").await;
        let survivor = machine.started(&other, "exec sleep 1000").await;
        let process = engine.container(&id).expect("is there").state.process().expect("runs");
        let supervisor = engine.sandbox(&sandbox).expect("is there").supervisor.expect("started");
        runtime_sys::process::kill(supervisor.pid, 9).expect("killed");
        machine.ended(&id).await;
        let exit = exit_of(machine, &id);
        assert_eq!((exit.code, exit.reason), (137, ExitReason::SupervisorLost));
        machine
            .until(|| matches!(engine.sandbox(&sandbox).expect("is there").state, SandboxState::NotReady { .. }))
            .await;
        // Dead at once, gone when init has reaped it.
        let same = || runtime_sys::process::start_ticks(process.pid).is_ok_and(|ticks| ticks == process.start_ticks);
        machine.until(|| !same()).await;
        assert!(engine.container(&survivor).expect("is there").state.process().is_some());
        let error = engine.create_container(&sandbox, machine.container("late", "true")).await.expect_err("not ready");
        assert_eq!(error.kind(), Kind::Refused);
        engine.remove_sandbox(&sandbox).await.expect("removed");
        engine.remove_sandbox(&other).await.expect("removed");
    });
}

#[test]
fn the_same_pod_at_once_is_one_pod() {
    let Some(mut machine) = machine("once") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let many = (0..8).map(|_| engine.run_sandbox(machine.pod("once")));
        let ids: Vec<_> =
            futures_util::future::join_all(many).await.into_iter().map(|id| id.expect("joined")).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(engine.sandboxes(&Default::default()).len(), 1);
        engine.stop_sandbox(&ids[0]).await.expect("stopped");
        let error = engine.run_sandbox(machine.pod("once")).await.expect_err("the name is held");
        assert_eq!(error.kind(), Kind::NameTaken, "{error}");
        let mut next = machine.pod("once");
        next.metadata.attempt = 1;
        let second = engine.run_sandbox(next).await.expect("another attempt");
        engine.remove_sandbox(&ids[0]).await.expect("removed");
        engine.remove_sandbox(&second).await.expect("removed");
    });
}

#[test]
fn a_failure_leaves_nothing() {
    let Some(mut machine) = machine("undo") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let mut bad = machine.pod("undo");
        bad.sysctls = [("net.ipv4.no_such_parameter".to_owned(), "1".to_owned())].into();
        let error = engine.run_sandbox(bad).await.expect_err("no such parameter");
        assert!(error.to_string().contains("no_such_parameter"), "{error}");
        assert!(engine.sandboxes(&Default::default()).is_empty());
        let left = fs::read_dir(machine.directory().join("run/pods")).expect("listable").count();
        assert_eq!(left, 0, "no directory is left");
        // The name is free again.
        let sandbox = engine.run_sandbox(machine.pod("undo")).await.expect("a sandbox");
        engine.remove_sandbox(&sandbox).await.expect("removed");
    });
}

#[test]
fn a_pod_on_the_hosts_network_with_shared_processes() {
    let Some(mut machine) = machine("host") else { return };
    machine.run(async |machine| {
        let engine = machine.engine();
        let mut pod = machine.pod("host");
        pod.namespaces =
            NamespaceModes { network: NetworkMode::Node, pid: PidMode::Pod, ipc: IpcMode::Pod, user: UserMode::Node };
        pod.hostname = String::new();
        let sandbox = engine.run_sandbox(pod).await.expect("a sandbox");
        assert!(engine.sandbox(&sandbox).expect("is there").network.is_none());
        let id = machine.started(&sandbox, "exec sleep 1000").await;
        let second = machine.started(&sandbox, "exec sleep 1001").await;
        let seen = engine.exec_sync(&second, words("ps -o pid,args"), None).await.expect("executed");
        let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
        assert!(seen.contains("sleep 1000") && seen.contains("sleep 1001"), "{seen}");
        engine.stop_container(&id, Duration::ZERO).await.expect("stopped");
        engine.remove_sandbox(&sandbox).await.expect("removed");
    });
}

#[test]
fn a_daemon_that_dies_at_any_moment_leaves_no_half_pod() {
    let Some(mut machine) = machine("crash") else { return };
    for round in 0..8_u32 {
        let name = format!("crash{round}");
        let after = Duration::from_millis(u64::from(round) * 6);
        machine.run(async |machine| {
            let (engine, pod) = (machine.engine(), machine.pod(&name));
            let container = machine.container("main", "exec sleep 1000");
            tokio::spawn(async move {
                let sandbox = engine.run_sandbox(pod).await?;
                let id = engine.create_container(&sandbox, container).await?;
                engine.start_container(&id).await?;
                engine.stop_container(&id, Duration::from_millis(10)).await?;
                engine.remove_sandbox(&sandbox).await
            });
            tokio::time::sleep(after).await;
        });
        machine.crash();
        machine.reopen();
        machine.run(async |machine| {
            let engine = machine.engine();
            // Whatever had been reached, the same request is answered, and what runs can be used.
            let sandbox = match engine.run_sandbox(machine.pod(&name)).await {
                Ok(sandbox) => sandbox,
                Err(error) => {
                    assert_eq!(error.kind(), Kind::NameTaken, "round {round}: {error}");
                    let left = engine.sandboxes(&Default::default());
                    engine.remove_sandbox(&left[0].id).await.expect("removed");
                    engine.run_sandbox(machine.pod(&name)).await.expect("a sandbox")
                }
            };
            let id = machine.started(&sandbox, "exec sleep 1000").await;
            let output = engine.exec_sync(&id, words("echo here"), None).await.expect("executed");
            assert_eq!(output.stdout, b"here\n", "round {round}");
            engine.remove_sandbox(&sandbox).await.expect("removed");
            assert!(engine.sandboxes(&Default::default()).is_empty(), "round {round}");
            assert!(engine.containers(&Default::default()).is_empty(), "round {round}");
        });
    }
}
