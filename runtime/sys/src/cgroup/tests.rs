use std::os::fd::AsFd;

use super::*;
use crate::process::{Namespaces, clone3, kill, wait};

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: control groups are made by root alone");
    }
    root
}

fn name(of: &str) -> PathBuf {
    PathBuf::from(format!("/podwright-test-{of}-{}", std::process::id()))
}

#[test]
fn made_with_parents_and_removed_with_children() {
    if !root() {
        return;
    }
    let group = Cgroup::make(&name("tree").join("a/b")).expect("makes");
    assert_eq!(group.pids().expect("reads"), Vec::<i32>::new());
    let top = Cgroup::open(&name("tree")).expect("opens");
    top.remove().expect("removes");
    top.remove().expect("is gone already");
    assert_eq!(Cgroup::open(&name("tree")).expect_err("is gone").errno(), libc::ENOENT);
}

#[test]
fn a_member_is_listed_and_holds_the_group() {
    if !root() {
        return;
    }
    let group = Cgroup::make(&name("member")).expect("makes");
    let doors = group.doors().expect("opens");
    let child = clone3(Namespaces::NONE, None, || {
        for door in &doors {
            if rustix::io::write(door, b"0").is_err() {
                return 1;
            }
        }
        loop {
            rustix::event::pause();
        }
    })
    .expect("clones");
    while group.pids().expect("reads").is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(group.pids().expect("reads"), [child.pid]);
    assert_eq!(group.remove().expect_err("is in use").errno(), libc::EBUSY);
    kill(child.pid, 9).expect("kills");
    wait(child.pidfd.as_fd()).expect("reaps");
    group.remove().expect("removes");
}

#[test]
fn a_path_that_leads_up_is_refused() {
    for path in ["", "/", "../x", "/a/../b"] {
        assert_eq!(Cgroup::make(Path::new(path)).expect_err("refuses").errno(), libc::EINVAL, "{path}");
    }
}

#[test]
fn the_layout_is_read_from_the_mount_table() {
    let line = |filesystem: &str, options: &str| Mount {
        id: 1,
        parent: 1,
        root: "/".into(),
        mount_point: "/".into(),
        options: "rw".into(),
        propagation: Vec::new(),
        filesystem: filesystem.into(),
        source: String::new(),
        super_options: options.into(),
    };
    let hybrid = [line("cgroup2", "rw"), line("cgroup", "rw,cpu,cpuacct"), line("cgroup", "rw,xattr,name=systemd")];
    let found = detect(&hybrid).expect("finds");
    assert_eq!((found.version, found.list.len()), (Version::V1, 1));
    assert_eq!(found.list[0].controllers, ["cpu", "cpuacct"]);
    assert_eq!(detect(&hybrid[..1]).expect("finds").version, Version::V2);
    assert_eq!(detect(&[]).expect_err("finds none").errno(), libc::ENOENT);
}

#[test]
fn a_key_that_begins_like_another() {
    let text = "rss_huge 7\nrss 5\n";
    assert_eq!(usage::field(text, "rss"), Some(5));
    assert_eq!(usage::field(text, "cache"), None);
}

#[test]
fn the_setup_fits_the_hierarchies() {
    let Ok(found) = hierarchies() else { return eprintln!("skipped: no cgroup hierarchy here") };
    let setup = setup().expect("looks");
    assert_eq!(setup == Setup::Unified, found.version == Version::V2, "{setup:?}");
}

#[test]
fn a_cpuset_below_a_cpuset_has_processors() {
    if !root() {
        return;
    }
    let group = Cgroup::make(&name("cpus").join("a/b/c")).expect("makes");
    if group.version() == Version::V1 {
        assert!(!group.read("cpuset", c"cpuset.cpus").expect("reads").trim().is_empty());
        assert!(!group.read("cpuset", c"cpuset.mems").expect("reads").trim().is_empty());
    }
    Cgroup::open(&name("cpus")).expect("opens").remove().expect("removes");
}
