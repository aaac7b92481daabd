//! `linux.resources` as a list of writes to control files. Pure.

use std::ffi::CString;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources,
};
use runtime_sys::cgroup::Version;
use runtime_sys::device_filter::{Access, DeviceKind, DeviceRule, Verdict};

use crate::OciError;

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    /// The controller whose directory the file is in (version 1).
    pub(crate) controller: &'static str,
    /// The file.
    pub(crate) file: CString,
    /// What is written.
    pub(crate) value: String,
    /// What happens on a kernel without the file.
    pub(crate) missing: Missing,
}

/// What happens on a kernel without a control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is an error.
    Error,
    /// A warning: the kernel was built without it (swap accounting), and the pod runs all the same.
    Warning,
    /// Nothing: a kubelet forbids huge pages of every size that it knows, and none can be had without the file.
    Nothing,
}

/// Most entries of `linux.resources.unified`.
const UNIFIED_MAX: usize = 256;

/// Every write that `resources` asks for, in an order that the kernel takes.
pub(crate) fn writes(resources: &LinuxResources, version: Version) -> Result<Vec<Write>, OciError> {
    let mut list = List { version, writes: Vec::new() };
    if let Some(memory) = resources.memory() {
        list.memory(memory);
    }
    if let Some(cpu) = resources.cpu() {
        list.cpu(cpu)?;
    }
    if let Some(pids) = resources.pids()
        && pids.limit() != 0
    {
        let value = if pids.limit() < 0 { "max".to_owned() } else { pids.limit().to_string() };
        list.both("pids", "pids.max", "pids.max", value);
    }
    if let Some(io) = resources.block_io() {
        list.block_io(io);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(OciError::invalid(format!("linux.resources.hugepageLimits: page size {size:?}")));
        }
        let (v1, v2) = (format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.max"));
        list.both("hugetlb", &v1, &v2, limit.limit().to_string());
        if limit.limit() == 0
            && let Some(last) = list.writes.last_mut()
        {
            last.missing = Missing::Nothing;
        }
    }
    if let Some(unified) = resources.unified().as_ref().filter(|unified| !unified.is_empty()) {
        // Left out without a word, whoever asked for them would believe that they hold.
        if version == Version::V1 {
            return Err(OciError::invalid(
                "linux.resources.unified: this machine has cgroup v1, which lacks such files",
            ));
        }
        if unified.len() > UNIFIED_MAX {
            return Err(OciError::invalid(format!("linux.resources.unified: more than {UNIFIED_MAX} entries")));
        }
        for (key, value) in unified {
            let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            // cgroup.procs and its kind move processes and turn controllers on; they are no limits.
            if !plain || key.starts_with('.') || key.starts_with("cgroup.") {
                return Err(OciError::invalid(format!("linux.resources.unified: {key:?} is no limit")));
            }
            list.push("", key, value.clone());
        }
    }
    Ok(list.writes)
}

struct List {
    version: Version,
    writes: Vec<Write>,
}

impl List {
    fn push(&mut self, controller: &'static str, file: &str, value: String) {
        let file = CString::new(file).expect("file names are checked or constant");
        self.writes.push(Write { controller, file, value, missing: Missing::Error });
    }

    fn both(&mut self, controller: &'static str, v1: &str, v2: &str, value: String) {
        let file = if self.version == Version::V1 { v1 } else { v2 };
        self.push(controller, file, value);
    }

    fn may_be_missing(&mut self) {
        if let Some(last) = self.writes.last_mut() {
            last.missing = Missing::Warning;
        }
    }

