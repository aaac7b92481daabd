//! The real `podwright-pod`, driven over the wire against the real kernel.

mod attach;
mod containers;
mod execs;
mod harness;
mod nodes;
mod output;
mod spy;
mod updates;
mod users;
