//! What pods and containers use, as told and as the kernel has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::Outcome;
use tests_integration::client::{Sandbox, container, host_network};

use crate::{BUSYBOX, World};

const MIB: u64 = 1 << 20;

/// How long something may take to show in a statistic.
const SOON: Duration = Duration::from_secs(120);

/// Version 1 counts no pressure.
fn cgroup_v1() -> bool {
    Path::new("/sys/fs/cgroup/memory").exists()
}

async fn stats(world: &World, id: &str) -> anyhow::Result<cri::ContainerStats> {
    let request = cri::ContainerStatsRequest { container_id: id.to_owned() };
    world.client.runtime.clone().container_stats(request).await?.into_inner().stats.context("statistics")
}

async fn pod_stats(world: &World, sandbox: &Sandbox) -> anyhow::Result<cri::PodSandboxStats> {
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: sandbox.id.clone() };
    world.client.runtime.clone().pod_sandbox_stats(request).await?.into_inner().stats.context("statistics")
}

fn value(number: Option<&cri::UInt64Value>) -> u64 {
    number.map_or(0, |number| number.value)
}

pub(crate) async fn what_a_container_does_is_counted(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("counted").await?;
    // Half a gibibyte of work, a variable of 24 MiB, a file of 9 MiB in the writable layer.
    let script = "dd if=/dev/zero of=/file bs=1M count=9 2>/dev/null; x=$(head -c 25165824 /dev/zero | tr '\\0' a); \
                  echo full; while :; do :; done";
    let mut config = container("c", BUSYBOX, &["/bin/sh", "-c", script]);
    config.labels.insert("tier".into(), "back".into());
    config.annotations.insert("note".into(), "kept".into());
    if let Some(linux) = config.linux.as_mut() {
        linux.resources = Some(cri::LinuxContainerResources { memory_limit_in_bytes: 256 << 20, ..Default::default() });
    }
    let id = world.client.create(&sandbox, config).await?;
    let created = stats(&world, &id).await?;
    ensure!(created.cpu.is_none() && created.memory.is_none(), "one that doesn't run pretends: {created:?}");
    world.client.start(&id).await?;
    let began = Instant::now();
    let told = loop {
        let told = stats(&world, &id).await?;
        let memory = told.memory.context("memory of a running container")?;
        let cpu = told.cpu.context("a processor of a running container")?;
        let layer = told.writable_layer.clone().context("a writable layer")?;
        let full = value(memory.rss_bytes.as_ref()) > 24 * MIB
            && value(cpu.usage_nano_cores.as_ref()) > 100_000_000
            && value(layer.used_bytes.as_ref()) >= 9 * MIB;
        if full || began.elapsed() > SOON {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let (cpu, memory) = (told.cpu.unwrap_or_default(), told.memory.unwrap_or_default());
    ensure!(value(cpu.usage_core_nano_seconds.as_ref()) > 0, "{told:?}");
    ensure!((100_000_000..=2_200_000_000).contains(&value(cpu.usage_nano_cores.as_ref())), "{told:?}");
    ensure!(value(memory.rss_bytes.as_ref()) > 24 * MIB, "{told:?}");
    let (usage, working) = (value(memory.usage_bytes.as_ref()), value(memory.working_set_bytes.as_ref()));
    ensure!(usage >= working && working > 24 * MIB, "{told:?}");
    ensure!(memory.available_bytes == Some(cri::UInt64Value { value: 256 * MIB - working }), "{told:?}");
    ensure!(value(memory.page_faults.as_ref()) > 1000 && memory.major_page_faults.is_some(), "{told:?}");
    let layer = told.writable_layer.clone().unwrap_or_default();
    ensure!(value(layer.used_bytes.as_ref()) >= 9 * MIB && value(layer.inodes_used.as_ref()) >= 2, "{layer:?}");
    let mountpoint = layer.fs_id.unwrap_or_default().mountpoint;
    ensure!(Path::new(&mountpoint).is_dir() && layer.timestamp > 0, "{mountpoint:?}");
    // What the kernel doesn't say is absent, and what it says is there.
    ensure!(cpu.psi.is_none() == cgroup_v1() && told.io.is_none() == cgroup_v1(), "{told:?}");
    let counted = Path::new("/sys/fs/cgroup/memory/memory.memsw.usage_in_bytes").exists() || !cgroup_v1();
    ensure!(told.swap.is_some() == counted, "{told:?}");
    let attributes = told.attributes.context("attributes")?;
    ensure!(attributes.id == id && attributes.labels.get("tier").is_some_and(|tier| tier == "back"), "{attributes:?}");
    ensure!(attributes.annotations.get("note").is_some_and(|note| note == "kept"), "{attributes:?}");
    ensure!(attributes.metadata.is_some_and(|metadata| metadata.name == "c"), "no metadata");
    world.client.end(&sandbox).await
}

pub(crate) async fn a_pod_is_told_as_a_whole(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("whole").await?;
    let hold = "x=$(head -c 12582912 /dev/zero | tr '\\0' a); echo full; sleep 1000; true";
    let one = world.client.launch(&sandbox, "one", BUSYBOX, &["/bin/sh", "-c", hold]).await?;
    let two = world.client.launch(&sandbox, "two", BUSYBOX, &["/bin/sh", "-c", hold]).await?;
    let gone = world.client.launch(&sandbox, "gone", BUSYBOX, &["/bin/true"]).await?;
    world.client.wait(&gone, SOON).await?;
    let gateway = world.client.shell(&one, "ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'").await?;
    // Nobody listens: a packet each way is what counts.
    world.client.exec(&one, &["/bin/sh", "-c", &format!("nc -w 1 {} 9 </dev/null", gateway.trim())]).await?;
    let began = Instant::now();
    let told = loop {
        let told = pod_stats(&world, &sandbox).await?;
        let linux = told.linux.clone().context("Linux")?;
        let full = value(linux.memory.unwrap_or_default().rss_bytes.as_ref()) > 24 * MIB;
        // A shell that is full has its sleep yet to start.
        let all = linux.process.is_some_and(|process| value(process.process_count.as_ref()) >= 5);
        if (full && all) || began.elapsed() > SOON {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let attributes = told.attributes.clone().context("attributes")?;
    let metadata = attributes.metadata.context("metadata")?;
    ensure!(attributes.id == sandbox.id && metadata.uid == "uid-whole" && metadata.namespace == "default");
    ensure!(attributes.labels.get("test").is_some_and(|label| label == "whole"), "{:?}", attributes.labels);
    let linux = told.linux.context("Linux")?;
    let names: BTreeSet<&str> =
        linux.containers.iter().filter_map(|c| Some(c.attributes.as_ref()?.id.as_str())).collect();
    ensure!(names == BTreeSet::from([one.as_str(), two.as_str()]), "{names:?}");
    ensure!(value(linux.memory.unwrap_or_default().rss_bytes.as_ref()) > 24 * MIB, "{:?}", linux.memory);
    let processes = linux.process.context("processes")?;
    // Two shells, two sleeps, the pause process.
    ensure!(value(processes.process_count.as_ref()) >= 5, "{processes:?}");
    let network = linux.network.context("a network")?;
    let eth0 = network.default_interface.clone().context("a default interface")?;
    ensure!(network.timestamp > 0 && eth0.name == "eth0", "{network:?}");
    ensure!(value(eth0.tx_bytes.as_ref()) > 0 && value(eth0.rx_bytes.as_ref()) > 0, "{network:?}");
    ensure!(eth0.rx_errors.is_some() && eth0.tx_errors.is_some(), "{network:?}");
    ensure!(
        network.interfaces.iter().all(|interface| interface.name != "lo" && interface.name != "eth0"),
        "{network:?}"
    );
    // The list says the same of the same pod, the stream too.
    let filter = cri::PodSandboxStatsFilter { id: sandbox.id.clone(), ..Default::default() };
    let request = cri::ListPodSandboxStatsRequest { filter: Some(filter.clone()) };
    let listed = world.client.runtime.clone().list_pod_sandbox_stats(request).await?.into_inner().stats;
    ensure!(listed.len() == 1, "{} pods", listed.len());
    let request = cri::StreamPodSandboxStatsRequest { filter: Some(filter) };
    let mut stream = world.client.runtime.clone().stream_pod_sandbox_stats(request).await?.into_inner();
    let first = stream.message().await?.context("a message")?;
    ensure!(first.pod_sandbox_stats.len() == 1 && stream.message().await?.is_none(), "{first:?}");
    world.client.end(&sandbox).await?;

    let sandbox = world.client.run(host_network(world.pod("hostly"))).await?;
    let told = pod_stats(&world, &sandbox).await?.linux.context("Linux")?;
    ensure!(told.network.is_none(), "the host's network is told as the pod's: {:?}", told.network);
    world.client.end(&sandbox).await
}

pub(crate) async fn pods_in_one_cgroup_are_told_apart(world: Arc<World>) -> Outcome {
    let parent = format!("/podwright-test-shared-{}", std::process::id());
    let mut sandboxes = Vec::new();
    for (name, mib) in [("small", 2), ("large", 30)] {
        let mut config = world.pod(name);
        if let Some(linux) = config.linux.as_mut() {
            linux.cgroup_parent.clone_from(&parent);
        }
        let sandbox = world.client.run(config).await?;
        let hold = format!("x=$(head -c {} /dev/zero | tr '\\0' a); sleep 1000; true", mib * MIB);
        world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sh", "-c", &hold]).await?;
        sandboxes.push(sandbox);
    }
    let began = Instant::now();
    let (small, large) = loop {
        let mut told = Vec::new();
        for sandbox in &sandboxes {
            let memory = pod_stats(&world, sandbox).await?.linux.and_then(|linux| linux.memory).unwrap_or_default();
            told.push(value(memory.rss_bytes.as_ref()));
        }
        if told[1] > 30 * MIB || began.elapsed() > SOON {
            break (told[0], told[1]);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    for sandbox in &sandboxes {
        world.client.end(sandbox).await?;
    }
    // The parent is its creator's to remove.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let left = hierarchy.path().join(parent.trim_start_matches('/'));
        if left.is_dir() {
            std::fs::remove_dir(&left)?;
        }
    }
    let unified = Path::new("/sys/fs/cgroup").join(parent.trim_start_matches('/'));
    if unified.is_dir() {
        std::fs::remove_dir(unified)?;
    }
    ensure!(large > 30 * MIB && small < 20 * MIB, "{small} and {large} bytes");
    Ok(())
}

/// All pods' metrics, as the stream brings them.
async fn streamed(world: &World) -> anyhow::Result<Vec<cri::PodSandboxMetrics>> {
    let request = cri::StreamPodSandboxMetricsRequest {};
    let mut stream = world.client.runtime.clone().stream_pod_sandbox_metrics(request).await?.into_inner();
    let mut pods = Vec::new();
    while let Some(message) = stream.message().await? {
        pods.extend(message.pod_sandbox_metrics);
    }
    Ok(pods)
}

pub(crate) async fn metrics_fit_their_descriptors(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("metrics").await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sh", "-c", "nc -l -p 9 & exec sleep 1000"]).await?;
    let request = cri::ListMetricDescriptorsRequest {};
    let descriptors = world.client.runtime.clone().list_metric_descriptors(request).await?.into_inner().descriptors;
    let keys: BTreeMap<&str, &Vec<String>> = descriptors.iter().map(|d| (d.name.as_str(), &d.label_keys)).collect();
    ensure!(keys.len() == descriptors.len() && keys.len() > 50, "{} names of {}", keys.len(), descriptors.len());
    let began = Instant::now();
    let pods = loop {
        let pods = streamed(&world).await?;
        let metrics = pods.iter().flat_map(|pod| &pod.container_metrics).filter(|own| own.container_id == id);
        let mut sockets = metrics.flat_map(|own| &own.metrics).filter(|metric| metric.name == "container_sockets");
        if sockets.any(|metric| value(metric.value.as_ref()) > 0) || began.elapsed() > SOON {
            break pods;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let listed = world.client.runtime.clone().list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await?;
    for pod in listed.into_inner().pod_metrics.iter().chain(&pods) {
        for metric in pod.metrics.iter().chain(pod.container_metrics.iter().flat_map(|container| &container.metrics)) {
            let labels = keys.get(metric.name.as_str()).with_context(|| format!("no descriptor of {}", metric.name))?;
            ensure!(labels.len() == metric.label_values.len(), "{metric:?} has not the labels {labels:?}");
            ensure!(metric.value.is_some() && metric.timestamp == 0, "{metric:?}");
        }
    }
    let pod = pods.iter().find(|pod| pod.pod_sandbox_id == sandbox.id).context("the pod is streamed")?;
    let of = pod.container_metrics.iter().find(|container| container.container_id == id).context("its container")?;
    let told = |name: &str| -> anyhow::Result<u64> {
        let metric = of.metrics.iter().find(|metric| metric.name == name).with_context(|| format!("no {name}"))?;
        Ok(value(metric.value.as_ref()))
    };
    ensure!(told("container_processes")? == 2 && told("container_sockets")? >= 1);
    ensure!(told("container_memory_working_set_bytes")? > 0 && told("container_spec_cpu_shares")? > 0);
    ensure!(told("container_last_seen")? >= told("container_start_time_seconds")?);
    ensure!(told("container_file_descriptors")? >= 6 && told("container_fs_limit_bytes")? > 0);
    for name in ["container_cpu_usage_seconds_total", "container_oom_events_total", "container_memory_rss"] {
        told(name)?;
    }
    let metric = of.metrics.first().context("a metric")?;
    let labels: BTreeMap<&str, &str> = keys[metric.name.as_str()]
        .iter()
        .map(String::as_str)
        .zip(metric.label_values.iter().map(String::as_str))
        .collect();
    for (label, expected) in
        [("container", "c"), ("image", BUSYBOX), ("name", id.as_str()), ("namespace", "default"), ("pod", "metrics")]
    {
        ensure!(labels.get(label) == Some(&expected), "{label}: {labels:?}");
    }
    let sent = pod.metrics.iter().find(|metric| metric.name == "container_network_transmit_bytes_total");
    let sent = sent.context("the pod's network")?;
    ensure!(
        sent.label_values.contains(&"POD".to_owned()) && sent.label_values.contains(&"eth0".to_owned()),
        "{sent:?}"
    );
    ensure!(
        !of.metrics.iter().any(|metric| metric.name.starts_with("container_network_")),
        "a container has no network"
    );
    let psi = of.metrics.iter().any(|metric| metric.name.starts_with("container_pressure_"));
    ensure!(psi != cgroup_v1(), "pressure on v1, or none on v2");
    world.client.end(&sandbox).await
}

/// The labels that a kubelet gives every value; each metric's own come behind them.
const KUBELET_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// The names in the first column of a section of docs/cri.md.
fn first_column(page: &str, title: &str) -> BTreeSet<String> {
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(title)).unwrap_or_default();
    let cells = section.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

pub(crate) async fn metrics_are_those_of_a_kubelets_cadvisor(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("cadvisor").await?;
    world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let request = cri::ListMetricDescriptorsRequest {};
    let descriptors = world.client.runtime.clone().list_metric_descriptors(request).await?.into_inner().descriptors;
    let ours: BTreeMap<&str, &Vec<String>> = descriptors.iter().map(|d| (d.name.as_str(), &d.label_keys)).collect();
    let pods = streamed(&world).await?;
    let mut types: BTreeMap<&str, BTreeSet<cri::MetricType>> = BTreeMap::new();
    for pod in &pods {
        for metric in pod.metrics.iter().chain(pod.container_metrics.iter().flat_map(|own| &own.metrics)) {
            types.entry(&metric.name).or_default().insert(metric.metric_type());
        }
    }
    let facts = include_str!("../../facts/cadvisor-metrics.txt").lines().filter(|line| !line.starts_with('#'));
    let (mut missing, mut compared, mut told) = (BTreeSet::new(), 0, 0);
    for line in facts {
        let mut words = line.split(' ');
        let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let Some(labels) = ours.get(name) else {
            missing.insert(name.to_owned());
            continue;
        };
        let own = words.next().into_iter().flat_map(|labels| labels.split(','));
        let expected: Vec<&str> = KUBELET_LABELS.into_iter().chain(own).collect();
        ensure!(**labels == expected, "{name} has the labels {labels:?}, in a kubelet {expected:?}");
        let expected = if kind == "counter" { cri::MetricType::Counter } else { cri::MetricType::Gauge };
        if let Some(types) = types.get(name) {
            ensure!(types.iter().all(|own| *own == expected), "{name} is {types:?}, in a kubelet a {kind}");
            told += 1;
        }
        compared += 1;
    }
    ensure!(compared > 50 && told > 40, "{compared} metrics compared, {told} of them with values");
    // Each that isn't there is named with its reason, and no other.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cri.md");
    let named = first_column(&std::fs::read_to_string(page)?, "Metrics that aren't told");
    ensure!(named == missing, "docs/cri.md names {named:?}, but missing are {missing:?}");
    world.client.end(&sandbox).await
}

/// Images and writable layers.
async fn fs_info(world: &World) -> anyhow::Result<(cri::FilesystemUsage, cri::FilesystemUsage)> {
    let answer = world.client.images.clone().image_fs_info(cri::ImageFsInfoRequest {}).await?.into_inner();
    let (images, layers) = (answer.image_filesystems, answer.container_filesystems);
    ensure!(images.len() == 1 && layers.len() == 1, "{images:?} {layers:?}");
    Ok((images[0].clone(), layers[0].clone()))
}

pub(crate) async fn file_systems_of_images_and_layers_are_told_apart(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("fsinfo").await?;
    let (images, before) = fs_info(&world).await?;
    for (what, told) in [("images", &images), ("layers", &before)] {
        let mountpoint = told.fs_id.clone().unwrap_or_default().mountpoint;
        ensure!(Path::new(&mountpoint).is_absolute() && Path::new(&mountpoint).is_dir(), "{what}: {told:?}");
        ensure!(told.timestamp > 0, "{what}: {told:?}");
    }
    ensure!(images.fs_id != before.fs_id && value(images.used_bytes.as_ref()) > 0, "{images:?} {before:?}");
    let script = "dd if=/dev/zero of=/file bs=1M count=20 2>/dev/null; echo done; sleep 1000";
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sh", "-c", script]).await?;
    let began = Instant::now();
    while !world.log("fsinfo", "c").is_ok_and(|log| log.contains("done")) && began.elapsed() < SOON {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let began = Instant::now();
    loop {
        let (_, after) = fs_info(&world).await?;
        let layer = stats(&world, &id).await?.writable_layer.unwrap_or_default();
        if value(after.used_bytes.as_ref()) >= 20 * MIB && value(layer.used_bytes.as_ref()) >= 20 * MIB {
            break;
        }
        ensure!(began.elapsed() < SOON, "20 MiB don't show: {after:?} {layer:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn a_list_of_many_is_told_in_milliseconds(world: Arc<World>) -> Outcome {
    let mut sandboxes = Vec::new();
    for pod in 0..6 {
        let sandbox = world.sandbox(&format!("many-{pod}")).await?;
        for number in 0..10 {
            world.client.launch(&sandbox, &format!("c{number}"), BUSYBOX, &["/bin/sleep", "1000"]).await?;
        }
        sandboxes.push(sandbox);
    }
    // Containerd takes 92 ms; an unoptimized build on a busy machine must not be slower.
    const LIMIT: Duration = Duration::from_millis(90);
    let mut best = Duration::MAX;
    // Again where other tests keep the machine busy: the best counts.
    for round in 0..100 {
        if round >= 5 && best < LIMIT {
            break;
        }
        let began = Instant::now();
        let request = cri::ListContainerStatsRequest::default();
        let stats = world.client.runtime.clone().list_container_stats(request).await?.into_inner().stats;
        best = best.min(began.elapsed());
        ensure!(stats.len() >= 60, "{} of 60", stats.len());
    }
    println!("ListContainerStats of 60 containers: {best:?}");
    for sandbox in &sandboxes {
        world.client.end(sandbox).await?;
    }
    ensure!(best < LIMIT, "{best:?}");
    Ok(())
}
