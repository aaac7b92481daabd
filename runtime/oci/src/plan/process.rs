//! `process`: what a new process becomes after its root stands. The same for a container's first and for an exec.

use std::borrow::Cow;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use oci_spec::runtime::{Capability, Process};
use runtime_sys::emerge::Load;
use runtime_sys::privileges::Capabilities;
use runtime_sys::process::{Limit, Namespaces, Resource, StringList, resource_limit};
use runtime_sys::seccomp::Program;

use super::{Facts, Plan, absolute, join_cgroup, text};
use crate::launch::{ExecTarget, Tracers};
use crate::seccomp::allows;
use crate::step::{Command, Console, Module, Step};
use crate::{ContainerCgroup, OciError, users};

/// Most arguments and environment variables together; the kernel's own limit is on bytes.
const STRINGS_MAX: usize = 100_000;

/// Where a program without a slash is looked for when the environment has no PATH.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest label of a security module, in bytes; the kernel takes a page with a word before it.
const LABEL_BYTES_MAX: usize = 4000;

/// Most directories of PATH that are tried.
const PATH_DIRECTORIES_MAX: usize = 1024;

/// The plan of one more process in a container: `init` is the pidfd of the container's first.
pub(crate) fn exec_steps(
    process: &Process,
    init: OwnedFd,
    leaf: &ContainerCgroup,
    target: &ExecTarget<'_>,
    filter: Option<Arc<Program>>,
    facts: &Facts,
) -> Result<Plan, OciError> {
    let users = target.users;
    let facts = &users.map_or(*facts, |_| users::facts_inside(facts));
    let mut warnings = Vec::new();
    let oom_score = oom_score(process, facts, &mut warnings)?;
    let last = last_steps(process, filter.clone(), facts, &mut warnings)?;
    let mut steps = vec![Step::BeginAnew];
    let birth = join_cgroup(&mut steps, leaf, Some(target.cgroup))?;
    steps.extend(oom_score);
    let mut namespaces =
        Namespaces::MOUNT.and(Namespaces::NETWORK).and(Namespaces::IPC).and(Namespaces::UTS).and(Namespaces::CGROUP);
    if let Some(map) = users {
        users::check_ids(process, map)?;
        steps.extend(users::gifts(process, map, &last));
        namespaces = namespaces.and(Namespaces::USER);
    }
    let (duplicate, pid) = match target.tracers {
        Tracers::None => {
            let duplicate = init
                .try_clone()
                .map_err(|error| runtime_sys::SysError::from_io("fcntl(F_DUPFD_CLOEXEC)", &error))
                .map_err(|source| OciError::Kernel { step: "join the container".to_owned(), source })?;
            (duplicate, Some(init))
        }
        // The process-id namespace is its child's alone: what it still may and holds is seen by nobody in there.
        Tracers::Possible => {
            namespaces = namespaces.and(Namespaces::PID);
            (init, None)
        }
    };
    steps.push(Step::JoinProcess(duplicate, namespaces));
    steps.push(Step::NewSessionKeyring);
    steps.push(Step::TakeRoot);
    steps.push(Step::OpenTerminal { console: Console::None });
    match target.tracers {
        Tracers::None => steps.extend(last),
        Tracers::Possible => steps.extend(emerging(last, filter.as_deref(), process.terminal() == Some(true))),
    }
    Ok(Plan { steps, slots: 0, namespaces: Namespaces::NONE, pid, birth, seccomp: filter, warnings })
}

/// The last steps of a process that appears among others: in place of the announcement it goes inside.
///
/// Without `no_new_privs` only CAP_SYS_ADMIN loads a filter. The process outside still has it and loads the filter, unless
/// the filter refuses what is to be done after it: then the process inside has that capability for as long as the load
/// takes, since a profile that works elsewhere must not stop an exec.
pub(super) fn emerging(steps: Vec<Step>, filter: Option<&Program>, terminal: bool) -> impl Iterator<Item = Step> {
    const CLONE_PARENT_SETTID: u64 = 0x0010_0000;
    const CLONE_PARENT: u64 = 0x8000;
    const TIOCSCTTY: u64 = 0x540e;
    let needs_right = steps.iter().any(|step| match step {
        Step::Capabilities { loading, .. } => *loading != Capabilities::NONE,
        _ => false,
    });
    let let_through = |filter: &Program| {
        allows(filter, "capset", &[])
            && allows(filter, "clone", &[CLONE_PARENT | CLONE_PARENT_SETTID])
            && allows(filter, "exit_group", &[])
            && allows(filter, "setsid", &[])
            && (!terminal || allows(filter, "ioctl", &[0, TIOCSCTTY]))
    };
    let load = if needs_right && filter.is_some_and(let_through) { Load::Outside } else { Load::Inside };
    steps.into_iter().map(move |step| if matches!(step, Step::Announce) { Step::Emerge(load) } else { step })
}

