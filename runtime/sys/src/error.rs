//! The error of a system call, which reads like a line of strace.

use std::fmt;
use std::io;

/// What every function of this crate answers with.
pub type SysResult<T> = Result<T, SysError>;

/// A system call that failed: `openat2(7, "etc/passwd", RESOLVE_IN_ROOT) = ENOENT (no such file or directory)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysError {
    call: String,
    errno: i32,
}

impl SysError {
    /// The call as strace would print it, without its answer, and the positive error number.
    #[must_use]
    pub fn new(call: impl Into<String>, errno: i32) -> Self {
        Self { call: call.into(), errno }
    }

    /// The same with the calling thread's last error number. Only right after a libc call that failed.
    #[must_use]
    pub fn last(call: impl Into<String>) -> Self {
        Self::new(call, io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// The same from an error of the standard library; one without a number reads as `EIO`.
    #[must_use]
    pub fn from_io(call: impl Into<String>, error: &io::Error) -> Self {
        Self::new(call, error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The positive error number.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The call without its answer.
    #[must_use]
    pub fn call(&self) -> &str {
        &self.call
    }

    /// The standard library's word for the error number.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        io::Error::from_raw_os_error(self.errno).kind()
    }

    /// What people read: the text that belongs to the error number, in lower case.
    #[must_use]
    pub fn cause(&self) -> String {
        errno_text(self.errno)
    }
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.call, errno_name(self.errno), errno_text(self.errno))
    }
}

impl std::error::Error for SysError {}

impl From<SysError> for io::Error {
    /// Keeps the number's kind and the whole line as the text.
    fn from(error: SysError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// The text of an error number in lower case: "no such file or directory".
#[must_use]
pub fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let plain = text.split(" (os error").next().unwrap_or_default();
    let mut letters = plain.chars();
    match letters.next() {
        // "RFS specific error" keeps its capitals, "No such file" loses one.
        Some(first) if letters.as_str().starts_with(|next: char| !next.is_uppercase()) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => plain.to_owned(),
    }
}

/// The name of an error number: `ENOENT`; the number itself where it has none here.
#[must_use]
pub fn errno_name(errno: i32) -> String {
    let name = format!("{:?}", nix::errno::Errno::from_raw(errno));
    if name == "UnknownErrno" { format!("errno {errno}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_strace() {
        let error = SysError::new("openat2(7, \"etc/passwd\", RESOLVE_IN_ROOT)", libc::ENOENT);
        assert_eq!(
            error.to_string(),
            "openat2(7, \"etc/passwd\", RESOLVE_IN_ROOT) = ENOENT (no such file or directory)"
        );
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(io::Error::from(error.clone()).to_string(), error.to_string());
    }

    #[test]
    fn a_number_without_a_name_is_shown() {
        assert!(SysError::new("x()", 4095).to_string().starts_with("x() = errno 4095"));
    }
}
