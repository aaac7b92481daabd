//! The process that holds a pod's namespaces: cloned, not executed, and stripped of everything.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use runtime_sys::mount::{self, Attributes};
use runtime_sys::privileges::{self, Capabilities};
use runtime_sys::process::{self, Ended, Namespaces};
use runtime_sys::procfs::ProcHandle;
use runtime_sys::userns::{self, IdMap};
use runtime_sys::{SysError, SysResult, pause as forever, socket, sync};

use crate::error::During;
use crate::host::{Host, host};
use crate::input::Procfs;
use crate::plan::sysctl;
use crate::users::all_capabilities;
use crate::{ContainerCgroup, Joins, OciError, PodUsers, Process, scaffold};

/// How long making the namespaces may take. A network namespace waits for the kernel's network lock, which a busy host
/// holds for seconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// The user and group of the pause process: nobody's.
const PAUSE_ID: u32 = 65535;

const SIGKILL: i32 = 9;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EUSERS: i32 = 87;

/// Who sees whose processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidNamespace {
    /// The pause process has a namespace of its own; only a container that asks for it joins.
    Own,
    /// The pod's containers join the pause process's namespace; it reaps there.
    Shared,
    /// The host's.
    Host,
}

/// What a pod's processes share.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// The host name; empty keeps the host's UTS namespace.
    pub hostname: String,
    /// A network namespace of its own, with `lo` up.
    pub network: bool,
    /// An IPC namespace of its own.
    pub ipc: bool,
    /// The process-id namespace.
    pub pid: PidNamespace,
    /// The pause process's cgroup, as in `linux.cgroupsPath`; made with its parents.
    pub cgroup: String,
    /// Namespaced kernel parameters, in dotted form.
    pub sysctls: Vec<(String, String)>,
    /// Size of `/dev/shm` in bytes.
    pub shm_bytes: u64,
    /// A user namespace of its own with these ids, which owns the other namespaces: those then have to be the pod's, too.
    pub users: Option<IdMap>,
}

/// A pod's pause process and its namespaces.
#[derive(Debug)]
pub struct Pause {
    /// The process.
    pub process: Process,
    /// Its cgroup.
    pub cgroup: ContainerCgroup,
    /// The pod's network namespace; `None` on the host's.
    pub network: Option<OwnedFd>,
    /// The pod's IPC namespace; `None` on the host's.
    pub ipc: Option<OwnedFd>,
    /// The pod's UTS namespace; `None` without a host name.
    pub uts: Option<OwnedFd>,
    /// The pause process's process-id namespace; `None` on the host's.
    pub pid: Option<OwnedFd>,
    /// Who is meant to see whose processes.
    pub processes: PidNamespace,
    /// The pod's mount namespace.
    pub mounts: OwnedFd,
    /// The pod's user namespace, if it has one.
    pub users: Option<PodUsers>,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, Copy)]
pub enum Processes<'a> {
    /// Its own alone: its specification lists a new process-id namespace.
    Own,
    /// The pause process's and those of all who join it; the host's where the pod has the host's.
    Pods,
    /// Those of another process, given by its pidfd.
    Of(BorrowedFd<'a>),
}

