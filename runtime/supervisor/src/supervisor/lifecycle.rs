//! A container's way from its specification to its exit record.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use oci_spec::runtime::Capability;
use runtime_oci::{
    ContainerCgroup, Launching, Prepared, Process, Processes, Progress, Seen, Stdio, StopBefore, Volumes,
    check_sources, prepare,
};
use runtime_sys::epoll::Interest;
use runtime_sys::signals::ChildEnd;
use runtime_sys::socket::set_nonblocking;
use runtime_wire::{Answer, ContainerSpec, Event, Exit, ExitRecord, Failure, FailureKind};

use super::requests::no_such_container;
use super::{Alive, Caller, Outcome, Remains, Supervisor, Token};
use crate::attach::Attachments;
use crate::clock;
use crate::container::{Container, Ending, Live, Look, Stage, Terminal};
use crate::convert::{
    check_id, failure, has_own_processes, has_sources, identity, images, input, oci_failure, terminal,
};
use crate::exit::{CODE_NOT_STARTED, exit_of, write_record};
use crate::log::{LogFile, StreamName};
use crate::stdio::{Ends, OutputStream, Readers, pipes};
use crate::warn::warn;

/// Most containers in one pod, ended ones with them: the kubelet keeps few, and each is a line of every answer to `Hello`.
const CONTAINERS_MAX: usize = 512;

/// Most callers that wait for one start: a retry or two of a node that came back.
const CALLERS_MAX: usize = 16;

/// Longest look at the volume sources: a dead file server is told and not waited for.
const CHECK_TIME: Duration = Duration::from_secs(10);

/// Longest way from the clone to the program: mounts of slow volumes are in it.
pub(super) const LAUNCH_TIME: Duration = Duration::from_secs(30);

/// Longest wait for the rest of a container's output once its first process has ended: another process may hold it.
const DRAIN_TIME: Duration = Duration::from_secs(2);

impl Supervisor {
    pub(super) fn create_container(&mut self, caller: Caller, mut spec: Box<ContainerSpec>) -> Result<(), Failure> {
        check_id(&spec.id)?;
        self.may_start(&spec.id)?;
        if self.find(&spec.id).is_some() {
            return Err(failure(FailureKind::Refused, format!("container {} is there already", spec.id)));
        }
        if self.containers.len() >= CONTAINERS_MAX {
            let message = format!("this pod has {CONTAINERS_MAX} containers; ended ones are removed first");
            return Err(failure(FailureKind::Refused, message));
        }
        let Some(process) = spec.spec.process_mut() else {
            return Err(failure(FailureKind::Invalid, format!("container {} has no process", spec.id)));
        };
        // Ours is lowered; a container that names no score of its own must not inherit that.
        let oom_score_adj = process.oom_score_adj().unwrap_or(self.oom_score_adj);
        process.set_oom_score_adj(Some(oom_score_adj));
        let (user, terminal, may_trace) = (process.user().uid(), terminal(process), may_trace(process));

        let number = self.number();
        let (id, log_path, stdin) = (spec.id.clone(), spec.log.clone(), spec.stdin);
        let stage = if has_sources(&spec.spec) {
            let check = check_sources(&spec.spec, &images(&spec))
                .map_err(|error| oci_failure("look at the volume sources", &error))?;
            self.watch(check.descriptor(), Token::Progress(number))?;
            Stage::Checking { check, spec, caller, deadline: clock::now() + CHECK_TIME }
        } else {
            let prepared = self.prepare(&spec, Seen::default())?;
            self.answer_done(caller);
            Stage::Created { prepared }
        };
        self.containers
            .insert(number, Container { id, log_path, stdin, user, terminal, oom_score_adj, may_trace, stage });
        self.tidy_soon();
        Ok(())
    }

