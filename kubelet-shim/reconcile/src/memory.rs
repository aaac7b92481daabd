//! All that is known of one pod from step to step.

use std::{collections::BTreeMap, time::Duration};

use kubelet_shim_manifest::{Container, Pod};
use serde::{Deserialize, Serialize};

use crate::{
    action::{Fault, Token},
    backoff::Backoff,
    effort::Effort,
    moment::Moment,
    status::{ContainerKind, End},
    worker::Worker,
};

/// Times that a node may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// The first delay of CrashLoopBackOff and ImagePullBackOff.
    pub backoff_initial: Duration,
    /// The longest delay; a run of twice its length resets the delay.
    pub backoff_max: Duration,
    /// The most that chance adds to a delay, in percent. The kubelet adds up to 50.
    pub backoff_jitter_percent: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            backoff_initial: Duration::from_secs(10),
            backoff_max: Duration::from_secs(300),
            backoff_jitter_percent: 50,
        }
    }
}

/// The memory of one pod. Write it down after each [`step`](crate::step), before the actions are carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub(crate) tuning: Tuning,
    pub(crate) random: u64,
    pub(crate) tokens: u64,
    pub(crate) began: Option<Moment>,
    pub(crate) deletion: Option<Deletion>,
    pub(crate) ending: Option<Ending>,
    pub(crate) sandbox: Sandbox,
    pub(crate) sandbox_attempt: u32,
    pub(crate) ip: Option<String>,
    /// The init containers have all done their part once in this sandbox.
    pub(crate) initialized: bool,
    pub(crate) runs: BTreeMap<String, Run>,
    /// Removals of former containers and sandboxes, by id.
    pub(crate) sweeps: BTreeMap<String, Effort>,
}

/// A deletion that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deletion {
    pub(crate) at: Moment,
    pub(crate) grace: Duration,
}

/// The pod is coming to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ending {
    pub(crate) cause: EndCause,
    pub(crate) since: Moment,
    pub(crate) grace: Duration,
}

/// Why a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum EndCause {
    /// Somebody deleted it.
    Deleted,
    /// `activeDeadlineSeconds` is over.
    Deadline,
    /// Its containers ended, or an init container failed, and the policy doesn't start them again.
    Over,
}

/// The pod's sandbox.
///
/// `Wanted → Ready → Broken → Wanted …`, and at the end `Ready → Stopping → Stopped → Removing → Gone`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sandbox {
    /// To be run.
    Wanted(Effort),
    /// It runs.
    Ready { id: String },
    /// It died; to be stopped before another one is run.
    Broken { id: String, stop: Effort },
    /// To be stopped for good.
    Stopping { id: String, stop: Effort },
    /// Stopped; its containers are kept for their logs.
    Stopped { id: String },
    /// To be removed.
    Removing { id: String, remove: Effort },
    /// Nothing is left.
    Gone,
}

/// The image of a container's next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Image {
    /// To be had.
    Wanted(Effort),
    /// There.
    Present(String),
    /// It could not be had; tried again later.
    Failed { retry: Moment, fault: Fault },
}

/// One container name: the run that is, and what is known of those before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) kind: ContainerKind,
    pub(crate) stage: Stage,
    /// The attempt of the next creation; equals the number of creations so far.
    pub(crate) next: u32,
    pub(crate) image: Image,
    pub(crate) image_failures: u32,
    pub(crate) last: Option<End>,
    /// The id of the run before, kept for its log.
    pub(crate) former: Option<String>,
    pub(crate) backoff: Backoff,
    pub(crate) startup: Worker,
    pub(crate) liveness: Worker,
    pub(crate) readiness: Worker,
    pub(crate) ready: bool,
    pub(crate) started: bool,
    /// Was running once, in any sandbox.
    pub(crate) ran: bool,
}

/// What a container is at.
///
/// `Waiting → Creating → Starting → Hooked → Running → Killing → Waiting | Done`; an end leads from any of them to
/// `Waiting` or `Done`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// Not there; to be created at `not_before` or later, once its turn has come.
    Waiting { not_before: Moment, exit: Option<Moment>, reason: String, message: String },
    /// To be created.
    Creating { create: Effort },
    /// Created; to be started.
    Starting { id: String, start: Effort },
    /// Running; its postStart hook is not done.
    Hooked { id: String, since: Moment, hook: HookRun },
    /// Running.
    Running { id: String, since: Moment },
    /// To be ended.
    Killing { id: String, since: Moment, kill: Kill },
    /// Ended, and stays so (no id: it never was).
    Done { id: Option<String> },
}

/// A hook under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HookRun {
    /// Not yet asked for.
    Wanted,
    /// Under way; a keeper that finds it so didn't see its end.
    Flight(Option<Token>),
    /// Sleeping.
    Until(Moment),
}

/// The end of a container that the keeper wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kill {
    pub(crate) cause: KillCause,
    pub(crate) deadline: Moment,
    pub(crate) phase: KillPhase,
}

/// Why a container is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KillCause {
    /// A liveness or startup probe failed.
    Probe,
    /// The postStart hook failed.
    PostStart,
    /// The pod ends.
    Pod,
}

/// How far a kill has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KillPhase {
    /// The preStop hook.
    PreStop(HookRun),
    /// A sidecar waits until those that use it have ended.
    Turn,
    /// Told to end.
    Signal(Effort),
}