impl Pause {
    /// The same descriptors again, for one container that sees the processes that the pod is meant to.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn joins(&self) -> Result<Joins, OciError> {
        self.joins_for(if self.processes == PidNamespace::Shared { Processes::Pods } else { Processes::Own })
    }

    /// The same for one that sees others.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn joins_for(&self, processes: Processes<'_>) -> Result<Joins, OciError> {
        let again = |fd: &OwnedFd| {
            fd.try_clone()
                .map_err(|error| SysError::from_io("fcntl(F_DUPFD_CLOEXEC)", &error))
                .during(|| "copy a namespace's descriptor".to_owned())
        };
        Ok(Joins {
            network: self.network.as_ref().map(again).transpose()?,
            ipc: self.ipc.as_ref().map(again).transpose()?,
            uts: self.uts.as_ref().map(again).transpose()?,
            pid: match processes {
                Processes::Own => None,
                Processes::Pods => self.pid.as_ref().map(again).transpose()?,
                Processes::Of(process) => Some(
                    process
                        .try_clone_to_owned()
                        .map_err(|error| SysError::from_io("fcntl(F_DUPFD_CLOEXEC)", &error))
                        .during(|| "copy a process's descriptor".to_owned())?,
                ),
            },
            procfs: match processes {
                Processes::Pods if self.processes != PidNamespace::Host => Procfs::Pods,
                Processes::Pods | Processes::Own => Procfs::Made,
                Processes::Of(_) => Procfs::Targets,
            },
            mounts: Some(again(&self.mounts)?),
            users: match &self.users {
                Some(users) => Some(PodUsers { namespace: again(&users.namespace)?, map: users.map }),
                None => None,
            },
        })
    }
}

/// What the child needs, made before the clone.
struct Steps {
    namespaces: Namespaces,
    hostname: String,
    sysctls: Vec<(CString, String)>,
    shm_size: CString,
    doors: Vec<OwnedFd>,
    filter: runtime_sys::seccomp::Program,
    bounding: Capabilities,
    last_capability: u32,
    user: u32,
    group: u32,
    /// For a pod with a user namespace: see [`scaffold::build`].
    proc: Option<OwnedFd>,
    processes: scaffold::Processes,
}

/// Makes the pod's namespaces and the process that holds them. Takes about a millisecond; gives up after ten seconds.
///
/// # Errors
/// A sysctl that isn't namespaced (refused before anything is made), or the kernel refuses.
pub fn spawn_pause(spec: &PodSpec) -> Result<Pause, OciError> {
    let host = host()?;
    let namespaces = namespaces(spec);
    if spec.users.is_some() && !(spec.network && spec.ipc && spec.pid != PidNamespace::Host) {
        return Err(OciError::invalid("a pod with a user namespace can't have the host's network, IPC or process ids"));
    }
    let sysctls = spec.sysctls.iter().map(|(name, value)| sysctl(name, value, namespaces)).collect::<Result<_, _>>()?;
    let cgroup = ContainerCgroup::make(&spec.cgroup)?;
    let made = make(spec, host, namespaces, sysctls, &cgroup);
    if made.is_err() {
        // The reason is worth more than a second one.
        drop(cgroup.remove());
    }
    made
}

fn namespaces(spec: &PodSpec) -> Namespaces {
    let mut set = Namespaces::MOUNT;
    for (wanted, namespace) in [
        (spec.network, Namespaces::NETWORK),
        (spec.ipc, Namespaces::IPC),
        (!spec.hostname.is_empty(), Namespaces::UTS),
        (spec.pid != PidNamespace::Host, Namespaces::PID),
        (spec.users.is_some(), Namespaces::USER),
    ] {
        if wanted {
            set = set.and(namespace);
        }
    }
    set
}

