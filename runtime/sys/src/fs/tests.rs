//! Against the kernel, in directories of each test's own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podwright-sys-fs-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> OwnedFd {
        open(&self.0, Open::PATH | Open::DIRECTORY, 0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_root_keeps_links_inside() {
    let scratch = Scratch::new("root");
    fs::create_dir(scratch.0.join("etc")).unwrap();
    fs::write(scratch.0.join("etc/passwd"), "ours").unwrap();
    symlink("/etc/passwd", scratch.0.join("absolute")).unwrap();
    symlink("../../../../etc/passwd", scratch.0.join("climbing")).unwrap();
    let root = scratch.open();
    for name in ["absolute", "climbing", "../../etc/passwd", "/etc/passwd"] {
        let file = openat2(&root, name, Open::READ, 0, Resolve::IN_ROOT).unwrap();
        assert_eq!(fstat(file).unwrap().size_bytes, 4, "{name}");
        let refused = openat2(&root, name, Open::READ, 0, Resolve::BENEATH).unwrap_err();
        assert_eq!(refused.errno(), libc::EXDEV, "{refused}");
    }
    let refused = openat2(&root, "absolute", Open::READ, 0, Resolve::IN_ROOT | Resolve::NO_SYMLINKS).unwrap_err();
    assert_eq!(refused.errno(), libc::ELOOP);
}

#[test]
fn magic_links_are_refused() {
    let proc_self = open("/proc/self", Open::PATH | Open::DIRECTORY, 0).unwrap();
    let refused = openat2(proc_self, "root/etc", Open::PATH, 0, Resolve::ANYWHERE).unwrap_err();
    assert_eq!(refused.errno(), libc::ELOOP, "{refused}");
}

#[test]
fn attributes_are_exact() {
    let scratch = Scratch::new("attributes");
    let root = scratch.open();
    let file = openat(&root, "f", Open::WRITE | Open::CREATE | Open::EXCLUSIVE, 0o600).unwrap();
    fchmod(&file, 0o4755).unwrap();
    futimens(&file, Time { seconds: -1, nanos: 5 }).unwrap();
    fsetxattr(&file, c"user.colour", b"blue").unwrap();
    let found = fstatat(&root, "f").unwrap();
    assert_eq!((found.kind, found.mode), (Kind::Regular, 0o4755));
    assert_eq!(found.modified, Time { seconds: -1, nanos: 5 });
    assert_eq!(fgetxattr(&file, c"user.colour").unwrap().as_deref(), Some(&b"blue"[..]));
    assert_eq!(fgetxattr(&file, c"user.none").unwrap(), None);
    assert!(flistxattr(&file).unwrap().iter().any(|name| name == "user.colour"));
    assert_eq!(fchown(&file, u32::MAX, 0).unwrap_err().errno(), libc::EINVAL);
}

#[test]
fn a_lock_is_held_once() {
    let scratch = Scratch::new("lock");
    let path = scratch.0.join("lock");
    let first = open(&path, Open::WRITE | Open::CREATE, 0o600).unwrap();
    flock(&first, LockKind::Exclusive).unwrap();
    let second = open(&path, Open::WRITE, 0).unwrap();
    assert_eq!(flock(&second, LockKind::Exclusive).unwrap_err().errno(), libc::EAGAIN);
    drop(first);
    flock(&second, LockKind::Exclusive).unwrap();
}

#[test]
fn a_deep_tree_goes_and_its_neighbour_stays() {
    // More levels than a process may usually have files open.
    const DEPTH: usize = 1100;
    let scratch = Scratch::new("deep");
    fs::write(scratch.0.join("neighbour"), "stays").unwrap();
    let root = scratch.open();
    mkdirat(&root, "tree", 0o755).unwrap();
    let mut here = openat(&root, "tree", Open::PATH | Open::DIRECTORY, 0).unwrap();
    symlinkat("../neighbour", &here, "link").unwrap();
    for _ in 0..DEPTH {
        mkdirat(&here, "d", 0o755).unwrap();
        here = openat(&here, "d", Open::PATH | Open::DIRECTORY, 0).unwrap();
        drop(openat(&here, "f", Open::WRITE | Open::CREATE, 0o600).unwrap());
    }
    remove_tree(&root, "tree").unwrap();
    remove_tree(&root, "tree").unwrap();
    let left: Vec<_> = read_directory(&root).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(left, ["neighbour"]);
}
