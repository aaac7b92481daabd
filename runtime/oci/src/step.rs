//! The steps of a new process between clone and exec: plain data, made before the clone.

use std::ffi::CString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use runtime_sys::emerge::Load;
use runtime_sys::mount::{Attributes, Depth, Propagation};
use runtime_sys::privileges::Capabilities;
use runtime_sys::process::{Limit, Namespaces, Resource, StringList};
use runtime_sys::rootfs::Node;
use runtime_sys::seccomp::Program;

use crate::input::Volatile;
use crate::launch::Object;
use crate::users::{MappedLayers, MappedOverlay, Namespace};

/// Where a tree is kept between being made in the host's mount namespace and being attached in the container's.
pub(crate) type Slot = usize;

/// One step.
#[derive(Debug)]
pub(crate) enum Step {
    /// Not dumpable, a session of its own, default signals and scheduling, no umask.
    BeginAnew,
    /// Writes "0" into each door.
    JoinCgroups(Vec<OwnedFd>),
    /// A cgroup namespace, whose root is the group just joined.
    NewCgroupNamespace,
    /// A session keyring; without one where the kernel has none or the quota is used up.
    NewSessionKeyring,
    /// `/proc/self/oom_score_adj`.
    OomScore(String),
    /// Overlayfs, in the host's mount namespace: its paths are the host's.
    MountOverlay(Box<Overlay>),
    /// A directory as root, in the host's mount namespace.
    CloneRoot(CString),
    /// A volume's source, in the host's mount namespace. May sleep for as long as its file system likes.
    CloneSource(Box<Source>),
    /// An image as a volume, in the host's mount namespace: its layers' paths are the host's.
    MountImage { slot: Slot, layers: Box<ImageLayers> },
    /// The procfs of a process-id namespace that was joined, that of the process of this pidfd.
    TakeProcesses { slot: Slot, of: OwnedFd, attributes: Attributes },
    /// The container's own cgroup directory of one hierarchy.
    CloneGroup { slot: Slot, directory: OwnedFd, attributes: Attributes },
    /// A namespace of the pod.
    Join(OwnedFd, Namespaces),
    /// Several namespaces of a process at once (exec).
    JoinProcess(OwnedFd, Namespaces),
    /// A kernel parameter of a namespace that was made or joined.
    Sysctl { path: CString, value: String },
    /// Keeps the host's mount namespace, to come back for sources that were left there.
    RememberHostMounts,
    /// Back to the host's mount namespace, for more sources.
    EnterHostMounts,
    /// And to the container's again.
    LeaveHostMounts,
    /// Enters the pod's mount namespace and leaves it for a copy; without one makes a copy of the host's and the same in it.
    EnterPodMounts { pod: Option<OwnedFd> },
    /// The root is attached; all that follows is done through its descriptor.
    AttachRoot,
    /// Something is mounted in the root.
    Mount(Box<Target>),
    /// A node below the root.
    Device { directory: CString, name: CString, node: Node },
    /// Links of `/dev`.
    DeviceLink { name: CString, target: CString },
    /// Nothing is seen here any more.
    Mask(CString),
    /// Nothing is written here any more.
    ReadOnly(CString),
    /// Makes the working directory.
    MakeWorkingDirectory(CString),
    /// The pseudo-terminal out of the container's devpts; with a `/dev/console` where one is wanted.
    OpenTerminal { console: Console },
    /// The root itself becomes read-only.
    ReadOnlyRoot,
    /// The root becomes the root.
    Pivot,
    /// The root is what the namespace has as root (exec).
    TakeRoot,
    /// Host name of a UTS namespace of its own.
    HostName(String),
    /// Domain name of a UTS namespace of its own.
    DomainName(String),
    /// What a security module confines the program to, from `execve` on.
    Confine { module: Module, label: String },
    /// The layers of an overlay, in the host's mount namespace, their owners seen through a user namespace.
    CloneLayers(Box<MappedLayers>),
    /// The owners of a kept tree are seen through a user namespace.
    MapOwners { slot: Slot, path: CString, depth: Depth, users: Namespace },
    /// A place to put things together, in a mount namespace that is the host root's still.
    Workshop,
    /// The overlay of the cloned layers.
    MountLayers(Box<MappedOverlay>),
    /// A file system of a namespace that was joined, made with the host root's rights.
    MakeTree { slot: Slot, kind: CString, options: Vec<(CString, Option<CString>)>, attributes: Attributes },
    /// A device node, which nobody in a user namespace can make; kept to be bound.
    MakeNode { slot: Slot, node: Node },
    /// And bound.
    BindNode { slot: Slot, directory: CString, name: CString },
    /// The pipes become a user's while this is the host's root.
    GiveStreams { uid: u32, gid: u32 },
    /// The pod's user namespace, as its root.
    EnterUsers(Namespace),
    /// Namespaces that the user namespace owns.
    Unshare(Namespaces),
    /// The same, of which one is for children alone: a new process takes all steps that follow, and this one ends.
    GoOnIn(Namespaces),
    /// The three streams.
    Stdio { uid: u32 },
    /// Resource limits.
    Limits(Vec<(Resource, Limit)>),
    /// What can never be had again.
    DropBounding { have: Capabilities, keep: Capabilities, last: u32 },
    /// The working directory, and that it is inside the root.
    WorkingDirectory(CString),
    /// User and groups.
    User { uid: u32, gid: u32, groups: Vec<u32> },
    /// Capabilities; `loading` stays effective until the filter is loaded.
    Capabilities { effective: Capabilities, permitted: Capabilities, inheritable: Capabilities, loading: Capabilities },
    /// Ambient capabilities.
    Ambient(Capabilities),
    /// `no_new_privs`.
    NoNewPrivileges,
    /// The umask, and no descriptor but three.
    Umask(u32),
    /// Tells the parent that only the program is missing, and waits where that was asked for.
    Announce,
    /// A copy of the process is born in the process-id namespace that was joined, takes all steps that follow, and nothing
    /// else; this one ends.
    Emerge(Load),
    /// The filter.
    Seccomp(Arc<Program>),
    /// The program.
    Execute(Box<Command>),
}

