//! Making volumes, and taking them away.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{fd::AsFd, unix::fs::FileTypeExt},
    path::{Path, PathBuf},
};

use kubelet_shim_manifest::{HostPathKind, Pod};
use runtime_sys::{
    SysError,
    fs::{Kind, Open, fchmod, fstat, fstatat, mkdirat, open, openat, read_directory, remove_tree},
    mount::{Attributes, attach, detach, new_filesystem},
};

use crate::plan::{Step, plan};

/// Why a volume can't be had, or not taken away.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The host has nothing at the path, or something else.
    #[error("volume `{volume}` ({file}:{line}): hostPath {path} {problem}")]
    HostPath {
        /// The volume.
        volume: String,
        /// The manifest.
        file: String,
        /// Its line.
        line: u64,
        /// The path.
        path: String,
        /// What is wrong, and the way out.
        problem: String,
    },
    /// A path of the keeper's own can't be made or removed.
    #[error("cannot make or remove volumes in {path:?}: {source}")]
    Own {
        /// The path.
        path: PathBuf,
        /// The call that failed.
        source: SysError,
    },
    /// The keeper's directory can't be made.
    #[error("cannot make {path:?}: {source}")]
    Directory {
        /// The path.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Makes every volume of the pod below `root` and tells where each one is. What is there already is taken as it is, so a
/// sandbox that is run anew finds its data.
///
/// # Errors
/// The first volume that can't be had.
pub fn apply(pod: &Pod, root: &Path) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let own = root.join(&pod.metadata.uid);
    plan(pod).into_iter().map(|step| carry_out(pod, &own, step)).collect()
}

fn carry_out(pod: &Pod, own: &Path, step: Step) -> Result<(String, PathBuf), VolumeError> {
    match step {
        Step::Directory { volume } => {
            let path = directory(own, &volume)?;
            Ok((volume, path))
        }
        Step::Tmpfs { volume, size_bytes_max } => {
            let path = directory(own, &volume)?;
            tmpfs(own, &path, size_bytes_max).map_err(|source| VolumeError::Own { path: path.clone(), source })?;
            Ok((volume, path))
        }
        Step::Host { volume, path, kind } => {
            if let Err(problem) = host_path(Path::new(&path), kind) {
                let line = pod.origin.volume_lines.get(&volume).copied().unwrap_or(pod.origin.line);
                return Err(VolumeError::HostPath { volume, file: pod.origin.file.clone(), line, path, problem });
            }
            Ok((volume, PathBuf::from(path)))
        }
    }
}

/// A directory that any user of the pod may write, as the kubelet makes it.
fn directory(own: &Path, volume: &str) -> Result<PathBuf, VolumeError> {
    let path = own.join(volume);
    fs::create_dir_all(own).map_err(|source| VolumeError::Directory { path: own.to_owned(), source })?;
    let make = || -> Result<(), SysError> {
        let parent = open(own, Open::PATH | Open::DIRECTORY, 0)?;
        match mkdirat(&parent, volume, 0o777) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            answer => answer?,
        }
        // The mask of the process took bits away.
        fchmod(openat(&parent, volume, Open::READ | Open::DIRECTORY | Open::NO_FOLLOW, 0)?, 0o777)
    };
    make().map_err(|source| VolumeError::Own { path: path.clone(), source })?;
    Ok(path)
}

fn tmpfs(own: &Path, path: &Path, size_bytes_max: Option<u64>) -> Result<(), SysError> {
    let parent = open(own, Open::PATH | Open::DIRECTORY, 0)?;
    let target = open(path, Open::PATH | Open::DIRECTORY | Open::NO_FOLLOW, 0)?;
    if fstat(&parent)?.device != fstat(&target)?.device {
        return Ok(());
    }
    let size = size_bytes_max.map_or_else(|| "50%".to_owned(), |bytes| bytes.to_string());
    let size = CString::new(size).expect("digits hold no zero byte");
    let options = [(c"mode", Some(c"0777")), (c"size", Some(size.as_c_str()))];
    let tree = new_filesystem(c"tmpfs", &options, Attributes::NO_SUID.and(Attributes::NO_DEV))?;
    attach(tree.as_fd(), target.as_fd())
}

/// Checks what the manifest promises of the host, or makes it where it says so.
fn host_path(path: &Path, kind: HostPathKind) -> Result<(), String> {
    let found = match fs::metadata(path) {
        Ok(found) => Some(found.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("cannot be looked at: {error}")),
    };
    let missing = |word: &str| Err(format!("does not exist: make it, or write `type: {word}` to have it made"));
    let wrong = |word: &str| Err(format!("is not a {word}: correct the path or the type"));
    match (kind, found) {
        (HostPathKind::DirectoryOrCreate, None) => {
            fs::create_dir_all(path).map_err(|error| format!("cannot be made: {error}"))
        }
        (HostPathKind::FileOrCreate, None) => fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map(drop)
            .map_err(|error| format!("cannot be made: {error}; its directory must exist")),
        (HostPathKind::Unchecked | HostPathKind::Directory, None) => missing("DirectoryOrCreate"),
        (HostPathKind::File, None) => missing("FileOrCreate"),
        (HostPathKind::Socket, None) => Err("does not exist: start the program that serves the socket".to_owned()),
        (HostPathKind::CharDevice | HostPathKind::BlockDevice, None) => {
            Err("does not exist: load the device's driver or correct the path".to_owned())
        }
        (HostPathKind::Unchecked, Some(_)) => Ok(()),
        (HostPathKind::Directory | HostPathKind::DirectoryOrCreate, Some(kind)) => {
            if kind.is_dir() {
                Ok(())
            } else {
                wrong("directory")
            }
        }
        (HostPathKind::File | HostPathKind::FileOrCreate, Some(kind)) => {
            if kind.is_file() {
                Ok(())
            } else {
                wrong("regular file")
            }
        }
        (HostPathKind::Socket, Some(kind)) => {
            if kind.is_socket() {
                Ok(())
            } else {
                wrong("socket")
            }
        }
        (HostPathKind::CharDevice, Some(kind)) => {
            if kind.is_char_device() {
                Ok(())
            } else {
                wrong("character device")
            }
        }
        (HostPathKind::BlockDevice, Some(kind)) => {
            if kind.is_block_device() {
                Ok(())
            } else {
                wrong("block device")
            }
        }
    }
}

/// Takes away what [`apply`] made below `root` for the pod of that uid. Nothing there is success.
///
/// # Errors
/// What can't be removed; something that is mounted deeper inside a volume is named so and left alone.
pub fn remove(root: &Path, uid: &str) -> Result<(), VolumeError> {
    let own = root.join(uid);
    let wrong = |source| VolumeError::Own { path: own.clone(), source };
    let parent = match open(root, Open::READ | Open::DIRECTORY, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        answer => answer.map_err(wrong)?,
    };
    let directory = match openat(&parent, uid, Open::READ | Open::DIRECTORY | Open::NO_FOLLOW, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        answer => answer.map_err(wrong)?,
    };
    let device = fstat(&directory).map_err(wrong)?.device;
    for entry in read_directory(&directory).map_err(wrong)? {
        let found = fstatat(&directory, &entry.name).map_err(wrong)?;
        if found.kind != Kind::Directory || found.device == device {
            continue;
        }
        let path = own.join(&entry.name);
        if let Ok(path) = CString::new(path.into_os_string().into_encoded_bytes()) {
            detach(&path).map_err(wrong)?;
        }
    }
    remove_tree(&parent, uid).map_err(wrong)
}

#[cfg(test)]
mod tests;
