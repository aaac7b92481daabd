//! From records to CRI's words.

use std::collections::{BTreeMap, HashMap};

mod container;
mod image;
mod metrics;
mod sandbox;
mod usage;

pub(crate) use container::{container, container_status, container_verbose};
pub(crate) use image::{image, image_verbose};
pub(crate) use metrics::{metric_descriptors, sandbox_metrics};
pub(crate) use sandbox::{sandbox, sandbox_status, sandbox_verbose};
pub(crate) use usage::{container_stats, sandbox_stats};

fn map(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}
