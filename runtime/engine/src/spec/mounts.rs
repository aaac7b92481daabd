//! What is mounted in a container: the kernel's file systems, the pod's files, volumes.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};
use runtime_lifecycle::{IdRange, IpcMode, Privilege, Propagation, ReadOnly, UserMode};

use super::Placement;
use crate::{EngineError, podfiles};

/// Most volumes of a container: the kernel's limit of mounts in a namespace is 100 000 for everybody together.
const MOUNTS_MAX: usize = 4096;

/// The pod's `/dev/shm`: a word between engine and supervisor.
const SHM_SOURCE: &str = "podwright:shm";

/// An image that is a volume, its number behind it: such a word, too.
const IMAGE_SOURCE: &str = "podwright:image/";

/// In the order in which they are made: parents first.
pub(super) fn all(placement: &Placement<'_>) -> Result<Vec<Mount>, EngineError> {
    let config = placement.config;
    if config.mounts.len() > MOUNTS_MAX {
        return Err(EngineError::invalid("mounts", format!("more than {MOUNTS_MAX}")));
    }
    let covered = |path: &str| config.mounts.iter().any(|mount| same(&mount.container_path, path));
    let mut mounts: Vec<Mount> = kernels(placement).into_iter().filter(|mount| !covered_by(mount, &covered)).collect();
    for (name, path) in [
        (podfiles::HOSTS, "/etc/hosts"),
        (podfiles::HOSTNAME, "/etc/hostname"),
        (podfiles::RESOLV_CONF, "/etc/resolv.conf"),
    ] {
        if !covered(path) {
            let written = if config.security.read_only_root { "ro" } else { "rw" };
            mounts.push(bind(&placement.pod_files.join(name), path, &["rbind", "rprivate", written]));
        }
    }
    let mut volumes = Vec::with_capacity(config.mounts.len());
    let mut images = 0;
    for mount in &config.mounts {
        check_inside("mount", &mount.container_path)?;
        if same(&mount.container_path, "/") {
            return Err(EngineError::invalid("mount", "a volume can't be the root"));
        }
        if mount.propagation == Propagation::Bidirectional && placement.sandbox.namespaces.user != UserMode::Node {
            let why =
                "bidirectional propagation can't be had in a pod with a user namespace: it would mount on the host";
            return Err(EngineError::invalid("mount", why));
        }
        volumes.push(if mount.image.is_some() {
            images += 1;
            image(mount, images - 1)?
        } else {
            volume(mount, config.security.privilege)?
        });
    }
    for volume in placement.volumes {
        volumes.push(bind(&volume.source, &volume.path, &["rbind", "rprivate", "rw"]));
    }
    // Stable: two volumes at one place are made in the order that was asked for.
    volumes.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(volumes);
    Ok(mounts)
}

/// A path of the host.
fn volume(mount: &runtime_lifecycle::Mount, privilege: Privilege) -> Result<Mount, EngineError> {
    check_inside("source of a mount", &mount.host_path)?;
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    if mount.propagation == Propagation::Bidirectional && privilege == Privilege::Confined {
        return Err(EngineError::invalid("mount", "bidirectional propagation needs a privileged container"));
    }
    let written = match mount.read_only {
        ReadOnly::No => "rw",
        ReadOnly::Yes => "ro",
        ReadOnly::Recursive if mount.propagation == Propagation::Private => "rro",
        ReadOnly::Recursive => {
            return Err(EngineError::invalid("mount", "recursive_read_only needs private propagation"));
        }
    };
    let mut options = vec!["rbind", propagation, written];
    options.extend(mount_options(mount)?);
    let mut bound = bind(Path::new(&mount.host_path), &mount.container_path, &options);
    if let Some(mappings) = mount.id_mappings {
        bound.set_uid_mappings(Some(vec![mapping(mappings.uids)])).set_gid_mappings(Some(vec![mapping(mappings.gids)]));
    }
    Ok(bound)
}

fn mapping(range: IdRange) -> LinuxIdMapping {
    let mapping = LinuxIdMappingBuilder::default();
    let mapping = mapping.container_id(range.container).host_id(range.host).size(range.length);
    mapping.build().expect("every field has a value")
}