/// A security module of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Module {
    AppArmor,
    Selinux,
}

/// Whether a terminal is also `/dev/console`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Console {
    Made,
    None,
}

/// An overlay to be mounted.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// Each layer, the topmost first.
    pub(crate) lowers: Vec<CString>,
    pub(crate) upper: CString,
    pub(crate) work: CString,
    pub(crate) volatile: Volatile,
    /// SELinux's for its files.
    pub(crate) label: Option<CString>,
    pub(crate) form: OverlayForm,
}

/// How the layers are told to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OverlayForm {
    /// One call for each (`lowerdir+`, Linux 6.8).
    LayerByLayer,
    /// All in one string, as short as names can be.
    ShortNames,
}

/// A volume's source.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) slot: Slot,
    pub(crate) path: CString,
    pub(crate) depth: Depth,
    /// For this mount and those below.
    pub(crate) all: Change,
    /// For this mount alone.
    pub(crate) top: Change,
    pub(crate) propagation: Propagation,
    /// What lay there when the container was created.
    pub(crate) seen: Option<Object>,
}

/// Attributes of a mount that become others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) set: Attributes,
    pub(crate) clear: Attributes,
}

impl Change {
    pub(crate) fn is_empty(self) -> bool {
        self.set.is_empty() && self.clear.is_empty()
    }
}

/// Read-only layers.
#[derive(Debug)]
pub(crate) struct ImageLayers {
    /// The topmost first.
    pub(crate) lowers: Vec<CString>,
    /// SELinux's for its files.
    pub(crate) label: Option<CString>,
    pub(crate) form: OverlayForm,
}

/// Something to be mounted in the root.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) destination: CString,
    pub(crate) what: What,
    /// A place below `/proc` that may be covered (lxcfs's files).
    pub(crate) over_proc: OverProc,
}

/// Whether a mount may lie on top of procfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OverProc {
    Allowed,
    Refused,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum What {
    /// A new file system.
    New { kind: CString, options: Vec<(CString, Option<CString>)>, attributes: Attributes },
    /// A tree made before.
    Tree(Slot),
    /// An image, or what lies at a path in it.
    Image { slot: Slot, sub_path: Option<CString>, attributes: Attributes },
    /// One of the kernel's own file systems, made before.
    Kernels(Slot),
    /// The procfs of the processes that the pod's containers share.
    PodProcesses(Attributes),
    /// The pod's `/dev/shm`.
    PodShm(Attributes),
    /// A tmpfs with a directory for each cgroup hierarchy.
    Groups { slots: Vec<(CString, Slot)>, links: Vec<(CString, CString)> },
}

/// The program to execute.
#[derive(Debug)]
pub(crate) struct Command {
    /// As it was asked for.
    pub(crate) name: String,
    /// Where to try, in this order.
    pub(crate) candidates: Vec<CString>,
    pub(crate) arguments: StringList,
    pub(crate) environment: StringList,
}

