//! Everything that a group's files say, for metrics. Costs four times [`Cgroup::usage`].

use super::usage::{Keyed, Usage, field, limited};
use super::{Cgroup, Version};
use crate::error::SysResult;

/// Everything that a group's files say. `None`: this kernel or this machine doesn't say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// What lists of statistics tell, too.
    pub usage: Usage,
    /// Processor time in programs, in nanoseconds.
    pub cpu_user_nanos: Option<u64>,
    /// Processor time in the kernel, in nanoseconds.
    pub cpu_system_nanos: Option<u64>,
    /// How often its processor quota held it up.
    pub throttling: Option<Throttling>,
    /// Memory in detail.
    pub memory: MemoryFigures,
    /// Processes that the out-of-memory killer took.
    pub oom_kills: Option<u64>,
    /// Most processes and threads; none without a limit.
    pub tasks_max: Option<u64>,
    /// Traffic with block devices.
    pub devices: Vec<DeviceTraffic>,
    /// Huge pages, one for each size, where the controller is there.
    pub huge_pages: Vec<HugePages>,
    /// The limits as the kernel has them.
    pub limits: Limits,
}

/// How often a processor quota held a group up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttling {
    /// Periods that began with something to run.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// Time that was waited, in nanoseconds.
    pub throttled_nanos: u64,
    /// Periods in which it ran beyond its quota on what it had saved. Linux 5.15.
    pub bursts: Option<u64>,
    /// How long it did so, in nanoseconds. Linux 5.15.
    pub burst_nanos: Option<u64>,
}

/// Memory in detail, in bytes where nothing else is said; groups below are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryFigures {
    /// Page cache.
    pub cache: u64,
    /// Files mapped into processes.
    pub mapped_file: u64,
    /// Anonymous memory in use lately.
    pub active_anonymous: u64,
    /// And not.
    pub inactive_anonymous: u64,
    /// Page cache in use lately.
    pub active_file: u64,
    /// And not.
    pub inactive_file: u64,
    /// The kernel's own.
    pub kernel: Option<u64>,
    /// The most that was ever in use.
    pub max_usage: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: Option<u64>,
    /// Page faults of the group alone, without those below; version 1 tells them apart.
    pub own_page_faults: u64,
    /// Those that needed the disk.
    pub own_major_page_faults: u64,
}

/// Traffic with one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceTraffic {
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// What the kernel's cost model says, where it is on; version 2 alone.
    pub cost: DeviceCost,
}

/// Shares of a block device by the kernel's cost model (iocost), in microseconds of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceCost {
    /// Used.
    pub usage_micros: Option<u64>,
    /// Waited for.
    pub wait_micros: Option<u64>,
    /// In debt, having run ahead of its share.
    pub indebt_micros: Option<u64>,
    /// Delayed for its debts.
    pub indelay_micros: Option<u64>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HugePages {
    /// As in the file's name: `2MB`.
    pub size: String,
    /// In use, in bytes.
    pub used_bytes: u64,
    /// The most that was ever in use, in bytes; version 1 alone.
    pub max_used_bytes: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: Option<u64>,
}

/// The limits as the kernel has them; 0 where there is none, as monitoring has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Relative weight, in version 1's unit.
    pub cpu_shares: u64,
    /// Length of a period, in microseconds.
    pub cpu_period_micros: u64,
    /// Processor time in a period, in microseconds.
    pub cpu_quota_micros: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Memory and swap together on version 1, swap on version 2, in bytes.
    pub memory_swap_bytes: u64,
    /// What is left to it when memory is short, in bytes.
    pub memory_reservation_bytes: u64,
}

impl Cgroup {
    /// Reads everything. What isn't there is left out.
    pub fn figures(&self) -> SysResult<Figures> {
        let stat = self.memory_stat();
        let usage = self.usage_of(&stat);
        let stat = Keyed::new(&stat);
        Ok(match self.version() {
            Version::V1 => self.figures_v1(usage, &stat),
            Version::V2 => self.figures_v2(usage, &stat),
        })
    }

