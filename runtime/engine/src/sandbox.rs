//! Sandboxes: made, stopped, removed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cni_chain::{Attach, Dns as NetworkDns, PortMapping, Protocol as NetworkProtocol};
use runtime_lifecycle::{
    Claim, IdMappings, IdRange, IpcMode, NetworkMode, NetworkRecord, PidMode, ProcessIdentity, Protocol,
    RECORD_VERSION, SandboxConfig, SandboxEvent, SandboxId, SandboxRecord, SandboxState, UserMode,
};
use runtime_wire::{Answer, Namespaces, Request, SandboxSpec};

use crate::{
    Engine, EngineError, EventKind, Kind, blocking, disk,
    flights::Entered,
    now, podfiles,
    records::{self, PodDirectory},
    spec,
    supervisor::{self, Ask, Brings, Link},
    to_the_end,
    undo::Undo,
    userns,
    world::{Changed, Sandbox, lock},
};

impl Engine {
    /// Makes a sandbox, ready with its network. A request for the same (namespace, name, uid, attempt) joins the one that
    /// is under way, or gets the sandbox that it made as long as that is ready. It is finished or undone even if whoever
    /// asked goes away.
    pub async fn run_sandbox(self: &Arc<Self>, config: SandboxConfig) -> Result<SandboxId, EngineError> {
        podfiles::check(&config)?;
        spec::check_sysctls(&config.sysctls, &config.namespaces)?;
        check_parent(config.cgroup_parent.as_deref())?;
        userns::check(&config.namespaces, &self.user_namespaces)?;
        let engine = Arc::clone(self);
        to_the_end(async move {
            match engine.sandbox_flights.enter(&config.metadata) {
                Entered::First(flight) => flight.land(engine.make_sandbox(config).await),
                Entered::Under(waiting) => waiting.outcome().await,
            }
        })
        .await
    }

    async fn make_sandbox(self: &Arc<Self>, config: SandboxConfig) -> Result<SandboxId, EngineError> {
        let id = SandboxId::from_random(self.random_id_bytes()?);
        if let Claim::Held(holder) = self.world.claim_sandbox(&config.metadata, &id) {
            return match self.world.sandbox(&holder) {
                Ok(sandbox) if sandbox.record().state.is_ready() => Ok(holder),
                _ => Err(EngineError::SandboxNameTaken { name: Box::new(config.metadata), holder }),
            };
        }
        let _slot = self.sandbox_slots.acquire().await.map_err(|_| EngineError::Interrupted)?;
        let name = config.metadata.clone();
        let mut undo = Undo::default();
        match self.make_steps(config, &id, &mut undo).await {
            Ok(()) => Ok(id),
            Err(error) => {
                undo.run().await;
                self.world.release_sandbox_name(&name, &id);
                Err(error)
            }
        }
    }

    async fn make_steps(
        self: &Arc<Self>,
        config: SandboxConfig,
        id: &SandboxId,
        undo: &mut Undo,
    ) -> Result<(), EngineError> {
        let dir = PodDirectory::new(&self.config.run, id);
        let sandbox = Arc::new(Sandbox::new(self.new_record(config, id), dir.clone()));
        let _order = sandbox.order.lock().await;
        self.world.add_sandbox(Arc::clone(&sandbox));
        let (engine, gone) = (Arc::clone(self), id.clone());
        undo.push("forget the sandbox", async move {
            let dir = PodDirectory::new(&engine.config.run, &gone);
            engine.world.drop_sandbox(&gone);
            blocking(move || records::remove_tree(dir.path())).await
        });
        let (engine, torn) = (Arc::clone(self), Arc::clone(&sandbox));
        undo.push("end the supervisor", async move { engine.end_supervisor(&torn).await });
        let link = self.start_supervisor(&sandbox).await?;
        let (pause, netns) = self.make_namespaces(&sandbox, &link).await?;
        if let Some(netns) = netns {
            let (engine, gone) = (Arc::clone(self), id.clone());
            undo.push("detach the network", async move { engine.detach(&gone).await });
            self.attach_network(&sandbox, netns, pause).await?;
        }
        if self.world.is_superseded(&sandbox.record().config.metadata) {
            return Err(EngineError::Superseded { name: Box::new(sandbox.record().config.metadata.clone()) });
        }
        let limits = sandbox.record().config.resources.plus(&sandbox.record().config.overhead);
        self.limit_sandbox(&sandbox, &limits).await?;
        sandbox.step(SandboxEvent::Made { pause })?;
        self.tell(EventKind::Created, id, None);
        self.tell(EventKind::Started, id, None);
        Ok(())
    }

