//! The scripted runtime.

use std::{collections::BTreeMap, time::Duration};

use kubelet_shim_manifest::{Document, Pod, parse};

use crate::{
    Action, ContainerSeen, ContainerState, Done, Fault, Hook, Memory, Moment, Observation, Outcome, Phase, ProbeKind,
    ProbeResult, SandboxSeen, Seen, Token, Tuning, due, status, step,
};

/// When the keeper dies and another goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restarts {
    Never,
    /// At the step of that number, and at each multiple of it.
    EachStep(usize),
}

#[derive(Debug)]
struct Container {
    id: String,
    name: String,
    attempt: u32,
    state: Seen,
    ends: Option<(Moment, i32)>,
}

/// An answer on its way.
#[derive(Debug)]
struct Answer {
    at: Moment,
    token: Token,
    what: Due,
}

#[derive(Debug)]
enum Due {
    Outcome(Outcome),
    Probe(String, ProbeKind),
}

#[derive(Debug, Default)]
struct World {
    words: BTreeMap<String, Vec<String>>,
    used: BTreeMap<String, usize>,
    containers: Vec<Container>,
    sandboxes: Vec<SandboxSeen>,
    answers: Vec<Answer>,
    orders: Vec<(Moment, Vec<String>)>,
    made: usize,
    lines: Vec<String>,
    /// Two containers of one name ran at the same time.
    doubled: bool,
}

pub(crate) fn pod(spec: &str) -> Pod {
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{{spec}}}\n");
    match parse("p.yaml", &text).unwrap_or_else(|error| panic!("{error}\n{text}")).remove(0) {
        Document::Pod(pod) => *pod,
        other => panic!("{other:?}"),
    }
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs_f64(text.parse().unwrap_or_else(|_| panic!("no number: {text}")))
}

impl World {
    fn new(script: &str) -> Self {
        let mut world = Self::default();
        for sentence in script.split(';').map(str::trim).filter(|sentence| !sentence.is_empty()) {
            let mut words: Vec<String> = sentence.split_whitespace().map(str::to_owned).collect();
            if words[0] == "at" {
                let rest = words.split_off(2);
                world.orders.push((Moment(0) + seconds(&words[1]), rest));
            } else if words[0] == "sandbox" {
                world.words.insert("sandbox".to_owned(), letters(&words[1]));
            } else {
                let key = format!("{} {}", words[0], words[1]);
                let is_letters =
                    matches!(words[1].as_str(), "startup" | "liveness" | "readiness" | "pull" | "create" | "start");
                let rest = if is_letters { letters(&words[2]) } else { words.split_off(2) };
                world.words.insert(key, rest);
            }
        }
        world.orders.sort_by_key(|(at, _)| *at);
        world
    }

    /// The next word of a script; the last one repeats.
    fn next(&mut self, key: &str, default: &str) -> String {
        let Some(words) = self.words.get(key) else { return default.to_owned() };
        let used = self.used.entry(key.to_owned()).or_default();
        let word = words[(*used).min(words.len() - 1)].clone();
        *used += 1;
        word
    }

    fn say(&mut self, now: Moment, what: &str) {
        let seconds = Duration::from_nanos(now.0).as_secs_f64();
        let text = format!("{seconds:.1}");
        self.lines.push(format!("{} {what}", text.strip_suffix(".0").unwrap_or(&text)));
    }

    fn answer(&mut self, at: Moment, token: Token, outcome: Outcome) {
        self.answers.push(Answer { at, token, what: Due::Outcome(outcome) });
    }

    fn named(&mut self, now: Moment, token: Token, key: &str, name: &str) -> bool {
        let good = self.next(key, "o") == "o";
        let fault = || Fault { reason: String::new(), message: "scripted".to_owned() };
        self.answer(now, token, Outcome::Named(if good { Ok(name.to_owned()) } else { Err(fault()) }));
        good
    }

