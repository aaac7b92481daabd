//! Taking in answers and observations.

use kubelet_shim_manifest::Container;

use crate::{
    action::{Done, Fault, Outcome, ProbeResult, Seen},
    decide::{Turn, probe_of},
    effort::Effort,
    memory::{HookRun, Image, KillCause, KillPhase, Run, Sandbox, Stage},
    moment::Moment,
    status::{ContainerKind, End, ProbeKind},
};

pub(crate) fn absorb(turn: &mut Turn<'_>) {
    let seen = turn.seen;
    let names: Vec<&str> =
        turn.pod.init_containers.iter().chain(&turn.pod.containers).map(|container| container.name.as_str()).collect();
    for done in &seen.done {
        for name in &names {
            turn.with(name, |turn, run, container| answer(turn, run, container, done));
        }
    }
    for name in &names {
        turn.with(name, look);
    }
    // After the containers: what becomes of a dead sandbox's containers depends on how they ended.
    for done in &seen.done {
        sandbox_answer(turn, done);
        if let Some((id, _)) = turn.memory.sweeps.iter().find(|(_, effort)| effort.holds(done.token)) {
            let id = id.clone();
            let effort = turn.memory.sweeps.entry(id).or_default();
            match &done.outcome {
                Outcome::Plain(Err(_)) => effort.failed(turn.now),
                _ => effort.answered(turn.now),
            }
        }
    }
    sandboxes(turn);
}

fn sandboxes(turn: &mut Turn<'_>) {
    let Sandbox::Ready { id } = &turn.memory.sandbox else { return };
    let id = id.clone();
    match turn.seen.sandboxes.iter().find(|found| found.id == id) {
        Some(found) if found.ready => {
            if found.ip.is_some() {
                turn.memory.ip.clone_from(&found.ip);
            }
        }
        _ => {
            turn.memory.ip = None;
            turn.memory.sandbox = Sandbox::Broken { id, stop: Effort::default() };
            turn.report("", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
        }
    }
}

fn sandbox_answer(turn: &mut Turn<'_>, done: &Done) {
    let now = turn.now;
    match (turn.memory.sandbox.clone(), &done.outcome) {
        (Sandbox::Wanted(mut effort), Outcome::Named(result)) if effort.holds(done.token) => match result {
            Ok(id) => turn.memory.sandbox = Sandbox::Ready { id: id.clone() },
            Err(fault) => {
                effort.failed(now);
                turn.memory.sandbox = Sandbox::Wanted(effort);
                // Its remains may still hold the name.
                turn.memory.sandbox_attempt += 1;
                turn.warn("", "FailedCreatePodSandBox", fault.message.clone());
            }
        },
        (Sandbox::Broken { id, mut stop }, Outcome::Plain(result)) if stop.holds(done.token) => match result {
            Ok(()) => turn.renew(),
            Err(fault) => {
                stop.failed(now);
                turn.memory.sandbox = Sandbox::Broken { id, stop };
                turn.warn("", "FailedKillPod", fault.message.clone());
            }
        },
        (Sandbox::Stopping { id, mut stop }, Outcome::Plain(result)) if stop.holds(done.token) => match result {
            Ok(()) => turn.memory.sandbox = Sandbox::Stopped { id },
            Err(fault) => {
                stop.failed(now);
                turn.memory.sandbox = Sandbox::Stopping { id, stop };
                turn.warn("", "FailedKillPod", fault.message.clone());
            }
        },
        (Sandbox::Removing { id, mut remove }, Outcome::Plain(result)) if remove.holds(done.token) => match result {
            Ok(()) => turn.memory.sandbox = Sandbox::Gone,
            Err(fault) => {
                remove.failed(now);
                turn.memory.sandbox = Sandbox::Removing { id, remove };
                turn.warn("", "FailedKillPod", fault.message.clone());
            }
        },
        _ => {}
    }
}

impl Turn<'_> {
    /// The dead sandbox is stopped: everything begins anew, but what ended for good.
    fn renew(&mut self) {
        self.memory.sandbox = Sandbox::Wanted(Effort::default());
        self.memory.sandbox_attempt += 1;
        self.memory.initialized = false;
        let (pod, now) = (self.pod, self.now);
        for run in self.memory.runs.values_mut() {
            if run.kind == ContainerKind::Main && run.is_done() {
                continue;
            }
            if let Some(id) = run.id() {
                run.former = Some(id.to_owned());
            }
            if !matches!(run.stage, Stage::Waiting { .. }) {
                run.stage = Stage::first(pod, run.kind, now);
                run.image = Image::Wanted(Effort::default());
            }
            run.ready = false;
            run.started = false;
        }
    }
}

