//! A container's volumes before they are mounted: images that are held for it, and sources that aren't there yet.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use images_service::Images;
use runtime_lifecycle::{ContainerId, Mount};
use runtime_wire::{ContainerSpec, FailureKind, ImageVolume, Request};

use crate::{Engine, EngineError, blocking, disk, supervisor::Link, world::Sandbox};

/// How long the host may take to say whether a volume's source is there; a dead file server never says.
const SOURCE_ANSWER: Duration = Duration::from_secs(10);

/// Most images that are volumes of one container: each is an overlay, and so a superblock of the kernel.
const IMAGE_VOLUMES_MAX: usize = 64;

/// Images that are volumes of one container, in the order of its mounts.
#[derive(Debug, Default)]
pub(crate) struct ImageVolumes {
    /// Their ids.
    pub(crate) ids: Vec<String>,
    /// Their layers.
    pub(crate) volumes: Vec<ImageVolume>,
}

/// Holds every image that `mounts` name, until [`release`]. What was held before a refusal is released by the caller, too.
///
/// # Errors
/// One isn't here, or its sub path leads out of it.
pub(crate) fn hold(images: &Images, id: &ContainerId, mounts: &[Mount]) -> Result<ImageVolumes, EngineError> {
    let mut held = ImageVolumes::default();
    for mount in mounts {
        let Some(asked) = &mount.image else { continue };
        if held.ids.len() == IMAGE_VOLUMES_MAX {
            return Err(EngineError::invalid("mounts", format!("more than {IMAGE_VOLUMES_MAX} images")));
        }
        check_sub_path(&asked.sub_path)?;
        let layers =
            images.root_for(&asked.image, &holder(id, held.ids.len())).map_err(|source| EngineError::ImageVolume {
                image: asked.image.clone(),
                destination: mount.container_path.clone(),
                source: Box::new(source),
            })?;
        held.ids.push(layers.image.id.clone());
        held.volumes.push(ImageVolume { lowers: layers.lowers, sub_path: asked.sub_path.clone() });
    }
    Ok(held)
}

/// Holds again what a container from before this daemon's start has as volumes.
pub(crate) fn hold_again(images: &Images, id: &ContainerId, ids: &[String]) {
    for (number, image) in ids.iter().enumerate() {
        if let Err(error) = images.hold(image, &holder(id, number)) {
            tracing::warn!(container = id.short(), %error, "an image that is its volume is not in the store any more");
        }
    }
}

/// Lets go of as many as there may be; it is no error to let go of what isn't held.
pub(crate) fn release(images: &Images, id: &ContainerId, mounts: &[Mount]) {
    for number in 0..mounts.iter().filter(|mount| mount.image.is_some()).count() {
        images.release(&holder(id, number));
    }
}

fn holder(id: &ContainerId, number: usize) -> String {
    format!("{id}/volume/{number}")
}

/// Relative, without `..` and NUL. Links in it are followed inside the image when it is mounted.
fn check_sub_path(path: &str) -> Result<(), EngineError> {
    const PATH_BYTES_MAX: usize = 4095;
    let why = if path.starts_with('/') {
        "is not relative to the image's root"
    } else if path.len() > PATH_BYTES_MAX {
        "is too long"
    } else if path.contains('\0') {
        "contains a NUL byte"
    } else if path.split('/').any(|part| part == "..") {
        "contains \"..\""
    } else {
        return Ok(());
    };
    Err(EngineError::invalid("image_sub_path", format!("{:?} {why}", path.chars().take(200).collect::<String>())))
}

impl Engine {
    /// Asks the supervisor. A volume of `mounts` whose source isn't there is made, as other runtimes do for `hostPath`, and
    /// asked again.
    pub(crate) async fn prepare(
        &self,
        sandbox: &Sandbox,
        link: &Link,
        spec: ContainerSpec,
        mounts: &[Mount],
    ) -> Result<(), EngineError> {
        let deadline = self.config.limits.supervisor_answer;
        let step = "create the container";
        let sources = sources(mounts);
        let first = link.tell(step, Request::CreateContainer(Box::new(spec.clone())), deadline).await;
        let error = match first {
            Err(
                error @ EngineError::Supervisor {
                    kind: FailureKind::NotFound | FailureKind::Invalid | FailureKind::Kernel,
                    ..
                },
            ) if !sources.is_empty() => error,
            other => return other,
        };
        let making = blocking(move || Ok(make_missing(&sources)));
        let made = match tokio::time::timeout(SOURCE_ANSWER, making).await {
            Ok(made) => made??,
            Err(_) => {
                return Err(EngineError::Deadline { what: "the source of a mount".to_owned(), after: SOURCE_ANSWER });
            }
        };
        if made == 0 {
            return Err(error);
        }
        tracing::info!(sandbox = sandbox.id.short(), made, "missing sources of mounts were made as directories");
        link.tell(step, Request::CreateContainer(Box::new(spec)), deadline).await
    }
}

/// The host's paths that were asked for as volumes. What else is mounted (the files that a CDI device consists of) is the
/// host's to have: a directory in the place of a driver's library or socket would be in the driver's way.
fn sources(mounts: &[Mount]) -> Vec<PathBuf> {
    let paths = mounts.iter().filter(|mount| mount.image.is_none()).map(|mount| PathBuf::from(&mount.host_path));
    paths.filter(|source| source.is_absolute()).collect()
}

/// Makes the missing ones as directories; answers with how many.
fn make_missing(sources: &[PathBuf]) -> Result<usize, EngineError> {
    let mut made = 0;
    for source in sources {
        // A dangling link is somebody's mistake, not a missing directory.
        if fs::symlink_metadata(source).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            match fs::create_dir_all(source) {
                Ok(()) => made += 1,
                // A dangling link or a file on the way: what the supervisor said of the source says it better.
                Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) => {}
                Err(error) => return Err(disk("make the source of a mount", source)(error)),
            }
        }
    }
    Ok(made)
}

/// The bottom of an overlay of one layer: the kernel takes no fewer than two.
pub(crate) const EMPTY: &str = "empty";

/// Puts the container's empty directory below each image that has one layer, and says whether any has.
pub(crate) fn complete(volumes: &mut [ImageVolume], layer: &Path) -> bool {
    let mut needed = false;
    for volume in volumes.iter_mut().filter(|volume| volume.lowers.len() < 2) {
        volume.lowers.push(layer.join(EMPTY));
        needed = true;
    }
    needed
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use runtime_lifecycle::{ImageMount, Mount, Propagation, ReadOnly};

    use super::{check_sub_path, sources};

    #[test]
    fn only_paths_of_the_host_that_were_asked_for_are_made() {
        let mount = |host_path: &str, image: Option<&str>| Mount {
            container_path: "/data".to_owned(),
            host_path: host_path.to_owned(),
            read_only: ReadOnly::No,
            propagation: Propagation::Private,
            options: Vec::new(),
            id_mappings: None,
            image: image.map(|image| ImageMount { image: image.to_owned(), sub_path: String::new() }),
        };
        let mounts = [mount("/srv/data", None), mount("", Some("i")), mount("/srv/other", Some("i"))];
        assert_eq!(sources(&mounts), [PathBuf::from("/srv/data")]);
    }

    #[test]
    fn a_sub_path_stays_inside() {
        for good in ["", "etc", "etc/passwd", "a..b", "./a"] {
            assert!(check_sub_path(good).is_ok(), "{good}");
        }
        for bad in ["/etc", "..", "a/../b", "a/..", "a\0", &"a".repeat(5000)] {
            assert!(check_sub_path(bad).is_err(), "{bad}");
        }
    }
}
