//! The same request again: during the first, after it, across the daemon's death, by clients that give up at any moment.
//! Nobody is told that a name is taken by his own request, and stopping what is stopped is good.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use runtime_cri_api::v1 as cri;
use tests_integration::client::{Sandbox, container};
use tests_integration::image::{self, Dialect, Packing};
use tests_integration::{Client, Node, Options, Outcome};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;

use crate::{BUSYBOX, World};

/// Requests at once.
const CLIENTS: usize = 24;

/// Xorshift: the same moments in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, count: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % count
    }
}

/// Sends all at once; every third client, the first among them, gives up after some milliseconds.
async fn storm<T: Ord + Send + 'static>(
    random: &mut Random,
    asked: Vec<BoxFuture<'static, anyhow::Result<T>>>,
) -> anyhow::Result<BTreeSet<T>> {
    let mut all = JoinSet::new();
    for (number, ask) in asked.into_iter().enumerate() {
        let patience = if number % 3 == 0 { Duration::from_millis(random.below(25)) } else { Duration::from_secs(60) };
        let begin = Duration::from_millis(random.below(12));
        all.spawn(async move {
            tokio::time::sleep(begin).await;
            timeout(patience, ask).await
        });
    }
    let mut made = BTreeSet::new();
    while let Some(answer) = all.join_next().await {
        // One that gave up has nothing to say.
        if let Ok(answer) = answer? {
            made.insert(answer?);
        }
    }
    Ok(made)
}

async fn sandboxes(client: &Client, name: &str) -> anyhow::Result<Vec<cri::PodSandbox>> {
    let all = client.runtime.clone().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.into_inner().items;
    Ok(all.into_iter().filter(|one| one.metadata.as_ref().is_some_and(|metadata| metadata.name == name)).collect())
}

async fn containers(client: &Client, sandbox: &str) -> anyhow::Result<Vec<cri::Container>> {
    let filter = cri::ContainerFilter { pod_sandbox_id: sandbox.to_owned(), ..Default::default() };
    let request = cri::ListContainersRequest { filter: Some(filter) };
    Ok(client.runtime.clone().list_containers(request).await?.into_inner().containers)
}

fn kubelets(random: &mut Random) -> cri::ContainerConfig {
    // A kubelet makes a new file for the last words with each try.
    let mount = cri::Mount {
        container_path: "/dev/termination-log".into(),
        host_path: format!("{:08x}", random.below(1 << 32)),
        ..Default::default()
    };
    let where_to = ("io.kubernetes.container.terminationMessagePath".to_owned(), mount.container_path.clone());
    cri::ContainerConfig {
        mounts: vec![mount],
        annotations: [where_to].into(),
        ..container("c", BUSYBOX, &["/bin/sleep", "1000"])
    }
}

pub(crate) async fn a_storm_of_one_sandbox_makes_one(world: Arc<World>) -> Outcome {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for round in 0..4 {
        let name = format!("storm-{round}");
        let mut asked = Vec::new();
        for _ in 0..CLIENTS {
            let (client, pod) = (world.client.clone(), world.pod(&name));
            asked.push(async move { Ok(client.run(pod).await?.id) }.boxed());
        }
        let made = storm(&mut random, asked).await?;
        let listed = sandboxes(&world.client, &name).await?;
        ensure!(made.len() == 1 && listed.len() == 1 && made.contains(&listed[0].id), "{made:?} and {listed:?}");
        // Once more, when all is over.
        let sandbox = world.client.run(world.pod(&name)).await?;
        ensure!(made.contains(&sandbox.id), "another one: {}", sandbox.id);
        world.client.end(&sandbox).await?;
    }
    Ok(())
}

