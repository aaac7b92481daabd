//! `mounts`: what is cloned in the host's mount namespace, and what is attached in the container's.

use std::ffi::CString;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use runtime_sys::cgroup::Version;
use runtime_sys::mount::{Attributes, Depth, Propagation};

use super::{FSCONFIG_VALUE_BYTES_MAX, absolute, text};
use crate::error::During;
use crate::input::{ImageVolume, Joins, Procfs, Volumes};
use crate::step::{Change, ImageLayers, OverProc, OverlayForm, Source, Step, Target, What};
use crate::users::{Mappings, Namespace, Users, image_steps};
use crate::{ContainerCgroup, OciError};

/// The source of a bind mount that means the pod's `/dev/shm`.
pub(crate) const POD_SHM: &str = "podwright:shm";

/// The source of a bind mount that means an image; its number follows.
pub(crate) const IMAGE: &str = "podwright:image/";

/// Most mounts of a container: far more than any pod has, far less than the kernel's own limit of 100,000.
const MOUNTS_MAX: usize = 10_000;

/// Trees that are kept at once between the two mount namespaces: each is a descriptor, and a node may have been started
/// with 256 of them.
const TREES_MAX: usize = 64;

/// What lxcfs and its kind put over files of procfs.
const OVER_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
];

pub(super) struct Mounts {
    /// In the host's mount namespace.
    pub(super) sources: Vec<Step>,
    /// File systems that the host's root makes in the pod's namespaces, for a pod with a user namespace.
    pub(super) made: Vec<Step>,
    /// In the container's; goes back to the host's where there are more sources than can be kept at once.
    pub(super) attach: Vec<Step>,
    /// Whether it goes back.
    pub(super) returns: bool,
    pub(super) slots: usize,
}

pub(super) fn plan(
    spec: &Spec,
    volumes: &Volumes<'_>,
    form: OverlayForm,
    (cgroup, own_groups): (&ContainerCgroup, bool),
    users: Option<&Users>,
    joins: &Joins,
) -> Result<Mounts, OciError> {
    let list = spec.mounts().as_deref().unwrap_or_default();
    if list.len() > MOUNTS_MAX {
        return Err(OciError::invalid(format!("mounts: more than {MOUNTS_MAX} entries")));
    }
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let mut mounts = Mounts { sources: Vec::new(), made: Vec::new(), attach: Vec::new(), returns: false, slots: 0 };
    let mut mappings = Mappings::new(users);
    let mut batch = Batch::default();
    let mut begun_at = 0;
    for mount in list {
        // Out of a user namespace there is no way back to the host's mounts: all are kept at once.
        if mounts.slots - begun_at >= TREES_MAX && users.is_none() {
            mounts.finish(std::mem::take(&mut batch));
            begun_at = mounts.slots;
        }
        let destination = absolute(mount.destination(), "mounts.destination")?;
        let over_proc = over_proc(mount)?;
        let options = Options::parse(mount)?;
        let what = if is_bind(mount) {
            match image_of(mount, volumes.images)? {
                Some(image) => {
                    let what = image_volume(image, &options, form, label, &mut mounts.slots, &mut batch)?;
                    users.into_iter().for_each(|users| mounts.map_image(&mut batch, users));
                    what
                }
                None => {
                    if users.is_some() && options.propagation == Propagation::Shared {
                        let why = "mounts: a container in a user namespace can't mount on the host (rshared)";
                        return Err(OciError::invalid(why));
                    }
                    let what = bind(mount, &options, volumes, &mut mounts.slots, &mut batch)?;
                    batch.map_owners(mappings.of(mount)?);
                    what
                }
            }
        } else {
            match kind_of(mount) {
                "cgroup" | "cgroup2" => groups(cgroup, own_groups, &options, &mut mounts.slots, &mut batch)?,
                "proc" if joins.procfs == Procfs::Pods => What::PodProcesses(options.made()),
                "proc" if joins.procfs == Procfs::Targets => {
                    targets_processes(joins, &options, &mut mounts.slots, &mut batch)?
                }
                kind => {
                    let new = filesystem(kind, mount, options, label)?;
                    if users.is_some() { mounts.with_full_rights(new) } else { new }
                }
            }
        };
        batch.attach.push(Step::Mount(Box::new(Target { destination, what, over_proc })));
    }
    mounts.finish(batch);
    Ok(mounts)
}

