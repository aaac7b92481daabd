//! Every raw system call and `/proc` parser of the project: the only crate with `unsafe`.
//!
//! *In*: paths, descriptors, numbers. *Out*: owned descriptors, plain values, errors that read like a line of strace
//! ([`SysError`]). *Not here*: decisions. A function is one call or one walk that belongs together; what is done with it, in
//! which order and under which deadline is its caller's. No type of nix, rustix, libc, caps or libcgroups is in a public
//! signature.
//!
//! One file per topic.

pub mod cgroup;
pub mod clock;
pub mod device_filter;
pub mod emerge;
pub mod epoll;
pub mod error;
pub mod features;
pub mod fs;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod netdev;
pub mod netns;
pub mod openfiles;
pub mod pause;
pub mod place;
pub mod privileges;
pub mod process;
pub mod procfs;
pub mod pty;
pub mod rootfs;
pub mod seccomp;
pub mod signals;
pub mod socket;
pub mod stdio;
pub mod sync;
pub mod terminal;
pub mod userns;

pub use error::{SysError, SysResult};
