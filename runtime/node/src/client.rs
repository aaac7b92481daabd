//! A connection to a node: CRI and the control service on one socket.

use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use runtime_control_api::v1::control_client::ControlClient;
use runtime_cri_api::v1::image_service_client::ImageServiceClient;
use runtime_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::address::Address;
use crate::error::Error;

/// Answers may be larger than what the node takes in: a list of everything, an exec's output twice 16 MiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A local daemon that doesn't take a connection in this time is stuck.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The services of one node.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
    pub(crate) control: ControlClient<Channel>,
}

/// Whether somebody listens there: asked without a runtime, before the command decides what to start.
pub(crate) fn answers(address: &Address) -> Result<bool, Error> {
    match std::os::unix::net::UnixStream::connect(address.path()) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Error::NotAllowed { address: address.clone() })
        }
        // No socket, or one that nobody listens on any more.
        Err(_) => Ok(false),
    }
}

impl Client {
    /// Connects, and says plainly when nobody is there.
    pub(crate) async fn connect(address: &Address) -> Result<Client, Error> {
        let path = address.path().to_owned();
        // The first connection is made here, since tonic would hide its error; later ones, if this one breaks, there.
        let first = UnixStream::connect(&path).await.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => Error::NotAllowed { address: address.clone() },
            _ => Error::NoNode { address: address.clone(), cause: source },
        })?;
        let mut first = Some(first);
        let connector = tower::service_fn(move |_| {
            let (ready, path) = (first.take(), path.clone());
            async move {
                match ready {
                    Some(stream) => Ok(TokioIo::new(stream)),
                    None => UnixStream::connect(path).await.map(TokioIo::new),
                }
            }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT_DEADLINE)
            .connect_with_connector(connector)
            .await
            .map_err(|source| Error::Transport { address: address.clone(), source })?;
        Ok(Client {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX),
            control: ControlClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX),
        })
    }
}
