//! The `podwright` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime_node::main()
}
