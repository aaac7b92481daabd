//! The only place that prints. Results go to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};

/// Lines of one command. A closed pipe (`podwright ps | head -1`) ends them silently, as it does for other tools.
pub(crate) fn line(text: &str) {
    // The only cause is a reader that went away: it has what it wanted.
    drop(writeln!(io::stdout().lock(), "{text}"));
}

/// Bytes as they are.
pub(crate) fn bytes(data: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(data)?;
    out.flush()
}

/// Bytes as they are, to standard error.
pub(crate) fn error_bytes(data: &[u8]) -> io::Result<()> {
    io::stderr().lock().write_all(data)
}

/// A failure: `podwright: what: why`.
pub(crate) fn failure(text: &str) {
    drop(writeln!(io::stderr().lock(), "podwright: {text}"));
}

/// Something worth knowing while a command goes on.
pub(crate) fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Whether a person watches standard error: bars for people, lines for files.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// A value as indented JSON.
pub(crate) fn json(value: &serde_json::Value) {
    line(&format!("{value:#}"));
}

/// A table with columns as wide as they need to be, two spaces between them, none at the end of a line.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    for text in layout(head, rows) {
        line(&text);
    }
}

fn layout(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    all.iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect()
}

/// `12.3 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len()).rev().find(|unit| bytes >> (10 * unit) > 0).unwrap_or(0);
    if unit == 0 {
        return format!("{bytes} B");
    }
    // Whole numbers: tenths are the remainder times ten, so that nothing is rounded up to the next unit.
    let whole = bytes >> (10 * unit);
    let tenths = ((bytes >> (10 * (unit - 1))) & 1023) * 10 / 1024;
    format!("{whole}.{tenths} {}", UNITS[unit])
}

/// `3m`, `2h`, `5d`: the largest unit that fits, as people read ages.
pub(crate) fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}

/// Text from a container or a registry, fit for a terminal: control characters could move the cursor or worse.
pub(crate) fn tame(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::{age, layout, size, tame};

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".to_owned(), "long value".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(layout(&["NAME", "V"], &rows), ["NAME    V", "a       long value", "longer"]);
    }

    #[test]
    fn sizes() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1048575, "1023.9 KiB"),
            (1 << 30, "1.0 GiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn ages() {
        for (seconds, shown) in [(-5, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (200_000, "2d")] {
            assert_eq!(age(seconds), shown);
        }
    }

    #[test]
    fn control_characters_reach_no_terminal() {
        assert_eq!(tame("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