    /// New processes need the pod's namespaces.
    fn may_start(&self, id: &str) -> Result<(), Failure> {
        let refused = |why: &str| Err(failure(FailureKind::Refused, format!("container {id}: {why}")));
        match &self.sandbox {
            None => refused("no sandbox was created here"),
            Some(sandbox) if sandbox.alive == Alive::No => refused("the pod's pause process has ended"),
            Some(_) if self.stopping.is_some() => refused("the sandbox is being stopped"),
            Some(_) => Ok(()),
        }
    }

    /// Whose processes it sees: its own, those of one that runs, or the pod's.
    fn processes(&self, spec: &ContainerSpec) -> Result<Processes<'_>, Failure> {
        if has_own_processes(&spec.spec) {
            return Ok(Processes::Own);
        }
        let Some(target) = &spec.pid_target else { return Ok(Processes::Pods) };
        let container = self.find(target).and_then(|number| self.containers.get(&number));
        match container.map(|container| &container.stage) {
            None => Err(no_such_container(target)),
            Some(Stage::Running { process, .. }) => Ok(Processes::Of(process.pidfd.as_fd())),
            Some(_) => {
                let why =
                    format!("container {}: container {target}, whose processes it is to see, is not running", spec.id);
                Err(failure(FailureKind::Refused, why))
            }
        }
    }

    fn prepare(&self, spec: &ContainerSpec, seen: Seen) -> Result<Box<Prepared>, Failure> {
        let operation = || format!("create container {}", spec.id);
        let Some(pause) = self.sandbox.as_ref().and_then(|sandbox| sandbox.pause.as_ref()) else {
            return Err(failure(FailureKind::Refused, format!("{}: there is no sandbox", operation())));
        };
        let joins = pause.joins_for(self.processes(spec)?).map_err(|error| oci_failure(&operation(), &error))?;
        let images = images(spec);
        let volumes = Volumes { images: &images, seen };
        let prepared = prepare(input(spec, joins, volumes)).map_err(|error| oci_failure(&operation(), &error))?;
        for warning in prepared.warnings() {
            warn(format_args!("container {}: {warning}", spec.id));
        }
        Ok(Box::new(prepared))
    }

    pub(super) fn start_container(&mut self, caller: Caller, id: &str) -> Result<(), Failure> {
        let number = self.find(id).ok_or_else(|| no_such_container(id))?;
        let Some(container) = self.containers.get_mut(&number) else { return Err(no_such_container(id)) };
        let refused = |why: &str| Err(failure(FailureKind::Refused, format!("container {id}: {why}")));
        match &mut container.stage {
            Stage::Checking { .. } => refused("its volumes are still being looked at"),
            Stage::Ending(_) | Stage::Exited { .. } => refused("it has ended"),
            Stage::Launching { callers, .. } if callers.len() >= CALLERS_MAX => refused("it is being started"),
            Stage::Launching { callers, .. } => {
                callers.push(caller);
                Ok(())
            }
            Stage::Running { process, started_unix_nanos, .. } => {
                let started = started(process, *started_unix_nanos);
                self.answer(caller, started);
                Ok(())
            }
            Stage::Created { .. } => self.launch(number, caller),
        }
    }

    fn launch(&mut self, number: u64, caller: Caller) -> Result<(), Failure> {
        let Some(mut container) = self.containers.remove(&number) else { return Ok(()) };
        let begun = self.may_start(&container.id).and_then(|()| streams(&container));
        let (log, ends) = match begun {
            Ok(begun) => begun,
            Err(failure) => {
                self.containers.insert(number, container);
                return Err(failure);
            }
        };
        let Stage::Created { prepared } = container.stage else {
            self.containers.insert(number, container);
            return Ok(());
        };
        let mut live = Box::new(Live {
            cgroup: prepared.cgroup(),
            seccomp: prepared.seccomp(),
            log,
            outputs: [None, None],
            input: ends.input,
            attached: Attachments::default(),
        });
        let callers = vec![caller];
        let launching = match prepared.launch(ends.theirs, StopBefore::Nothing) {
            Ok(launching) => launching,
            Err(error) => {
                let failure = oci_failure(&format!("start container {}", container.id), &error);
                container.stage = not_started(&live.cgroup);
                self.containers.insert(number, container);
                self.discard(live.cgroup);
                self.fail_start(number, &callers, &failure);
                return Ok(());
            }
        };
        let mut watched = self.watch(launching.descriptor(), Token::Progress(number));
        let tokens = [Token::Stdout(number), Token::Stderr(number)];
        for ((place, output), token) in live.outputs.iter_mut().zip(ends.outputs).zip(tokens) {
            watched = watched.and_then(|()| self.watch(output.descriptor(), token));
            *place = Some(output);
        }
        container.stage = Stage::Launching { launching, live, callers, deadline: clock::now() + LAUNCH_TIME };
        self.containers.insert(number, container);
        if let Err(failure) = watched {
            self.abandon_start(number, &failure);
        }
        self.tidy_soon();
        Ok(())
    }

    /// A check or a launch has news, or its process has ended.
    pub(super) fn progress(&mut self, number: u64) {
        let Some(container) = self.containers.get_mut(&number) else { return };
        match &mut container.stage {
            Stage::Checking { check, .. } => {
                if let Some(found) = check.advance() {
                    self.checked(number, found.map_err(|error| oci_failure("volume sources", &error)));
                }
            }
            Stage::Launching { launching, .. } => match launching.advance() {
                Progress::Pending | Progress::Blocked => {}
                Progress::Running(process) => self.launched(number, process),
                Progress::Failed(error) => {
                    let failure = oci_failure(&format!("start container {}", container.id), &error);
                    self.abandon_start(number, &failure);
                }
            },
            Stage::Created { .. } | Stage::Running { .. } | Stage::Ending(_) | Stage::Exited { .. } => {}
        }
    }

    /// The volume sources were looked at: the container is made, or gone.
    pub(super) fn checked(&mut self, number: u64, found: Result<Seen, Failure>) {
        let Some(mut container) = self.containers.remove(&number) else { return };
        let Stage::Checking { check, spec, caller, .. } = container.stage else {
            self.containers.insert(number, container);
            return;
        };
        self.unwatch(check.descriptor());
        // A child that sleeps in the kernel is reaped as a stranger when it wakes.
        drop(check.abandon());
        let made = found.and_then(|seen| self.may_start(&spec.id).and_then(|()| self.prepare(&spec, seen)));
        match made {
            Ok(prepared) => {
                container.stage = Stage::Created { prepared };
                self.containers.insert(number, container);
                self.answer_done(caller);
            }
            Err(failure) => self.answer(caller, Err(failure)),
        }
    }

    fn launched(&mut self, number: u64, process: Process) {
        let Some(mut container) = self.containers.remove(&number) else { return };
        let Stage::Launching { mut launching, mut live, callers, .. } = container.stage else {
            self.containers.insert(number, container);
            return;
        };
        self.unwatch(launching.descriptor());
        if container.terminal != Terminal::No
            && let Some(master) = launching.take_terminal()
        {
            self.adopt_terminal(number, &mut live, master);
        }
        let started_unix_nanos = clock::unix_nanos();
        for caller in callers {
            self.answer(caller, started(&process, started_unix_nanos));
        }
        container.stage = Stage::Running { process, started_unix_nanos, live };
        self.containers.insert(number, container);
    }

    /// A terminal's output is the log's standard output; a second descriptor is kept for what is typed.
    fn adopt_terminal(&self, number: u64, live: &mut Live, master: OwnedFd) {
        let input = master.try_clone().map_err(|error| error.to_string());
        let shown = set_nonblocking(master.as_fd()).map_err(|error| error.to_string());
        let stream = OutputStream::new(master, StreamName::Stdout);
        let watched = self.watch(stream.descriptor(), Token::Stdout(number)).map_err(|failure| failure.message);
        match input.and_then(|input| shown.and(watched).map(|()| input)) {
            Ok(input) => {
                live.input = Some(input);
                live.outputs[0] = Some(stream);
            }
            Err(error) => warn(format_args!("the container's terminal is not read: {error}")),
        }
    }

    /// A launch that came to nothing, or is to come to nothing. What is left of it is killed.
    pub(super) fn abandon_start(&mut self, number: u64, failure: &Failure) {
        let Some(mut container) = self.containers.remove(&number) else { return };
        let Stage::Launching { launching, mut live, callers, .. } = container.stage else {
            self.containers.insert(number, container);
            return;
        };
        self.unwatch(launching.descriptor());
        // One that sleeps in the kernel is reaped as a stranger when it wakes.
        drop::<Option<Process>>(Launching::abandon(launching));
        for output in live.outputs.iter_mut().filter_map(Option::take) {
            self.unwatch(output.descriptor());
        }
        container.stage = not_started(&live.cgroup);
        self.containers.insert(number, container);
        self.discard(live.cgroup);
        self.fail_start(number, &callers, failure);
    }

    /// Tells that a container has ended without having begun.
    fn fail_start(&mut self, number: u64, callers: &[Caller], failure: &Failure) {
        for caller in callers {
            self.answer(*caller, Err(failure.clone()));
        }
        let Some(container) = self.containers.get(&number) else { return };
        let Stage::Exited { started_unix_nanos, exit, .. } = &container.stage else { return };
        let (id, started, exit) = (container.id.clone(), *started_unix_nanos, exit.clone());
        self.record_and_tell(id, started, exit);
    }

    /// A container's first process has ended and is reaped.
    pub(super) fn first_process_ended(&mut self, number: u64, end: ChildEnd) {
        let Some(mut container) = self.containers.remove(&number) else { return };
        let Stage::Running { process, started_unix_nanos, mut live } = container.stage else {
            self.containers.insert(number, container);
            return;
        };
        let now = clock::now();
        live.input = None;
        container.stage = Stage::Ending(Box::new(Ending {
            process: identity(&process),
            started_unix_nanos,
            exit: exit_of(end, false, clock::unix_nanos()),
            look: if empty_or_kill(&live.cgroup) { None } else { Some(Look::soon(now)) },
            live,
            deadline: now + DRAIN_TIME,
        }));
        self.containers.insert(number, container);
        self.finish_if_over(number, now);
    }

    /// Looks again whether the container's other processes are gone.
    pub(super) fn look_at_ending(&mut self, number: u64, now: Instant) {
        if let Some(Stage::Ending(ending)) = self.containers.get_mut(&number).map(|container| &mut container.stage)
            && let Some(look) = ending.look.filter(|look| look.at <= now)
        {
            ending.look = if empty_or_kill(&ending.live.cgroup) { None } else { Some(look.later(now)) };
        }
        self.finish_if_over(number, now);
    }

    /// Writes the record and tells it, once the log is complete and nothing of the container is left, or the wait is over.
    pub(super) fn finish_if_over(&mut self, number: u64, now: Instant) {
        let Some(mut container) = self.containers.remove(&number) else { return };
        let Stage::Ending(mut ending) = container.stage else {
            self.containers.insert(number, container);
            return;
        };
        let over = ending.look.is_none() && ending.live.outputs.iter().all(Option::is_none);
        if !over && now < ending.deadline {
            container.stage = Stage::Ending(ending);
            self.containers.insert(number, container);
            return;
        }
        let Live { log, outputs, attached, .. } = &mut *ending.live;
        for (stream, output) in outputs.iter_mut().enumerate() {
            if let Some(mut output) = output.take() {
                self.unwatch(output.descriptor());
                output.pump(Readers { log: log.as_mut(), attached, stream }, &mut self.buffers);
                output.finish(log.as_mut(), &mut self.buffers);
            }
            attached.end(stream).into_iter().for_each(|client| self.detach(&container.id, client));
        }
        let Ending { started_unix_nanos, mut exit, live, .. } = *ending;
        let Live { cgroup, log, .. } = *live;
        // Closed before anybody is told, so that the file may be moved or removed then.
        drop(log);
        exit.oom_killed = cgroup.oom_killed().unwrap_or(false);
        let id = container.id.clone();
        container.stage = Stage::Exited { started_unix_nanos, exit: exit.clone(), cgroup: cgroup.path().to_owned() };
        self.containers.insert(number, container);
        self.discard(cgroup);
        self.record_and_tell(id, started_unix_nanos, exit);
        self.tidy_soon();
    }

    fn record_and_tell(&mut self, container: String, started_unix_nanos: i64, exit: Exit) {
        if let Some(sandbox) = &self.sandbox {
            let record = ExitRecord { container: container.clone(), started_unix_nanos, exit: exit.clone() };
            if let Err(error) = write_record(&sandbox.exits, &record) {
                warn(format_args!("the exit of container {container} is told but not on disk: {error}"));
            }
        }
        if exit.oom_killed {
            self.tell(Event::OomKilled { container: container.clone() });
        }
        self.tell(Event::ContainerExited { container, exit });
    }

    /// Empties and removes a cgroup, later if it can't be done now.
    pub(super) fn discard(&mut self, cgroup: ContainerCgroup) {
        if !empty_or_kill(&cgroup) || cgroup.remove().is_err() {
            self.remains.push(Remains { cgroup, look: Look::soon(clock::now()) });
        }
    }

    pub(super) fn watch(&self, descriptor: BorrowedFd<'_>, token: Token) -> Result<(), Failure> {
        self.epoll
            .add(descriptor, token.pack(), Interest::Read)
            .map_err(|error| failure(FailureKind::Kernel, format!("wait for a new process: {error}")))
    }

    /// Before a descriptor is closed: a child on its way to its program may hold a copy, which would go on reporting.
    pub(super) fn unwatch(&self, descriptor: BorrowedFd<'_>) {
        if let Err(error) = self.epoll.remove(descriptor) {
            warn(error);
        }
    }
}

