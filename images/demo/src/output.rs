//! Everything that the demo prints.

use std::io::Write as _;

/// One line on standard output. A reader that went away is no reason to end: a container's log may be closed before it.
pub(crate) fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // Both failures mean that nobody reads.
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Bytes as they are.
pub(crate) fn raw(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// One line on standard error.
pub(crate) fn error(text: &str) {
    // Nobody reads.
    let _ = writeln!(std::io::stderr(), "demo: {text}");
}