fn make(
    spec: &PodSpec,
    host: &Host,
    namespaces: Namespaces,
    sysctls: Vec<(CString, String)>,
    cgroup: &ContainerCgroup,
) -> Result<Pause, OciError> {
    let v2 = cgroup.group.version() == runtime_sys::cgroup::Version::V2;
    let steps = Steps {
        namespaces,
        hostname: spec.hostname.clone(),
        sysctls,
        shm_size: CString::new(spec.shm_bytes.to_string()).expect("digits have no NUL"),
        doors: if v2 { Vec::new() } else { cgroup.group.doors().during(|| "open the cgroups".to_owned())? },
        filter: crate::seccomp::pause().during(|| "compile the pause process's filter".to_owned())?,
        bounding: match spec.users {
            Some(_) => all_capabilities(host.facts.last_capability),
            None => host.facts.bounding,
        },
        last_capability: host.facts.last_capability,
        user: nobody(spec.users.map(|map| map.uids)),
        group: nobody(spec.users.map(|map| map.gids)),
        processes: match spec.pid {
            PidNamespace::Shared | PidNamespace::Own => scaffold::Processes::Joined,
            PidNamespace::Host => scaffold::Processes::NotJoined,
        },
        proc: spec.users.map(|_| visible_proc()).transpose().during(|| "make a procfs for the pod".to_owned())?,
    };
    let (ours, theirs) = sync::pair().during(|| "make a socket".to_owned())?;
    let birth = if v2 { cgroup.group.directory("") } else { None };
    let child = process::clone3(namespaces, birth, || {
        if let Err((step, errno)) = run(&steps, &host.proc, theirs.as_fd()) {
            let [a, b, c, d] = errno.to_le_bytes();
            drop(sync::send(theirs.as_fd(), &[&[a, b, c, d], step.as_bytes()].concat()));
        }
        1
    })
    .map_err(|source| match source.errno() {
        errno @ (ENOSPC | EUSERS) if spec.users.is_some() => OciError::NoUserNamespace { errno },
        _ => OciError::Kernel { step: "make the pause process".to_owned(), source },
    })?;
    drop(theirs);
    let mapped = spec.users.as_ref().map_or(Ok(()), |map| {
        userns::write_maps(&host.proc, child.pid, map).and_then(|()| sync::send(ours.as_fd(), b"G")).during(|| {
            format!("map the ids of the pod's user namespace to {} and {}", map.uids.outside, map.gids.outside)
        })
    });
    let ready = mapped.and_then(|()| hear(ours.as_fd(), spec)).and_then(|descriptors| {
        let start_ticks = process::start_ticks(child.pid).during(|| "identify the pause process".to_owned())?;
        Ok((descriptors, start_ticks))
    });
    match ready {
        Ok((descriptors, start_ticks)) => {
            let process = Process { pid: child.pid, start_ticks, pidfd: child.pidfd };
            Ok(descriptors.into_pause(process, cgroup.clone(), spec))
        }
        Err(error) => {
            drop(process::pidfd_send_signal(child.pidfd.as_fd(), SIGKILL));
            // Unless it sleeps in the kernel, which the caller's reaping of all children sees to.
            let ended: SysResult<Option<Ended>> =
                if sync::readable(child.pidfd.as_fd(), Duration::from_secs(1)).unwrap_or(false) {
                    process::reap(child.pidfd.as_fd())
                } else {
                    Ok(None)
                };
            drop(ended);
            Err(error)
        }
    }
}

/// What the child sends: its namespaces, in this order, as far as they are the pod's own.
struct Descriptors {
    mounts: OwnedFd,
    network: Option<OwnedFd>,
    ipc: Option<OwnedFd>,
    uts: Option<OwnedFd>,
    pid: Option<OwnedFd>,
    users: Option<OwnedFd>,
}

impl Descriptors {
    fn into_pause(self, process: Process, cgroup: ContainerCgroup, spec: &PodSpec) -> Pause {
        let Self { mounts, network, ipc, uts, pid, users } = self;
        let users = users.zip(spec.users).map(|(namespace, map)| PodUsers { namespace, map });
        Pause { process, cgroup, network, ipc, uts, pid, processes: spec.pid, mounts, users }
    }
}

/// Nobody's id; where that isn't mapped, the last one that is.
fn nobody(range: Option<userns::IdRange>) -> u32 {
    match range {
        Some(range) if range.outside_of(PAUSE_ID).is_none() => range.last_inside().unwrap_or(PAUSE_ID),
        _ => PAUSE_ID,
    }
}

/// It lies where only the making of a container sees it, and shows nobody's processes but its reader's.
fn visible_proc() -> SysResult<OwnedFd> {
    let quiet = Attributes::NO_SUID.and(Attributes::NO_DEV).and(Attributes::NO_EXEC);
    mount::new_filesystem(c"proc", &[(c"hidepid", Some(c"2"))], quiet)
}

