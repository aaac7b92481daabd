//! Users, groups, capabilities and the flags that go with them, of the calling process.

use std::fs;
use std::str::FromStr;

use crate::error::{SysError, SysResult};
use crate::process::checked;

/// A set of capabilities: bit N is capability number N.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// None.
    pub const NONE: Self = Self(0);
    /// CAP_SYS_ADMIN alone.
    pub const SYS_ADMIN: Self = Self(1 << 21);
    /// CAP_SYS_RESOURCE alone.
    pub const SYS_RESOURCE: Self = Self(1 << 24);

    /// One, by its name (`CAP_CHOWN`).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        caps::Capability::from_str(name).ok().map(|capability| Self(1 << capability.index()))
    }

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The half that `capset` takes at that place.
    fn word(self, index: usize) -> u32 {
        let [a, b, c, d, e, f, g, h] = self.0.to_le_bytes();
        if index == 0 { u32::from_le_bytes([a, b, c, d]) } else { u32::from_le_bytes([e, f, g, h]) }
    }
}

/// The highest capability number that the kernel knows, from `/proc/sys/kernel/cap_last_cap`.
pub fn last_capability() -> SysResult<u32> {
    const PATH: &str = "/proc/sys/kernel/cap_last_cap";
    let text = fs::read_to_string(PATH).map_err(|error| SysError::from_io(format!("read({PATH:?})"), &error))?;
    text.trim().parse().map_err(|_| SysError::new(format!("read({PATH:?})"), libc::EBADMSG))
}

/// The calling thread's effective capabilities.
pub fn effective() -> SysResult<Capabilities> {
    let set = caps::read(None, caps::CapSet::Effective).map_err(|_| SysError::new("capget()", libc::EPERM))?;
    Ok(Capabilities(set.iter().fold(0, |bits, capability| bits | 1 << capability.index())))
}

/// The calling thread's bounding set, read from `/proc/thread-self/status`: one call in place of forty.
pub fn bounding() -> SysResult<Capabilities> {
    const PATH: &str = "/proc/thread-self/status";
    let call = || format!("read({PATH:?})");
    let text = fs::read_to_string(PATH).map_err(|error| SysError::from_io(call(), &error))?;
    text.lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .map(Capabilities)
        .ok_or_else(|| SysError::new(call(), libc::EBADMSG))
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CapHeader {
    version: u32,
    pid: i32,
}

impl CapHeader {
    /// Version 3, of the calling thread.
    pub(crate) fn own() -> Self {
        Self { version: 0x2008_0522, pid: 0 }
    }
}

/// Effective, permitted and inheritable capabilities as `capset` takes them.
pub(crate) fn capability_words([effective, permitted, inheritable]: [Capabilities; 3]) -> [CapData; 2] {
    [0, 1].map(|half| CapData {
        effective: effective.word(half),
        permitted: permitted.word(half),
        inheritable: inheritable.word(half),
    })
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `capset(version 3, 0, …)`.
/// <https://man7.org/linux/man-pages/man2/capset.2.html>
pub fn set_capabilities(effective: Capabilities, permitted: Capabilities, inheritable: Capabilities) -> SysResult<()> {
    let mut header = CapHeader::own();
    let data = capability_words([effective, permitted, inheritable]);
    // SAFETY: version 3 reads a header and two data structures, which live here.
    let answer = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    checked(answer, || format!("capset({:#x}, {:#x}, {:#x})", effective.0, permitted.0, inheritable.0)).map(drop)
}

/// `prctl(PR_CAPBSET_DROP)` for every capability up to `last` that isn't in `keep` and is in `have`.
pub fn drop_bounding(have: Capabilities, keep: Capabilities, last: u32) -> SysResult<()> {
    for number in (0..=last.min(63)).filter(|number| have.0 & !keep.0 & (1 << number) != 0) {
        prctl(libc::PR_CAPBSET_DROP, number.into(), "PR_CAPBSET_DROP")?;
    }
    Ok(())
}

/// `prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE)` for every capability of the set.
pub fn raise_ambient(set: Capabilities) -> SysResult<()> {
    for number in (0..64u64).filter(|number| set.0 & (1 << number) != 0) {
        // SAFETY: integers alone.
        let answer = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) };
        checked(answer.into(), || format!("prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, {number})"))?;
    }
    Ok(())
}

/// `prctl(PR_SET_NO_NEW_PRIVS, 1)`.
pub fn set_no_new_privileges() -> SysResult<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")
}

/// `prctl(PR_SET_KEEPCAPS, 1)`: the permitted set survives a change to a user that isn't root.
pub fn keep_capabilities() -> SysResult<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, "PR_SET_KEEPCAPS")
}

/// `prctl(PR_SET_DUMPABLE, 0)`: nobody without CAP_SYS_PTRACE looks into this process, also in a namespace that it joins.
pub fn set_not_dumpable() -> SysResult<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")
}

/// `prctl(PR_SET_NAME, name)`, at most 15 bytes of it.
pub fn set_name(name: &std::ffi::CStr) -> SysResult<()> {
    // SAFETY: a string that ends with NUL; the kernel reads at most 16 bytes of it.
    let answer = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    checked(answer.into(), || format!("prctl(PR_SET_NAME, {name:?})")).map(drop)
}

fn prctl(option: i32, value: libc::c_ulong, name: &str) -> SysResult<()> {
    // SAFETY: the options that this file passes take integers alone.
    let answer = unsafe { libc::prctl(option, value, 0, 0, 0) };
    checked(answer.into(), || format!("prctl({name}, {value})")).map(drop)
}

/// `setgroups(groups)`. The raw call: the C library's would signal threads that the child of a clone doesn't have.
pub fn set_groups(groups: &[u32]) -> SysResult<()> {
    // SAFETY: the pointer and length are of one slice of gid_t.
    let answer = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    checked(answer, || format!("setgroups({groups:?})")).map(drop)
}

/// `setresgid(gid, gid, gid)`; the raw call, as in [`set_groups`].
pub fn set_gid(gid: u32) -> SysResult<()> {
    // SAFETY: three integers.
    let answer = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    checked(answer, || format!("setresgid({gid})")).map(drop)
}

/// `setresuid(uid, uid, uid)`; the raw call, as in [`set_groups`].
pub fn set_uid(uid: u32) -> SysResult<()> {
    // SAFETY: three integers.
    let answer = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    checked(answer, || format!("setresuid({uid})")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(Capabilities::named("CAP_SYS_ADMIN"), Some(Capabilities::SYS_ADMIN));
        assert_eq!(Capabilities::named("CAP_SYS_RESOURCE"), Some(Capabilities::SYS_RESOURCE));
        assert_eq!(Capabilities::named("CAP_NOTHING"), None);
    }

    #[test]
    fn the_words_of_capset_are_low_and_high() {
        let set = Capabilities(1 | 1 << 40);
        assert_eq!((set.word(0), set.word(1)), (1, 1 << 8));
    }
}
