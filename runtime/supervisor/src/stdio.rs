//! A container's standard streams: pipes or a terminal, pumped into its log.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

use runtime_sys::SysError;
use runtime_sys::stdio::{Pipe, grow_pipe, null_device, pipe};
use runtime_wire::Stdin;

use crate::attach::Attachments;
use crate::clock;
use crate::log::{LineSplitter, LogFile, Stamp, StreamName};

/// Size of a container's output pipes: how much it can write while this process is busy with another container. Pages
/// are only taken while bytes wait.
pub(crate) const PIPE_BYTES: usize = 256 * 1024;

/// Most bytes taken from one stream before the others, and the calls, have their turn.
const PUMP_BYTES_PER_TURN: usize = 512 * 1024;

/// Bytes per read: what a default pipe holds.
const READ_BYTES: usize = 64 * 1024;

/// Bytes that are cut into lines at once. The log's form may be 42 times as long (lines of no bytes), so this bounds the
/// buffer for it.
const CUT_BYTES: usize = 8 * 1024;

/// Bytes of log per write.
const WRITE_BYTES: usize = 128 * 1024;

/// Buffers that all streams share; there only while bytes flow.
#[derive(Debug)]
pub(crate) struct Buffers {
    read: Vec<u8>,
    lines: Vec<u8>,
    pub(crate) stamp: Stamp,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { read: Vec::new(), lines: Vec::new(), stamp: Stamp::new() }
    }

    /// Room for one read.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.read.resize(READ_BYTES, 0);
        &mut self.read
    }

    /// Gives the memory back.
    pub(crate) fn free(&mut self) {
        self.read = Vec::new();
        self.lines = Vec::new();
    }
}

/// Our end of one output stream.
#[derive(Debug)]
pub(crate) struct OutputStream {
    source: File,
    splitter: LineSplitter,
}

/// Where a stream's bytes go.
#[derive(Debug)]
pub(crate) struct Readers<'a> {
    /// The log, if one is kept.
    pub(crate) log: Option<&'a mut LogFile>,
    /// The clients, and which of the container's streams this one is for them.
    pub(crate) attached: &'a mut Attachments,
    pub(crate) stream: usize,
}

/// What a turn of pumping came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// More will come.
    Open,
    /// Nobody can write to it any more.
    Ended,
}

impl OutputStream {
    /// `source` must be non-blocking.
    pub(crate) fn new(source: OwnedFd, name: StreamName) -> Self {
        Self { source: File::from(source), splitter: LineSplitter::new(name) }
    }

    pub(crate) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.source.as_fd()
    }

    /// Moves what is there into the log and to the clients, at most [`PUMP_BYTES_PER_TURN`] bytes. Without either it is
    /// thrown away.
    pub(crate) fn pump(&mut self, readers: Readers<'_>, buffers: &mut Buffers) -> Pumped {
        let Readers { log, attached, stream } = readers;
        let mut sink = Sink { log, lines: std::mem::take(&mut buffers.lines) };
        buffers.read.resize(READ_BYTES, 0);
        let mut total = 0;
        let mut pumped = Pumped::Open;
        while total < PUMP_BYTES_PER_TURN {
            match self.source.read(&mut buffers.read) {
                Ok(0) => pumped = Pumped::Ended,
                Ok(count) => {
                    total += count;
                    let bytes = buffers.read.get(..count).unwrap_or_default();
                    sink.take(&mut self.splitter, bytes, &mut buffers.stamp);
                    attached.take(stream, bytes);
                    if count == READ_BYTES {
                        continue;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // EIO: the last holder of the terminal's other end is gone.
                Err(_) => pumped = Pumped::Ended,
            }
            break;
        }
        sink.write(&mut buffers.stamp);
        buffers.lines = sink.lines;
        pumped
    }

    /// Writes what waits for a newline that won't come.
    pub(crate) fn finish(mut self, log: Option<&mut LogFile>, buffers: &mut Buffers) {
        let mut sink = Sink { log, lines: std::mem::take(&mut buffers.lines) };
        let stamp = &mut buffers.stamp;
        self.splitter.finish(&mut sink.lines, &mut |out| out.extend_from_slice(stamp.text(clock::unix_nanos())));
        sink.write(&mut buffers.stamp);
        buffers.lines = sink.lines;
    }

    /// Gives memory back that only a long line needed.
    pub(crate) fn shrink(&mut self) {
        self.splitter.shrink();
    }
}

struct Sink<'a> {
    log: Option<&'a mut LogFile>,
    lines: Vec<u8>,
}

impl Sink<'_> {
    fn take(&mut self, splitter: &mut LineSplitter, bytes: &[u8], stamp: &mut Stamp) {
        if self.log.is_none() {
            return;
        }
        for piece in bytes.chunks(CUT_BYTES) {
            splitter.feed(piece, &mut self.lines, &mut |out| out.extend_from_slice(stamp.text(clock::unix_nanos())));
            if self.lines.len() >= WRITE_BYTES {
                self.write(stamp);
            }
        }
    }

    fn write(&mut self, stamp: &mut Stamp) {
        if let Some(log) = &mut self.log
            && !self.lines.is_empty()
        {
            log.write(&self.lines, stamp);
        }
        self.lines.clear();
    }
}

/// The container's ends of its streams, and ours.
#[derive(Debug)]
pub(crate) struct Ends {
    /// For the container.
    pub(crate) theirs: runtime_oci::Stdio,
    /// Output, read here.
    pub(crate) outputs: Vec<OutputStream>,
    /// The writing end of standard input, where it stays open.
    pub(crate) input: Option<OwnedFd>,
}

/// Makes the streams of a container without a terminal: pipes also where no log is kept, for clients that attach.
/// `user` may open its own streams again by `/dev/stdout`.
pub(crate) fn pipes(stdin: Stdin, user: u32) -> Result<Ends, SysError> {
    let (their_stdin, input) = match stdin {
        Stdin::Closed => (null_device()?, None),
        Stdin::Open | Stdin::Once => {
            let Pipe { reader, writer } = pipe()?;
            (give(reader, user), Some(writer))
        }
    };
    let mut outputs = Vec::new();
    let mut output = |name| -> Result<OwnedFd, SysError> {
        let Pipe { reader, writer } = pipe()?;
        grow_pipe(reader.as_fd(), PIPE_BYTES)?;
        runtime_sys::socket::set_nonblocking(reader.as_fd())?;
        outputs.push(OutputStream::new(reader, name));
        Ok(give(writer, user))
    };
    let stdout = output(StreamName::Stdout)?;
    let stderr = output(StreamName::Stderr)?;
    Ok(Ends { theirs: runtime_oci::Stdio::Pipes { stdin: their_stdin, stdout, stderr }, outputs, input })
}

/// `fchown` of a pipe to the user who is to use it: without it a program that isn't root can't open `/dev/stdout`. What
/// is no pipe (a file or socket of the caller's, the null device) is left as it is.
pub(crate) fn give(descriptor: OwnedFd, user: u32) -> OwnedFd {
    if user == 0 {
        return descriptor;
    }
    let file = File::from(descriptor);
    if file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
        && let Err(error) = std::os::unix::fs::fchown(&file, Some(user), None)
    {
        crate::warn::warn(format_args!("a standard stream can't be given to user {user}: {error}"));
    }
    file.into()
}
