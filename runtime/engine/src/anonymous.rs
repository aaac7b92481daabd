//! What an image calls its volumes (`config.Volumes`): a fresh directory each, with what the image has there, for one
//! container and as long as that is. Writable with a read-only root too, as with containerd.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use oci_spec::image::ImageConfiguration;
use runtime_lifecycle::{Mount, UserMode};

use crate::{
    EngineError, disk,
    imagefiles::{self, Copied, Copies, CopyError},
    userns,
};

/// The directory of a container's such volumes, beside its writable layer.
pub(crate) const VOLUMES: &str = "volumes";

/// Most of one image: each is a mount and a directory of the host. Real images have a handful.
const VOLUMES_MAX: usize = 64;

/// Longest path among them, in bytes: the kernel's.
const PATH_BYTES_MAX: usize = 4095;

/// What an image can't have as a volume: the kernel's file systems, and the pod's files.
const RESERVED: [&str; 6] = ["/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// A volume that the image asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Where the container sees it.
    pub(crate) path: String,
    /// Its directory.
    pub(crate) source: PathBuf,
}

/// The volumes of an image in a container with these mounts, to be made in its directory `layer`. What a volume can't be is
/// left out: it is the image's word, and the image works without where nobody makes volumes.
///
/// # Errors
/// There are too many.
pub(crate) fn of(image: &ImageConfiguration, mounts: &[Mount], layer: &Path) -> Result<Vec<Volume>, EngineError> {
    let asked = image.config().as_ref().and_then(|config| config.volumes().as_deref()).unwrap_or_default();
    let mounted: Vec<PathBuf> = mounts.iter().filter_map(|mount| Some(inside(&mount.container_path)?.into())).collect();
    let mut volumes: Vec<Volume> = Vec::new();
    for asked in asked {
        let Some(path) = inside(asked) else {
            let shown: String = asked.chars().take(200).collect();
            tracing::warn!(path = shown, "what the image calls a volume can't be one, and is left out");
            continue;
        };
        // Below a mount too, where containerd and Docker make one: whoever mounts a disk at /var/lib/postgresql wants the
        // data on it, and not in a directory that goes with the container.
        let is_mounted = mounted.iter().any(|mount| Path::new(&path).starts_with(mount));
        if is_mounted || volumes.iter().any(|volume| volume.path == path) {
            continue;
        }
        if volumes.len() == VOLUMES_MAX {
            return Err(EngineError::invalid("volumes of the image", format!("more than {VOLUMES_MAX}")));
        }
        let source = layer.join(VOLUMES).join(volumes.len().to_string());
        volumes.push(Volume { path, source });
    }
    Ok(volumes)
}

/// An absolute path in one form; none for what can't be a volume.
fn inside(path: &str) -> Option<String> {
    let mut clean = String::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => {
                clean.push('/');
                clean.push_str(name.to_str()?);
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    let reserved = RESERVED.iter().any(|reserved| Path::new(&clean).starts_with(reserved));
    let fits = !clean.is_empty() && clean.len() <= PATH_BYTES_MAX && !clean.contains('\0') && !reserved;
    fits.then_some(clean)
}

/// Makes them. The container's directory is there.
///
/// # Errors
/// The disk's, or the image has more in one of them than is copied.
pub(crate) fn make(
    volumes: &[Volume],
    layer: &Path,
    lowers: &[PathBuf],
    user: UserMode,
    label: Option<&str>,
) -> Result<(), EngineError> {
    if volumes.is_empty() {
        return Ok(());
    }
    let directory = |path: &Path| fs::create_dir(path).map_err(disk("make", path));
    directory(&layer.join(VOLUMES))?;
    let mut copied = Copied::default();
    for Volume { path, source } in volumes {
        directory(source)?;
        // Whatever the daemon's umask is: the container's user must get in where the image has nothing to say.
        fs::set_permissions(source, Permissions::from_mode(0o755)).map_err(disk("open to the container", source))?;
        userns::give(source, user)?;
        imagefiles::copy(lowers, path, source, Copies { user, label }, &mut copied)
            .map_err(|error| failed(path, error))?;
    }
    Ok(())
}

fn failed(volume: &str, error: CopyError) -> EngineError {
    match error {
        CopyError::Kernel(source) => EngineError::Kernel { step: "copy what the image has in its volume", source },
        CopyError::Contents { path, source } => disk("copy out of the image", path)(source),
        CopyError::TooMuch { .. } => EngineError::invalid(format!("the image's volume {volume:?}"), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::Config;
    use runtime_lifecycle::{Propagation, ReadOnly};

    use super::*;

    fn check(asked: &[&str], mounts: &[&str], expected: &[&str]) {
        let mut config = Config::default();
        config.set_volumes(Some(asked.iter().map(|path| (*path).to_owned()).collect()));
        let mut image = ImageConfiguration::default();
        image.set_config(Some(config));
        let mount = |path: &&str| Mount {
            container_path: (*path).to_owned(),
            host_path: "/srv".to_owned(),
            read_only: ReadOnly::No,
            propagation: Propagation::Private,
            options: Vec::new(),
            id_mappings: None,
            image: None,
        };
        let mounts: Vec<Mount> = mounts.iter().map(mount).collect();
        let volumes = of(&image, &mounts, Path::new("/c")).expect("few enough");
        let paths: Vec<&str> = volumes.iter().map(|volume| volume.path.as_str()).collect();
        assert_eq!(paths, expected, "{asked:?}");
        for (number, volume) in volumes.iter().enumerate() {
            assert_eq!(volume.source, Path::new("/c/volumes").join(number.to_string()));
        }
    }

    #[test]
    fn an_images_volumes() {
        check(&[], &[], &[]);
        check(&["/data", "/data/", "//data", "var/lib/x"], &[], &["/data", "/var/lib/x"]);
        // What was asked for takes the place, and what is below it.
        check(&["/data", "/more", "/a/b", "/ab"], &["/data/", "/more/x", "/a"], &["/more", "/ab"]);
        // Never over what isn't the image's.
        check(&["/", "", ".", "/proc", "/proc/sys", "/sys/fs/cgroup", "/dev/shm", "/etc/hosts"], &[], &[]);
        check(&["/a/../..", "../x", "/nul\0", "/procs", "/etc"], &[], &["/procs", "/etc"]);
        check(&[&format!("/{}", "x".repeat(5000))], &[], &[]);
        let many: Vec<String> = (0..=VOLUMES_MAX).map(|number| format!("/{number}")).collect();
        let mut config = Config::default();
        config.set_volumes(Some(many));
        let mut image = ImageConfiguration::default();
        image.set_config(Some(config));
        assert!(of(&image, &[], Path::new("/c")).is_err());
    }
}
