//! The two CRI services: requests are parsed into our words at the door, answers rendered from records.
//!
//! *In*: CRI v1 messages. *Out*: CRI v1 messages, and one status code for each kind of error. *Not here*: what a verb does
//! (`runtime/engine`, `images/service`). CRI messages stop in this crate.

use std::{collections::BTreeMap, sync::Arc};

use images_service::Images;
use runtime_cri_api::v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer};
use runtime_engine::Engine;
use runtime_streaming::Streaming;

mod error;
mod image;
mod parse;
mod render;
mod runtime;
mod stream;
mod streams;

pub use image::ImageVerbs;
pub use runtime::RuntimeVerbs;
pub use streams::backend;

/// The runtime handlers that may be named: none, and ours by its name.
pub(crate) const RUNTIME_HANDLERS: [&str; 2] = ["", "podwright"];

/// What the node says of itself.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// Its version.
    pub version: String,
    /// Its settings, for `crictl info`. No secrets: every client reads them.
    pub settings: BTreeMap<String, String>,
}

/// The services, ready to be served.
pub fn services(
    engine: Arc<Engine>,
    images: Images,
    streaming: Streaming,
    info: NodeInfo,
) -> (RuntimeServiceServer<RuntimeVerbs>, ImageServiceServer<ImageVerbs>) {
    let runtime = RuntimeVerbs { engine: Arc::clone(&engine), images: images.clone(), streaming, info: Arc::new(info) };
    (RuntimeServiceServer::new(runtime), ImageServiceServer::new(ImageVerbs { images, engine }))
}
