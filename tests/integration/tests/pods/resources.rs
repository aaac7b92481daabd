//! Limits that change while containers and pods are there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::Outcome;
use tests_integration::client::container;
use tests_integration::image::{self, Dialect, Packing};
use tests_integration::{Client, Node, Options};
use tonic::Code;

use crate::{BUSYBOX, World};

const MIB: i64 = 1 << 20;

fn cgroup_v1() -> bool {
    Path::new("/sys/fs/cgroup/memory").exists()
}

/// What a container sees of its own cgroup.
fn limit_of_memory() -> &'static str {
    if cgroup_v1() { "cat /sys/fs/cgroup/memory/memory.limit_in_bytes" } else { "cat /sys/fs/cgroup/memory.max" }
}

fn weight() -> &'static str {
    if cgroup_v1() { "cat /sys/fs/cgroup/cpu/cpu.shares" } else { "cat /sys/fs/cgroup/cpu.weight" }
}

async fn update(
    client: &Client,
    id: &str,
    resources: cri::LinuxContainerResources,
) -> Result<tonic::Response<cri::UpdateContainerResourcesResponse>, tonic::Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(resources),
        ..Default::default()
    };
    client.runtime.clone().update_container_resources(request).await
}

async fn told(client: &Client, id: &str) -> anyhow::Result<cri::LinuxContainerResources> {
    client.status(id).await?.resources.and_then(|resources| resources.linux).context("resources are told")
}

pub(crate) async fn limits_change_while_it_runs_and_what_is_not_named_stays(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("resized").await?;
    let mut config = container("c", BUSYBOX, &["/bin/sleep", "1000"]);
    let first = cri::LinuxContainerResources { memory_limit_in_bytes: 64 * MIB, cpu_shares: 300, ..Default::default() };
    if let Some(linux) = config.linux.as_mut() {
        linux.resources = Some(first);
    }
    let id = world.client.create(&sandbox, config).await?;
    // Created and not started: the first instruction already sees it.
    let change = cri::LinuxContainerResources { memory_limit_in_bytes: 96 * MIB, ..Default::default() };
    update(&world.client, &id, change).await?;
    world.client.start(&id).await?;
    ensure!(world.client.shell(&id, limit_of_memory()).await?.trim() == (96 * MIB).to_string());
    let before = world.client.shell(&id, weight()).await?;
    for memory in [128 * MIB, 32 * MIB, 256 * MIB] {
        let change = cri::LinuxContainerResources { memory_limit_in_bytes: memory, ..Default::default() };
        update(&world.client, &id, change).await?;
        ensure!(world.client.shell(&id, limit_of_memory()).await?.trim() == memory.to_string());
        let now = told(&world.client, &id).await?;
        ensure!((now.memory_limit_in_bytes, now.cpu_shares) == (memory, 300), "{now:?}");
    }
    ensure!(world.client.shell(&id, weight()).await? == before, "a weight that wasn't named changed");
    let change = cri::LinuxContainerResources { cpu_quota: 20_000, cpu_period: 10_000, ..Default::default() };
    update(&world.client, &id, change).await?;
    update(&world.client, &id, cri::LinuxContainerResources { cpu_quota: 5_000, ..Default::default() }).await?;
    let now = told(&world.client, &id).await?;
    ensure!((now.cpu_quota, now.cpu_period, now.memory_limit_in_bytes) == (5_000, 10_000, 256 * MIB), "{now:?}");
    let quota =
        if cgroup_v1() { "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us" } else { "cut -d' ' -f1 /sys/fs/cgroup/cpu.max" };
    ensure!(world.client.shell(&id, quota).await?.trim() == "5000");
    let change = cri::LinuxContainerResources { oom_score_adj: 777, ..Default::default() };
    update(&world.client, &id, change).await?;
    ensure!(world.client.shell(&id, "cat /proc/1/oom_score_adj").await?.trim() == "777");
    world.client.stop(&id, 0).await?;
    let late = update(&world.client, &id, cri::LinuxContainerResources { cpu_shares: 2, ..Default::default() }).await;
    ensure!(late.is_err_and(|error| error.code() == Code::FailedPrecondition), "a container that has ended is changed");
    let none = update(&world.client, &"0".repeat(64), cri::LinuxContainerResources::default()).await;
    ensure!(none.is_err_and(|error| error.code() == Code::NotFound));
    world.client.end(&sandbox).await
}

