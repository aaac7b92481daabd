//! Images whose layers imply directories, mounted and compared with what unpacking one layer over the other would make.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::tests::Fixture;
use crate::error::Kind;
use crate::store::chain as text_of;
use crate::testing::{Block, Tar, names, root_or_skip};

/// A directory entry with these attributes.
fn dir(archive: Tar, name: &str, mode: &str, uid: &str) -> Tar {
    let block = Block::new(b'5', name.as_bytes(), 0);
    archive.block(block.with(100, format!("{mode:0>7}\0").as_bytes()).with(108, format!("{uid:0>7}\0").as_bytes()))
}

/// Everything below a directory: path, mode, owner, and contents or target.
fn tree(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(at) = pending.pop() {
        for name in names(&root.join(&at)) {
            let path = at.join(name);
            let found = fs::symlink_metadata(root.join(&path)).unwrap();
            let shown = path.display();
            lines.push(if found.is_dir() {
                pending.push(path.clone());
                format!("{shown}/ {:o} {}", found.mode() & 0o7777, found.uid())
            } else if found.is_symlink() {
                format!("{shown} -> {}", fs::read_link(root.join(&path)).unwrap().display())
            } else {
                format!("{shown} = {}", fs::read_to_string(root.join(&path)).unwrap())
            });
        }
    }
    lines.sort();
    lines
}

/// What a container of the image sees.
fn mounted(fixture: &Fixture, id: &str) -> Vec<String> {
    let root = fixture.store.hold(id, "mounted").unwrap();
    let lowers: Vec<_> = root.lowers.iter().map(|lower| lower.to_str().unwrap()).collect();
    let empty = fixture.directory.path().join("bottom");
    let merged = fixture.directory.path().join("merged");
    for directory in [&empty, &merged] {
        fs::create_dir_all(directory).unwrap();
    }
    let lowers = format!("lowerdir={}:{}", lowers.join(":"), empty.to_str().unwrap());
    let mount = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &lowers]).arg(&merged).output().unwrap();
    assert!(mount.status.success(), "{mount:?}");
    let found = std::panic::catch_unwind(|| tree(&merged));
    assert!(Command::new("umount").arg(&merged).status().unwrap().success());
    fixture.store.release("mounted");
    found.unwrap()
}

/// A base like a distribution's.
fn base() -> Vec<u8> {
    let archive = dir(Tar::default(), "usr/", "755", "0").dir("usr/lib/").symlink("lib", "usr/lib");
    let archive = archive.file("usr/lib/a", b"A").file("usr/lib/gone", b"").file("usr/lib/sub/old", b"old");
    let archive = dir(dir(archive, "tmp/", "1777", "0"), "var/", "750", "5").file("var/old", b"");
    let archive = dir(archive, "etc/", "700", "0").file("etc/conf", b"1").file("away/x", b"").file("file", b"");
    dir(archive, "plain/", "755", "0").file("plain/x", b"").end()
}

#[test]
fn implied_directories_are_those_below() {
    if !root_or_skip("implied_directories_are_those_below") {
        return;
    }
    let fixture = Fixture::new();
    let second = Tar::default()
        .file("lib/foo", b"foo")
        .file("lib/.wh.gone", b"")
        .file("lib/sub/new", b"new")
        .file("tmp/x", b"")
        .file("var/.wh..wh..opq", b"")
        .file("var/new", b"")
        .file(".wh.away", b"")
        .file("away/y", b"")
        .file("plain/y", b"")
        .file("fresh/y", b"");
    let second = dir(second, "etc/", "711", "3").file("etc/more", b"").end();
    let third = Tar::default().file("var/third", b"").file("lib/sub/third", b"").file("tmp/x", b"3").end();
    let image = fixture.image(&[base(), second, third], &["example.com/i:1"]);
    let expected = [
        "away/ 755 0",
        "away/y = ",
        "etc/ 711 3",
        "etc/conf = 1",
        "etc/more = ",
        "file = ",
        "fresh/ 755 0",
        "fresh/y = ",
        "lib -> usr/lib",
        "plain/ 755 0",
        "plain/x = ",
        "plain/y = ",
        "tmp/ 1777 0",
        "tmp/x = 3",
        "usr/ 755 0",
        "usr/lib/ 755 0",
        "usr/lib/a = A",
        "usr/lib/foo = foo",
        "usr/lib/sub/ 755 0",
        "usr/lib/sub/new = new",
        "usr/lib/sub/old = old",
        "usr/lib/sub/third = 3",
        "var/ 750 5",
        "var/new = ",
        "var/third = ",
    ];
    let expected: Vec<String> = expected.iter().map(|line| (*line).replace("third = 3", "third = ")).collect();
    assert_eq!(mounted(&fixture, &image.id), expected);
    assert_eq!(names(&fixture.path("layers")).len(), 5, "three layers, and two of them for this chain");
    fixture.nothing_half_made();

    let fixture = fixture.reopened();
    assert_eq!(mounted(&fixture, &image.id), expected, "after a restart");
    fixture.store.collect().unwrap();
    assert_eq!(mounted(&fixture, &image.id), expected, "what is used is not rubbish");
    fixture.store.remove(&image).unwrap();
    assert_eq!(names(&fixture.path("layers")), [""; 0]);
    assert_eq!(fixture.store.usage(), crate::Usage::default());
}

