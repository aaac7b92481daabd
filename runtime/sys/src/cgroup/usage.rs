//! What a group has used: the few files that a list of statistics reads for each container.

use std::ffi::CStr;

use super::{Cgroup, Version};
use crate::error::SysResult;

/// What a group has used, as the kubelet's summary asks for it. `None`: this kernel or this machine doesn't say.
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
    /// The limit of memory, in bytes; none without one. On version 1 the smallest of it and of those above it.
    pub memory_limit_bytes: Option<u64>,
    /// Page faults since it was made.
    pub page_faults: u64,
    /// Those that needed the disk.
    pub major_page_faults: u64,
    /// Processes and threads in it and below.
    pub tasks: u64,
    /// Memory on the swap device. Nothing where the kernel doesn't count it.
    pub swap: Option<Swap>,
    /// How long it waited. Version 2 alone.
    pub pressure: Pressure,
}

/// Memory on the swap device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swap {
    /// In use, in bytes.
    pub used_bytes: u64,
    /// Its limit, in bytes; none without one.
    pub limit_bytes: Option<u64>,
}

/// How long tasks of a group waited for what. `None`: the kernel has no such file (version 1, or pressure turned off).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// For a processor.
    pub cpu: Option<Stall>,
    /// For memory.
    pub memory: Option<Stall>,
    /// For a disk.
    pub io: Option<Stall>,
}

/// One `*.pressure` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stall {
    /// At least one task waited.
    pub some: StallTime,
    /// All tasks waited.
    pub full: StallTime,
}

/// One line of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StallTime {
    /// In all, in microseconds.
    pub total_micros: u64,
    /// Share of the last 10 s, in hundredths of a percent.
    pub avg10: u32,
    /// Of the last 60 s.
    pub avg60: u32,
    /// Of the last 300 s.
    pub avg300: u32,
}

/// Above this a limit is none: the kernel rounds "no limit" down to whole pages.
const UNLIMITED_FROM: u64 = 1 << 62;

/// The controllers of version 1 whose files [`Cgroup::usage`] reads.
pub const USAGE_CONTROLLERS: [&str; 3] = ["cpuacct", "memory", "pids"];

impl Cgroup {
    /// Reads it. A controller that isn't there counts as nothing used.
    pub fn usage(&self) -> SysResult<Usage> {
        Ok(self.usage_of(&self.memory_stat()))
    }

    pub(super) fn memory_stat(&self) -> String {
        self.read("memory", c"memory.stat").unwrap_or_default()
    }

    pub(super) fn number(&self, controller: &str, file: &CStr) -> Option<u64> {
        self.read(controller, file).ok().and_then(|text| text.trim().parse().ok())
    }

    /// With `memory.stat` as read.
    pub(super) fn usage_of(&self, stat: &str) -> Usage {
        let stat = Keyed::new(stat);
        let tasks = self.number("pids", c"pids.current").unwrap_or(0);
        match self.version() {
            Version::V1 => {
                let memory_bytes = self.number("memory", c"memory.usage_in_bytes").unwrap_or(0);
                let limit = stat.get("hierarchical_memory_limit").and_then(limited);
                let both = stat.get("hierarchical_memsw_limit").and_then(limited);
                Usage {
                    cpu_nanos: self.number("cpuacct", c"cpuacct.usage").unwrap_or(0),
                    memory_bytes,
                    working_set_bytes: memory_bytes.saturating_sub(stat.or_zero("total_inactive_file")),
                    anonymous_bytes: stat.or_zero("total_rss"),
                    memory_limit_bytes: limit,
                    page_faults: stat.or_zero("total_pgfault"),
                    major_page_faults: stat.or_zero("total_pgmajfault"),
                    tasks,
                    swap: stat.get("total_swap").map(|used_bytes| Swap {
                        used_bytes,
                        // The kernel limits memory and swap together.
                        limit_bytes: both.zip(limit).map(|(both, memory)| both.saturating_sub(memory)),
                    }),
                    pressure: Pressure::default(),
                }
            }
            Version::V2 => {
                let memory_bytes = self.number("memory", c"memory.current").unwrap_or(0);
                let cpu = self.read("cpu", c"cpu.stat").unwrap_or_default();
                Usage {
                    cpu_nanos: field(&cpu, "usage_usec").unwrap_or(0).saturating_mul(1000),
                    memory_bytes,
                    working_set_bytes: memory_bytes.saturating_sub(stat.or_zero("inactive_file")),
                    anonymous_bytes: stat.or_zero("anon"),
                    memory_limit_bytes: self.number("memory", c"memory.max").and_then(limited),
                    page_faults: stat.or_zero("pgfault"),
                    major_page_faults: stat.or_zero("pgmajfault"),
                    tasks,
                    swap: self.number("memory", c"memory.swap.current").map(|used_bytes| Swap {
                        used_bytes,
                        limit_bytes: self.number("memory", c"memory.swap.max").and_then(limited),
                    }),
                    pressure: Pressure {
                        cpu: self.stall(c"cpu.pressure"),
                        memory: self.stall(c"memory.pressure"),
                        io: self.stall(c"io.pressure"),
                    },
                }
            }
        }
    }

    fn stall(&self, file: &CStr) -> Option<Stall> {
        parse_stall(&self.read("", file).ok()?)
    }
}

pub(super) fn limited(bytes: u64) -> Option<u64> {
    (bytes < UNLIMITED_FROM).then_some(bytes)
}

/// A file of "key number" lines.
pub(super) struct Keyed<'a>(&'a str);

impl<'a> Keyed<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(text)
    }

    pub(super) fn get(&self, key: &str) -> Option<u64> {
        field(self.0, key)
    }

    pub(super) fn or_zero(&self, key: &str) -> u64 {
        self.get(key).unwrap_or(0)
    }
}

/// The number behind a key, in a file of "key number" lines.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same for `full`, which older kernels leave out for processors.
pub(super) fn parse_stall(text: &str) -> Option<Stall> {
    let line = |word: &str| text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    let time = |line: &str| -> Option<StallTime> {
        let value =
            |key: &str| line.split_ascii_whitespace().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        Some(StallTime {
            total_micros: value("total")?.parse().ok()?,
            avg10: hundredths(value("avg10")?)?,
            avg60: hundredths(value("avg60")?)?,
            avg300: hundredths(value("avg300")?)?,
        })
    };
    Some(Stall { some: time(line("some")?)?, full: line("full").and_then(time).unwrap_or_default() })
}

/// The kernel writes two digits behind the point.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    (part.len() == 2).then_some(())?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)
}
