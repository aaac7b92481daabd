//! A specification file, version 0.3.0 to 1.1.0.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::name;

/// The versions that are read: they differ in what may be in a file, not in what it means.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// What a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Yaml,
}

/// A file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SpecFile {
    cdi_version: String,
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) devices: Vec<DeviceEntry>,
    /// For every container that has any of the devices.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// A device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceEntry {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    pub(super) container_edits: Edits,
}

/// What changes in a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    net_devices: Vec<NetDevice>,
    pub(super) mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    intel_rdt: Option<IntelRdt>,
    #[serde(rename = "additionalGids")]
    pub(super) additional_gids: Vec<u32>,
}

/// A node.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    /// In the container.
    pub(super) path: String,
    /// On the host; the same if absent.
    pub(super) host_path: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) major: u32,
    #[serde(default)]
    pub(super) minor: u32,
    pub(super) file_mode: Option<u32>,
    #[serde(default)]
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
}

/// A network interface of the host.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NetDevice {
    host_interface_name: String,
    #[serde(rename = "name")]
    _name: String,
}

/// A program of the host.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(default, rename = "args")]
    _args: Vec<String>,
    #[serde(default, rename = "env")]
    _env: Vec<String>,
    #[serde(rename = "timeout")]
    _timeout: Option<i64>,
}

/// A share of a processor's cache: anything, since none is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IntelRdt {}

impl SpecFile {
    pub(super) fn parse(text: &str, form: Form) -> Result<Self, String> {
        let file: Self = match form {
            Form::Json => serde_json::from_str(text).map_err(|error| error.to_string())?,
            Form::Yaml => yaml(text)?,
        };
        if !VERSIONS.contains(&file.cdi_version.as_str()) {
            let (first, last) = (VERSIONS[0], VERSIONS[VERSIONS.len() - 1]);
            return Err(format!("cdiVersion {:?} is not known; {first} to {last} are", file.cdi_version));
        }
        name::kind(&file.kind)?;
        if file.devices.is_empty() {
            return Err("has no devices".to_owned());
        }
        file.container_edits.validate()?;
        for device in &file.devices {
            name::device(&device.name)?;
            device.container_edits.validate()?;
        }
        Ok(file)
    }
}

fn yaml(text: &str) -> Result<SpecFile, String> {
    /// Most values in one file, aliases expanded: an alias bomb ends here.
    const NODES_MAX: usize = 200_000;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 20,
            flow_nesting_limit: 20,
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: NODES_MAX,
            max_replay_stack_depth: 16,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error: serde_saphyr::Error| error.without_snippet().to_string())
}

impl Edits {
    /// What makes a file wrong.
    fn validate(&self) -> Result<(), String> {
        let absolute = |what: &str, path: &str| match Path::new(path).is_absolute() && !path.contains('\0') {
            true => Ok(()),
            false => Err(format!("{what} {path:?} is not an absolute path")),
        };
        for variable in &self.env {
            let name = variable.split_once('=').map(|(name, _)| name);
            if name.is_none_or(str::is_empty) || variable.contains('\0') {
                return Err("env: an entry is not NAME=VALUE".to_owned());
            }
        }
        for node in &self.device_nodes {
            absolute("deviceNodes: path", &node.path)?;
            node.host_path.as_deref().map_or(Ok(()), |path| absolute("deviceNodes: hostPath", path))?;
            if node.kind.as_deref().is_some_and(|kind| !["", "b", "c", "u", "p"].contains(&kind)) {
                return Err(format!("deviceNodes: {:?} has no type b, c, u or p", node.path));
            }
            if !node.permissions.bytes().all(|letter| b"rwm".contains(&letter)) {
                return Err(format!("deviceNodes: {:?} has permissions that are not of r, w, m", node.path));
            }
        }
        for mount in &self.mounts {
            absolute("mounts: containerPath", &mount.container_path)?;
            absolute("mounts: hostPath", &mount.host_path)?;
            if mount.options.iter().any(|option| option.contains('\0')) {
                return Err("mounts: an option contains a NUL byte".to_owned());
            }
        }
        Ok(())
    }

    /// What a file may ask for and isn't done here.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(hook) = self.hooks.first() {
            return Err(format!("needs the {} hook {:?}, and hooks are not run here", hook.hook_name, hook.path));
        }
        if let Some(device) = self.net_devices.first() {
            let name = &device.host_interface_name;
            return Err(format!("needs the network interface {name:?} of the host, and none is moved here"));
        }
        if self.intel_rdt.is_some() {
            return Err("needs a share of the processor's cache (intelRdt), which is not given here".to_owned());
        }
        if let Some(node) = self.device_nodes.iter().find(|node| node.kind.as_deref() == Some("p")) {
            return Err(format!("needs the named pipe {:?}, and only devices are made here", node.path));
        }
        let known = |kind: &str| ["", "bind", "none", "tmpfs"].contains(&kind);
        if let Some(mount) = self.mounts.iter().find(|mount| !known(&mount.kind)) {
            return Err(format!("needs a mount of type {:?}, and only bind and tmpfs are made here", mount.kind));
        }
        Ok(())
    }
}