impl Memory {
    /// A pod that nobody has looked at yet.
    #[must_use]
    pub fn new(seed: u64, tuning: Tuning) -> Self {
        Self {
            tuning,
            random: seed,
            tokens: 0,
            began: None,
            deletion: None,
            ending: None,
            sandbox: Sandbox::Wanted(Effort::default()),
            sandbox_attempt: 0,
            ip: None,
            initialized: false,
            runs: BTreeMap::new(),
            sweeps: BTreeMap::new(),
        }
    }

    /// A keeper has read this memory from its file: whatever the former one had under way, nobody will answer for it.
    pub fn resume(&mut self) {
        match &mut self.sandbox {
            Sandbox::Wanted(effort)
            | Sandbox::Broken { stop: effort, .. }
            | Sandbox::Stopping { stop: effort, .. }
            | Sandbox::Removing { remove: effort, .. } => effort.resume(),
            Sandbox::Ready { .. } | Sandbox::Stopped { .. } | Sandbox::Gone => {}
        }
        self.sweeps.values_mut().for_each(Effort::resume);
        for run in self.runs.values_mut() {
            run.resume();
        }
    }

    /// Asks for the pod's end. Asked again, the earlier end counts.
    pub fn delete(&mut self, now: Moment, grace: Duration) {
        let sooner = self.deletion.as_ref().is_none_or(|old| now + grace < old.at + old.grace);
        if sooner {
            self.deletion = Some(Deletion { at: now, grace });
        }
    }

    /// The attempt of the present sandbox.
    #[must_use]
    pub fn sandbox_attempt(&self) -> u32 {
        self.sandbox_attempt
    }

    /// Whether a deletion was asked for.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.deletion.is_some()
    }

    pub(crate) fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    /// A number below `below` (xorshift; the same seed gives the same pod).
    pub(crate) fn chance(&mut self, below: u64) -> u64 {
        let mut x = self.random ^ 0x9E37_79B9_7F4A_7C15;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        if below == 0 { 0 } else { x % below }
    }

    /// `remaining` and what chance adds.
    pub(crate) fn jittered(&mut self, remaining: Duration) -> Duration {
        let percent = self.chance(u64::from(self.tuning.backoff_jitter_percent) + 1);
        let extra = remaining.as_nanos() * u128::from(percent) / 100;
        remaining + Duration::from_nanos(u64::try_from(extra).unwrap_or(u64::MAX))
    }

    /// Takes the pod up: each container has its place from here on. The first call says when the pod began; later ones,
    /// such as that of each [`step`](crate::step), change nothing. Answers with that moment.
    pub fn begin(&mut self, pod: &Pod, now: Moment) -> Moment {
        let began = *self.began.get_or_insert(now);
        let init = pod
            .init_containers
            .iter()
            .map(|c| (c, if c.sidecar { ContainerKind::Sidecar } else { ContainerKind::Init }));
        for (container, kind) in init.chain(pod.containers.iter().map(|c| (c, ContainerKind::Main))) {
            if !self.runs.contains_key(&container.name) {
                let run = Run::new(pod, container, kind, began);
                self.runs.insert(container.name.clone(), run);
            }
        }
        began
    }
}

impl Run {
    fn new(pod: &Pod, _container: &Container, kind: ContainerKind, began: Moment) -> Self {
        Self {
            kind,
            stage: Stage::first(pod, kind, began),
            next: 0,
            image: Image::Wanted(Effort::default()),
            image_failures: 0,
            last: None,
            former: None,
            backoff: Backoff::default(),
            startup: Worker::new(began),
            liveness: Worker::new(began),
            readiness: Worker::new(began),
            ready: false,
            started: false,
            ran: false,
        }
    }

    /// The id of the container that is this run.
    pub(crate) fn id(&self) -> Option<&str> {
        match &self.stage {
            Stage::Waiting { .. } | Stage::Creating { .. } => None,
            Stage::Starting { id, .. }
            | Stage::Hooked { id, .. }
            | Stage::Running { id, .. }
            | Stage::Killing { id, .. } => Some(id),
            Stage::Done { id } => id.as_deref(),
        }
    }

    /// Whether nothing of it runs, or will.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done { .. })
    }

    fn resume(&mut self) {
        if let Image::Wanted(effort) = &mut self.image {
            effort.resume();
        }
        for worker in [&mut self.startup, &mut self.liveness, &mut self.readiness] {
            worker.resume();
        }
        match &mut self.stage {
            Stage::Creating { create: effort }
            | Stage::Starting { start: effort, .. }
            | Stage::Killing { kill: Kill { phase: KillPhase::Signal(effort), .. }, .. } => effort.resume(),
            Stage::Hooked { hook: HookRun::Flight(token), .. }
            | Stage::Killing { kill: Kill { phase: KillPhase::PreStop(HookRun::Flight(token)), .. }, .. } => {
                *token = None
            }
            _ => {}
        }
    }
}

impl Stage {
    /// The stage of a container in a fresh sandbox.
    pub(crate) fn first(pod: &Pod, kind: ContainerKind, now: Moment) -> Self {
        let waits = !pod.init_containers.is_empty() && kind == ContainerKind::Main;
        let reason = if waits { "PodInitializing" } else { "ContainerCreating" };
        Self::Waiting { not_before: now, exit: None, reason: reason.to_owned(), message: String::new() }
    }
}
