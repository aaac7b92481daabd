//! Containers: created, started, removed. (Stopped: `stop.rs`.)

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use images_service::RootLayers;
use runtime_lifecycle::{
    Claim, ContainerConfig, ContainerEvent, ContainerId, ContainerName, ContainerRecord, ContainerState,
    RECORD_VERSION, SandboxId, SandboxRecord, Stdin, Timestamp,
};
use runtime_wire::{Answer, ContainerSpec, FailureKind, Request, Root};

use crate::{
    Engine, EngineError, EventKind,
    anonymous::{self, Volume},
    blocking, cdi, disk,
    flights::Entered,
    imagefiles, logpath, now,
    records::{self, StoredContainer},
    sandbox::identity,
    seccomp,
    spec::{self, Placement},
    supervisor::{Ask, Brings, Link},
    to_the_end,
    undo::Undo,
    userns,
    users::{self, Accounts, Resolved},
    volumes,
    world::{Container, Sandbox},
};

mod repeated;

/// What is known of a container before anything of it is made.
struct Plan {
    record: ContainerRecord,
    spec: ContainerSpec,
    process: oci_spec::runtime::Process,
    /// The directory of all that it writes.
    layer: PathBuf,
    /// Directories that the image calls volumes, to be filled from its layers.
    volumes: Vec<Volume>,
    lowers: Vec<PathBuf>,
    mount_label: Option<String>,
}