pub(crate) async fn less_memory_than_is_used_is_refused_and_nothing_changes(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("tight").await?;
    let hold = "x=$(head -c 25165824 /dev/zero | tr '\\0' a); echo full; sleep 1000; true";
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sh", "-c", hold]).await?;
    let began = Instant::now();
    while !world.log("tight", "c").is_ok_and(|log| log.contains("full")) {
        ensure!(began.elapsed() < Duration::from_secs(120), "never full");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (memory, shares) =
        (world.client.shell(&id, limit_of_memory()).await?, world.client.shell(&id, weight()).await?);
    let before = told(&world.client, &id).await?;
    let change = cri::LinuxContainerResources { memory_limit_in_bytes: 8 * MIB, cpu_shares: 555, ..Default::default() };
    let Err(refused) = update(&world.client, &id, change).await else { bail!("8 MiB are enough for 24") };
    ensure!(refused.code() == Code::FailedPrecondition, "{refused:?}");
    ensure!(refused.message().contains("8388608") && refused.message().contains("bytes in use"), "{refused:?}");
    let wrong = [
        (
            cri::LinuxContainerResources { cpuset_cpus: "4000".into(), cpu_shares: 555, ..Default::default() },
            "cpuset.cpus",
        ),
        (
            cri::LinuxContainerResources { cpuset_mems: "77".into(), cpu_shares: 555, ..Default::default() },
            "cpuset.mems",
        ),
        (cri::LinuxContainerResources { cpuset_cpus: "one".into(), ..Default::default() }, "cpuset_cpus"),
        (cri::LinuxContainerResources { oom_score_adj: 5000, ..Default::default() }, "oom_score_adj"),
    ];
    for (change, name) in wrong {
        let Err(refused) = update(&world.client, &id, change).await else { bail!("a wrong {name} is taken") };
        ensure!(refused.code() == Code::InvalidArgument && refused.message().contains(name), "{refused:?}");
    }
    ensure!(world.client.shell(&id, limit_of_memory()).await? == memory, "the limit of memory changed");
    ensure!(world.client.shell(&id, weight()).await? == shares, "the weight changed");
    ensure!(told(&world.client, &id).await? == before, "the status changed");
    let status = world.client.status(&id).await?;
    ensure!(status.state() == cri::ContainerState::ContainerRunning, "{status:?}");
    world.client.end(&sandbox).await
}

/// A pod's directory in the hierarchy that limits memory, and the file in it.
fn pod_limit(cgroup: &str) -> PathBuf {
    let (hierarchy, file) = if cgroup_v1() { ("memory", "memory.limit_in_bytes") } else { ("", "memory.max") };
    Path::new("/sys/fs/cgroup").join(hierarchy).join(cgroup.trim_start_matches('/')).join(file)
}

async fn verbose(client: &Client, sandbox: &str) -> anyhow::Result<serde_json::Value> {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: true };
    let info = client.runtime.clone().pod_sandbox_status(request).await?.into_inner().info;
    Ok(serde_json::from_str(info.get("info").context("verbose information")?)?)
}

