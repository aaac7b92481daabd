//! PullImage.

use images_service::{Auth, AuthFields, ImageError, Kind};
use runtime_cri_api::v1::{AuthConfig, PullImageRequest, PullImageResponse};
use tonic::Status;

use super::{ImageVerbs, named};
use crate::error::{image, invalid};

pub(super) async fn answer(verbs: &ImageVerbs, request: PullImageRequest) -> Result<PullImageResponse, Status> {
    let handler = request.image.as_ref().map(|image| image.runtime_handler.as_str()).unwrap_or_default();
    if !crate::RUNTIME_HANDLERS.contains(&handler) {
        return Err(invalid("image.runtime_handler", "there is no such handler"));
    }
    let name = named(request.image)?;
    let auth = request.auth.as_ref().map(credentials).transpose()?.flatten();
    // A client that goes away takes its pull along, unless another waits for the same; what came of the layers stays, and
    // the next pull goes on from there.
    match verbs.images.pull(&name, auth, None).await {
        Ok(pulled) => Ok(PullImageResponse { image_ref: pulled.id.clone() }),
        Err(error) if error.kind() == Kind::Unreachable => Err(unavailable(&error)),
        Err(error) => Err(image(&error)),
    }
}

/// The kubelet tells "the registry is down" from other failures by these first letters of the message
/// (k8s.io/cri-api/pkg/errors, `ErrRegistryUnavailable`), which it sees only where the code is UNKNOWN (cri-client,
/// remote_image.go strips that one). Its pod then waits with the reason `RegistryUnavailable` in place of `ErrImagePull`.
fn unavailable(error: &ImageError) -> Status {
    let status = image(error);
    Status::unknown(format!("RegistryUnavailable: {}", status.message()))
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
