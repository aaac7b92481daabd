//! `podwright version`: this program's and the node's.

use runtime_cri_api::v1::VersionRequest;

use crate::address::Address;
use crate::client::Client;
use crate::error::Error;
use crate::output;
use crate::verbs::Answer;

pub(super) async fn run(address: Address) -> Answer {
    output::line(&format!("podwright {}", env!("CARGO_PKG_VERSION")));
    match Client::connect(&address).await {
        Ok(mut client) => {
            let request = VersionRequest { version: "v1".to_owned() };
            let answer = client.runtime.version(request).await.map_err(crate::error::refused("version"))?.into_inner();
            output::line(&format!(
                "{} {} at {address}, CRI {}",
                answer.runtime_name, answer.runtime_version, answer.runtime_api_version
            ));
            Ok(0)
        }
        // The question is answered: there is no node.
        Err(Error::NoNode { .. }) => {
            output::line(&format!("no node at {address}"));
            Ok(0)
        }
        Err(error) => Err(error),
    }
}
