//! Which capabilities.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};
use runtime_lifecycle::{Privilege, Security};

use crate::EngineError;

/// What a confined container has unless it asks otherwise; as other runtimes have it.
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// `ALL` is applied first (dropped, where it is both, as under containerd), then single ones are added, then single ones are
/// dropped. What this daemon doesn't hold can't
/// be given and is left out.
pub(crate) fn all(security: &Security, available: &HashSet<Capability>) -> Result<LinuxCapabilities, EngineError> {
    let change = &security.capabilities;
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL");
    let mut set: HashSet<Capability> = if security.privilege == Privilege::Privileged {
        available.clone()
    } else if change.drop.iter().any(is_all) {
        HashSet::new()
    } else if change.add.iter().any(is_all) {
        available.clone()
    } else {
        DEFAULT.into()
    };
    for name in change.add.iter().filter(|name| !is_all(name)) {
        set.insert(parse(name)?);
    }
    for name in change.drop.iter().filter(|name| !is_all(name)) {
        set.remove(&parse(name)?);
    }
    let mut ambient = HashSet::new();
    for name in change.ambient.iter() {
        if is_all(name) {
            ambient.extend(available.iter().copied());
        } else {
            ambient.insert(parse(name)?);
        }
    }
    set.extend(ambient.iter().copied());
    let set: oci_spec::runtime::Capabilities = set.intersection(available).copied().collect();
    let ambient: oci_spec::runtime::Capabilities = ambient.intersection(available).copied().collect();
    let mut told = LinuxCapabilities::default();
    // Inheritable stays empty (CVE-2022-24769) but for what is ambient, which the kernel wants in both.
    told.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    Ok(told)
}

fn parse(name: &str) -> Result<Capability, EngineError> {
    let upper = name.to_ascii_uppercase();
    let upper = upper.strip_prefix("CAP_").unwrap_or(&upper);
    upper.parse().map_err(|_| EngineError::invalid("capabilities", format!("{name:?} is not one")))
}

/// What this process holds, from `/proc/self/status`.
pub(crate) fn held(status: &str) -> HashSet<Capability> {
    let bits = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    NUMBERED.iter().enumerate().filter(|(number, _)| bits >> number & 1 == 1).map(|(_, name)| *name).collect()
}

/// By number, as in linux/capability.h.
const NUMBERED: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];
