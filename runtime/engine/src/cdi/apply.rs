//! Edits, put into a specification.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Mount as OciMount, Spec};

use super::file::{DeviceNode, Edits, Mount};
use crate::spec::{check_inside, host_device};

/// The mode of a node whose file says nothing and whose numbers aren't the host's, as other runtimes have it.
const MODE: u32 = 0o666;

pub(super) fn edits(edits: &Edits, spec: &mut Spec) -> Result<(), String> {
    for variable in &edits.env {
        set_variable(spec, variable);
    }
    for node in &edits.device_nodes {
        add_node(spec, node)?;
    }
    for mount in &edits.mounts {
        add_mount(spec, mount)?;
    }
    add_groups(spec, &edits.additional_gids);
    Ok(())
}

/// In the place of one of the same name.
fn set_variable(spec: &mut Spec, variable: &str) {
    let Some(process) = spec.process_mut() else { return };
    let mut all = process.env().clone().unwrap_or_default();
    let name = variable.split('=').next().unwrap_or(variable);
    let is_same = |one: &String| one.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
    match all.iter_mut().find(|one| is_same(one)) {
        Some(there) => variable.clone_into(there),
        None => all.push(variable.to_owned()),
    }
    process.set_env(Some(all));
}

/// 0 is everybody's who has no group, so nobody is given it.
fn add_groups(spec: &mut Spec, groups: &[u32]) {
    let Some(process) = spec.process_mut() else { return };
    let mut user = process.user().clone();
    let mut all = user.additional_gids().clone().unwrap_or_default();
    for group in groups {
        if *group != 0 && !all.contains(group) {
            all.push(*group);
        }
    }
    if !all.is_empty() {
        user.set_additional_gids(Some(all));
        process.set_user(user);
    }
}

fn add_node(spec: &mut Spec, node: &DeviceNode) -> Result<(), String> {
    check_inside("path", &node.path).map_err(|error| error.to_string())?;
    let host = node.host_path.as_deref().unwrap_or(&node.path);
    let asked = node.kind.as_deref().unwrap_or("");
    let mut device = LinuxDevice::default();
    let (kind, major, minor, mode) = if asked.is_empty() || node.major == 0 {
        let found = host_device(Path::new(host)).map_err(|error| format!("device node {host:?}: {error}"))?;
        let kind = if found.block { LinuxDeviceType::B } else { LinuxDeviceType::C };
        let is_other = if found.block { ["c", "u"].contains(&asked) } else { asked == "b" };
        if is_other {
            return Err(format!("device node {host:?} is not of type {asked:?}"));
        }
        (kind, found.major, found.minor, found.mode)
    } else {
        (if asked == "b" { LinuxDeviceType::B } else { LinuxDeviceType::C }, node.major, node.minor, MODE)
    };
    // Who is not root gets the node as its own, else it could not open it.
    let (uid, gid) = spec.process().as_ref().map_or((0, 0), |process| (process.user().uid(), process.user().gid()));
    device
        .set_path(PathBuf::from(&node.path))
        .set_typ(kind)
        .set_major(i64::from(major))
        .set_minor(i64::from(minor))
        .set_file_mode(Some(node.file_mode.unwrap_or(mode)))
        .set_uid(Some(node.uid.unwrap_or(uid)))
        .set_gid(Some(node.gid.unwrap_or(gid)));
    let mut rule = LinuxDeviceCgroup::default();
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    rule.set_allow(true)
        .set_typ(Some(kind))
        .set_major(Some(major.into()))
        .set_minor(Some(minor.into()))
        .set_access(Some(access.to_owned()));
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|there| there.path() != device.path());
    devices.push(device);
    linux.set_devices(Some(devices));
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.push(rule);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    Ok(())
}

/// After all mounts that lie no deeper, as volumes are sorted.
fn add_mount(spec: &mut Spec, mount: &Mount) -> Result<(), String> {
    check_inside("containerPath", &mount.container_path).map_err(|error| error.to_string())?;
    let mut options = mount.options.clone();
    let is_bind = mount.kind != "tmpfs";
    if is_bind && !options.iter().any(|option| option == "bind" || option == "rbind") {
        options.push("rbind".to_owned());
    }
    let mut made = OciMount::default();
    made.set_destination(PathBuf::from(&mount.container_path))
        .set_typ(Some(if is_bind { "bind" } else { "tmpfs" }.to_owned()))
        .set_source(Some(PathBuf::from(&mount.host_path)))
        .set_options(Some(options));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let depth = |mount: &OciMount| mount.destination().components().count();
    let place = mounts.iter().rposition(|there| depth(there) <= depth(&made)).map_or(0, |last| last + 1);
    mounts.insert(place, made);
    spec.set_mounts(Some(mounts));
    Ok(())
}