/// An answer to something that was asked for this container.
fn answer(turn: &mut Turn<'_>, run: &mut Run, container: &Container, done: &Done) {
    if matches!(&run.image, Image::Wanted(effort) if effort.holds(done.token)) {
        if let Outcome::Named(result) = &done.outcome {
            image(turn, run, container, result);
        }
        return;
    }
    for kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
        if worker(run, kind).holds(done.token) {
            if let Outcome::Probed(result, message) = &done.outcome {
                probed(turn, run, container, kind, (*result, message));
            }
            return;
        }
    }
    match (&mut run.stage, &done.outcome) {
        (Stage::Creating { create }, Outcome::Named(result)) if create.holds(done.token) => match result {
            Ok(id) => {
                run.stage = Stage::Starting { id: id.clone(), start: Effort::default() };
                run.next += 1;
                turn.report(&container.name, "Created", format!("Container created: {}", container.name));
            }
            Err(fault) => {
                turn.warn(&container.name, "Failed", format!("Error: {}", fault.message));
                let reason = if fault.reason.is_empty() { "CreateContainerError" } else { &fault.reason };
                run.image = Image::Wanted(Effort::default());
                hold_back(turn, run, turn.now, reason, &fault.message);
            }
        },
        (Stage::Starting { id, start }, Outcome::Plain(result)) if start.holds(done.token) => match result {
            Ok(()) => {
                let id = id.clone();
                started(turn, run, container, id, turn.now);
            }
            Err(fault) => {
                turn.warn(&container.name, "Failed", format!("Error: {}", fault.message));
                let end = End {
                    code: 128,
                    reason: "StartError".to_owned(),
                    message: fault.message.clone(),
                    started: turn.now,
                    finished: turn.now,
                };
                exited(turn, run, end);
            }
        },
        (Stage::Hooked { id, since, hook: HookRun::Flight(flight) }, Outcome::Plain(result))
            if *flight == Some(done.token) =>
        {
            let (id, since) = (id.clone(), *since);
            match result {
                Ok(()) => turn.enter_running(run, container, id, since),
                Err(fault) => {
                    turn.warn(&container.name, "FailedPostStartHook", fault.message.clone());
                    turn.kill(run, container, KillCause::PostStart, turn.pod.grace);
                }
            }
        }
        (Stage::Killing { kill, .. }, Outcome::Plain(result)) => match &mut kill.phase {
            KillPhase::PreStop(HookRun::Flight(flight)) if *flight == Some(done.token) => {
                *flight = None;
                if let Err(fault) = result {
                    turn.warn(&container.name, "FailedPreStopHook", fault.message.clone());
                }
            }
            KillPhase::Signal(effort) if effort.holds(done.token) => match result {
                Ok(()) => effort.answered(turn.now),
                Err(fault) => {
                    effort.failed(turn.now);
                    turn.warn(&container.name, "FailedKillPod", fault.message.clone());
                }
            },
            _ => {}
        },
        _ => {}
    }
}

fn worker(run: &mut Run, kind: ProbeKind) -> &mut crate::worker::Worker {
    match kind {
        ProbeKind::Startup => &mut run.startup,
        ProbeKind::Liveness => &mut run.liveness,
        ProbeKind::Readiness => &mut run.readiness,
    }
}