pub(crate) fn is_bind(mount: &Mount) -> bool {
    kind_of(mount) == "bind" || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

fn kind_of(mount: &Mount) -> &str {
    mount.typ().as_deref().unwrap_or("bind")
}

/// Mounts whose trees are kept at once.
#[derive(Default)]
struct Batch {
    sources: Vec<Step>,
    attach: Vec<Step>,
}

impl Batch {
    /// Those of the source that was added last.
    fn map_owners(&mut self, users: Option<Namespace>) {
        if let (Some(users), Some(Step::CloneSource(source))) = (users, self.sources.last()) {
            let (slot, path, depth) = (source.slot, source.path.clone(), source.depth);
            self.sources.push(Step::MapOwners { slot, path, depth, users });
        }
    }
}

impl Mounts {
    /// The image that was added last is mounted in two steps.
    fn map_image(&mut self, batch: &mut Batch, users: &Users) {
        match batch.sources.pop() {
            Some(Step::MountImage { slot, layers }) => {
                let (clone, mount) = image_steps(slot, *layers, users);
                batch.sources.push(clone);
                self.made.push(mount);
            }
            other => batch.sources.extend(other),
        }
    }

    /// The kernel mounts a sysfs in a user namespace only where one is in full view already, so the host's root does it.
    fn with_full_rights(&mut self, new: What) -> What {
        match new {
            What::New { kind, options, attributes } if kind.as_c_str() == c"sysfs" => {
                let slot = slot(&mut self.slots);
                self.made.push(Step::MakeTree { slot, kind, options, attributes });
                What::Kernels(slot)
            }
            other => other,
        }
    }

    fn finish(&mut self, batch: Batch) {
        if self.attach.is_empty() {
            (self.sources, self.attach) = (batch.sources, batch.attach);
            return;
        }
        if !batch.sources.is_empty() {
            self.returns = true;
            self.attach.push(Step::EnterHostMounts);
            self.attach.extend(batch.sources);
            self.attach.push(Step::LeaveHostMounts);
        }
        self.attach.extend(batch.attach);
    }
}

/// The next slot.
fn slot(slots: &mut usize) -> usize {
    *slots += 1;
    *slots - 1
}

/// Nothing but procfs goes to `/proc`, and nothing below it but what lxcfs needs: a file put over `/proc/self/attr` would
/// swallow what is written there.
fn over_proc(mount: &Mount) -> Result<OverProc, OciError> {
    let destination = clean(mount.destination());
    if destination == Path::new("/") {
        return Err(OciError::invalid("mounts: a mount on \"/\" would hide the root"));
    }
    if destination == Path::new("/proc") {
        return if kind_of(mount) == "proc" && !is_bind(mount) {
            Ok(OverProc::Allowed)
        } else {
            Err(OciError::invalid("mounts: only procfs can be mounted at \"/proc\""))
        };
    }
    if destination.starts_with("/proc") {
        let known = OVER_PROC.iter().any(|known| destination == Path::new(known));
        return if known && is_bind(mount) {
            Ok(OverProc::Allowed)
        } else {
            Err(OciError::invalid(format!("mounts: {destination:?} is inside procfs")))
        };
    }
    Ok(OverProc::Refused)
}

/// Without `.`, `..` and doubled slashes, by the letters alone: links are looked at when the path is walked.
pub(super) fn clean(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::from("/"), |mut cleaned, part| {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => drop(cleaned.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
        cleaned
    })
}

/// The image that a bind mount's source means, if it means one.
pub(crate) fn image_of<'a>(mount: &Mount, images: &'a [ImageVolume]) -> Result<Option<&'a ImageVolume>, OciError> {
    let source = mount.source().as_deref().and_then(Path::to_str);
    let Some(number) = source.and_then(|source| source.strip_prefix(IMAGE)) else { return Ok(None) };
    let found = number.parse().ok().and_then(|number: usize| images.get(number));
    let found = found.ok_or_else(|| OciError::invalid(format!("mounts: there is no image number {number}")))?;
    Ok(Some(found))
}

/// As the kernel takes them.
pub(crate) fn image_layers(
    image: &ImageVolume,
    form: OverlayForm,
    label: Option<&str>,
) -> Result<ImageLayers, OciError> {
    if image.lowers.len() < 2 {
        return Err(OciError::invalid("mounts: an image as a volume needs two layers"));
    }
    let lowers: Vec<_> = image.lowers.iter().map(|path| absolute(path, "mounts: a layer")).collect::<Result<_, _>>()?;
    let long = lowers.iter().any(|path| path.as_bytes().len() > FSCONFIG_VALUE_BYTES_MAX);
    let label = label.map(|label| text(label.as_bytes(), "linux.mountLabel")).transpose()?;
    Ok(ImageLayers { lowers, label, form: if long { OverlayForm::ShortNames } else { form } })
}

