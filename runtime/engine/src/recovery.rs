//! From the records on disk to an engine that serves: supervisors are asked, `runtime-lifecycle` decides, and what has to be
//! done is done here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use cni_chain::Network;
use images_service::Images;
use runtime_lifecycle::{
    Action, Boot, ContainerId, ContainerView, Decision, Exit, Heard, PauseView, Recovery, SandboxId, SandboxRecord,
    SandboxState, Timestamp, View, recover,
};
use runtime_wire::{ContainerState, ExitRecord, FailureKind, Phase, Request, State};
use tokio::task::JoinSet;

use crate::{
    Engine, EngineConfig, EngineError, blocking, boot_time, bootid, disk,
    loss::{greet, kill_cgroup},
    now,
    records::{self, Found, PodDirectory, StoredContainer},
    sandbox::identity,
    spec,
    supervisor::{self, Link},
    volumes,
    world::{Container, Sandbox, World, name_of},
};

/// Proof that what was there has been taken over: only [`Engine::open`] makes one, and a server asks for it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// Sandboxes that were taken over.
    pub sandboxes: usize,
    /// Containers that were taken over.
    pub containers: usize,
    /// What couldn't be read, one sentence each.
    pub set_aside: Vec<String>,
}

pub(crate) async fn open(
    config: EngineConfig,
    images: Images,
    network: Network,
) -> Result<(Arc<Engine>, Recovered), EngineError> {
    let (engine, found) = blocking(move || prepare(config, images, network)).await?;
    let engine = Arc::new(engine);
    for what in &found.set_aside {
        tracing::error!(what, "a record can't be read");
    }
    for (id, directory) in &found.orphans {
        engine.end_orphan(id, directory).await;
    }
    let links = engine.connect_all(&found.sandboxes).await;
    let recovered = engine.adopt(found, links).await?;
    Ok((engine, recovered))
}

fn prepare(config: EngineConfig, images: Images, network: Network) -> Result<(Engine, Found), EngineError> {
    for (path, mode) in [
        (config.run.clone(), 0o711),
        (records::pods(&config.run), 0o711),
        (config.root.clone(), 0o700),
        (records::layers(&config.root), 0o700),
    ] {
        fs::DirBuilder::new().recursive(true).mode(mode).create(&path).map_err(disk("make", path))?;
    }
    let program = &config.supervisor_program;
    let program = File::open(program).map_err(disk("open the supervisor's program", program))?;
    let program = runtime_sys::memfd::sealed_copy(&program, "podwright-pod")
        .map_err(|source| EngineError::Kernel { step: "copy the supervisor's program", source })?;
    let status = fs::read_to_string("/proc/self/status").map_err(disk("read", "/proc/self/status"))?;
    let found = records::find(&config.run)?;
    let engine = Engine {
        sandbox_flights: Default::default(),
        container_flights: Default::default(),
        sandbox_slots: tokio::sync::Semaphore::new(config.limits.sandbox_operations_max),
        images,
        network,
        program,
        boot: bootid::boot_id()?,
        started: boot_time(),
        random: File::open("/dev/urandom").map_err(disk("open", "/dev/urandom"))?,
        capabilities: spec::held_capabilities(&status),
        modules: crate::lsm::Modules::look(&config.run),
        user_namespaces: crate::userns::look(&config.root),
        world: World::default(),
        teller: crate::event::Teller::default(),
        meters: crate::stats::Meters::default(),
        announced_cidr: std::sync::Mutex::default(),
        config,
    };
    Ok((engine, found))
}

impl Engine {
    /// All at once: one that is stuck costs its deadline, not the sum.
    async fn connect_all(self: &Arc<Self>, sandboxes: &[SandboxRecord]) -> BTreeMap<SandboxId, (Arc<Link>, State)> {
        let mut asked = JoinSet::new();
        for record in
            sandboxes.iter().filter(|record| record.boot == self.boot && record.state != SandboxState::Stopped)
        {
            let (engine, id) = (Arc::clone(self), record.id.clone());
            asked.spawn(async move {
                let told = engine.connect_one(&id).await;
                (id, told)
            });
        }
        let mut links = BTreeMap::new();
        while let Some(told) = asked.join_next().await {
            match told {
                Ok((id, Ok(link))) => {
                    links.insert(id, link);
                }
                Ok((id, Err(error))) => {
                    tracing::warn!(sandbox = id.short(), %error, "its supervisor does not answer");
                }
                Err(error) => tracing::error!(%error, "a recovery task failed"),
            }
        }
        links
    }

    async fn connect_one(self: &Arc<Self>, id: &SandboxId) -> Result<(Arc<Link>, State), EngineError> {
        let stream = supervisor::connect(&PodDirectory::new(&self.config.run, id))?;
        let link = Link::start(id.clone(), stream, Arc::downgrade(self))?;
        match greet(&link, self.config.limits.recovery_answer).await {
            Ok(state) => Ok((link, state)),
            Err(error) => {
                link.closing();
                Err(error)
            }
        }
    }

