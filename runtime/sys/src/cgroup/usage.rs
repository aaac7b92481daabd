//! What a group has used.

use super::{Cgroup, Version};
use crate::error::SysResult;

/// What a group has used, as the kubelet's summary asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time since it was made, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory in use, page cache included, in bytes.
    pub memory_bytes: u64,
    /// The same less the page cache that wasn't touched lately, in bytes: what the kubelet compares with limits.
    pub working_set_bytes: u64,
    /// Anonymous memory in bytes.
    pub anonymous_bytes: u64,
    /// Page faults since it was made.
    pub page_faults: u64,
    /// Those that needed the disk.
    pub major_page_faults: u64,
    /// Processes and threads in it and below.
    pub tasks: u64,
}

impl Cgroup {
    /// Reads it. A controller that isn't there counts as nothing used.
    pub fn usage(&self) -> SysResult<Usage> {
        let number =
            |controller: &str, file| self.read(controller, file).ok().and_then(|text| text.trim().parse().ok());
        let stat = self.read("memory", c"memory.stat").unwrap_or_default();
        let of = |key: &str| field(&stat, key).unwrap_or(0);
        let v1 = self.version() == Version::V1;
        let memory_bytes = number("memory", if v1 { c"memory.usage_in_bytes" } else { c"memory.current" }).unwrap_or(0);
        let inactive = of(if v1 { "total_inactive_file" } else { "inactive_file" });
        let cpu_nanos = if v1 {
            number("cpuacct", c"cpuacct.usage").unwrap_or(0)
        } else {
            field(&self.read("cpu", c"cpu.stat").unwrap_or_default(), "usage_usec").unwrap_or(0).saturating_mul(1000)
        };
        Ok(Usage {
            cpu_nanos,
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(inactive),
            anonymous_bytes: of(if v1 { "total_rss" } else { "anon" }),
            page_faults: of(if v1 { "total_pgfault" } else { "pgfault" }),
            major_page_faults: of(if v1 { "total_pgmajfault" } else { "pgmajfault" }),
            tasks: number("pids", c"pids.current").unwrap_or(0),
        })
    }
}

/// The number behind a key, in a file of "key number" lines.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