    fn figures_v1(&self, usage: Usage, stat: &Keyed<'_>) -> Figures {
        let cpu = self.read("cpu", c"cpu.stat").ok();
        let events = self.read("memory", c"memory.oom_control").unwrap_or_default();
        let limit = |file| self.number("memory", file).and_then(limited).unwrap_or(0);
        let bytes = self.read("blkio", c"blkio.throttle.io_service_bytes_recursive").unwrap_or_default();
        let counts = self.read("blkio", c"blkio.throttle.io_serviced_recursive").unwrap_or_default();
        Figures {
            usage,
            cpu_user_nanos: self.number("cpuacct", c"cpuacct.usage_user"),
            cpu_system_nanos: self.number("cpuacct", c"cpuacct.usage_sys"),
            throttling: cpu.as_deref().and_then(|text| throttling(text, Times::NANOS)),
            memory: MemoryFigures {
                cache: stat.or_zero("total_cache"),
                mapped_file: stat.or_zero("total_mapped_file"),
                active_anonymous: stat.or_zero("total_active_anon"),
                inactive_anonymous: stat.or_zero("total_inactive_anon"),
                active_file: stat.or_zero("total_active_file"),
                inactive_file: stat.or_zero("total_inactive_file"),
                kernel: self.number("memory", c"memory.kmem.usage_in_bytes"),
                max_usage: self.number("memory", c"memory.max_usage_in_bytes"),
                limit_hits: self.number("memory", c"memory.failcnt"),
                own_page_faults: stat.or_zero("pgfault"),
                own_major_page_faults: stat.or_zero("pgmajfault"),
            },
            oom_kills: field(&events, "oom_kill"),
            tasks_max: self.number("pids", c"pids.max"),
            devices: devices_v1(&bytes, &counts),
            huge_pages: self.huge_pages(),
            limits: Limits {
                cpu_shares: self.number("cpu", c"cpu.shares").unwrap_or(0),
                cpu_period_micros: self.number("cpu", c"cpu.cfs_period_us").unwrap_or(0),
                cpu_quota_micros: self.number("cpu", c"cpu.cfs_quota_us").unwrap_or(0),
                memory_bytes: limit(c"memory.limit_in_bytes"),
                memory_swap_bytes: limit(c"memory.memsw.limit_in_bytes"),
                memory_reservation_bytes: limit(c"memory.soft_limit_in_bytes"),
            },
        }
    }

    fn figures_v2(&self, usage: Usage, stat: &Keyed<'_>) -> Figures {
        let cpu = self.read("cpu", c"cpu.stat").ok();
        let micros = |key| cpu.as_deref().and_then(|text| field(text, key)).map(|micros| micros.saturating_mul(1000));
        let events = self.read("memory", c"memory.events").unwrap_or_default();
        let limit = |file| self.number("memory", file).and_then(limited).unwrap_or(0);
        let (quota, period) = quota_v2(&self.read("cpu", c"cpu.max").unwrap_or_default());
        Figures {
            cpu_user_nanos: micros("user_usec"),
            cpu_system_nanos: micros("system_usec"),
            throttling: cpu.as_deref().and_then(|text| throttling(text, Times::MICROS)),
            memory: MemoryFigures {
                cache: stat.or_zero("file"),
                mapped_file: stat.or_zero("file_mapped"),
                active_anonymous: stat.or_zero("active_anon"),
                inactive_anonymous: stat.or_zero("inactive_anon"),
                active_file: stat.or_zero("active_file"),
                inactive_file: stat.or_zero("inactive_file"),
                kernel: stat.get("kernel"),
                max_usage: self.number("memory", c"memory.peak"),
                limit_hits: field(&events, "max"),
                // Version 2 counts the groups below in, always.
                own_page_faults: usage.page_faults,
                own_major_page_faults: usage.major_page_faults,
            },
            oom_kills: field(&events, "oom_kill"),
            tasks_max: self.number("pids", c"pids.max"),
            devices: devices_v2(&self.read("io", c"io.stat").unwrap_or_default()),
            huge_pages: self.huge_pages(),
            limits: Limits {
                cpu_shares: self.number("cpu", c"cpu.weight").map_or(0, shares_of_weight),
                cpu_period_micros: period,
                cpu_quota_micros: quota,
                memory_bytes: limit(c"memory.max"),
                memory_swap_bytes: limit(c"memory.swap.max"),
                memory_reservation_bytes: limit(c"memory.low"),
            },
            usage,
        }
    }

