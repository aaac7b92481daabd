//! `/dev`: six nodes, the listed ones, and links.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxDeviceType, Spec};
use runtime_sys::rootfs::{Kind, Node, device_number};

use super::{absolute, text};
use crate::OciError;
use crate::cgroup::number;
use crate::step::Step;

/// Name, major, minor.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Name and target.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Most listed devices; a privileged container gets all of the host's.
const DEVICES_MAX: usize = 16 * 1024;

/// Nothing is made where `/dev` is a directory of the host's, bound by the specification.
pub(super) fn plan(spec: &Spec, linux: &Linux) -> Result<Vec<Step>, OciError> {
    let bound =
        spec.mounts().iter().flatten().any(|mount| {
            super::mounts::clean(mount.destination()) == Path::new("/dev") && super::mounts::is_bind(mount)
        });
    if bound {
        return Ok(Vec::new());
    }
    let listed = linux.devices().as_deref().unwrap_or_default();
    if listed.len() > DEVICES_MAX {
        return Err(OciError::invalid(format!("linux.devices: more than {DEVICES_MAX} entries")));
    }
    let mut steps = Vec::with_capacity(NODES.len() + LINKS.len() + listed.len());
    for (name, major, minor) in NODES {
        // One that the specification lists as well has the owner and mode that it says.
        if !listed.iter().any(|device| device.path() == &Path::new("/dev").join(name)) {
            let kind = Kind::Character(device_number(major, minor));
            steps.push(Step::Device {
                directory: CString::from(c"/dev"),
                name: text(name.as_bytes(), "device")?,
                node: Node { kind, mode: 0o666, uid: 0, gid: 0 },
            });
        }
    }
    for device in listed {
        let path = device.path();
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(OciError::invalid(format!("linux.devices: {path:?} is no path of a device")));
        };
        let part = |part: i64| Ok(number(Some(part))?.unwrap_or(0));
        let device_id = device_number(part(device.major())?, part(device.minor())?);
        let kind = match device.typ() {
            LinuxDeviceType::B => Kind::Block(device_id),
            LinuxDeviceType::C | LinuxDeviceType::U => Kind::Character(device_id),
            LinuxDeviceType::P => Kind::Other,
            LinuxDeviceType::A => return Err(OciError::invalid(format!("linux.devices: {path:?} has type \"a\""))),
        };
        steps.push(Step::Device {
            directory: absolute(directory, "linux.devices")?,
            name: text(name.as_bytes(), "linux.devices")?,
            node: Node {
                kind,
                mode: device.file_mode().unwrap_or(0o666) & 0o7777,
                uid: device.uid().unwrap_or(0),
                gid: device.gid().unwrap_or(0),
            },
        });
    }
    for (name, target) in LINKS {
        steps.push(Step::DeviceLink { name: text(name.as_bytes(), "link")?, target: text(target.as_bytes(), "link")? });
    }
    Ok(steps)
}
