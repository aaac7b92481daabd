//! Extended attributes: which an image may set.

use std::os::fd::AsFd;

use runtime_sys::SysError;
use runtime_sys::fs::{self as sys, Kind};

use super::{c_name, shown};
use crate::limits::{COMPONENT_BYTES_MAX, XATTR_VALUE_BYTES_MAX};

/// Why an extended attribute is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum XattrError {
    #[error("the extended attribute \"{0}\" has a name that the kernel doesn't take")]
    Name(String),
    #[error("the extended attribute \"{0}\" is longer than {XATTR_VALUE_BYTES_MAX} bytes")]
    Value(String),
    #[error("the extended attribute \"{0}\" would speak to overlayfs in our name")]
    Overlay(String),
    #[error("the extended attribute \"{name}\" can't be set")]
    Kernel { name: String, source: SysError },
}

/// The number that a file system without such attributes answers with.
const EOPNOTSUPP: i32 = 95;

/// Refuses attributes whose names or values are no attributes, and those that overlayfs reads.
pub(super) fn check(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), XattrError> {
    for (name, value) in xattrs {
        if name.is_empty() || name.len() > COMPONENT_BYTES_MAX || name.contains(&0) {
            return Err(XattrError::Name(shown(name)));
        }
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(XattrError::Value(shown(name)));
        }
        let overlay: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
        if overlay.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(XattrError::Overlay(shown(name)));
        }
    }
    Ok(())
}

/// What becomes of an attribute.
enum Fate {
    /// Set; a file system that has none of its kind is an error.
    Needed,
    /// Set where the file system can.
    Wanted,
    /// Not ours to set: the host's security policy (labels, signatures), and what only the host's root reads.
    Dropped,
}

fn fate(name: &[u8], kind: Kind) -> Fate {
    match name {
        b"security.capability" if kind == Kind::Regular => Fate::Needed,
        b"system.posix_acl_access" => Fate::Wanted,
        b"system.posix_acl_default" if kind == Kind::Directory => Fate::Wanted,
        user if user.starts_with(b"user.") => Fate::Wanted,
        _ => Fate::Dropped,
    }
}

/// Sets the attributes of a regular file or a directory.
pub(super) fn set(file: impl AsFd, kind: Kind, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), XattrError> {
    check(xattrs)?;
    for (name, value) in xattrs {
        let fate = fate(name, kind);
        if matches!(fate, Fate::Dropped) {
            continue;
        }
        let c_name = c_name(name).ok_or_else(|| XattrError::Name(shown(name)))?;
        match sys::fsetxattr(file.as_fd(), &c_name, value) {
            Err(error) if matches!(fate, Fate::Wanted) && error.errno() == EOPNOTSUPP => {}
            set => set.map_err(|source| XattrError::Kernel { name: shown(name), source })?,
        }
    }
    Ok(())
}
