//! `mounts`: what is cloned in the host's mount namespace, and what is attached in the container's.

use std::ffi::CString;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use runtime_sys::cgroup::Version;
use runtime_sys::mount::{Attributes, Depth, Propagation};

use super::{absolute, text};
use crate::step::{OverProc, Source, Step, Target, What};
use crate::{ContainerCgroup, OciError};

/// The source of a bind mount that means the pod's `/dev/shm`.
pub(crate) const POD_SHM: &str = "podwright:shm";

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
    /// In the container's; goes back to the host's where there are more sources than can be kept at once.
    pub(super) attach: Vec<Step>,
    /// Whether it goes back.
    pub(super) returns: bool,
    pub(super) slots: usize,
}

pub(super) fn plan(spec: &Spec, cgroup: &ContainerCgroup, own_groups: bool) -> Result<Mounts, OciError> {
    let list = spec.mounts().as_deref().unwrap_or_default();
    if list.len() > MOUNTS_MAX {
        return Err(OciError::invalid(format!("mounts: more than {MOUNTS_MAX} entries")));
    }
    let mut mounts = Mounts { sources: Vec::new(), attach: Vec::new(), returns: false, slots: 0 };
    let mut batch = Batch::default();
    let mut begun_at = 0;
    for mount in list {
        if mounts.slots - begun_at >= TREES_MAX {
            mounts.finish(std::mem::take(&mut batch));
            begun_at = mounts.slots;
        }
        let destination = absolute(mount.destination(), "mounts.destination")?;
        let over_proc = over_proc(mount)?;
        let options = Options::parse(mount)?;
        let what = if is_bind(mount) {
            bind(mount, &options, &mut mounts.slots, &mut batch)?
        } else {
            match kind_of(mount) {
                "cgroup" | "cgroup2" => groups(cgroup, own_groups, &options, &mut mounts.slots, &mut batch)?,
                kind => filesystem(kind, mount, options)?,
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

impl Mounts {
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

fn bind(mount: &Mount, options: &Options, slots: &mut usize, batch: &mut Batch) -> Result<What, OciError> {
    let source = mount.source().as_ref().ok_or_else(|| OciError::invalid("mounts: a bind mount without a source"))?;
    if source == Path::new(POD_SHM) {
        return Ok(What::PodShm(options.set));
    }
    let slot = slot(slots);
    let path = absolute(source, "mounts.source")?;
    let Options { set, clear, depth, reach, propagation, .. } = *options;
    let source = Source { slot, path, depth, set, clear, reach, propagation };
    batch.sources.push(Step::CloneSource(Box::new(source)));
    Ok(What::Tree(slot))
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
    let attributes = options.set.and(quiet);
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
                set: attributes,
                clear: Attributes::NONE,
                reach: Depth::One,
                propagation: Propagation::Private,
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

fn filesystem(kind: &str, mount: &Mount, options: Options) -> Result<What, OciError> {
    /// File systems that have no source.
    const WITHOUT_SOURCE: [&str; 5] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue"];
    let mut data = options.data;
    // The type's own name where there is nothing to name: "none" in the mount table would be no lie, but df stumbles.
    let own = PathBuf::from(kind);
    let source = mount.source().as_ref().filter(|_| !WITHOUT_SOURCE.contains(&kind)).unwrap_or(&own);
    data.insert(0, (CString::from(c"source"), Some(text(source.as_os_str().as_encoded_bytes(), "mounts.source")?)));
    Ok(What::New { kind: text(kind.as_bytes(), "mounts.type")?, options: data, attributes: options.set })
}

/// The options of one mount, sorted by what they are for.
struct Options {
    set: Attributes,
    clear: Attributes,
    depth: Depth,
    reach: Depth,
    propagation: Propagation,
    data: Vec<(CString, Option<CString>)>,
}

impl Options {
    fn parse(mount: &Mount) -> Result<Self, OciError> {
        let none = Attributes::NONE;
        let mut options = Self {
            set: none,
            clear: none,
            depth: Depth::One,
            reach: Depth::One,
            propagation: Propagation::Private,
            data: Vec::new(),
        };
        for option in mount.options().iter().flatten() {
            options.take(option)?;
        }
        Ok(options)
    }

    fn take(&mut self, option: &str) -> Result<(), OciError> {
        let atime = |this: &mut Self, set: Attributes| {
            this.set = this.set.without(Attributes::ATIME).and(set);
            this.clear = this.clear.and(Attributes::ATIME);
        };
        let toggles = [
            ("ro", "rw", Attributes::READ_ONLY),
            ("nosuid", "suid", Attributes::NO_SUID),
            ("nodev", "dev", Attributes::NO_DEV),
            ("noexec", "exec", Attributes::NO_EXEC),
            ("nodiratime", "diratime", Attributes::NO_DIR_ATIME),
            ("nosymfollow", "symfollow", Attributes::NO_SYMLINKS),
        ];
        for (on, off, attribute) in toggles {
            if option == on || option.strip_prefix('r') == Some(on) && option != "ro" {
                self.set = self.set.and(attribute);
                self.clear = self.clear.without(attribute);
                if option != on {
                    self.reach = Depth::All;
                }
                return Ok(());
            }
            if option == off {
                self.set = self.set.without(attribute);
                self.clear = self.clear.and(attribute);
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
            "relatime" => atime(self, Attributes::NONE),
            "noatime" => atime(self, Attributes::NO_ATIME),
            "strictatime" => atime(self, Attributes::STRICT_ATIME),
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
}
