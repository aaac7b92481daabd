//! A container's life: output, ends, stop, exec.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::Outcome;
use tests_integration::client::{container, host_network};
use tonic::Code;

use crate::{BUSYBOX, World};

const SOON: Duration = Duration::from_secs(30);

pub(crate) async fn a_container_without_network_runs_and_logs(world: Arc<World>) -> Outcome {
    let sandbox = world.client.run(host_network(world.pod("plain"))).await?;
    let id =
        world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sh", "-c", "echo out; echo err >&2; printf part"]).await?;
    let status = world.client.wait(&id, SOON).await?;
    ensure!(status.exit_code == 0 && status.reason == "Completed", "{status:?}");
    ensure!(status.started_at > 0 && status.finished_at >= status.started_at, "{status:?}");
    let log = world.log("plain", "c")?;
    let words: Vec<Vec<&str>> = log.lines().map(|line| line.splitn(4, ' ').skip(1).collect()).collect();
    ensure!(words.contains(&vec!["stdout", "F", "out"]) && words.contains(&vec!["stderr", "F", "err"]), "{log}");
    ensure!(words.contains(&vec!["stdout", "P", "part"]) || words.contains(&vec!["stdout", "F", "part"]), "{log}");
    world.client.end(&sandbox).await
}

pub(crate) async fn its_exit_code_and_signal_are_reported(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("codes").await?;
    for (name, script, code, reason) in
        [("three", "exit 3", 3, "Error"), ("killed", "kill -9 $$; sleep 9", 137, "Error")]
    {
        // PID 1 of a namespace can't kill itself: a child does it for the second case.
        let script = if name == "killed" { "sh -c 'kill -9 $$'; exit $?" } else { script };
        let id = world.client.launch(&sandbox, name, BUSYBOX, &["/bin/sh", "-c", script]).await?;
        let status = world.client.wait(&id, SOON).await?;
        ensure!(status.exit_code == code && status.reason == reason, "{name}: {status:?}");
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn a_command_that_does_not_exist_fails_at_start(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("nocommand").await?;
    let id = world.client.create(&sandbox, container("c", BUSYBOX, &["/bin/nothing-here"])).await?;
    let Err(error) = world.client.start(&id).await else { bail!("started a program that isn't there") };
    let text = format!("{error:#}");
    ensure!(text.contains("/bin/nothing-here") && text.to_lowercase().contains("no such file"), "{text}");
    let status = world.client.status(&id).await?;
    ensure!(status.state() == cri::ContainerState::ContainerExited && status.exit_code == 128, "{status:?}");
    ensure!(status.reason == "StartError", "{status:?}");
    world.client.end(&sandbox).await
}

pub(crate) async fn out_of_memory_is_told(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("oom").await?;
    let mut config = container("c", BUSYBOX, &["/bin/sh", "-c", "x=a; while true; do x=$x$x; done"]);
    if let Some(linux) = config.linux.as_mut() {
        linux.resources = Some(cri::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() });
    }
    let id = world.client.create(&sandbox, config).await?;
    world.client.start(&id).await?;
    let status = world.client.wait(&id, Duration::from_secs(30)).await?;
    ensure!(status.reason == "OOMKilled" && status.exit_code == 137, "{status:?}");
    world.client.end(&sandbox).await
}

pub(crate) async fn out_of_memory_of_a_child_is_told_with_the_first_ones_code(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("oom-child").await?;
    for (name, code) in [("good", 0), ("bad", 5)] {
        let script = format!("(x=a; while true; do x=$x$x; done); exit {code}");
        let mut config = container(name, BUSYBOX, &["/bin/sh", "-c", &script]);
        if let Some(linux) = config.linux.as_mut() {
            linux.resources =
                Some(cri::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() });
        }
        let id = world.client.create(&sandbox, config).await?;
        world.client.start(&id).await?;
        let status = world.client.wait(&id, Duration::from_secs(30)).await?;
        ensure!(status.reason == "OOMKilled" && status.exit_code == code, "{status:?}");
    }
    world.client.end(&sandbox).await
}

