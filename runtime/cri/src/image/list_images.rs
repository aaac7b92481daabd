//! ListImages and StreamImages.

use runtime_cri_api::v1::{Image, ImageFilter};

use super::ImageVerbs;
use crate::render;

pub(super) fn list(verbs: &ImageVerbs, filter: Option<ImageFilter>) -> Vec<Image> {
    let name = filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
    if name.is_empty() {
        return verbs.images.list().iter().map(|image| render::image(image)).collect();
    }
    verbs.images.find(&name).iter().map(|image| render::image(image)).collect()
}
