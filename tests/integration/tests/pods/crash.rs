//! The daemon dies, again and again; nobody else notices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::client::{self, container, host_network};
use tests_integration::image::{self, Dialect, Packing};
use tests_integration::{Client, Node, Options, Outcome};

use crate::{BUSYBOX, World};

/// How often the daemon is killed.
const DEATHS: u32 = 20;

/// Prints 1, 2, 3 … some hundred times a second, and ends with code 9 on SIGTERM.
const COUNTER: &str = "trap 'exit 9' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";

async fn private_node() -> anyhow::Result<Node> {
    let node = Node::start(Options::default()).await?;
    let busybox = image::image(Dialect::Oci, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
    node.import(&image::archive(&busybox, BUSYBOX)?, BUSYBOX)?;
    Ok(node)
}

pub(crate) async fn the_daemon_dies_twenty_times(_: Arc<World>) -> Outcome {
    let mut node = private_node().await?;
    let logs = node.scratch().join("logs");
    let first = node.client().await?;
    let mut counters = Vec::new();
    for name in ["one", "two", "three"] {
        let config = if name == "three" { host_network(client::pod(name, &logs)) } else { client::pod(name, &logs) };
        let sandbox = first.run(config).await?;
        let id = first.launch(&sandbox, "c", BUSYBOX, &["/bin/sh", "-c", COUNTER]).await?;
        let since = first.status(&id).await?.started_at;
        counters.push((name, sandbox, id, since));
    }
    // The moments differ from death to death and from run to run.
    let seed = std::process::id();
    for death in 0..DEATHS {
        let client = node.client().await?;
        let work = tokio::spawn(disturbance(client, node.scratch().to_owned(), death, counters[0].2.clone()));
        let moment = u64::from((seed.wrapping_mul(31).wrapping_add(death.wrapping_mul(7919))) % 120);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        node.kill()?;
        let _ = work.await;
        node.launch().await.with_context(|| format!("after death {death}"))?;
        let client = node.client().await?;
        for (name, _, id, since) in &counters {
            let status = client.status(id).await.with_context(|| format!("after death {death}, {name}"))?;
            ensure!(
                status.state() == cri::ContainerState::ContainerRunning && status.started_at == *since,
                "after death {death}: {name} is {status:?}"
            );
            let (code, out, _) = client
                .exec(id, &["/bin/echo", "here"])
                .await
                .with_context(|| format!("exec after death {death}, {name}"))?;
            ensure!((code, out.as_str()) == (0, "here\n"), "after death {death}: exec gave {code} {out}");
        }
    }
    let client = node.client().await?;
    for (name, sandbox, id, _) in &counters {
        // The kill comes while the daemon is away: the exit code must still be known.
        client.stop(id, 10).await?;
        let status = client.status(id).await?;
        ensure!(status.exit_code == 9, "{name} ended with {status:?}");
        let log = std::fs::read_to_string(logs.join(name).join("c.log"))?;
        let numbers: Vec<u32> = log.lines().filter_map(|line| line.split(' ').nth(3)?.parse().ok()).collect();
        let expected: Vec<u32> = (1..=u32::try_from(numbers.len())?).collect();
        ensure!(
            numbers == expected && numbers.len() > 50,
            "{name}'s log has a gap or a double ({} lines)",
            numbers.len()
        );
        client.end(sandbox).await?;
    }
    sweep(&client).await?;
    ends_while_away(&mut node).await
}

/// Calls that are under way when the daemon dies; how they end is not asked.
async fn disturbance(client: Client, scratch: std::path::PathBuf, death: u32, counter: String) {
    let name = format!("victim{death}");
    let sandbox = async {
        let sandbox = client.run(client::pod(&name, &scratch.join("logs"))).await?;
        let id = client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
        client.stop(&id, 0).await?;
        client.end(&sandbox).await
    };
    let exec = async {
        loop {
            if client.exec(&counter, &["/bin/sh", "-c", "sleep 0.01; echo x"]).await.is_err() {
                break;
            }
        }
    };
    let _ = tokio::join!(sandbox, exec);
}

/// What was under way is either whole or can be ended; then nothing is left.
async fn sweep(client: &Client) -> Outcome {
    let list = client.runtime.clone().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.into_inner();
    for item in list.items {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: item.id.clone() };
        client.runtime.clone().stop_pod_sandbox(request).await.with_context(|| format!("stop {item:?}"))?;
        client.runtime.clone().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: item.id }).await?;
    }
    let left =
        client.runtime.clone().list_containers(cri::ListContainersRequest::default()).await?.into_inner().containers;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// A container that ends while no daemon runs has its exit code afterwards.
async fn ends_while_away(node: &mut Node) -> Outcome {
    let client = node.client().await?;
    let sandbox = client.run(client::pod("away", &node.scratch().join("logs"))).await?;
    let id = client.launch(&sandbox, "c", BUSYBOX, &["/bin/sh", "-c", "sleep 0.3; echo last; exit 33"]).await?;
    node.kill()?;
    let path = node.scratch().join("logs/away/c.log");
    let began = Instant::now();
    while !std::fs::read_to_string(&path).is_ok_and(|log| log.contains("last")) {
        ensure!(began.elapsed() < Duration::from_secs(30), "it says nothing while no daemon runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.launch().await?;
    let client = node.client().await?;
    let status = client.wait(&id, Duration::from_secs(30)).await?;
    ensure!(status.exit_code == 33 && status.state() == cri::ContainerState::ContainerExited, "{status:?}");
    let log = std::fs::read_to_string(&path)?;
    ensure!(log.ends_with("last\n"), "{log}");
    client.end(&sandbox).await
}

pub(crate) async fn a_supervisor_that_dies_takes_its_pod_along_and_is_told(_: Arc<World>) -> Outcome {
    let node = private_node().await?;
    let client = node.client().await?;
    let logs = node.scratch().join("logs");
    let sandbox = client.run(client::pod("orphan", &logs)).await?;
    let id = client.create(&sandbox, container("c", BUSYBOX, &["/bin/sleep", "1000"])).await?;
    client.start(&id).await?;
    let other = client.run(client::pod("bystander", &logs)).await?;
    let beside = client.launch(&other, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let supervisor = supervisor_of(&sandbox.id).context("the sandbox has a supervisor")?;
    tests_integration::machine::run("kill", &["-9", &supervisor])?;
    let began = Instant::now();
    let status = client.wait(&id, Duration::from_secs(30)).await?;
    ensure!(status.exit_code == 137 && status.reason == "SupervisorLost", "{status:?}");
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: false };
    let state =
        client.runtime.clone().pod_sandbox_status(request).await?.into_inner().status.context("a status")?.state();
    ensure!(state == cri::PodSandboxState::SandboxNotready, "{state:?} after {:?}", began.elapsed());
    ensure!(client.status(&beside).await?.state() == cri::ContainerState::ContainerRunning, "another pod was harmed");
    client.end(&sandbox).await?;
    client.end(&other).await
}

/// The process whose arguments name the sandbox.
fn supervisor_of(sandbox: &str) -> Option<String> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.parse::<u32>().ok()?;
        let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (line.contains(&sandbox[..12]) && comm.trim() != "pause").then_some(name)
    })
}
