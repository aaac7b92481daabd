//! What the new process does: it walks the list. Nothing is decided here that the plan could have decided.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use runtime_sys::mount::{self, Attributes, Depth, Propagation};
use runtime_sys::process::{self, Namespaces};
use runtime_sys::procfs::ProcHandle;
use runtime_sys::pty::{self, Pty};
use runtime_sys::rootfs::{self, Kind, Links, Make};
use runtime_sys::{SysError, SysResult, privileges, socket, sync};

use crate::input::{Stdio, StopBefore, Volatile};
use crate::scaffold;
use crate::step::{Command, Console, OverProc, Overlay, OverlayForm, Slot, Source, Step, Target, What};

const PROC_MAGIC: i64 = 0x9fa0;
const DEVPTS_MAGIC: i64 = 0x1cd1;
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const ENODEV: i32 = 19;
const ENOTDIR: i32 = 20;
const EPERM: i32 = 1;

/// First byte of each message on the socket.
pub(crate) const TERMINAL: u8 = b'T';
/// Only the program is missing.
pub(crate) const READY: u8 = b'R';
/// Step (two bytes) and error number (four) follow.
pub(crate) const FAILED: u8 = b'F';

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
) -> i32 {
    let trees = (0..slots).map(|_| None).collect();
    let mut child =
        Child { proc, sync, stdio, stop, trees, root: None, host_mounts: None, own_mounts: None, terminal: None };
    for (index, step) in steps.iter().enumerate() {
        if let Err(error) = child.take(step) {
            report(sync, index, error.errno());
            return FAILED_CODE;
        }
    }
    report(sync, steps.len(), EIO);
    FAILED_CODE
}

fn report(sync: BorrowedFd<'_>, index: usize, errno: i32) {
    let [low, high, ..] = index.to_le_bytes();
    let [a, b, c, d] = errno.to_le_bytes();
    // When the parent is gone too, there is nobody left to tell.
    drop(sync::send(sync, &[FAILED, low, high, a, b, c, d]));
}

struct Child<'a> {
    proc: &'a ProcHandle,
    sync: BorrowedFd<'a>,
    stdio: &'a Stdio,
    stop: StopBefore,
    trees: Vec<Option<OwnedFd>>,
    root: Option<OwnedFd>,
    /// The host's mount namespace, where sources are left to be opened, and the container's while we are there.
    host_mounts: Option<OwnedFd>,
    own_mounts: Option<OwnedFd>,
    terminal: Option<Pty>,
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
            Step::MountOverlay(overlay) => self.keep_root(mount_overlay(overlay, self.proc)?),
            Step::CloneRoot(path) => {
                let root = mount::clone_tree(path, Depth::All)?;
                let none = Attributes::NONE;
                mount::set_attributes(root.as_fd(), Depth::All, none, none, Some(Propagation::Private))?;
                self.keep_root(root)
            }
            Step::CloneSource(source) => {
                let tree = clone_source(source)?;
                self.keep(source.slot, tree)
            }
            Step::CloneGroup { slot, directory, attributes } => {
                let tree = mount::clone_tree_at(directory.as_fd(), Depth::One)?;
                let private = Some(Propagation::Private);
                mount::set_attributes(tree.as_fd(), Depth::One, *attributes, Attributes::NONE, private)?;
                self.keep(*slot, tree)
            }
            Step::Join(of, namespaces) | Step::JoinProcess(of, namespaces) => process::setns(of.as_fd(), *namespaces),
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
            Step::Stdio { uid } => self.set_stdio(*uid),
            Step::WorkingDirectory(path) => self.enter_working_directory(path),
            Step::Announce => self.announce(),
            Step::Execute(command) => execute(command),
            Step::Limits(_)
            | Step::DropBounding { .. }
            | Step::User { .. }
            | Step::Capabilities { .. }
            | Step::Ambient(_)
            | Step::NoNewPrivileges
            | Step::Umask(_)
            | Step::Seccomp(_) => confine(step),
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

    fn mount(&mut self, target: &Target) -> SysResult<()> {
        let root = self.root()?;
        let path = &target.destination;
        match &target.what {
            What::New { kind, options, attributes } => {
                let fs = mount::fsopen(kind)?;
                for (key, value) in options {
                    mount::fsconfig(fs.as_fd(), key, value.as_deref())?;
                }
                let tree = mount::fsmount(fs.as_fd(), *attributes)?;
                let of_kernel = [c"proc", c"sysfs"].contains(&kind.as_c_str());
                mount::attach(tree.as_fd(), place(root, path, of_kernel, target.over_proc)?.as_fd())
            }
            What::Tree(slot) => {
                let tree = self.take_tree(*slot)?;
                let root = self.root()?;
                let make = if rootfs::kind_of(tree.as_fd())? == Kind::Directory { Make::Directory } else { Make::File };
                let onto = rootfs::open_or_make(root, path, make)?;
                refuse_proc(onto.as_fd(), target.over_proc)?;
                mount::attach(tree.as_fd(), onto.as_fd())
            }
            What::PodShm(attributes) => {
                let tree = mount::clone_tree(scaffold::SHM, Depth::One)?;
                mount::set_attributes(tree.as_fd(), Depth::One, *attributes, Attributes::NONE, None)?;
                mount::attach(tree.as_fd(), place(root, path, false, target.over_proc)?.as_fd())
            }
            What::Groups { slots, links } => {
                let options = [(c"mode", Some(c"0755")), (c"size", Some(c"64k"))];
                let quiet = Attributes::NO_SUID.and(Attributes::NO_DEV).and(Attributes::NO_EXEC);
                let top = mount::new_filesystem(c"tmpfs", &options, quiet)?;
                mount::attach(top.as_fd(), place(root, path, false, target.over_proc)?.as_fd())?;
                for (name, slot) in slots {
                    rootfs::make_directory(top.as_fd(), name, 0o755)?;
                    let tree = self.take_tree(*slot)?;
                    mount::attach(tree.as_fd(), rootfs::open_child(top.as_fd(), name)?.as_fd())?;
                }
                for (name, to) in links {
                    rootfs::make_link(top.as_fd(), name, to)?;
                }
                mount::set_attributes(top.as_fd(), Depth::One, Attributes::READ_ONLY, Attributes::NONE, None)
            }
        }
    }

    fn mask(&self, path: &CStr) -> SysResult<()> {
        let Some(onto) = there(rootfs::open_in_root(self.root()?, path, Links::Followed))? else { return Ok(()) };
        let cover = if rootfs::kind_of(onto.as_fd())? == Kind::Directory { scaffold::MASK } else { scaffold::NULL };
        mount::attach(mount::clone_tree(cover, Depth::One)?.as_fd(), onto.as_fd())
    }

    fn make_read_only(&self, path: &CStr) -> SysResult<()> {
        let Some(onto) = there(rootfs::open_in_root(self.root()?, path, Links::Followed))? else { return Ok(()) };
        let tree = mount::clone_tree_at(onto.as_fd(), Depth::All)?;
        mount::set_attributes(tree.as_fd(), Depth::All, Attributes::READ_ONLY, Attributes::NONE, None)?;
        mount::attach(tree.as_fd(), onto.as_fd())
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
                process::set_controlling_terminal(slave)?;
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
            privileges::set_uid(*uid)
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
            scaffold::build(null.as_fd(), &CString::from(SHM_SIZE_ALONE))
        }
    }
}

