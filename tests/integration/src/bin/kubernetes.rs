//! Runs Podwright, or containerd, below a Kubernetes of one node, and tells case by case whether what people do with it
//! works. `tests/integration/kubernetes/run` builds what it needs and starts it.
//!
//! The program runs twice: outside it makes the node and takes it away, inside, as the node's first command, it starts the
//! daemons and runs the cases.

#![expect(clippy::print_stdout, reason = "a test program says what it found")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tests_integration::conformance::images::Programs;
use tests_integration::kubernetes::cluster::{Cluster, Layout, Runtime};
use tests_integration::kubernetes::outside::{self, Outside};
use tests_integration::kubernetes::shell::pause;
use tests_integration::kubernetes::{cases, images, suite};
use tests_integration::machine;
use tests_integration::registry::Registry;

const USAGE: &str = "usage: kubernetes --home DIR --bin DIR --images DIR --logs DIR --busybox FILE --nginx FILE
       [--programs DIR] [--runtime podwright|containerd] [--only PATTERN[,PATTERN…]] [--jobs N] [--keep] [--list]";

/// Programs without which there is no node.
const NEEDED: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
    "agnhost",
];

/// Further ones for the peer.
const PEER: &[&str] = &["containerd", "containerd-shim-runc-v2", "runc", "cni/bridge", "cni/host-local", "cni/portmap"];

struct Arguments {
    home: PathBuf,
    bin: PathBuf,
    images: PathBuf,
    logs: PathBuf,
    programs: Programs,
    podwright: PathBuf,
    runtime: Runtime,
    only: Vec<String>,
    jobs: usize,
    keep: bool,
    list: bool,
    /// The node's state and cgroup, where this is the inner of the two.
    inside: Option<(PathBuf, String)>,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = match &arguments.inside {
        _ if arguments.list => {
            cases::all().iter().for_each(|case| println!("{}", case.name));
            Ok(ExitCode::SUCCESS)
        }
        Some((state, cgroup)) => inside(&arguments, state, cgroup),
        None => {
            if let Some(obstacle) = machine::obstacle() {
                println!("skipped: kubernetes: {obstacle}\n0 passed, 0 failed, 1 skipped");
                return ExitCode::SUCCESS;
            }
            around(&arguments)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        println!("0 passed, 1 failed, 0 skipped");
        ExitCode::FAILURE
    })
}

fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let (mut home, mut bin, mut images, mut logs) = (None, None, None, None);
    let (mut busybox, mut nginx, mut podwright, mut inside) = (None, None, None, None);
    let (mut runtime, mut only, mut jobs, mut keep, mut list) = (Runtime::Podwright, Vec::new(), 4, false, false);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--home" => home = Some(PathBuf::from(value()?)),
            "--bin" => bin = Some(PathBuf::from(value()?)),
            "--images" => images = Some(PathBuf::from(value()?)),
            "--logs" => logs = Some(PathBuf::from(value()?)),
            "--busybox" => busybox = Some(PathBuf::from(value()?)),
            "--nginx" => nginx = Some(PathBuf::from(value()?)),
            "--programs" => podwright = Some(PathBuf::from(value()?)),
            "--runtime" => {
                runtime = match value()?.as_str() {
                    "podwright" => Runtime::Podwright,
                    "containerd" => Runtime::Containerd,
                    other => bail!("no runtime {other}: podwright or containerd"),
                }
            }
            "--only" => only = value()?.split(',').map(str::to_owned).collect(),
            "--jobs" => jobs = value()?.parse().context("--jobs takes a number")?,
            "--keep" => keep = true,
            "--list" => list = true,
            "--inside" => inside = Some((PathBuf::from(value()?), value()?)),
            _ => bail!("unknown argument {word}"),
        }
    }
    let named = |file: Option<PathBuf>, name: &str| file.with_context(|| format!("{name} is missing"));
    let beside = machine::built("podwright").ok().and_then(|program| program.parent().map(Path::to_owned));
    Ok(Arguments {
        home: named(home, "--home")?,
        bin: named(bin, "--bin")?,
        images: named(images, "--images")?,
        logs: named(logs, "--logs")?,
        programs: Programs { busybox: named(busybox, "--busybox")?, nginx: named(nginx, "--nginx")? },
        podwright: named(podwright.or(beside), "--programs")?,
        runtime,
        only,
        jobs,
        keep,
        list,
        inside,
    })
}

