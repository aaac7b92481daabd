//! The file of a container's log: opened without following links, appended to, never waited for.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use runtime_sys::error::errno_text;
use runtime_sys::stdio;

use super::Stamp;
use crate::clock;

/// Mode of a new log file: the owner writes, the group (log collectors) reads.
const LOG_MODE: u32 = 0o640;

/// One container's log. When the disk is full the output is thrown away and counted, since the container must not wait;
/// once a write succeeds again, a line says how much is missing.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    lost: Option<Lost>,
    /// The last write ended inside a line: what comes next begins with a newline.
    torn: bool,
}

#[derive(Debug)]
struct Lost {
    lines: u64,
    bytes: u64,
    cause: String,
}

impl LogFile {
    /// Opens it, or makes it with mode 0640. Anything that is not a regular file is refused: a link would write elsewhere, a pipe would wait for its reader.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        Ok(Self { path: path.to_owned(), file, lost: None, torn: false })
    }

    /// Opens the path anew after a rotation. Nothing happens while the path still names the file that is open: a second
    /// command for one rotation must not open a file that is about to be moved away.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if let (Ok(there), Ok(ours)) = (fs::symlink_metadata(&self.path), self.file.metadata())
            && (there.dev(), there.ino()) == (ours.dev(), ours.ino())
        {
            return Ok(());
        }
        self.file = open(&self.path)?;
        self.torn = false;
        Ok(())
    }

    /// Appends complete lines. Never fails: what can't be written is counted.
    pub(crate) fn write(&mut self, lines: &[u8], stamp: &mut Stamp) {
        if let Some(lost) = &self.lost {
            let mut marker = if self.torn { b"\n".to_vec() } else { Vec::new() };
            marker.extend_from_slice(stamp.text(clock::unix_nanos()));
            marker.extend_from_slice(lost.to_string().as_bytes());
            // A marker that is cut would read as a line of the container's.
            match self.file.write(&marker) {
                Ok(count) if count == marker.len() => {
                    self.lost = None;
                    self.torn = false;
                }
                Ok(count) => {
                    self.torn |= count > 0;
                    return self.lose(lines, "no space left on device".into());
                }
                Err(error) => return self.lose(lines, cause(&error)),
            }
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return self.lose(rest, "the file takes nothing".into()),
                Ok(count) => {
                    let (written, left) = rest.split_at(count.min(rest.len()));
                    self.torn = written.last() != Some(&b'\n');
                    rest = left;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lose(rest, cause(&error)),
            }
        }
    }

    fn lose(&mut self, lines: &[u8], cause: String) {
        let lost = self.lost.get_or_insert(Lost { lines: 0, bytes: 0, cause: String::new() });
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        lost.lines = lost.lines.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        lost.bytes = lost.bytes.saturating_add(u64::try_from(lines.len()).unwrap_or(u64::MAX));
        lost.cause = cause;
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Lost { lines, bytes, cause } = self;
        writeln!(f, " stderr F podwright: {lines} log lines ({bytes} bytes) before this one are lost: {cause}")
    }
}

fn cause(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), errno_text)
}

fn open(path: &Path) -> io::Result<File> {
    // Looked at first, since opening a device may already do something.
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_file() => return Err(not_regular(there.file_type())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = stdio::open_append(path, LOG_MODE)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(not_regular(kind)) }
}

fn not_regular(kind: fs::FileType) -> io::Error {
    let what = match () {
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, not a regular file"))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pw-log-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("makes a directory");
        path
    }

    #[test]
    fn only_a_regular_file_is_opened() {
        let base = directory("kinds");
        std::os::unix::fs::symlink(base.join("elsewhere"), base.join("link")).expect("links");
        let _socket = std::os::unix::net::UnixListener::bind(base.join("socket")).expect("binds");
        fs::create_dir(base.join("directory")).expect("makes");
        for (name, word) in [("link", "symbolic link"), ("socket", "socket"), ("directory", "directory")] {
            let error = LogFile::open(&base.join(name)).expect_err("refused").to_string();
            assert!(error.contains(word), "{name}: {error}");
        }
        assert!(LogFile::open(Path::new("/dev/null")).expect_err("refused").to_string().contains("device"));
        assert!(!base.join("elsewhere").exists());
        let log = LogFile::open(&base.join("0.log")).expect("opens");
        assert_eq!(log.file.metadata().expect("known").mode() & 0o7137, 0, "no more than 0640");
        fs::remove_dir_all(base).expect("cleans up");
    }

    #[test]
    fn a_rotated_file_is_left_and_a_standing_one_is_kept() {
        let base = directory("reopen");
        let path = base.join("0.log");
        let mut stamp = Stamp::new();
        let mut log = LogFile::open(&path).expect("opens");
        log.write(b"one\n", &mut stamp);
        log.reopen().expect("the same file");
        log.write(b"two\n", &mut stamp);
        fs::rename(&path, base.join("0.log.1")).expect("rotates");
        log.write(b"three\n", &mut stamp);
        log.reopen().expect("a new file");
        log.write(b"four\n", &mut stamp);
        assert_eq!(fs::read_to_string(base.join("0.log.1")).expect("reads"), "one\ntwo\nthree\n");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "four\n");
        fs::remove_dir_all(&base).expect("cleans up");
        assert!(log.reopen().is_err(), "the directory is gone");
        log.write(b"five\n", &mut stamp);
    }

    #[test]
    fn what_a_full_disk_did_not_take_is_counted_and_told() {
        let base = directory("full");
        let path = base.join("0.log");
        let mut stamp = Stamp::new();
        let mut log = LogFile::open(&path).expect("opens");
        log.write(b"before\n", &mut stamp);
        let good = std::mem::replace(&mut log.file, OpenOptions::new().write(true).open("/dev/full").expect("opens"));
        log.write(b"lost\nlost too\n", &mut stamp);
        log.write(b"and this\n", &mut stamp);
        log.file = good;
        log.write(b"after\n", &mut stamp);
        log.write(b"more\n", &mut stamp);
        let text = fs::read_to_string(&path).expect("reads");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[2], lines[3]), (4, "before", "after", "more"));
        let (time, marker) = lines[1].split_once(' ').expect("a time");
        assert_eq!(time.len(), 30);
        assert_eq!(
            marker,
            "stderr F podwright: 3 log lines (23 bytes) before this one are lost: no space left on device"
        );
        fs::remove_dir_all(base).expect("cleans up");
    }
}