/// From the streams to the program.
pub(super) fn last_steps(
    process: &Process,
    filter: Option<Arc<Program>>,
    facts: &Facts,
    warnings: &mut Vec<String>,
) -> Result<Vec<Step>, OciError> {
    let user = process.user();
    let command = command(process)?;
    let sets = capabilities(process, facts, warnings);
    let no_new_privileges = process.no_new_privileges() == Some(true);
    // Without no_new_privs only CAP_SYS_ADMIN loads a filter, so it stays until then and not a call longer.
    let loading = if filter.is_some() && !no_new_privileges { Capabilities::SYS_ADMIN } else { Capabilities::NONE };
    let set = |loading: Capabilities| Step::Capabilities {
        effective: sets.effective,
        permitted: sets.permitted,
        inheritable: sets.ambient,
        loading,
    };
    let mut steps = labels(process)?;
    steps.push(Step::Stdio { uid: user.uid() });
    let limits = limits(process, facts, warnings)?;
    if !limits.is_empty() {
        steps.push(Step::Limits(limits));
    }
    steps.push(Step::WorkingDirectory(absolute(process.cwd(), "process.cwd")?));
    steps.push(Step::DropBounding { have: facts.bounding, keep: sets.bounding, last: facts.last_capability });
    let groups = user.additional_gids().clone().unwrap_or_default();
    steps.push(Step::User { uid: user.uid(), gid: user.gid(), groups });
    steps.push(set(loading));
    if sets.ambient != Capabilities::NONE {
        steps.push(Step::Ambient(sets.ambient));
    }
    if no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    }
    steps.push(Step::Umask(user.umask().unwrap_or(0o022)));
    steps.push(Step::Announce);
    if let Some(filter) = filter {
        steps.push(Step::Seccomp(filter));
        if loading != Capabilities::NONE {
            steps.push(set(Capabilities::NONE));
        }
    }
    steps.push(Step::Execute(Box::new(command)));
    Ok(steps)
}

/// Written while the process still has every right and no limit; they hold from `execve` on.
fn labels(process: &Process) -> Result<Vec<Step>, OciError> {
    let labels = [
        (Module::AppArmor, "process.apparmorProfile", process.apparmor_profile()),
        (Module::Selinux, "process.selinuxLabel", process.selinux_label()),
    ];
    let mut steps = Vec::new();
    for (module, field, label) in labels {
        let Some(label) = label.as_ref().filter(|label| !label.is_empty()) else { continue };
        if label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control) {
            return Err(OciError::invalid(format!("{field}: is no label")));
        }
        steps.push(Step::Confine { module, label: label.clone() });
    }
    Ok(steps)
}

/// The five sets, with the inheritable one left out: it is what the ambient one needs and nothing more.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sets {
    pub(super) bounding: Capabilities,
    pub(super) effective: Capabilities,
    pub(super) permitted: Capabilities,
    pub(super) ambient: Capabilities,
}

/// None at all where the specification says nothing.
pub(super) fn capabilities(process: &Process, facts: &Facts, warnings: &mut Vec<String>) -> Sets {
    let Some(wanted) = process.capabilities() else { return Sets::default() };
    let mut missing = Vec::new();
    let mut set = |names: &Option<std::collections::HashSet<Capability>>| {
        names.iter().flatten().fold(Capabilities::NONE, |set, capability| {
            let name = format!("CAP_{}", name_of(*capability));
            match Capabilities::named(&name) {
                Some(one) if facts.bounding.contains(one) => set.and(one),
                _ => {
                    if !missing.contains(&name) {
                        missing.push(name);
                    }
                    set
                }
            }
        })
    };
    let sets = Sets {
        bounding: set(wanted.bounding()),
        effective: set(wanted.effective()),
        permitted: set(wanted.permitted()),
        ambient: set(wanted.ambient()),
    };
    if !missing.is_empty() {
        missing.sort();
        warnings.push(format!("{} can't be given: this process or kernel doesn't have it", missing.join(", ")));
    }
    // What is effective or ambient must be permitted; the kernel refuses all of it otherwise.
    Sets { effective: sets.effective.common(sets.permitted), ambient: sets.ambient.common(sets.permitted), ..sets }
}