/// Makes the node, waits for the inner program, and takes the node away.
fn around(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let peer = if arguments.runtime == Runtime::Containerd { PEER } else { &[] };
    for program in NEEDED.iter().chain(peer) {
        ensure!(arguments.bin.join(program).is_file(), "{} has no {program}", arguments.bin.display());
    }
    let state = tempfile::Builder::new().prefix("podwright-kubernetes-").tempdir()?;
    // A pod's mapped user reaches its volumes through it.
    std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o755))?;
    let mut command = vec![std::env::current_exe()?.display().to_string()];
    command.extend(std::env::args().skip(1));
    command.extend(["--inside".to_owned(), state.path().display().to_string(), outside::cgroup()]);
    let waiting = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut node = Outside::start(&arguments.home.join("node"), state.path(), &command)?;
    if arguments.keep {
        eprintln!("to get in: nsenter --target \"$(pgrep --parent {})\" --all", node.pid());
    }
    let status = waiting.block_on(async {
        let signal = interrupted();
        tokio::pin!(signal);
        loop {
            if let Some(status) = node.ended()? {
                return anyhow::Ok(Some(status));
            }
            tokio::select! {
                name = &mut signal => {
                    eprintln!("ended by {name}");
                    return Ok(None);
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    })?;
    node.end()?;
    let left = std::fs::read_to_string("/proc/self/mountinfo")?;
    let left: Vec<&str> = left.lines().filter(|line| line.contains(&*state.path().to_string_lossy())).collect();
    ensure!(left.is_empty(), "mounts are left on the host:\n{}", left.join("\n"));
    state.close().context("the node's state can't be removed")?;
    let code = status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Starts the daemons and runs the cases.
fn inside(arguments: &Arguments, state: &Path, cgroup: &str) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let chosen: Vec<_> = cases::all()
        .into_iter()
        .filter(|case| arguments.only.is_empty() || arguments.only.iter().any(|word| case.name.contains(word)))
        .collect();
    ensure!(!chosen.is_empty(), "no case is called like {}", arguments.only.join(" or "));
    let background = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let registry = background.block_on(registry(arguments))?;
    let cluster = Cluster::start(
        Layout {
            home: arguments.home.clone(),
            bin: arguments.bin.clone(),
            programs: arguments.podwright.clone(),
            state: state.to_owned(),
            logs: arguments.logs.clone(),
            cgroup: cgroup.to_owned(),
            runtime: arguments.runtime,
        },
        &registry.address,
    )?;
    eprintln!("the node is Ready ({:.1} s)", began.elapsed().as_secs_f64());
    cases::prepare(&cluster)?;
    let rows = suite::run(&cluster, &chosen, arguments.jobs);
    println!("{}", suite::table(&rows));
    if arguments.keep {
        eprintln!("kept until ^C; KUBECONFIG={}", state.join("pki/admin.kubeconfig").display());
        loop {
            pause(Duration::from_secs(3600));
        }
    }
    Ok(if rows.iter().any(suite::failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A registry with the images that the manifests name, of an earlier run where there was one.
async fn registry(arguments: &Arguments) -> anyhow::Result<Registry> {
    let complete = arguments.images.join("complete");
    let registry = Registry::start(&arguments.images).await?;
    if !complete.exists() {
        let images = images::push_all(&registry, &arguments.programs, &arguments.bin).await?;
        eprintln!("{images} images made");
        std::fs::write(complete, "")?;
    }
    Ok(registry)
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
