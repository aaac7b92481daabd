//! The command line of `podwright demo`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::units::{bytes, duration, rate};
use crate::{output, server, tasks};

/// `podwright demo`: without a task, the scripted HTTP server.
#[derive(Debug, Clone, Args)]
pub struct DemoCommand {
    /// What to do in place of serving.
    #[command(subcommand)]
    pub task: Option<DemoTask>,
    /// How to serve.
    #[command(flatten)]
    pub serve: DemoArgs,
}

/// The script of the server. All moments count from the program's start. Each flag can be given as an environment
/// variable `DEMO_…` too, so that a manifest needs no other arguments.
#[derive(Debug, Clone, Default, Args)]
pub struct DemoArgs {
    /// TCP port to listen on, on all IPv4 addresses; 0 takes any free one
    #[arg(long, env = "DEMO_PORT", default_value_t = 8080)]
    pub port: u16,
    /// What / answers with
    #[arg(long, env = "DEMO_MESSAGE", default_value = "Hello from Podwright")]
    pub message: String,
    /// Listen only after this time
    #[arg(long, env = "DEMO_START_DELAY", value_parser = duration, default_value = "0")]
    pub start_delay: Duration,
    /// Answer /readyz with 503 before this time
    #[arg(long, env = "DEMO_READY_AFTER", value_parser = duration, default_value = "0")]
    pub ready_after: Duration,
    /// Wait so long before each answer
    #[arg(long, env = "DEMO_LATENCY", value_parser = duration, default_value = "0")]
    pub latency: Duration,
    /// Fail every request after this many (of any path but /control)
    #[arg(long, env = "DEMO_FAIL_AFTER_REQUESTS")]
    pub fail_after_requests: Option<u64>,
    /// Fail every request from this time on
    #[arg(long, env = "DEMO_FAIL_AFTER", value_parser = duration)]
    pub fail_after: Option<Duration>,
    /// Exit at this time with --exit-code
    #[arg(long, env = "DEMO_CRASH_AFTER", value_parser = duration)]
    pub crash_after: Option<Duration>,
    /// The exit code of a crash
    #[arg(long, env = "DEMO_EXIT_CODE", default_value_t = 3)]
    pub exit_code: u8,
    /// Accept connections but answer nothing from this time on
    #[arg(long, env = "DEMO_HANG_AFTER", value_parser = duration)]
    pub hang_after: Option<Duration>,
    /// Take so much more memory per second, such as 10Mi/s
    #[arg(long, env = "DEMO_GROW", value_parser = rate)]
    pub grow: Option<u64>,
    /// Take no more memory than this, such as 200Mi
    #[arg(long, env = "DEMO_GROW_MAX", value_parser = bytes, default_value = "64Gi")]
    pub grow_max: u64,
    /// Do nothing on SIGTERM
    #[arg(long, env = "DEMO_IGNORE_TERM", value_parser = clap::builder::FalseyValueParser::new())]
    pub ignore_term: bool,
    /// Go on serving for this time after SIGTERM
    #[arg(long, env = "DEMO_STOP_DELAY", value_parser = duration, default_value = "0")]
    pub stop_delay: Duration,
}

/// Small tasks for init containers, exec probes and tests.
#[derive(Debug, Clone, Subcommand)]
pub enum DemoTask {
    /// Wait, then exit 0
    Sleep {
        /// How long
        #[arg(value_parser = duration)]
        time: Duration,
    },
    /// Exit with a code
    Exit {
        /// The code
        code: u8,
    },
    /// Print the numbers from 1, one per line
    Print {
        /// The last one; 0 goes on for ever
        count: u64,
        /// Pause between two lines
        #[arg(long, value_parser = duration, default_value = "0")]
        every: Duration,
    },
    /// GET an http URL: exit 0 when it answers 200 to 399
    Check {
        /// The address, such as http://127.0.0.1:8080/healthz
        url: String,
        /// Give up after this time
        #[arg(long, value_parser = duration, default_value = "5s")]
        timeout: Duration,
    },
    /// Write a line into a file
    Write {
        /// The file; made or emptied first
        file: PathBuf,
        /// The line
        text: String,
    },
    /// Print a file, or what comes on standard input
    Cat {
        /// The file
        file: Option<PathBuf>,
    },
    /// Print the environment
    Env,
    /// Leave a child behind that sleeps and holds standard output, and exit 0
    Orphan {
        /// How long the child sleeps
        time: String,
    },
    /// Exit 0
    True,
    /// Exit 1
    False,
    /// Take memory, print the size, wait for SIGTERM
    Hog {
        /// How much, such as 64Mi
        #[arg(value_parser = bytes)]
        size: u64,
    },
}

/// Why the demo couldn't do it.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The port can't be listened on.
    #[error("cannot listen on port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// No signal handler.
    #[error("cannot handle SIGTERM: {0}")]
    Signal(std::io::Error),
    /// A file can't be read or written.
    #[error("{path:?}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A check failed.
    #[error("{url}: {why}")]
    Check {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The program can't be started a second time.
    #[error("cannot start a child: {0}")]
    Spawn(std::io::Error),
}

/// Runs the command; the process's exit code comes back, errors are on standard error.
pub async fn run(command: DemoCommand) -> i32 {
    let ended = match command.task {
        Some(task) => tasks::run(task).await,
        None => server::serve(command.serve).await,
    };
    ended.unwrap_or_else(|error| {
        output::error(&error.to_string());
        1
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    /// Stands for the program that embeds the command.
    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        demo: DemoCommand,
    }

    #[test]
    fn the_command_line_is_understood() {
        Program::command().debug_assert();
        let parsed = |line: &str| Program::try_parse_from(line.split(' ')).map(|program| program.demo);
        let demo = parsed(
            "demo --port 81 --start-delay 3s --latency 50ms --fail-after-requests 5 --grow 10Mi/s --ignore-term",
        );
        let args = demo.unwrap().serve;
        assert_eq!((args.port, args.start_delay, args.fail_after_requests), (81, Duration::from_secs(3), Some(5)));
        assert_eq!((args.grow, args.ignore_term, args.exit_code), (Some(10 << 20), true, 3));
        for (line, task) in [
            ("demo sleep 2s", "Sleep { time: 2s }"),
            ("demo exit 3", "Exit { code: 3 }"),
            ("demo print 5 --every 100ms", "Print { count: 5, every: 100ms }"),
            ("demo write /f x", "Write { file: \"/f\", text: \"x\" }"),
            ("demo true", "True"),
            ("demo hog 64Mi", "Hog { size: 67108864 }"),
        ] {
            assert_eq!(format!("{:?}", parsed(line).unwrap().task.unwrap()), task);
        }
        for wrong in
            ["demo sleep", "demo sleep 2", "demo exit 256", "demo --grow 10Mi", "demo dance", "demo --latency -1s"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
