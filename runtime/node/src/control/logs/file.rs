//! One CRI log file, read line by line.
//!
//! A line is `2026-11-21T08:43:37.123456789Z stdout F text`; `P` in place of `F` says that the line goes on in the next one.

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use runtime_control_api::v1::LogLine;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// One read of the file.
const READ_BYTES: usize = 64 * 1024;
/// The supervisor cuts lines at 16 KiB; a longer one was written by nobody of ours and is passed on in pieces.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// A log that may still grow.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Read and not yet passed on.
    pending: Vec<u8>,
    /// Where in `pending` the next line begins.
    from: usize,
}

impl LogFile {
    /// Opens the log at its first line, or so many lines before its end.
    pub(super) async fn open(path: &Path, tail_lines: Option<u64>) -> io::Result<LogFile> {
        // A log path comes over CRI. Opening a FIFO would wait for a writer for ever, and a link may lead anywhere.
        if !tokio::fs::symlink_metadata(path).await?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let mut file = File::open(path).await?;
        if let Some(lines) = tail_lines {
            let start = start_of_last_lines(&mut file, lines).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        Ok(LogFile { path: path.to_owned(), file, pending: Vec::new(), from: 0 })
    }

    /// The next complete line; `None` when there is none yet.
    pub(super) async fn next(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            let rest = &self.pending[self.from..];
            if let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
                let line = parse(&rest[..length]);
                self.from += length + 1;
                return Ok(Some(line));
            }
            if rest.len() >= LINE_BYTES_MAX {
                let line = parse(rest);
                self.pending.clear();
                self.from = 0;
                return Ok(Some(line));
            }
            self.pending.drain(..self.from);
            self.from = 0;
            let filled = self.pending.len();
            self.pending.resize(filled + READ_BYTES, 0);
            let count =
                self.file.read(&mut self.pending[filled..]).await.inspect_err(|_| self.pending.truncate(filled))?;
            self.pending.truncate(filled + count);
            if count == 0 {
                self.pending.shrink_to_fit();
                return Ok(None);
            }
        }
    }

    /// After the end was reached: whether there is more to read all the same, in this file or in the one that stands at the
    /// path by now.
    pub(super) async fn rotated(&mut self) -> bool {
        let (Ok(own), Ok(other)) = (self.file.metadata().await, tokio::fs::symlink_metadata(&self.path).await) else {
            return false;
        };
        if (own.dev(), own.ino()) == (other.dev(), other.ino()) {
            return false;
        }
        // The writer moves once it is told to, and until then more comes here: only a byte in the new file proves the move.
        if other.len() == 0 {
            return false;
        }
        // What it wrote here between the last read and its move is read first.
        let filled = self.pending.len();
        self.pending.resize(filled + READ_BYTES, 0);
        let count = self.file.read(&mut self.pending[filled..]).await.unwrap_or(0);
        self.pending.truncate(filled + count);
        if count > 0 {
            return true;
        }
        match LogFile::open(&self.path, None).await {
            Ok(next) => {
                *self = next;
                true
            }
            Err(_) => false,
        }
    }
}

