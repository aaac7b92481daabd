//! The CRI log: what a container writes, line by line with time, stream and tag, in one file.

mod file;
mod line;
mod timestamp;

pub(crate) use file::LogFile;
pub(crate) use line::{LineSplitter, StreamName};
pub(crate) use timestamp::Stamp;