#[test]
fn layers_that_agree_stay_as_they_are() {
    if !root_or_skip("layers_that_agree_stay_as_they_are") {
        return;
    }
    let fixture = Fixture::new();
    let second = Tar::default().file("plain/y", b"").file("usr/lib/y", b"").file("other/z", b"").end();
    let one = fixture.image(&[base(), second.clone()], &["example.com/one:1"]);
    assert_eq!(names(&fixture.path("layers")).len(), 2);
    // The same layer on top of another one needs a tree of its own; who begins alike shares it.
    let strict = dir(Tar::default(), "plain/", "500", "7").end();
    let two = fixture.image(&[base(), strict.clone(), second.clone()], &["example.com/two:1"]);
    assert_eq!(names(&fixture.path("layers")).len(), 4);
    let three = fixture.image(&[base(), strict, second, Tar::default().file("t", b"").end()], &["example.com/three:1"]);
    assert_eq!(names(&fixture.path("layers")).len(), 5);
    let plain = |id: &str| mounted(&fixture, id).into_iter().find(|line| line.starts_with("plain/ ")).unwrap();
    assert_eq!((plain(&one.id), plain(&two.id)), ("plain/ 755 0".to_owned(), "plain/ 500 7".to_owned()));
    fixture.store.remove(&two).unwrap();
    assert_eq!(plain(&three.id), "plain/ 500 7");
    fixture.store.remove(&three).unwrap();
    assert_eq!(names(&fixture.path("layers")).len(), 2);
}

#[test]
fn links_below_lead_inside_the_root() {
    if !root_or_skip("links_below_lead_inside_the_root") {
        return;
    }
    let fixture = Fixture::new();
    let canary = fixture.directory.path().join("canary");
    fs::create_dir(&canary).unwrap();
    let below = dir(Tar::default(), "real/", "710", "7")
        .symlink("up", "../../../../../../canary")
        .symlink("out", canary.to_str().unwrap())
        .symlink("absolute", "/real")
        .symlink("twice", "absolute/./x/..")
        .symlink("loop", "loop")
        .symlink("here", "/")
        .symlink("to-file", "f")
        .file("f", b"")
        .end();
    let names_below = ["up", "out", "absolute", "twice", "loop", "here", "to-file"];
    let above = names_below.iter().fold(Tar::default(), |archive, name| archive.file(&format!("{name}/{name}"), b""));
    // A file behind the link and the same at its right place; a whiteout of what comes by the other way.
    let above = above.file("real/both", b"right").file("absolute/both", b"").file("real/.wh.twice", b"").end();
    let image = fixture.image(&[below, above], &["example.com/l:1"]);
    let found = mounted(&fixture, &image.id);
    assert_eq!(names(&canary), [""; 0]);
    // `here/here` goes to the root, where it replaces the link that led there.
    for line in [
        "canary/up = ",
        "real/ 710 7",
        "real/absolute = ",
        "real/twice = ",
        "here = ",
        "absolute -> /real",
        "loop/loop = ",
        "to-file/to-file = ",
        "up -> ../../../../../../canary",
    ] {
        assert!(found.iter().any(|found| found == line), "{line:?} in {found:#?}");
    }
    assert!(found.iter().any(|line| line.starts_with("real/both = ")), "{found:#?}");
}

#[test]
fn hard_links_reach_the_layers_below() {
    if !root_or_skip("hard_links_reach_the_layers_below") {
        return;
    }
    let fixture = Fixture::new();
    let second = Tar::default()
        .hardlink("link", "lib")
        .hardlink("copy", "usr/lib/a")
        .hardlink("by-link", "lib/a")
        .hardlink("lib/again", "copy")
        .end();
    let image = fixture.image(&[base(), second.clone()], &["example.com/h:1"]);
    let found = mounted(&fixture, &image.id);
    for line in ["copy = A", "usr/lib/again = A", "by-link = A", "link -> usr/lib", "lib -> usr/lib"] {
        assert!(found.iter().any(|found| found == line), "{line:?} in {found:#?}");
    }
    let refused = |layers: &[Vec<u8>]| {
        let error = fixture.try_image(layers, &["example.com/no:1"]).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(text_of(&error).contains("the hard link"), "{}", text_of(&error));
        assert!(fixture.store.by_name("example.com/no:1").is_none());
        fixture.nothing_half_made();
    };
    refused(std::slice::from_ref(&second));
    refused(&[base(), Tar::default().hardlink("x", "missing").end()]);
    refused(&[base(), Tar::default().hardlink("x", "etc").end()]);
    refused(&[base(), Tar::default().file(".wh..wh..opq", b"").hardlink("x", "usr/lib/a").end()]);
    let outside = Tar::default().symlink("etc", "../../../..").end();
    refused(&[outside, Tar::default().hardlink("x", "etc/etc/passwd").end()]);

    // The tree for the chain is lost: the image isn't whole, and comes back by a pull.
    let (layer, chain) = (image.layers[1].diff_id, super::chain_ids(&image.layers)[1]);
    assert_ne!(layer, chain);
    fs::remove_dir_all(fixture.path("layers").join(chain.hex())).unwrap();
    let fixture = fixture.reopened();
    assert_eq!(fixture.store.list(), []);
    let image = fixture.image(&[base(), second], &["example.com/h:1"]);
    assert!(mounted(&fixture, &image.id).contains(&"copy = A".to_owned()));
}

#[test]
fn a_name_that_is_no_text_is_kept() {
    if !root_or_skip("a_name_that_is_no_text_is_kept") {
        return;
    }
    let fixture = Fixture::new();
    let below = Tar::default().block(Block::new(b'5', b"\xff/", 0).with(100, b"0000700\0")).end();
    let above = Tar::default().named(b'0', b"\xff/x", 0, b"").end();
    let image = fixture.image(&[below, above], &["example.com/n:1"]);
    let fixture = fixture.reopened();
    let root = fixture.store.hold(&image.id, "n").unwrap();
    let directory = fs::read_dir(&root.lowers[0]).unwrap().next().unwrap().unwrap();
    assert_eq!(directory.metadata().unwrap().mode() & 0o7777, 0o700);
}
