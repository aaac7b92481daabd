//! ImageFsInfo, from memory: images and writable layers apart, though on most machines they share a file system.

use std::time::{SystemTime, UNIX_EPOCH};

use runtime_cri_api::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoResponse, UInt64Value};
use tonic::Status;

use super::ImageVerbs;
use crate::error::engine;

pub(super) async fn answer(verbs: &ImageVerbs) -> Result<ImageFsInfoResponse, Status> {
    let images = verbs.images.usage();
    let layers = verbs.engine.layers_usage().await.map_err(|error| engine(&error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let told = |path: &std::path::Path, bytes, inodes| FilesystemUsage {
        timestamp: i64::try_from(now).unwrap_or(i64::MAX),
        fs_id: Some(FilesystemIdentifier { mountpoint: path.to_string_lossy().into_owned() }),
        used_bytes: Some(UInt64Value { value: bytes }),
        inodes_used: Some(UInt64Value { value: inodes }),
    };
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![told(&images.path, images.bytes, images.inodes)],
        container_filesystems: vec![told(&layers.path, layers.bytes, layers.inodes)],
    })
}
