//! Where a node listens.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `sun_path` holds 108 bytes with the closing zero (unix(7)), and a node binds beside the path, under a name one byte longer.
const SOCKET_PATH_BYTES_MAX: usize = 106;

/// A unix socket, written `unix:///path/to.sock`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Address(PathBuf);

/// Why a text is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("{0:?} is no address: write unix:///absolute/path.sock")]
    Scheme(String),
    #[error(
        "the socket's path has {bytes} bytes, a node can have at most {SOCKET_PATH_BYTES_MAX}: choose a shorter one"
    )]
    TooLong { bytes: usize },
}

impl Address {
    /// The socket's path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The socket of a node whose run directory is this.
    pub(crate) fn in_run_directory(run: &Path) -> Result<Address, AddressError> {
        Address::try_from(format!("unix://{}/podwright.sock", run.display()))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        // As crictl and the kubelet have it, a bare absolute path is an address too.
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(AddressError::Scheme(text.to_owned()));
        }
        if path.len() > SOCKET_PATH_BYTES_MAX {
            return Err(AddressError::TooLong { bytes: path.len() });
        }
        Ok(Address(PathBuf::from(path)))
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Address, AddressError> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, AddressError};

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(text.parse::<Address>().ok().map(|address| address.to_string()).as_deref(), expected, "{text}");
    }

    #[test]
    fn addresses() {
        check("unix:///run/p.sock", Some("unix:///run/p.sock"));
        check("/run/p.sock", Some("unix:///run/p.sock"));
        check("unix://relative.sock", None);
        check("tcp://127.0.0.1:80", None);
        check("unix:///run/", None);
        check("", None);
        check("unix:///a\0b", None);
    }

    #[test]
    fn a_path_that_the_kernel_would_cut_is_refused() {
        let longest = format!("/{}", "a".repeat(105));
        assert!(longest.parse::<Address>().is_ok());
        assert_eq!(format!("{longest}a").parse::<Address>(), Err(AddressError::TooLong { bytes: 107 }));
    }
}
