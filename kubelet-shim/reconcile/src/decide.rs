//! One step: take in what was seen, then do whatever has become possible.

use std::time::Duration;

use kubelet_shim_manifest::{Container, Handler, Pod, Probe, RestartPolicy};

use crate::{
    action::{Action, Event, Hook, Observation, Seen},
    effort::Effort,
    ending,
    memory::{HookRun, Image, Kill, KillCause, KillPhase, Memory, Run, Sandbox, Stage},
    moment::Moment,
    observe,
    status::{ContainerKind, ProbeKind},
    sweep,
};

/// Most rounds within one step. Each round moves at least one container on; more would be a machine that runs in circles.
const ROUNDS_MAX: usize = 64;

/// What one step works with.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) memory: &'a mut Memory,
    pub(crate) seen: &'a Observation,
    pub(crate) now: Moment,
    pub(crate) actions: Vec<Action>,
    /// Something moved on, which may allow something else.
    pub(crate) changed: bool,
}

/// Decides what to do. `seen` is as [`Observation`] says; `now` never lies before that of an earlier step.
pub fn step(pod: &Pod, memory: &mut Memory, seen: &Observation, now: Moment) -> Vec<Action> {
    memory.begin(pod, now);
    let mut turn = Turn { pod, memory, seen, now, actions: Vec::new(), changed: false };
    observe::absorb(&mut turn);
    for _ in 0..ROUNDS_MAX {
        turn.changed = false;
        ending::judge(&mut turn);
        if turn.memory.ending.is_some() {
            ending::advance(&mut turn);
        } else {
            turn.sandbox();
            turn.containers();
        }
        if !turn.changed {
            break;
        }
    }
    if turn.memory.ending.is_none() {
        turn.probes();
    }
    sweep::sweep(&mut turn);
    turn.actions
}

/// The probe of that kind, if the container has one.
pub(crate) fn probe_of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup.as_ref(),
        ProbeKind::Liveness => container.liveness.as_ref(),
        ProbeKind::Readiness => container.readiness.as_ref(),
    }
}

impl<'a> Turn<'a> {
    /// Works on one container with the rest of the memory at hand.
    pub(crate) fn with<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(&mut Self, &mut Run, &'a Container) -> T,
    ) -> Option<T> {
        let container = self.pod.container(name)?;
        let mut run = self.memory.runs.remove(name)?;
        let answer = work(self, &mut run, container);
        self.memory.runs.insert(name.to_owned(), run);
        Some(answer)
    }

    pub(crate) fn report(&mut self, container: &str, reason: &str, message: impl Into<String>) {
        self.event(false, container, reason, message.into());
    }

    pub(crate) fn warn(&mut self, container: &str, reason: &str, message: impl Into<String>) {
        self.event(true, container, reason, message.into());
    }

    fn event(&mut self, warning: bool, container: &str, reason: &str, message: String) {
        let event = Event { warning, container: container.to_owned(), reason: reason.to_owned(), message };
        self.actions.push(Action::Report(event));
    }

    fn sandbox(&mut self) {
        match self.memory.sandbox.clone() {
            Sandbox::Wanted(mut effort) => {
                if !effort.is_due(self.now) {
                    return;
                }
                let attempt = self.memory.sandbox_attempt;
                if let Some(found) = self.seen.sandboxes.iter().find(|found| found.attempt == attempt) {
                    // Made by a keeper that didn't live to hear of it.
                    if found.ready {
                        self.memory.sandbox = Sandbox::Ready { id: found.id.clone() };
                        self.memory.ip.clone_from(&found.ip);
                        self.changed = true;
                        return;
                    }
                    self.memory.sandbox_attempt += 1;
                }
                let token = self.memory.token();
                effort.launch(token);
                self.memory.sandbox = Sandbox::Wanted(effort);
                self.actions.push(Action::RunSandbox { token, attempt: self.memory.sandbox_attempt });
            }
            Sandbox::Broken { id, mut stop } if stop.is_due(self.now) => {
                let token = self.memory.token();
                stop.launch(token);
                self.actions.push(Action::StopSandbox { token, id: id.clone() });
                self.memory.sandbox = Sandbox::Broken { id, stop };
            }
            _ => {}
        }
    }