/// Waits for two messages: the descriptors, and that it is confined.
fn hear(sync: BorrowedFd<'_>, spec: &PodSpec) -> Result<Descriptors, OciError> {
    let mut message = [0; 256];
    let mut descriptors = None;
    loop {
        if !sync::readable(sync, DEADLINE).during(|| "wait for the pause process".to_owned())? {
            return Err(OciError::Died { how: format!("the pause process took longer than {DEADLINE:?}") });
        }
        let (count, fds) = socket::recv(sync, &mut message)
            .map_err(|error| SysError::from_io("recvmsg()", &error))
            .during(|| "hear from the pause process".to_owned())?;
        match message.get(..count).unwrap_or_default() {
            [b'N'] => {
                let mut fds = fds.into_iter();
                let mut next = || fds.next().ok_or_else(|| OciError::Died { how: "a namespace is missing".to_owned() });
                descriptors = Some(Descriptors {
                    mounts: next()?,
                    network: spec.network.then(&mut next).transpose()?,
                    ipc: spec.ipc.then(&mut next).transpose()?,
                    uts: (!spec.hostname.is_empty()).then(&mut next).transpose()?,
                    pid: (spec.pid != PidNamespace::Host).then(&mut next).transpose()?,
                    users: spec.users.is_some().then(&mut next).transpose()?,
                });
            }
            [b'R'] => {
                return descriptors.ok_or_else(|| OciError::Died { how: "a message is missing".to_owned() });
            }
            [a, b, c, d, step @ ..] if !step.is_empty() => {
                let step = String::from_utf8_lossy(step).into_owned();
                if step.starts_with(PARAMETER) {
                    let errno = i32::from_le_bytes([*a, *b, *c, *d]);
                    return Err(OciError::Parameter { step, errno });
                }
                return Err(OciError::Step { step, errno: i32::from_le_bytes([*a, *b, *c, *d]) });
            }
            _ => return Err(OciError::Died { how: "the pause process ended".to_owned() }),
        }
    }
}

type Failed = (String, i32);

/// In the child. Comes back only when something failed.
fn run(steps: &Steps, proc: &ProcHandle, sync: BorrowedFd<'_>) -> Result<(), Failed> {
    let failed = |step: &'static str| move |error: SysError| (step.to_owned(), error.errno());
    privileges::set_not_dumpable().map_err(failed("begin a session"))?;
    process::setsid().map_err(failed("begin a session"))?;
    process::reset_signals().map_err(failed("begin a session"))?;
    // Before the report: PID 1 of a namespace loses what isn't blocked, and a pod may be stopped at once.
    process::block_signals().map_err(failed("begin a session"))?;
    process::set_umask(0);
    if steps.namespaces.contains(Namespaces::USER) {
        wait_for_maps(sync).map_err(failed("wait for the maps of the pod's user namespace"))?;
    }
    for door in &steps.doors {
        runtime_sys::cgroup::enter(door.as_fd()).map_err(failed("join the pause process's cgroups"))?;
    }
    let null = scaffold::clone_null().map_err(failed("open the host's /dev/null"))?;
    name(steps)?;
    let refused = set_parameters(steps.sysctls.iter(), proc)?;
    if steps.namespaces.contains(Namespaces::USER) {
        // Only now, for parameters of the kernel may belong to the host's root; others belong to this one. And a file
        // system's root belongs to whoever mounts it.
        userns::become_root().map_err(failed("become the root of the pod's user namespace"))?;
    }
    if let Some((path, value)) = set_parameters(refused.into_iter(), proc)?.first() {
        return Err((parameter_step(path, value), EACCES));
    }
    drop(process::join_new_session_keyring());
    scaffold::build(null.as_fd(), &steps.shm_size, steps.proc.as_ref().map(AsFd::as_fd), steps.processes)
        .map_err(failed("make the pod's mount namespace"))?;
    share(steps, proc, sync).map_err(failed("hand out the pod's namespaces"))?;
    process::unshare(Namespaces::MOUNT).map_err(failed("leave the pod's mount namespace"))?;
    empty_root().map_err(failed("make an empty root"))?;
    confine(steps).map_err(failed("drop the pause process's rights"))?;
    sync::send(sync, b"R").map_err(failed("report"))?;
    forever::hold(proc, &steps.filter).map_err(failed("load the pause process's filter"))
}

