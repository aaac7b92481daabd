//! `ImageService`: one file per verb.

use std::sync::Arc;

use images_service::Images;
use runtime_cri_api::v1::{self, image_service_server::ImageService};
use runtime_engine::Engine;
use tonic::{Request, Response, Status, codegen::BoxStream};

mod image_fs_info;
mod image_status;
mod list_images;
mod pull_image;
mod remove_image;

/// The image verbs.
#[derive(Debug, Clone)]
pub struct ImageVerbs {
    pub(crate) images: Images,
    pub(crate) engine: Arc<Engine>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for ImageVerbs {
    type StreamImagesStream = BoxStream<v1::StreamImagesResponse>;

    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        let images = list_images::list(self, request.into_inner().filter);
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn stream_images(&self, request: Request<v1::StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        let images = list_images::list(self, request.into_inner().filter);
        Ok(crate::stream::chunks(images, |images| v1::StreamImagesResponse { images }))
    }

    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Answer<v1::ImageStatusResponse> {
        image_status::answer(self, request.into_inner()).map(Response::new)
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        pull_image::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Answer<v1::RemoveImageResponse> {
        remove_image::answer(self, request.into_inner()).await.map(Response::new)
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Answer<v1::ImageFsInfoResponse> {
        image_fs_info::answer(self).await.map(Response::new)
    }
}

/// The name in a request, which must be there.
fn named(image: Option<v1::ImageSpec>) -> Result<String, Status> {
    let name = image.map(|image| image.image).unwrap_or_default();
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(crate::error::invalid("image", "is missing, too long, or contains control characters"));
    }
    Ok(name)
}

/// Longest reference, in bytes; repository names have up to 255, digests 135.
const NAME_BYTES_MAX: usize = 4096;
