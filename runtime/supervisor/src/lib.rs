//! `podwright-pod`: the supervisor of one pod. It makes the pod's namespaces and its pause process, creates, starts, execs
//! and reaps the pod's containers, owns their standard streams, writes their logs and keeps their exit codes; it outlives
//! the daemon and is adopted by the next one.
//!
//! *In*: a listening unix socket as descriptor 0, the two words of [`runtime_wire::supervisor_arguments`], and calls of
//! [`runtime_wire`] on every connection to that socket. *Out*: answers and events, CRI logs, exit records. *Not here*:
//! images, the network, what a container should be (all decided by the engine), grace periods, restarts, retries.
//!
//! One thread and one epoll instance. Nothing here may sleep without end: volume sources are looked at in a one-shot child
//! and containers make their own mounts, both under a deadline; a node that doesn't read is dropped; a log that can't be
//! written is counted and thrown away. Memory that only a burst needed is given back when the burst is over, since this
//! process exists once per pod.

mod attach;
mod clock;
mod connection;
mod container;
mod convert;
mod exec;
mod exit;
mod log;
mod startup;
mod stdio;
mod supervisor;
mod warn;

pub use startup::{StartError, run};