    fn memory(&mut self, memory: &LinuxMemory) {
        let v2 = |bytes: i64| if bytes < 0 { "max".to_owned() } else { bytes.to_string() };
        let limit = memory.limit().filter(|limit| *limit != 0);
        let swap = memory.swap().filter(|swap| *swap != 0);
        match self.version {
            Version::V1 => {
                if let Some(limit) = limit {
                    self.push("memory", "memory.limit_in_bytes", limit.to_string());
                }
                // Memory and swap together; never below the memory limit, hence after it.
                if let Some(swap) = swap {
                    self.push("memory", "memory.memsw.limit_in_bytes", swap.to_string());
                    self.may_be_missing();
                }
                if let Some(soft) = memory.reservation() {
                    self.push("memory", "memory.soft_limit_in_bytes", soft.to_string());
                }
                if let Some(swappiness) = memory.swappiness() {
                    self.push("memory", "memory.swappiness", swappiness.to_string());
                }
                if memory.disable_oom_killer() == Some(true) {
                    self.push("memory", "memory.oom_control", "1".to_owned());
                }
            }
            Version::V2 => {
                if let Some(limit) = limit {
                    self.push("memory", "memory.max", v2(limit));
                }
                // Version 2 counts swap alone.
                match (swap, limit) {
                    (Some(swap), _) if swap < 0 => self.push("memory", "memory.swap.max", "max".to_owned()),
                    (Some(swap), Some(limit)) if limit > 0 => {
                        self.push("memory", "memory.swap.max", swap.saturating_sub(limit).max(0).to_string());
                    }
                    _ => {}
                }
                if swap.is_some() {
                    self.may_be_missing();
                }
                if let Some(soft) = memory.reservation() {
                    self.push("memory", "memory.low", v2(soft));
                }
            }
        }
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), OciError> {
        /// The kernel's default period in microseconds.
        const PERIOD_DEFAULT: u64 = 100_000;
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            match self.version {
                Version::V1 => self.push("cpu", "cpu.shares", shares.to_string()),
                Version::V2 => self.push("cpu", "cpu.weight", weight_of_shares(shares).to_string()),
            }
        }
        let period = cpu.period().filter(|period| *period != 0);
        let quota = cpu.quota().filter(|quota| *quota != 0);
        match self.version {
            Version::V1 => {
                if let Some(period) = period {
                    self.push("cpu", "cpu.cfs_period_us", period.to_string());
                }
                if let Some(quota) = quota {
                    self.push("cpu", "cpu.cfs_quota_us", quota.to_string());
                }
            }
            Version::V2 if period.is_some() || quota.is_some() => {
                let quota =
                    quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                self.push("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(PERIOD_DEFAULT)));
            }
            Version::V2 => {}
        }
        for (file, set) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(set) = set.as_ref().filter(|set| !set.is_empty()) {
                if !set.bytes().all(|byte| byte.is_ascii_digit() || b",-".contains(&byte)) {
                    return Err(OciError::invalid(format!(
                        "linux.resources.cpu: {file} {set:?} is no list of numbers"
                    )));
                }
                self.push("cpuset", file, set.clone());
            }
        }
        Ok(())
    }

    fn block_io(&mut self, io: &LinuxBlockIo) {
        if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
            self.both("blkio", "blkio.weight", "io.weight", weight.to_string());
            self.may_be_missing();
        }
        let throttles = [
            (io.throttle_read_bps_device(), "blkio.throttle.read_bps_device", "rbps"),
            (io.throttle_write_bps_device(), "blkio.throttle.write_bps_device", "wbps"),
            (io.throttle_read_iops_device(), "blkio.throttle.read_iops_device", "riops"),
            (io.throttle_write_iops_device(), "blkio.throttle.write_iops_device", "wiops"),
        ];
        for (devices, file, key) in throttles {
            for device in devices.iter().flatten() {
                let number = format!("{}:{}", device.major(), device.minor());
                match self.version {
                    Version::V1 => self.push("blkio", file, format!("{number} {}", device.rate())),
                    Version::V2 => self.push("blkio", "io.max", format!("{number} {key}={}", device.rate())),
                }
            }
        }
    }
}

