//! The files in the run directory: one per sandbox and container, written by temporary file and rename. No sync: the run
//! directory is on tmpfs and gone with the machine, as the pods are.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use oci_spec::runtime::Process;
use runtime_lifecycle::{ContainerId, ContainerRecord, SandboxId, SandboxRecord};
use runtime_wire::ExitRecord;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{EngineError, disk};

/// Largest record read, in bytes: a container's with the longest arguments and environment, as JSON.
const RECORD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A container's file: the record, and the surroundings of its first process for execs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredContainer<R = ContainerRecord> {
    pub(crate) record: R,
    pub(crate) process: Process,
}

/// Where things of pods are.
#[derive(Debug, Clone)]
pub(crate) struct PodDirectory(PathBuf);

impl PodDirectory {
    pub(crate) fn new(run: &Path, id: &SandboxId) -> Self {
        Self(pods(run).join(id.as_str()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("sandbox.json")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("supervisor.sock")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }

    pub(crate) fn exits(&self) -> PathBuf {
        self.0.join("exits")
    }

    pub(crate) fn exit(&self, id: &ContainerId) -> PathBuf {
        self.exits().join(format!("{id}.json"))
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(format!("{id}.json"))
    }

    /// One that was moved.
    pub(crate) fn moved(path: PathBuf) -> Self {
        Self(path)
    }

    /// Makes it with what is in it.
    pub(crate) fn make(&self) -> Result<(), EngineError> {
        for path in [self.0.clone(), self.exits(), self.containers()] {
            fs::create_dir(&path).map_err(disk("make", path))?;
        }
        Ok(())
    }
}

/// The directory of all pods.
pub(crate) fn pods(run: &Path) -> PathBuf {
    run.join("pods")
}

/// The directory of a container's writable layer.
pub(crate) fn layer(root: &Path, id: &ContainerId) -> PathBuf {
    layers(root).join(id.as_str())
}

/// The directory of all writable layers.
pub(crate) fn layers(root: &Path) -> PathBuf {
    root.join("containers")
}

/// Writes `value`: whoever reads sees the old one or the new one, never a part.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), EngineError> {
    let bytes = serde_json::to_vec(value).map_err(|error| disk("encode", path)(error.into()))?;
    write_bytes(path, &bytes)
}

/// The same for a text.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    fs::write(&temporary, bytes).map_err(disk("write", &temporary))?;
    fs::rename(&temporary, path).map_err(disk("rename to", path))
}

/// Reads one.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() || metadata.len() > RECORD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is no record: not a regular file, or too large"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Removes a file; one that isn't there is as good.
pub(crate) fn remove(path: &Path) -> Result<(), EngineError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it; one that isn't there is as good. Links in it are not followed.
pub(crate) fn remove_tree(path: &Path) -> Result<(), EngineError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = match fs::File::open(parent) {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(disk("open", parent)(error)),
    };
    runtime_sys::fs::remove_tree(&parent, name)
        .map_err(|source| EngineError::Kernel { step: "remove a directory", source })
}

/// All that the run directory says, and what couldn't be read: moved aside so that it is neither lost nor in the way.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) sandboxes: Vec<SandboxRecord>,
    pub(crate) containers: Vec<StoredContainer>,
    pub(crate) exits: Vec<(ContainerId, ExitRecord)>,
    pub(crate) set_aside: Vec<String>,
    /// Sandboxes whose directory was set aside, and where that is now: what runs in them is nobody's any more.
    pub(crate) orphans: Vec<(SandboxId, PathBuf)>,
}

