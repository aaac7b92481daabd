//! What the new process does: it walks the list. Nothing is decided here that the plan could have decided.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime_sys::emerge::{Last, Load, Report, SessionTerminal, Successor, emerge};
use runtime_sys::mount::{self, Attributes, Depth};
use runtime_sys::process::{self, Namespaces};
use runtime_sys::procfs::ProcHandle;
use runtime_sys::pty::{self, Pty};
use runtime_sys::rootfs::{self, Kind, Links, Make};
use runtime_sys::userns::become_root;
use runtime_sys::{SysError, SysResult, privileges, socket, sync};

use crate::input::{Stdio, StopBefore};
use crate::scaffold;
use crate::step::{Command, Console, Module, Slot, Step};

mod mounts;
mod volumes;
pub(crate) use volumes::{CHANGED, DIRECTORY_ON_FILE, FILE_ON_DIRECTORY, mount_image};

mod users;

const DEVPTS_MAGIC: i64 = 0x1cd1;
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const ENOTDIR: i32 = 20;
const EPERM: i32 = 1;

/// First byte of each message on the socket.
pub(crate) const TERMINAL: u8 = b'T';
/// Only the program is missing.
pub(crate) const READY: u8 = b'R';
/// Step (two bytes), error number (four) and, for some, what it was that failed follow.
pub(crate) const FAILED: u8 = b'F';
/// Another process goes on: its pid (four bytes), its pidfd beside it.
pub(crate) const MOVED: u8 = b'M';
/// Longest of these messages, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64;

/// Exit code of a child that failed; nobody sees it, since the message says more.
const FAILED_CODE: i32 = 125;

/// Size of `/dev/shm` for a container outside a pod, in bytes: 64 MiB, as everywhere.
const SHM_SIZE_ALONE: &CStr = c"67108864";

/// Walks the steps; returns only when one has failed.
pub(crate) fn run(
    steps: &[Step],
    slots: usize,
    proc: &ProcHandle,
    sync: BorrowedFd<'_>,
    stdio: &Stdio,
    stop: StopBefore,
    successor: Option<&Successor>,
) -> i32 {
    let trees = (0..slots).map(|_| None).collect();
    let mut child = Child {
        proc,
        sync,
        stdio,
        stop,
        successor,
        trees,
        root: None,
        host_mounts: None,
        own_mounts: None,
        terminal: None,
        layers: VecDeque::new(),
        workshop: None,
        detail: String::new(),
    };
    walk(&mut child, steps, 0)
}

fn walk(child: &mut Child<'_>, steps: &[Step], from: usize) -> i32 {
    for (index, step) in steps.iter().enumerate().skip(from) {
        let taken = match step {
            Step::GoOnIn(namespaces) => match child.go_on_in(*namespaces, |child| walk(child, steps, index + 1)) {
                Ok(()) => return 0,
                Err(error) => Err(error),
            },
            Step::Emerge(load) => Err(child.emerge(steps, index, *load)),
            step => child.take(step),
        };
        if let Err(error) = taken {
            report(child, index, error.errno());
            return FAILED_CODE;
        }
    }
    report(child, steps.len(), EIO);
    FAILED_CODE
}

fn report(child: &Child<'_>, index: usize, errno: i32) {
    let [low, high, ..] = index.to_le_bytes();
    let [a, b, c, d] = errno.to_le_bytes();
    let mut message = vec![FAILED, low, high, a, b, c, d];
    message.extend(child.detail.bytes().take(MESSAGE_BYTES_MAX - message.len()));
    // When the parent is gone too, there is nobody left to tell.
    drop(sync::send(child.sync, &message));
}

struct Child<'a> {
    proc: &'a ProcHandle,
    sync: BorrowedFd<'a>,
    stdio: &'a Stdio,
    stop: StopBefore,
    /// Where the pid of the process that goes on inside is written, for one that appears among others.
    successor: Option<&'a Successor>,
    trees: Vec<Option<OwnedFd>>,
    root: Option<OwnedFd>,
    /// The host's mount namespace, where sources are left to be opened, and the container's while we are there.
    host_mounts: Option<OwnedFd>,
    own_mounts: Option<OwnedFd>,
    terminal: Option<Pty>,
    /// Layers with mapped owners, the topmost first; the directory of a writable one last.
    layers: VecDeque<Vec<OwnedFd>>,
    /// Where the host's root puts together what it attaches nowhere else.
    workshop: Option<OwnedFd>,
    /// What the failed step was about.
    detail: String,
}

