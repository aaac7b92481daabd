//! From CRI's words to ours. Whatever comes through here is checked: no NUL bytes, nothing endless, no number out of range.

use std::{collections::BTreeMap, path::PathBuf};

use runtime_cri_api::v1::{ContainerFilter, ContainerState, PodSandboxFilter, PodSandboxState};
use runtime_engine::Engine;
use runtime_lifecycle::{self as lifecycle, StateFilter};
use tonic::Status;

use crate::error::{engine, invalid};

mod container;
mod mount;
mod sandbox;
mod signal;
mod userns;

pub(crate) use container::{container_config, resources};
pub(crate) use sandbox::sandbox_config;
pub(crate) use signal::name as signal_name;

/// Longest single text, in bytes: an annotation may hold a whole manifest (kubectl's last-applied-configuration).
const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Longest name, in bytes; Kubernetes' have 253.
const NAME_BYTES_MAX: usize = 1024;

/// Longest path, in bytes: what the kernel takes.
const PATH_BYTES_MAX: usize = 4095;

/// Most labels, or annotations, of one object.
const ENTRIES_MAX: usize = 4096;

/// Any text.
fn text(what: &str, text: String) -> Result<String, Status> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(invalid(what, format!("longer than {TEXT_BYTES_MAX} bytes")));
    }
    if text.contains('\0') {
        return Err(invalid(what, "contains a NUL byte"));
    }
    Ok(text)
}

/// A name that must be there.
fn name(what: &str, given: String) -> Result<String, Status> {
    if given.is_empty() {
        return Err(invalid(what, "is missing"));
    }
    optional_name(what, given)
}

/// A name that may be absent. It stands in lists, logs and messages, where a line break would forge a line.
fn optional_name(what: &str, given: String) -> Result<String, Status> {
    if given.len() > NAME_BYTES_MAX {
        return Err(invalid(what, format!("longer than {NAME_BYTES_MAX} bytes")));
    }
    plain(what, given)
}

/// A text of one line: names, paths.
fn plain(what: &str, given: String) -> Result<String, Status> {
    let given = text(what, given)?;
    match given.chars().find(|letter| letter.is_control()) {
        Some(letter) => Err(invalid(what, format!("contains the control character {letter:?}"))),
        None => Ok(given),
    }
}

fn texts(what: &str, list: Vec<String>) -> Result<Vec<String>, Status> {
    if list.len() > ENTRIES_MAX {
        return Err(invalid(what, format!("more than {ENTRIES_MAX}")));
    }
    list.into_iter().map(|one| text(what, one)).collect()
}

/// Labels, annotations.
fn map<M: IntoIterator<Item = (String, String)>>(what: &str, map: M) -> Result<BTreeMap<String, String>, Status> {
    let mut kept = BTreeMap::new();
    for (key, value) in map {
        kept.insert(text(what, key)?, text(what, value)?);
        if kept.len() > ENTRIES_MAX {
            return Err(invalid(what, format!("more than {ENTRIES_MAX}")));
        }
    }
    Ok(kept)
}

/// An absolute path, or none.
fn absolute(what: &str, path: String) -> Result<Option<PathBuf>, Status> {
    let path = plain(what, path)?;
    match path.as_str() {
        "" => Ok(None),
        path if path.len() > PATH_BYTES_MAX => Err(invalid(what, format!("longer than {PATH_BYTES_MAX} bytes"))),
        path if path.starts_with('/') && !PathBuf::from(path).components().any(|part| part.as_os_str() == "..") => {
            Ok(Some(PathBuf::from(path)))
        }
        path => Err(invalid(what, format!("{path:?} is not an absolute path without \"..\""))),
    }
}

/// A number of an enumeration that this build knows.
fn known<E: TryFrom<i32>>(what: &str, number: i32) -> Result<E, Status> {
    E::try_from(number).map_err(|_| invalid(what, format!("{number} is not known")))
}

/// A non-negative 32-bit id.
fn id(what: &str, number: i64) -> Result<u32, Status> {
    u32::try_from(number).map_err(|_| invalid(what, format!("{number} is not an id")))
}

/// Which sandboxes; `None`: an id that nobody has, so nothing.
pub(crate) fn sandbox_filter(
    engine_: &Engine,
    filter: Option<PodSandboxFilter>,
) -> Result<Option<lifecycle::SandboxFilter>, Status> {
    let filter = filter.unwrap_or_default();
    let state = match filter.state {
        None => None,
        Some(value) => Some(match known("state", value.state)? {
            PodSandboxState::SandboxReady => StateFilter::Ready,
            PodSandboxState::SandboxNotready => StateFilter::NotReady,
        }),
    };
    let id = match filter.id.as_str() {
        "" => None,
        text => match engine_.find_sandbox(text) {
            Ok(id) => Some(id),
            Err(error) if error.kind() == runtime_engine::Kind::NotFound => return Ok(None),
            Err(error) => return Err(engine(&error)),
        },
    };
    Ok(Some(lifecycle::SandboxFilter { id, state, labels: map("label_selector", filter.label_selector)? }))
}

/// Which containers; `None`: an id that nobody has, so nothing.
pub(crate) fn container_filter(
    engine_: &Engine,
    filter: Option<ContainerFilter>,
) -> Result<Option<lifecycle::ContainerFilter>, Status> {
    let filter = filter.unwrap_or_default();
    let state = match filter.state {
        None => None,
        Some(value) => Some(match known("state", value.state)? {
            ContainerState::ContainerCreated => StateFilter::Created,
            ContainerState::ContainerRunning => StateFilter::Running,
            ContainerState::ContainerExited => StateFilter::Exited,
            ContainerState::ContainerUnknown => StateFilter::Unknown,
        }),
    };
    let none = |error: runtime_engine::EngineError| match error.kind() {
        runtime_engine::Kind::NotFound => Ok(None),
        _ => Err(engine(&error)),
    };
    let id = match filter.id.as_str() {
        "" => None,
        text => match engine_.find_container(text) {
            Ok(id) => Some(id),
            Err(error) => return none(error),
        },
    };
    let sandbox = match filter.pod_sandbox_id.as_str() {
        "" => None,
        text => match engine_.find_sandbox(text) {
            Ok(id) => Some(id),
            Err(error) => return none(error),
        },
    };
    Ok(Some(lifecycle::ContainerFilter { id, sandbox, state, labels: map("label_selector", filter.label_selector)? }))
}

#[cfg(test)]
mod tests;
