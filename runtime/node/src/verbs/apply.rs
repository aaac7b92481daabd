//! `podwright apply`: pods for the node to keep.

use runtime_control_api::v1::ApplyRequest;

use crate::cli::{Apply, PodName};
use crate::client::Client;
use crate::error::refused;
use crate::output;
use crate::verbs::{Answer, manifests};

pub(super) async fn run(mut client: Client, arguments: &Apply) -> Answer {
    let manifests = manifests::read(&arguments.files)?;
    // Parsed here too: a mistake is told without a node, in the words of `podwright check`.
    manifests::parse(&manifests)?;
    let answer = client.control.apply(ApplyRequest { manifests }).await.map_err(refused("apply"))?;
    for pod in answer.into_inner().pods {
        output::line(&format!("pod {} is kept", PodName { namespace: pod.namespace, name: pod.name }));
    }
    Ok(0)
}
