//! The walls of a container, as they were asked for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{PidMode, Privilege, UserMode};

/// Walls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Whether the walls are up at all.
    #[serde(default)]
    pub privilege: Privilege,
    /// Against the default set.
    #[serde(default)]
    pub capabilities: CapabilityChange,
    /// Who it runs as; the image says if absent.
    #[serde(default)]
    pub user: Option<User>,
    /// Its primary group.
    #[serde(default)]
    pub group: Option<u32>,
    /// More groups.
    #[serde(default)]
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's `/etc/group` counts.
    #[serde(default)]
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether its root may be written.
    #[serde(default)]
    pub read_only_root: bool,
    /// Whether setuid programs gain nothing.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Hidden paths; `None`: the defaults.
    #[serde(default)]
    pub masked_paths: Option<Vec<String>>,
    /// Paths that can't be written; `None`: the defaults.
    #[serde(default)]
    pub readonly_paths: Option<Vec<String>>,
    /// The system-call filter.
    #[serde(default)]
    pub seccomp: SeccompChoice,
    /// As asked for; differs from the sandbox's only in that it may be refused.
    #[serde(default)]
    pub pid: Option<PidMode>,
    /// As asked for; differs from the sandbox's only in that it is refused.
    #[serde(default)]
    pub user_mode: Option<UserMode>,
    /// The container whose processes are seen (CRI mode `TARGET`).
    #[serde(default)]
    pub pid_target: Option<String>,
    /// The AppArmor profile.
    #[serde(default)]
    pub apparmor: AppArmorChoice,
    /// The SELinux label.
    #[serde(default)]
    pub selinux: Option<SelinuxLabel>,
}

/// Which AppArmor profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppArmorChoice {
    /// The runtime's, where the kernel has AppArmor on.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One that is loaded in the kernel, by name.
    Localhost(String),
}

/// An SELinux label; an empty part is the runtime's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxLabel {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub kind: String,
    /// Level.
    pub level: String,
}

/// Changes to the default capabilities, names with or without `CAP_`; `ALL` is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityChange {
    /// Added.
    #[serde(default)]
    pub add: Vec<String>,
    /// Dropped; applied after `add`, but for `ALL`, which is applied first.
    #[serde(default)]
    pub drop: Vec<String>,
    /// Kept over `execve` for users other than root.
    #[serde(default)]
    pub ambient: Vec<String>,
}

/// Who.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum User {
    /// By number.
    Id(u32),
    /// By name in the image's `/etc/passwd`.
    Name(String),
}

/// Whether the image's `/etc/group` adds groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupplementalGroupsPolicy {
    /// It does.
    #[default]
    Merge,
    /// Only what was asked for.
    Strict,
}

/// Which system-call filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompChoice {
    /// None.
    #[default]
    Unconfined,
    /// The runtime's.
    RuntimeDefault,
    /// A file of the host.
    Localhost(PathBuf),
}