impl Engine {
    /// Creates a container in a sandbox that is ready: checks it, prepares its root and its cgroup, starts nothing. The same
    /// (name, attempt) again gets the container that was made, as long as that wasn't started.
    pub async fn create_container(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId, EngineError> {
        let sandbox = self.world.sandbox(sandbox)?;
        let engine = Arc::clone(self);
        let name = ContainerName { sandbox: sandbox.id.clone(), name: config.name.clone(), attempt: config.attempt };
        to_the_end(async move {
            match engine.container_flights.enter(&name) {
                Entered::First(flight) => flight.land(engine.create(&sandbox, name, config).await),
                Entered::Under(waiting) => {
                    let made = waiting.outcome().await?;
                    engine.joined(made, sandbox.id.clone(), config).await
                }
            }
        })
        .await
    }

    async fn create(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        name: ContainerName,
        config: ContainerConfig,
    ) -> Result<ContainerId, EngineError> {
        let pod = sandbox.record();
        if !pod.state.is_ready() {
            return Err(EngineError::SandboxNotReady { id: sandbox.id.clone(), state: pod.state.name() });
        }
        let link = sandbox.link()?;
        let id = ContainerId::from_random(self.random_id_bytes()?);
        if let Claim::Held(holder) = self.world.claim_container(name.clone(), &id) {
            return self.joined(holder, sandbox.id.clone(), config).await;
        }
        let mut undo = Undo::default();
        let (engine, gone, mounts) = (Arc::clone(self), id.clone(), config.mounts.clone());
        undo.push("forget the container", async move {
            engine.world.drop_container(&gone);
            engine.world.release_container_name(&name, &gone);
            engine.images.release(gone.as_str());
            volumes::release(&engine.images, &gone, &mounts);
            Ok(())
        });
        match self.create_steps(sandbox, &pod, &link, &id, config, &mut undo).await {
            Ok(()) => Ok(id),
            Err(error) => {
                undo.run().await;
                Err(error)
            }
        }
    }

    /// Somebody has the name already: perhaps the same request, repeated after its client gave up waiting.
    async fn joined(
        &self,
        holder: ContainerId,
        sandbox: SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId, EngineError> {
        let taken = |sandbox: SandboxId| EngineError::ContainerNameTaken {
            sandbox,
            name: config.name.clone(),
            attempt: config.attempt,
            holder: holder.clone(),
        };
        // Just removed: whoever asked comes again.
        let Ok(container) = self.world.container(&holder) else { return Err(taken(sandbox)) };
        // Held by whoever starts or removes it.
        let _order = container.order.lock().await;
        let record = container.record();
        match record.state {
            ContainerState::Created if repeated::is_repeated(&record.config, &config) => Ok(holder),
            _ => Err(taken(sandbox)),
        }
    }

    async fn create_steps(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        pod: &Arc<SandboxRecord>,
        link: &Link,
        id: &ContainerId,
        config: ContainerConfig,
        undo: &mut Undo,
    ) -> Result<(), EngineError> {
        let image = config.image.image.clone();
        let layers = self.images.root_for(&image, id.as_str()).map_err(|source| match source.kind() {
            images_service::Kind::NotFound => EngineError::NoSuchImage { image: image.clone() },
            _ => EngineError::Image { image: image.clone(), source: Box::new(source) },
        })?;
        let root_attributes = layers.attributes;
        let mut held = volumes::hold(&self.images, id, &config.mounts)?;
        self.modules.settled(&config.security).await?;
        let (engine, placed, planned) = (Arc::clone(self), Arc::clone(pod), id.clone());
        let mut plan = blocking(move || engine.plan(&placed, &planned, config, layers)).await?;
        let layer = plan.layer.clone();
        let mut directories = vec![layer.clone(), layer.join("upper"), layer.join("work")];
        if volumes::complete(&mut held.volumes, &layer) {
            directories.push(layer.join(volumes::EMPTY));
        }
        (plan.spec.image_volumes, plan.record.volume_images) = (held.volumes, held.ids);
        let stored = StoredContainer { record: plan.record, process: plan.process };
        let container = Arc::new(Container::new(stored, sandbox.dir.clone()));
        let _order = container.order.lock().await;
        self.world.add_container(Arc::clone(&container));
        let (root, gone) = (self.config.root.clone(), Arc::clone(&container));
        undo.push("remove the container's files", async move {
            blocking(move || {
                gone.forget_files()?;
                records::remove_tree(&records::layer(&root, &gone.id))
            })
            .await
        });
        // The intent, before anything of it exists.
        container.save()?;
        for directory in directories {
            fs::create_dir(&directory).map_err(disk("make", directory))?;
        }
        if !plan.volumes.is_empty() {
            let (volumes, lowers, label) = (plan.volumes, plan.lowers, plan.mount_label);
            let (user, into) = (pod.config.namespaces.user, layer.clone());
            blocking(move || anonymous::make(&volumes, &into, &lowers, user, label.as_deref())).await?;
        }
        userns::give(&layer.join("upper"), pod.config.namespaces.user)?;
        crate::imagefiles::dress(&layer.join("upper"), root_attributes, pod.config.namespaces.user)
            .map_err(|source| EngineError::Kernel { step: "give the image's attributes to the root", source })?;
        let record = container.record();
        self.prepare(sandbox, link, plan.spec, &record.config.mounts).await?;
        container.step(ContainerEvent::Created)?;
        // Before anybody can start it.
        self.tell(EventKind::Created, &sandbox.id, Some(id));
        Ok(())
    }

    /// Everything that a container is, decided. Reads account files of the image and device nodes of the host.
    fn plan(
        &self,
        pod: &SandboxRecord,
        id: &ContainerId,
        config: ContainerConfig,
        layers: RootLayers,
    ) -> Result<Plan, EngineError> {
        let image = layers.config.config().as_ref();
        let user = who(&config, image.and_then(|image| image.user().as_deref()).unwrap_or(""), &layers.lowers)?;
        let stop_signal =
            spec::stop_signal(config.stop_signal, image.and_then(|image| image.stop_signal().as_deref()))?;
        let cdi = cdi::Devices::find(&config, &self.config.cdi_spec_dirs)?;
        let devices = spec::devices_of(&config)?;
        let (seccomp, profile) = seccomp::choose(&config.security, &self.capabilities)?;
        let labels = self.modules.labels(&config.security, &pod.id)?;
        let cgroup = self.container_cgroup(pod, id);
        let dir = crate::records::PodDirectory::new(&self.config.run, &pod.id);
        let log = logpath::of(pod, &config)?;
        let layer = records::layer(&self.config.root, id);
        let volumes = anonymous::of(&layers.config, &config.mounts, &layer)?;
        let mut spec = spec::build(Placement {
            sandbox: &pod.config,
            config: &config,
            image: &layers.config,
            user: &user,
            pod_files: dir.path(),
            cgroup: &cgroup,
            available: &self.capabilities,
            devices: &devices,
            volumes: &volumes,
            seccomp: profile,
            labels: &labels,
        })?;
        cdi.apply(&mut spec)?;
        let process = spec.process().clone().expect("built with one");
        let lowers = if volumes.is_empty() { Vec::new() } else { layers.lowers.clone() };
        let spec = ContainerSpec {
            id: id.to_string(),
            spec,
            root: Root::Overlay {
                lowers: layers.lowers,
                upper: layer.join("upper"),
                work: layer.join("work"),
                volatile: true,
            },
            seccomp,
            log: log.clone(),
            stdin: stdin(config.stdin),
            pid_target: config.security.pid_target.as_deref().map(|target| self.target(pod, target)).transpose()?,
            image_volumes: Vec::new(),
        };
        let record = ContainerRecord {
            version: RECORD_VERSION,
            id: id.clone(),
            sandbox: pod.id.clone(),
            image_id: layers.image.id.clone(),
            volume_images: Vec::new(),
            created_at: now(),
            // Absolute and never empty: see `ContainerRecord::log`.
            log: log.unwrap_or_else(|| dir.containers().join(format!("{id}.log"))),
            cgroup,
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            stop_signal,
            resources: None,
            config,
            state: ContainerState::Creating,
        };
        Ok(Plan { record, spec, process, layer, volumes, lowers, mount_label: labels.mounts })
    }

    /// The container whose processes are to be seen: one of the same pod, that runs.
    fn target(&self, pod: &SandboxRecord, text: &str) -> Result<String, EngineError> {
        let id = self.world.find_container(text)?;
        let record = self.world.container(&id)?.record();
        if record.sandbox != pod.id {
            return Err(EngineError::invalid("namespace_options.target_id", format!("{id} is in another sandbox")));
        }
        match record.state.process() {
            Some(_) => Ok(id.to_string()),
            None => Err(EngineError::ContainerNotRunning { id, state: record.state.name() }),
        }
    }

    fn container_cgroup(&self, pod: &SandboxRecord, id: &ContainerId) -> String {
        match &pod.config.cgroup_parent {
            Some(parent) => format!("{}/{id}", parent.trim_end_matches('/')),
            None => format!("{}/{}/{id}", self.config.pods_cgroup(), pod.id),
        }
    }

    /// Starts a container that was created. One that runs already is as good.
    pub async fn start_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), EngineError> {
        let container = self.world.container(id)?;
        let engine = Arc::clone(self);
        to_the_end(async move { engine.start(&container).await }).await
    }

    async fn start(&self, container: &Container) -> Result<(), EngineError> {
        let _order = container.order.lock().await;
        let sandbox = self.world.sandbox(&container.sandbox)?;
        if container.record().state.process().is_some() {
            return Ok(());
        }
        let pod = sandbox.record();
        if !pod.state.is_ready() {
            return Err(EngineError::SandboxNotReady { id: sandbox.id.clone(), state: pod.state.name() });
        }
        let link = sandbox.link()?;
        if let Some(directory) = container.record().log.parent()
            && container.record().config.log_path != Path::new("")
        {
            fs::create_dir_all(directory).map_err(disk("make", directory))?;
        }
        container.step(ContainerEvent::StartAsked)?;
        // The end of a very short program may be heard of before the answer that it was started is taken.
        let _told_at_the_end = container.keep_ends(|end| self.end(container, end));
        self.ask_to_start(container, &link).await
    }

    async fn ask_to_start(&self, container: &Container, link: &Link) -> Result<(), EngineError> {
        let asked = Ask {
            step: "start the container",
            request: Request::StartContainer { container: container.id.to_string() },
            descriptors: &[],
            brings: Brings::Nothing,
            deadline: self.config.limits.container_start,
        };
        match link.ask(asked).await {
            Ok((Answer::Started { process, at_unix_nanos }, _)) => {
                container.step(ContainerEvent::Started { process: identity(process), at: Timestamp(at_unix_nanos) })?;
                self.tell(EventKind::Started, &container.sandbox, Some(&container.id));
                Ok(())
            }
            Ok(_) => Err(link.protocol("start the container")),
            Err(error) => {
                self.not_started(container, &error)?;
                Err(error)
            }
        }
    }

    fn not_started(&self, container: &Container, error: &EngineError) -> Result<(), EngineError> {
        let event = match error {
            EngineError::Supervisor { kind: FailureKind::Refused | FailureKind::NotFound, .. } => {
                ContainerEvent::StartAbandoned
            }
            // The loss of the supervisor is told by the connection's end.
            EngineError::SupervisorGone { .. } => return Ok(()),
            _ => ContainerEvent::StartFailed { message: error.to_string(), at: now() },
        };
        // It may have ended meanwhile, which says more.
        let (record, _) = match container.step(event) {
            Err(EngineError::ContainerRefused { .. }) => return Ok(()),
            other => other?,
        };
        if matches!(record.state, ContainerState::Exited { .. }) {
            self.tell(EventKind::Stopped, &container.sandbox, Some(&container.id));
        }
        Ok(())
    }

    /// Kills a container if it runs and takes everything of it away. One that isn't there is [`crate::Kind::NotFound`].
    pub async fn remove_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), EngineError> {
        let container = self.world.container(id)?;
        let engine = Arc::clone(self);
        to_the_end(async move {
            engine.stop(&container, Duration::ZERO).await?;
            engine.take_container_away(&container).await
        })
        .await
    }

