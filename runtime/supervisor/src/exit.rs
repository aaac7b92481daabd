//! How a process ended, and the record of it on disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use runtime_sys::signals::ChildEnd;
use runtime_wire::{Exit, ExitRecord};

/// Exit code of a container whose program was never executed, as containerd and the kubelet have it.
pub(crate) const CODE_NOT_STARTED: i32 = 128;

/// The exit of a process that ended now.
pub(crate) fn exit_of(end: ChildEnd, oom_killed: bool, at_unix_nanos: i64) -> Exit {
    match end {
        ChildEnd::Exited(code) => Exit { code, signal: None, oom_killed, at_unix_nanos },
        ChildEnd::Signaled(signal) => Exit { code: 128 + signal, signal: Some(signal), oom_killed, at_unix_nanos },
    }
}

/// Writes the record under its name in one step, so that a reader finds all of it or nothing. Not synced: the run
/// directory is in memory.
pub(crate) fn write_record(directory: &Path, record: &ExitRecord) -> io::Result<()> {
    let path = record_path(directory, &record.container);
    let temporary = directory.join(format!(".{}.tmp", record.container));
    let text = serde_json::to_vec(record)?;
    let written = File::create(&temporary).and_then(|mut file| file.write_all(&text));
    let placed = written.and_then(|()| fs::rename(&temporary, &path));
    if placed.is_err() {
        // Already failing; what is left over of the attempt is overwritten by the next.
        drop(fs::remove_file(&temporary));
    }
    placed
}

/// Forgets a record. One that isn't there is no error.
pub(crate) fn remove_record(directory: &Path, container: &str) -> io::Result<()> {
    match fs::remove_file(record_path(directory, container)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn record_path(directory: &Path, container: &str) -> PathBuf {
    directory.join(format!("{container}.json"))
}
