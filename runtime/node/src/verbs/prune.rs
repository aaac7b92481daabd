//! `podwright prune`: what no image and no container uses is removed.

use runtime_control_api::v1::PruneRequest;

use crate::client::Client;
use crate::error::refused;
use crate::output;
use crate::verbs::Answer;

pub(super) async fn run(mut client: Client) -> Answer {
    let answer = client.control.prune(PruneRequest {}).await.map_err(refused("prune"))?.into_inner();
    for removed in &answer.removed {
        output::line(removed);
    }
    output::line(&format!("{} freed", output::size(answer.bytes)));
    Ok(0)
}
