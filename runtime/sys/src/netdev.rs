//! The counters of a process's network interfaces.

use std::fs::File;
use std::io::Read;

use crate::error::{SysError, SysResult};

/// Most bytes of the list that are read: a pod that may make interfaces makes as many as it likes, and about 400 are told.
const LIST_BYTES_MAX: u64 = 64 * 1024;

/// What went over one interface since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Received.
    pub received: Traffic,
    /// Sent.
    pub sent: Traffic,
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were broken.
    pub errors: u64,
    /// Packets that found no room.
    pub dropped: u64,
}

/// `/proc/PID/net/dev`: every interface in the network namespace of a process, loopback among them. The caller makes sure
/// that the pid is still whose it was ([`crate::process::start_ticks`], asked afterwards).
/// <https://man7.org/linux/man-pages/man5/proc_pid_net.5.html>
pub fn interfaces(pid: i32) -> SysResult<Vec<Interface>> {
    let path = format!("/proc/{pid}/net/dev");
    let mut text = String::new();
    File::open(&path)
        .and_then(|file| file.take(LIST_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| SysError::from_io(format!("read({path:?})"), &error))?;
    Ok(text.lines().filter_map(interface).collect())
}

/// Two lines of headings have no colon; a name may stand right at its first number.
fn interface(line: &str) -> Option<Interface> {
    let (name, numbers) = line.rsplit_once(':')?;
    let numbers: Vec<u64> = numbers.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    let traffic = |at: usize| match numbers.get(at..at + 4) {
        Some([bytes, packets, errors, dropped]) => {
            Some(Traffic { bytes: *bytes, packets: *packets, errors: *errors, dropped: *dropped })
        }
        _ => None,
    };
    Some(Interface { name: name.trim().to_owned(), received: traffic(0)?, sent: traffic(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_the_kernel_writes_them() {
        let line = "  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0";
        let eth0 = interface(line).expect("parses");
        assert_eq!(eth0.name, "eth0");
        assert_eq!(eth0.received, Traffic { bytes: 1, packets: 2, errors: 3, dropped: 4 });
        assert_eq!(eth0.sent, Traffic { bytes: 5, packets: 6, errors: 7, dropped: 8 });
        let alias = "eth0:1:9 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0";
        assert_eq!(interface(alias).map(|found| found.name), Some("eth0:1".to_owned()));
        for other in ["Inter-|   Receive                                                |  Transmit", "", "x: 1 2"] {
            assert_eq!(interface(other), None, "{other}");
        }
    }

    #[test]
    fn ours_have_a_loopback() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(interfaces(own).expect("reads").iter().any(|interface| interface.name == "lo"));
        assert!(interfaces(i32::MAX).is_err());
    }
}
