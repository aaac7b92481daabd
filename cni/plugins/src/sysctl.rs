//! Settings of the calling thread's network namespace, below `/proc/sys/net`.

use std::fs;
use std::io;
use std::path::PathBuf;

/// A setting that can't be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {path} to {value}")]
pub struct SysctlError {
    /// The file.
    pub path: PathBuf,
    /// What was to be written.
    pub value: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What a setting was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    Same,
    Different,
    /// The kernel doesn't have it (IPv6 switched off).
    Absent,
}

/// Sets `/proc/sys/net/{name}`; it is written only where it differs.
pub(crate) fn set(name: &str, value: &'static str) -> Result<Before, SysctlError> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Before::Absent),
        Ok(now) if now.trim() == value => return Ok(Before::Same),
        // What can't be read may be writable; the write tells.
        Ok(_) | Err(_) => {}
    }
    fs::write(&path, value).map_err(|source| SysctlError { path, value, source })?;
    Ok(Before::Different)
}
