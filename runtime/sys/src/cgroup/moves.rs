//! Quick moves of processes between groups on version 1.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use crate::error::{SysError, SysResult};
use crate::mount::{Attributes, new_filesystem};

/// Keeps the kernel's lock for moving processes in the state in which a move waits for nobody; otherwise the first move
/// after a quiet moment waits for an RCU grace period, which is most of a container's start (5 to 10 ms on a busy machine).
#[derive(Debug)]
pub struct QuickMoves(#[expect(dead_code, reason = "its existence is the effect")] OwnedFd);

/// `fsopen("cgroup")` with `none,name=NAME,favordynmods`, attached nowhere: the option holds for the machine as long as the
/// answer lives, and costs every fork some nanoseconds. `NAME` shows in `/proc/PID/cgroup`. Of no use on version 2, where
/// a process is born in its group. Linux 6.0.
/// <https://docs.kernel.org/admin-guide/cgroup-v2.html> (favordynmods)
pub fn quick_moves(name: &str) -> SysResult<QuickMoves> {
    let name = CString::new(name).map_err(|_| SysError::new(format!("fsconfig(name, {name:?})"), libc::EINVAL))?;
    let options = [(c"none", None), (c"name", Some(name.as_c_str())), (c"favordynmods", None)];
    new_filesystem(c"cgroup", &options, Attributes::NONE).map(QuickMoves)
}
