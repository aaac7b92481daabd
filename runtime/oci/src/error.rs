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
    /// What it uses forbids it.
    InUse,
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
    /// Another object lies at a mount's source than when the container was created.
    #[error("mount source {path:?} is not what it was when the container was created: it was replaced in between")]
    SourceChanged {
        /// The source on the host.
        path: String,
    },
    /// Mounts made later would not reach where they are asked to reach.
    #[error("path {path:?} is mounted on {mount_point:?}, which is not {needed}, as the volume's propagation needs")]
    NotShared {
        /// The source on the host.
        path: String,
        /// The mount that it lies on.
        mount_point: String,
        /// "a shared mount".
        needed: &'static str,
    },
    /// A file and a directory can't lie on each other.
    #[error("mount source {path:?} can't be mounted at {destination:?}: {why}")]
    Mismatch {
        /// The source on the host, or in an image.
        path: String,
        /// Where in the container.
        destination: String,
        /// Which of them is what.
        why: &'static str,
    },
    /// A part of an image that isn't there. The first word is the one that kubelets look for.
    #[error("ImageVolumeMountFailed: {sub_path:?} of the image for {destination:?}: {}", errno_text(*errno))]
    ImageVolume {
        /// The path in the image.
        sub_path: String,
        /// Where in the container.
        destination: String,
        /// The error number.
        errno: i32,
    },
    /// The owners of a mount's files can't be mapped.
    #[error("mount source {path:?}: {}", owners_text(filesystem, *errno))]
    Owners {
        /// The source on the host.
        path: String,
        /// The type of its file system.
        filesystem: String,
        /// The error number.
        errno: i32,
    },
    /// The kernel makes no more user namespaces.
    #[error(
        "the kernel makes no more user namespaces ({}): raise user.max_user_namespaces (0 turns them off), or run the pod with \
         hostUsers: true",
        errno_text(*errno)
    )]
    NoUserNamespace {
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
    /// The kernel doesn't take a parameter.
    #[error("cannot {step}: {}", parameter_text(*errno))]
    Parameter {
        /// With the parameter and its value.
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
    /// The container whose process-id namespace is joined is gone.
    #[error("the container whose processes it is to see has ended")]
    TargetGone,
    /// A limit below what is in use.
    #[error("{what}")]
    InUse {
        /// The figures.
        what: String,
    },
    /// What a child process says of its failure.
    #[error("{what}")]
    Reported {
        /// Its words.
        what: String,
    },
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
            Self::Invalid { .. }
            | Self::Source { .. }
            | Self::Owners { .. }
            | Self::SourceChanged { .. }
            | Self::NotShared { .. }
            | Self::Mismatch { .. }
            | Self::Parameter { .. }
            | Self::ImageVolume { .. } => ErrorKind::Invalid,
            Self::CannotExecute { .. } => ErrorKind::CannotExecute,
            Self::Gone | Self::TargetGone => ErrorKind::Gone,
            Self::InUse { .. } => ErrorKind::InUse,
            Self::NoUserNamespace { .. } => ErrorKind::Kernel,
            Self::Step { .. } | Self::Died { .. } | Self::Reported { .. } | Self::Kernel { .. } => ErrorKind::Kernel,
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

/// "No such file or directory" leaves people looking for a file.
fn parameter_text(errno: i32) -> String {
    /// The same on every architecture of Linux.
    const ENOENT: i32 = 2;
    match errno {
        ENOENT => "this kernel doesn't have it in a pod's namespaces".to_owned(),
        errno => errno_text(errno),
    }
}

/// The kernel says EINVAL to whatever can't be mapped.
fn owners_text(filesystem: &str, errno: i32) -> String {
    /// The same on every architecture of Linux.
    const EINVAL: i32 = 22;
    if errno != EINVAL {
        let cause = errno_text(errno);
        return format!("the owners of its files can't be mapped for a user namespace ({filesystem}): {cause}");
    }
    let since = match filesystem {
        "tmpfs" => ", which Linux 6.3 and later can do for tmpfs",
        _ => "",
    };
    format!(
        "{filesystem} can't map the owners of its files for a pod with a user namespace{since}; use another file system for \
         it, or run the pod with hostUsers: true"
    )
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