pub(crate) async fn a_pod_s_limits_are_noted_and_written_where_the_cgroup_is_ours(world: Arc<World>) -> Outcome {
    let limits = |memory| cri::LinuxContainerResources { memory_limit_in_bytes: memory, ..Default::default() };
    let mut config = world.pod("podlimits");
    if let Some(linux) = config.linux.as_mut() {
        (linux.resources, linux.overhead) = (Some(limits(100 * MIB)), Some(limits(20 * MIB)));
    }
    let sandbox = world.client.run(config).await?;
    let info = verbose(&world.client, &sandbox.id).await?;
    ensure!(
        info["resources"]["memory_limit_bytes"] == 100 * MIB && info["overhead"]["memory_limit_bytes"] == 20 * MIB,
        "{info}"
    );
    let cgroup = info["cgroup"].as_str().and_then(|path| path.strip_suffix("/pause")).context("our own cgroup")?;
    let file = pod_limit(cgroup);
    ensure!(std::fs::read_to_string(&file)?.trim() == (120 * MIB).to_string(), "{file:?}");
    let ask = |resources: i64| cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: sandbox.id.clone(),
        overhead: None,
        resources: Some(limits(resources)),
    };
    world.client.runtime.clone().update_pod_sandbox_resources(ask(200 * MIB)).await?;
    ensure!(std::fs::read_to_string(&file)?.trim() == (220 * MIB).to_string());
    let info = verbose(&world.client, &sandbox.id).await?;
    ensure!(
        info["resources"]["memory_limit_bytes"] == 200 * MIB && info["overhead"]["memory_limit_bytes"] == 20 * MIB,
        "{info}"
    );
    // Back, as a kubelet does when the rest of a resize fails.
    world.client.runtime.clone().update_pod_sandbox_resources(ask(100 * MIB)).await?;
    ensure!(std::fs::read_to_string(&file)?.trim() == (120 * MIB).to_string());
    world.client.end(&sandbox).await?;
    let gone = world.client.runtime.clone().update_pod_sandbox_resources(ask(1)).await;
    ensure!(gone.is_err_and(|error| error.code() == Code::NotFound));

    // A kubelet's cgroup is the kubelet's: noted, and not touched.
    let parent = format!("/podwright-test-parent-{}", std::process::id());
    let mut config = world.pod("kubelets");
    if let Some(linux) = config.linux.as_mut() {
        linux.cgroup_parent.clone_from(&parent);
    }
    let sandbox = world.client.run(config).await?;
    let file = pod_limit(&parent);
    let before = std::fs::read_to_string(&file)?;
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: sandbox.id.clone(),
        overhead: Some(limits(20 * MIB)),
        resources: Some(limits(100 * MIB)),
    };
    world.client.runtime.clone().update_pod_sandbox_resources(request).await?;
    let (after, info) = (std::fs::read_to_string(&file)?, verbose(&world.client, &sandbox.id).await?);
    world.client.end(&sandbox).await?;
    for hierarchy in
        std::fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()])
    {
        let left = hierarchy.join(parent.trim_start_matches('/'));
        if left.is_dir() {
            std::fs::remove_dir(&left)?;
        }
    }
    ensure!(before == after && info["resources"]["memory_limit_bytes"] == 100 * MIB, "{before} {after} {info}");
    Ok(())
}

pub(crate) async fn new_limits_outlive_the_daemon(_: Arc<World>) -> Outcome {
    let mut node = Node::start(Options::default()).await?;
    let busybox = image::image(Dialect::Oci, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
    node.import(&image::archive(&busybox, BUSYBOX)?, BUSYBOX)?;
    let client = node.client().await?;
    let sandbox = client.run(tests_integration::client::pod("lasting", &node.scratch().join("logs"))).await?;
    let id = client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let change =
        cri::LinuxContainerResources { memory_limit_in_bytes: 77 * MIB, cpu_shares: 444, ..Default::default() };
    update(&client, &id, change).await?;
    node.kill()?;
    node.launch().await?;
    let client = node.client().await?;
    let now = told(&client, &id).await?;
    ensure!((now.memory_limit_in_bytes, now.cpu_shares) == (77 * MIB, 444), "{now:?}");
    ensure!(client.shell(&id, limit_of_memory()).await?.trim() == (77 * MIB).to_string());
    update(&client, &id, cri::LinuxContainerResources { cpu_shares: 555, ..Default::default() }).await?;
    let now = told(&client, &id).await?;
    ensure!((now.memory_limit_in_bytes, now.cpu_shares) == (77 * MIB, 555), "{now:?}");
    client.end(&sandbox).await
}

pub(crate) async fn huge_pages_that_cannot_be_limited_are_named(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("huge").await?;
    let config = |name: &str, limit| {
        let mut config = container(name, BUSYBOX, &["/bin/true"]);
        if let Some(linux) = config.linux.as_mut() {
            let hugepage_limits = vec![cri::HugepageLimit { page_size: "3MB".into(), limit }];
            linux.resources = Some(cri::LinuxContainerResources { hugepage_limits, ..Default::default() });
        }
        config
    };
    // A kubelet sends every size that it knows, forbidden.
    let id = world.client.create(&sandbox, config("none", 0)).await?;
    world.client.start(&id).await?;
    ensure!(world.client.wait(&id, Duration::from_secs(10)).await?.exit_code == 0);
    let Err(error) = world.client.create(&sandbox, config("some", 3 << 20)).await else { bail!("3MB pages are there") };
    ensure!(format!("{error:#}").contains("hugetlb.3MB"), "{error:#}");
    world.client.end(&sandbox).await
}

fn with_resources(name: &str, resources: cri::LinuxContainerResources) -> cri::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["/bin/sleep", "1000"]);
    if let Some(linux) = config.linux.as_mut() {
        linux.resources = Some(resources);
    }
    config
}

