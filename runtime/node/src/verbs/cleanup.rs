//! `podwright cleanup`: nothing of a node stays on this machine.

use std::fs;
use std::io;
use std::time::Duration;

use runtime_control_api::v1::ShutdownRequest;
use runtime_cri_api::v1 as cri;

use crate::cli::Cleanup;
use crate::client::{self, Client};
use crate::config::{LogLevel, Settings, Switch};
use crate::error::{Error, refused};
use crate::output;
use crate::serve;
use crate::verbs::node::write_log;
use crate::verbs::{Answer, several};

/// How long a running node may take to stop its pods: a pod's own grace is 30 s by default.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(90);
/// How often a node that is to end is looked at.
const SHUTDOWN_PERIOD: Duration = Duration::from_millis(50);

pub(super) fn run(arguments: Cleanup) -> Answer {
    let mut settings = arguments.node.settings()?;
    write_log(settings.log_level.unwrap_or(LogLevel::Warn));
    // What is stopped here must not be started again.
    settings.keeper = Switch::Off;
    if !settings.root.exists() && !settings.run.exists() {
        output::note("there is nothing of a node here");
        return Ok(0);
    }
    let mut failures = several(settings.threads)?.block_on(clean(settings.clone()))?;
    if failures.is_empty() && arguments.images {
        let path = settings.root.join("images");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failures.push(format!("cannot remove {path:?}: {error}"));
            }
            // The directory above stays when somebody put something of his own into it.
            _ => drop(fs::remove_dir(&settings.root)),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Error::Several(failures)) }
}

async fn clean(settings: Settings) -> Result<Vec<String>, Error> {
    end_running_node(&settings).await?;
    let listen = settings.listen.clone();
    let node = serve::Node::start(settings, serve::Purpose::Cleanup).await?;
    let stopped = match Client::connect(&listen).await {
        Ok(client) => remove_pods(client).await,
        Err(error) => Err(error),
    };
    let mut failures = if stopped.is_ok() { node.forget() } else { Vec::new() };
    failures.extend(node.vanish().await);
    if let Err(error) = stopped {
        failures.insert(0, crate::error::chain(&error));
    }
    Ok(failures)
}

/// A node that runs is asked to stop its pods and to end.
async fn end_running_node(settings: &Settings) -> Result<(), Error> {
    if !client::answers(&settings.listen)? {
        return Ok(());
    }
    output::note(&format!("the node at {} is asked to end", settings.listen));
    let mut client = Client::connect(&settings.listen).await?;
    let request = ShutdownRequest { stop_pods: true, take_away: false };
    client.control.shutdown(request).await.map_err(refused("shutdown"))?;
    drop(client);
    let began = tokio::time::Instant::now();
    // The lock is let go of last, but only the socket can be asked without disturbing it.
    while client::answers(&settings.listen)? {
        if began.elapsed() > SHUTDOWN_DEADLINE {
            return Err(Error::StillThere { address: settings.listen.clone(), seconds: SHUTDOWN_DEADLINE.as_secs() });
        }
        tokio::time::sleep(SHUTDOWN_PERIOD).await;
    }
    // The process ends right after its socket.
    tokio::time::sleep(SHUTDOWN_PERIOD).await;
    Ok(())
}

/// Pods of whatever client, all of them.
async fn remove_pods(mut client: Client) -> Result<(), Error> {
    let list = cri::ListPodSandboxRequest { filter: None };
    let answer = client.runtime.list_pod_sandbox(list).await.map_err(refused("pods"))?;
    let mut removals = tokio::task::JoinSet::new();
    for sandbox in answer.into_inner().items {
        let mut runtime = client.runtime.clone();
        removals.spawn(async move {
            let id = sandbox.id;
            let what = || refused(format!("sandbox {id}"));
            runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.map_err(what())?;
            runtime
                .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id.clone() })
                .await
                .map_err(what())?;
            Ok::<(), Error>(())
        });
    }
    let mut failed = Ok(());
    while let Some(removed) = removals.join_next().await {
        if let Ok(Err(error)) = removed {
            failed = Err(error);
        }
    }
    failed
}
