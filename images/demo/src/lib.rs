//! The demo image that Podwright carries in itself: its program and how the image is assembled.
//!
//! *In*: `podwright demo …` inside a container ([`DemoCommand`], [`run`]), and the running program's own bytes
//! ([`archive`]). *Out*: a small HTTP server whose health follows a script, small tasks for init containers and probes
//! (the image has no shell), and an OCI image layout as a tar archive. *Not here*: importing the image, and everything
//! that runs it; nothing else in Podwright depends on what the demo does.

mod command;
mod image;
mod output;
mod script;
mod server;
mod tasks;
mod units;

pub use command::{DemoArgs, DemoCommand, DemoError, DemoTask, run};
pub use image::{PROGRAM_BYTES_MAX, archive};
pub use server::serve;
