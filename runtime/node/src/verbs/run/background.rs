//! A node in the background.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use runtime_control_api::v1::{ListPodsRequest, ShutdownRequest};
use tokio::time::Instant;

use crate::client::Client;
use crate::config::{LogLevel, Settings};
use crate::error::Error;
use crate::serve;

/// A node with many pods reads their records and asks their supervisors first.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is asked.
const START_PERIOD: Duration = Duration::from_millis(20);
/// Lines of its log that are shown when it ended at once.
const TAIL_LINES: usize = 5;

/// Starts `podwright node` with these settings and waits until its keeper answers.
pub(super) async fn start(settings: &Settings, config: Option<PathBuf>) -> Result<Client, Error> {
    // Told here, in the words of this command and before anything is made.
    serve::check_host("podwright run --detach")?;
    settings.supervisor_program()?;
    let log = settings.run.join("node.log");
    let mut child = spawn(settings, config, &log).map_err(|source| Error::Background { source })?;
    let began = Instant::now();
    loop {
        if let Ok(mut client) = Client::connect(&settings.listen).await
            && client.control.list_pods(ListPodsRequest {}).await.is_ok()
        {
            return Ok(client);
        }
        if let Ok(Some(_)) = child.try_wait() {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
            return Err(Error::BackgroundEnded { log, tail });
        }
        if began.elapsed() > START_DEADLINE {
            // It is of no use to anybody, and nothing may be left behind.
            drop(child.kill());
            drop(child.wait());
            return Err(Error::BackgroundSilent { log, seconds: START_DEADLINE.as_secs() });
        }
        tokio::time::sleep(START_PERIOD).await;
    }
}

fn spawn(settings: &Settings, config: Option<PathBuf>, log: &Path) -> std::io::Result<Child> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(&settings.run)?;
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("node").arg("--background");
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    if settings.log_level.is_none() {
        command.arg("--log-level").arg(LogLevel::Info.name());
    }
    command
        .args(settings.flags())
        // Not this command's terminal, directory or environment: the node outlives all three.
        .current_dir("/")
        .env_remove("PODWRIGHT_ADDRESS")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
}

/// Ends a node that was started for pods that could not be run, and waits until nothing of it is left.
pub(super) async fn end(mut client: Client, settings: &Settings) {
    // The failure that is told is the pods'.
    drop(client.control.shutdown(ShutdownRequest { stop_pods: true, take_away: true }).await);
    let began = Instant::now();
    while settings.run.exists() && began.elapsed() < START_DEADLINE {
        tokio::time::sleep(START_PERIOD).await;
    }
}
