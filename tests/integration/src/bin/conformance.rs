//! Runs critest against a `podwright node` of its own and tells what passed, failed and was skipped, and what is left
//! behind. `tests/integration/conformance` builds what it needs and starts it.

#![expect(clippy::print_stdout, reason = "a test program says what it found")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use runtime_cri_api::v1 as cri;
use tests_integration::conformance::images::{self, Programs};
use tests_integration::conformance::suite::{Streams, Suite, Tally};
use tests_integration::registry::Registry;
use tests_integration::{Ledger, Node, Options, machine};

const USAGE: &str =
    "usage: conformance --critest FILE --ginkgo FILE --busybox FILE --nginx FILE --logs DIR [--images DIR]
       [--procs N] [--runs N] [--seed N] [--websocket] [-- ARGUMENT OF critest…]";

/// How long the machine may take to be as it was before.
const SETTLE: Duration = Duration::from_secs(15);

struct Arguments {
    suite: Suite,
    programs: Programs,
    logs: PathBuf,
    images: Option<PathBuf>,
    runs: u32,
    seed: Option<u32>,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(obstacle) = machine::obstacle() {
        println!("skipped: critest: {obstacle}\n0 passed, 0 failed, 1 skipped");
        return ExitCode::SUCCESS;
    }
    match machine::enter_private_network().and_then(|()| run(&arguments)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            println!("0 passed, 1 failed, 0 skipped");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let (mut critest, mut ginkgo, mut busybox, mut nginx) = (None, None, None, None);
    let (mut logs, mut images) = (None, None);
    let (mut processes, mut runs, mut seed, mut streams) = (1, 1, None, Streams::Spdy);
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--critest" => critest = Some(PathBuf::from(value()?)),
            "--ginkgo" => ginkgo = Some(PathBuf::from(value()?)),
            "--busybox" => busybox = Some(PathBuf::from(value()?)),
            "--nginx" => nginx = Some(PathBuf::from(value()?)),
            "--logs" => logs = Some(PathBuf::from(value()?)),
            "--images" => images = Some(PathBuf::from(value()?)),
            "--procs" => processes = value()?.parse().context("--procs takes a number")?,
            "--runs" => runs = value()?.parse().context("--runs takes a number")?,
            "--seed" => seed = Some(value()?.parse().context("--seed takes a number")?),
            "--websocket" => streams = Streams::WebSocket,
            "--" => rest.extend(words.by_ref()),
            _ => bail!("unknown argument {word}"),
        }
    }
    let named = |file: Option<PathBuf>, name: &str| file.with_context(|| format!("{name} is missing"));
    let suite = Suite {
        critest: named(critest, "--critest")?,
        ginkgo: named(ginkgo, "--ginkgo")?,
        processes,
        streams,
        arguments: rest,
    };
    let programs = Programs { busybox: named(busybox, "--busybox")?, nginx: named(nginx, "--nginx")? };
    Ok(Arguments { suite, programs, logs: named(logs, "--logs")?, images, runs, seed })
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    std::fs::create_dir_all(&arguments.logs)?;
    runtime.block_on(async {
        let before = Ledger::take();
        let mut own = Vec::new();
        let ended = tokio::select! {
            ended = against_a_node(arguments, &mut own) => ended,
            signal = interrupted() => Err(anyhow::anyhow!("ended by {signal}")),
        };
        let mut total = ended?;
        for row in settled(&before, &own).await {
            total.failed.push(("leak".into(), row));
        }
        if arguments.runs > 1 || total.failed.iter().any(|(name, _)| name == "leak") {
            tell_failures(&total, "leak");
        }
        tell_skips(&total);
        println!("{}", counts(&total));
        Ok(if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Everything between the first and the last process; words that name what it makes are put into `own`.
async fn against_a_node(arguments: &Arguments, own: &mut Vec<String>) -> anyhow::Result<Tally> {
    let folder = tempfile::Builder::new().prefix("podwright-conformance-").tempdir()?;
    // Pods' volumes lie here, and a mapped user has to reach them.
    machine::run("chmod", &["0755", &folder.path().display().to_string()])?;
    own.push(folder.path().display().to_string());
    // Also when it is interrupted: dropped after the node, before the folder.
    let _mounts = Mounts(folder.path().to_owned());
    let registry = registry(arguments, &folder.path().join("registry")).await?;
    let cgroup_root = format!("/podwright-conformance-{}", std::process::id());
    own.push(cgroup_root.clone());
    let options = Options {
        mirror: Some(registry.address.clone()),
        cgroup_root: Some(cgroup_root),
        arguments: vec!["--keeper".into(), "off".into()],
        ..Default::default()
    };
    let node = Node::start(options).await?;
    own.extend([node.scratch().display().to_string(), node.run_directory().display().to_string()]);
    let mut total = Tally::default();
    let first = arguments.seed.unwrap_or_else(|| moment() % 100_000);
    for (number, seed) in (1..=arguments.runs).zip(first..) {
        let place = folder.path().join(format!("run-{number}"));
        std::fs::create_dir(&place)?;
        let began = Instant::now();
        let ended = arguments.suite.run(&node.endpoint(), seed, &place).await;
        keep(&node, &place, &arguments.logs, number)?;
        let mut tally = ended?;
        tally.failed.extend(left_in(&node).await?.into_iter().map(|what| ("what a run leaves".to_owned(), what)));
        println!("run {number}, seed {seed}: {} ({:.0} s)", counts(&tally), began.elapsed().as_secs_f64());
        tell_failures(&tally, "");
        total.passed += tally.passed;
        total.failed.extend(tally.failed);
        total.skipped = if number == 1 { tally.skipped } else { [total.skipped, tally.skipped].concat() };
    }
    Ok(total)
}

/// A registry with the suite's images: those of an earlier run where the caller keeps them, on this machine or another.
async fn registry(arguments: &Arguments, own: &Path) -> anyhow::Result<Registry> {
    let folder = arguments.images.as_deref().unwrap_or(own);
    let complete = folder.join("complete");
    let registry = Registry::start(folder).await?;
    if !complete.exists() {
        let began = Instant::now();
        let images = images::push_all(&registry, &arguments.programs).await?;
        println!("{images} images made in {:.1} s", began.elapsed().as_secs_f64());
        std::fs::write(complete, "")?;
    }
    Ok(registry)
}

/// Copies what a run said to where the caller looks.
fn keep(node: &Node, place: &Path, logs: &Path, number: u32) -> anyhow::Result<()> {
    for name in ["critest.log", "report.json"] {
        let _ = std::fs::copy(place.join(name), logs.join(format!("run-{number}-{name}")));
    }
    Ok(std::fs::write(logs.join("node.log"), node.log())?)
}

/// Sandboxes and containers that are still there after a run.
async fn left_in(node: &Node) -> anyhow::Result<Vec<String>> {
    let client = node.client().await?;
    let pods = client.runtime.clone().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.into_inner().items;
    let containers =
        client.runtime.clone().list_containers(cri::ListContainersRequest::default()).await?.into_inner().containers;
    let name = |name: Option<String>| name.unwrap_or_default();
    let pods = pods.into_iter().map(|pod| format!("sandbox {} {}", pod.id, name(pod.metadata.map(|data| data.name))));
    let containers =
        containers.into_iter().map(|one| format!("container {} {}", one.id, name(one.metadata.map(|data| data.name))));
    Ok(pods.chain(containers).collect())
}

/// What is left of ours, looked at until nothing is. Others may run at the same time, so a row counts that names what we
/// made; links, routes, rules and sockets are those of our own network namespace.
async fn settled(before: &Ledger, own: &[String]) -> Vec<String> {
    let began = Instant::now();
    loop {
        let left: Vec<String> = Ledger::take().since(before).into_iter().filter(|row| ours(row, own)).collect();
        if left.is_empty() || began.elapsed() > SETTLE {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn ours(row: &str, own: &[String]) -> bool {
    let named = |text: &str| own.iter().any(|word| text.contains(word));
    match row.split_once(": ") {
        Some(("process", rest)) => {
            let pid = rest.split(' ').next().unwrap_or_default();
            let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            named(&read("cgroup")) || named(&read("cmdline").replace('\0', " "))
        }
        Some(("link" | "route" | "rule" | "unix socket", _)) => true,
        Some((_, rest)) => named(rest),
        None => false,
    }
}

/// Undoes, when dropped, the mounts that the suite's propagation specs leave in a folder when they are cut short.
struct Mounts(PathBuf);

impl Drop for Mounts {
    fn drop(&mut self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for place in table.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
            if Path::new(place).starts_with(&self.0) {
                let _ = machine::output("umount", &["-l", place]);
            }
        }
    }
}

async fn interrupted() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut hangup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "SIGINT",
        _ = term.recv() => "SIGTERM",
        _ = hangup.recv() => "SIGHUP",
    }
}

fn moment() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|time| time.subsec_nanos()).unwrap_or(1)
}

fn counts(tally: &Tally) -> String {
    format!("{} passed, {} failed, {} skipped", tally.passed, tally.failed.len(), tally.skipped.len())
}

fn tell_failures(tally: &Tally, only: &str) {
    for (name, message) in tally.failed.iter().filter(|(name, _)| name.starts_with(only)) {
        let lines: Vec<&str> = message.lines().take(12).collect();
        println!("failed: {name}\n    {}", lines.join("\n    "));
    }
}

fn tell_skips(tally: &Tally) {
    let mut told: Vec<String> = tally.skipped.iter().map(|(name, why)| format!("skipped: {name}: {why}")).collect();
    told.sort();
    told.dedup();
    for line in told {
        println!("{line}");
    }
}
