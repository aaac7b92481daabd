use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podwright-rootfs-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("root")).expect("makes");
        fs::create_dir_all(path.join("outside")).expect("makes");
        Self(path)
    }

    fn root(&self) -> OwnedFd {
        open_host_directory(&c_path(self.0.join("root").as_os_str()).expect("no NUL")).expect("opens")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("removes");
    }
}

#[test]
fn links_stay_inside_and_dangling_ones_are_filled() {
    let tree = Tree::new("links");
    let root = tree.0.join("root");
    symlink("../../../outside", root.join("up")).expect("links");
    symlink("/absolute/place", root.join("abs")).expect("links");
    open_or_make(tree.root().as_fd(), c"/up/a/b", Make::Directory).expect("makes");
    assert!(root.join("outside/a/b").is_dir());
    open_or_make(tree.root().as_fd(), c"abs/file", Make::File).expect("makes");
    assert!(root.join("absolute/place/file").is_file());
    assert_eq!(fs::read_dir(tree.0.join("outside")).expect("reads").count(), 0);
}

#[test]
fn loops_and_files_on_the_way_are_errors() {
    let tree = Tree::new("loops");
    let root = tree.0.join("root");
    symlink("b", root.join("a")).expect("links");
    symlink("a", root.join("b")).expect("links");
    fs::write(root.join("file"), "").expect("writes");
    let check = |path: &CStr, errno: i32| {
        let error = open_or_make(tree.root().as_fd(), path, Make::Directory).expect_err("refuses");
        assert_eq!(error.errno(), errno, "{error}");
    };
    check(c"a/x", libc::ELOOP);
    check(c"file/x", libc::ENOTDIR);
    let refused = open_in_root(tree.root().as_fd(), c"a", Links::Refused).expect_err("refuses");
    assert_eq!(refused.errno(), libc::ELOOP);
}

#[test]
fn a_link_is_no_device() {
    let tree = Tree::new("node");
    symlink("/dev/null", tree.0.join("root/null")).expect("links");
    let node = Node { kind: Kind::Character(device_number(1, 3)), mode: 0o666, uid: 0, gid: 0 };
    let error = make_node(tree.root().as_fd(), c"null", node).expect_err("refuses");
    // Without root the kernel refuses before it looks.
    assert!([libc::EEXIST, libc::EPERM].contains(&error.errno()), "{error}");
}
