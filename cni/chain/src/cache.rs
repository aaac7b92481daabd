//! What was made for each pod, on disk and in memory.
//!
//! One file per sandbox, written beside and renamed: a reader sees all of it or nothing. On tmpfs, so never synced.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cni_plugins::Attachment;
use cni_spec::{AddResult, ContainerName, NetConfList, PodArgs, PortMapping};
use serde::{Deserialize, Serialize};

use crate::request::{Attached, NetworkError};

/// Longest file that is read; a record has a few kilobytes.
const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// All that DEL needs, with or without the namespace and the configuration of that time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) sandbox: String,
    pub(crate) boot: String,
    pub(crate) netns_path: PathBuf,
    /// Which namespace the path led to: a process id in it may be somebody else's by now.
    pub(crate) netns: NamespaceId,
    pub(crate) pod_name: String,
    pub(crate) pod_namespace: String,
    pub(crate) pod_uid: String,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) list: NetConfList,
    /// What the bundled bridge made.
    pub(crate) attachment: Option<Attachment>,
    /// The last plugin's answer.
    pub(crate) result: Option<AddResult>,
    /// The answer to the engine; none while ADD is on its way.
    pub(crate) attached: Option<Attached>,
}

/// A namespace's device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    pub(crate) fn of(netns: &OwnedFd) -> io::Result<Self> {
        Ok(Self::read(&fs::File::from(netns.try_clone()?).metadata()?))
    }

    fn read(meta: &fs::Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino() }
    }

    /// Whether the path leads to this namespace.
    pub(crate) fn is_at(self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|meta| Self::read(&meta) == self)
    }
}

impl Record {
    pub(crate) fn args(&self) -> PodArgs {
        PodArgs {
            namespace: self.pod_namespace.clone(),
            name: self.pod_name.clone(),
            sandbox: self.sandbox.clone(),
            uid: self.pod_uid.clone(),
        }
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::File { step, path, source }
}

fn path(dir: &Path, sandbox: &str) -> Result<PathBuf, NetworkError> {
    let name = ContainerName::parse(sandbox).map_err(NetworkError::Name)?;
    Ok(dir.join(format!("{name}.json")))
}

/// Writes a record.
pub(crate) fn write(dir: &Path, record: &Record) -> Result<(), NetworkError> {
    let path = path(dir, &record.sandbox)?;
    let temporary = path.with_extension("tmp");
    let bytes = serde_json::to_vec(record).map_err(|error| failed("write", &path)(error.into()))?;
    fs::write(&temporary, bytes).map_err(failed("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(failed("rename", &temporary))
}

/// Removes a record; none is no error.
pub(crate) fn remove(dir: &Path, sandbox: &str) -> Result<(), NetworkError> {
    let path = path(dir, sandbox)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// Reads all records of this boot. Those of an earlier one are removed: what they speak of is gone. One that can't be read
/// is set aside and told, never a reason not to serve.
pub(crate) fn read_all(dir: &Path, boot: &str) -> Result<BTreeMap<String, Record>, NetworkError> {
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    let mut records = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
            continue;
        }
        match read(&path) {
            Ok(record) if record.boot == boot => {
                records.insert(record.sandbox.clone(), record);
            }
            Ok(_) => fs::remove_file(&path).map_err(failed("remove", &path))?,
            Err(error) => {
                tracing::warn!(?path, %error, "a network record can't be read and is set aside");
                fs::rename(&path, path.with_extension("bad")).map_err(failed("rename", &path))?;
            }
        }
    }
    Ok(records)
}

fn read(path: &Path) -> io::Result<Record> {
    if fs::metadata(path)?.len() > RECORD_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
