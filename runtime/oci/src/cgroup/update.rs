//! Limits of a group that stands, changed: all or nothing.

use std::io::ErrorKind as IoKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::LinuxResources;
use runtime_sys::cgroup::{Cgroup, Version};
use runtime_sys::process::{self, Child, Namespaces};
use runtime_sys::{SysError, socket, sync};

use super::limits::{self, Missing, Write};
use super::{ContainerCgroup, EINVAL, ENOENT};
use crate::OciError;
use crate::error::During;
use crate::launch::{Process, abandon, settle};

const EBUSY: i32 = 16;

/// Longest message of the child, in bytes.
const MESSAGE_BYTES_MAX: usize = 2048;

/// What is to be changed.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// New limits; what isn't named stays.
    pub resources: &'a LinuxResources,
    /// For every process in the group.
    pub oom_score_adj: Option<i32>,
}

/// A change that a one-shot child makes: to shrink a group the kernel reclaims memory, which may take as long as its disk.
#[derive(Debug)]
pub struct Update {
    child: Option<Child>,
    sync: OwnedFd,
}

/// What the child tells: the first byte of its message.
const DONE: u8 = b'D';
const INVALID: u8 = b'I';
const IN_USE: u8 = b'U';
const KERNEL: u8 = b'K';

impl ContainerCgroup {
    /// Starts a change of limits. The caller polls [`Update::descriptor`].
    ///
    /// # Errors
    /// The change can't be made by any kernel, or the clone failed; nothing is changed.
    pub fn update(&self, change: Change<'_>) -> Result<Update, OciError> {
        let writes = limits::writes(change.resources, self.group.version())?;
        if let Some(score) = change.oom_score_adj
            && !(-1000..=1000).contains(&score)
        {
            return Err(OciError::invalid(format!("oom_score_adj: {score} is not between -1000 and 1000")));
        }
        let (ours, theirs) = sync::pair().during(|| "make a socket".to_owned())?;
        let child = process::clone3(Namespaces::NONE, None, || {
            let told = message(apply(&self.group, &writes, change.oom_score_adj));
            i32::from(sync::send(theirs.as_fd(), &told).is_err())
        });
        let child = child.during(|| "make a process".to_owned())?;
        Ok(Update { child: Some(child), sync: ours })
    }
}

fn message(outcome: Result<(), OciError>) -> Vec<u8> {
    let (kind, text) = match outcome {
        Ok(()) => (DONE, String::new()),
        Err(OciError::Invalid { what }) => (INVALID, what),
        Err(OciError::InUse { what }) => (IN_USE, what),
        Err(error) => (KERNEL, error.to_string()),
    };
    let mut told = vec![kind];
    told.extend(text.bytes().take(MESSAGE_BYTES_MAX - 1));
    told
}

impl Update {
    /// Readable when [`Self::advance`] has news.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }

    /// `None`: not yet. Never blocks.
    pub fn advance(&mut self) -> Option<Result<(), OciError>> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let answer = match socket::recv(self.sync.as_fd(), &mut buffer) {
            Err(error) if error.kind() == IoKind::WouldBlock => return None,
            Ok((count, _)) => match buffer.get(..count).unwrap_or_default() {
                [DONE, ..] => Ok(()),
                [kind, text @ ..] => {
                    let what = String::from_utf8_lossy(text).into_owned();
                    Err(match *kind {
                        INVALID => OciError::Invalid { what },
                        IN_USE => OciError::InUse { what },
                        _ => OciError::Reported { what },
                    })
                }
                [] => Err(OciError::Reported { what: "the process that changes limits was killed".to_owned() }),
            },
            Err(error) => {
                let source = SysError::from_io("recvmsg()", &error);
                Err(OciError::Kernel { step: "hear of the change of limits".to_owned(), source })
            }
        };
        if let Some(child) = self.child.take() {
            settle(&child);
        }
        Some(answer)
    }

    /// Kills and reaps, as [`crate::Launching::abandon`]. What was changed stays so.
    pub fn abandon(mut self) -> Option<Process> {
        abandon(self.child.take()?)
    }
}

impl Drop for Update {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            drop(abandon(child));
        }
    }
}

/// One thing that was changed, and what it was before.
enum Former<'a> {
    File { write: &'a Write, value: String },
    Score { pid: i32, value: String },
}

/// Makes every write in an order that the kernel takes. When one fails, what was written is written back, newest first.
fn apply(group: &Cgroup, writes: &[Write], oom_score_adj: Option<i32>) -> Result<(), OciError> {
    let mut done = Vec::new();
    let outcome = ordered(group, writes)
        .and_then(|writes| write_all(group, &writes, &mut done))
        .and_then(|()| set_scores(group, oom_score_adj, &mut done));
    let Err(error) = outcome else { return Ok(()) };
    let mut left = Vec::new();
    for former in done.iter().rev() {
        let undone = match former {
            Former::File { write, value } => {
                // Some files have a line for each device, and take one at a time.
                value.lines().try_for_each(|line| group.write(write.controller, &write.file, line.as_bytes()))
            }
            Former::Score { pid, value } => write_score(*pid, value),
        };
        if let Err(error) = undone {
            left.push(error.to_string());
        }
    }
    if left.is_empty() {
        return Err(error);
    }
    Err(OciError::Reported { what: format!("{error}; and not everything could be put back: {}", left.join("; ")) })
}

