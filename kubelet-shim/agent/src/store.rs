//! What the keeper remembers of its pods: one JSON file each, written whole and renamed.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use kubelet_shim_manifest::Pod;
use kubelet_shim_reconcile::Memory;
use serde::{Deserialize, Serialize};

/// Where a pod comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Source {
    /// Somebody applied it.
    Applied,
    /// A file in the watched directory.
    File(PathBuf),
}

/// One pod's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The boot that the memory belongs to.
    pub(crate) boot: String,
    pub(crate) source: Source,
    pub(crate) pod: Pod,
    pub(crate) memory: Memory,
}

fn path(directory: &Path, uid: &str) -> PathBuf {
    directory.join(format!("{uid}.json"))
}

/// Writes a record. `sync`: it must outlive a power cut (the pod is new).
pub(crate) fn save(directory: &Path, record: &Record, sync: Durability) -> io::Result<()> {
    let target = path(directory, &record.pod.metadata.uid);
    let temporary = target.with_extension("json.new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    if sync == Durability::Disk {
        file.sync_all()?;
    }
    fs::rename(&temporary, &target)?;
    if sync == Durability::Disk {
        fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// How much a written record must outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The keeper's death. A power cut makes the memory worthless anyway: another boot begins.
    Process,
    /// A power cut.
    Disk,
}

/// Forgets a record.
pub(crate) fn remove(directory: &Path, uid: &str) -> io::Result<()> {
    match fs::remove_file(path(directory, uid)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads all records. One that can't be read is set aside as `.bad` and named: it must not keep the others down.
pub(crate) fn load(directory: &Path) -> io::Result<(Vec<Record>, Vec<PathBuf>)> {
    let (mut records, mut bad) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let read = fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
        match read {
            Ok(record) => records.push(record),
            Err(_) => {
                let aside = path.with_extension("bad");
                fs::rename(&path, &aside)?;
                bad.push(aside);
            }
        }
    }
    Ok((records, bad))
}