pub(crate) async fn a_storm_of_one_container_makes_one(world: Arc<World>) -> Outcome {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let sandbox = world.sandbox("storm-containers").await?;
    let words = world.node.scratch().join("words");
    std::fs::create_dir_all(&words)?;
    for attempt in 0..4 {
        let configs: Vec<cri::ContainerConfig> = (0..CLIENTS)
            .map(|_| {
                let mut config = kubelets(&mut random);
                config.mounts[0].host_path = words.join(&config.mounts[0].host_path).display().to_string();
                std::fs::write(&config.mounts[0].host_path, "").expect("a file");
                config.metadata = Some(cri::ContainerMetadata { name: "c".into(), attempt });
                config
            })
            .collect();
        let mut asked = Vec::new();
        for config in configs.iter().cloned() {
            let (client, sandbox) = (world.client.clone(), sandbox.clone());
            asked.push(async move { client.create(&sandbox, config).await }.boxed());
        }
        let made = storm(&mut random, asked).await?;
        ensure!(made.len() == 1, "{made:?}");
        let id = made.first().context("one")?.clone();
        ensure!(containers(&world.client, &sandbox.id).await?.len() == 1, "more than one");
        let again = world.client.create(&sandbox, configs[3].clone()).await?;
        ensure!(again == id, "another one: {again}");
        // What is told of it is what it has: the file that a kubelet reads.
        let status = world.client.status(&id).await?;
        ensure!(
            status.mounts.iter().any(|mount| mount.host_path.starts_with(&words.display().to_string())),
            "{status:?}"
        );
        // Starting is repeated as well.
        let mut asked = Vec::new();
        for _ in 0..CLIENTS {
            let (client, id) = (world.client.clone(), id.clone());
            asked.push(async move { client.start(&id).await }.boxed());
        }
        let started = storm(&mut random, asked).await?;
        ensure!(started.len() == 1, "started");
        let mut asked = Vec::new();
        for _ in 0..CLIENTS {
            let (client, id) = (world.client.clone(), id.clone());
            asked.push(async move { client.remove(&id).await }.boxed());
        }
        let removed = storm(&mut random, asked).await?;
        ensure!(removed.len() == 1 && containers(&world.client, &sandbox.id).await?.is_empty(), "removed");
    }
    world.client.end(&sandbox).await
}

/// Everything at once on one pod: whoever comes too late is told that it is gone or ended, never that something is wrong.
pub(crate) async fn stop_remove_and_start_in_parallel(world: Arc<World>) -> Outcome {
    let mut random = Random(0xda94_2042_e4dd_58b5);
    for round in 0..5 {
        let sandbox = world.sandbox(&format!("parallel-{round}")).await?;
        let mut ids = Vec::new();
        for name in ["a", "b", "c"] {
            ids.push(world.client.create(&sandbox, container(name, BUSYBOX, &["/bin/sleep", "1000"])).await?);
        }
        let mut all: JoinSet<anyhow::Result<()>> = JoinSet::new();
        for number in 0..30 {
            let (client, sandbox, id) = (world.client.clone(), sandbox.clone(), ids[number % 3].clone());
            let begin = Duration::from_millis(random.below(30));
            let verb = random.below(if round % 2 == 0 { 4 } else { 6 });
            all.spawn(async move {
                tokio::time::sleep(begin).await;
                match verb {
                    0 => may_be_late(client.start(&id).await),
                    1 => client.stop(&id, 0).await,
                    2 => client.stop(&id, 1).await,
                    3 => client.remove(&id).await,
                    4 => stop_sandbox(&client, &sandbox.id).await,
                    _ => remove_sandbox(&client, &sandbox.id).await,
                }
            });
        }
        while let Some(answer) = all.join_next().await {
            answer??;
        }
        world.client.end(&sandbox).await?;
        ensure!(sandboxes(&world.client, &format!("parallel-{round}")).await?.is_empty(), "a sandbox is left");
    }
    Ok(())
}

async fn stop_sandbox(client: &Client, id: &str) -> anyhow::Result<()> {
    client.runtime.clone().stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }).await?;
    Ok(())
}

async fn remove_sandbox(client: &Client, id: &str) -> anyhow::Result<()> {
    client.runtime.clone().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await?;
    Ok(())
}