impl Child<'_> {
    fn take(&mut self, step: &Step) -> SysResult<()> {
        match step {
            Step::BeginAnew => begin_anew(),
            Step::JoinCgroups(doors) => doors.iter().try_for_each(|door| runtime_sys::cgroup::enter(door.as_fd())),
            Step::NewCgroupNamespace => process::unshare(Namespaces::CGROUP),
            Step::NewSessionKeyring => {
                // ENOSYS, EDQUOT, or a filter around us: the container runs without, as under any other runtime.
                drop(process::join_new_session_keyring());
                Ok(())
            }
            Step::OomScore(value) => self.proc.write(c"self/oom_score_adj", value.as_bytes()),
            Step::MountOverlay(overlay) => self.keep_root(mounts::mount_overlay(overlay, self.proc)?),
            Step::CloneRoot(path) => self.keep_root(mounts::clone_root(path)?),
            Step::CloneSource(source) => self.keep(source.slot, volumes::clone_source(source)?),
            Step::MountImage { slot, layers } => self.keep(*slot, volumes::mount_image(layers, self.proc)?),
            Step::TakeProcesses { slot, of, attributes } => {
                self.keep(*slot, mounts::processes(of.as_fd(), self.proc, *attributes)?)
            }
            Step::CloneGroup { slot, directory, attributes } => {
                self.keep(*slot, mounts::clone_group(directory.as_fd(), *attributes)?)
            }
            Step::Join(of, namespaces) => process::setns(of.as_fd(), *namespaces),
            Step::JoinProcess(of, namespaces) => {
                process::setns(of.as_fd(), *namespaces)?;
                if namespaces.contains(Namespaces::USER) { become_root() } else { Ok(()) }
            }
            Step::Sysctl { path, value } => self.proc.write(path, value.as_bytes()),
            Step::RememberHostMounts => {
                self.host_mounts = Some(self.proc.open_namespace(c"self/ns/mnt")?);
                Ok(())
            }
            Step::EnterHostMounts => {
                self.own_mounts = Some(self.proc.open_namespace(c"self/ns/mnt")?);
                enter_mounts(self.host_mounts.as_ref())
            }
            Step::LeaveHostMounts => enter_mounts(self.own_mounts.take().as_ref()),
            Step::EnterPodMounts { pod } => enter_pod_mounts(pod.as_ref()),
            Step::AttachRoot => mount::attach(self.root()?, rootfs::open_host_directory(scaffold::ROOT)?.as_fd()),
            Step::Mount(target) => self.mount(target),
            Step::Device { directory, name, node } => {
                let directory = rootfs::open_or_make(self.root()?, directory, Make::Directory)?;
                rootfs::make_node(directory.as_fd(), name, *node)
            }
            Step::DeviceLink { name, target } => {
                rootfs::make_link(rootfs::open_or_make(self.root()?, c"dev", Make::Directory)?.as_fd(), name, target)
            }
            Step::Mask(path) => self.mask(path),
            Step::ReadOnly(path) => self.make_read_only(path),
            Step::MakeWorkingDirectory(path) => rootfs::open_or_make(self.root()?, path, Make::Directory).map(drop),
            Step::OpenTerminal { console } => self.open_terminal(*console),
            Step::ReadOnlyRoot => {
                mount::set_attributes(self.root()?, Depth::One, Attributes::READ_ONLY, Attributes::NONE, None)
            }
            Step::Pivot => mount::pivot_into(self.root()?),
            Step::TakeRoot => {
                self.root = Some(rootfs::open_host_directory(c"/")?);
                Ok(())
            }
            Step::HostName(name) => process::set_hostname(name.as_bytes()),
            Step::DomainName(name) => process::set_domainname(name.as_bytes()),
            Step::Confine { module, label } => self.set_label(*module, label),
            Step::Stdio { uid } => self.set_stdio(*uid),
            Step::WorkingDirectory(path) => self.enter_working_directory(path),
            Step::Announce => self.announce(),
            // Taken by whoever walks the list, since it ends it.
            Step::Emerge(_) => Ok(()),
            Step::Execute(command) => execute(command),
            _ => self.take_mapped(step),
        }
    }

    fn keep_root(&mut self, root: OwnedFd) -> SysResult<()> {
        self.root = Some(root);
        Ok(())
    }

    fn keep(&mut self, slot: Slot, tree: OwnedFd) -> SysResult<()> {
        let place = self.trees.get_mut(slot).ok_or_else(|| SysError::new("keep a tree", EIO))?;
        *place = Some(tree);
        Ok(())
    }

    fn root(&self) -> SysResult<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd).ok_or_else(|| SysError::new("open the root", ENOENT))
    }

    fn take_tree(&mut self, slot: Slot) -> SysResult<OwnedFd> {
        let tree = self.trees.get_mut(slot).and_then(Option::take);
        tree.ok_or_else(|| SysError::new("find a tree", ENOENT))
    }

    /// Written through our own procfs, so that no mount of an image or a volume diverts it (CVE-2019-16884). The kernel
    /// refuses a profile that isn't loaded.
    fn set_label(&self, module: Module, label: &str) -> SysResult<()> {
        match module {
            Module::Selinux => self.proc.write(c"self/attr/exec", label.as_bytes()),
            Module::AppArmor => {
                let value = format!("exec {label}");
                // A directory of its own, where modules are stacked.
                match self.proc.write(c"self/attr/apparmor/exec", value.as_bytes()) {
                    Err(error) if [ENOENT, ENOTDIR].contains(&error.errno()) && !self.has_own_attributes() => {
                        self.proc.write(c"self/attr/exec", value.as_bytes())
                    }
                    answer => answer,
                }
            }
        }
    }

    /// Else `ENOENT` is AppArmor's word for a profile that it doesn't have.
    fn has_own_attributes(&self) -> bool {
        self.proc.read(c"self/attr/apparmor/current").is_ok()
    }

    fn open_terminal(&mut self, console: Console) -> SysResult<()> {
        let Stdio::Terminal { size } = self.stdio else { return Ok(()) };
        let master = rootfs::open_in_root_to_write(self.root()?, c"dev/pts/ptmx")?;
        let is_ptmx = rootfs::kind_of(master.as_fd())? == Kind::Character(rootfs::device_number(5, 2));
        if !is_ptmx || rootfs::filesystem_magic(master.as_fd())? != DEVPTS_MAGIC {
            return Err(SysError::new("open(\"/dev/pts/ptmx\")", ENODEV));
        }
        let pty = pty::pair(master)?;
        if let Some(size) = size {
            pty::set_window_size(pty.master.as_fd(), *size)?;
        }
        if console == Console::Made {
            let dev = rootfs::open_or_make(self.root()?, c"dev", Make::Directory)?;
            // Whatever an image put there is covered or refused, never followed.
            match rootfs::make_file(dev.as_fd(), c"console", 0o600) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let onto = rootfs::open_child(dev.as_fd(), c"console")?;
            mount::attach(mount::clone_tree_at(pty.slave.as_fd(), Depth::One)?.as_fd(), onto.as_fd())?;
        }
        self.terminal = Some(pty);
        Ok(())
    }

    fn set_stdio(&self, uid: u32) -> SysResult<()> {
        match (self.stdio, &self.terminal) {
            (Stdio::Pipes { stdin, stdout, stderr }, _) => {
                let null = Kind::Character(rootfs::device_number(1, 3));
                let mut own = None;
                for stream in [stdin, stdout, stderr] {
                    if own.is_none() && rootfs::kind_of(stream.as_fd())? == null {
                        own = Some(self.open_own_null(null)?);
                    }
                }
                let pick = |stream| match (&own, rootfs::kind_of(BorrowedFd::as_fd(&stream))) {
                    (Some(own), Ok(kind)) if kind == null => own.as_fd(),
                    _ => stream,
                };
                process::set_stdio(pick(stdin.as_fd()), pick(stdout.as_fd()), pick(stderr.as_fd()))?;
                // A program that isn't root opens /dev/stdout anew, which is a pipe of root's.
                for stream in [stdin, stdout, stderr].into_iter().filter(|_| uid != 0) {
                    if !matches!(rootfs::kind_of(stream.as_fd())?, Kind::Character(_) | Kind::Block(_)) {
                        rootfs::give_to(stream.as_fd(), uid)?;
                    }
                }
                Ok(())
            }
            (Stdio::Terminal { .. }, Some(pty)) => {
                let slave = pty.slave.as_fd();
                // A process that goes on inside has a session of its own, and takes the terminal for it.
                if self.successor.is_none() {
                    process::set_controlling_terminal(slave)?;
                }
                process::set_stdio(slave, slave, slave)?;
                if uid != 0 {
                    rootfs::give_to(slave, uid)?;
                }
                socket::send(self.sync, &[TERMINAL], &[pty.master.as_fd()])
                    .map(drop)
                    .map_err(|error| SysError::from_io("sendmsg(SCM_RIGHTS)", &error))
            }
            (Stdio::Terminal { .. }, None) => Err(SysError::new("open a terminal", ENOENT)),
        }
    }

    /// The container's own null device in place of the host's, whose mode and owner root in the container could change by
    /// the descriptor.
    fn open_own_null(&self, null: Kind) -> SysResult<OwnedFd> {
        let own = rootfs::open_in_root_to_write(self.root()?, c"dev/null")?;
        if rootfs::kind_of(own.as_fd())? == null { Ok(own) } else { Err(SysError::new("open(\"/dev/null\")", ENODEV)) }
    }

    fn enter_working_directory(&self, path: &CStr) -> SysResult<()> {
        // No magic link is followed, so /proc/self/fd/N leads nowhere.
        mount::enter_directory(rootfs::open_in_root(self.root()?, path, Links::Followed)?.as_fd())?;
        if process::working_directory_is_inside_root()? { Ok(()) } else { Err(SysError::new("getcwd()", EPERM)) }
    }

    fn announce(&self) -> SysResult<()> {
        sync::send(self.sync, &[READY])?;
        if self.stop == StopBefore::Exec {
            let mut go = [0];
            if sync::receive(self.sync, &mut go)? == 0 {
                return Err(SysError::new("read()", EIO));
            }
        }
        Ok(())
    }
}

