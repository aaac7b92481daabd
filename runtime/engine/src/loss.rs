//! What supervisors tell by themselves, and what to do when one is gone.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use runtime_lifecycle::SandboxId;
use runtime_sys::{
    cgroup::{Cgroup, Version},
    process::{pidfd_open, pidfd_send_signal, start_ticks},
};
use runtime_wire::{Answer, ContainerState, Event, Phase, Request};

use crate::{
    Engine, EngineError, blocking,
    container::died,
    sandbox::remove_cgroup,
    spec,
    supervisor::{self, Ask, Brings, Link},
    world::{Sandbox, lock},
};

/// How often the processes of a cgroup are killed before it is given up: each round catches what was forked meanwhile.
const KILL_ROUNDS_MAX: u32 = 50;

/// Between two rounds.
const KILL_PAUSE: Duration = Duration::from_millis(20);

impl Engine {
    /// A supervisor tells. Quick: it is called between two frames.
    pub(crate) fn on_event(&self, sandbox: &SandboxId, event: Event) {
        match event {
            Event::ContainerExited { container, exit } => {
                let found = container.parse().ok().and_then(|id| self.world.container(&id).ok());
                if let Some(container) = found.filter(|found| found.sandbox == *sandbox)
                    && let Some(end) = container.keep_end(died(&exit, None))
                {
                    self.end(&container, end);
                }
            }
            Event::SandboxExited => {
                if let Ok(sandbox) = self.world.sandbox(sandbox) {
                    self.not_ready(&sandbox, "its pause process ended");
                }
            }
            Event::OomKilled { container } => {
                tracing::info!(sandbox = sandbox.short(), container, "the kernel killed a process for want of memory");
            }
            // Execs are told to whoever waits for them.
            Event::ExecExited { .. } | Event::Unknown => {}
        }
    }

    /// The connection to a supervisor ended. It may only have found us slow; if it is gone, so is its pod.
    pub(crate) async fn on_link_lost(self: Arc<Self>, id: SandboxId) {
        let Ok(sandbox) = self.world.sandbox(&id) else { return };
        if self.reconnect(&sandbox).await.is_ok() {
            return;
        }
        sandbox.set_link(None);
        tracing::warn!(sandbox = id.short(), "the supervisor is gone; what is left of its pod is killed");
        if let Err(error) = self.kill_sandbox(&sandbox).await {
            tracing::error!(sandbox = id.short(), %error, "could not be killed");
        }
        self.reap(&sandbox).await;
        for container in self.world.containers_of(&sandbox) {
            self.lose(&container);
        }
        self.not_ready(&sandbox, "its supervisor was killed");
    }

    async fn reconnect(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        let stream = supervisor::connect(&sandbox.dir)?;
        let link = Link::start(sandbox.id.clone(), stream, Arc::downgrade(self))?;
        let state = match greet(&link, self.config.limits.recovery_answer).await {
            Ok(state) => state,
            Err(error) => {
                link.closing();
                return Err(error);
            }
        };
        sandbox.set_link(Some(link));
        for ContainerState { id, phase } in state.containers {
            if let (Ok(id), Phase::Exited { started_unix_nanos, exit }) = (id.parse(), phase)
                && let Ok(container) = self.world.container(&id)
            {
                self.end(&container, died(&exit, Some(runtime_lifecycle::Timestamp(started_unix_nanos))));
            }
        }
        if state.sandbox.is_none_or(|sandbox| !sandbox.alive) {
            self.not_ready(sandbox, "its pause process ended");
        }
        Ok(())
    }

    /// Kills the supervisor if it still is, then every process in the cgroups of its pod, and removes these.
    pub(crate) async fn kill_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        if let Ok(link) = sandbox.link() {
            link.closing();
        }
        let record = sandbox.record();
        // Ours isn't reaped yet, so its pid can't be somebody else's; another daemon's is told apart by its start.
        let supervisor = lock(&sandbox.child).as_ref().map(std::process::Child::id);
        let mut cgroups: Vec<PathBuf> = self
            .world
            .containers_of(sandbox)
            .iter()
            .map(|container| PathBuf::from(&container.record().cgroup))
            .collect();
        cgroups.push(PathBuf::from(&record.cgroup));
        blocking(move || {
            if let Some(pid) = supervisor.and_then(|pid| i32::try_from(pid).ok()) {
                kill_process(pid, None);
            } else if let Some(identity) = record.supervisor {
                kill_process(identity.pid, Some(identity.start_ticks));
            }
            let mut first = Ok(());
            for cgroup in cgroups {
                let killed = kill_cgroup(&cgroup);
                first = first.and(killed);
            }
            first
        })
        .await
    }
}

/// Asks a supervisor for everything that it knows.
pub(crate) async fn greet(link: &Link, deadline: Duration) -> Result<runtime_wire::State, EngineError> {
    let request = Request::Hello { version: runtime_wire::VERSION };
    let ask = Ask { step: "greet", request, descriptors: &[], brings: Brings::Nothing, deadline };
    match link.ask(ask).await?.0 {
        Answer::State(state) => Ok(state),
        Answer::Done | Answer::Sandbox { .. } | Answer::Started { .. } | Answer::Attached { .. } => {
            Err(link.protocol("greet"))
        }
    }
}

/// Kills a process that is still the one that was meant.
fn kill_process(pid: i32, started: Option<u64>) {
    let Ok(handle) = pidfd_open(pid) else { return };
    // Looked at after the handle is had: from here on it can't come to mean another.
    if started.is_none_or(|started| start_ticks(pid).is_ok_and(|now| now == started)) {
        let _ = pidfd_send_signal(std::os::fd::AsFd::as_fd(&handle), spec::SIGKILL);
    }
}

/// Kills every process in a cgroup and below, and removes it; one that isn't there is as good.
pub(crate) fn kill_cgroup(path: &Path) -> Result<(), EngineError> {
    let failed = |source| EngineError::Kernel { step: "kill the processes of a cgroup", source };
    let cgroup = match Cgroup::open(path) {
        Ok(cgroup) => cgroup,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if cgroup.version() == Version::V2 {
        // Linux 5.14; without it the rounds below do.
        let _ = cgroup.write("", c"cgroup.kill", b"1");
    }
    for _ in 0..KILL_ROUNDS_MAX {
        let pids = cgroup.pids().map_err(failed)?;
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            kill_process(pid, None);
        }
        if cgroup.version() == Version::V1 {
            // A frozen task takes no signal.
            let _ = cgroup.write("freezer", c"freezer.state", b"THAWED");
        }
        #[expect(clippy::disallowed_methods, reason = "on a thread for blocking work, which nobody else waits for")]
        std::thread::sleep(KILL_PAUSE);
    }
    remove_cgroup(path)
}
