//! Volumes: clones of what lies on the host, and images.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use runtime_sys::mount::{self, Attributes, Depth};
use runtime_sys::procfs::ProcHandle;
use runtime_sys::rootfs::{self, Kind, Links, Make};
use runtime_sys::{SysError, SysResult, place};

use super::EIO;
use super::mounts::refuse_proc;
use crate::launch::Object;
use crate::scaffold;
use crate::step::{ImageLayers, OverProc, OverlayForm, Source};

/// Numbers in the place of the kernel's error numbers, which are positive: another object lies at the source.
pub(crate) const CHANGED: i32 = -1;
/// A file can't be mounted on a directory.
pub(crate) const FILE_ON_DIRECTORY: i32 = -2;
/// A directory can't be mounted on a file.
pub(crate) const DIRECTORY_ON_FILE: i32 = -3;

/// A copy of what lies at the source, as the container is to have it. In the host's mount namespace.
pub(super) fn clone_source(source: &Source) -> SysResult<OwnedFd> {
    let opened = place::open(&source.path)?;
    if let Some(seen) = &source.seen {
        unchanged(opened.as_fd(), seen)?;
    }
    // By the descriptor that was compared, so that nobody can exchange it in between.
    let tree = mount::clone_tree_at(opened.as_fd(), source.depth)?;
    mount::set_attributes(tree.as_fd(), Depth::All, source.all.set, source.all.clear, Some(source.propagation))?;
    if !source.top.is_empty() {
        mount::set_attributes(tree.as_fd(), Depth::One, source.top.set, source.top.clear, None)?;
    }
    Ok(tree)
}

/// What was looked at when the container was created is what is mounted: somebody who may write above a source could
/// else put a link to the host's root in its place in between. A mount made right there meanwhile is the host's own doing.
fn unchanged(opened: BorrowedFd<'_>, seen: &Object) -> SysResult<()> {
    if place::identity(opened)? == seen.identity || place::is_mounted_at(opened, &seen.place)? {
        Ok(())
    } else {
        Err(SysError::new("compare the source", CHANGED))
    }
}

/// The layers as one read-only tree.
pub(crate) fn mount_image(layers: &ImageLayers, proc: &ProcHandle) -> SysResult<OwnedFd> {
    let fs = mount::fsopen(c"overlay")?;
    let fs = fs.as_fd();
    mount::fsconfig(fs, c"source", Some(c"overlay"))?;
    if let Some(label) = &layers.label {
        mount::fsconfig(fs, c"context", Some(label))?;
    }
    match layers.form {
        OverlayForm::LayerByLayer => {
            for lower in &layers.lowers {
                mount::fsconfig(fs, c"lowerdir+", Some(lower))?;
            }
            mount::fsmount(fs, Attributes::READ_ONLY)
        }
        OverlayForm::ShortNames => {
            let open = |path: &CString| rootfs::open_host_directory(path);
            let lowers = layers.lowers.iter().map(open).collect::<SysResult<Vec<_>>>()?;
            let here = rootfs::open_host_directory(c".")?;
            mount::enter_directory(proc.open_namespace(c"self/fd")?.as_fd())?;
            let joined = lowers.iter().map(|fd| fd.as_raw_fd().to_string()).collect::<Vec<_>>().join(":");
            let joined = CString::new(joined).map_err(|_| SysError::new("fsconfig()", EIO))?;
            // The names are looked up when the file system is made, so the descriptors live until then.
            let made = mount::fsconfig(fs, c"lowerdir", Some(&joined))
                .and_then(|()| mount::fsmount(fs, Attributes::READ_ONLY));
            mount::enter_directory(here.as_fd())?;
            made
        }
    }
}

/// Attaches a tree where a file or directory of its kind is, or is made.
pub(super) fn attach_tree(
    tree: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    path: &CStr,
    over_proc: OverProc,
) -> SysResult<()> {
    let is_directory = rootfs::kind_of(tree)? == Kind::Directory;
    let onto = rootfs::open_or_make(root, path, if is_directory { Make::Directory } else { Make::File })?;
    refuse_proc(onto.as_fd(), over_proc)?;
    match (is_directory, rootfs::kind_of(onto.as_fd())? == Kind::Directory) {
        (false, true) => Err(SysError::new("move_mount()", FILE_ON_DIRECTORY)),
        (true, false) => Err(SysError::new("move_mount()", DIRECTORY_ON_FILE)),
        _ => mount::attach(tree, onto.as_fd()),
    }
}

/// An image, or what lies at `sub_path` in it, links walked inside the image. A path can be cloned only from a mount that
/// is attached, so the image is attached beside the root for as long as that takes.
pub(super) fn image(tree: OwnedFd, sub_path: Option<&CStr>, attributes: Attributes) -> SysResult<OwnedFd> {
    let wanted = match sub_path {
        None => tree,
        Some(sub_path) => {
            mount::attach(tree.as_fd(), rootfs::open_host_directory(scaffold::IMAGE)?.as_fd())?;
            let found = rootfs::open_in_root(tree.as_fd(), sub_path, Links::Followed);
            let cloned = found.and_then(|found| mount::clone_tree_at(found.as_fd(), Depth::One));
            mount::detach(scaffold::IMAGE)?;
            cloned?
        }
    };
    mount::set_attributes(wanted.as_fd(), Depth::One, attributes, Attributes::NONE, None)?;
    Ok(wanted)
}
