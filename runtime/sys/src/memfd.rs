//! Programs in sealed anonymous memory: nothing in a container can reach or overwrite them.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, SealFlags};

use crate::error::{SysError, SysResult};

/// `memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC)` with the bytes of `source`, sealed: an executable
/// copy that nobody can change, to be started as `/proc/self/fd/N`. `MFD_EXEC` is asked for where the kernel knows it
/// (6.3) and left out before, when every memfd was executable; where `vm.memfd_noexec` is 2 this fails with `EACCES`.
/// <https://man7.org/linux/man-pages/man2/memfd_create.2.html>
pub fn sealed_copy(source: &File, name: &str) -> SysResult<OwnedFd> {
    let base = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match rustix::fs::memfd_create(name, base | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, base),
        answer => answer,
    }
    .map_err(|errno| SysError::new(format!("memfd_create({name:?}, MFD_EXEC)"), errno.raw_os_error()))?;
    let failed = |call: &str, error: &io::Error| {
        SysError::new(format!("{call}(memfd {name:?})"), error.raw_os_error().unwrap_or(libc::EIO))
    };
    let mut reader = source.try_clone().map_err(|error| failed("dup", &error))?;
    reader.rewind().map_err(|error| failed("lseek", &error))?;
    let mut writer = File::from(copy);
    io::copy(&mut reader, &mut writer).map_err(|error| failed("write", &error))?;
    let copy = OwnedFd::from(writer);
    let errno = |call: &str, errno: rustix::io::Errno| {
        SysError::new(format!("{call}({}, memfd {name:?})", copy.as_raw_fd()), errno.raw_os_error())
    };
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o500)).map_err(|error| errno("fchmod", error))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(|error| errno("fcntl(F_ADD_SEALS)", error))?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_copy_runs_and_cannot_be_changed() {
        let source = File::open("/bin/sh").expect("a shell");
        let copy = sealed_copy(&source, "pw-test").expect("copies");
        let program = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let status = Command::new(&program).args(["-c", "exit 9"]).status().expect("starts");
        assert_eq!(status.code(), Some(9));
        let mut file = File::from(copy);
        file.rewind().expect("rewinds");
        assert_eq!(file.write(b"x").expect_err("sealed").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(file.set_len(0).expect_err("sealed").kind(), io::ErrorKind::PermissionDenied);
    }
}