/// What may be stopped or gone can't always be started.
fn may_be_late(answer: anyhow::Result<()>) -> anyhow::Result<()> {
    let Err(error) = answer else { return Ok(()) };
    match error.downcast_ref::<tonic::Status>().map(tonic::Status::code) {
        Some(Code::NotFound | Code::FailedPrecondition | Code::Unavailable) => Ok(()),
        _ => Err(error),
    }
}

pub(crate) async fn stopping_what_is_not_there_is_good(world: Arc<World>) -> Outcome {
    let long = "f".repeat(64);
    for id in ["feedfeed", &long, "../x", "a b"] {
        world.client.stop(id, 0).await?;
        world.client.remove(id).await?;
        stop_sandbox(&world.client, id).await?;
        remove_sandbox(&world.client, id).await?;
        let image = Some(tests_integration::client::spec("podwright.test/none:1"));
        world.client.images.clone().remove_image(cri::RemoveImageRequest { image }).await?;
    }
    Ok(())
}

/// What a client repeats until it has an answer, over the daemon's deaths.
enum Wanted {
    Sandbox(cri::PodSandboxConfig),
    Container(Sandbox),
}

impl Wanted {
    async fn once(&self, socket: &Path) -> anyhow::Result<String> {
        let client = Client::connect(socket).await?;
        match self {
            Wanted::Sandbox(pod) => Ok(client.run(pod.clone()).await?.id),
            Wanted::Container(sandbox) => {
                client.create(sandbox, container("c", BUSYBOX, &["/bin/sleep", "1000"])).await
            }
        }
    }

    async fn insist(&self, socket: &Path) -> anyhow::Result<String> {
        for _ in 0..600 {
            let error = match timeout(Duration::from_secs(20), self.once(socket)).await {
                Ok(Ok(id)) => return Ok(id),
                Ok(Err(error)) => error,
                Err(_) => bail!("no answer in 20 s"),
            };
            let code = error.downcast_ref::<tonic::Status>().map(tonic::Status::code);
            // Cut off by the daemon's death, which a client repeats; anything else would be told to a user.
            let cut_off = matches!(code, None | Some(Code::Unavailable | Code::Unknown | Code::Cancelled));
            ensure!(cut_off, "{code:?}: {error:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("no answer after 600 tries")
    }
}

pub(crate) async fn a_request_repeated_over_the_daemons_death_is_one(_: Arc<World>) -> Outcome {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut node = Node::start(Options::default()).await?;
    let busybox = image::image(Dialect::Oci, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
    node.import(&image::archive(&busybox, BUSYBOX)?, BUSYBOX)?;
    let logs = node.scratch().join("logs");
    for round in 0..5 {
        let name = format!("reborn-{round}");
        let pod = tests_integration::client::pod(&name, &logs);
        let mut clients: JoinSet<anyhow::Result<(String, String)>> = JoinSet::new();
        for _ in 0..4 {
            let (socket, pod) = (node.socket(), pod.clone());
            clients.spawn(async move {
                let id = Wanted::Sandbox(pod.clone()).insist(&socket).await?;
                let sandbox = Sandbox { id: id.clone(), config: pod };
                Ok((id, Wanted::Container(sandbox).insist(&socket).await?))
            });
        }
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(random.below(40))).await;
            node.kill()?;
            node.launch().await?;
        }
        let mut made = BTreeSet::new();
        while let Some(answer) = clients.join_next().await {
            made.insert(answer??);
        }
        ensure!(made.len() == 1, "{made:?}");
        let (sandbox, id) = made.pop_first().context("one")?;
        let client = node.client().await?;
        let listed = sandboxes(&client, &name).await?;
        ensure!(listed.len() == 1 && listed[0].id == sandbox, "{listed:?}");
        ensure!(containers(&client, &sandbox).await?.len() == 1, "more than one container");
        client.start(&id).await?;
        client.end(&Sandbox { id: sandbox, config: pod }).await?;
    }
    Ok(())
}
