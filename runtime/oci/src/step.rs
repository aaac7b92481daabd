//! The steps of a new process between clone and exec: plain data, made before the clone.

use std::ffi::CString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use runtime_sys::mount::{Attributes, Depth, Propagation};
use runtime_sys::privileges::Capabilities;
use runtime_sys::process::{Limit, Namespaces, Resource, StringList};
use runtime_sys::rootfs::Node;
use runtime_sys::seccomp::Program;

use crate::input::Volatile;

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
    /// The filter.
    Seccomp(Arc<Program>),
    /// The program.
    Execute(Box<Command>),
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
    pub(crate) set: Attributes,
    pub(crate) clear: Attributes,
    /// Whether the attributes hold for the mounts below as well.
    pub(crate) reach: Depth,
    pub(crate) propagation: Propagation,
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
