//! The process that holds a pod's namespaces: cloned, not executed, and stripped of everything.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use runtime_sys::mount::{self};
use runtime_sys::privileges::{self, Capabilities};
use runtime_sys::process::{self, Ended, Namespaces};
use runtime_sys::procfs::ProcHandle;
use runtime_sys::{SysError, SysResult, pause as forever, socket, sync};

use crate::error::During;
use crate::host::{Host, host};
use crate::plan::sysctl;
use crate::{ContainerCgroup, Joins, OciError, Process, scaffold};

/// How long making the namespaces may take. A network namespace waits for the kernel's network lock, which a busy host
/// holds for seconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// The user and group of the pause process: nobody's.
const PAUSE_ID: u32 = 65535;

const SIGKILL: i32 = 9;
const EINVAL: i32 = 22;

/// Who sees whose processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidNamespace {
    /// The pause process has a namespace of its own that nobody joins.
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
    /// The pod's process-id namespace; only when shared.
    pub pid: Option<OwnedFd>,
    /// The pod's mount namespace.
    pub mounts: OwnedFd,
}

impl Pause {
    /// The same descriptors again, for one container.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn joins(&self) -> Result<Joins, OciError> {
        let again = |fd: &OwnedFd| {
            fd.try_clone()
                .map_err(|error| SysError::from_io("fcntl(F_DUPFD_CLOEXEC)", &error))
                .during(|| "copy a namespace's descriptor".to_owned())
        };
        Ok(Joins {
            network: self.network.as_ref().map(again).transpose()?,
            ipc: self.ipc.as_ref().map(again).transpose()?,
            uts: self.uts.as_ref().map(again).transpose()?,
            pid: self.pid.as_ref().map(again).transpose()?,
            mounts: Some(again(&self.mounts)?),
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
}

/// Makes the pod's namespaces and the process that holds them. Takes about a millisecond; gives up after ten seconds.
///
/// # Errors
/// A sysctl that isn't namespaced (refused before anything is made), or the kernel refuses.
pub fn spawn_pause(spec: &PodSpec) -> Result<Pause, OciError> {
    let host = host()?;
    let namespaces = namespaces(spec);
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
        bounding: host.facts.bounding,
        last_capability: host.facts.last_capability,
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
    .during(|| "make the pause process".to_owned())?;
    drop(theirs);
    match hear(ours.as_fd(), spec) {
        Ok(descriptors) => {
            let start_ticks = process::start_ticks(child.pid).during(|| "identify the pause process".to_owned())?;
            let process = Process { pid: child.pid, start_ticks, pidfd: child.pidfd };
            Ok(descriptors.into_pause(process, cgroup.clone()))
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
}

impl Descriptors {
    fn into_pause(self, process: Process, cgroup: ContainerCgroup) -> Pause {
        let Self { mounts, network, ipc, uts, pid } = self;
        Pause { process, cgroup, network, ipc, uts, pid, mounts }
    }
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
                    pid: (spec.pid == PidNamespace::Shared).then(&mut next).transpose()?,
                });
            }
            [b'R'] => {
                return descriptors.ok_or_else(|| OciError::Died { how: "a message is missing".to_owned() });
            }
            [a, b, c, d, step @ ..] if !step.is_empty() => {
                let step = String::from_utf8_lossy(step).into_owned();
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
    for door in &steps.doors {
        runtime_sys::cgroup::enter(door.as_fd()).map_err(failed("join the pause process's cgroups"))?;
    }
    drop(process::join_new_session_keyring());
    let null = scaffold::clone_null().map_err(failed("open the host's /dev/null"))?;
    scaffold::build(null.as_fd(), &steps.shm_size).map_err(failed("make the pod's mount namespace"))?;
    share(steps, proc, sync).map_err(failed("hand out the pod's namespaces"))?;
    process::unshare(Namespaces::MOUNT).map_err(failed("leave the pod's mount namespace"))?;
    empty_root().map_err(failed("make an empty root"))?;
    if steps.namespaces.contains(Namespaces::UTS) {
        process::set_hostname(steps.hostname.as_bytes()).map_err(failed("set the pod's host name"))?;
    }
    if steps.namespaces.contains(Namespaces::NETWORK) {
        forever::bring_loopback_up().map_err(failed("bring lo up"))?;
    }
    for (path, value) in &steps.sysctls {
        let step = || format!("set kernel parameter {path:?} to {value:?}");
        proc.write(path, value.as_bytes()).map_err(|error| (step(), error.errno()))?;
    }
    confine(steps).map_err(failed("drop the pause process's rights"))?;
    sync::send(sync, b"R").map_err(failed("report"))?;
    forever::hold(proc, &steps.filter).map_err(failed("load the pause process's filter"))
}

fn share(steps: &Steps, proc: &ProcHandle, sync: BorrowedFd<'_>) -> SysResult<()> {
    let mut own = vec![proc.open_namespace(c"self/ns/mnt")?];
    for (namespace, path) in [
        (Namespaces::NETWORK, c"self/ns/net"),
        (Namespaces::IPC, c"self/ns/ipc"),
        (Namespaces::UTS, c"self/ns/uts"),
        (Namespaces::PID, c"self/ns/pid"),
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
    privileges::set_gid(PAUSE_ID)?;
    privileges::set_uid(PAUSE_ID)?;
    privileges::set_capabilities(Capabilities::NONE, Capabilities::NONE, Capabilities::NONE)?;
    privileges::set_no_new_privileges()?;
    privileges::set_not_dumpable()
}
