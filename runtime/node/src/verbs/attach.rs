//! `podwright attach`: joins the streams of a container's own process, until that ends or this program does.

use std::io::{self, IsTerminal as _};

use runtime_cri_api::v1 as cri;
use serde_json::Value;

use crate::cli::Attach;
use crate::client::Client;
use crate::error::refused;
use crate::output;
use crate::verbs::session::{self, Wish};
use crate::verbs::{Answer, exit_code, target};

pub(super) async fn run(mut client: Client, arguments: Attach) -> Answer {
    let Attach { pod, container, stdin, tty } = arguments;
    let found = target::find(&mut client, &pod).await?;
    let what = format!("attach to {}", found.pod);
    let container = target::container(&mut client, found, container.as_deref()).await?;
    // Its terminal was made with it; where the runtime doesn't tell, the flag counts.
    let has = terminal(&mut client, &container.id).await.map_err(refused(&what))?;
    if tty && has == Some(false) {
        output::note("podwright: the container has no terminal");
    }
    let wish = Wish { stdin, tty: has.unwrap_or(tty) };
    let request =
        cri::AttachRequest { container_id: container.id, stdin, stdout: true, stderr: !wish.tty, tty: wish.tty };
    if wish.stdin && wish.tty && io::stdin().is_terminal() {
        output::note("podwright: attached; press Enter if there is no prompt");
    }
    let url = client.runtime.attach(request).await.map_err(refused(&what))?.into_inner().url;
    Ok(exit_code(session::join(what, &url, wish).await?))
}

/// Whether the container has a terminal, as containerd and our node tell it when asked for everything.
async fn terminal(client: &mut Client, id: &str) -> Result<Option<bool>, tonic::Status> {
    let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let info = client.runtime.container_status(request).await?.into_inner().info;
    let info: Option<Value> = info.get("info").and_then(|text| serde_json::from_str(text).ok());
    Ok(info.and_then(|info| info.pointer("/config/tty").and_then(Value::as_bool)))
}
