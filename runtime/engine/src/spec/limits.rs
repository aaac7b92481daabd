//! Limits, from CRI's units to the specification's.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
};
use runtime_lifecycle::Resources;

use crate::EngineError;

/// Longest list of processors or memory nodes, in bytes: 8192 single ones.
const LIST_BYTES_MAX: usize = 40 * 1024;

/// 0 means not given; -1 none.
pub(crate) fn resources(asked: &Resources) -> Result<LinuxResources, EngineError> {
    let given = |value: i64| Some(value).filter(|value| *value != 0);
    let unsigned = |what: &str, value: i64| match value {
        0 => Ok(None),
        value => match u64::try_from(value) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(EngineError::invalid(what, format!("{value} is negative"))),
        },
    };
    for (what, list) in [("cpuset_cpus", &asked.cpuset_cpus), ("cpuset_mems", &asked.cpuset_mems)] {
        if list.len() > LIST_BYTES_MAX || !list.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-'))
        {
            return Err(EngineError::invalid(what, "is not a list such as 0-3,5"));
        }
    }
    if asked.memory_limit_bytes < -1 || asked.memory_swap_limit_bytes < -1 {
        return Err(EngineError::invalid("memory limit", "is negative"));
    }
    let mut resources = LinuxResources::default();
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(unsigned("cpu_shares", asked.cpu_shares)?)
        .set_quota(given(asked.cpu_quota))
        .set_period(unsigned("cpu_period", asked.cpu_period)?)
        .set_cpus(Some(asked.cpuset_cpus.clone()).filter(|list| !list.is_empty()))
        .set_mems(Some(asked.cpuset_mems.clone()).filter(|list| !list.is_empty()));
    let mut memory = LinuxMemory::default();
    memory.set_limit(given(asked.memory_limit_bytes)).set_swap(given(asked.memory_swap_limit_bytes));
    resources.set_cpu(Some(cpu)).set_memory(Some(memory)).set_devices(None);
    if !asked.hugepage_limits.is_empty() {
        let limits = asked.hugepage_limits.iter().map(|limit| {
            let size = &limit.page_size;
            let digits = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
            let named =
                !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.len() < size.len();
            let bytes = i64::try_from(limit.limit_bytes).ok().filter(|_| named);
            let bytes =
                bytes.ok_or_else(|| EngineError::invalid("hugepage_limits", format!("{limit:?} is not one")))?;
            let mut told = LinuxHugepageLimit::default();
            told.set_page_size(size.clone()).set_limit(bytes);
            Ok(told)
        });
        resources.set_hugepage_limits(Some(limits.collect::<Result<Vec<_>, EngineError>>()?));
    }
    if !asked.unified.is_empty() {
        for (file, value) in &asked.unified {
            let named =
                !file.is_empty() && file.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_'));
            if !named || !file.contains('.') || file.starts_with("cgroup.") || value.contains('\0') {
                return Err(EngineError::invalid(
                    "unified",
                    format!("{file:?} is not a file of a cgroup that may be set"),
                ));
            }
        }
        resources.set_unified(Some(asked.unified.clone().into_iter().collect::<HashMap<_, _>>()));
    }
    Ok(resources)
}

/// The resource limits of every process, which CRI has no words for. They are stated, so that a container's don't hang on how
/// the daemon was started; the figures are those of a service under systemd, which is what containerd's containers get.
/// Few descriptors at first: a program that closes all that it may have would otherwise close half a million. Processes are counted by the cgroup.
pub(super) fn of_processes() -> Vec<PosixRlimit> {
    const NO_LIMIT: u64 = u64::MAX;
    const MIB: u64 = 1024 * 1024;
    let limit = |kind: PosixRlimitType, soft: u64, hard: u64| {
        PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().expect("all three are given")
    };
    vec![
        limit(PosixRlimitType::RlimitNofile, 1024, 524_288),
        limit(PosixRlimitType::RlimitCore, NO_LIMIT, NO_LIMIT),
        limit(PosixRlimitType::RlimitStack, 8 * MIB, NO_LIMIT),
        limit(PosixRlimitType::RlimitMemlock, 8 * MIB, 8 * MIB),
    ]
}