/// Where a new file system goes: a directory. What the kernel's own file systems lie on is never reached by a link.
fn place(root: BorrowedFd<'_>, path: &CStr, of_kernel: bool, over_proc: OverProc) -> SysResult<OwnedFd> {
    let links = if of_kernel { Links::Refused } else { Links::Followed };
    let onto = match there(rootfs::open_in_root(root, path, links))? {
        Some(onto) => onto,
        None => rootfs::open_or_make(root, path, Make::Directory)?,
    };
    if !of_kernel {
        refuse_proc(onto.as_fd(), over_proc)?;
    }
    if rootfs::kind_of(onto.as_fd())? == Kind::Directory { Ok(onto) } else { Err(SysError::new("mkdirat()", ENOTDIR)) }
}

/// A mount over a file of procfs would divert what this or another runtime writes there.
fn refuse_proc(onto: BorrowedFd<'_>, over_proc: OverProc) -> SysResult<()> {
    if over_proc == OverProc::Refused && rootfs::filesystem_magic(onto)? == PROC_MAGIC {
        return Err(SysError::new("move_mount() over procfs", EPERM));
    }
    Ok(())
}

/// `None` for what isn't there.
fn there(answer: SysResult<OwnedFd>) -> SysResult<Option<OwnedFd>> {
    match answer {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if [ENOENT, ENOTDIR].contains(&error.errno()) => Ok(None),
        Err(error) => Err(error),
    }
}

fn clone_source(source: &Source) -> SysResult<OwnedFd> {
    let tree = mount::clone_tree(&source.path, source.depth)?;
    mount::set_attributes(tree.as_fd(), Depth::All, Attributes::NONE, Attributes::NONE, Some(source.propagation))?;
    if !source.set.is_empty() || !source.clear.is_empty() {
        mount::set_attributes(tree.as_fd(), source.reach, source.set, source.clear, None)?;
    }
    Ok(tree)
}

fn mount_overlay(overlay: &Overlay, proc: &ProcHandle) -> SysResult<OwnedFd> {
    let fs = mount::fsopen(c"overlay")?;
    let fs = fs.as_fd();
    mount::fsconfig(fs, c"source", Some(c"overlay"))?;
    match overlay.form {
        OverlayForm::LayerByLayer => {
            for lower in &overlay.lowers {
                mount::fsconfig(fs, c"lowerdir+", Some(lower))?;
            }
            mount::fsconfig(fs, c"upperdir", Some(&overlay.upper))?;
            mount::fsconfig(fs, c"workdir", Some(&overlay.work))?;
            finish_overlay(fs, overlay)
        }
        OverlayForm::ShortNames => {
            // One string of at most 255 bytes: descriptors' numbers, from the one directory where they are names.
            let open = |path: &CString| rootfs::open_host_directory(path);
            let lowers = overlay.lowers.iter().map(open).collect::<SysResult<Vec<_>>>()?;
            let (upper, work) = (open(&overlay.upper)?, open(&overlay.work)?);
            let name = |fd: &OwnedFd| fd.as_raw_fd().to_string();
            let text = |text: String| CString::new(text).map_err(|_| SysError::new("fsconfig()", EIO));
            mount::enter_directory(proc.open_namespace(c"self/fd")?.as_fd())?;
            let joined = lowers.iter().map(name).collect::<Vec<_>>().join(":");
            mount::fsconfig(fs, c"lowerdir", Some(&text(joined)?))?;
            mount::fsconfig(fs, c"upperdir", Some(&text(name(&upper))?))?;
            mount::fsconfig(fs, c"workdir", Some(&text(name(&work))?))?;
            // The names are looked up when the file system is made, so the descriptors live until then.
            finish_overlay(fs, overlay)
        }
    }
}

fn finish_overlay(fs: BorrowedFd<'_>, overlay: &Overlay) -> SysResult<OwnedFd> {
    if overlay.volatile == Volatile::Yes {
        mount::fsconfig(fs, c"volatile", None)?;
    }
    mount::fsmount(fs, Attributes::NONE)
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