fn image_volume(
    image: &ImageVolume,
    options: &Options,
    form: OverlayForm,
    label: Option<&str>,
    slots: &mut usize,
    batch: &mut Batch,
) -> Result<What, OciError> {
    let slot = slot(slots);
    let sub_path = Some(image.sub_path.as_str()).filter(|path| !path.is_empty());
    let sub_path = sub_path.map(|path| text(path.as_bytes(), "mounts: the path in an image")).transpose()?;
    batch.sources.push(Step::MountImage { slot, layers: Box::new(image_layers(image, form, label)?) });
    // Always read-only: overlayfs has no upper layer here, and the mount says it as well.
    Ok(What::Image { slot, sub_path, attributes: options.made().and(Attributes::READ_ONLY) })
}

fn bind(
    mount: &Mount,
    options: &Options,
    volumes: &Volumes<'_>,
    slots: &mut usize,
    batch: &mut Batch,
) -> Result<What, OciError> {
    let source = mount.source().as_ref().ok_or_else(|| OciError::invalid("mounts: a bind mount without a source"))?;
    if source == Path::new(POD_SHM) {
        return Ok(What::PodShm(options.made()));
    }
    let slot = slot(slots);
    let path = absolute(source, "mounts.source")?;
    let Options { all, top, depth, propagation, .. } = *options;
    let seen = volumes.seen.at(&path);
    let source = Source { slot, path, depth, all, top, propagation, seen };
    batch.sources.push(Step::CloneSource(Box::new(source)));
    Ok(What::Tree(slot))
}

/// Made or copied when the process-id namespace is joined.
fn targets_processes(joins: &Joins, options: &Options, count: &mut usize, batch: &mut Batch) -> Result<What, OciError> {
    let target = joins.pid.as_ref().ok_or_else(|| OciError::invalid("mounts: there is no target for a procfs"))?;
    let of = target
        .try_clone()
        .map_err(|error| runtime_sys::SysError::from_io("fcntl(F_DUPFD_CLOEXEC)", &error))
        .during(|| "get a procfs of the target's processes".to_owned())?;
    let slot = slot(count);
    batch.sources.push(Step::TakeProcesses { slot, of, attributes: options.made() });
    Ok(What::Kernels(slot))
}

/// The container sees its own groups; without a cgroup namespace (privileged) the whole hierarchies.
fn groups(
    cgroup: &ContainerCgroup,
    own: bool,
    options: &Options,
    count: &mut usize,
    batch: &mut Batch,
) -> Result<What, OciError> {
    let quiet = Attributes::NO_SUID.and(Attributes::NO_DEV).and(Attributes::NO_EXEC);
    let attributes = options.made().and(quiet);
    let mut slots = Vec::new();
    let mut links = Vec::new();
    for (hierarchy, directory) in cgroup.group.each() {
        let slot = slot(count);
        if own {
            let directory = directory
                .try_clone_to_owned()
                .map_err(|error| runtime_sys::SysError::from_io("fcntl(F_DUPFD_CLOEXEC)", &error))
                .map_err(|source| OciError::Kernel { step: "open the container's cgroup".to_owned(), source })?;
            batch.sources.push(Step::CloneGroup { slot, directory, attributes });
        } else {
            batch.sources.push(Step::CloneSource(Box::new(Source {
                slot,
                path: absolute(&hierarchy.mount_point, "cgroup")?,
                depth: Depth::One,
                all: Change::default(),
                top: Change { set: attributes, clear: Attributes::NONE },
                propagation: Propagation::Private,
                seen: None,
            })));
        }
        if cgroup.group.version() == Version::V2 {
            return Ok(What::Tree(slot));
        }
        let name = hierarchy.controllers.join(",");
        if hierarchy.controllers.len() > 1 {
            for controller in &hierarchy.controllers {
                links.push((text(controller.as_bytes(), "cgroup")?, text(name.as_bytes(), "cgroup")?));
            }
        }
        slots.push((text(name.as_bytes(), "cgroup")?, slot));
    }
    Ok(What::Groups { slots, links })
}