    fn new_record(&self, config: SandboxConfig, id: &SandboxId) -> SandboxRecord {
        let cgroup = match &config.cgroup_parent {
            Some(parent) => format!("{}/{id}", parent.trim_end_matches('/')),
            None => format!("{}/{id}/pause", self.config.pods_cgroup()),
        };
        SandboxRecord {
            version: RECORD_VERSION,
            id: id.clone(),
            config,
            boot: self.boot.clone(),
            created_at: now(),
            cgroup,
            supervisor: None,
            network: None,
            state: SandboxState::Making,
        }
    }

    async fn start_supervisor(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<Arc<Link>, EngineError> {
        let (engine, making) = (Arc::clone(self), Arc::clone(sandbox));
        let stream = blocking(move || {
            making.dir.make()?;
            // The intent, before anything of it exists.
            making.save()?;
            write_pod_files(&making, &engine.config.resolv_conf)?;
            let cgroup = engine.config.supervisors_cgroup();
            let (child, stream) =
                supervisor::spawn(std::os::fd::AsFd::as_fd(&engine.program), &making.dir, &making.id, &cgroup)?;
            let pid = i32::try_from(child.id()).unwrap_or(0);
            *lock(&making.child) = Some(child);
            let start_ticks = runtime_sys::process::start_ticks(pid)
                .map_err(|source| EngineError::Kernel { step: "identify the supervisor", source })?;
            making.change(|record| record.supervisor = Some(ProcessIdentity { pid, start_ticks }))?;
            Ok(stream)
        })
        .await?;
        let link = Link::start(sandbox.id.clone(), stream, Arc::downgrade(self))?;
        sandbox.set_link(Some(Arc::clone(&link)));
        Ok(link)
    }

    async fn make_namespaces(
        &self,
        sandbox: &Sandbox,
        link: &Link,
    ) -> Result<(ProcessIdentity, Option<std::os::fd::OwnedFd>), EngineError> {
        let record = sandbox.record();
        let config = &record.config;
        let own_network = config.namespaces.network == NetworkMode::Pod;
        let wanted = SandboxSpec {
            id: sandbox.id.to_string(),
            hostname: if own_network { config.hostname.clone() } else { String::new() },
            namespaces: Namespaces {
                network: own_network,
                ipc: config.namespaces.ipc == IpcMode::Pod,
                pid: match config.namespaces.pid {
                    PidMode::Container => runtime_wire::PidMode::Container,
                    PidMode::Pod => runtime_wire::PidMode::Pod,
                    PidMode::Node => runtime_wire::PidMode::Node,
                },
            },
            cgroup: record.cgroup.clone(),
            sysctls: spec::check_sysctls(&config.sysctls, &config.namespaces)?,
            shm_bytes: self.config.limits.shm_bytes,
            user: match config.namespaces.user {
                UserMode::Node => None,
                UserMode::Pod(mappings) => Some(wire_mappings(mappings)),
            },
            exits: sandbox.dir.exits(),
        };
        let deadline = self.config.limits.supervisor_answer;
        let hello = Request::Hello { version: runtime_wire::VERSION };
        let hello = Ask { step: "greet", request: hello, descriptors: &[], brings: Brings::Nothing, deadline };
        let create = Ask {
            step: "make the sandbox",
            request: Request::CreateSandbox(Box::new(wanted)),
            descriptors: &[],
            brings: if own_network { Brings::Descriptor } else { Brings::Nothing },
            deadline,
        };
        // Both at once: the second needs nothing of the first one's answer.
        let (_, (answer, netns)) = tokio::try_join!(link.ask(hello), link.ask(create))?;
        match (answer, own_network, netns) {
            (Answer::Sandbox { pause }, true, Some(netns)) => Ok((identity(pause), Some(netns))),
            (Answer::Sandbox { pause }, false, _) => Ok((identity(pause), None)),
            _ => Err(link.protocol("make the sandbox")),
        }
    }

    async fn attach_network(
        &self,
        sandbox: &Sandbox,
        netns: std::os::fd::OwnedFd,
        pause: ProcessIdentity,
    ) -> Result<(), EngineError> {
        let record = sandbox.record();
        let config = &record.config;
        let dns = config.dns.clone().unwrap_or_default();
        let request = Attach {
            sandbox: sandbox.id.to_string(),
            netns,
            netns_path: PathBuf::from(format!("/proc/{}/ns/net", pause.pid)),
            pod_name: config.metadata.name.clone(),
            pod_namespace: config.metadata.namespace.clone(),
            pod_uid: config.metadata.uid.clone(),
            ports: config.ports.iter().filter(|port| port.host_port != 0).map(mapping).collect(),
            dns: NetworkDns { nameservers: dns.servers, domain: None, search: dns.searches, options: dns.options },
        };
        let attached = self
            .network
            .attach(request)
            .await
            .map_err(|source| EngineError::Network { id: sandbox.id.clone(), source: Box::new(source) })?;
        let hosts = podfiles::hosts(&config.hostname, &attached.ips);
        let path = sandbox.dir.path().join(podfiles::HOSTS);
        records::write_bytes(&path, hosts.as_bytes())?;
        userns::give(&path, config.namespaces.user)?;
        let network = NetworkRecord { ips: attached.ips, interface: attached.interface };
        sandbox.change(|record| record.network = Some(network))
    }

    async fn detach(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.network
            .detach(id.as_str())
            .await
            .map_err(|source| EngineError::Network { id: id.clone(), source: Box::new(source) })
    }

    /// Ends everything in a sandbox and releases its address. Its records stay until it is removed. Repeated, it answers
    /// at once; interrupted by the daemon's end, it is resumed.
    pub async fn stop_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<(), EngineError> {
        let sandbox = self.world.sandbox(id)?;
        let engine = Arc::clone(self);
        to_the_end(async move { engine.tear_down(&sandbox).await }).await
    }

    async fn tear_down(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        let _order = sandbox.order.lock().await;
        // Its end was told when its pause process ended.
        let told = matches!(sandbox.record().state, SandboxState::NotReady { .. });
        let (record, _) = sandbox.step(SandboxEvent::StopAsked)?;
        if record.state == SandboxState::Stopped {
            return Ok(());
        }
        // Address and ports are released even if something can't be killed: what is dead to the client must not hold them.
        let ended = self.end_supervisor(sandbox).await;
        let detached = match record.config.namespaces.network {
            NetworkMode::Pod => self.detach(&sandbox.id).await,
            NetworkMode::Node => Ok(()),
        };
        ended?;
        detached?;
        sandbox.step(SandboxEvent::Torn)?;
        if !told {
            self.tell(EventKind::Stopped, &sandbox.id, None);
        }
        Ok(())
    }

    /// Kills what runs in the sandbox, waits for it, ends the supervisor and reaps it.
    pub(crate) async fn end_supervisor(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        let asked = match sandbox.link() {
            Ok(link) => self.quit(sandbox, &link).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(()) => {}
            // It says what it can't kill: killing by cgroup would not do better, and a second stop tries again.
            Err(error @ EngineError::Supervisor { .. }) => return Err(error),
            Err(_) => self.kill_sandbox(sandbox).await?,
        }
        sandbox.set_link(None);
        self.reap(sandbox).await;
        for container in self.world.containers_of(sandbox) {
            self.lose(&container);
        }
        self.remove_pod_cgroup(sandbox).await
    }

    async fn quit(&self, sandbox: &Sandbox, link: &Link) -> Result<(), EngineError> {
        let deadline = self.config.limits.supervisor_answer;
        link.tell("stop the sandbox", Request::StopSandbox, deadline).await?;
        link.closing();
        // Its answer may be cut off by its end.
        if let Err(error @ EngineError::Supervisor { .. }) =
            link.tell("end the supervisor", Request::Quit, deadline).await
        {
            tracing::warn!(sandbox = sandbox.id.short(), %error, "the supervisor does not end");
            return Err(error);
        }
        Ok(())
    }

    /// Waits for the supervisor that this process started; an earlier daemon's is reaped by init.
    pub(crate) async fn reap(&self, sandbox: &Sandbox) {
        let child = lock(&sandbox.child).take();
        if let Some(mut child) = child {
            let waited = blocking(move || child.wait().map_err(disk("wait for", "the supervisor"))).await;
            if let Err(error) = waited {
                tracing::warn!(sandbox = sandbox.id.short(), %error, "could not be reaped");
            }
        }
    }

    /// The directory above the pod's cgroups, where it is ours.
    async fn remove_pod_cgroup(&self, sandbox: &Sandbox) -> Result<(), EngineError> {
        if sandbox.record().config.cgroup_parent.is_some() {
            return Ok(());
        }
        let path = PathBuf::from(format!("{}/{}", self.config.pods_cgroup(), sandbox.id));
        blocking(move || remove_cgroup(&path)).await
    }

    /// Stops a sandbox if need be and takes everything of it away. One that isn't there is [`Kind::NotFound`].
    pub async fn remove_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<(), EngineError> {
        let sandbox = self.world.sandbox(id)?;
        let engine = Arc::clone(self);
        to_the_end(async move { engine.take_away(&sandbox).await }).await
    }

    async fn take_away(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        self.tear_down(sandbox).await?;
        for container in self.world.containers_of(sandbox) {
            match self.remove_container(&container.id).await {
                Err(error) if error.kind() != Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        let _order = sandbox.order.lock().await;
        let dir = sandbox.dir.clone();
        blocking(move || records::remove_tree(dir.path())).await?;
        self.world.drop_sandbox(&sandbox.id);
        self.tell_of(EventKind::Deleted, sandbox);
        Ok(())
    }

    /// The pause process or the supervisor is gone.
    pub(crate) fn not_ready(&self, sandbox: &Sandbox, why: &str) {
        match sandbox.step(SandboxEvent::PauseDied { why: why.to_owned() }) {
            Ok((_, Changed::Yes)) => self.tell(EventKind::Stopped, &sandbox.id, None),
            Ok((_, Changed::No)) => {}
            Err(error) => tracing::error!(sandbox = sandbox.id.short(), %error, "the record could not be written"),
        }
    }
}

pub(crate) fn remove_cgroup(path: &Path) -> Result<(), EngineError> {
    let gone = |error: &runtime_sys::SysError| error.kind() == std::io::ErrorKind::NotFound;
    let removed = runtime_sys::cgroup::Cgroup::open(path).and_then(|cgroup| cgroup.remove());
    match removed {
        Err(error) if !gone(&error) => Err(EngineError::Kernel { step: "remove the cgroup", source: error }),
        _ => Ok(()),
    }
}

fn write_pod_files(sandbox: &Sandbox, host_resolv_conf: &Path) -> Result<(), EngineError> {
    let record = sandbox.record();
    let config = &record.config;
    let path = |name: &str| sandbox.dir.path().join(name);
    let hosts = match config.namespaces.network {
        NetworkMode::Pod => podfiles::hosts(&config.hostname, &[]),
        // A pod on the host's network is the host.
        NetworkMode::Node => std::fs::read_to_string("/etc/hosts").unwrap_or_else(|_| podfiles::hosts("", &[])),
    };
    let hostname = match config.namespaces.network {
        NetworkMode::Pod => format!("{}\n", config.hostname),
        NetworkMode::Node => std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
    };
    let resolv_conf = match &config.dns {
        Some(dns) => podfiles::resolv_conf(dns),
        None => match std::fs::read_to_string(host_resolv_conf) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(disk("read", host_resolv_conf)(error)),
        },
    };
    for (name, text) in [(podfiles::HOSTS, hosts), (podfiles::HOSTNAME, hostname), (podfiles::RESOLV_CONF, resolv_conf)]
    {
        records::write_bytes(&path(name), text.as_bytes())?;
        userns::give(&path(name), config.namespaces.user)?;
    }
    Ok(())
}

fn mapping(port: &runtime_lifecycle::Port) -> PortMapping {
    PortMapping {
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: match port.protocol {
            Protocol::Tcp => NetworkProtocol::Tcp,
            Protocol::Udp => NetworkProtocol::Udp,
            Protocol::Sctp => NetworkProtocol::Sctp,
        },
        host_ip: port.host_ip,
    }
}

pub(crate) fn identity(process: runtime_wire::ProcessIdentity) -> ProcessIdentity {
    ProcessIdentity { pid: process.pid, start_ticks: process.start_ticks }
}

/// A cgroup's path: absolute, without `..`, of names that are no control files.
fn check_parent(parent: Option<&str>) -> Result<(), EngineError> {
    let Some(parent) = parent else { return Ok(()) };
    if parent.ends_with(".slice") {
        return Err(EngineError::invalid(
            "cgroup_parent",
            format!("{parent:?} is a systemd slice; the cgroupfs driver is used here"),
        ));
    }
    spec::check_inside("cgroup_parent", parent)
}

/// The same in the wire's words.
fn wire_mappings(mappings: IdMappings) -> runtime_wire::IdMappings {
    let range =
        |range: IdRange| runtime_wire::IdRange { container: range.container, host: range.host, length: range.length };
    runtime_wire::IdMappings { uids: range(mappings.uids), gids: range(mappings.gids) }
}