/// Reads everything.
pub(crate) fn find(run: &Path) -> Result<Found, EngineError> {
    let mut found = Found::default();
    for name in names(&pods(run))? {
        let path = pods(run).join(&name);
        let Ok(id) = name.parse::<SandboxId>() else {
            set_aside(run, &path, "its name is no sandbox id", &mut found.set_aside);
            continue;
        };
        let dir = PodDirectory::new(run, &id);
        match read::<SandboxRecord>(&dir.record()) {
            Ok(record) if record.id == id => found.sandboxes.push(record),
            other => {
                let why =
                    other.err().map_or_else(|| "its record is another sandbox's".to_owned(), |why| why.to_string());
                let now_at = set_aside(run, &path, &why, &mut found.set_aside);
                found.orphans.push((id, now_at));
                continue;
            }
        }
        for name in names(&dir.containers()).unwrap_or_default() {
            let path = dir.containers().join(&name);
            let Some(id) = name.strip_suffix(".json").and_then(|name| name.parse::<ContainerId>().ok()) else {
                // A temporary file of a write that was cut off.
                let _ = fs::remove_file(&path);
                continue;
            };
            match read::<StoredContainer>(&path) {
                Ok(stored) if stored.record.id == id && stored.record.sandbox == dir_id(&dir) => {
                    found.containers.push(stored)
                }
                Ok(_) => {
                    set_aside(run, &path, "it is another container's", &mut found.set_aside);
                }
                Err(error) => {
                    set_aside(run, &path, &error.to_string(), &mut found.set_aside);
                }
            }
            if let Ok(exit) = read::<ExitRecord>(&dir.exit(&id)) {
                found.exits.push((id, exit));
            }
        }
    }
    Ok(found)
}

fn dir_id(dir: &PodDirectory) -> SandboxId {
    let name = dir.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.parse().expect("made from an id")
}

fn names(directory: &Path) -> Result<Vec<String>, EngineError> {
    let entries = fs::read_dir(directory).map_err(disk("list", directory))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Moves it away and answers with where it is now.
fn set_aside(run: &Path, path: &Path, why: &str, told: &mut Vec<String>) -> PathBuf {
    let directory = run.join("set-aside");
    let to = directory.join(path.file_name().unwrap_or_default());
    match fs::create_dir_all(&directory).and_then(|()| fs::rename(path, &to)) {
        Ok(()) => {
            told.push(format!("{} ({why}) was moved to {}", path.display(), directory.display()));
            to
        }
        Err(error) => {
            told.push(format!("{} ({why}) is passed over and could not be moved: {error}", path.display()));
            path.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use runtime_lifecycle::SandboxId;

    use super::{PodDirectory, find, pods, read, remove_tree, write};

    #[test]
    fn a_bad_record_is_set_aside() {
        let run = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(pods(run.path())).expect("a directory");
        let dir = PodDirectory::new(run.path(), &SandboxId::from_random([1; 32]));
        dir.make().expect("a fresh directory");
        fs::write(dir.record(), b"{\"version\":1,").expect("a file");
        fs::create_dir(pods(run.path()).join("..what")).expect("a directory");
        let found = find(run.path()).expect("one bad record is no error");
        assert!(found.sandboxes.is_empty());
        assert_eq!(found.set_aside.len(), 2, "{:?}", found.set_aside);
        assert_eq!(found.orphans.len(), 1, "{:?}", found.orphans);
        assert!(run.path().join("set-aside").join("01".repeat(32)).is_dir());
        assert!(find(run.path()).expect("readable").set_aside.is_empty(), "told once");
    }

    #[test]
    fn records_are_replaced_whole_and_trees_go() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("value.json");
        write(&path, &vec![1, 2]).expect("written");
        write(&path, &vec![3]).expect("replaced");
        assert_eq!(read::<Vec<u8>>(&path).expect("readable"), [3]);
        assert_eq!(fs::read_dir(dir.path()).expect("listable").count(), 1, "no temporary file is left");
        fs::create_dir_all(dir.path().join("tree/a/b")).expect("directories");
        remove_tree(&dir.path().join("tree")).expect("removed");
        remove_tree(&dir.path().join("tree")).expect("not there is as good");
        remove_tree(&dir.path().join("nowhere/tree")).expect("not there is as good");
        assert!(!dir.path().join("tree").exists());
    }
}