fn image(turn: &mut Turn<'_>, run: &mut Run, container: &Container, result: &Result<String, Fault>) {
    match result {
        Ok(reference) => {
            run.image = Image::Present(reference.clone());
            run.image_failures = 0;
        }
        Err(fault) => {
            let tuning = &turn.memory.tuning;
            let delay = tuning.backoff_initial.saturating_mul(1 << run.image_failures.min(16)).min(tuning.backoff_max);
            run.image_failures = run.image_failures.saturating_add(1);
            run.image = Image::Failed { retry: turn.now + delay, fault: fault.clone() };
            turn.warn(
                &container.name,
                "Failed",
                format!("Failed to pull image \"{}\": {}", container.image, fault.message),
            );
            turn.report(&container.name, "BackOff", format!("Back-off pulling image \"{}\"", container.image));
        }
    }
}

fn probed(
    turn: &mut Turn<'_>,
    run: &mut Run,
    container: &Container,
    kind: ProbeKind,
    (result, message): (ProbeResult, &str),
) {
    let Some(spec) = probe_of(container, kind) else { return };
    let verdict = worker(run, kind).outcome(turn.now, spec, kind, result);
    let count = worker(run, kind).run();
    match result {
        ProbeResult::Success if !message.is_empty() => turn.warn(&container.name, "ProbeWarning", message),
        ProbeResult::Success => {}
        // The count and the threshold are ours (kubernetes/kubernetes#115823).
        ProbeResult::Failure | ProbeResult::Unrunnable => turn.warn(
            &container.name,
            "Unhealthy",
            format!("{} probe failed ({count} of {}): {message}", kind.word(), spec.failure_threshold),
        ),
        ProbeResult::Error => turn.warn(
            &container.name,
            "Unhealthy",
            format!("{} probe errored and doesn't count: {message}", kind.word()),
        ),
    }
    let Some(good) = verdict else { return };
    match (kind, good) {
        (ProbeKind::Startup, true) => {
            worker(run, kind).clear_run();
            run.started = true;
            turn.check_ready(run, container);
            if let Some(probe) = &container.liveness {
                run.liveness.skip(turn.now, probe.period);
            }
            if let Some(probe) = &container.readiness {
                run.readiness.trigger(turn.now, probe.period);
            }
        }
        (ProbeKind::Startup | ProbeKind::Liveness, false) => {
            worker(run, kind).clear_run();
            if matches!(run.stage, Stage::Running { .. }) {
                let text = format!(
                    "Container {} failed {} probe, will be restarted",
                    container.name,
                    kind.word().to_ascii_lowercase()
                );
                turn.report(&container.name, "Killing", text);
                turn.kill(run, container, KillCause::Probe, spec.grace.unwrap_or(turn.pod.grace));
            }
        }
        (ProbeKind::Liveness, true) => {}
        (ProbeKind::Readiness, _) => turn.check_ready(run, container),
    }
}

/// What the runtime says of the container that this run is.
fn look(turn: &mut Turn<'_>, run: &mut Run, container: &Container) {
    let Some(id) = run.id().map(str::to_owned) else { return };
    let is_flying = matches!(&run.stage, Stage::Starting { start, .. } if start.is_in_flight());
    if run.is_done() || is_flying {
        return;
    }
    match turn.look(&id) {
        Some(Seen::Created) => {}
        Some(Seen::Running(since)) => {
            if matches!(run.stage, Stage::Starting { .. }) {
                started(turn, run, container, id, *since);
            }
        }
        Some(Seen::Exited { code, reason, message, at }) => {
            if matches!(run.stage, Stage::Starting { .. }) {
                run.ran = true;
            }
            let reason = match (reason.as_str(), code) {
                ("", 0) => "Completed".to_owned(),
                ("", _) => "Error".to_owned(),
                (word, _) => word.to_owned(),
            };
            let started = since(run).unwrap_or(*at);
            let finished = (*at).min(turn.now);
            exited(turn, run, End { code: *code, reason, message: message.clone(), started, finished });
        }
        None => {
            let end = End {
                code: 137,
                reason: "ContainerStatusUnknown".to_owned(),
                message: "The container could not be located when the pod was looked at".to_owned(),
                started: since(run).unwrap_or(turn.now),
                finished: turn.now,
            };
            exited(turn, run, end);
        }
    }
}