impl fmt::Display for Step {
    /// Reads after "cannot".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeginAnew => f.write_str("begin a session"),
            Self::JoinCgroups(_) => f.write_str("join the cgroups"),
            Self::NewCgroupNamespace => f.write_str("make a cgroup namespace"),
            Self::NewSessionKeyring => f.write_str("make a session keyring"),
            Self::OomScore(value) => write!(f, "set oom_score_adj to {value}"),
            Self::MountOverlay(overlay) => {
                write!(f, "mount the overlay of {} layers at {:?}", overlay.lowers.len(), overlay.upper)
            }
            Self::CloneRoot(path) => write!(f, "take {path:?} as root"),
            Self::CloneSource(source) => write!(f, "open mount source {:?}", source.path),
            Self::MountImage { layers, .. } => write!(f, "mount an image of {} layers", layers.lowers.len()),
            Self::TakeProcesses { .. } => f.write_str("get a procfs of the target's processes"),
            Self::CloneGroup { .. } => f.write_str("open the container's cgroup"),
            Self::Join(_, namespace) => write!(f, "join the pod's {} namespace", namespace_name(*namespace)),
            Self::JoinProcess(..) => f.write_str("join the container's namespaces"),
            Self::Sysctl { path, value } => write!(f, "set kernel parameter {path:?} to {value:?}"),
            Self::RememberHostMounts | Self::EnterHostMounts => f.write_str("enter the host's mount namespace"),
            Self::LeaveHostMounts => f.write_str("enter the container's mount namespace"),
            Self::EnterPodMounts { .. } => f.write_str("make a mount namespace"),
            Self::AttachRoot => f.write_str("attach the root"),
            Self::Mount(target) => match &target.what {
                What::New { kind, .. } => {
                    write!(f, "mount {} at {:?}", kind.to_string_lossy(), target.destination)
                }
                What::Tree(_) => write!(f, "mount the volume at {:?}", target.destination),
                What::Image { .. } => write!(f, "mount the image at {:?}", target.destination),
                What::Kernels(_) => write!(f, "mount the kernel's file system at {:?}", target.destination),
                What::PodProcesses(_) => write!(f, "mount proc at {:?}", target.destination),
                What::PodShm(_) => write!(f, "mount the pod's shared memory at {:?}", target.destination),
                What::Groups { .. } => write!(f, "mount the cgroups at {:?}", target.destination),
            },
            Self::Device { directory, name, .. } => {
                write!(f, "make device {}/{}", directory.to_string_lossy(), name.to_string_lossy())
            }
            Self::DeviceLink { name, .. } => write!(f, "make link /dev/{}", name.to_string_lossy()),
            Self::Mask(path) => write!(f, "mask {path:?}"),
            Self::ReadOnly(path) => write!(f, "make {path:?} read-only"),
            Self::MakeWorkingDirectory(path) => write!(f, "make working directory {path:?}"),
            Self::OpenTerminal { .. } => f.write_str("open a terminal of the container's /dev/pts"),
            Self::ReadOnlyRoot => f.write_str("make the root read-only"),
            Self::Pivot => f.write_str("enter the root"),
            Self::TakeRoot => f.write_str("open the container's root"),
            Self::HostName(name) => write!(f, "set host name {name:?}"),
            Self::DomainName(name) => write!(f, "set domain name {name:?}"),
            Self::Confine { module: Module::AppArmor, label } => write!(f, "set AppArmor profile {label:?}"),
            Self::Confine { module: Module::Selinux, label } => write!(f, "set SELinux label {label:?}"),
            Self::CloneLayers(_) => f.write_str("open the image's layers"),
            Self::MapOwners { path, .. } => write!(f, "map the owners of mount source {path:?}"),
            Self::Workshop => f.write_str("make a place for the root"),
            Self::MountLayers(_) => f.write_str("mount the overlay of layers with mapped owners"),
            Self::MakeTree { kind, .. } => write!(f, "make a {} file system", kind.to_string_lossy()),
            Self::MakeNode { node, .. } => write!(f, "make device node {:?}", node.kind),
            Self::BindNode { directory, name, .. } => {
                write!(f, "mount device {}/{}", directory.to_string_lossy(), name.to_string_lossy())
            }
            Self::GiveStreams { uid, .. } => write!(f, "give the standard streams to user {uid} of the host"),
            Self::EnterUsers(_) => f.write_str("enter the pod's user namespace"),
            Self::Unshare(_) | Self::GoOnIn(_) => f.write_str("make namespaces in the pod's user namespace"),
            Self::Stdio { .. } => f.write_str("set standard input, output and error"),
            Self::Limits(_) => f.write_str("set the resource limits"),
            Self::DropBounding { .. } => f.write_str("drop capabilities from the bounding set"),
            Self::WorkingDirectory(path) => write!(f, "enter working directory {path:?}"),
            Self::User { uid, gid, .. } => write!(f, "become user {uid}:{gid}"),
            Self::Capabilities { .. } => f.write_str("set the capabilities"),
            Self::Ambient(_) => f.write_str("set the ambient capabilities"),
            Self::NoNewPrivileges => f.write_str("set no_new_privs"),
            Self::Umask(_) => f.write_str("close all other descriptors"),
            Self::Announce => f.write_str("wait for the start"),
            Self::Emerge(_) => f.write_str("begin a process in the container's process-id namespace"),
            Self::Seccomp(_) => f.write_str("load the system-call filter"),
            Self::Execute(program) => write!(f, "execute {:?}", program.name),
        }
    }
}

fn namespace_name(namespace: Namespaces) -> &'static str {
    match namespace {
        Namespaces::NETWORK => "network",
        Namespaces::IPC => "IPC",
        Namespaces::UTS => "UTS",
        Namespaces::PID => "process-id",
        Namespaces::MOUNT => "mount",
        _ => "cgroup",
    }
}
