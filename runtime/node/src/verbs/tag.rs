//! `podwright tag`: one more name for an image.

use runtime_control_api::v1::TagRequest;

use crate::cli::Tag;
use crate::client::Client;
use crate::error::refused;
use crate::verbs::Answer;

pub(super) async fn run(mut client: Client, arguments: Tag) -> Answer {
    let what = format!("tag {} as {}", arguments.source, arguments.target);
    client
        .control
        .tag(TagRequest { source: arguments.source, target: arguments.target })
        .await
        .map_err(refused(what))?;
    Ok(0)
}