fn wait_for_maps(sync: BorrowedFd<'_>) -> SysResult<()> {
    match sync::receive(sync, &mut [0])? {
        1 => Ok(()),
        _ => Err(SysError::new("read()", EINVAL)),
    }
}

fn name(steps: &Steps) -> Result<(), Failed> {
    let failed = |step: &'static str| move |error: SysError| (step.to_owned(), error.errno());
    if steps.namespaces.contains(Namespaces::UTS) {
        process::set_hostname(steps.hostname.as_bytes()).map_err(failed("set the pod's host name"))?;
    }
    if steps.namespaces.contains(Namespaces::NETWORK) {
        forever::bring_loopback_up().map_err(failed("bring lo up"))?;
    }
    Ok(())
}

/// How the step begins that is the request's fault and not the kernel's.
const PARAMETER: &str = "set kernel parameter ";

/// With the parameter's name as people write it.
fn parameter_step(path: &CStr, value: &str) -> String {
    let path = path.to_string_lossy();
    format!("{PARAMETER}{} to {value:?}", path.strip_prefix("sys/").unwrap_or(&path).replace('/', "."))
}

/// Answers with those that this user may not set.
fn set_parameters<'a>(
    parameters: impl Iterator<Item = &'a (CString, String)>,
    proc: &ProcHandle,
) -> Result<Vec<&'a (CString, String)>, Failed> {
    let mut refused = Vec::new();
    for parameter in parameters {
        let (path, value) = parameter;
        match proc.write(path, value.as_bytes()) {
            Ok(()) => {}
            Err(error) if error.errno() == EACCES => refused.push(parameter),
            Err(error) => return Err((parameter_step(path, value), error.errno())),
        }
    }
    Ok(refused)
}

fn share(steps: &Steps, proc: &ProcHandle, sync: BorrowedFd<'_>) -> SysResult<()> {
    let mut own = vec![proc.open_namespace(c"self/ns/mnt")?];
    for (namespace, path) in [
        (Namespaces::NETWORK, c"self/ns/net"),
        (Namespaces::IPC, c"self/ns/ipc"),
        (Namespaces::UTS, c"self/ns/uts"),
        (Namespaces::PID, c"self/ns/pid"),
        (Namespaces::USER, c"self/ns/user"),
    ] {
        if steps.namespaces.contains(namespace) {
            own.push(proc.open_namespace(path)?);
        }
    }
    let borrowed: Vec<BorrowedFd<'_>> = own.iter().map(AsFd::as_fd).collect();
    match socket::send(sync, b"N", &borrowed) {
        Ok(1) => Ok(()),
        Ok(_) => Err(SysError::new("sendmsg(SCM_RIGHTS)", EINVAL)),
        Err(error) => Err(SysError::from_io("sendmsg(SCM_RIGHTS)", &error)),
    }
}

/// Nothing is to be found in `/proc/1/root` of a shared process-id namespace.
fn empty_root() -> SysResult<()> {
    let empty = scaffold::empty_read_only()?;
    let old = runtime_sys::rootfs::open_host_directory(c"/")?;
    mount::attach(empty.as_fd(), old.as_fd())?;
    mount::pivot_into(empty.as_fd())
}

fn confine(steps: &Steps) -> SysResult<()> {
    privileges::set_name(c"pause")?;
    privileges::drop_bounding(steps.bounding, Capabilities::NONE, steps.last_capability)?;
    privileges::set_groups(&[])?;
    privileges::set_gid(steps.group)?;
    privileges::set_uid(steps.user)?;
    privileges::set_capabilities(Capabilities::NONE, Capabilities::NONE, Capabilities::NONE)?;
    privileges::set_no_new_privileges()?;
    privileges::set_not_dumpable()
}