fn write_all<'a>(group: &Cgroup, writes: &[&'a Write], done: &mut Vec<Former<'a>>) -> Result<(), OciError> {
    for (index, write) in writes.iter().enumerate() {
        let value = match group.read(write.controller, &write.file) {
            Err(error) if error.errno() == ENOENT && write.missing != Missing::Error => continue,
            Err(error) if error.errno() == ENOENT => return Err(super::refused(group, write, error)),
            answer => answer.during(|| format!("read {:?}", write.file))?,
        };
        match group.write(write.controller, &write.file, write.value.as_bytes()) {
            // The old quota in the new period may be more than the group above has: then the quota comes first.
            Err(error) if error.errno() == EINVAL && is_period_before_quota(writes, index) => {
                let mut turned = writes[index..].to_vec();
                turned.swap(0, 1);
                return write_all(group, &turned, done);
            }
            Err(error) if error.errno() == EBUSY && is_memory_limit(write) => return Err(in_use(group, &write.value)),
            Err(error) => return Err(super::refused(group, write, error)),
            Ok(()) => {}
        }
        done.push(Former::File { write, value: value.trim().to_owned() });
    }
    Ok(())
}

fn is_period_before_quota(writes: &[&Write], index: usize) -> bool {
    let named = |at: usize, file: &std::ffi::CStr| writes.get(at).is_some_and(|write| write.file.as_c_str() == file);
    named(index, c"cpu.cfs_period_us") && named(index + 1, c"cpu.cfs_quota_us")
}

fn is_memory_limit(write: &Write) -> bool {
    [c"memory.limit_in_bytes", c"memory.memsw.limit_in_bytes"].contains(&write.file.as_c_str())
}

/// -1 and `max` are no limit.
fn bytes(value: &str) -> u64 {
    value.trim().parse().unwrap_or(u64::MAX)
}

/// The writes in an order in which every state between is allowed; refuses what would leave less than is in use.
fn ordered<'a>(group: &Cgroup, writes: &'a [Write]) -> Result<Vec<&'a Write>, OciError> {
    let mut list: Vec<&Write> = writes.iter().collect();
    let find = |list: &[&Write], file: &std::ffi::CStr| list.iter().position(|write| write.file.as_c_str() == file);
    let (limit_file, version) = match group.version() {
        Version::V1 => (c"memory.limit_in_bytes", Version::V1),
        Version::V2 => (c"memory.max", Version::V2),
    };
    let limit = find(&list, limit_file);
    if let Some(at) = limit {
        make_room(group, &list[at].value)?;
    }
    if version == Version::V1 {
        let former = |file| group.read("memory", file).ok().map(|text| bytes(&text));
        let both = find(&list, c"memory.memsw.limit_in_bytes");
        let both_now = former(c"memory.memsw.limit_in_bytes").unwrap_or(u64::MAX);
        let memory = limit.map(|at| bytes(&list[at].value)).or_else(|| former(limit_file)).unwrap_or(0);
        let both_then = both.map_or(both_now, |at| bytes(&list[at].value));
        if (limit.is_some() || both.is_some()) && memory > both_then {
            return Err(OciError::invalid(format!(
                "a limit of {memory} bytes of memory does not go with a limit of {both_then} bytes of memory and swap \
                 together: raise that, too"
            )));
        }
        if let (Some(limit), Some(both)) = (limit, both)
            && memory > both_now
        {
            list.swap(limit, both);
        }
    }
    Ok(list)
}

/// A limit below what is in use would make the kernel kill on version 2: what can be given back is given back first, and
/// what can't is told.
fn make_room(group: &Cgroup, limit: &str) -> Result<(), OciError> {
    let wanted = bytes(limit);
    let usage = group.usage().during(|| "read the usage of memory".to_owned())?;
    if usage.memory_bytes <= wanted {
        return Ok(());
    }
    if usage.working_set_bytes > wanted {
        return Err(in_use(group, limit));
    }
    if group.version() == Version::V2 {
        let surplus = usage.memory_bytes.saturating_sub(wanted).to_string();
        // It fails where less could be had; what counts is what is left.
        drop(group.write("memory", c"memory.reclaim", surplus.as_bytes()));
        let left = group.usage().during(|| "read the usage of memory".to_owned())?;
        if left.memory_bytes > wanted {
            return Err(in_use(group, limit));
        }
    }
    Ok(())
}

fn in_use(group: &Cgroup, limit: &str) -> OciError {
    let usage = group.usage().unwrap_or_default();
    OciError::InUse {
        what: format!(
            "a limit of {limit} bytes of memory is below the {} bytes in use ({} of them can't be given back)",
            usage.memory_bytes, usage.working_set_bytes
        ),
    }
}

fn score_path(pid: i32) -> String {
    format!("/proc/{pid}/oom_score_adj")
}

fn write_score(pid: i32, value: &str) -> Result<(), SysError> {
    let path = score_path(pid);
    match std::fs::write(&path, value) {
        Err(error) if error.kind() != IoKind::NotFound && error.raw_os_error() != Some(super::ESRCH) => {
            Err(SysError::from_io(format!("write({path:?}, {value:?})"), &error))
        }
        _ => Ok(()),
    }
}

fn set_scores(group: &Cgroup, score: Option<i32>, done: &mut Vec<Former<'_>>) -> Result<(), OciError> {
    let Some(score) = score else { return Ok(()) };
    for pid in group.pids().during(|| "list the processes".to_owned())? {
        // One that has ended needs none.
        let Ok(value) = std::fs::read_to_string(score_path(pid)) else { continue };
        write_score(pid, &score.to_string()).during(|| format!("set the OOM score of process {pid}"))?;
        done.push(Former::Score { pid, value: value.trim().to_owned() });
    }
    Ok(())
}