    fn act(&mut self, now: Moment, pod: &Pod, action: Action) -> bool {
        match action {
            Action::PullImage { token, container, image, .. } => {
                self.named(now, token, &format!("{container} pull"), &image);
            }
            Action::RunSandbox { token, attempt } => {
                let id = format!("s{attempt}");
                if self.named(now, token, "sandbox", &id) {
                    self.say(now, &format!("sandbox#{attempt}"));
                    let ip = Some("10.0.0.2".to_owned());
                    self.sandboxes.push(SandboxSeen { id, attempt, ready: true, ip });
                }
            }
            Action::CreateContainer { token, container, attempt, .. } => {
                self.made += 1;
                let id = format!("c{}", self.made);
                assert!(!self.containers.iter().any(|c| c.name == container && c.attempt == attempt), "name taken");
                if self.named(now, token, &format!("{container} create"), &id) {
                    self.containers.push(Container { id, name: container, attempt, state: Seen::Created, ends: None });
                }
            }
            Action::StartContainer { token, container, id } => self.start(now, token, &container, &id),
            Action::Probe { token, container, kind, .. } => {
                let key = format!("{container} {}", kind.word().to_ascii_lowercase());
                let words = self.words.get(&key);
                let used = self.used.get(&key).copied().unwrap_or(0);
                let late = words.is_some_and(|words| words[used.min(words.len() - 1)] == "t");
                let probe = crate::decide::probe_of(pod.container(&container).unwrap(), kind).unwrap();
                let at = if late { now + probe.timeout } else { now };
                self.answers.push(Answer { at, token, what: Due::Probe(container, kind) });
            }
            Action::RunHook { token, container, hook, timeout, .. } => {
                let which = if hook == Hook::PostStart { "postStart" } else { "preStop" };
                self.say(now, &format!("{container} hook {which}"));
                let word = self.next(&format!("{container} {which}"), "0:o");
                let (time, good) = word.split_once(':').unwrap();
                let time = seconds(time).min(timeout.unwrap_or(Duration::MAX));
                let fault = Fault { reason: String::new(), message: "scripted".to_owned() };
                self.answer(now + time, token, Outcome::Plain(if good == "o" { Ok(()) } else { Err(fault) }));
            }
            Action::StopContainer { token, container, id, grace } => self.stop(now, token, &container, &id, grace),
            Action::RemoveContainer { token, id } => {
                let running = self.containers.iter().any(|c| c.id == id && matches!(c.state, Seen::Running(_)));
                assert!(!running, "a running container was removed");
                self.containers.retain(|found| found.id != id);
                self.answer(now, token, Outcome::Plain(Ok(())));
            }
            Action::StopSandbox { token, id } => {
                self.say(now, "sandbox stop");
                self.sandbox_dies(now, &id);
                self.answer(now, token, Outcome::Plain(Ok(())));
            }
            Action::RemoveSandbox { token, id } => {
                self.sandboxes.retain(|found| found.id != id);
                self.answer(now, token, Outcome::Plain(Ok(())));
            }
            Action::Report(_) => {}
            Action::Forget => {
                self.say(now, "gone");
                return true;
            }
        }
        false
    }

    fn start(&mut self, now: Moment, token: Token, name: &str, id: &str) {
        if self.next(&format!("{name} start"), "o") != "o" {
            self.say(now, &format!("{name} start fails"));
            let fault = Fault { reason: String::new(), message: "scripted".to_owned() };
            return self.answer(now, token, Outcome::Plain(Err(fault)));
        }
        self.doubled |= self.containers.iter().any(|c| c.name == name && matches!(c.state, Seen::Running(_)));
        let run = self.next(&format!("{name} runs"), "-");
        let found = self.containers.iter_mut().find(|found| found.id == id).expect("it was created");
        found.state = Seen::Running(now);
        found.ends = run.split_once(':').map(|(time, code)| (now + seconds(time), code.parse().unwrap()));
        let text = if found.attempt == 0 { format!("{name} start") } else { format!("{name} start#{}", found.attempt) };
        self.say(now, &text);
        self.answer(now, token, Outcome::Plain(Ok(())));
    }

    fn stop(&mut self, now: Moment, token: Token, name: &str, id: &str, grace: Duration) {
        let key = format!("{name} term");
        let word = self.words.get(&key).map_or("0", |words| words[0].as_str()).to_owned();
        let (time, code) = match word.as_str() {
            "never" => (grace, 137),
            word if seconds(word) > grace => (grace, 137),
            word => (seconds(word), 143),
        };
        self.say(now, &format!("{name} term {}", grace.as_secs_f64()));
        let mut at = now;
        if let Some(found) = self.containers.iter_mut().find(|found| found.id == id)
            && matches!(found.state, Seen::Running(_))
        {
            let end = (now + time, code);
            found.ends = Some(found.ends.map_or(end, |old| old.min(end)));
            at = found.ends.unwrap().0;
        }
        self.answer(at, token, Outcome::Plain(Ok(())));
    }

    fn sandbox_dies(&mut self, now: Moment, id: &str) {
        if let Some(found) = self.sandboxes.iter_mut().find(|found| found.id == id) {
            found.ready = false;
        }
        for found in &mut self.containers {
            if matches!(found.state, Seen::Running(_)) {
                found.ends = Some((now, 137));
            }
        }
        self.pass(now);
    }

    /// Containers end, orders fall due.
    fn pass(&mut self, now: Moment) {
        let mut ended = Vec::new();
        for found in &mut self.containers {
            if let Some((at, code)) = found.ends
                && at <= now
            {
                found.ends = None;
                found.state = Seen::Exited { code, reason: String::new(), message: String::new(), at };
                ended.push(format!("{} exit {code}", found.name));
            }
        }
        for text in ended {
            self.say(now, &text);
        }
    }

