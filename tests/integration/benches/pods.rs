//! Pods, execs and memory, measured through CRI: ours, and in the same run a peer where one is given.
//!
//! `cargo bench -p tests-integration --bench pods -- [--rounds N] [--peer NAME=unix:///path.sock [--peer-image IMAGE]]`
//!
//! Rounds alternate between the runtimes, so that a drift of the machine's speed meets both alike. Prints a Markdown table.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use runtime_cri_api::v1 as cri;
use tests_integration::client::{self, Sandbox};
use tests_integration::image::{self, Dialect, Packing};
use tests_integration::{Client, Node, Options, machine};

const BUSYBOX: &str = "podwright.test/busybox:1";
/// Pods that stand at once while memory is weighed.
const WEIGHED: usize = 20;
/// Pods of the throughput run, and how many at a time.
const STORM: usize = 60;
const AT_ONCE: usize = 4;
/// Processes that stand beside a pod: ours, containerd's and CRI-O's.
const BESIDE: &[&str] = &["podwright-pod", "pause", "containerd-shim", "conmon"];

struct Runtime {
    name: String,
    client: Client,
    image: String,
    logs: PathBuf,
    daemon: u32,
    figures: Figures,
}

#[derive(Default)]
struct Figures {
    run: Vec<Duration>,
    create: Vec<Duration>,
    start: Vec<Duration>,
    whole: Vec<Duration>,
    exec: Vec<Duration>,
    end: Vec<Duration>,
    pods_per_second: f64,
    per_pod_kib: f64,
    idle_kib: u64,
}

struct Wanted {
    rounds: usize,
    peer: Option<(String, PathBuf)>,
    peer_image: String,
}

