//! PullImage.

use images_service::{Auth, AuthFields};
use runtime_cri_api::v1::{AuthConfig, PullImageRequest, PullImageResponse};
use tonic::Status;

use super::{ImageVerbs, named};
use crate::error::{image, invalid};

pub(super) async fn answer(verbs: &ImageVerbs, request: PullImageRequest) -> Result<PullImageResponse, Status> {
    let name = named(request.image)?;
    let auth = request.auth.as_ref().map(credentials).transpose()?.flatten();
    let images = verbs.images.clone();
    // A pull that its client gives up goes on: the next one finds the layers.
    let pulled = tokio::spawn(async move { images.pull(&name, auth, None).await }).await;
    match pulled {
        Ok(Ok(pulled)) => Ok(PullImageResponse { image_ref: pulled.id.clone() }),
        Ok(Err(error)) => Err(image(&error)),
        Err(_) => Err(Status::unavailable("the pull was interrupted: the daemon is stopping")),
    }
}

fn credentials(auth: &AuthConfig) -> Result<Option<Auth>, Status> {
    let fields = AuthFields {
        username: &auth.username,
        password: &auth.password,
        auth: &auth.auth,
        server_address: &auth.server_address,
        identity_token: &auth.identity_token,
        registry_token: &auth.registry_token,
    };
    Auth::from_fields(fields).map_err(|error| invalid("auth", error))
}
