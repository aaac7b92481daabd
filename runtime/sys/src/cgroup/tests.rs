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

#[test]
fn limits_and_usage_are_told() {
    if !root() {
        return;
    }
    let group = Cgroup::make(&name("usage")).expect("makes");
    let v1 = group.version() == Version::V1;
    let file = if v1 { c"memory.limit_in_bytes" } else { c"memory.max" };
    if group.write("memory", file, b"67108864").is_err() {
        group.remove().expect("removes");
        return eprintln!("skipped: no memory controller here");
    }
    let doors = group.doors().expect("opens");
    let child = clone3(Namespaces::NONE, None, || {
        for door in &doors {
            if rustix::io::write(door, b"0").is_err() {
                return 1;
            }
        }
        // Not left out by the compiler, though nobody reads it.
        std::hint::black_box(vec![1_u8; 8 << 20]).leak();
        loop {
            rustix::event::pause();
        }
    })
    .expect("clones");
    let opened = Cgroup::open_for(&name("usage"), &USAGE_CONTROLLERS).expect("opens");
    let until = crate::clock::boottime() + std::time::Duration::from_secs(10);
    let usage = loop {
        let usage = opened.usage().expect("reads");
        if usage.anonymous_bytes >= 8 << 20 || crate::clock::boottime() > until {
            break usage;
        }
        std::thread::yield_now();
    };
    let figures = group.figures().expect("reads");
    kill(child.pid, 9).expect("kills");
    wait(child.pidfd.as_fd()).expect("reaps");
    group.remove().expect("removes");
    assert!(usage.anonymous_bytes >= 8 << 20 && usage.memory_bytes >= usage.working_set_bytes, "{usage:?}");
    assert_eq!((usage.memory_limit_bytes, usage.tasks), (Some(64 << 20), 1));
    assert!(usage.cpu_nanos > 0 && usage.page_faults > 0, "{usage:?}");
    // What version 1 doesn't have is not pretended.
    assert_eq!(usage.pressure.memory.is_some(), !v1, "{usage:?}");
    assert_eq!(figures.limits.memory_bytes, 64 << 20);
    assert_eq!(figures.oom_kills, Some(0));
    assert!(figures.memory.max_usage.is_none_or(|bytes| bytes >= 8 << 20), "{figures:?}");
}

#[test]
fn pressure_lines() {
    let time = |total_micros, avg10, avg60, avg300| StallTime { total_micros, avg10, avg60, avg300 };
    let some = "some avg10=64.81 avg60=31.08 avg300=0.40 total=3239893452\n";
    let both = format!("{some}full avg10=0.00 avg60=100.00 avg300=0.01 total=7\n");
    let expected = Stall { some: time(3_239_893_452, 6481, 3108, 40), full: time(7, 0, 10_000, 1) };
    assert_eq!(usage::parse_stall(&both), Some(expected));
    assert_eq!(usage::parse_stall(some), Some(Stall { full: StallTime::default(), ..expected }));
    for bad in ["", "some avg10=1 avg60=0.00 avg300=0.00 total=1", "some avg10=0.00 total=1", "full x"] {
        assert_eq!(usage::parse_stall(bad), None, "{bad}");
    }
}