fn main() -> ExitCode {
    match measure() {
        Ok(table) => {
            println!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wanted() -> anyhow::Result<Wanted> {
    let mut wanted =
        Wanted { rounds: 100, peer: None, peer_image: "registry.k8s.io/e2e-test-images/busybox:1.29-2".into() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => wanted.rounds = value()?.parse().context("--rounds takes a number")?,
            "--peer" => {
                let text = value()?;
                let (name, socket) = text.split_once("=unix://").context("--peer takes NAME=unix:///path")?;
                wanted.peer = Some((name.to_owned(), socket.into()));
            }
            "--peer-image" => wanted.peer_image = value()?,
            "--bench" => {}
            other => bail!("{other} is unknown: --rounds, --peer and --peer-image are not"),
        }
    }
    Ok(wanted)
}

fn measure() -> anyhow::Result<String> {
    let wanted = wanted()?;
    if let Some(obstacle) = machine::obstacle() {
        bail!("{obstacle}");
    }
    machine::enter_private_network()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(all(&wanted))
}

async fn all(wanted: &Wanted) -> anyhow::Result<String> {
    let node = Node::start(Options::default()).await?;
    let mut runtimes = Vec::new();
    let idle = pss_kib(node.pid().context("the node runs")?);
    let busybox = image::image(Dialect::Oci, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
    node.import(&image::archive(&busybox, BUSYBOX)?, BUSYBOX)?;
    let logs = node.scratch().join("logs");
    runtimes.push(Runtime {
        name: "podwright".into(),
        client: node.client().await?,
        image: BUSYBOX.into(),
        logs: logs.clone(),
        daemon: node.pid().context("the node runs")?,
        figures: Figures { idle_kib: idle, ..Figures::default() },
    });
    if let Some((name, socket)) = &wanted.peer {
        let client = Client::connect(socket).await.with_context(|| format!("the peer at {}", socket.display()))?;
        client.pull(&wanted.peer_image).await?;
        let daemon = tokio::net::UnixStream::connect(socket).await?.peer_cred()?.pid().context("a peer has a pid")?;
        let daemon = u32::try_from(daemon)?;
        let figures = Figures { idle_kib: pss_kib(daemon), ..Figures::default() };
        runtimes.push(Runtime { name: name.clone(), client, image: wanted.peer_image.clone(), logs, daemon, figures });
    }
    for round in 0..wanted.rounds + 3 {
        for one in &mut runtimes {
            // The first three rounds warm up and are not counted.
            one.round(round, round >= 3).await?;
        }
    }
    for one in &mut runtimes {
        one.storm().await?;
        one.weigh().await?;
    }
    table(&runtimes)
}

impl Runtime {
    fn config(&self, name: &str) -> cri::PodSandboxConfig {
        client::pod(&format!("bench-{}-{name}", self.name), &self.logs)
    }

    async fn pod(&self, name: &str) -> anyhow::Result<(Sandbox, String, [Duration; 3])> {
        let began = Instant::now();
        let sandbox = self.client.run(self.config(name)).await?;
        let run = began.elapsed();
        let id = self.client.create(&sandbox, client::container("c", &self.image, &["/bin/sleep", "100000"])).await?;
        let create = began.elapsed();
        self.client.start(&id).await?;
        Ok((sandbox, id, [run, create - run, began.elapsed() - create]))
    }

    async fn round(&mut self, round: usize, counts: bool) -> anyhow::Result<()> {
        let (sandbox, id, [run, create, start]) = self.pod(&format!("round{round}")).await?;
        let mut execs = Vec::new();
        for _ in 0..5 {
            let began = Instant::now();
            let (code, ..) = self.client.exec(&id, &["/bin/true"]).await?;
            execs.push(began.elapsed());
            anyhow::ensure!(code == 0, "true ended with {code}");
        }
        let began = Instant::now();
        self.client.stop(&id, 0).await?;
        self.client.remove(&id).await?;
        self.client.end(&sandbox).await?;
        let end = began.elapsed();
        if counts {
            let figures = &mut self.figures;
            figures.run.push(run);
            figures.create.push(create);
            figures.start.push(start);
            figures.whole.push(run + create + start);
            figures.exec.extend(execs);
            figures.end.push(end);
        }
        Ok(())
    }

    /// Starts many pods, a few at a time, and ends them.
    async fn storm(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let this = &*self;
        let lanes = (0..AT_ONCE).map(|lane| async move {
            let mut made = Vec::new();
            for number in (lane..STORM).step_by(AT_ONCE) {
                made.push(this.pod(&format!("storm{number}")).await?.0);
            }
            anyhow::Ok(made)
        });
        let made = futures_util::future::try_join_all(lanes).await?;
        let took = began.elapsed();
        for sandbox in made.into_iter().flatten() {
            self.client.end(&sandbox).await?;
        }
        self.figures.pods_per_second = f64::from(u32::try_from(STORM)?) / took.as_secs_f64();
        Ok(())
    }

    /// The memory that stands beside each pod.
    async fn weigh(&mut self) -> anyhow::Result<()> {
        let before = beside_kib();
        let mut made = Vec::new();
        for number in 0..WEIGHED {
            made.push(self.pod(&format!("weight{number}")).await?.0);
        }
        let after = beside_kib();
        for sandbox in made {
            self.client.end(&sandbox).await?;
        }
        let pods = f64::from(u32::try_from(WEIGHED)?);
        self.figures.per_pod_kib = (after as f64 - before as f64) / pods;
        Ok(())
    }
}

fn table(runtimes: &[Runtime]) -> anyhow::Result<String> {
    let mut text = String::from("| measure |");
    for one in runtimes {
        write!(text, " {} |", one.name)?;
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(runtimes.len()));
    type Pick = fn(&Figures) -> &Vec<Duration>;
    let rows: [(&str, Pick); 6] = [
        ("Run+Create+Start", |figures| &figures.whole),
        ("RunPodSandbox", |figures| &figures.run),
        ("CreateContainer", |figures| &figures.create),
        ("StartContainer", |figures| &figures.start),
        ("ExecSync of true", |figures| &figures.exec),
        ("Stop+Remove container and pod", |figures| &figures.end),
    ];
    for (name, pick) in rows {
        write!(text, "\n| {name}, p50 / p99 / min (ms) |")?;
        for one in runtimes {
            let mut times = pick(&one.figures).clone();
            times.sort();
            let at = |percent: usize| {
                times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
            };
            let ms = |time: Duration| time.as_secs_f64() * 1000.0;
            write!(text, " {:.2} / {:.2} / {:.2} |", ms(at(50)), ms(at(99)), ms(at(0)))?;
        }
    }
    write!(text, "\n| pods per second, {AT_ONCE} at a time ({STORM} pods) |")?;
    for one in runtimes {
        write!(text, " {:.1} |", one.figures.pods_per_second)?;
    }
    write!(text, "\n| own memory per pod, PSS of {WEIGHED} (KiB) |")?;
    for one in runtimes {
        write!(text, " {:.0} |", one.figures.per_pod_kib)?;
    }
    text.push_str("\n| daemon, PSS fresh / after the run (KiB) |");
    for one in runtimes {
        write!(text, " {} / {} |", one.figures.idle_kib, pss_kib(one.daemon))?;
    }
    Ok(text)
}

/// `Pss` of a process in KiB; 0 when it is gone.
fn pss_kib(pid: u32) -> u64 {
    let text =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap_or(0)
}

/// The sum over all processes that stand beside pods.
fn beside_kib() -> u64 {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .filter(|pid| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            BESIDE.iter().any(|name| comm.trim().starts_with(name))
        })
        .map(pss_kib)
        .sum()
}
