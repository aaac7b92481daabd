//! The steps of a container in a user namespace.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime_sys::mount::{self, Attributes, Depth, Propagation};
use runtime_sys::process::{self, Namespaces};
use runtime_sys::rootfs::{self, Kind, Make, Node};
use runtime_sys::userns::{self, become_root, filesystem_name};
use runtime_sys::{SysError, SysResult, socket, sync};

use super::mounts::finish_overlay;
use super::{Child, EEXIST, ENOENT, FAILED_CODE, MOVED, confine};
use crate::input::{Stdio, Volatile};
use crate::scaffold;
use crate::step::{OverlayForm, Slot, Step};
use crate::users::{MappedLayers, MappedOverlay, OverlayKind};

impl Child<'_> {
    /// The steps of `Child::take` that it leaves, up to those that are left to `confine`.
    pub(super) fn take_mapped(&mut self, step: &Step) -> SysResult<()> {
        match step {
            Step::CloneLayers(layers) => self.clone_layers(layers),
            Step::MapOwners { slot, depth, users, .. } => {
                let tree = self.take_tree(*slot)?;
                let mapped = self.map_owners(tree.as_fd(), *depth, users.as_fd());
                self.keep(*slot, tree)?;
                mapped
            }
            Step::Workshop => self.make_workshop(),
            Step::MountLayers(overlay) => self.mount_layers(overlay),
            Step::MakeTree { slot, kind, options, attributes } => {
                let fs = mount::fsopen(kind)?;
                for (key, value) in options {
                    mount::fsconfig(fs.as_fd(), key, value.as_deref())?;
                }
                let tree = mount::fsmount(fs.as_fd(), *attributes)?;
                self.keep(*slot, tree)
            }
            Step::MakeNode { slot, node } => self.make_node(*slot, *node),
            Step::BindNode { slot, directory, name } => self.bind_node(*slot, directory, name),
            Step::GiveStreams { uid, gid } => self.give_streams(*uid, *gid),
            Step::EnterUsers(users) => {
                process::setns(users.as_fd(), Namespaces::USER)?;
                become_root()
            }
            Step::Unshare(namespaces) => process::unshare(*namespaces),
            _ => confine(step),
        }
    }

    /// A new process in new namespaces takes the steps that follow; the caller only tells whose pid that is, and ends.
    pub(super) fn go_on_in(&mut self, namespaces: Namespaces, go_on: impl FnOnce(&mut Self) -> i32) -> SysResult<()> {
        let (ours, theirs) = sync::pair()?;
        let ours = Cell::new(Some(ours));
        let next = process::clone3_sibling(namespaces, || {
            // Else the end of the first process would never be seen here.
            drop(ours.take());
            let mut go = [0];
            // Not before the parent can know it: it would be nobody's when the launch is abandoned.
            match sync::receive(theirs.as_fd(), &mut go) {
                // The first process leads its session, which this one was only born in.
                Ok(1) if process::setsid().is_ok() => go_on(self),
                _ => FAILED_CODE,
            }
        })?;
        let [a, b, c, d] = next.pid.to_le_bytes();
        socket::send(self.sync, &[MOVED, a, b, c, d], &[next.pidfd.as_fd()])
            .map_err(|error| SysError::from_io("sendmsg(SCM_RIGHTS)", &error))?;
        match ours.take() {
            Some(ours) => sync::send(ours.as_fd(), b"G"),
            None => Ok(()),
        }
    }

    fn map_owners(&mut self, tree: BorrowedFd<'_>, depth: Depth, users: BorrowedFd<'_>) -> SysResult<()> {
        userns::map_owners(tree, depth, users).inspect_err(|_| {
            // All mounts of the tree or none: which one can't?
            let below = depth == Depth::All && userns::map_owners(tree, Depth::One, users).is_ok();
            self.detail = match rootfs::filesystem_magic(tree) {
                _ if below => "a mount below it".to_owned(),
                Ok(magic) => filesystem_name(magic),
                Err(_) => String::new(),
            };
        })
    }

    fn clone_layers(&mut self, layers: &MappedLayers) -> SysResult<()> {
        let private = |tree: &OwnedFd| {
            let none = Attributes::NONE;
            mount::set_attributes(tree.as_fd(), Depth::One, none, none, Some(Propagation::Private))
        };
        let mut trees = Vec::with_capacity(layers.lowers.len() + 1);
        for path in &layers.lowers {
            let tree = mount::clone_tree(path, Depth::One)?;
            private(&tree)?;
            self.map_owners(tree.as_fd(), Depth::One, layers.users.as_fd())?;
            trees.push(tree);
        }
        if let Some(path) = &layers.above_upper {
            // Not mapped: what the container writes belongs to its own ids on disk, a set-user-id program of its root too.
            let writable = mount::clone_tree(path, Depth::One)?;
            private(&writable)?;
            trees.push(writable);
        }
        self.layers.push_back(trees);
        Ok(())
    }

    /// Of the host's root, so that device nodes in it work.
    fn make_workshop(&mut self) -> SysResult<()> {
        let quiet = Attributes::NO_SUID.and(Attributes::NO_EXEC);
        let options = [(c"mode", Some(c"0755")), (c"size", Some(c"256k"))];
        let workshop = mount::new_filesystem(c"tmpfs", &options, quiet)?;
        mount::attach(workshop.as_fd(), rootfs::open_host_directory(scaffold::WORKSHOP)?.as_fd())?;
        self.workshop = Some(workshop);
        Ok(())
    }

    fn workshop(&self) -> SysResult<BorrowedFd<'_>> {
        self.workshop.as_ref().map(AsFd::as_fd).ok_or_else(|| SysError::new("open the workshop", ENOENT))
    }

    /// Layers are attached first: before Linux 6.15 overlayfs takes none that is attached nowhere.
    fn mount_layers(&mut self, overlay: &MappedOverlay) -> SysResult<()> {
        let trees = self.layers.pop_front().ok_or_else(|| SysError::new("open the layers", ENOENT))?;
        let workshop = self.workshop()?;
        let text = |text: String| CString::new(text).map_err(|_| SysError::new("fsconfig()", ENOENT));
        let set = self.layers.len();
        let mut names = Vec::with_capacity(trees.len());
        for (number, tree) in trees.iter().enumerate() {
            let name = text(format!("{set}.{number}"))?;
            rootfs::make_directory(workshop, &name, 0o755)?;
            mount::attach(tree.as_fd(), rootfs::open_child(workshop, &name)?.as_fd())?;
            names.push(name);
        }
        // All names are relative to here, and short: see `OverlayForm`.
        mount::enter_directory(workshop)?;
        let fs = mount::fsopen(c"overlay")?;
        let fs = fs.as_fd();
        mount::fsconfig(fs, c"source", Some(c"overlay"))?;
        let above_upper = if matches!(overlay.kind, OverlayKind::Root { .. }) { names.pop() } else { None };
        match overlay.form {
            OverlayForm::LayerByLayer => {
                for name in &names {
                    mount::fsconfig(fs, c"lowerdir+", Some(name))?;
                }
            }
            OverlayForm::ShortNames => {
                let joined: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
                mount::fsconfig(fs, c"lowerdir", Some(&text(joined.join(":"))?))?;
            }
        }
        let label = overlay.label.as_deref();
        match &overlay.kind {
            OverlayKind::Root { upper, work, volatile } => {
                let above = above_upper.unwrap_or_default();
                let below = |name: &CStr| text(format!("{}/{}", above.to_string_lossy(), name.to_string_lossy()));
                mount::fsconfig(fs, c"upperdir", Some(&below(upper)?))?;
                mount::fsconfig(fs, c"workdir", Some(&below(work)?))?;
                // A node in an image would be a device here too, and nobody in a user namespace needs one of an image.
                let root = finish_overlay(fs, *volatile, label, Attributes::NO_DEV)?;
                self.keep_root(root)
            }
            OverlayKind::Volume(slot) => {
                let tree = finish_overlay(fs, Volatile::No, label, Attributes::READ_ONLY)?;
                self.keep(*slot, tree)
            }
        }
    }

    fn make_node(&mut self, slot: Slot, node: Node) -> SysResult<()> {
        let workshop = self.workshop()?;
        let name = CString::new(format!("d{slot}")).map_err(|_| SysError::new("mknodat()", ENOENT))?;
        rootfs::make_node(workshop, &name, node)?;
        let tree = mount::clone_tree_at(rootfs::open_child(workshop, &name)?.as_fd(), Depth::One)?;
        self.keep(slot, tree)
    }

    fn bind_node(&mut self, slot: Slot, directory: &CStr, name: &CStr) -> SysResult<()> {
        let tree = self.take_tree(slot)?;
        let directory = rootfs::open_or_make(self.root()?, directory, Make::Directory)?;
        // Whatever an image put there is covered or refused, never followed.
        match rootfs::make_file(directory.as_fd(), name, 0o644) {
            Err(error) if error.errno() != EEXIST => return Err(error),
            _ => {}
        }
        mount::attach(tree.as_fd(), rootfs::open_child(directory.as_fd(), name)?.as_fd())
    }

    /// A program opens /dev/stdout anew, which is a pipe of the host's root. Devices stay as they are.
    fn give_streams(&self, uid: u32, gid: u32) -> SysResult<()> {
        let Stdio::Pipes { stdin, stdout, stderr } = self.stdio else { return Ok(()) };
        for stream in [stdin, stdout, stderr] {
            if rootfs::kind_of(stream.as_fd())? == Kind::Other {
                rootfs::give_pipe_to(stream.as_fd(), uid, gid)?;
            }
        }
        Ok(())
    }
}
