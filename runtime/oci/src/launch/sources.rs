//! A look at the sources of a container's volumes, by a child that may sleep.

use std::ffi::CString;
use std::io::ErrorKind as IoKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::Spec;
use runtime_sys::process::{self, Child, Namespaces};
use runtime_sys::{rootfs, socket, sync};

use super::{Process, abandon, settle};
use crate::OciError;
use crate::error::During;
use crate::plan::{POD_SHM, absolute, is_bind};

/// A one-shot child that looks at every bind source; a dead file server holds it up and nobody else.
#[derive(Debug)]
pub struct OneShot {
    child: Option<Child>,
    sync: OwnedFd,
    paths: Vec<CString>,
}

/// Starts the look at every bind source of `spec`.
///
/// # Errors
/// A source isn't an absolute path, or the clone failed.
pub fn check_sources(spec: &Spec) -> Result<OneShot, OciError> {
    let mut paths = Vec::new();
    for mount in spec.mounts().iter().flatten().filter(|mount| is_bind(mount)) {
        let source =
            mount.source().as_ref().ok_or_else(|| OciError::invalid("mounts: a bind mount without a source"))?;
        if source != std::path::Path::new(POD_SHM) {
            paths.push(absolute(source, "mounts.source")?);
        }
    }
    let (ours, theirs) = sync::pair().during(|| "make a socket".to_owned())?;
    if paths.is_empty() {
        // Nothing to look at: the other end is closed, which is how a look ends well.
        return Ok(OneShot { child: None, sync: ours, paths });
    }
    let child = process::clone3(Namespaces::NONE, None, || look(&paths, theirs.as_fd()));
    let child = child.during(|| "make a process".to_owned())?;
    Ok(OneShot { child: Some(child), sync: ours, paths })
}

fn look(paths: &[CString], sync: BorrowedFd<'_>) -> i32 {
    for (index, path) in paths.iter().enumerate() {
        if let Err(error) = rootfs::host_kind(path) {
            let [low, high, ..] = index.to_le_bytes();
            let [a, b, c, d] = error.errno().to_le_bytes();
            drop(sync::send(sync, &[low, high, a, b, c, d]));
            return 1;
        }
    }
    0
}

impl OneShot {
    /// Readable when [`Self::advance`] has news.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }

    /// `None`: not yet. Never blocks.
    pub fn advance(&mut self) -> Option<Result<(), OciError>> {
        let mut message = [0; 8];
        let answer = match socket::recv(self.sync.as_fd(), &mut message) {
            Err(error) if error.kind() == IoKind::WouldBlock => return None,
            Ok((6, _)) => {
                let [low, high, a, b, c, d, ..] = message;
                let path = self.paths.get(usize::from(u16::from_le_bytes([low, high])));
                let path = path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
                Err(OciError::Source { path, errno: i32::from_le_bytes([a, b, c, d]) })
            }
            Ok(_) => Ok(()),
            Err(error) => {
                let source = runtime_sys::SysError::from_io("recvmsg()", &error);
                Err(OciError::Kernel { step: "look at the mount sources".to_owned(), source })
            }
        };
        // It exits right after its message or its last look.
        let ended = self.child.take().and_then(|child| settle(&child));
        Some(match (answer, ended) {
            (Ok(()), Some(process::Ended::Signalled(signal))) => {
                Err(OciError::Died { how: format!("signal {signal}") })
            }
            (answer, _) => answer,
        })
    }

    /// Kills and reaps, as [`super::Launching::abandon`].
    pub fn abandon(mut self) -> Option<Process> {
        abandon(self.child.take()?)
    }
}

impl Drop for OneShot {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            drop(abandon(child));
        }
    }
}
