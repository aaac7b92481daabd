//! The small mount namespace that the containers of a pod start from: what they share, and a place for each one's root.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime_sys::SysResult;
use runtime_sys::mount::{self, Attributes, Depth, Propagation};
use runtime_sys::rootfs;

/// Where a container's root is attached, before it becomes the root.
pub(crate) const ROOT: &CStr = c"/root";
/// An empty, read-only tmpfs: one for all masked directories of the pod.
pub(crate) const MASK: &CStr = c"/mask";
/// The null device, for masked files.
pub(crate) const NULL: &CStr = c"/null";
/// The pod's `/dev/shm`.
pub(crate) const SHM: &CStr = c"/shm";
/// Where an image is for as long as a part of it is looked up, in a container's own copy of the mount namespace.
pub(crate) const IMAGE: &CStr = c"/image";
/// The procfs of the process-id namespace that the pod's containers share, made before anybody is in it. Who joins them
/// makes none, since it would have to be among them for that, with all its rights.
pub(crate) const PROCESSES: &CStr = c"/processes";
/// Where a container of a pod with a user namespace is put together, in its own copy of the mount namespace.
pub(crate) const WORKSHOP: &CStr = c"/work";

/// Whether the caller's process-id namespace is one that containers may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Processes {
    /// It is.
    Joined,
    /// It isn't.
    NotJoined,
}

/// The host's null device, cloned in the host's mount namespace; 1:3 or an error. Read-only, which a device doesn't mind:
/// `chmod` of a masked file would else change the host's own node.
pub(crate) fn clone_null() -> SysResult<OwnedFd> {
    let null = rootfs::open_host_device(c"/dev/null", 1, 3)?;
    let tree = mount::clone_tree_at(null.as_fd(), Depth::One)?;
    let attributes = Attributes::READ_ONLY.and(Attributes::NO_SUID).and(Attributes::NO_EXEC);
    // Private: where the host's `/dev` is shared, what a container mounts over a masked file would else cover the host's.
    mount::set_attributes(tree.as_fd(), Depth::One, attributes, Attributes::NONE, Some(Propagation::Private))?;
    Ok(tree)
}

/// Fills the caller's own mount namespace, a copy of the host's, with nothing but the above. `proc` is for pods with a user
/// namespace: there the kernel mounts a procfs only where one is in full view already.
pub(crate) fn build(
    null: BorrowedFd<'_>,
    shm_size: &CString,
    proc: Option<BorrowedFd<'_>>,
    seen: Processes,
) -> SysResult<()> {
    let quiet = Attributes::NO_SUID.and(Attributes::NO_DEV).and(Attributes::NO_EXEC);
    // Private, so that nothing done here reaches the host, and nothing of the host's arrives.
    mount::set_propagation_of_all(Propagation::Private)?;
    let top = mount::new_filesystem(c"tmpfs", &[(c"mode", Some(c"0755")), (c"size", Some(c"64k"))], quiet)?;
    let shm = mount::new_filesystem(c"tmpfs", &[(c"mode", Some(c"1777")), (c"size", Some(shm_size))], quiet)?;
    let mask = empty_read_only()?;
    for directory in [c"root", c"mask", c"shm", c"image", c"work", c"proc", c"processes"] {
        rootfs::make_directory(top.as_fd(), directory, 0o755)?;
    }
    rootfs::make_file(top.as_fd(), c"null", 0o644)?;
    let old = rootfs::open_host_directory(c"/")?;
    mount::attach(top.as_fd(), old.as_fd())?;
    let proc = proc.map(|proc| (proc, c"proc"));
    for (tree, name) in [(shm.as_fd(), c"shm"), (mask.as_fd(), c"mask"), (null, c"null")].into_iter().chain(proc) {
        mount::attach(tree, rootfs::open_child(top.as_fd(), name)?.as_fd())?;
    }
    mount::pivot_into(top.as_fd())?;
    if seen == Processes::Joined {
        let processes = mount::new_filesystem(c"proc", &[], quiet)?;
        mount::attach(processes.as_fd(), rootfs::open_child(top.as_fd(), c"processes")?.as_fd())?;
    }
    mount::set_attributes(top.as_fd(), Depth::One, Attributes::READ_ONLY, Attributes::NONE, None)
}

/// An empty tmpfs that stays so.
pub(crate) fn empty_read_only() -> SysResult<OwnedFd> {
    let attributes = Attributes::READ_ONLY.and(Attributes::NO_SUID).and(Attributes::NO_DEV).and(Attributes::NO_EXEC);
    mount::new_filesystem(c"tmpfs", &[(c"mode", Some(c"0755")), (c"size", Some(c"4k"))], attributes)
}