pub(crate) async fn huge_pages_are_limited_where_the_machine_can(world: Arc<World>) -> Outcome {
    const LIMIT: u64 = 2 << 20;
    let sandbox = world.sandbox("huge-limit").await?;
    let hugepage_limits = vec![cri::HugepageLimit { page_size: "2MB".into(), limit: LIMIT }];
    let config = with_resources("c", cri::LinuxContainerResources { hugepage_limits, ..Default::default() });
    let created = world.client.create(&sandbox, config).await;
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let can_limit =
        Path::new("/sys/fs/cgroup/hugetlb").exists() || controllers.split_whitespace().any(|name| name == "hugetlb");
    if !(can_limit && Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists()) {
        println!(
            "skipped in part: no cgroup hierarchy of this machine has hugetlb for 2 MiB pages, so their limit is refused"
        );
        let Err(error) = created else { bail!("a limit that nothing enforces is accepted") };
        ensure!(format!("{error:#}").contains("hugetlb.2MB"), "{error:#}");
        return world.client.end(&sandbox).await;
    }
    let id = created?;
    world.client.start(&id).await?;
    let file = if cgroup_v1() { "hugetlb/hugetlb.2MB.limit_in_bytes" } else { "hugetlb.2MB.max" };
    let limit = world.client.shell(&id, &format!("cat /sys/fs/cgroup/{file}")).await?;
    ensure!(limit.trim() == LIMIT.to_string(), "{limit}");
    world.client.end(&sandbox).await
}

pub(crate) async fn memory_and_swap_are_limited_together(world: Arc<World>) -> Outcome {
    let accounted = if cgroup_v1() {
        Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
    } else {
        // The root has no file of it; any group below has.
        std::fs::read_dir("/sys/fs/cgroup")?.flatten().any(|entry| entry.path().join("memory.swap.max").exists())
    };
    if !accounted {
        println!("skipped: this kernel counts no swap (swapaccount=0)");
        return Ok(());
    }
    let sandbox = world.sandbox("swap").await?;
    let limits = |memory: i64, both: i64| cri::LinuxContainerResources {
        memory_limit_in_bytes: memory * MIB,
        memory_swap_limit_in_bytes: both * MIB,
        ..Default::default()
    };
    let id = world.client.create(&sandbox, with_resources("c", limits(64, 96))).await?;
    world.client.start(&id).await?;
    // The first version counts both together, the second swap alone.
    let file = if cgroup_v1() { "memory/memory.memsw.limit_in_bytes" } else { "memory.swap.max" };
    for (memory, both) in [(64, 96), (128, 128), (64, 256)] {
        if (memory, both) != (64, 96) {
            update(&world.client, &id, limits(memory, both)).await?;
        }
        let seen = world.client.shell(&id, &format!("{}; cat /sys/fs/cgroup/{file}", limit_of_memory())).await?;
        let swap = if cgroup_v1() { both } else { both - memory };
        ensure!(seen == format!("{}\n{}\n", memory * MIB, swap * MIB), "{memory} and {both}: {seen}");
        let told = told(&world.client, &id).await?;
        ensure!(told.memory_swap_limit_in_bytes == both * MIB, "{told:?}");
    }
    // Less than the memory alone can't be.
    let refused = world.client.create(&sandbox, with_resources("less", limits(64, 32))).await;
    ensure!(refused.is_err(), "less memory and swap than memory");
    world.client.end(&sandbox).await
}
