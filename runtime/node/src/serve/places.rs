//! The node's directories and the lock that makes it their only user.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use runtime_sys::fs::LockKind;

use super::ServeError;
use crate::config::Settings;

/// Images hold set-user-id programs: nobody but root reaches them.
const ROOT_MODE: u32 = 0o700;
/// Passed through on the way to the socket, not listed.
const RUN_MODE: u32 = 0o711;

/// Below the state directory: where a daemon's keeper remembers its pods.
pub(super) const KEEPER: &str = "keeper";
/// The same for the keeper of `podwright run`.
pub(super) const FOREGROUND: &str = "foreground";

/// Makes the directories with their modes.
pub(super) fn make(settings: &Settings) -> Result<(), ServeError> {
    directory(&settings.root, ROOT_MODE)?;
    directory(&settings.run, RUN_MODE)?;
    if let Some(parent) = settings.listen.path().parent()
        && parent != settings.run
    {
        DirBuilder::new().recursive(true).create(parent).map_err(|source| failed(parent, source))?;
    }
    Ok(())
}

/// Only the last component gets the mode; one that is there already is brought to it.
pub(super) fn directory(path: &Path, mode: u32) -> Result<(), ServeError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|source| failed(path, source))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> ServeError {
    ServeError::Directory { path: path.to_owned(), source }
}

/// Held as long as the node lives; the kernel lets go of it when the process ends in any way.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Two nodes on one run directory would each take the other's pods for leftovers.
    pub(super) fn take(run: &Path) -> Result<Lock, ServeError> {
        let path = run.join("lock");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = opened.map_err(|source| failed(&path, source))?;
        match runtime_sys::fs::flock_patiently(&file, LockKind::Exclusive).map_err(io::Error::from) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut holder = String::new();
                // Only for the message: without it the message is less helpful, not wrong.
                drop((&file).take(32).read_to_string(&mut holder));
                return Err(ServeError::Locked { run: run.to_owned(), holder: holder.trim().to_owned() });
            }
            Err(source) => return Err(failed(&path, source)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|source| failed(&path, source))?;
        Ok(Lock { _file: file })
    }
}

/// Removes what a keeper remembers, volumes of its pods included. Only for a node without any pod.
pub(super) fn forget(state: &Path) -> Result<(), ServeError> {
    unmount_below(state)?;
    match fs::remove_dir_all(state) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(state, error)),
        _ => Ok(()),
    }
}

/// Volumes in memory are mounts: what lies under them must not be reached by a removal, nor be left behind.
fn unmount_below(directory: &Path) -> Result<(), ServeError> {
    let unmounted = |source: runtime_sys::SysError| failed(directory, source.into());
    let mounts = runtime_sys::procfs::mounts().map_err(unmounted)?;
    // The newest first: one may lie on another.
    for mount in mounts.iter().rev().filter(|mount| mount.mount_point.starts_with(directory)) {
        let place = CString::new(mount.mount_point.as_os_str().as_bytes()).expect("the kernel's paths hold no zero");
        runtime_sys::mount::detach(&place).map_err(unmounted)?;
    }
    Ok(())
}

/// Takes away what a node without pods leaves in its directories. The image store stays.
pub(super) fn tidy(settings: &Settings) -> Vec<String> {
    let mut failures = Vec::new();
    let mut tell = |what: &Path, result: io::Result<()>| match result {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            failures.push(format!("cannot remove {what:?}: {error}"));
        }
        _ => {}
    };
    let logs = settings.root.join("logs");
    tell(&logs, fs::remove_dir_all(&logs));
    // Records that could not be read: their pods are ended, and nobody will ask again.
    let damaged = settings.run.join("set-aside");
    tell(&damaged, fs::remove_dir_all(&damaged));
    let log = settings.run.join("node.log");
    tell(&log, fs::remove_file(&log));
    remove_places(settings, &mut tell);
    failures
}

