//! The program: takes what it was given and runs the supervisor until it is told to end.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Err(error) = runtime_supervisor::run(std::env::args_os().skip(1)) else { return ExitCode::SUCCESS };
    let mut text = format!("podwright-pod: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    // Descriptor 2 is a file of the node's or the null device; there is nobody else to tell.
    let told = writeln!(io::stderr(), "{text}");
    drop(told);
    ExitCode::FAILURE
}