/// The kernel's name without "CAP_".
fn name_of(capability: Capability) -> String {
    let name = capability.to_string();
    name.strip_prefix("CAP_").unwrap_or(&name).to_owned()
}

pub(super) fn oom_score(
    process: &Process,
    facts: &Facts,
    warnings: &mut Vec<String>,
) -> Result<Option<Step>, OciError> {
    let Some(wanted) = process.oom_score_adj() else { return Ok(None) };
    if !(-1000..=1000).contains(&wanted) {
        return Err(OciError::invalid(format!("process.oomScoreAdj: {wanted} is not between -1000 and 1000")));
    }
    let given = if facts.beyond_own { wanted } else { wanted.max(facts.oom_score_adj) };
    if given != wanted {
        warnings.push(format!("oom_score_adj is {given}, not {wanted}: CAP_SYS_RESOURCE is missing"));
    }
    Ok(Some(Step::OomScore(given.to_string())))
}

fn limits(process: &Process, facts: &Facts, warnings: &mut Vec<String>) -> Result<Vec<(Resource, Limit)>, OciError> {
    let mut list: Vec<(Resource, Limit)> = Vec::new();
    for wanted in process.rlimits().iter().flatten() {
        let name = wanted.typ().to_string();
        let resource = Resource::named(&name).ok_or_else(|| OciError::invalid(format!("process.rlimits: {name}")))?;
        if list.iter().any(|(known, _)| *known == resource) {
            return Err(OciError::invalid(format!("process.rlimits: {name} is there twice")));
        }
        let mut limit = Limit { soft: wanted.soft(), hard: wanted.hard() };
        if limit.soft > limit.hard {
            return Err(OciError::invalid(format!("process.rlimits: the soft {name} is above the hard one")));
        }
        if !facts.beyond_own
            && let Ok(own) = resource_limit(resource)
            && limit.hard > own.hard
        {
            warnings.push(format!("{name} is {}, not {}: CAP_SYS_RESOURCE is missing", own.hard, limit.hard));
            limit = Limit { soft: limit.soft.min(own.hard), hard: own.hard };
        }
        list.push((resource, limit));
    }
    Ok(list)
}

/// A variable's bytes. One that is no text is written as a NUL, which can stand in no other, and hexadecimal digits.
fn variable(written: &str) -> Result<Cow<'_, [u8]>, OciError> {
    let Some(digits) = written.strip_prefix('\0') else { return Ok(Cow::Borrowed(written.as_bytes())) };
    let wrong = || OciError::invalid("process.env: has a NUL byte");
    let value = |digit: &u8| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = digits.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(value(high)? << 4 | value(low)?),
        _ => None,
    });
    pairs.collect::<Option<Vec<u8>>>().map(Cow::Owned).ok_or_else(wrong)
}

fn command(process: &Process) -> Result<Command, OciError> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let environment = process.env().as_deref().unwrap_or_default();
    if arguments.len() + environment.len() > STRINGS_MAX {
        return Err(OciError::invalid(format!("process: more than {STRINGS_MAX} arguments and variables")));
    }
    let environment = environment.iter().map(|one| variable(one)).collect::<Result<Vec<_>, _>>()?;
    let name = arguments.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| OciError::invalid("process.args: there is no program to execute"))?.clone();
    let candidates = if name.contains('/') {
        vec![text(name.as_bytes(), "process.args")?]
    } else {
        let path = environment.iter().rev().find_map(|variable| variable.strip_prefix(b"PATH="));
        path.unwrap_or(PATH_DEFAULT.as_bytes())
            .split(|byte| *byte == b':')
            .take(PATH_DIRECTORIES_MAX)
            .map(|directory| {
                let directory = if directory.is_empty() { b"." } else { directory };
                text(&[directory, b"/", name.as_bytes()].concat(), "process.args")
            })
            .collect::<Result<_, _>>()?
    };
    fn list<S: AsRef<[u8]>>(strings: &[S], field: &str) -> Result<StringList, OciError> {
        let strings: Vec<CString> = strings.iter().map(|s| text(s.as_ref(), field)).collect::<Result<_, _>>()?;
        Ok(StringList::new(strings))
    }
    Ok(Command {
        name,
        candidates,
        arguments: list(arguments, "process.args")?,
        environment: list(&environment, "process.env")?,
    })
}
