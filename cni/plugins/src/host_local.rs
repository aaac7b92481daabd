//! The host-local plugin: addresses of a range, by sandbox and boot.
//!
//! One file per address, made with `O_EXCL`, holds the sandbox and the boot id: what belongs to an earlier boot or to a
//! sandbox that is no more is free again, which the reference plugin can't know. Which address is next is decided by
//! [`Pool`], without files.

mod pool;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use pool::{Pool, Range, RangeError, Take};

/// How long an address rests after it was freed: the link of the pod that had it is gone 35 to 90 ms later.
pub const QUARANTINE: Duration = Duration::from_millis(250);
/// Longest content of an address file that is read: an id, a boot id and a little room.
const FILE_BYTES_MAX: u64 = 512;

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// All are held.
    #[error("no address is left in {ranges}: all {held} are held by pods")]
    Exhausted {
        /// The ranges, as first-last.
        ranges: String,
        /// How many are held.
        held: usize,
    },
    /// A file of an address can't be used.
    #[error("cannot {step} {path}")]
    File {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The addresses of one network.
#[derive(Debug)]
pub struct HostLocal {
    dir: PathBuf,
    boot: String,
    started: Instant,
    pool: Mutex<Pool>,
    freed: Condvar,
}

impl HostLocal {
    /// Reads what is held from `dir`, and frees what an earlier boot left there.
    pub fn open(dir: &Path, boot: &str, ranges: Vec<Range>) -> Result<Self, AddressError> {
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |source| AddressError::File { step, path, source }
        };
        fs::create_dir_all(dir).map_err(failed("make", dir))?;
        let mut pool = Pool::new(ranges);
        let mut newest: Option<(SystemTime, IpAddr)> = None;
        for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
            let path = entry.map_err(failed("list", dir))?.path();
            let Some(ip) = path.file_name().and_then(|name| name.to_str()?.parse::<IpAddr>().ok()) else { continue };
            let (content, made) = read(&path).map_err(failed("read", &path))?;
            let mut lines = content.lines();
            match (lines.next(), lines.next()) {
                (Some(sandbox), Some(of_boot)) if of_boot == boot => {
                    pool.hold(ip, sandbox);
                    newest = newest.max(Some((made, ip)));
                }
                // Of an earlier boot, or cut off by a crash before the sandbox had its address.
                _ => remove(&path).map_err(failed("remove", &path))?,
            }
        }
        if let Some((_, ip)) = newest {
            pool.begin_after(ip);
        }
        let (dir, boot) = (dir.to_owned(), boot.to_owned());
        Ok(Self { dir, boot, started: Instant::now(), pool: Mutex::new(pool), freed: Condvar::new() })
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out an address: one that was never used, else the one that was freed first. Waits at most [`QUARANTINE`].
    pub fn take(&self, sandbox: &str) -> Result<IpAddr, AddressError> {
        let mut pool = self.pool();
        loop {
            match pool.take(sandbox, self.started.elapsed()) {
                Take::Address(ip) => {
                    drop(pool);
                    if self.write(ip, sandbox)? {
                        return Ok(ip);
                    }
                    pool = self.pool();
                    // Another process has it, or had it: it is asked about again when the node starts anew.
                    pool.hold(ip, "another process");
                }
                Take::Wait(time) => {
                    pool = self.freed.wait_timeout(pool, time).unwrap_or_else(PoisonError::into_inner).0;
                }
                Take::Full => {
                    return Err(AddressError::Exhausted { ranges: pool.ranges_text(), held: pool.held_count() });
                }
            }
        }
    }

    /// Whether the file is new; `false` where another process made it first.
    fn write(&self, ip: IpAddr, sandbox: &str) -> Result<bool, AddressError> {
        let path = self.dir.join(ip.to_string());
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        let written = match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => Err(error),
            Ok(mut file) => file.write_all(format!("{sandbox}\n{}\n", self.boot).as_bytes()).inspect_err(|_| {
                // The error that is told is the first one.
                drop(remove(&path));
            }),
        };
        written.map(|()| true).map_err(|source| {
            self.pool().release(sandbox, self.started.elapsed());
            AddressError::File { step: "write", path, source }
        })
    }

    /// Frees what a sandbox holds; nothing is no error. The file goes first: an address in memory only is lost with the
    /// process, one on disk only for as long as the machine runs.
    pub fn free(&self, sandbox: &str) -> Result<Vec<IpAddr>, AddressError> {
        let held = self.pool().held_by(sandbox);
        for ip in &held {
            let path = self.dir.join(ip.to_string());
            remove(&path).map_err(|source| AddressError::File { step: "remove", path, source })?;
        }
        self.pool().release(sandbox, self.started.elapsed());
        self.freed.notify_all();
        Ok(held)
    }

    /// The sandboxes that hold an address.
    pub fn holders(&self) -> BTreeSet<String> {
        self.pool().holders()
    }
}

fn read(path: &Path) -> io::Result<(String, SystemTime)> {
    let file = File::open(path)?;
    let made = file.metadata()?.modified()?;
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok((String::from_utf8_lossy(&content).into_owned(), made))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        Range::of(text.parse().unwrap(), None, None, None).unwrap()
    }

    #[test]
    fn survives_a_restart_but_not_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let open = |boot: &str| HostLocal::open(dir.path(), boot, vec![range("10.1.0.0/29")]).unwrap();
        let first = open("boot-1");
        let ip = first.take("a").unwrap();
        first.take("b").unwrap();
        first.free("b").unwrap();
        drop(first);

        let again = open("boot-1");
        assert_eq!(again.holders(), BTreeSet::from(["a".to_owned()]));
        // A restart doesn't hand out anew what was handed out last.
        assert!(again.take("c").unwrap() > ip);
        drop(again);

        let rebooted = open("boot-2");
        assert!(rebooted.holders().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn exhaustion_names_range_and_holders() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = HostLocal::open(dir.path(), "b", vec![range("10.1.0.0/30")]).unwrap();
        addresses.take("a").unwrap();
        let error = addresses.take("b").unwrap_err().to_string();
        assert_eq!(error, "no address is left in 10.1.0.2-10.1.0.2: all 1 are held by pods");
        addresses.free("a").unwrap();
        let before = Instant::now();
        addresses.take("b").unwrap();
        assert!(before.elapsed() >= QUARANTINE / 2, "the freed address rests first");
    }

    #[test]
    fn half_a_file_and_a_strange_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("10.1.0.2"), "").unwrap();
        fs::write(dir.path().join("last_reserved_ip.0"), "10.1.0.9").unwrap();
        let addresses = HostLocal::open(dir.path(), "b", vec![range("10.1.0.0/29")]).unwrap();
        assert!(addresses.holders().is_empty());
        // Another process takes one in between.
        fs::write(dir.path().join("10.1.0.2"), "z\nb\n").unwrap();
        assert_eq!(addresses.take("a").unwrap(), "10.1.0.3".parse::<IpAddr>().unwrap());
    }
}
