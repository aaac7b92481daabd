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
    let is_new = !log.exists();
    let mut child = spawn(settings, config, &log).map_err(|source| Error::Background { source })?;
    let began = Instant::now();
    loop {
        if let Ok(mut client) = Client::connect(&settings.listen).await
            && client.control.list_pods(ListPodsRequest {}).await.is_ok()
        {
            return Ok(client);
        }
        if let Ok(Some(_)) = child.try_wait() {
            let tail = last_words(&fs::read_to_string(&log).unwrap_or_default());
            if is_new {
                // Nothing is in it but what is told here. The directory stays when it is somebody's.
                drop(fs::remove_file(&log));
                drop(fs::remove_dir(&settings.run));
            }
            return Err(Error::BackgroundEnded { tail });
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

/// What a node ended with: its failure, or else the last lines of its log.
fn last_words(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let failure = lines.iter().rposition(|line| line.starts_with("podwright: "));
    let tail = &lines[failure.unwrap_or(lines.len().saturating_sub(TAIL_LINES))..];
    tail.join("\n").trim_start_matches("podwright: ").to_owned()
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

#[cfg(test)]
mod tests {
    use super::last_words;

    #[test]
    fn a_node_that_could_not_start_is_quoted_without_its_chatter() {
        let log = "10:00 INFO an earlier start\npodwright: an earlier failure\n10:01 INFO this machine lacks something\n\
                   podwright: the image store can't be opened:\nno space left\n";
        assert_eq!(last_words(log), "the image store can't be opened:\nno space left");
        assert_eq!(last_words("1\n2\n3\n4\n5\n6\n7"), "3\n4\n5\n6\n7");
        assert_eq!(last_words(""), "");
    }
}