/// Takes away what a node that could not start has made, unless another one uses the place or pods are left there. What
/// stays is harmless, and the start's own failure is the one that is told.
pub(super) fn undo(settings: &Settings) {
    let mut untold = |_: &Path, _: io::Result<()>| {};
    match Lock::take(&settings.run) {
        Ok(_lock) => {
            let pods = fs::read_dir(settings.run.join("pods"));
            if pods.is_ok_and(|mut pods| pods.next().is_some()) {
                return;
            }
            remove_places(settings, &mut untold);
        }
        Err(ServeError::Locked { .. }) => {}
        // There is no run directory: the state directory was made before it.
        Err(_) => drop(fs::remove_dir(&settings.root)),
    }
}

/// Removes what is empty of a node's directories, and its lock.
fn remove_places(settings: &Settings, tell: &mut impl FnMut(&Path, io::Result<()>)) {
    // Volumes may lie there: what isn't empty is somebody's data.
    for name in [KEEPER, FOREGROUND, "containers", "logs"] {
        remove_empty(&settings.root.join(name), tell);
    }
    for name in ["pods", "network"] {
        remove_empty(&settings.run.join(name), tell);
    }
    let lock = settings.run.join("lock");
    tell(&lock, fs::remove_file(&lock));
    tell(&settings.run, fs::remove_dir(&settings.run));
    tell(&settings.root, fs::remove_dir(&settings.root));
}

/// Removes a directory and the empty ones in it, the deepest first. Enters no link and removes no file.
fn remove_empty(directory: &Path, tell: &mut impl FnMut(&Path, io::Result<()>)) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path(), tell);
        }
    }
    tell(directory, fs::remove_dir(directory));
}

#[cfg(test)]
mod tests {
    use super::{Lock, make, undo};
    use crate::config::{NodeOptions, Settings};
    use crate::serve::ServeError;

    fn settings(place: &std::path::Path) -> Settings {
        let options =
            NodeOptions { root: Some(place.join("root")), run: Some(place.join("run")), ..NodeOptions::default() };
        options.complete().expect("valid")
    }

    #[test]
    fn a_node_that_could_not_start_leaves_only_what_is_somebodys() {
        let place = std::env::temp_dir().join(format!("podwright-undo-{}", std::process::id()));
        let settings = settings(&place);
        let begin = || {
            make(&settings).expect("makes");
            for path in ["root/containers", "root/logs", "run/pods", "run/network/cache"] {
                std::fs::create_dir_all(place.join(path)).expect("makes");
            }
            drop(Lock::take(&settings.run).expect("free"));
        };
        begin();
        undo(&settings);
        assert!(!settings.run.exists() && !settings.root.exists());

        begin();
        let held = Lock::take(&settings.run).expect("free");
        undo(&settings);
        assert!(settings.run.join("network").exists(), "another node's place was taken away");
        drop(held);

        std::fs::create_dir(settings.run.join("pods/abc")).expect("makes");
        undo(&settings);
        assert!(settings.run.join("network").exists(), "a living pod's place was taken away");
        std::fs::remove_dir(settings.run.join("pods/abc")).expect("removes");

        std::fs::write(settings.root.join("logs/line"), "precious").expect("writes");
        undo(&settings);
        assert!(!settings.run.exists() && settings.root.join("logs/line").exists());
        std::fs::remove_dir_all(&place).expect("removes");
    }

    #[test]
    fn a_second_node_is_told_who_holds_the_place() {
        let run = std::env::temp_dir().join(format!("podwright-lock-{}", std::process::id()));
        std::fs::create_dir_all(&run).expect("makes");
        let first = Lock::take(&run).expect("free");
        match Lock::take(&run) {
            Err(ServeError::Locked { holder, .. }) => assert_eq!(holder, std::process::id().to_string()),
            other => panic!("{other:?}"),
        }
        drop(first);
        drop(Lock::take(&run).expect("free again"));
        std::fs::remove_dir_all(&run).expect("removes");
    }
}
