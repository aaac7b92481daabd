//! What can go wrong with a container, and what a caller may branch on.

use runtime_sys::SysError;
use runtime_sys::error::errno_text;

/// What a caller may branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The specification can't be carried out as it stands.
    Invalid,
    /// The program can't be executed: not there, no permission, wrong format.
    CannotExecute,
    /// The container or its first process is gone.
    Gone,
    /// The kernel said no.
    Kernel,
}

/// Why a container, an exec or a pause process did not come to be.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The specification is wrong.
    #[error("{what}")]
    Invalid {
        /// The field and what is wrong with it.
        what: String,
    },
    /// A mount's source isn't there, or can't be reached.
    #[error("mount source {path:?}: {}", errno_text(*errno))]
    Source {
        /// The source on the host.
        path: String,
        /// The error number.
        errno: i32,
    },
    /// `execve` failed.
    #[error("cannot execute {program:?} in the container: {}", exec_text(*errno))]
    CannotExecute {
        /// The first argument.
        program: String,
        /// The error number.
        errno: i32,
    },
    /// A step in the new process failed.
    #[error("cannot {step}: {}", errno_text(*errno))]
    Step {
        /// The step and its object: `mount proc at "/proc"`.
        step: String,
        /// The error number.
        errno: i32,
    },
    /// The new process ended before it could execute its program: killed from outside, or out of memory.
    #[error("the new process ended before its program was executed ({how})")]
    Died {
        /// "signal 9" or "exit code 1".
        how: String,
    },
    /// The container's first process is gone.
    #[error("the container's first process has ended")]
    Gone,
    /// A call in the caller's own process failed.
    #[error("{step}: {source}")]
    Kernel {
        /// What was being done, and to what.
        step: String,
        /// The call.
        source: SysError,
    },
}

impl OciError {
    /// What a caller may branch on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::Source { .. } => ErrorKind::Invalid,
            Self::CannotExecute { .. } => ErrorKind::CannotExecute,
            Self::Gone => ErrorKind::Gone,
            Self::Step { .. } | Self::Died { .. } | Self::Kernel { .. } => ErrorKind::Kernel,
        }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }
}

/// Adds the step to a failed call.
pub(crate) trait During<T> {
    /// What was being done, and to what: "make cgroup \"/a/b\"".
    fn during(self, step: impl FnOnce() -> String) -> Result<T, OciError>;
}

impl<T> During<T> for Result<T, SysError> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, OciError> {
        self.map_err(|source| OciError::Kernel { step: step(), source })
    }
}

/// `ENOEXEC` alone leaves people looking for a corrupt image; it is nearly always the wrong machine.
fn exec_text(errno: i32) -> String {
    /// `ENOEXEC`; the same on every architecture of Linux.
    const ENOEXEC: i32 = 8;
    if errno == ENOEXEC {
        "exec format error (a program for another architecture, or a script without \"#!\")".to_owned()
    } else {
        errno_text(errno)
    }
}