/// Opens the log and makes the streams.
fn streams(container: &Container) -> Result<(Option<LogFile>, Ends), Failure> {
    let log = match &container.log_path {
        Some(path) => Some(LogFile::open(path).map_err(|error| {
            failure(FailureKind::Kernel, format!("open the log {path:?} of container {}: {error}", container.id))
        })?),
        None => None,
    };
    let ends = match container.terminal {
        Terminal::Yes(size) => Ends { theirs: Stdio::Terminal { size }, outputs: Vec::new(), input: None },
        Terminal::No => pipes(container.stdin, container.user).map_err(|error| {
            failure(FailureKind::Kernel, format!("make the streams of container {}: {error}", container.id))
        })?,
    };
    Ok((log, ends))
}

/// Whether CAP_SYS_PTRACE can be had by a process of it, from the first or by a program file.
fn may_trace(process: &oci_spec::runtime::Process) -> bool {
    let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
    bounding.is_some_and(|set| set.contains(&Capability::SysPtrace))
}

fn not_started(cgroup: &ContainerCgroup) -> Stage {
    let exit = Exit { code: CODE_NOT_STARTED, signal: None, oom_killed: false, at_unix_nanos: clock::unix_nanos() };
    Stage::Exited { started_unix_nanos: 0, exit, cgroup: cgroup.path().to_owned() }
}

pub(super) fn started(process: &Process, at_unix_nanos: i64) -> Outcome {
    Ok((Answer::Started { process: identity(process), at_unix_nanos }, Vec::new()))
}

/// `true`: nothing runs in it. Else everything in it is sent SIGKILL.
pub(super) fn empty_or_kill(cgroup: &ContainerCgroup) -> bool {
    match cgroup.is_empty() {
        Ok(true) => true,
        Ok(false) => {
            if let Err(error) = cgroup.kill_all() {
                warn(format_args!("a cgroup is not emptied: {error}"));
            }
            false
        }
        Err(error) => {
            warn(format_args!("a cgroup can't be read: {error}"));
            true
        }
    }
}
