//! What this machine must have, and what of ours is on it.

use std::fs;
use std::io;
use std::path::Path;

use runtime_sys::cgroup::{self, Version};
use runtime_sys::features::{self, Severity};
use runtime_sys::privileges::{self, Capabilities};

use super::ServeError;

/// Refuses a machine on which no pod could run, by the name of what it lacks.
pub(crate) fn check(what: &'static str) -> Result<(), ServeError> {
    let effective = privileges::effective().map_err(|source| ServeError::Features { source })?;
    if !effective.contains(Capabilities::SYS_ADMIN) {
        return Err(ServeError::NotRoot { what });
    }
    let missing = features::missing().map_err(|source| ServeError::Features { source })?;
    let mut fatal = Vec::new();
    for missing in missing {
        match missing.severity {
            Severity::Fatal => fatal.push(format!("{} ({})", missing.what, missing.consequence)),
            Severity::Degraded => {
                tracing::info!(
                    missing = missing.what,
                    consequence = missing.consequence,
                    "this machine lacks something"
                );
            }
        }
    }
    if fatal.is_empty() { Ok(()) } else { Err(ServeError::Lacks { missing: fatal.join("; ") }) }
}

/// `6.18.44-x`.
pub(crate) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// `uname`'s nodename; a host without one is called by what it is.
pub(crate) fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

/// How control groups are mounted.
pub(crate) fn cgroup_layout() -> &'static str {
    match cgroup::hierarchies().map(|found| found.version) {
        Ok(Version::V1) => "v1",
        Ok(Version::V2) => "v2",
        Err(_) => "unknown",
    }
}

/// Removes our cgroups, if they are empty: another node may use the same ones.
pub(super) fn remove_empty_cgroups(cgroup_root: &str) -> Vec<String> {
    let Ok(hierarchies) = cgroup::hierarchies() else { return Vec::new() };
    let mut failures = Vec::new();
    for hierarchy in &hierarchies.list {
        let root = hierarchy.mount_point.join(cgroup_root.trim_start_matches('/'));
        for directory in [root.join("pods"), root.join("supervisors"), root] {
            match fs::remove_dir(&directory) {
                Ok(()) => {}
                // Not made in this hierarchy, or somebody's who lives on.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty
                    ) => {}
                Err(error) => failures.push(format!("cannot remove the cgroup {directory:?}: {error}")),
            }
        }
    }
    failures
}

/// The resolv.conf for pods: where the host's names a resolver on loopback, which no pod can reach, the one behind it.
pub(super) fn resolv_conf() -> &'static Path {
    let host = Path::new("/etc/resolv.conf");
    let behind_resolved = Path::new("/run/systemd/resolve/resolv.conf");
    let stub = fs::read_to_string(host).is_ok_and(|text| {
        let mut servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).peekable();
        servers.peek().is_some() && servers.all(|server| server.trim().starts_with("127."))
    });
    if stub && behind_resolved.exists() { behind_resolved } else { host }
}