    fn huge_pages(&self) -> Vec<HugePages> {
        let name = |size: &str, file: &str| std::ffi::CString::new(format!("hugetlb.{size}.{file}")).ok();
        let number = |size: &str, file: &str| self.number("hugetlb", &name(size, file)?);
        let one = |size: String| {
            Some(match self.version() {
                Version::V1 => HugePages {
                    used_bytes: number(&size, "usage_in_bytes")?,
                    max_used_bytes: number(&size, "max_usage_in_bytes"),
                    limit_hits: number(&size, "failcnt"),
                    size,
                },
                Version::V2 => HugePages {
                    used_bytes: number(&size, "current")?,
                    max_used_bytes: None,
                    limit_hits: name(&size, "events").and_then(|file| field(&self.read("hugetlb", &file).ok()?, "max")),
                    size,
                },
            })
        };
        huge_page_sizes().into_iter().filter_map(one).collect()
    }
}

/// The sizes of huge pages that this machine has, as cgroups name them: `2MB`, `1GB`.
pub fn huge_page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let size = |name: String| {
        let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(match kilobytes {
            kilobytes if kilobytes >= 1 << 20 => format!("{}GB", kilobytes >> 20),
            kilobytes if kilobytes >= 1 << 10 => format!("{}MB", kilobytes >> 10),
            kilobytes => format!("{kilobytes}KB"),
        })
    };
    entries.flatten().filter_map(|entry| size(entry.file_name().to_string_lossy().into_owned())).collect()
}

/// What `cpu.stat` calls its times, and their unit.
struct Times {
    throttled: &'static str,
    burst: &'static str,
    nanos: u64,
}

impl Times {
    /// Version 1.
    const NANOS: Self = Self { throttled: "throttled_time", burst: "burst_time", nanos: 1 };
    /// Version 2.
    const MICROS: Self = Self { throttled: "throttled_usec", burst: "burst_usec", nanos: 1000 };
}

fn throttling(text: &str, times: Times) -> Option<Throttling> {
    let time = |key| field(text, key).map(|time: u64| time.saturating_mul(times.nanos));
    Some(Throttling {
        periods: field(text, "nr_periods")?,
        throttled_periods: field(text, "nr_throttled")?,
        throttled_nanos: time(times.throttled)?,
        bursts: field(text, "nr_bursts"),
        burst_nanos: time(times.burst),
    })
}

/// `max 100000` or `50000 100000`.
fn quota_v2(text: &str) -> (u64, u64) {
    let mut words = text.split_ascii_whitespace();
    let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    (number(), number())
}

/// 1..10000 onto 2..262144: the kubelet's way back.
fn shares_of_weight(weight: u64) -> u64 {
    2 + weight.clamp(1, 10_000).saturating_sub(1) * 262_142 / 9_999
}

