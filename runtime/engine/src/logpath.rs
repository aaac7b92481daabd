//! Where a container's log is.

use std::path::{Component, Path, PathBuf};

use runtime_lifecycle::{ContainerConfig, SandboxRecord};

use crate::EngineError;

/// Longest path of a log and longest part of it, in bytes (`PATH_MAX`, `NAME_MAX`).
const PATH_BYTES_MAX: usize = 4095;
const FILE_NAME_BYTES_MAX: usize = 255;

/// Below the sandbox's log directory, whatever the container's own path says.
pub(crate) fn of(pod: &SandboxRecord, config: &ContainerConfig) -> Result<Option<PathBuf>, EngineError> {
    let Some(directory) = pod.config.log_directory.as_deref().filter(|_| config.log_path != Path::new("")) else {
        return Ok(None);
    };
    let given = &config.log_path;
    let refused = |why: &str| {
        let shown: String = given.to_string_lossy().chars().take(200).collect();
        Err(EngineError::invalid("log_path", format!("{shown:?} {why}")))
    };
    let inside = given.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside || given.as_os_str().as_encoded_bytes().contains(&0) {
        return refused("leads out of the sandbox's log directory");
    }
    // Said here and not by the kernel when the container is started, which would count as the container's failure.
    if given.file_name().is_none() {
        return refused("names no file");
    }
    let log = directory.join(given);
    if log.as_os_str().len() > PATH_BYTES_MAX || log.iter().any(|part| part.len() > FILE_NAME_BYTES_MAX) {
        return refused("is longer than the kernel takes");
    }
    Ok(Some(log))
}