impl Child<'_> {
    /// All that is left, by a process in the process-id namespace that was joined. Comes back only with an error.
    fn emerge(&self, steps: &[Step], index: usize, load: Load) -> SysError {
        let number = |index: usize| u16::try_from(index).unwrap_or(u16::MAX);
        let mut numbers = [number(index); 4];
        let (mut filter, mut capabilities, mut command) = (None, None, None);
        for (index, step) in steps.iter().enumerate().skip(index + 1) {
            match step {
                Step::Seccomp(program) => {
                    filter = Some((&**program, load));
                    numbers[1] = number(index);
                }
                Step::Capabilities { effective, permitted, inheritable, .. } => {
                    capabilities = Some([*effective, *permitted, *inheritable]);
                    numbers[2] = number(index);
                }
                Step::Execute(program) => {
                    command = Some(program);
                    numbers[3] = number(index);
                }
                _ => {}
            }
        }
        let (Some(successor), Some(command)) = (self.successor, command) else {
            return SysError::new("execve()", ENOENT);
        };
        let terminal =
            if matches!(self.stdio, Stdio::Terminal { .. }) { SessionTerminal::Input } else { SessionTerminal::None };
        let Command { candidates, arguments, environment, .. } = &**command;
        let report = Report { to: self.sync, head: FAILED, steps: numbers };
        emerge(
            self.proc,
            successor,
            &Last { candidates, arguments, environment, filter, capabilities, terminal, report },
        )
    }
}