fn numbers(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn device(list: &mut Vec<DeviceTraffic>, (major, minor): (u32, u32)) -> &mut DeviceTraffic {
    let at = list.iter().position(|device| (device.major, device.minor) == (major, minor)).unwrap_or_else(|| {
        list.push(DeviceTraffic { major, minor, ..DeviceTraffic::default() });
        list.len() - 1
    });
    &mut list[at]
}

/// `253:0 Read 4096` lines; the line that sums up has two words.
fn devices_v1(bytes: &str, counts: &str) -> Vec<DeviceTraffic> {
    let mut list = Vec::new();
    let mut each = |text: &str, put: fn(&mut DeviceTraffic, &str, u64)| {
        for line in text.lines() {
            if let [name, what, value] = line.split_ascii_whitespace().collect::<Vec<_>>()[..]
                && let (Some(numbers), Ok(value)) = (numbers(name), value.parse())
            {
                put(device(&mut list, numbers), what, value);
            }
        }
    };
    each(bytes, |device, what, value| match what {
        "Read" => device.read_bytes = value,
        "Write" => device.written_bytes = value,
        _ => {}
    });
    each(counts, |device, what, value| match what {
        "Read" => device.reads = value,
        "Write" => device.writes = value,
        _ => {}
    });
    list
}

/// `253:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0 cost.usage=7` lines.
fn devices_v2(text: &str) -> Vec<DeviceTraffic> {
    let mut list = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(numbers) = words.next().and_then(numbers) else { continue };
        let device = device(&mut list, numbers);
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.written_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                "cost.usage" => device.cost.usage_micros = Some(value),
                "cost.wait" => device.cost.wait_micros = Some(value),
                "cost.indebt" => device.cost.indebt_micros = Some(value),
                "cost.indelay" => device.cost.indelay_micros = Some(value),
                _ => {}
            }
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_lines_of_both_versions_say_the_same() {
        let bytes = "253:0 Read 4096\n253:0 Write 8192\n253:0 Sync 1\n253:0 Total 12288\nTotal 12288\n";
        let counts = "253:0 Read 1\n253:0 Write 2\n253:0 Total 3\nTotal 3\n";
        let cost = DeviceCost::default();
        let expected =
            DeviceTraffic { major: 253, minor: 0, read_bytes: 4096, written_bytes: 8192, reads: 1, writes: 2, cost };
        assert_eq!(devices_v1(bytes, counts), [expected]);
        assert_eq!(devices_v2("253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\nx y=1\n"), [expected]);
        assert!(devices_v1("Total 0\n", "").is_empty());
        let text = "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 cost.vrate=100.00 cost.usage=5 cost.wait=6 cost.indebt=0\n";
        let cost = devices_v2(text)[0].cost;
        assert_eq!(cost, DeviceCost { usage_micros: Some(5), wait_micros: Some(6), indebt_micros: Some(0), ..cost });
        assert_eq!(cost.indelay_micros, None);
    }

    #[test]
    fn quotas_and_weights_of_version_2() {
        assert_eq!(quota_v2("max 100000\n"), (0, 100_000));
        assert_eq!(quota_v2("50000 100000\n"), (50_000, 100_000));
        for (weight, shares) in [(1, 2), (39, 998), (10_000, 262_144), (0, 2), (u64::MAX, 262_144)] {
            assert_eq!(shares_of_weight(weight), shares, "{weight}");
        }
    }

    #[test]
    fn throttling_in_either_unit() {
        let (bursts, burst_nanos) = (Some(3), Some(4_000));
        let expected = Throttling { periods: 5, throttled_periods: 2, throttled_nanos: 7_000, bursts, burst_nanos };
        let v1 = "nr_periods 5\nnr_throttled 2\nthrottled_time 7000\nnr_bursts 3\nburst_time 4000\n";
        assert_eq!(throttling(v1, Times::NANOS), Some(expected));
        let v2 = "usage_usec 1\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\nnr_bursts 3\nburst_usec 4\n";
        assert_eq!(throttling(v2, Times::MICROS), Some(expected));
        // Before 5.15.
        let old = throttling("nr_periods 5\nnr_throttled 2\nthrottled_time 7000\n", Times::NANOS);
        assert_eq!(old, Some(Throttling { bursts: None, burst_nanos: None, ..expected }));
    }
}
