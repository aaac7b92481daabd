//! What execs may and leave, and what the verbs of streams refuse.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::Outcome;
use tests_integration::client::container;
use tonic::Code;

use crate::{BUSYBOX, World};

/// What ExecSync keeps of each stream, in bytes: the limit of the CRI's own clients.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

const SOON: Duration = Duration::from_secs(30);

pub(crate) async fn its_output_is_cut_at_16_mib_each_and_that_is_told(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("cut").await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let script = "head -c 17000000 /dev/zero | tr '\\0' a; head -c 18000000 /dev/zero | tr '\\0' b >&2; exit 3";
    let request = cri::ExecSyncRequest {
        container_id: id,
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: 60,
    };
    let mut client = world.client.runtime.clone().max_decoding_message_size(3 * KEPT_BYTES);
    let answer = client.exec_sync(request).await?.into_inner();
    ensure!(answer.exit_code == 3, "{}", answer.exit_code);
    for (bytes, letter) in [(answer.stdout, b'a'), (answer.stderr, b'b')] {
        ensure!(bytes.len() == KEPT_BYTES && bytes.iter().all(|byte| *byte == letter), "{} bytes", bytes.len());
    }
    let log = world.node.log();
    ensure!(log.contains("the output of a command is cut"), "{log}");
    world.client.end(&sandbox).await
}

pub(crate) async fn its_daemons_die_with_it(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("daemons").await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let script = "setsid sleep 779 & (setsid sh -c 'sleep 779 & sleep 779' &); sleep 0.3; echo done";
    ensure!(world.client.shell(&id, script).await? == "done\n", "it is held up");
    let left = world.client.shell(&id, "ps | grep -c '[s]leep 779' || true").await?;
    ensure!(left.trim() == "0", "{left} processes of the exec are left");
    world.client.end(&sandbox).await
}

pub(crate) async fn it_has_a_leaf_that_no_statistics_see(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("leaf").await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    // Paths are below the container's own group: it has a namespace for them.
    let groups = world.client.shell(&id, "cat /proc/self/cgroup").await?;
    let leaves: Vec<&str> = groups.lines().filter(|line| line.contains("/exec-")).collect();
    let alone = leaves.len() == 1 && (leaves[0].contains(":freezer:") || leaves[0].starts_with("0::"));
    ensure!(alone, "{groups}");
    let again = world.client.shell(&id, "cat /proc/self/cgroup").await?;
    ensure!(again != groups, "two execs share a leaf");
    world.client.end(&sandbox).await
}

pub(crate) async fn the_log_of_what_has_ended_is_not_made_anew(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("reopen").await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sh", "-c", "echo once"]).await?;
    world.client.wait(&id, SOON).await?;
    let path = world.node.scratch().join("logs/reopen/c.log");
    std::fs::remove_file(&path)?;
    let request = cri::ReopenContainerLogRequest { container_id: id };
    let Err(error) = world.client.runtime.clone().reopen_container_log(request).await else {
        bail!("the log of an ended container was reopened")
    };
    ensure!(error.code() == Code::FailedPrecondition, "{error:?}");
    ensure!(!path.exists(), "the log was made anew");
    world.client.end(&sandbox).await
}

pub(crate) async fn wrong_requests_for_streams_are_named(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("wrong").await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let created = world.client.create(&sandbox, container("created", BUSYBOX, &["/bin/sleep", "1"])).await?;
    let mut client = world.client.runtime.clone();
    let exec = |id: &str, command: &str, tty: bool, stdout: bool, stderr: bool| cri::ExecRequest {
        container_id: id.to_owned(),
        cmd: command.split_whitespace().map(str::to_owned).collect(),
        tty,
        stdin: false,
        stdout,
        stderr,
    };
    for (request, code) in [
        (exec(&id, "true", false, true, true), None),
        (exec(&id, "true", true, true, true), Some(Code::InvalidArgument)),
        (exec(&id, "true", false, false, false), Some(Code::InvalidArgument)),
        (exec(&id, "", false, true, false), Some(Code::InvalidArgument)),
        (exec(&created, "true", false, true, false), Some(Code::FailedPrecondition)),
        (exec("feed", "true", false, true, false), Some(Code::NotFound)),
    ] {
        let answer = client.exec(request.clone()).await;
        ensure!(answer.as_ref().err().map(tonic::Status::code) == code, "{request:?}: {answer:?}");
    }
    let attach =
        |id: &str, stdout: bool| cri::AttachRequest { container_id: id.to_owned(), stdout, ..Default::default() };
    for (request, code) in [
        (attach(&id, true), None),
        (attach(&id, false), Some(Code::InvalidArgument)),
        (attach(&created, true), Some(Code::FailedPrecondition)),
    ] {
        let answer = client.attach(request.clone()).await;
        ensure!(answer.as_ref().err().map(tonic::Status::code) == code, "{request:?}: {answer:?}");
    }
    let forward = |id: &str, port: i32| cri::PortForwardRequest { pod_sandbox_id: id.to_owned(), port: vec![port] };
    for (request, code) in [
        (forward(&sandbox.id, 80), None),
        (forward(&sandbox.id, 0), Some(Code::InvalidArgument)),
        (forward(&sandbox.id, 65536), Some(Code::InvalidArgument)),
        (forward("feed", 80), Some(Code::NotFound)),
    ] {
        let answer = client.port_forward(request.clone()).await;
        ensure!(answer.as_ref().err().map(tonic::Status::code) == code, "{request:?}: {answer:?}");
    }
    client.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() }).await?;
    let answer = client.port_forward(forward(&sandbox.id, 80)).await;
    ensure!(answer.is_err_and(|error| error.code() == Code::FailedPrecondition), "of a stopped sandbox");
    world.client.end(&sandbox).await
}