fn filesystem(kind: &str, mount: &Mount, options: Options, label: Option<&str>) -> Result<What, OciError> {
    /// File systems that have no source.
    const WITHOUT_SOURCE: [&str; 5] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue"];
    let made = options.made();
    let mut data = options.data;
    // The type's own name where there is nothing to name: "none" in the mount table would be no lie, but df stumbles.
    let own = PathBuf::from(kind);
    let source = mount.source().as_ref().filter(|_| !WITHOUT_SOURCE.contains(&kind)).unwrap_or(&own);
    data.insert(0, (CString::from(c"source"), Some(text(source.as_os_str().as_encoded_bytes(), "mounts.source")?)));
    // The kernel labels its own file systems itself.
    if let Some(label) = label.filter(|_| !["proc", "sysfs"].contains(&kind))
        && !data.iter().any(|(key, _)| key.as_c_str() == c"context")
    {
        data.push((CString::from(c"context"), Some(text(label.as_bytes(), "linux.mountLabel")?)));
    }
    Ok(What::New { kind: text(kind.as_bytes(), "mounts.type")?, options: data, attributes: made })
}

/// The options of one mount, sorted by what they are for.
struct Options {
    /// For the mounts below, too (`rro`).
    all: Change,
    /// For this mount alone (`ro`).
    top: Change,
    depth: Depth,
    propagation: Propagation,
    data: Vec<(CString, Option<CString>)>,
}

impl Options {
    fn parse(mount: &Mount) -> Result<Self, OciError> {
        let mut options = Self {
            all: Change::default(),
            top: Change::default(),
            depth: Depth::One,
            propagation: Propagation::Private,
            data: Vec::new(),
        };
        for option in mount.options().iter().flatten() {
            options.take(option)?;
        }
        Ok(options)
    }

    /// Of a new mount, which has none below.
    fn made(&self) -> Attributes {
        self.all.set.and(self.top.set)
    }

    fn take(&mut self, option: &str) -> Result<(), OciError> {
        let toggles = [
            ("ro", "rw", Attributes::READ_ONLY),
            ("nosuid", "suid", Attributes::NO_SUID),
            ("nodev", "dev", Attributes::NO_DEV),
            ("noexec", "exec", Attributes::NO_EXEC),
            ("nodiratime", "diratime", Attributes::NO_DIR_ATIME),
            ("nosymfollow", "symfollow", Attributes::NO_SYMLINKS),
        ];
        let times = [
            ("relatime", Attributes::NONE),
            ("noatime", Attributes::NO_ATIME),
            ("strictatime", Attributes::STRICT_ATIME),
        ];
        let recursive = option.strip_prefix('r');
        for (on, off, attribute) in toggles {
            if option == on || recursive == Some(on) {
                self.change(option == on, attribute, Attributes::NONE);
                return Ok(());
            }
            if option == off || recursive == Some(off) {
                self.change(option == off, Attributes::NONE, attribute);
                return Ok(());
            }
        }
        for (name, attribute) in times {
            if option == name || recursive == Some(name) {
                for change in self.changed(option == name) {
                    // The kernel wants the whole mask cleared before one is set.
                    change.set = change.set.without(Attributes::ATIME).and(attribute);
                    change.clear = change.clear.and(Attributes::ATIME);
                }
                return Ok(());
            }
        }
        match option {
            "bind" | "defaults" | "async" => {}
            "rbind" => self.depth = Depth::All,
            "private" | "rprivate" => self.propagation = Propagation::Private,
            "slave" | "rslave" => self.propagation = Propagation::Slave,
            "shared" | "rshared" => self.propagation = Propagation::Shared,
            "unbindable" | "runbindable" => self.propagation = Propagation::Unbindable,
            "tmpcopyup" | "idmap" | "ridmap" => {
                return Err(OciError::invalid(format!("mounts: option {option:?} isn't supported")));
            }
            _ => {
                let (key, value) = match option.split_once('=') {
                    Some((key, value)) => (key, Some(text(value.as_bytes(), "mounts.options")?)),
                    None => (option, None),
                };
                self.data.push((text(key.as_bytes(), "mounts.options")?, value));
            }
        }
        Ok(())
    }

    /// What is said later holds.
    fn change(&mut self, this_alone: bool, set: Attributes, clear: Attributes) {
        for change in self.changed(this_alone) {
            change.set = change.set.without(clear).and(set);
            change.clear = change.clear.without(set).and(clear);
        }
    }

    /// What is said of all mounts is said of this one, too.
    fn changed(&mut self, this_alone: bool) -> impl Iterator<Item = &mut Change> {
        [Some(&mut self.top), Some(&mut self.all).filter(|_| !this_alone)].into_iter().flatten()
    }
}
