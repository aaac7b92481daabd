//! What the running kernel has, and what it lacks, by name: told at start, not at the first pod.

use crate::cgroup;
use crate::error::SysResult;
use crate::mount;
use crate::privileges;

/// One thing that the running machine lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What: "openat2", "cgroup controller pids".
    pub what: String,
    /// What can't be done without it, for people.
    pub consequence: &'static str,
    /// Whether anything works at all without it.
    pub severity: Severity,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// No pod can run.
    Fatal,
    /// Something is done in another way, or not at all.
    Degraded,
}

/// `uname`'s release as two numbers: `6.18.44-x` is (6, 18).
#[must_use]
pub fn kernel_version() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether overlayfs takes `lowerdir+` (Linux 6.8). The call itself answers 0 earlier too, so the version decides.
#[must_use]
pub fn overlay_takes_single_layers() -> bool {
    kernel_version() >= (6, 8)
}

/// Everything that is missing here. Makes nothing that stays.
pub fn missing() -> SysResult<Vec<Missing>> {
    let mut missing = Vec::new();
    let mut fatal = |what: &str, consequence| {
        missing.push(Missing { what: what.to_owned(), consequence, severity: Severity::Fatal });
    };
    if kernel_version() < (6, 1) {
        fatal("Linux 6.1", "clone3, openat2, mount_setattr and close_range are needed as Linux 6.1 has them");
    }
    for (name, filesystem) in [("overlay", c"overlay"), ("proc", c"proc"), ("tmpfs", c"tmpfs"), ("mqueue", c"mqueue")] {
        match mount::fsopen(filesystem) {
            Err(error) if error.errno() == libc::ENODEV => {
                fatal(&format!("file system {name}"), "a container's root can't be mounted");
            }
            Err(error) if error.errno() == libc::EPERM => {
                fatal("root's rights (CAP_SYS_ADMIN)", "file systems can't be mounted");
                break;
            }
            _ => {}
        }
    }
    match cgroup::hierarchies() {
        Ok(found) if found.version == cgroup::Version::V1 => {
            let has = |name: &str| found.list.iter().any(|h| h.controllers.iter().any(|own| own == name));
            for controller in ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids"] {
                if !has(controller) {
                    missing.push(Missing {
                        what: format!("cgroup controller {controller}"),
                        consequence: "limits of that kind aren't kept",
                        severity: Severity::Degraded,
                    });
                }
            }
        }
        Ok(_) => {}
        Err(_) => fatal("cgroup hierarchies", "nothing can be limited or killed as a whole"),
    }
    if !privileges::effective()?.contains(privileges::Capabilities::SYS_RESOURCE) {
        missing.push(Missing {
            what: "CAP_SYS_RESOURCE".to_owned(),
            consequence: "hard resource limits and OOM scores can't go beyond this process's own",
            severity: Severity::Degraded,
        });
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_new_enough_for_its_own_tests() {
        assert!(kernel_version() >= (6, 1), "{:?}", kernel_version());
    }

    #[test]
    fn what_is_missing_is_named() {
        for missing in missing().expect("looks") {
            assert!(!missing.what.is_empty() && !missing.consequence.is_empty());
        }
    }
}
