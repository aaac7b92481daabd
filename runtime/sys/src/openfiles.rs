//! What a process has open.

use std::fs;
use std::io::Read;

use crate::error::{SysError, SysResult};

/// Longest `limits` file, in bytes; it has about 1,300.
const LIMITS_BYTES_MAX: u64 = 16 * 1024;

/// How many descriptors a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFiles {
    /// Descriptors.
    pub descriptors: u64,
    /// Those that are sockets.
    pub sockets: u64,
}

/// The links in `/proc/PID/fd`, at most `looked_at_max`.
/// <https://man7.org/linux/man-pages/man5/proc_pid_fd.5.html>
pub fn open_files(pid: i32, looked_at_max: u64) -> SysResult<OpenFiles> {
    let path = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&path).map_err(|error| SysError::from_io(format!("getdents64({path:?})"), &error))?;
    let mut found = OpenFiles::default();
    for entry in entries.flatten() {
        if found.descriptors >= looked_at_max {
            break;
        }
        found.descriptors += 1;
        // Closed meanwhile: it was open when it was listed.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        found.sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
    }
    Ok(found)
}

/// The soft limit of a process's descriptors, from `/proc/PID/limits`; `None`: there is none.
/// <https://man7.org/linux/man-pages/man5/proc_pid_limits.5.html>
pub fn open_files_limit(pid: i32) -> SysResult<Option<u64>> {
    let path = format!("/proc/{pid}/limits");
    let mut text = String::new();
    fs::File::open(&path)
        .and_then(|file| file.take(LIMITS_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| SysError::from_io(format!("read({path:?})"), &error))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    Ok(line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn ours_are_counted() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let pair = UnixStream::pair().expect("makes");
        let found = open_files(own, 10_000).expect("lists");
        assert!(found.sockets >= 2 && found.descriptors >= found.sockets + 3, "{found:?}");
        assert_eq!(open_files(own, 2).expect("lists").descriptors, 2);
        drop(pair);
        assert!(open_files_limit(own).expect("reads").is_some_and(|limit| limit > 3));
        assert!(open_files(i32::MAX, 1).is_err());
    }
}