    fn orders(&mut self, now: Moment, memory: &mut Memory) {
        while self.orders.first().is_some_and(|(at, _)| *at <= now) {
            let (_, words) = self.orders.remove(0);
            match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["delete", grace] => {
                    self.say(now, "delete");
                    memory.delete(now, seconds(grace));
                }
                ["sandbox", "dies"] => {
                    let id = self.sandboxes.iter().find(|found| found.ready).map(|found| found.id.clone());
                    self.say(now, "sandbox dies");
                    self.sandbox_dies(now, &id.unwrap());
                }
                [name, "vanishes"] => self.containers.retain(|found| found.name != *name),
                other => panic!("no such order: {other:?}"),
            }
        }
    }

    fn observe(&mut self, now: Moment) -> Observation {
        let mut done = Vec::new();
        let mut rest = Vec::new();
        for answer in std::mem::take(&mut self.answers) {
            if answer.at > now {
                rest.push(answer);
                continue;
            }
            let outcome = match answer.what {
                Due::Outcome(outcome) => outcome,
                Due::Probe(name, kind) => self.probe(now, &name, kind),
            };
            done.push(Done { token: answer.token, outcome });
        }
        self.answers = rest;
        let containers = self.containers.iter().map(|found| ContainerSeen {
            id: found.id.clone(),
            name: found.name.clone(),
            attempt: found.attempt,
            state: found.state.clone(),
        });
        Observation { sandboxes: self.sandboxes.clone(), containers: containers.collect(), done }
    }

    fn probe(&mut self, now: Moment, name: &str, kind: ProbeKind) -> Outcome {
        let word = kind.word().to_ascii_lowercase();
        let letter = self.next(&format!("{name} {word}"), "o");
        let (result, text) = match letter.as_str() {
            "o" => (ProbeResult::Success, "ok"),
            "x" => (ProbeResult::Failure, "fail"),
            "t" => (ProbeResult::Failure, "timeout"),
            "u" => (ProbeResult::Unrunnable, "unrunnable"),
            "e" => (ProbeResult::Error, "error"),
            other => panic!("no such outcome: {other}"),
        };
        self.say(now, &format!("{name} probe {word} {text}"));
        Outcome::Probed(result, String::new())
    }

    fn next_event(&self) -> Option<Moment> {
        let ends = self.containers.iter().filter_map(|found| found.ends.map(|(at, _)| at));
        let orders = self.orders.iter().map(|(at, _)| *at);
        ends.chain(orders).chain(self.answers.iter().map(|answer| answer.at)).min()
    }
}

fn letters(word: &str) -> Vec<String> {
    word.chars().map(String::from).collect()
}

/// What of the status a timeline tells.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    ready: BTreeMap<String, bool>,
    waits: BTreeMap<String, String>,
    phase: Option<Phase>,
}

fn tell(world: &mut World, told: &mut Told, pod: &Pod, memory: &Memory, now: Moment) {
    let status = status(pod, memory);
    for container in &status.containers {
        let is_init = container.kind == crate::ContainerKind::Init;
        if !is_init && told.ready.insert(container.name.clone(), container.ready).unwrap_or(false) != container.ready {
            world.say(now, &format!("{} {}", container.name, if container.ready { "ready" } else { "unready" }));
        }
        let reason = match &container.state {
            ContainerState::Waiting { reason, .. } => reason.clone(),
            _ => String::new(),
        };
        let shown = !matches!(reason.as_str(), "" | "ContainerCreating" | "PodInitializing");
        if told.waits.insert(container.name.clone(), reason.clone()).unwrap_or_default() != reason && shown {
            world.say(now, &format!("{} waits {reason}", container.name));
        }
    }
    if told.phase.replace(status.phase) != Some(status.phase) && status.phase != Phase::Pending {
        world.say(now, &format!("{:?}", status.phase));
    }
}

/// Runs a scenario.
pub(crate) fn timeline(spec: &str, script: &str, limit: u64, restarts: Restarts) -> Vec<String> {
    let pod = pod(spec);
    let mut world = World::new(script);
    // Without chance, so that times are round.
    let mut memory = Memory::new(1, Tuning { backoff_jitter_percent: 0, ..Tuning::default() });
    let mut told = Told::default();
    let (mut now, mut rounds, mut steps) = (Moment(0), 0, 0);
    let end = Moment(0) + Duration::from_secs(limit);
    loop {
        world.pass(now);
        world.orders(now, &mut memory);
        let seen = world.observe(now);
        let actions = step(&pod, &mut memory, &seen, now);
        tell(&mut world, &mut told, &pod, &memory, now);
        let text = serde_json::to_string(&memory).unwrap();
        for action in actions {
            if world.act(now, &pod, action) {
                return world.lines;
            }
        }
        assert!(!world.doubled, "two of one name ran at once:\n{}", world.lines.join("\n"));
        steps += 1;
        if let Restarts::EachStep(each) = restarts
            && steps % each == 0
        {
            memory = serde_json::from_str(&text).unwrap();
            memory.resume();
            world.answers.clear();
        }
        let event = world.next_event();
        let due = due(&pod, &memory);
        let next = event.into_iter().chain(due).min();
        let Some(next) = next.filter(|next| *next <= end) else { return world.lines };
        if next <= now {
            rounds += 1;
            assert!(
                rounds < 60,
                "runs in circles at {now}: {due:?} {event:?}\n{memory:#?}\n{}",
                world.lines.join("\n")
            );
        } else {
            rounds = 0;
            now = next;
        }
    }
}