    fn containers(&mut self) {
        // Fetched while the sandbox and those before it start, where the kubelet waits for each container's turn.
        for container in self.pod.init_containers.iter().chain(&self.pod.containers) {
            self.with(&container.name, |turn, run, container| turn.fetch(run, container));
        }
        let sandbox = match &self.memory.sandbox {
            Sandbox::Ready { id } => Some(id.clone()),
            _ => None,
        };
        for container in self.pod.init_containers.iter().chain(&self.pod.containers) {
            self.with(&container.name, |turn, run, container| turn.carry_on(run, container, sandbox.as_deref()));
        }
        let Some(sandbox) = sandbox else { return };
        for container in &self.pod.init_containers {
            let done = self.with(&container.name, |turn, run, container| {
                turn.begin(run, container, &sandbox);
                match run.kind {
                    ContainerKind::Init => run.is_done(),
                    ContainerKind::Sidecar | ContainerKind::Main => run.started,
                }
            });
            if !self.memory.initialized && done != Some(true) {
                return;
            }
        }
        if !self.memory.initialized {
            self.memory.initialized = true;
            self.changed = true;
        }
        for container in &self.pod.containers {
            let busy = self.with(&container.name, |turn, run, container| {
                turn.begin(run, container, &sandbox);
                matches!(run.stage, Stage::Creating { .. } | Stage::Starting { .. } | Stage::Hooked { .. })
            });
            // A postStart hook holds up the containers after it, as in the kubelet.
            if busy == Some(true) {
                return;
            }
        }
    }

    /// Sees to the image of a container that waits.
    fn fetch(&mut self, run: &mut Run, container: &Container) {
        let Stage::Waiting { not_before, .. } = run.stage else { return };
        if let Image::Failed { retry, .. } = run.image
            && self.now >= retry
        {
            run.image = Image::Wanted(Effort::default());
        }
        let Image::Wanted(effort) = &mut run.image else { return };
        if self.now < not_before || !effort.is_due(self.now) {
            return;
        }
        let token = self.memory.token();
        effort.launch(token);
        let (image, policy) = (container.image.clone(), container.pull_policy);
        self.actions.push(Action::PullImage { token, container: container.name.clone(), image, policy });
    }

    /// A container whose turn has come leaves its wait.
    fn begin(&mut self, run: &mut Run, container: &Container, sandbox: &str) {
        let Stage::Waiting { not_before, exit, .. } = &run.stage else { return };
        let (Image::Present(_), true) = (&run.image, self.now >= *not_before) else { return };
        if let Some(exit) = exit {
            run.backoff.restarted(*exit, self.now, &self.memory.tuning);
        }
        run.stage = Stage::Creating { create: Effort::default() };
        self.create(run, container, sandbox);
    }

    /// Moves a container on that has left its wait: towards running, or through its kill.
    fn carry_on(&mut self, run: &mut Run, container: &Container, sandbox: Option<&str>) {
        match &mut run.stage {
            Stage::Creating { .. } => {
                if let Some(sandbox) = sandbox {
                    self.create(run, container, sandbox);
                }
            }
            Stage::Starting { id, start } if sandbox.is_some() && start.is_due(self.now) => {
                let token = self.memory.token();
                start.launch(token);
                let (container, id) = (container.name.clone(), id.clone());
                self.actions.push(Action::StartContainer { token, container, id });
            }
            Stage::Hooked { id, since, hook } => {
                let (id, since) = (id.clone(), *since);
                let wait = hook.clone();
                match wait {
                    HookRun::Wanted => *hook = self.hook(container, &id, Hook::PostStart, None),
                    // Nobody saw its end; run twice it could do harm, so it counts as done.
                    HookRun::Flight(None) => self.enter_running(run, container, id, since),
                    HookRun::Until(until) if self.now >= until => self.enter_running(run, container, id, since),
                    HookRun::Flight(Some(_)) | HookRun::Until(_) => {}
                }
            }
            Stage::Killing { .. } => self.kill_on(run, container, true),
            Stage::Waiting { .. } | Stage::Starting { .. } | Stage::Running { .. } | Stage::Done { .. } => {}
        }
    }

