//! The `podwright` program: the daemon that joins the parts, and the command line that talks to it.
//!
//! *In*: flags, the configuration file, manifests, a node's answers. *Out*: a node that serves CRI and the control service
//! on one unix socket ([`main`] with the verb `node`), or one verb's answer and its exit code. *Not here*: what a pod, an
//! image or a network is. The crates that this one wires know; it decides only which are started, in which order, and how
//! what they say is told to people.

use std::process::ExitCode;

use clap::Parser;

mod address;
mod cli;
mod client;
mod config;
mod control;
mod error;
mod output;
mod progress;
mod serve;
mod verbs;

/// Runs the command line. Exit code 1 stands for a failure that is told on standard error, 2 for a wrong command line;
/// `exec` passes on its command's, `demo` its own.
pub fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => {
            // Help and versions come this way too, with code 0. A closed pipe has nobody to be told.
            drop(told.print());
            return ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2));
        }
    };
    match verbs::dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::failure(&error::chain(&error));
            ExitCode::FAILURE
        }
    }
}