/// An image: never written, nothing of it is executed or gives rights, as Kubernetes promises it.
fn image(mount: &runtime_lifecycle::Mount, number: usize) -> Result<Mount, EngineError> {
    if mount.read_only == ReadOnly::No || mount.propagation != Propagation::Private || !mount.host_path.is_empty() {
        return Err(EngineError::invalid("mount", "an image is read-only, private, and has no path of the host"));
    }
    let mut options = vec!["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
    options.extend(mount_options(mount)?);
    Ok(bind(Path::new(&format!("{IMAGE_SOURCE}{number}")), &mount.container_path, &options))
}

/// Options that take something away. What gives something back, or has a field of its own, isn't one.
fn mount_options(mount: &runtime_lifecycle::Mount) -> Result<Vec<&str>, EngineError> {
    const KNOWN: [&str; 16] = [
        "noexec",
        "nosuid",
        "nodev",
        "noatime",
        "nodiratime",
        "relatime",
        "strictatime",
        "nosymfollow",
        "rnoexec",
        "rnosuid",
        "rnodev",
        "rnoatime",
        "rnodiratime",
        "rrelatime",
        "rstrictatime",
        "rnosymfollow",
    ];
    let mut options = Vec::with_capacity(mount.options.len());
    let mut times = None;
    for option in &mount.options {
        let wrong = |why: &str| {
            let option: String = option.chars().take(100).collect();
            Err(EngineError::invalid(format!("mount {:?}: mount_options: {option:?}", mount.container_path), why))
        };
        let plain = option.strip_prefix('r').filter(|rest| *rest != "elatime").unwrap_or(option);
        match option.as_str() {
            "ro" | "rw" | "rro" => return wrong("is what readonly and recursive_read_only say"),
            "bind" | "rbind" | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
                return wrong("is what propagation says");
            }
            "exec" | "suid" | "dev" | "symfollow" => return wrong("would allow what the host's mount may forbid"),
            known if KNOWN.contains(&known) => {}
            _ => return wrong(&format!("is not known; known are {}", KNOWN.join(", "))),
        }
        if plain.ends_with("atime") && plain != "nodiratime" && times.replace(plain).is_some_and(|one| one != plain) {
            return wrong("contradicts another one: access times are kept in one way");
        }
        options.push(option.as_str());
    }
    Ok(options)
}

fn covered_by(mount: &Mount, covered: &impl Fn(&str) -> bool) -> bool {
    // A volume at /dev/shm, /sys/fs/cgroup or /dev/mqueue takes its place; one at /proc, /dev or /sys goes over it.
    let path = mount.destination().to_str().unwrap_or_default();
    matches!(path, "/dev/shm" | "/dev/mqueue" | "/sys/fs/cgroup") && covered(path)
}

fn kernels(placement: &Placement<'_>) -> Vec<Mount> {
    let privileged = placement.config.security.privilege == Privilege::Privileged;
    let written = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        made("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        made("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        made(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
    ];
    mounts.push(match placement.sandbox.namespaces.ipc {
        IpcMode::Pod => made("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        IpcMode::Node => {
            bind(Path::new("/dev/mqueue"), "/dev/mqueue", &["rbind", "rprivate", "nosuid", "noexec", "nodev"])
        }
    });
    mounts.push(made("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", written]));
    mounts.push(made("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", written]));
    mounts.push(match placement.sandbox.namespaces.ipc {
        IpcMode::Pod => {
            bind(Path::new(SHM_SOURCE), "/dev/shm", &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"])
        }
        IpcMode::Node => {
            bind(Path::new("/dev/shm"), "/dev/shm", &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"])
        }
    });
    mounts
}

fn made(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    let mut mount = made(destination, "bind", "", options);
    mount.set_source(Some(source.to_owned()));
    mount
}

fn same(one: &str, other: &str) -> bool {
    Path::new(one).components().eq(Path::new(other).components())
}

/// Absolute, without `..` and NUL, and no longer than the kernel takes.
pub(crate) fn check_inside(what: &str, path: &str) -> Result<(), EngineError> {
    const PATH_BYTES_MAX: usize = 4095;
    let why = if !path.starts_with('/') {
        "is not absolute"
    } else if path.len() > PATH_BYTES_MAX {
        "is too long"
    } else if path.contains('\0') {
        "contains a NUL byte"
    } else if Path::new(path).components().any(|component| component == Component::ParentDir) {
        "contains \"..\""
    } else {
        return Ok(());
    };
    Err(EngineError::invalid(what, format!("{:?} {why}", path.chars().take(200).collect::<String>())))
}
