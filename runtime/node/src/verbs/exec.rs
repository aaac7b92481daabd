//! `podwright exec`: a command in a container; its streams are joined to this program's and its exit code is passed on.

use runtime_cri_api::v1 as cri;

use crate::cli::Exec;
use crate::client::Client;
use crate::error::{Error, refused};
use crate::verbs::session::{self, Wish};
use crate::verbs::{Answer, exit_code, target};

pub(super) async fn run(mut client: Client, arguments: Exec) -> Answer {
    let Exec { pod, container, stdin, tty, timeout, command } = arguments;
    let found = target::find(&mut client, &pod).await?;
    let what = format!("exec in {}", found.pod);
    let container = target::container(&mut client, found, container.as_deref()).await?;
    let wish = Wish { stdin, tty }.fitting();
    let request = cri::ExecRequest {
        container_id: container.id,
        cmd: command,
        stdin,
        stdout: true,
        stderr: !wish.tty,
        tty: wish.tty,
    };
    let url = client.runtime.exec(request).await.map_err(refused(&what))?.into_inner().url;
    let joined = session::join(what.clone(), &url, wish);
    let code = match timeout {
        // The end of the session is the end of the command.
        Some(limit) => tokio::time::timeout(limit, joined).await.map_err(|_| Error::CommandLate { what, limit })?,
        None => joined.await,
    };
    code.map(exit_code)
}
