//! `podwright node`: the daemon.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use crate::address::Address;
use crate::cli::Node;
use crate::config::LogLevel;
use crate::control::Ending;
use crate::error::Error;
use crate::serve;
use crate::verbs::{Answer, several};

pub(super) fn run(address: Option<Address>, arguments: Node) -> Answer {
    if arguments.background {
        // Away from the terminal whose Ctrl-C is not for this process. It fails only for a group's leader, which a
        // program that was just started from another one isn't.
        drop(runtime_sys::process::setsid());
    }
    let mut node = arguments.node;
    // `--address` names a node everywhere else; here it is the place where this one is to be found.
    if node.options.listen.is_none() {
        node.options.listen = address;
    }
    let settings = node.settings()?;
    write_log(settings.log_level.unwrap_or(LogLevel::Info));
    several(settings.threads)?.block_on(async {
        let mut ends = Ends::new()?;
        let mut node = tokio::select! {
            node = serve::Node::start(settings, serve::Purpose::Daemon) => node?,
            () = ends.next() => return Ok(0),
        };
        let ending = tokio::select! {
            ending = node.asked_to_end() => ending,
            () = ends.next() => Ok(Ending::LeavePods),
        };
        match ending {
            Ok(Ending::Vanish) => {
                let failures = node.vanish().await;
                if failures.is_empty() { Ok(0) } else { Err(Error::Several(failures)) }
            }
            Ok(ending) => {
                node.stop(ending).await;
                Ok(0)
            }
            Err(error) => {
                node.stop(Ending::LeavePods).await;
                Err(error.into())
            }
        }
    })
}

/// Messages to standard error, for whoever keeps them: a terminal, a file, journald.
pub(super) fn write_log(level: LogLevel) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // Of libraries only what is wrong: at `debug`, h2 writes several lines for each of ours.
    let level = level.filter();
    let ours = ["runtime_", "images_", "cni_", "kubelet_shim_"].map(|crates| (crates, level));
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(ours);
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    // Set once per process: a second one would mean that a verb runs inside another.
    drop(tracing::subscriber::set_global_default(subscriber));
}

/// SIGTERM, SIGINT, and SIGHUP: a terminal that is closed must not end a node half-way.
#[derive(Debug)]
pub(super) struct Ends {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Ends {
    pub(super) fn new() -> Result<Ends, Error> {
        let failed = |source| Error::Threads { source };
        Ok(Ends {
            hangup: signal(SignalKind::hangup()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    /// Returns when the next one comes.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.hangup.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
