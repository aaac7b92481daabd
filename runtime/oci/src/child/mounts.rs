//! Mounts in the container's root, and the root itself.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use runtime_sys::mount::{self, Attributes, Depth, Propagation};
use runtime_sys::process::{self, Namespaces};
use runtime_sys::procfs::{self, ProcHandle};
use runtime_sys::rootfs::{self, Kind, Links, Make};
use runtime_sys::{SysError, SysResult};

use super::{Child, EIO, ENOENT, ENOTDIR, EPERM, volumes};
use crate::input::Volatile;
use crate::scaffold;
use crate::step::{OverProc, Overlay, OverlayForm, Target, What};

const PROC_MAGIC: i64 = 0x9fa0;

impl Child<'_> {
    pub(super) fn mount(&mut self, target: &Target) -> SysResult<()> {
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
                volumes::attach_tree(tree.as_fd(), self.root()?, path, target.over_proc)
            }
            What::Image { slot, sub_path, attributes } => {
                let tree = volumes::image(self.take_tree(*slot)?, sub_path.as_deref(), *attributes)?;
                volumes::attach_tree(tree.as_fd(), self.root()?, path, target.over_proc)
            }
            What::Kernels(slot) => {
                let tree = self.take_tree(*slot)?;
                mount::attach(tree.as_fd(), place(self.root()?, path, true, target.over_proc)?.as_fd())
            }
            What::PodProcesses(attributes) => {
                let tree = mount::clone_tree(scaffold::PROCESSES, Depth::One)?;
                mount::set_attributes(tree.as_fd(), Depth::One, *attributes, Attributes::NONE, None)?;
                mount::attach(tree.as_fd(), place(root, path, true, target.over_proc)?.as_fd())
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

    pub(super) fn mask(&self, path: &CStr) -> SysResult<()> {
        let Some(onto) = there(rootfs::open_in_root(self.root()?, path, Links::Followed))? else { return Ok(()) };
        let cover = if rootfs::kind_of(onto.as_fd())? == Kind::Directory { scaffold::MASK } else { scaffold::NULL };
        mount::attach(mount::clone_tree(cover, Depth::One)?.as_fd(), onto.as_fd())
    }

    pub(super) fn make_read_only(&self, path: &CStr) -> SysResult<()> {
        let Some(onto) = there(rootfs::open_in_root(self.root()?, path, Links::Followed))? else { return Ok(()) };
        let tree = mount::clone_tree_at(onto.as_fd(), Depth::All)?;
        mount::set_attributes(tree.as_fd(), Depth::All, Attributes::READ_ONLY, Attributes::NONE, None)?;
        mount::attach(tree.as_fd(), onto.as_fd())
    }
}

/// A directory of the host as root, apart from what is mounted there later.
pub(super) fn clone_root(path: &CStr) -> SysResult<OwnedFd> {
    let root = mount::clone_tree(path, Depth::All)?;
    let none = Attributes::NONE;
    mount::set_attributes(root.as_fd(), Depth::All, none, none, Some(Propagation::Private))?;
    Ok(root)
}

/// A procfs of the process-id namespace that was joined: of a process that may be hostile, and have more in it that are.
/// The caller stays outside, and is in the host's mount namespace again.
pub(super) fn processes(of: BorrowedFd<'_>, proc: &ProcHandle, attributes: Attributes) -> SysResult<OwnedFd> {
    if let Some(tree) = procfs::of_children(proc, attributes)? {
        return Ok(tree);
    }
    let back = proc.open_namespace(c"self/ns/mnt")?;
    let copied = procfs::of_children_as_seen_by(of, proc, attributes);
    process::setns(back.as_fd(), Namespaces::MOUNT)?;
    copied
}

/// The container's own directory of a cgroup hierarchy.
pub(super) fn clone_group(directory: BorrowedFd<'_>, attributes: Attributes) -> SysResult<OwnedFd> {
    let tree = mount::clone_tree_at(directory, Depth::One)?;
    mount::set_attributes(tree.as_fd(), Depth::One, attributes, Attributes::NONE, Some(Propagation::Private))?;
    Ok(tree)
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
pub(super) fn refuse_proc(onto: BorrowedFd<'_>, over_proc: OverProc) -> SysResult<()> {
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

pub(super) fn mount_overlay(overlay: &Overlay, proc: &ProcHandle) -> SysResult<OwnedFd> {
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
            finish_overlay(fs, overlay.volatile, overlay.label.as_deref(), Attributes::NONE)
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
            finish_overlay(fs, overlay.volatile, overlay.label.as_deref(), Attributes::NONE)
        }
    }
}

pub(super) fn finish_overlay(
    fs: BorrowedFd<'_>,
    volatile: Volatile,
    label: Option<&CStr>,
    attributes: Attributes,
) -> SysResult<OwnedFd> {
    if volatile == Volatile::Yes {
        mount::fsconfig(fs, c"volatile", None)?;
    }
    if let Some(label) = label {
        mount::fsconfig(fs, c"context", Some(label))?;
    }
    mount::fsmount(fs, attributes)
}
