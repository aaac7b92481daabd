//! What has to be there before a pod's sandbox is run.

use kubelet_shim_manifest::{HostPathKind, Medium, Pod, VolumeSource};

/// One volume's need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A directory of the pod's own.
    Directory {
        /// The volume.
        volume: String,
    },
    /// A tmpfs of the pod's own.
    Tmpfs {
        /// The volume.
        volume: String,
        /// Its size; half of the memory when `None`.
        size_bytes_max: Option<u64>,
    },
    /// Something of the host's.
    Host {
        /// The volume.
        volume: String,
        /// Where.
        path: String,
        /// What must be there.
        kind: HostPathKind,
    },
}

/// The steps in the order of the volumes.
#[must_use]
pub fn plan(pod: &Pod) -> Vec<Step> {
    pod.volumes
        .iter()
        .map(|volume| match &volume.source {
            VolumeSource::EmptyDir { medium: Medium::Disk, .. } => Step::Directory { volume: volume.name.clone() },
            VolumeSource::EmptyDir { medium: Medium::Memory, size_bytes_max } => {
                Step::Tmpfs { volume: volume.name.clone(), size_bytes_max: *size_bytes_max }
            }
            VolumeSource::HostPath { path, kind } => {
                Step::Host { volume: volume.name.clone(), path: path.clone(), kind: *kind }
            }
        })
        .collect()
}