/// Waits until a container's log has `word`.
async fn says(world: &World, pod: &str, container: &str, word: &str) -> Outcome {
    let began = Instant::now();
    while !world.log(pod, container).is_ok_and(|log| log.contains(word)) {
        ensure!(began.elapsed() < SOON, "{container} does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub(crate) async fn stop_waits_for_the_grace_and_then_kills(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("grace").await?;
    let polite = world
        .client
        .launch(
            &sandbox,
            "polite",
            BUSYBOX,
            &["/bin/sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"],
        )
        .await?;
    let deaf = world
        .client
        .launch(&sandbox, "deaf", BUSYBOX, &["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
        .await?;
    for name in ["polite", "deaf"] {
        says(&world, "grace", name, "ready").await?;
    }
    let began = Instant::now();
    world.client.stop(&polite, 60).await?;
    ensure!(began.elapsed() < Duration::from_secs(30), "a polite container took {:?}", began.elapsed());
    ensure!(world.client.status(&polite).await?.exit_code == 7, "the trap's code is lost");
    let began = Instant::now();
    world.client.stop(&deaf, 1).await?;
    ensure!(
        (Duration::from_millis(900)..Duration::from_secs(30)).contains(&began.elapsed()),
        "a deaf one took {:?}",
        began.elapsed()
    );
    ensure!(world.client.status(&deaf).await?.exit_code == 137, "{:?}", world.client.status(&deaf).await?);
    world.client.end(&sandbox).await
}

pub(crate) async fn the_stop_signal_is_the_one_asked_for_and_told(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("signal").await?;
    let script = "trap 'exit 9' USR1; trap 'exit 8' TERM; echo ready; while :; do sleep 0.05; done";
    let mut config = container("c", BUSYBOX, &["/bin/sh", "-c", script]);
    config.stop_signal = cri::Signal::Sigusr1 as i32;
    let id = world.client.create(&sandbox, config).await?;
    world.client.start(&id).await?;
    ensure!(world.client.status(&id).await?.stop_signal == cri::Signal::Sigusr1 as i32, "the signal is not told");
    says(&world, "signal", "c", "ready").await?;
    world.client.stop(&id, 30).await?;
    let code = world.client.status(&id).await?.exit_code;
    ensure!(code == 9, "another signal came: it ended with {code}");
    world.client.end(&sandbox).await
}

pub(crate) async fn name_and_resolver_are_the_pods(world: Arc<World>) -> Outcome {
    let mut config = world.pod("resolver");
    config.hostname = "some-name".into();
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["192.0.2.53".into(), "192.0.2.54".into()],
        searches: vec!["one.test".into(), "two.test".into()],
        options: vec!["ndots:3".into(), "attempts:1".into()],
    });
    let sandbox = world.client.run(config).await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let told = world.client.shell(&id, "hostname; cat /etc/hostname /etc/resolv.conf").await?;
    let lines: Vec<&str> = told.lines().collect();
    let expected = [
        "some-name",
        "some-name",
        "search one.test two.test",
        "nameserver 192.0.2.53",
        "nameserver 192.0.2.54",
        "options ndots:3 attempts:1",
    ];
    ensure!(lines.len() == expected.len() && expected.iter().all(|line| lines.contains(line)), "{told}");
    let status = world.client.status(&id).await?;
    ensure!(status.image.is_some_and(|image| image.user_specified_image == BUSYBOX), "the image's given name is lost");
    world.client.end(&sandbox).await
}

pub(crate) async fn stop_and_remove_can_be_repeated(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("again").await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    for _ in 0..2 {
        world.client.stop(&id, 0).await?;
    }
    for _ in 0..2 {
        world.client.remove(&id).await?;
    }
    world.client.stop(&id, 0).await?;
    world.client.end(&sandbox).await?;
    world.client.end(&sandbox).await?;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id, verbose: false };
    let Err(error) = world.client.runtime.clone().pod_sandbox_status(request).await else {
        bail!("a removed sandbox has a status")
    };
    ensure!(error.code() == Code::NotFound, "{error:?}");
    Ok(())
}

pub(crate) async fn long_lines_are_split_at_16_kib(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("long").await?;
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short";
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sh", "-c", script]).await?;
    world.client.wait(&id, SOON).await?;
    let log = world.log("long", "c")?;
    let parts: Vec<(&str, usize)> = log
        .lines()
        .filter_map(|line| line.splitn(4, ' ').skip(2).collect::<Vec<_>>().try_into().ok())
        .map(|[tag, text]: [&str; 2]| (tag, text.len()))
        .collect();
    ensure!(parts == [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384), ("F", 5)], "{parts:?}");
    world.client.end(&sandbox).await
}

pub(crate) async fn exec_brings_output_and_code(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("exec").await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let (code, out, err) = world.client.exec(&id, &["/bin/sh", "-c", "echo a; echo b >&2; exit 5"]).await?;
    ensure!((code, out.as_str(), err.as_str()) == (5, "a\n", "b\n"), "{code} {out} {err}");
    let (_, bytes, _) = world.client.exec(&id, &["/bin/sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' z"]).await?;
    ensure!(bytes.len() == 1_000_000, "{} bytes", bytes.len());
    ensure!(
        world.client.exec(&id, &["/bin/not-there"]).await.is_err()
            || world.client.exec(&id, &["/bin/not-there"]).await?.0 != 0,
        "an exec of nothing succeeded"
    );
    world.client.end(&sandbox).await
}

