//! Pulls with progress.

use images_service::{Auth, ImageError, Images, Kind, LayerState, PullEvent, Secret};
use runtime_control_api::v1::pull_progress::{Layer, Pulled, Resolved, State, Step};
use runtime_control_api::v1::{PullProgress, PullRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::error::chain;

/// Steps between the pull and the client. The pull never waits: what doesn't fit is left out, and the next step of the
/// same layer says more.
const STEPS_AHEAD_MAX: usize = 256;

/// Fetches an image. The pull goes on to its end when the client goes away: others may have joined it, and the layers
/// are worth keeping.
pub(super) fn pull(images: Images, request: PullRequest) -> ReceiverStream<Result<PullProgress, Status>> {
    let (sender, receiver) = mpsc::channel(STEPS_AHEAD_MAX);
    tokio::spawn(async move {
        let answer = match images.find(&request.image).filter(|_| request.if_not_present) {
            Some(image) => Ok(Step::Pulled(pulled(&image, &request.image, Presence::Before))),
            None => fetch(&images, request, &sender).await,
        };
        // A client that is gone needs no answer.
        drop(sender.send(answer.map(message)).await);
    });
    ReceiverStream::new(receiver)
}

async fn fetch(
    images: &Images,
    request: PullRequest,
    steps: &mpsc::Sender<Result<PullProgress, Status>>,
) -> Result<Step, Status> {
    let auth = request.credentials.map(|given| Auth {
        secret: Secret::Password { username: given.username, password: given.password },
        server_address: None,
    });
    let (events, mut received) = mpsc::channel(STEPS_AHEAD_MAX);
    let to_client = steps.clone();
    let telling = tokio::spawn(async move {
        while let Some(event) = received.recv().await {
            if let Some(step) = step(event)
                && to_client.send(Ok(message(step))).await.is_err()
            {
                return;
            }
        }
    });
    let result = images.pull(&request.image, auth, Some(events)).await;
    // The sender is gone with the pull: what it told is passed on before the answer. It can't fail but by a panic of ours.
    drop(telling.await);
    let image = result.map_err(|error| status(&error))?;
    Ok(Step::Pulled(pulled(&image, &request.image, Presence::Fetched)))
}

fn step(event: PullEvent) -> Option<Step> {
    match event {
        PullEvent::Resolved { layers, total_bytes } => {
            Some(Step::Resolved(Resolved { layers: super::count(layers), bytes: total_bytes }))
        }
        PullEvent::Layer { digest, state } => {
            let (state, done_bytes, total_bytes) = match state {
                LayerState::Waiting => (State::Waiting, 0, 0),
                LayerState::Downloading { done, total } => (State::Downloading, done, total),
                LayerState::Unpacking => (State::Unpacking, 0, 0),
                LayerState::Done => (State::Done, 0, 0),
                LayerState::Exists => (State::Exists, 0, 0),
            };
            Some(Step::Layer(Layer { digest, state: state.into(), done_bytes, total_bytes }))
        }
        // The answer itself says so, with the image's id.
        PullEvent::Done => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Before,
    Fetched,
}

fn pulled(image: &images_service::Image, asked: &str, presence: Presence) -> Pulled {
    // The digest under the repository that was asked for, where the image has several.
    let repository = asked.split('@').next().unwrap_or(asked);
    let repository = match repository.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => repository,
    };
    let named =
        image.repo_digests.iter().find(|name| name.split('@').next().is_some_and(|name| name.ends_with(repository)));
    Pulled {
        id: image.id.clone(),
        digest: named.or_else(|| image.repo_digests.first()).cloned().unwrap_or_default(),
        present: presence == Presence::Before,
    }
}

fn message(step: Step) -> PullProgress {
    PullProgress { step: Some(step) }
}

/// The code that clients branch on, with the whole chain for people.
pub(super) fn status(error: &ImageError) -> Status {
    let code = match error.kind() {
        Kind::NotFound => Code::NotFound,
        Kind::Unauthorized => Code::Unauthenticated,
        Kind::Unreachable => Code::Unavailable,
        Kind::Invalid => Code::InvalidArgument,
        Kind::NoSpace => Code::ResourceExhausted,
        Kind::InUse => Code::FailedPrecondition,
        Kind::Disk => Code::Internal,
    };
    Status::new(code, chain(error))
}