/// 2..262144 onto 1..10000, as the kubelet does it for the pod's own group.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// What every container may use: making any node, the six nodes of `/dev`, terminals.
const ALWAYS: [(DeviceKind, Option<u32>, Option<u32>, &str); 10] = [
    (DeviceKind::Character, None, None, "m"),
    (DeviceKind::Block, None, None, "m"),
    (DeviceKind::Character, Some(1), Some(3), "rwm"),
    (DeviceKind::Character, Some(1), Some(5), "rwm"),
    (DeviceKind::Character, Some(1), Some(7), "rwm"),
    (DeviceKind::Character, Some(1), Some(8), "rwm"),
    (DeviceKind::Character, Some(1), Some(9), "rwm"),
    (DeviceKind::Character, Some(5), Some(0), "rwm"),
    (DeviceKind::Character, Some(5), Some(2), "rwm"),
    (DeviceKind::Character, Some(136), None, "rwm"),
];

/// The device rules: nothing, then what the specification says, then what every container has. Without any rule in the
/// specification, the devices that it lists are allowed.
pub(crate) fn device_rules(
    rules: Option<&[LinuxDeviceCgroup]>,
    devices: &[LinuxDevice],
) -> Result<Vec<DeviceRule>, OciError> {
    let all = DeviceRule { verdict: Verdict::Deny, kind: None, major: None, minor: None, access: Access::ALL };
    let mut list = vec![all];
    for rule in rules.unwrap_or_default() {
        let rule = device_rule(rule)?;
        if rule.kind.is_none() && (rule.major.is_some() || rule.minor.is_some() || rule.access != Access::ALL) {
            // Version 1 takes "a" for "everything", whatever numbers follow it.
            list.extend([DeviceKind::Character, DeviceKind::Block].map(|kind| DeviceRule { kind: Some(kind), ..rule }));
        } else {
            list.push(rule);
        }
    }
    if rules.is_none_or(<[LinuxDeviceCgroup]>::is_empty) {
        for device in devices {
            let kind = match device.typ() {
                LinuxDeviceType::B => DeviceKind::Block,
                LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Character,
                LinuxDeviceType::P | LinuxDeviceType::A => continue,
            };
            let (major, minor) = (number(Some(device.major()))?, number(Some(device.minor()))?);
            list.push(DeviceRule { verdict: Verdict::Allow, kind: Some(kind), major, minor, access: Access::ALL });
        }
    }
    for (kind, major, minor, access) in ALWAYS {
        let access = Access::parse(access).expect("letters of the table");
        list.push(DeviceRule { verdict: Verdict::Allow, kind: Some(kind), major, minor, access });
    }
    Ok(list)
}

fn device_rule(rule: &LinuxDeviceCgroup) -> Result<DeviceRule, OciError> {
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(DeviceKind::Block),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(DeviceKind::Character),
        LinuxDeviceType::P => return Err(OciError::invalid("linux.resources.devices: a pipe is no device")),
    };
    let letters = rule.access().as_deref().filter(|letters| !letters.is_empty()).unwrap_or("rwm");
    let access = Access::parse(letters).ok_or_else(|| {
        OciError::invalid(format!("linux.resources.devices: access {letters:?} is not of r, w and m"))
    })?;
    let verdict = if rule.allow() { Verdict::Allow } else { Verdict::Deny };
    Ok(DeviceRule { verdict, kind, major: number(rule.major())?, minor: number(rule.minor())?, access })
}

/// -1 and none are "all".
pub(crate) fn number(number: Option<i64>) -> Result<Option<u32>, OciError> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| OciError::invalid(format!("device number {number} is out of range"))),
    }
}

/// The rule as version 1's files take it, and the file.
pub(crate) fn device_line(rule: &DeviceRule, letters: &mut String) -> &'static std::ffi::CStr {
    letters.clear();
    let star = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    let kind = match rule.kind {
        // "a" means everything, whatever follows it.
        None if rule.major.is_none() && rule.minor.is_none() && rule.access == Access::ALL => "a",
        None | Some(DeviceKind::Character) => "c",
        Some(DeviceKind::Block) => "b",
    };
    letters.push_str(kind);
    if kind != "a" {
        letters.push_str(&format!(" {}:{} {}", star(rule.major), star(rule.minor), rule.access));
    }
    if rule.verdict == Verdict::Allow { c"devices.allow" } else { c"devices.deny" }
}

#[cfg(test)]
mod tests;
