//! ImageFsInfo, from memory. Images and writable layers share one file system, which is told twice as other runtimes do.

use std::time::{SystemTime, UNIX_EPOCH};

use runtime_cri_api::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoResponse, UInt64Value};

use super::ImageVerbs;

pub(super) fn answer(verbs: &ImageVerbs) -> ImageFsInfoResponse {
    let usage = verbs.images.usage();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let told = FilesystemUsage {
        timestamp: i64::try_from(now).unwrap_or(i64::MAX),
        fs_id: Some(FilesystemIdentifier { mountpoint: usage.path.to_string_lossy().into_owned() }),
        used_bytes: Some(UInt64Value { value: usage.bytes }),
        inodes_used: Some(UInt64Value { value: usage.inodes }),
    };
    ImageFsInfoResponse { image_filesystems: vec![told.clone()], container_filesystems: vec![told] }
}