pub(crate) async fn exec_ends_at_its_deadline_with_all_it_started(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("deadline").await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let request = cri::ExecSyncRequest {
        container_id: id.clone(),
        cmd: ["/bin/sh", "-c", "sleep 777 & sleep 777"].map(str::to_owned).to_vec(),
        timeout: 1,
    };
    let began = Instant::now();
    let Err(error) = world.client.runtime.clone().exec_sync(request).await else { bail!("it did not end") };
    ensure!(error.code() == Code::DeadlineExceeded, "{error:?}");
    ensure!(began.elapsed() < SOON, "took {:?}", began.elapsed());
    let left = world.client.shell(&id, "ps | grep -c '[s]leep 777' || true").await?;
    ensure!(left.trim() == "0", "{left} processes of the exec are left");
    world.client.end(&sandbox).await
}

pub(crate) async fn a_background_child_does_not_hold_an_exec(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("background").await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let began = Instant::now();
    let (code, out, _) = world.client.exec(&id, &["/bin/sh", "-c", "sleep 778 & echo done"]).await?;
    ensure!((code, out.as_str()) == (0, "done\n"), "{code} {out}");
    ensure!(began.elapsed() < SOON, "took {:?}", began.elapsed());
    world.client.end(&sandbox).await
}

pub(crate) async fn a_missing_sandbox_or_image_is_named(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("missing").await?;
    let Err(error) = world.client.create(&sandbox, container("c", "podwright.test/none:1", &["x"])).await else {
        bail!("made a container of no image")
    };
    ensure!(format!("{error:#}").contains("podwright.test/none:1"), "{error:#}");
    let mut other = sandbox.clone();
    other.id = "0".repeat(64);
    let Err(error) = world.client.create(&other, container("c", BUSYBOX, &["x"])).await else {
        bail!("made a container in no sandbox")
    };
    ensure!(error.downcast_ref::<tonic::Status>().is_some_and(|status| status.code() == Code::NotFound), "{error:#}");
    world.client.end(&sandbox).await
}

pub(crate) async fn the_same_sandbox_is_not_made_twice(world: Arc<World>) -> Outcome {
    let config = world.pod("twice");
    let both = tokio::try_join!(world.client.run(config.clone()), world.client.run(config.clone()))?;
    let later = world.client.run(config).await?;
    ensure!(both.0.id == both.1.id && both.0.id == later.id, "{} {} {}", both.0.id, both.1.id, later.id);
    world.client.end(&later).await
}

pub(crate) async fn working_directory_environment_and_user_come_from_image_and_request(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("settings").await?;
    let mut config = container("c", BUSYBOX, &["/bin/sleep", "1000"]);
    config.working_dir = "/made/for/it".into();
    config.envs = vec![cri::KeyValue { key: "FROM_POD".into(), value: "a b".into() }];
    if let Some(context) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        context.run_as_username = "daemon".into();
    }
    let id = world.client.create(&sandbox, config).await?;
    world.client.start(&id).await?;
    let told = world.client.shell(&id, "pwd; echo $FROM_IMAGE $FROM_POD; id -u; id -g; id -G; hostname").await?;
    let lines: Vec<&str> = told.lines().collect();
    ensure!(lines == ["/made/for/it", "yes a b", "2", "2", "2 77", "settings"], "{told}");
    world.client.end(&sandbox).await?;
    Ok(())
}

pub(crate) async fn checkpoint_and_restore_are_refused_with_the_reason(world: Arc<World>) -> Outcome {
    let mut runtime = world.client.runtime.clone();
    let checks = [
        ("CheckpointContainer", runtime.checkpoint_container(cri::CheckpointContainerRequest::default()).await.err()),
        ("CheckpointPod", runtime.checkpoint_pod(cri::CheckpointPodRequest::default()).await.err()),
        ("RestorePod", runtime.restore_pod(cri::RestorePodRequest::default()).await.err()),
    ];
    for (name, error) in checks {
        let error = error.with_context(|| format!("{name} succeeded"))?;
        ensure!(error.code() == Code::Unimplemented, "{name}: {error:?}");
        ensure!(error.message().contains(name) && error.message().contains("untrusted"), "{name}: {error:?}");
    }
    Ok(())
}
