//! Bytes of a stream to lines of the log. Pure: moments are given, the result is bytes.

/// Longest piece of a line before it is cut and tagged `P`; containerd cuts at the same place, so a reader sees equal
/// lines on either runtime.
pub(crate) const LOG_LINE_BYTES_MAX: usize = 16 * 1024;

/// Which of a container's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamName {
    /// Standard output, and everything that is shown on a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl StreamName {
    /// The words between the time and the text.
    fn tag(self, end: LineEnd) -> &'static [u8] {
        match (self, end) {
            (StreamName::Stdout, LineEnd::Full) => b" stdout F ",
            (StreamName::Stdout, LineEnd::Partial) => b" stdout P ",
            (StreamName::Stderr, LineEnd::Full) => b" stderr F ",
            (StreamName::Stderr, LineEnd::Partial) => b" stderr P ",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    /// The container wrote a newline here.
    Full,
    /// The line goes on, or the stream ended without a newline.
    Partial,
}

/// Cuts one stream into lines. Keeps what came since the last newline: at most [`LOG_LINE_BYTES_MAX`] bytes.
#[derive(Debug)]
pub(crate) struct LineSplitter {
    name: StreamName,
    pending: Vec<u8>,
}

impl LineSplitter {
    pub(crate) fn new(name: StreamName) -> Self {
        Self { name, pending: Vec::new() }
    }

    /// Takes the next bytes and appends the lines that are complete to `out`; `stamp` appends the time of a line.
    /// `out` grows by less than 64 bytes for each byte taken.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>, stamp: &mut impl FnMut(&mut Vec<u8>)) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(at);
            if self.pending.is_empty() && line.len() <= LOG_LINE_BYTES_MAX {
                // Nearly every line: no way through `pending`.
                write(self.name, LineEnd::Full, line, out, stamp);
            } else {
                self.take(line, out, stamp);
                self.write(LineEnd::Full, out, stamp);
            }
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.take(bytes, out, stamp);
    }

    /// The stream has ended: what waits for its newline is written as a piece of a line, as containerd does.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>, stamp: &mut impl FnMut(&mut Vec<u8>)) {
        if !self.pending.is_empty() {
            self.write(LineEnd::Partial, out, stamp);
        }
        self.pending = Vec::new();
    }

    /// Adds bytes without a newline. A full piece is only written once one byte more is there: a line of exactly the
    /// longest length is one full line.
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>, stamp: &mut impl FnMut(&mut Vec<u8>)) {
        loop {
            let room = LOG_LINE_BYTES_MAX - self.pending.len();
            let Some((piece, rest)) = bytes.split_at_checked(room).filter(|(_, rest)| !rest.is_empty()) else { break };
            self.pending.extend_from_slice(piece);
            self.write(LineEnd::Partial, out, stamp);
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
    }

    fn write(&mut self, end: LineEnd, out: &mut Vec<u8>, stamp: &mut impl FnMut(&mut Vec<u8>)) {
        write(self.name, end, &self.pending, out, stamp);
        self.pending.clear();
    }

    /// Gives memory back that only a long line needed.
    pub(crate) fn shrink(&mut self) {
        self.pending.shrink_to_fit();
    }
}

fn write(name: StreamName, end: LineEnd, line: &[u8], out: &mut Vec<u8>, stamp: &mut impl FnMut(&mut Vec<u8>)) {
    stamp(out);
    out.extend_from_slice(name.tag(end));
    out.extend_from_slice(line);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(name: StreamName, writes: &[&[u8]]) -> Vec<(String, usize, u8)> {
        let mut splitter = LineSplitter::new(name);
        let mut out = Vec::new();
        let mut stamp = |out: &mut Vec<u8>| out.extend_from_slice(b"T");
        for bytes in writes {
            splitter.feed(bytes, &mut out, &mut stamp);
            assert!(splitter.pending.len() <= LOG_LINE_BYTES_MAX);
        }
        splitter.finish(&mut out, &mut stamp);
        let text = String::from_utf8(out).expect("text");
        text.lines()
            .map(|line| {
                let (head, body) = line.split_at("T stdout F ".len());
                (head.to_owned(), body.len(), body.bytes().next().unwrap_or(b'-'))
            })
            .collect()
    }

    fn full(length: usize, first: u8) -> (String, usize, u8) {
        ("T stdout F ".to_owned(), length, first)
    }

    fn part(length: usize, first: u8) -> (String, usize, u8) {
        ("T stdout P ".to_owned(), length, first)
    }

    #[test]
    fn lines_are_cut_where_containerd_cuts_them() {
        let max = LOG_LINE_BYTES_MAX;
        let check = |writes: &[&[u8]], expected: &[(String, usize, u8)]| {
            assert_eq!(lines(StreamName::Stdout, writes), expected);
        };
        check(&[], &[]);
        check(&[b"a\nbb\n"], &[full(1, b'a'), full(2, b'b')]);
        check(&[b"a", b"", b"b\n\n"], &[full(2, b'a'), full(0, b'-')]);
        check(&[b"prompt> "], &[part(8, b'p')]);
        let exact = [&vec![b'x'; max][..], b"\n"].concat();
        check(&[&exact], &[full(max, b'x')]);
        check(&[&vec![b'x'; max], b"\n"], &[full(max, b'x')]);
        check(&[&vec![b'x'; max], b"y\n"], &[part(max, b'x'), full(1, b'y')]);
        check(&[&vec![b'x'; max + 1], b"\n"], &[part(max, b'x'), full(1, b'x')]);
        check(&[&vec![b'x'; 3 * max]], &[part(max, b'x'), part(max, b'x'), part(max, b'x')]);
        check(&[&vec![b'x'; max - 1], b"yz", b"\n"], &[part(max, b'x'), full(1, b'z')]);
    }

    #[test]
    fn the_way_the_bytes_are_cut_does_not_show() {
        let mut text = Vec::new();
        for length in [0, 1, 5, 100, LOG_LINE_BYTES_MAX - 1, LOG_LINE_BYTES_MAX, 40_000, 3] {
            text.extend(std::iter::repeat_n(b'q', length));
            text.push(b'\n');
        }
        let whole = lines(StreamName::Stdout, &[&text]);
        for size in [1, 7, 4096, 16_384, 65_536] {
            let pieces: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(lines(StreamName::Stdout, &pieces), whole, "pieces of {size}");
        }
    }

    #[test]
    fn the_stream_is_named() {
        assert_eq!(lines(StreamName::Stderr, &[b"e\n"])[0].0, "T stderr F ");
        assert_eq!(lines(StreamName::Stderr, &[b"e"])[0].0, "T stderr P ");
    }
}
