//! A look at the sources of a container's volumes, by a child that may sleep.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io::ErrorKind as IoKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{Mount, Spec};
use runtime_sys::place::{self, Identity};
use runtime_sys::process::{self, Child, Namespaces};
use runtime_sys::procfs::ProcHandle;
use runtime_sys::rootfs::{self, Links};
use runtime_sys::{SysResult, socket, sync};

use super::{Process, abandon, settle};
use crate::OciError;
use crate::child::mount_image;
use crate::error::During;
use crate::host::host;
use crate::input::ImageVolume;
use crate::plan::{POD_SHM, absolute, image_layers, image_of, is_bind};
use crate::step::ImageLayers;

/// First byte of each message: an object was seen.
const SEEN: u8 = b'S';
/// An error number follows.
const FAILED: u8 = b'F';
/// The mount that the source lies on, which isn't shared as it must be, follows.
const NOT_SHARED: u8 = b'N';

/// Kind, number of the source, and at most two 64-bit numbers and a path.
const MESSAGE_BYTES_MAX: usize = 1 + 2 + 16 + rootfs::PATH_BYTES_MAX;

/// What lies at the sources, as they were looked at when a container was created.
#[derive(Debug, Clone, Default)]
pub struct Seen(BTreeMap<CString, Object>);

impl Seen {
    pub(crate) fn at(&self, source: &CStr) -> Option<Object> {
        self.0.get(source).cloned()
    }
}

/// An object of the host, and where it lay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) identity: Identity,
    /// Without links.
    pub(crate) place: CString,
}

/// What is looked at.
#[derive(Debug)]
enum Look {
    /// A source of a bind mount.
    Source { path: CString, needs: Sharing },
    /// An image, when only something of it is wanted.
    Image { layers: ImageLayers, sub_path: CString, destination: String },
}

/// What the mount that a source lies on must be, so that mounts made later reach the container, or the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Any,
    SharedOrSlave,
    Shared,
}

/// A one-shot child that looks at every source; a dead file server holds it up and nobody else.
#[derive(Debug)]
pub struct OneShot {
    child: Option<Child>,
    sync: OwnedFd,
    looks: Vec<Look>,
    seen: Seen,
}

/// Starts the look at every bind source of `spec` and at every path in one of its images.
///
/// # Errors
/// A source isn't an absolute path, or the clone failed.
pub fn check_sources(spec: &Spec, images: &[ImageVolume]) -> Result<OneShot, OciError> {
    let host = host()?;
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let mut looks = Vec::new();
    for mount in spec.mounts().iter().flatten().filter(|mount| is_bind(mount)) {
        let source =
            mount.source().as_ref().ok_or_else(|| OciError::invalid("mounts: a bind mount without a source"))?;
        if let Some(image) = image_of(mount, images)? {
            if !image.sub_path.is_empty() {
                looks.push(Look::Image {
                    layers: image_layers(image, host.facts.overlay, label)?,
                    sub_path: crate::plan::text(image.sub_path.as_bytes(), "mounts: the path in an image")?,
                    destination: mount.destination().display().to_string(),
                });
            }
        } else if source != std::path::Path::new(POD_SHM) {
            looks.push(Look::Source { path: absolute(source, "mounts.source")?, needs: sharing(mount) });
        }
    }
    let (ours, theirs) = sync::pair().during(|| "make a socket".to_owned())?;
    let seen = Seen::default();
    if looks.is_empty() {
        // Nothing to look at: the other end is closed, which is how a look ends well.
        return Ok(OneShot { child: None, sync: ours, looks, seen });
    }
    let child = process::clone3(Namespaces::NONE, None, || look_at_all(&looks, &host.proc, theirs.as_fd()));
    let child = child.during(|| "make a process".to_owned())?;
    Ok(OneShot { child: Some(child), sync: ours, looks, seen })
}

fn sharing(mount: &Mount) -> Sharing {
    mount.options().iter().flatten().fold(Sharing::Any, |needs, option| match option.as_str() {
        "shared" | "rshared" => Sharing::Shared,
        "slave" | "rslave" => Sharing::SharedOrSlave,
        "private" | "rprivate" | "unbindable" | "runbindable" => Sharing::Any,
        _ => needs,
    })
}

