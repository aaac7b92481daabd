//! The node's socket.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};

use super::ServeError;
use crate::address::Address;

/// Root and the socket's group: whoever may speak to it may run anything as root.
const SOCKET_MODE: u32 = 0o660;

/// A bound socket; its file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    inode: u64,
}

/// Refuses an address that somebody answers at, or a path that holds something else than a socket.
pub(super) fn check(address: &Address) -> Result<(), ServeError> {
    let path = address.path();
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NoSocket { path: path.to_owned() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ServeError::Listen { address: address.clone(), source }),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ServeError::Taken { address: address.clone() }),
        // A socket file without a listener is what a killed node leaves.
        Err(_) => Ok(()),
    }
}

impl Socket {
    /// Binds beside the address and moves it there, with its mode: nobody finds it half made, and a stale one is replaced.
    pub(super) fn open(address: &Address) -> Result<(Socket, UnixListener), ServeError> {
        let failed = |source| ServeError::Listen { address: address.clone(), source };
        let path = address.path().to_owned();
        let mut name = path.clone().into_os_string();
        name.push("~");
        let unfinished = PathBuf::from(name);
        remove(&unfinished).map_err(failed)?;
        let listener = UnixListener::bind(&unfinished).map_err(failed)?;
        let placed = fs::set_permissions(&unfinished, fs::Permissions::from_mode(SOCKET_MODE))
            .and_then(|()| fs::rename(&unfinished, &path))
            .and_then(|()| fs::symlink_metadata(&path));
        match placed {
            Ok(found) => Ok((Socket { path, inode: found.ino() }, listener)),
            Err(source) => {
                // The first error is the one that is told.
                drop(remove(&unfinished));
                Err(failed(source))
            }
        }
    }

    /// Takes the file away, unless another node has put its own there.
    pub(super) fn close(self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = ?self.path, %error, "cannot remove the socket");
        }
    }
}

/// Connections, each told with who made it.
pub(super) fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    UnixListenerStream::new(listener).map(|accepted| {
        let connection = accepted?;
        match connection.peer_cred() {
            Ok(peer) => tracing::debug!(pid = peer.pid(), uid = peer.uid(), gid = peer.gid(), "connected"),
            Err(error) => tracing::warn!(%error, "connected, peer unknown"),
        }
        Ok(connection)
    })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::{Socket, check};
    use crate::address::Address;
    use crate::serve::ServeError;

    fn place(name: &str) -> (PathBuf, Address) {
        let path = std::env::temp_dir().join(format!("podwright-socket-{}-{name}", std::process::id()));
        let address = path.display().to_string().parse().expect("short enough");
        (path, address)
    }

    #[tokio::test]
    async fn the_socket_is_for_root_and_its_group_and_goes_with_the_node() {
        let (path, address) = place("mode");
        let (socket, _listener) = Socket::open(&address).expect("binds");
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        socket.close();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let (path, address) = place("stale");
        let (stale, listener) = Socket::open(&address).expect("binds");
        assert!(matches!(check(&address), Err(ServeError::Taken { .. })));
        drop(listener);
        check(&address).expect("nobody listens any more");
        let (fresh, _listener) = Socket::open(&address).expect("binds again");
        stale.close();
        assert!(path.exists(), "the fresh socket was removed by the stale one's owner");
        fresh.close();
    }

    #[test]
    fn a_file_is_not_taken_for_a_socket() {
        let (path, address) = place("file");
        std::fs::write(&path, "precious").expect("writable");
        assert!(matches!(check(&address), Err(ServeError::NoSocket { .. })));
        assert_eq!(std::fs::read(&path).expect("readable"), b"precious");
        std::fs::remove_file(&path).expect("removable");
    }
}
