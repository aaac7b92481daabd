//! ImageStatus: an image that isn't here is an empty answer, no error.

use std::collections::HashMap;

use runtime_cri_api::v1::{ImageStatusRequest, ImageStatusResponse};
use tonic::Status;

use super::{ImageVerbs, named};
use crate::render;

pub(super) fn answer(verbs: &ImageVerbs, request: ImageStatusRequest) -> Result<ImageStatusResponse, Status> {
    let Some(image) = verbs.images.find(&named(request.image)?) else {
        return Ok(ImageStatusResponse { image: None, info: HashMap::new() });
    };
    let info = if request.verbose { render::image_verbose(&image) } else { HashMap::new() };
    Ok(ImageStatusResponse { image: Some(render::image(&image)), info })
}
