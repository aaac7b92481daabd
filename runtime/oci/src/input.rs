//! What a caller gives.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use runtime_sys::userns::IdMap;

/// The namespaces that a container shares with its pod. One that is neither here nor in `linux.namespaces` is the
/// caller's own, which is the host's.
#[derive(Debug, Default)]
pub struct Joins {
    /// Network namespace.
    pub network: Option<OwnedFd>,
    /// System V and POSIX message queue namespace.
    pub ipc: Option<OwnedFd>,
    /// Host name namespace.
    pub uts: Option<OwnedFd>,
    /// Process-id namespace, or the pidfd of a process in it: the container's first process is no PID 1 then.
    pub pid: Option<OwnedFd>,
    /// Which procfs the container gets.
    pub procfs: Procfs,
    /// The pod's mount namespace, as [`crate::spawn_pause`] makes it. Without one (a container outside a pod) the same is
    /// made in the container's own.
    pub mounts: Option<OwnedFd>,
    /// The pod's user namespace, which owns the others.
    pub users: Option<PodUsers>,
}

/// Where a container's procfs comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Procfs {
    /// It is made by the container's first process, which is in its process-id namespace from its birth on: a new one, or
    /// the host's.
    #[default]
    Made,
    /// It is the one that the pod's mount namespace has for the process-id namespace that is joined. The first process goes
    /// inside when it has nothing left that those in there may not see.
    Pods,
    /// The process-id namespace that is joined is that of a process ([`Joins::pid`] is its pidfd). Its procfs is made from
    /// outside, or copied from what the process has where the kernel can't. The first process goes inside as above.
    Targets,
}

/// A pod's user namespace.
#[derive(Debug)]
pub struct PodUsers {
    /// The namespace.
    pub namespace: OwnedFd,
    /// Which of its ids are which of the host's.
    pub map: IdMap,
}

/// Where the root file system comes from.
#[derive(Debug, Clone, Copy)]
pub enum RootSource<'a> {
    /// Unpacked layers below a writable directory.
    Overlay {
        /// The topmost first; at least one.
        lowers: &'a [PathBuf],
        /// The writable layer.
        upper: &'a Path,
        /// Overlayfs's work directory, on the same file system.
        work: &'a Path,
        /// No sync of the writable layer, ever.
        volatile: Volatile,
    },
    /// A directory, used as it is.
    Directory(&'a Path),
}

/// Overlayfs's `volatile` option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volatile {
    /// The writable layer is thrown away after an unclean end.
    Yes,
    /// `fsync` in the container reaches the disk.
    No,
}

/// The system-call filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeccompChoice {
    /// The built-in default profile, cut to the container's capabilities.
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// `linux.seccomp` of the specification; an error where it has none.
    Spec,
}

/// One container, ready to be prepared.
#[derive(Debug)]
pub struct Input<'a> {
    /// The container's id, for messages.
    pub id: &'a str,
    /// What to make. `root.path` is ignored (see `root`), `root.readonly` is not. `linux.namespaces` lists those that are new;
    /// one with a path is refused (see `joins`).
    pub spec: &'a Spec,
    /// The root file system.
    pub root: RootSource<'a>,
    /// The system-call filter.
    pub seccomp: SeccompChoice,
    /// The pod's namespaces.
    pub joins: Joins,
    /// What the specification's mounts refer to.
    pub volumes: Volumes<'a>,
}

/// What the sources of mounts stand for.
#[derive(Debug, Default)]
pub struct Volumes<'a> {
    /// A bind mount whose source is `podwright:image/N` is number N of these, counted from 0.
    pub images: &'a [ImageVolume],
    /// What [`crate::check_sources`] has seen: another object that lies there at the start is refused. Nothing is compared
    /// where nothing was seen.
    pub seen: crate::Seen,
}

/// An image as a read-only volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageVolume {
    /// Unpacked layers, the topmost first; at least two.
    pub lowers: Vec<PathBuf>,
    /// What of it, relative to its root; empty: all.
    pub sub_path: String,
}

/// The three standard streams of the new process.
#[derive(Debug)]
pub enum Stdio {
    /// Pipes or files, as given.
    Pipes {
        /// Descriptor 0.
        stdin: OwnedFd,
        /// Descriptor 1.
        stdout: OwnedFd,
        /// Descriptor 2.
        stderr: OwnedFd,
    },
    /// A pseudo-terminal out of the container's own `/dev/pts`, controlling terminal of the new session. Its master is
    /// had from [`crate::Launching::take_terminal`] once the process runs (or stands before its program).
    Terminal {
        /// The first size; the kernel's 0×0 without one.
        size: Option<runtime_sys::pty::WindowSize>,
    },
}

/// Where a launch waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopBefore {
    /// Nowhere.
    Nothing,
    /// With everything made and entered, before the last rights are dropped and the program is executed, until
    /// [`crate::Launching::proceed`] (an OCI runtime's `create`).
    Exec,
}
