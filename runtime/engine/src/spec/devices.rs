//! Device nodes, and who may use which.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use runtime_lifecycle::{ContainerConfig, Device, Privilege};

use crate::EngineError;

/// Most nodes taken from one directory of the host.
const NODES_MAX: usize = 4096;

/// How deep directories of nodes are walked; `/dev/bus/usb/001/001` is 3.
const DEPTH_MAX: usize = 6;

/// A device node of the host that appears in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    pub(crate) path: PathBuf,
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) access: String,
}

impl HostDevice {
    pub(super) fn node(&self) -> LinuxDevice {
        let mut node = LinuxDevice::default();
        node.set_path(self.path.clone())
            .set_typ(self.kind())
            .set_major(i64::from(self.major))
            .set_minor(i64::from(self.minor))
            .set_file_mode(Some(self.mode))
            .set_uid(Some(self.uid))
            .set_gid(Some(self.gid));
        node
    }

    fn kind(&self) -> LinuxDeviceType {
        if self.block { LinuxDeviceType::B } else { LinuxDeviceType::C }
    }
}

fn rule(allow: bool, kind: LinuxDeviceType, numbers: (Option<i64>, Option<i64>), access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(numbers.0)
        .set_minor(numbers.1)
        .set_access(Some(access.to_owned()));
    rule
}

/// Nothing, but: making nodes (using them is another matter), the six nodes that every container has, terminals, and what
/// was asked for.
pub(super) fn rules(devices: &[HostDevice]) -> Vec<LinuxDeviceCgroup> {
    const EVERYWHERE: [(i64, Option<i64>); 8] =
        [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(2)), (136, None)];
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, (None, None), "rwm"),
        rule(true, LinuxDeviceType::C, (None, None), "m"),
        rule(true, LinuxDeviceType::B, (None, None), "m"),
    ];
    rules.extend(EVERYWHERE.map(|(major, minor)| rule(true, LinuxDeviceType::C, (Some(major), minor), "rwm")));
    rules.extend(devices.iter().map(|device| {
        rule(true, device.kind(), (Some(device.major.into()), Some(device.minor.into())), &device.access)
    }));
    rules
}

/// The nodes of a container: those that were asked for, and all of the host's if it is privileged.
pub(crate) fn devices_of(config: &ContainerConfig) -> Result<Vec<HostDevice>, EngineError> {
    let mut devices = host_devices(&config.devices)?;
    if config.security.privilege == Privilege::Privileged {
        devices.extend(privileged_devices());
    }
    Ok(devices)
}

/// The nodes that were asked for, looked up on the host.
fn host_devices(asked: &[Device]) -> Result<Vec<HostDevice>, EngineError> {
    let mut found = Vec::new();
    for device in asked {
        if device.permissions.is_empty() || !device.permissions.bytes().all(|byte| matches!(byte, b'r' | b'w' | b'm')) {
            return Err(EngineError::invalid(
                "device permissions",
                format!("{:?} is not of r, w, m", device.permissions),
            ));
        }
        super::mounts::check_inside("device", &device.container_path)?;
        super::mounts::check_inside("device of the host", &device.host_path)?;
        let host = Path::new(&device.host_path);
        let wrong = |why: String| EngineError::invalid(format!("device {:?}", device.host_path), why);
        let before = found.len();
        collect(host, Path::new(&device.container_path), &device.permissions, 0, &mut found)
            .map_err(|error| wrong(error.to_string()))?;
        if found.len() == before {
            return Err(wrong("is neither a device nor a directory of devices".to_owned()));
        }
    }
    Ok(found)
}

/// One node of the host.
pub(crate) fn host_device(path: &Path) -> io::Result<HostDevice> {
    let mut found = Vec::new();
    if !fs::metadata(path)?.is_dir() {
        collect(path, path, "rwm", 0, &mut found)?;
    }
    found.pop().ok_or_else(|| io::Error::other("is no device"))
}

/// All nodes of the host, for privileged containers; those that a container has its own of are left out.
fn privileged_devices() -> Vec<HostDevice> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir("/dev") else { return found };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let own = ["pts", "shm", "mqueue", "fd", "console", "ptmx", "null", "zero", "full", "random", "urandom", "tty"];
        if own.iter().any(|own| name == *own) {
            continue;
        }
        // One that vanishes meanwhile is not there.
        let _ = collect(&entry.path(), &Path::new("/dev").join(&name), "rwm", 0, &mut found);
    }
    found
}

fn collect(host: &Path, inside: &Path, access: &str, depth: usize, found: &mut Vec<HostDevice>) -> io::Result<()> {
    let metadata = if depth == 0 { fs::metadata(host)? } else { fs::symlink_metadata(host)? };
    let kind = metadata.file_type();
    if kind.is_dir() {
        if depth >= DEPTH_MAX {
            return Ok(());
        }
        for entry in fs::read_dir(host)? {
            let entry = entry?;
            collect(&entry.path(), &inside.join(entry.file_name()), access, depth + 1, found)?;
        }
    } else if (kind.is_char_device() || kind.is_block_device()) && found.len() < NODES_MAX {
        let (major, minor) = numbers(metadata.rdev());
        found.push(HostDevice {
            path: inside.to_owned(),
            block: kind.is_block_device(),
            major,
            minor,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            access: access.to_owned(),
        });
    }
    Ok(())
}

/// As glibc's `gnu_dev_major` and `gnu_dev_minor` have it.
fn numbers(device: u64) -> (u32, u32) {
    let major = (device >> 8) & 0xfff | (device >> 32) & 0xffff_f000;
    let minor = device & 0xff | (device >> 12) & 0xffff_ff00;
    (u32::try_from(major).unwrap_or(u32::MAX), u32::try_from(minor).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use runtime_lifecycle::Device;

    use super::{host_devices, numbers, rules};

    #[test]
    fn numbers_as_glibc_has_them() {
        assert_eq!(numbers(0x0103), (1, 3));
        assert_eq!(numbers(0x8800), (136, 0));
        assert_eq!(numbers(0x0000_1000_1000_0203), (0x1002, 0x1_0003));
    }

    #[test]
    fn a_device_of_the_host() {
        let asked = |host: &str, permissions: &str| {
            host_devices(&[Device {
                container_path: "/dev/mine".to_owned(),
                host_path: host.to_owned(),
                permissions: permissions.to_owned(),
            }])
        };
        let found = asked("/dev/null", "rw").expect("every machine has it");
        assert_eq!((found[0].major, found[0].minor, found[0].block), (1, 3, false));
        assert_eq!(found[0].path.to_str(), Some("/dev/mine"));
        assert_eq!(rules(&found).len(), 12);
        assert!(asked("/dev/null", "x").is_err());
        assert!(asked("/dev/null", "").is_err());
        assert!(asked("/dev/there-is-none", "r").is_err());
        assert!(asked("/etc/hostname", "r").is_err());
        assert!(asked("dev/null", "r").is_err());
    }
}
