//! What nobody asked about and somebody should know: one line each on descriptor 2.

use std::fmt::Display;
use std::io::{self, Write};

/// Tells it to whoever reads the supervisor's own log. Never fails: there is nobody to tell that to.
pub(crate) fn warn(text: impl Display) {
    let told = writeln!(io::stderr(), "podwright-pod: {text}");
    drop(told);
}