    /// A pod whose record can't be read has no name, address or owner any more: nobody could ever stop it, and its next
    /// attempt would meet its ports. Its supervisor is asked to end it; without one, its cgroups are emptied.
    async fn end_orphan(self: &Arc<Self>, id: &SandboxId, directory: &Path) {
        let dir = PodDirectory::moved(directory.to_owned());
        let asked = async {
            let link = Link::start(id.clone(), supervisor::connect(&dir)?, Arc::downgrade(self))?;
            link.closing();
            let deadline = self.config.limits.recovery_answer;
            greet(&link, deadline).await?;
            link.tell("stop the sandbox", Request::StopSandbox, deadline).await?;
            link.tell("end the supervisor", Request::Quit, deadline).await
        };
        match asked.await {
            Ok(()) | Err(EngineError::SupervisorGone { .. }) => {
                tracing::warn!(sandbox = id.short(), "a pod whose record can't be read was ended");
            }
            // It was stopped before.
            Err(EngineError::Kernel { source, .. })
                if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(sandbox = id.short(), error, "a pod whose record can't be read may still run");
            }
        }
        let cgroup = PathBuf::from(format!("{}/{id}", self.config.pods_cgroup()));
        if let Err(error) = blocking(move || kill_cgroup(&cgroup)).await {
            let error: &dyn std::error::Error = &error;
            tracing::error!(sandbox = id.short(), error, "its cgroups are left");
        }
    }

    async fn adopt(
        self: &Arc<Self>,
        found: Found,
        mut links: BTreeMap<SandboxId, (Arc<Link>, State)>,
    ) -> Result<Recovered, EngineError> {
        let Found { sandboxes, containers, exits, set_aside, orphans: _ } = found;
        let mut processes: BTreeMap<ContainerId, _> = BTreeMap::new();
        let mut container_records = Vec::with_capacity(containers.len());
        for StoredContainer { record, process } in containers {
            processes.insert(record.id.clone(), process);
            container_records.push(record);
        }
        let boot = if sandboxes.iter().any(|record| record.boot != self.boot) { Boot::Other } else { Boot::Same };
        let decision = recover(Recovery {
            boot,
            sandboxes,
            containers: container_records,
            heard: links.iter().map(|(id, (_, state))| (id.clone(), Heard::Alive(view(state)))).collect(),
            exits: exits.into_iter().map(|(id, record)| (id, ended(&record))).collect(),
            now: now(),
        });
        let Decision { mut sandboxes, containers, actions } = decision;
        // The newest has a name that two claim.
        sandboxes.sort_by_key(|record| std::cmp::Reverse(record.created_at));
        for record in sandboxes {
            let id = record.id.clone();
            let _ = self.world.claim_sandbox(&record.config.metadata, &id);
            let sandbox = Arc::new(Sandbox::new(record, PodDirectory::new(&self.config.run, &id)));
            sandbox.set_link(links.remove(&id).map(|(link, _)| link));
            sandbox.save()?;
            self.world.add_sandbox(sandbox);
        }
        for record in containers {
            let Some(process) = processes.remove(&record.id) else { continue };
            let _ = self.world.claim_container(name_of(&record), &record.id);
            if let Err(error) = self.images.hold(&record.image_id, record.id.as_str()) {
                tracing::warn!(container = record.id.short(), %error, "its image is not in the store any more");
            }
            volumes::hold_again(&self.images, &record.id, &record.volume_images);
            let dir = PodDirectory::new(&self.config.run, &record.sandbox);
            let container = Arc::new(Container::new(StoredContainer { record, process }, dir));
            container.save()?;
            self.world.add_container(container);
        }
        let counts =
            (self.world.sandboxes(&Default::default()).len(), self.world.containers(&Default::default()).len());
        for action in actions {
            self.carry_out(action, &mut links).await;
        }
        let live = self.world.sandboxes(&Default::default());
        let live: BTreeSet<String> = live
            .iter()
            .filter(|record| record.state != SandboxState::Stopped && record.boot == self.boot)
            .map(|record| record.id.to_string())
            .collect();
        let report = self.network.reconcile(&live).await;
        tracing::debug!(?report, "the network was compared with the sandboxes");
        self.sweep();
        Ok(Recovered { sandboxes: counts.0, containers: counts.1, set_aside })
    }

    /// A failure here is one object's, never a reason not to serve.
    async fn carry_out(self: &Arc<Self>, action: Action, links: &mut BTreeMap<SandboxId, (Arc<Link>, State)>) {
        let done = match action {
            Action::DiscardSandbox(record) => self.discard_sandbox(*record, links).await,
            Action::DiscardContainer(record) => self.discard_container(&record).await,
            Action::KillSandbox(id) => match self.world.sandbox(&id) {
                Ok(sandbox) => self.kill_sandbox(&sandbox).await,
                Err(error) => Err(error),
            },
            Action::Forget { sandbox, container } => self.forget(&sandbox, container).await,
            Action::ResumeStop { container, .. } => {
                let (engine, container) = (Arc::clone(self), self.world.container(&container));
                container.map(|container| {
                    tokio::spawn(async move {
                        if let Err(error) = engine.see_through(&container).await {
                            tracing::warn!(container = container.id.short(), %error, "a resumed stop failed");
                        }
                    });
                })
            }
            Action::ResumeStopSandbox(id) => {
                let engine = Arc::clone(self);
                tokio::spawn(async move {
                    if let Err(error) = engine.stop_sandbox(&id).await {
                        tracing::warn!(sandbox = id.short(), %error, "a resumed stop failed");
                    }
                });
                Ok(())
            }
        };
        if let Err(error) = done {
            tracing::warn!(error = &error as &dyn std::error::Error, "a step of recovery failed");
        }
    }

    /// It was being made when the daemon died.
    async fn discard_sandbox(
        self: &Arc<Self>,
        record: SandboxRecord,
        links: &mut BTreeMap<SandboxId, (Arc<Link>, State)>,
    ) -> Result<(), EngineError> {
        let dir = PodDirectory::new(&self.config.run, &record.id);
        let sandbox = Arc::new(Sandbox::new(record, dir.clone()));
        sandbox.set_link(links.remove(&sandbox.id).map(|(link, _)| link));
        let ended = self.end_supervisor(&sandbox).await;
        let detached = self
            .network
            .detach(sandbox.id.as_str())
            .await
            .map_err(|source| EngineError::Network { id: sandbox.id.clone(), source: Box::new(source) });
        ended.and(detached)?;
        blocking(move || records::remove_tree(dir.path())).await
    }

    async fn discard_container(
        self: &Arc<Self>,
        record: &runtime_lifecycle::ContainerRecord,
    ) -> Result<(), EngineError> {
        if self.world.sandbox(&record.sandbox).is_ok() {
            self.forget(&record.sandbox, record.id.to_string()).await?;
        }
        let dir = PodDirectory::new(&self.config.run, &record.sandbox);
        records::remove(&dir.container(&record.id))?;
        records::remove(&dir.exit(&record.id))?;
        let layer = records::layer(&self.config.root, &record.id);
        blocking(move || records::remove_tree(&layer)).await
    }

    async fn forget(&self, sandbox: &SandboxId, container: String) -> Result<(), EngineError> {
        let Ok(link) = self.world.sandbox(sandbox)?.link() else { return Ok(()) };
        let deadline = self.config.limits.supervisor_answer;
        let kill = Request::Signal { container: container.clone(), signal: spec::SIGKILL, every_process: true };
        for (step, request) in
            [("kill a container", kill), ("forget a container", Request::RemoveContainer { container })]
        {
            match link.tell(step, request, deadline).await {
                Ok(()) | Err(EngineError::Supervisor { kind: FailureKind::NotFound, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writable layers that no record knows: of removals that were cut off. Behind the start, since it may take long.
    fn sweep(&self) {
        let known: BTreeSet<String> =
            self.world.containers(&Default::default()).iter().map(|record| record.id.to_string()).collect();
        let layers = records::layers(&self.config.root);
        let before: Vec<PathBuf> = match fs::read_dir(&layers) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => return,
        };
        tokio::task::spawn_blocking(move || {
            for path in before {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if !known.contains(&name)
                    && let Err(error) = records::remove_tree(Path::new(&path))
                {
                    tracing::warn!(layer = name, %error, "a left writable layer could not be removed");
                }
            }
        });
    }
}

fn view(state: &State) -> View {
    let pause = match &state.sandbox {
        None => PauseView::NotMade,
        Some(sandbox) if sandbox.alive => PauseView::Alive(identity(sandbox.pause)),
        Some(_) => PauseView::Dead,
    };
    let containers = state.containers.iter().map(|ContainerState { id, phase }| {
        let view = match phase {
            Phase::Created => ContainerView::Created,
            Phase::Running { process, started_unix_nanos } => {
                ContainerView::Running { process: identity(*process), since: Timestamp(*started_unix_nanos) }
            }
            Phase::Exited { started_unix_nanos, exit } => ContainerView::Exited {
                exit: Exit::observed(exit.code, exit.oom_killed),
                since: Timestamp(*started_unix_nanos),
                until: Timestamp(exit.at_unix_nanos),
            },
        };
        (id.clone(), view)
    });
    View { pause, containers: containers.collect() }
}

fn ended(record: &ExitRecord) -> (Exit, Timestamp, Timestamp) {
    let exit = Exit::observed(record.exit.code, record.exit.oom_killed);
    (exit, Timestamp(record.started_unix_nanos), Timestamp(record.exit.at_unix_nanos))
}