fn since(run: &Run) -> Option<Moment> {
    match &run.stage {
        Stage::Hooked { since, .. } | Stage::Running { since, .. } | Stage::Killing { since, .. } => Some(*since),
        _ => None,
    }
}

fn started(turn: &mut Turn<'_>, run: &mut Run, container: &Container, id: String, since: Moment) {
    turn.report(&container.name, "Started", format!("Container started: {}", container.name));
    for kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
        if let Some(probe) = probe_of(container, kind) {
            worker(run, kind).reset(turn.now, probe.period);
        }
    }
    if container.lifecycle.post_start.is_some() {
        run.stage = Stage::Hooked { id, since, hook: HookRun::Wanted };
    } else {
        turn.enter_running(run, container, id, since);
    }
}

/// A run has ended: done, or waiting for the next.
fn exited(turn: &mut Turn<'_>, run: &mut Run, end: End) {
    let before = run.last.as_ref().map(|last| last.finished);
    let cause = match &run.stage {
        Stage::Killing { kill, .. } => Some(kill.cause),
        _ => None,
    };
    let id = run.id().map(str::to_owned);
    let (code, finished) = (end.code, end.finished);
    let ran = !matches!(run.stage, Stage::Starting { .. });
    run.last = Some(end);
    run.ran |= ran;
    run.ready = false;
    run.started = false;
    let by_probe = cause == Some(KillCause::Probe);
    if cause == Some(KillCause::Pod) || !turn.restarts(run.kind, code, by_probe) {
        run.stage = Stage::Done { id };
        return;
    }
    run.former = id;
    run.image = Image::Wanted(Effort::default());
    match (by_probe, before) {
        // A container that a probe killed starts again in the same breath, and the back-off looks at the end of the run
        // before it, as in the kubelet: the first such kill never waits.
        (true, None) => wait(turn, run, turn.now, None, "ContainerCreating", ""),
        (true, Some(before))
            if run.backoff.held_until(before, &turn.memory.tuning).is_none_or(|until| until <= turn.now) =>
        {
            wait(turn, run, turn.now, Some(before), "ContainerCreating", "");
        }
        _ => {
            let reason = if cause == Some(KillCause::PostStart) { "PostStartHookError" } else { "CrashLoopBackOff" };
            hold_back(turn, run, finished, reason, "");
        }
    }
}

/// Waits as long as the back-off says of an end at that moment.
fn hold_back(turn: &mut Turn<'_>, run: &mut Run, exit: Moment, reason: &str, message: &str) {
    let until = run.backoff.held_until(exit, &turn.memory.tuning).filter(|until| *until > turn.now);
    let Some(until) = until else {
        // Nothing is waited for: the word would only flicker.
        let reason = if reason == "CrashLoopBackOff" { "ContainerCreating" } else { reason };
        return wait(turn, run, turn.now, Some(exit), reason, message);
    };
    let not_before = turn.now + turn.memory.jittered(until.since(turn.now));
    let text = format!("back-off {}s restarting failed container", run.backoff.delay().as_secs());
    turn.warn("", "BackOff", text.clone());
    // The kubelet shows the former end until the moment of the next start; people look for this word.
    wait(turn, run, not_before, Some(exit), reason, if message.is_empty() { &text } else { message });
}

fn wait(turn: &mut Turn<'_>, run: &mut Run, not_before: Moment, exit: Option<Moment>, reason: &str, message: &str) {
    run.stage = Stage::Waiting { not_before, exit, reason: reason.to_owned(), message: message.to_owned() };
    turn.changed = true;
}
