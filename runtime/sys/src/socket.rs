//! Unix stream sockets whose messages carry descriptors.
//!
//! `send` and `recv` never block and answer with [`std::io::Error`], so that an asynchronous caller can hand them to its
//! reactor (`UnixStream::try_io`) as they are; everything else reads like strace.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::{SysError, SysResult};

/// Most descriptors that one `send` takes and one `recv` gives: a pod's namespaces are five, the streams of an exec three.
/// The kernel closes what a peer sends above it.
pub const DESCRIPTORS_MAX: usize = 8;

/// Who is at the other end of a unix socket, as the kernel saw it when they connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id in our pid namespace.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// `socket(AF_UNIX)`, `bind(path)`, `listen(backlog)`: a listening stream socket, non-blocking and close-on-exec, whose
/// file has `mode` from its first moment. A file that is there already is an error (`EADDRINUSE`).
/// The path may be longer than the 108 bytes of `sockaddr_un`; its directory may not.
/// <https://man7.org/linux/man-pages/man7/unix.7.html>
pub fn listen_unix(path: &Path, mode: u32, backlog: i32) -> SysResult<OwnedFd> {
    let call = |name: &str| format!("{name}(AF_UNIX, {path:?})");
    let socket = stream_socket().map_err(|errno| failed(call("socket"), errno))?;
    // bind() makes the file with the mode of the socket's own inode less the umask; a chmod afterwards would leave a
    // moment in which anybody may connect.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode))
        .map_err(|errno| failed(call("fchmod"), errno))?;
    let short = ShortPath::of(path).map_err(|error| SysError::new(call("open"), errno_of(&error)))?;
    let address = SocketAddrUnix::new(&short.path).map_err(|errno| failed(call("bind"), errno))?;
    rustix::net::bind(&socket, &address).map_err(|errno| failed(call("bind"), errno))?;
    rustix::net::listen(&socket, backlog).map_err(|errno| failed(call("listen"), errno))?;
    Ok(socket)
}

/// `socket(AF_UNIX)`, `connect(path)`: a stream socket, non-blocking and close-on-exec. A listener whose backlog is full
/// answers `EAGAIN`. The path may be longer than `sockaddr_un`.
pub fn connect_unix(path: &Path) -> SysResult<OwnedFd> {
    let call = |name: &str| format!("{name}(AF_UNIX, {path:?})");
    let socket = stream_socket().map_err(|errno| failed(call("socket"), errno))?;
    let short = ShortPath::of(path).map_err(|error| SysError::new(call("open"), errno_of(&error)))?;
    let address = SocketAddrUnix::new(&short.path).map_err(|errno| failed(call("connect"), errno))?;
    rustix::net::connect(&socket, &address).map_err(|errno| failed(call("connect"), errno))?;
    Ok(socket)
}

/// `accept4(listener, SOCK_NONBLOCK | SOCK_CLOEXEC)`: the next connection, or none if nobody waits (or who waited left).
pub fn accept(listener: BorrowedFd<'_>) -> SysResult<Option<OwnedFd>> {
    use rustix::io::Errno;
    match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(connection) => Ok(Some(connection)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(errno) => Err(failed(format!("accept4({})", listener.as_raw_fd()), errno)),
    }
}

/// `getsockopt(SO_PEERCRED)`.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> SysResult<PeerCredentials> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)
        .map_err(|errno| failed(format!("getsockopt({}, SO_PEERCRED)", socket.as_raw_fd()), errno))?;
    Ok(PeerCredentials {
        pid: credentials.pid.as_raw_nonzero().get(),
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
    })
}

/// `sendmsg(socket, bytes, SCM_RIGHTS descriptors, MSG_DONTWAIT | MSG_NOSIGNAL)`: how many bytes went. The descriptors
/// travel with the first byte, so they have gone as soon as this is not an error; `WouldBlock` means that nothing went.
/// `bytes` must not be empty; more than [`DESCRIPTORS_MAX`] descriptors are `InvalidInput`.
/// <https://man7.org/linux/man-pages/man2/sendmsg.2.html>
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if bytes.is_empty() || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    retry(|| rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))
}

