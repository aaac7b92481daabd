//! Volumes, device nodes and variables of a container.

use runtime_cri_api::v1::{self, MountPropagation};
use runtime_lifecycle::{Device, EnvironmentVariable, ImageMount, Mount, Propagation, ReadOnly};
use tonic::Status;

use super::{known, plain, text, texts, userns::mappings};
use crate::error::invalid;

/// Longest value of a variable, in bytes: the kernel takes no string of more than 128 KiB.
const VALUE_BYTES_MAX: usize = 128 * 1024;

pub(super) fn variable(variable: v1::KeyValue) -> Result<EnvironmentVariable, Status> {
    let name = text("envs", variable.key)?;
    if variable.value.contains(&0) {
        return Err(invalid(&format!("envs: {name}"), "the value contains a NUL byte"));
    }
    if variable.value.len() > VALUE_BYTES_MAX {
        return Err(invalid(&format!("envs: {name}"), format!("the value is longer than {VALUE_BYTES_MAX} bytes")));
    }
    Ok(EnvironmentVariable { value: variable.value.into(), name })
}

pub(super) fn mount(mount: v1::Mount) -> Result<Mount, Status> {
    let container_path = plain("mount.container_path", mount.container_path)?;
    let what = || format!("mount {container_path:?}");
    let id_mappings = mappings(&what(), &mount.uid_mappings, &mount.gid_mappings)?;
    let image = mount.image.filter(|image| !image.image.is_empty());
    let host_path = plain("mount.host_path", mount.host_path)?;
    let propagation = match known("mount.propagation", mount.propagation)? {
        MountPropagation::PropagationPrivate => Propagation::Private,
        MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    let read_only = match (mount.readonly, mount.recursive_read_only) {
        (false, false) => ReadOnly::No,
        (true, false) => ReadOnly::Yes,
        (true, true) if propagation == Propagation::Private => ReadOnly::Recursive,
        (true, true) => return Err(invalid(&what(), "recursive_read_only needs private propagation")),
        (false, true) => return Err(invalid(&what(), "recursive_read_only needs readonly")),
    };
    let image = match image {
        // Without an image its sub-path means nothing: a kubelet tells it with every mount that has one, as soon as any
        // volume of the pod is an image, and has resolved it in host_path already.
        None => None,
        Some(_) if !host_path.is_empty() => {
            return Err(invalid(&what(), "host_path and image exclude each other"));
        }
        Some(_) if read_only == ReadOnly::No => {
            return Err(invalid(&what(), "an image can only be mounted with readonly"));
        }
        Some(_) if propagation != Propagation::Private => {
            return Err(invalid(&what(), "an image needs private propagation"));
        }
        Some(image) => Some(ImageMount {
            image: plain("mount.image.image", image.image)?,
            sub_path: text("mount.image_sub_path", mount.image_sub_path)?,
        }),
    };
    let options = texts("mount.mount_options", mount.mount_options)?;
    Ok(Mount { container_path, host_path, read_only, propagation, options, id_mappings, image })
}

pub(super) fn device(device: v1::Device) -> Result<Device, Status> {
    Ok(Device {
        container_path: plain("device.container_path", device.container_path)?,
        host_path: plain("device.host_path", device.host_path)?,
        permissions: text("device.permissions", device.permissions)?,
    })
}

/// As they are named; which of them there are, the engine knows.
pub(super) fn cdi_devices(devices: Vec<v1::CdiDevice>) -> Result<Vec<String>, Status> {
    texts("CDI_devices", devices.into_iter().map(|device| device.name).collect())
}
