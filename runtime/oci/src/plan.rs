//! From a specification to the list of steps. Pure, but for the cgroup's descriptors that it is given.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use runtime_sys::cgroup::Version;
use runtime_sys::privileges::Capabilities;
use runtime_sys::process::Namespaces;
use runtime_sys::seccomp::Program;

use crate::input::{Joins, Procfs, RootSource, SeccompChoice};
use crate::step::{Console, Overlay, OverlayForm, Step};
use crate::users::{self, Users};
use crate::{ContainerCgroup, Input, OciError, seccomp};

mod devices;
mod mounts;
mod process;

pub(crate) use mounts::{POD_SHM, image_layers, image_of, is_bind};
pub(crate) use process::exec_steps;

/// Longest value that `fsconfig` takes, in bytes.
const FSCONFIG_VALUE_BYTES_MAX: usize = 255;

/// Most masked or read-only paths; the default has some dozen and the kubelet adds one for each processor.
const PATHS_MAX: usize = 8192;

/// What the plan needs to know about the machine and the calling process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Highest capability number of the kernel.
    pub(crate) last_capability: u32,
    /// The caller's bounding set: more can't be given away.
    pub(crate) bounding: Capabilities,
    /// Whether hard limits and OOM scores may go beyond the caller's own.
    pub(crate) beyond_own: bool,
    /// The caller's OOM score adjustment.
    pub(crate) oom_score_adj: i32,
    /// How layers are told to the kernel.
    pub(crate) overlay: OverlayForm,
}

/// Everything decided.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// How many trees the steps keep.
    pub(crate) slots: usize,
    /// New namespaces, for the clone.
    pub(crate) namespaces: Namespaces,
    /// The process-id namespace to join, by the parent.
    pub(crate) pid: Option<OwnedFd>,
    /// The group to be born in (version 2).
    pub(crate) birth: Option<ContainerCgroup>,
    pub(crate) seccomp: Option<Arc<Program>>,
    pub(crate) warnings: Vec<String>,
}

/// The plan of a container's first process.
pub(crate) fn container(input: Input<'_>, cgroup: &ContainerCgroup, facts: &Facts) -> Result<Plan, OciError> {
    let Input { spec, root, seccomp: choice, mut joins, volumes, .. } = input;
    let process = spec.process().as_ref().ok_or_else(|| OciError::invalid("process: is missing"))?;
    let nothing = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&nothing);
    let users = joins.users.take().map(Users::of);
    if joins.pid.is_some() && joins.procfs == Procfs::Made {
        return Err(OciError::invalid(
            "linux.namespaces: a procfs of a process-id namespace that is joined isn't made inside",
        ));
    }
    let new = new_namespaces(linux, &joins, users.as_ref())?;
    let mut warnings = Vec::new();
    let facts = &users.as_ref().map_or(*facts, |_| users::facts_inside(facts));
    let filter = filter_of(choice, linux, process, facts, &mut warnings)?;
    let oom_score = process::oom_score(process, facts, &mut warnings)?;
    let last = process::last_steps(process, filter.clone(), facts, &mut warnings)?;

    let mut steps = vec![Step::BeginAnew];
    let birth = join_cgroup(&mut steps, cgroup, None)?;
    match &users {
        None if new.cgroup => steps.extend([Step::NewCgroupNamespace, Step::NewSessionKeyring]),
        None => steps.push(Step::NewSessionKeyring),
        Some(users) => {
            users::check_ids(process, &users.map)?;
            steps.extend(users::gifts(process, &users.map, &last));
        }
    }
    steps.extend(oom_score);
    let (root, overlay) = root_steps(root, linux.mount_label().as_deref(), facts, users.as_ref())?;
    steps.push(root);
    // From here to EnterPodMounts in the host's mount namespace: sources are the host's paths.
    let mut mounts = mounts::plan(spec, &volumes, facts.overlay, (cgroup, new.cgroup), users.as_ref(), &joins)?;
    let Joins { network, ipc, uts, pid, procfs, mounts: pod, users: _ } = joins;
    // For who comes after this process; first, since a procfs may be had for it.
    steps.extend(pid.map(|fd| Step::Join(fd, Namespaces::PID)));
    steps.append(&mut mounts.sources);
    for (fd, namespace) in [(network, Namespaces::NETWORK), (ipc, Namespaces::IPC), (uts, Namespaces::UTS)] {
        steps.extend(fd.map(|fd| Step::Join(fd, namespace)));
    }
    steps.extend(sysctls(linux, new.flags)?);
    if mounts.returns {
        steps.push(Step::RememberHostMounts);
    }
    steps.push(Step::EnterPodMounts { pod });
    let mut devices = devices::plan(spec, linux)?;
    if let Some(users) = &users {
        let (made, bound) = users::split_nodes(devices, &users.map, &mut mounts.slots);
        devices = bound;
        steps.extend([Step::Workshop].into_iter().chain(overlay).chain(mounts.made).chain(made));
        steps.extend(users::enter(users, new.inside()));
    }
    steps.push(Step::AttachRoot);
    steps.extend(mounts.attach);
    steps.extend(devices);
    steps.push(Step::OpenTerminal { console: Console::Made });
    for path in paths(linux.masked_paths().as_deref(), "linux.maskedPaths")? {
        steps.push(Step::Mask(path));
    }
    for path in paths(linux.readonly_paths().as_deref(), "linux.readonlyPaths")? {
        steps.push(Step::ReadOnly(path));
    }
    steps.push(Step::MakeWorkingDirectory(absolute(process.cwd(), "process.cwd")?));
    if spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
        steps.push(Step::ReadOnlyRoot);
    }
    steps.push(Step::Pivot);
    if new.flags.contains(Namespaces::UTS) {
        steps.extend(spec.hostname().clone().map(Step::HostName));
        steps.extend(spec.domainname().clone().map(Step::DomainName));
    }
    match procfs {
        Procfs::Made => steps.extend(last),
        Procfs::Pods | Procfs::Targets => {
            steps.extend(process::emerging(last, filter.as_deref(), process.terminal() == Some(true)))
        }
    }
    // What a user namespace is to own is made after it is entered.
    let namespaces = if users.is_some() { Namespaces::NONE } else { new.flags };
    Ok(Plan { steps, slots: mounts.slots, namespaces, pid: None, birth, seccomp: filter, warnings })
}