    fn create(&mut self, run: &mut Run, container: &Container, sandbox: &str) {
        let Stage::Creating { create } = &mut run.stage else { return };
        if create.is_in_flight() {
            return;
        }
        if let Some(found) = self.made(&container.name, run.next) {
            run.next += 1;
            run.stage = Stage::Starting { id: found, start: Effort::default() };
            self.changed = true;
            return;
        }
        if !create.is_due(self.now) {
            return;
        }
        let Image::Present(image) = run.image.clone() else {
            // The image is looked after while waiting only.
            run.stage = Stage::first(self.pod, run.kind, self.now);
            self.changed = true;
            return;
        };
        let token = self.memory.token();
        create.launch(token);
        self.actions.push(Action::CreateContainer {
            token,
            container: container.name.clone(),
            attempt: run.next,
            sandbox: sandbox.to_owned(),
            image,
        });
    }

    /// A container of that attempt that exists although nobody heard of it: a former keeper made it.
    pub(crate) fn made(&self, name: &str, attempt: u32) -> Option<String> {
        let mut found = self.seen.containers.iter().filter(|found| found.name == name && found.attempt == attempt);
        found.next().map(|found| found.id.clone())
    }

    /// Begins a hook; what it is waited for.
    pub(crate) fn hook(&mut self, container: &Container, id: &str, hook: Hook, timeout: Option<Duration>) -> HookRun {
        let handler = match hook {
            Hook::PostStart => &container.lifecycle.post_start,
            Hook::PreStop => &container.lifecycle.pre_stop,
        };
        match handler {
            Some(Handler::Sleep(time)) => HookRun::Until(self.now + *time),
            Some(Handler::Exec(_) | Handler::Http(_)) => {
                let token = self.memory.token();
                let (container, id) = (container.name.clone(), id.to_owned());
                self.actions.push(Action::RunHook { token, container, id, hook, timeout });
                HookRun::Flight(Some(token))
            }
            None => HookRun::Until(self.now),
        }
    }

    /// It runs, and its postStart hook is done: probes begin.
    pub(crate) fn enter_running(&mut self, run: &mut Run, container: &Container, id: String, since: Moment) {
        run.stage = Stage::Running { id, since };
        run.ran = true;
        run.started = container.startup.is_none();
        for (probe, worker) in [
            (&container.startup, &mut run.startup),
            (&container.liveness, &mut run.liveness),
            (&container.readiness, &mut run.readiness),
        ] {
            if let Some(probe) = probe {
                worker.skip(self.now, probe.period);
            }
        }
        self.check_ready(run, container);
        if let Some(probe) = container.readiness.as_ref().filter(|_| run.started) {
            run.readiness.trigger(self.now, probe.period);
        }
        self.changed = true;
    }

    pub(crate) fn check_ready(&mut self, run: &mut Run, container: &Container) {
        let probed = container.readiness.is_none() || run.readiness.result == Some(true);
        run.ready = matches!(run.stage, Stage::Running { .. }) && run.started && probed;
    }

    fn probes(&mut self) {
        for container in self.pod.init_containers.iter().chain(&self.pod.containers) {
            self.with(&container.name, |turn, run, container| turn.probe(run, container));
        }
    }