fn begin_anew() -> SysResult<()> {
    privileges::set_not_dumpable()?;
    process::setsid()?;
    process::reset_signals()?;
    process::reset_scheduling();
    process::set_umask(0);
    Ok(())
}

fn confine(step: &Step) -> SysResult<()> {
    match step {
        Step::Limits(limits) => {
            limits.iter().try_for_each(|(resource, limit)| process::set_resource_limit(*resource, *limit))
        }
        Step::DropBounding { have, keep, last } => privileges::drop_bounding(*have, *keep, *last),
        Step::User { uid, gid, groups } => {
            privileges::set_groups(groups)?;
            privileges::set_gid(*gid)?;
            if *uid != 0 {
                privileges::keep_capabilities()?;
            }
            privileges::set_uid(*uid)?;
            // Another user may have made it dumpable (`fs.suid_dumpable`), and what it holds is still this runtime's.
            privileges::set_not_dumpable()
        }
        Step::Capabilities { effective, permitted, inheritable, loading } => {
            privileges::set_capabilities(effective.and(*loading), permitted.and(*loading), *inheritable)
        }
        Step::Ambient(set) => privileges::raise_ambient(*set),
        Step::NoNewPrivileges => privileges::set_no_new_privileges(),
        Step::Umask(mask) => {
            process::set_umask(*mask);
            process::close_on_exec_from(3)
        }
        Step::Seccomp(program) => program.load(),
        _ => Ok(()),
    }
}

fn enter_mounts(of: Option<&OwnedFd>) -> SysResult<()> {
    let of = of.ok_or_else(|| SysError::new("find a mount namespace", ENOENT))?;
    process::setns(of.as_fd(), Namespaces::MOUNT)
}

fn enter_pod_mounts(pod: Option<&OwnedFd>) -> SysResult<()> {
    match pod {
        Some(pod) => {
            process::setns(pod.as_fd(), Namespaces::MOUNT)?;
            process::unshare(Namespaces::MOUNT)
        }
        None => {
            let null = scaffold::clone_null()?;
            process::unshare(Namespaces::MOUNT)?;
            scaffold::build(null.as_fd(), &CString::from(SHM_SIZE_ALONE), None, scaffold::Processes::NotJoined)
        }
    }
}

/// Tries each candidate, as `execvp` does: what isn't there is passed over, what may not be executed is remembered.
fn execute(command: &Command) -> SysResult<()> {
    let mut denied = None;
    for candidate in &command.candidates {
        let error = process::execve(candidate, &command.arguments, &command.environment);
        match error.errno() {
            ENOENT | ENOTDIR => {}
            EACCES => denied = Some(error),
            _ => return Err(error),
        }
    }
    Err(denied.unwrap_or_else(|| SysError::new("execve()", ENOENT)))
}