/// How the new process becomes a member: born there on version 2, by itself on version 1.
fn join_cgroup(
    steps: &mut Vec<Step>,
    cgroup: &ContainerCgroup,
    above: Option<&ContainerCgroup>,
) -> Result<Option<ContainerCgroup>, OciError> {
    if cgroup.group.version() == Version::V2 {
        return Ok(Some(cgroup.clone()));
    }
    let doors = match above {
        None => cgroup.group.doors(),
        Some(above) => cgroup.group.doors_below(&above.group),
    };
    let doors = doors.map_err(|source| OciError::Kernel { step: "open the cgroups".to_owned(), source })?;
    steps.push(Step::JoinCgroups(doors));
    Ok(None)
}

struct New {
    flags: Namespaces,
    cgroup: bool,
}

impl New {
    fn inside(&self) -> Namespaces {
        if self.cgroup { self.flags.and(Namespaces::CGROUP) } else { self.flags }
    }
}

fn new_namespaces(linux: &Linux, joins: &Joins, users: Option<&Users>) -> Result<New, OciError> {
    let mut new = New { flags: Namespaces::NONE, cgroup: false };
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ();
        if namespace.path().is_some() {
            return Err(OciError::invalid(format!("linux.namespaces: the {kind} namespace is given by a path")));
        }
        let (flag, joined) = match kind {
            // Made in any case, after everything that needs the host's.
            LinuxNamespaceType::Mount => continue,
            LinuxNamespaceType::Cgroup => {
                new.cgroup = true;
                continue;
            }
            LinuxNamespaceType::Uts => (Namespaces::UTS, joins.uts.is_some()),
            LinuxNamespaceType::Ipc => (Namespaces::IPC, joins.ipc.is_some()),
            LinuxNamespaceType::Pid => (Namespaces::PID, joins.pid.is_some()),
            LinuxNamespaceType::Network => (Namespaces::NETWORK, joins.network.is_some()),
            LinuxNamespaceType::User | LinuxNamespaceType::Time => {
                return Err(OciError::invalid(format!("linux.namespaces: {kind} namespaces aren't supported")));
            }
        };
        if joined {
            return Err(OciError::invalid(format!(
                "linux.namespaces: the {kind} namespace is new and the pod's at once"
            )));
        }
        new.flags = new.flags.and(flag);
    }
    if users.is_some() && (!Namespaces::PID.contains(new.flags) || joins.mounts.is_none()) {
        return Err(OciError::invalid("linux.namespaces: a user namespace has its pod's other namespaces with it"));
    }
    Ok(new)
}

fn filter_of(
    choice: SeccompChoice,
    linux: &Linux,
    process: &oci_spec::runtime::Process,
    facts: &Facts,
    warnings: &mut Vec<String>,
) -> Result<Option<Arc<Program>>, OciError> {
    match choice {
        SeccompChoice::Unconfined => Ok(None),
        SeccompChoice::RuntimeDefault => {
            let bounding = process::capabilities(process, facts, &mut Vec::new()).bounding;
            seccomp::runtime_default(bounding).map(Some)
        }
        SeccompChoice::Spec => {
            let profile = linux.seccomp().as_ref();
            let profile = profile.ok_or_else(|| OciError::invalid("linux.seccomp: is missing"))?;
            let compiled = seccomp::compile(profile)?;
            warnings.extend(compiled.warning);
            Ok(Some(Arc::new(compiled.program)))
        }
    }
}

