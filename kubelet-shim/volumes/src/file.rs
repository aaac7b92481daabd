//! Reading a file that somebody else may have put there.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use runtime_sys::{
    SysError,
    fs::{Kind, Open, fstat, open},
};

/// Why a file isn't read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be opened (a symbolic link can't, here).
    #[error("{source}; a manifest is a plain file, not a link")]
    Open {
        /// The call that failed.
        source: SysError,
    },
    /// It is a FIFO, a directory, a device.
    #[error("is not a regular file")]
    Irregular,
    /// Others than its owner may write to it, or the owner is neither root nor the keeper.
    #[error("can be written by others (mode {mode:o}, owner {uid}): chown root and chmod go-w it")]
    Exposed {
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
    },
    /// It is longer than allowed.
    #[error("is longer than {max} bytes")]
    TooLong {
        /// The limit.
        max: u64,
    },
    /// It can't be read, or isn't UTF-8.
    #[error("cannot be read: {source}")]
    Read {
        /// The kernel's word.
        source: io::Error,
    },
}

/// Reads a regular file of at most `bytes_max` that only root or its reader can write. Never waits for a FIFO's writer.
///
/// # Errors
/// What the file is instead.
pub fn read_trusted(path: &Path, bytes_max: u64) -> Result<String, FileError> {
    let own = open("/proc/self", Open::PATH | Open::DIRECTORY, 0).and_then(fstat).map_or(0, |found| found.uid);
    let file =
        open(path, Open::READ | Open::NO_FOLLOW | Open::NON_BLOCK, 0).map_err(|source| FileError::Open { source })?;
    let found = fstat(&file).map_err(|source| FileError::Open { source })?;
    if found.kind != Kind::Regular {
        return Err(FileError::Irregular);
    }
    if found.mode & 0o022 != 0 || (found.uid != 0 && found.uid != own) {
        return Err(FileError::Exposed { mode: found.mode, uid: found.uid });
    }
    let mut text = String::new();
    let length = File::from(file).take(bytes_max + 1).read_to_string(&mut text);
    if length.map_err(|source| FileError::Read { source })? as u64 > bytes_max {
        return Err(FileError::TooLong { max: bytes_max });
    }
    Ok(text)
}