/// `recvmsg(socket, buffer, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)`: how many bytes came (0 at the end of the stream) and the
/// descriptors beside them, close-on-exec from birth. The kernel never gives bytes from behind a message with descriptors
/// in the same call, so descriptors that are queued in order of arrival belong to frames in the same order.
/// <https://man7.org/linux/man-pages/man2/recvmsg.2.html>
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = retry(|| rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags))?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    Ok((message.bytes, descriptors))
}

/// `fcntl(F_SETFL, O_NONBLOCK)` on a descriptor that somebody else made.
pub fn set_nonblocking(descriptor: BorrowedFd<'_>) -> SysResult<()> {
    let call = || format!("fcntl({}, F_SETFL, O_NONBLOCK)", descriptor.as_raw_fd());
    let flags = rustix::fs::fcntl_getfl(descriptor).map_err(|errno| failed(call(), errno))?;
    rustix::fs::fcntl_setfl(descriptor, flags | rustix::fs::OFlags::NONBLOCK).map_err(|errno| failed(call(), errno))
}

/// A name of at most 108 bytes for a socket file in a directory of any depth: through a descriptor of the directory,
/// which must live until the call is made.
struct ShortPath {
    path: PathBuf,
    _directory: Option<File>,
}

impl ShortPath {
    fn of(path: &Path) -> io::Result<Self> {
        // sun_path with its final NUL.
        if path.as_os_str().len() < 108 {
            return Ok(Self { path: path.to_owned(), _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory = fs::File::open(parent)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd())).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }
}

fn stream_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            answer => return answer.map_err(io::Error::from),
        }
    }
}

fn failed(call: String, errno: rustix::io::Errno) -> SysError {
    SysError::new(call, errno.raw_os_error())
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pw-socket-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("makes a directory");
        path
    }

    #[test]
    fn descriptors_travel_with_the_bytes_and_are_close_on_exec() {
        let base = directory("rights");
        // Deeper than sockaddr_un's 108 bytes: a run directory may be.
        let deep = base.join("x".repeat(120));
        fs::create_dir(&deep).expect("makes a directory");
        let path = deep.join("s.sock");
        let listener = listen_unix(&path, 0o600, 4).expect("listens");
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        assert!(accept(listener.as_fd()).expect("no error").is_none(), "nobody waits");
        let client = connect_unix(&path).expect("connects");
        let server = accept(listener.as_fd()).expect("accepts").expect("somebody waits");
        assert_eq!(
            peer_credentials(server.as_fd()).expect("known").pid,
            i32::try_from(std::process::id()).expect("fits")
        );

        let mut buffer = [0; 64];
        assert_eq!(recv(server.as_fd(), &mut buffer).expect_err("nothing there").kind(), io::ErrorKind::WouldBlock);
        let (mut reader, writer) = io::pipe().expect("a pipe");
        assert_eq!(send(client.as_fd(), b"plain", &[]).expect("sends"), 5);
        assert_eq!(send(client.as_fd(), b"hello", &[writer.as_fd()]).expect("sends"), 5);
        assert_eq!(send(client.as_fd(), b"later", &[]).expect("sends"), 5);
        drop(writer);
        let (count, mut descriptors) = recv(server.as_fd(), &mut buffer).expect("receives");
        assert_eq!(&buffer[..count], b"plainhello", "nothing from behind the descriptors");
        let received = descriptors.pop().expect("one descriptor");
        assert!(rustix::io::fcntl_getfd(&received).expect("open").contains(rustix::io::FdFlags::CLOEXEC));
        File::from(received).write_all(b"through").expect("writes");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("reads to the end: nobody else holds the pipe");
        assert_eq!(text, "through");
        assert_eq!(recv(server.as_fd(), &mut buffer).expect("receives").0, 5);
        drop(client);
        assert_eq!(recv(server.as_fd(), &mut buffer).expect("end").0, 0);
        fs::remove_dir_all(base).expect("cleans up");
    }

    #[test]
    fn a_full_peer_would_block_and_a_gone_one_is_an_error_without_a_signal() {
        let (left, right) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let block = vec![0; 64 * 1024];
        let full = loop {
            match send(left.as_fd(), &block, &[]) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(right);
        assert_eq!(send(left.as_fd(), b"x", &[]).expect_err("gone").kind(), io::ErrorKind::BrokenPipe);
        let many = [left.as_fd(); DESCRIPTORS_MAX + 1];
        assert_eq!(send(left.as_fd(), b"x", &many).expect_err("too many").kind(), io::ErrorKind::InvalidInput);
    }
}