/// The step in the host's mount namespace, and the one that mounts what the first has cloned.
fn root_steps(
    root: RootSource<'_>,
    label: Option<&str>,
    facts: &Facts,
    users: Option<&Users>,
) -> Result<(Step, Option<Step>), OciError> {
    if let Some(users) = users {
        let label = label.map(|label| text(label.as_bytes(), "linux.mountLabel")).transpose()?;
        if let Some((clone, mount)) = users::root_steps(&root, label, users, facts)? {
            return Ok((clone, Some(mount)));
        }
    }
    Ok((root_step(root, label, facts)?, None))
}

fn root_step(root: RootSource<'_>, label: Option<&str>, facts: &Facts) -> Result<Step, OciError> {
    match root {
        RootSource::Directory(path) => Ok(Step::CloneRoot(absolute(path, "root")?)),
        RootSource::Overlay { lowers, upper, work, volatile } => {
            if lowers.is_empty() {
                return Err(OciError::invalid("root: an overlay needs at least one layer"));
            }
            let lowers: Vec<_> = lowers.iter().map(|path| absolute(path, "root")).collect::<Result<_, _>>()?;
            let (upper, work) = (absolute(upper, "root")?, absolute(work, "root")?);
            let long =
                lowers.iter().chain([&upper, &work]).any(|path| path.as_bytes().len() > FSCONFIG_VALUE_BYTES_MAX);
            let form = if long { OverlayForm::ShortNames } else { facts.overlay };
            let label = label.map(|label| text(label.as_bytes(), "linux.mountLabel")).transpose()?;
            Ok(Step::MountOverlay(Box::new(Overlay { lowers, upper, work, volatile, label, form })))
        }
    }
}

/// Kernel parameters of namespaces that are new with the container; the pod's are set with the pod.
fn sysctls(linux: &Linux, new: Namespaces) -> Result<Vec<Step>, OciError> {
    let Some(sysctls) = linux.sysctl() else { return Ok(Vec::new()) };
    sysctls
        .iter()
        .map(|(name, value)| sysctl(name, value, new).map(|(path, value)| Step::Sysctl { path, value }))
        .collect()
}

/// The file below `/proc` of a parameter that belongs to one of the `own` namespaces, and the value.
pub(crate) fn sysctl(name: &str, value: &str, own: Namespaces) -> Result<(CString, String), OciError> {
    const IPC_NAMES: [&str; 12] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
        "kernel/auto_msgmni",
        "kernel/msg_next_id",
        "kernel/sem_next_id",
        "kernel/shm_next_id",
    ];
    let refused = |why: &str| OciError::invalid(format!("sysctl {name:?}: {why}"));
    // With a slash first the slashes separate; else the dots do, and slashes stand for dots within a part.
    let path: String = match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name.to_owned(),
        _ => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    };
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:@".contains(&byte))
    };
    if !path.split('/').all(plain) || path.len() > 255 {
        return Err(refused("is no name of a kernel parameter"));
    }
    if value.len() > 4096 || value.bytes().any(|byte| byte < b' ' && byte != b'\t') {
        return Err(refused("the value has control characters or is too long"));
    }
    let needed = if path.starts_with("net/") {
        Namespaces::NETWORK
    } else if IPC_NAMES.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
        Namespaces::IPC
    } else {
        return Err(refused("isn't of a namespace, so it would change the host"));
    };
    if !own.contains(needed) {
        return Err(refused("belongs to a namespace that is the host's"));
    }
    let path = CString::new(format!("sys/{path}")).map_err(|_| refused("has a NUL"))?;
    Ok((path, value.to_owned()))
}

fn paths(list: Option<&[String]>, field: &str) -> Result<Vec<CString>, OciError> {
    let list = list.unwrap_or_default();
    if list.len() > PATHS_MAX {
        return Err(OciError::invalid(format!("{field}: more than {PATHS_MAX} entries")));
    }
    list.iter().map(|path| absolute(Path::new(path), field)).collect()
}

/// An absolute path as the kernel takes it.
pub(crate) fn absolute(path: &Path, field: &str) -> Result<CString, OciError> {
    if !path.is_absolute() || path.as_os_str().len() > runtime_sys::rootfs::PATH_BYTES_MAX {
        return Err(OciError::invalid(format!("{field}: {path:?} is no absolute path of at most 4096 bytes")));
    }
    text(path.as_os_str().as_bytes(), field)
}

/// Bytes as a C string.
pub(crate) fn text(bytes: &[u8], field: &str) -> Result<CString, OciError> {
    CString::new(bytes).map_err(|_| OciError::invalid(format!("{field}: has a NUL byte")))
}

#[cfg(test)]
mod tests;
