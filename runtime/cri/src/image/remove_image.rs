//! RemoveImage: all names of the image; one that isn't here is as good.

use runtime_cri_api::v1::{RemoveImageRequest, RemoveImageResponse};
use tonic::Status;

use super::{ImageVerbs, named};
use crate::error::image;

pub(super) async fn answer(verbs: &ImageVerbs, request: RemoveImageRequest) -> Result<RemoveImageResponse, Status> {
    let name = named(request.image)?;
    verbs.images.remove(&name).await.map_err(|error| image(&error))?;
    Ok(RemoveImageResponse {})
}
