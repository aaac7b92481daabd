//! `podwright delete`: pods that are stopped and forgotten.

use std::time::Duration;

use runtime_control_api::v1::{DeletePodRequest, PodKey};

use crate::cli::{Delete, PodName};
use crate::client::Client;
use crate::error::{Error, chain, refused};
use crate::output;
use crate::verbs::Answer;

pub(super) async fn run(mut client: Client, arguments: &Delete) -> Answer {
    let mut failures = Vec::new();
    for pod in &arguments.pods {
        match delete(&mut client, pod, arguments.grace).await {
            Ok(()) => output::line(&format!("pod {pod} is gone")),
            Err(error) => failures.push(chain(&error)),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Error::Several(failures)) }
}

/// Stops one pod and waits until it is gone.
pub(super) async fn delete(client: &mut Client, pod: &PodName, grace: Option<Duration>) -> Result<(), Error> {
    let key = PodKey { namespace: pod.namespace.clone(), name: pod.name.clone() };
    // Whole seconds, as Kubernetes has them; a part of one is not cut to nothing, which would mean to kill at once.
    let grace_seconds = grace.map(|grace| grace.as_secs() + u64::from(grace.subsec_nanos() > 0));
    client
        .control
        .delete_pod(DeletePodRequest { pod: Some(key), grace_seconds })
        .await
        .map_err(refused(format!("delete {pod}")))?;
    Ok(())
}
