//! `podwright completions`: a script for a shell.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::{Cli, Completions};
use crate::error::Error;
use crate::output;
use crate::verbs::Answer;

pub(super) fn run(arguments: &Completions) -> Answer {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "podwright", &mut script);
    output::bytes(&script).map_err(|source| Error::Write { path: PathBuf::from("standard output"), source })?;
    Ok(0)
}
