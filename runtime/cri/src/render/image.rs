//! Images.

use std::collections::HashMap;

use runtime_cri_api::v1::{Image, ImageSpec, Int64Value};

/// For lists and status.
pub(crate) fn image(image: &images_service::Image) -> Image {
    // `USER` may name a group too, which CRI doesn't ask for.
    let user = image.user.as_deref().unwrap_or("").split(':').next().unwrap_or("");
    let uid = user.parse().ok().filter(|_| user.bytes().all(|byte| byte.is_ascii_digit()));
    Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size_bytes,
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        uid: uid.map(|value| Int64Value { value }),
        spec: Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() }),
        pinned: image.pinned,
    }
}

/// For `inspecti`.
pub(crate) fn image_verbose(image: &images_service::Image) -> HashMap<String, String> {
    let info = serde_json::json!({ "imageSpec": image.config, "manifest": image.manifest });
    HashMap::from([("info".to_owned(), info.to_string())])
}