    fn probe(&mut self, run: &mut Run, container: &Container) {
        let Stage::Running { id, since } = &run.stage else { return };
        for (kind, worker) in [
            (ProbeKind::Startup, &mut run.startup),
            (ProbeKind::Liveness, &mut run.liveness),
            (ProbeKind::Readiness, &mut run.readiness),
        ] {
            let Some(probe) = probe_of(container, kind) else { continue };
            let gate = if kind == ProbeKind::Startup { !run.started } else { run.started };
            // Ticks pass behind the gate too, so that the phase is kept.
            if worker.poll(self.now, *since + probe.initial_delay, probe.period) && gate {
                let token = self.memory.token();
                worker.launch(token);
                let (container, id) = (container.name.clone(), id.clone());
                self.actions.push(Action::Probe { token, container, id, kind });
            }
        }
    }

    /// Sets out to end a running container.
    pub(crate) fn kill(&mut self, run: &mut Run, container: &Container, cause: KillCause, grace: Duration) {
        let (Stage::Running { id, since } | Stage::Hooked { id, since, .. }) = &run.stage else { return };
        let phase =
            if container.lifecycle.pre_stop.is_some() { KillPhase::PreStop(HookRun::Wanted) } else { KillPhase::Turn };
        run.stage =
            Stage::Killing { id: id.clone(), since: *since, kill: Kill { cause, deadline: self.now + grace, phase } };
        if cause == KillCause::Pod {
            self.report(&container.name, "Killing", format!("Stopping container {}", container.name));
        }
        run.ready = false;
        self.changed = true;
    }

    /// Carries a kill on. `may_signal`: a sidecar's turn has come.
    pub(crate) fn kill_on(&mut self, run: &mut Run, container: &Container, may_signal: bool) {
        let Stage::Killing { id, kill, .. } = &mut run.stage else { return };
        let late = self.now >= kill.deadline;
        if let KillPhase::PreStop(hook) = &mut kill.phase {
            let over = match hook {
                HookRun::Wanted => {
                    *hook = self.hook(container, id, Hook::PreStop, Some(kill.deadline.since(self.now)));
                    *hook == HookRun::Until(self.now)
                }
                HookRun::Flight(flight) => flight.is_none(),
                HookRun::Until(until) => self.now >= *until,
            };
            if !(over || late) {
                return;
            }
            kill.phase = KillPhase::Turn;
        }
        if kill.phase == KillPhase::Turn {
            if !(may_signal || late) {
                return;
            }
            kill.phase = KillPhase::Signal(Effort::default());
        }
        let KillPhase::Signal(effort) = &mut kill.phase else { return };
        if effort.is_due(self.now) {
            // The runtime gets two seconds at least, as the kubelet gives it (a grace of 1 s is 2 s); only who deletes
            // with no grace at all means at once.
            let at_once = self.memory.deletion.as_ref().is_some_and(|deletion| deletion.grace.is_zero());
            let least = if at_once { Duration::ZERO } else { Duration::from_secs(2) };
            let grace = kill.deadline.since(self.now).max(least);
            let token = self.memory.token();
            effort.launch(token);
            let (container, id) = (container.name.clone(), id.clone());
            self.actions.push(Action::StopContainer { token, container, id, grace });
        }
    }

    /// Whether a container that ended is started again.
    pub(crate) fn restarts(&self, kind: ContainerKind, code: i32, by_probe: bool) -> bool {
        match (kind, self.pod.restart_policy) {
            (ContainerKind::Sidecar, _) | (ContainerKind::Main, RestartPolicy::Always) => true,
            (ContainerKind::Main, RestartPolicy::OnFailure) => by_probe || code != 0,
            (ContainerKind::Main, RestartPolicy::Never) => false,
            (ContainerKind::Init, RestartPolicy::Never) => false,
            (ContainerKind::Init, RestartPolicy::Always | RestartPolicy::OnFailure) => code != 0,
        }
    }

    /// What the runtime says of a container.
    pub(crate) fn look(&self, id: &str) -> Option<&'a Seen> {
        self.seen.containers.iter().find(|found| found.id == id).map(|found| &found.state)
    }
}