/// Where the last `lines` lines begin, found from the end in blocks.
async fn start_of_last_lines(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut end = file.metadata().await?.len();
    let mut block = vec![0; READ_BYTES];
    // The newline that ends the last line ends no further one.
    let mut newlines = lines.saturating_add(1);
    while end > 0 {
        let length = end.min(READ_BYTES as u64);
        let start = end - length;
        let block = &mut block[..usize::try_from(length).expect("at most READ_BYTES")];
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(block).await?;
        for (place, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            newlines -= 1;
            if newlines == 0 {
                return Ok(start + place as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

/// A line that isn't in CRI's form is passed on as it is: somebody wrote it for a reader.
fn parse(raw: &[u8]) -> LogLine {
    let mut parts = raw.splitn(4, |byte| *byte == b' ');
    let (time, stream, tag, text) = (parts.next(), parts.next(), parts.next(), parts.next());
    let at = time.and_then(|time| std::str::from_utf8(time).ok()?.parse::<jiff::Timestamp>().ok());
    match (at, stream, tag) {
        (Some(at), Some(stream @ (b"stdout" | b"stderr")), Some(tag)) => LogLine {
            container: String::new(),
            at_unix_nanos: i64::try_from(at.as_nanosecond()).unwrap_or(0),
            stream: String::from_utf8_lossy(stream).into_owned(),
            line: text.unwrap_or_default().to_vec(),
            // Tags are divided by colons; only the first is defined.
            partial: tag.split(|byte| *byte == b':').next() == Some(b"P"),
        },
        _ => LogLine { stream: "stdout".to_owned(), line: raw.to_vec(), ..Default::default() },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{LogFile, READ_BYTES, parse};

    fn place(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("podwright-log-{}-{name}", std::process::id()))
    }

    async fn texts(file: &mut LogFile) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(line) = file.next().await.expect("readable") {
            found.push(String::from_utf8(line.line).expect("text"));
        }
        found
    }

    #[test]
    fn lines_in_cri_form() {
        let line = parse(b"2026-11-21T08:43:37.123456789Z stderr P half a line");
        assert_eq!((line.stream.as_str(), line.partial, line.line.as_slice()), ("stderr", true, &b"half a line"[..]));
        assert_eq!(line.at_unix_nanos % 1_000_000_000, 123_456_789);
        assert!(!parse(b"2026-11-21T08:43:37Z stdout F whole").partial);
        assert_eq!(parse(b"2026-11-21T08:43:37Z stdout F").line, b"");
        assert_eq!(parse(b"not a log line").line, b"not a log line");
    }

    #[tokio::test]
    async fn the_last_lines_are_found_across_blocks() {
        let path = place("tail");
        let text: String = (0..10_000).map(|number| format!("2026-11-21T08:43:37Z stdout F line {number}\n")).collect();
        assert!(text.len() > 3 * READ_BYTES);
        std::fs::write(&path, &text).expect("writable");
        for count in [0u64, 1, 3, 5_000, 10_000, 20_000] {
            let mut file = LogFile::open(&path, Some(count)).await.expect("opens");
            let found = texts(&mut file).await;
            assert_eq!(found.len() as u64, count.min(10_000));
            assert!(found.last().is_none_or(|last| last == "line 9999"));
        }
        std::fs::remove_file(&path).expect("removable");
    }

    #[tokio::test]
    async fn a_growing_and_rotated_log_is_read_without_gap() {
        let path = place("rotate");
        let line = |number: u32| format!("2026-11-21T08:43:37Z stdout F {number}\n");
        std::fs::write(&path, line(1)).expect("writable");
        let mut file = LogFile::open(&path, None).await.expect("opens");
        assert_eq!(texts(&mut file).await, ["1"]);
        assert!(!file.rotated().await);

        let mut writer = std::fs::OpenOptions::new().append(true).open(&path).expect("opens");
        let second = line(2);
        let (start, rest) = second.split_at(10);
        writer.write_all(start.as_bytes()).expect("writable");
        assert_eq!(texts(&mut file).await, Vec::<String>::new(), "half a line was passed on");
        writer.write_all(rest.as_bytes()).expect("writable");
        assert_eq!(texts(&mut file).await, ["2"]);

        std::fs::rename(&path, path.with_extension("1")).expect("renamable");
        std::fs::write(&path, "").expect("writable");
        assert!(!file.rotated().await, "the writer has not moved yet");
        std::fs::write(&path, line(3)).expect("writable");
        assert!(file.rotated().await);
        assert_eq!(texts(&mut file).await, ["3"]);
        std::fs::remove_file(&path).expect("removable");
        std::fs::remove_file(path.with_extension("1")).expect("removable");
    }

    #[tokio::test]
    async fn a_link_is_no_log() {
        let path = place("link");
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("linkable");
        assert!(LogFile::open(&path, None).await.is_err());
        std::fs::remove_file(&path).expect("removable");
    }
}