fn look_at_all(looks: &[Look], proc: &ProcHandle, sync: BorrowedFd<'_>) -> i32 {
    for (index, look) in looks.iter().enumerate() {
        let [low, high, ..] = index.to_le_bytes();
        let mut message = vec![FAILED, low, high];
        let goes_on = match look_at(look, proc, &mut message) {
            Ok(()) => message.first() == Some(&SEEN),
            Err(error) => {
                message.truncate(3);
                message.extend(error.errno().to_le_bytes());
                false
            }
        };
        // When the parent is gone there is nobody left to tell.
        drop(sync::send(sync, &message));
        if !goes_on {
            return 1;
        }
    }
    0
}

/// Completes the message, whose kind is its first byte.
fn look_at(look: &Look, proc: &ProcHandle, message: &mut Vec<u8>) -> SysResult<()> {
    match look {
        Look::Source { path, needs } => {
            let opened = place::open(path)?;
            let identity = place::identity(opened.as_fd())?;
            if let Some(mount_point) = unfit(opened.as_fd(), *needs)? {
                message[0] = NOT_SHARED;
                message.extend(mount_point);
                return Ok(());
            }
            message[0] = SEEN;
            message.extend(identity.device.to_le_bytes());
            message.extend(identity.inode.to_le_bytes());
            message.extend(place::path(proc, opened.as_fd())?);
        }
        Look::Image { layers, sub_path, .. } => {
            let root = mount_image(layers, proc)?;
            rootfs::open_in_root(root.as_fd(), sub_path, Links::Followed)?;
            message[0] = SEEN;
        }
    }
    Ok(())
}

/// The mount that a source lies on, if it isn't what it must be.
fn unfit(source: BorrowedFd<'_>, needs: Sharing) -> SysResult<Option<Vec<u8>>> {
    let wanted: &[&str] = match needs {
        Sharing::Any => return Ok(None),
        Sharing::SharedOrSlave => &["shared:", "master:"],
        Sharing::Shared => &["shared:"],
    };
    let mount = place::mount_of(source)?.mount;
    let fits = mount.propagation.iter().any(|tag| wanted.iter().any(|wanted| tag.starts_with(wanted)));
    Ok((!fits).then(|| mount.mount_point.into_os_string().into_encoded_bytes()))
}

impl OneShot {
    /// Readable when [`Self::advance`] has news.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }

    /// `None`: not yet. Never blocks.
    pub fn advance(&mut self) -> Option<Result<Seen, OciError>> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let answer = loop {
            match socket::recv(self.sync.as_fd(), &mut buffer) {
                Err(error) if error.kind() == IoKind::WouldBlock => return None,
                Ok((0, _)) => break Ok(()),
                Ok((count, _)) => match self.note(buffer.get(..count).unwrap_or_default()) {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
                Err(error) => {
                    let source = runtime_sys::SysError::from_io("recvmsg()", &error);
                    break Err(OciError::Kernel { step: "look at the mount sources".to_owned(), source });
                }
            }
        };
        // It exits right after its last message.
        let ended = self.child.take().and_then(|child| settle(&child));
        Some(match (answer, ended) {
            (Ok(()), Some(process::Ended::Signalled(signal))) => {
                Err(OciError::Died { how: format!("signal {signal}") })
            }
            (answer, _) => answer.map(|()| std::mem::take(&mut self.seen)),
        })
    }

    /// One message.
    fn note(&mut self, message: &[u8]) -> Result<(), OciError> {
        let [kind, low, high, rest @ ..] = message else { return Ok(()) };
        let Some(look) = self.looks.get(usize::from(u16::from_le_bytes([*low, *high]))) else { return Ok(()) };
        let errno = rest.first_chunk().map_or(0, |number| i32::from_le_bytes(*number));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match (look, *kind) {
            (Look::Source { path, .. }, SEEN) => {
                if let Some((device, rest)) = rest.split_first_chunk()
                    && let Some((inode, place)) = rest.split_first_chunk()
                    && let Ok(place) = CString::new(place)
                {
                    let identity = Identity { device: u64::from_le_bytes(*device), inode: u64::from_le_bytes(*inode) };
                    self.seen.0.insert(path.clone(), Object { identity, place });
                }
                Ok(())
            }
            (Look::Source { path, needs }, NOT_SHARED) => Err(OciError::NotShared {
                path: text(path.to_bytes()),
                mount_point: text(rest),
                needed: if *needs == Sharing::Shared { "a shared mount" } else { "a shared or slave mount" },
            }),
            (Look::Source { path, .. }, _) => Err(OciError::Source { path: text(path.to_bytes()), errno }),
            (Look::Image { .. }, SEEN) => Ok(()),
            (Look::Image { sub_path, destination, .. }, _) => Err(OciError::ImageVolume {
                sub_path: text(sub_path.to_bytes()),
                destination: destination.clone(),
                errno,
            }),
        }
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
