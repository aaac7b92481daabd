//! Which boot this is.

use std::fs;

use crate::{EngineError, disk};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's name for this boot.
pub(crate) fn boot_id() -> Result<String, EngineError> {
    Ok(fs::read_to_string(BOOT_ID).map_err(disk("read", BOOT_ID))?.trim().to_owned())
}