    pub(crate) async fn take_container_away(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let _order = container.order.lock().await;
        // Somebody else removed it while this waited.
        self.world.container(&container.id)?;
        let sandbox = self.world.sandbox(&container.sandbox)?;
        if let Ok(link) = sandbox.link() {
            let request = Request::RemoveContainer { container: container.id.to_string() };
            match link.tell("remove the container", request, self.config.limits.supervisor_answer).await {
                Ok(())
                | Err(
                    EngineError::Supervisor { kind: FailureKind::NotFound, .. } | EngineError::SupervisorGone { .. },
                ) => {}
                Err(error) => return Err(error),
            }
        }
        let (root, id) = (self.config.root.clone(), container.id.clone());
        container.forget_files()?;
        // The name is free and the client told once the layer is out of the way; its files are removed behind that.
        let trash = records::layers(&root).join(format!("{id}.gone"));
        match fs::rename(records::layer(&root, &id), &trash) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk("rename", trash)(error)),
            _ => {}
        }
        tokio::task::spawn_blocking(move || {
            if let Err(error) = records::remove_tree(&trash) {
                tracing::warn!(container = id.short(), %error, "the writable layer is left for the next start");
            }
        });
        self.images.release(container.id.as_str());
        volumes::release(&self.images, &container.id, &container.record().config.mounts);
        self.world.drop_container(&container.id);
        self.tell(EventKind::Deleted, &container.sandbox, Some(&container.id));
        Ok(())
    }

    /// Closes a container's log and opens its path anew.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<(), EngineError> {
        let container = self.world.container(id)?;
        let record = container.record();
        if record.state.process().is_none() {
            return Err(EngineError::ContainerNotRunning { id: id.clone(), state: record.state.name() });
        }
        let link = self.world.sandbox(&container.sandbox)?.link()?;
        let request = Request::ReopenLog { container: id.to_string() };
        link.tell("reopen the log", request, self.config.limits.supervisor_answer).await
    }

    /// A container that can't have an exit code any more, since its supervisor is gone: from its exit record if there is
    /// one, else a guess.
    pub(crate) fn lose(&self, container: &Container) {
        let record = container.record();
        if matches!(record.state, ContainerState::Creating | ContainerState::Exited { .. }) {
            return;
        }
        let dir = crate::records::PodDirectory::new(&self.config.run, &container.sandbox);
        let event = match records::read::<runtime_wire::ExitRecord>(&dir.exit(&container.id)) {
            Ok(exit) => died(&exit.exit, Some(Timestamp(exit.started_unix_nanos))),
            Err(_) => ContainerEvent::Died { exit: runtime_lifecycle::Exit::supervisor_lost(), since: None, at: now() },
        };
        self.end(container, event);
    }

    /// Takes the step to its end and tells.
    pub(crate) fn end(&self, container: &Container, event: ContainerEvent) {
        match container.step(event) {
            Ok((_, crate::world::Changed::Yes)) => {
                self.tell(EventKind::Stopped, &container.sandbox, Some(&container.id));
            }
            Ok((_, crate::world::Changed::No)) => {}
            Err(error) => {
                tracing::error!(
                    container = container.id.short(),
                    error = &error as &dyn std::error::Error,
                    "its end could not be noted"
                );
            }
        }
    }
}

/// What a supervisor's exit is to us.
pub(crate) fn died(exit: &runtime_wire::Exit, since: Option<Timestamp>) -> ContainerEvent {
    ContainerEvent::Died {
        exit: runtime_lifecycle::Exit::observed(exit.code, exit.oom_killed),
        since,
        at: Timestamp(exit.at_unix_nanos),
    }
}

fn stdin(asked: Stdin) -> runtime_wire::Stdin {
    match asked {
        Stdin::Closed => runtime_wire::Stdin::Closed,
        Stdin::Open => runtime_wire::Stdin::Open,
        Stdin::Once => runtime_wire::Stdin::Once,
    }
}

/// Looks names up in the image's own account files.
fn who(config: &ContainerConfig, image_user: &str, layers: &[PathBuf]) -> Result<Resolved, EngineError> {
    let read = |path| {
        imagefiles::read(layers, path)
            .map_err(|source| EngineError::Kernel { step: "read the image's account files", source })
    };
    let accounts = Accounts { passwd: read("/etc/passwd")?, group: read("/etc/group")? };
    users::resolve(&config.security, image_user, &accounts)
}
