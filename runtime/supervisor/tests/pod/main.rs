//! The real `podwright-pod`, driven over the wire against the real kernel.

mod containers;
mod execs;
mod harness;
mod nodes;
mod output;
