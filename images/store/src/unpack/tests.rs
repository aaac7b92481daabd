//! Hostile and ordinary layers against the kernel: the numbers in names are those of the list of hostile images.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::testing::{Block, Tar, record, root_or_skip};

/// A directory with the tree of one layer, and a canary that no layer may touch.
struct Layer {
    directory: TempDir,
    result: Result<Unpacked, UnpackError>,
}

const CANARY: &str = "the canary";

impl Layer {
    fn new(bytes: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["fs", "trash"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("canary"), CANARY).unwrap();
        fs::set_permissions(directory.path().join("canary"), fs::Permissions::from_mode(0o640)).unwrap();
        let open = |name: &str| sys::open(directory.path().join(name), Open::READ | Open::DIRECTORY, 0).unwrap();
        let mut archive = Archive::new(bytes);
        let result = unpack(&mut archive, open("fs"), open("trash"));
        Self { directory, result }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join("fs").join(name)
    }

    fn canary_lives(&self) {
        let canary = self.directory.path().join("canary");
        assert_eq!(fs::read_to_string(&canary).unwrap(), CANARY);
        assert_eq!(fs::metadata(&canary).unwrap().mode() & 0o7777, 0o640);
        let beside = crate::testing::names(self.directory.path());
        assert_eq!(beside, ["canary", "fs", "trash"]);
    }

    fn opaque(&self, name: &str) -> bool {
        let directory = sys::open(self.at(name), Open::READ | Open::DIRECTORY, 0).unwrap();
        sys::fgetxattr(&directory, OPAQUE).unwrap().as_deref() == Some(b"y")
    }

    fn is_whiteout(&self, name: &str) -> bool {
        fs::symlink_metadata(self.at(name)).is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == 0)
    }
}

/// A layer that must come in.
#[track_caller]
fn good(archive: Tar) -> Layer {
    let layer = Layer::new(&archive.end());
    if let Err(error) = &layer.result {
        panic!("{}", crate::store::chain(error));
    }
    layer.canary_lives();
    layer
}

/// A layer that must be refused with these words.
#[track_caller]
fn bad(archive: Tar, reason: &str) {
    let layer = Layer::new(&archive.end());
    let text = crate::store::chain(layer.result.as_ref().unwrap_err());
    assert!(text.contains(reason), "{text:?} doesn't say {reason:?}");
    layer.canary_lives();
}

#[test]
fn an_ordinary_layer() {
    if !root_or_skip("an_ordinary_layer") {
        return;
    }
    let layer = good(
        Tar::default()
            .block(Block::new(b'5', b"./", 0).with(100, b"0000711\0"))
            .block(Block::new(b'5', b"etc/", 0).with(136, b"00000000144\0"))
            .file("etc/passwd", b"root")
            .block(Block::new(b'0', b"bin/su", 3).with(100, b"0004755\0").with(108, b"0001750\0"))
            .data(b"elf")
            .symlink("bin/sh", "/bin/busybox")
            .hardlink("bin/again", "bin/su")
            .block(Block::new(b'6', b"pipe", 0).with(100, b"0000622\0")),
    );
    assert_eq!(fs::metadata(layer.at("")).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(fs::read(layer.at("etc/passwd")).unwrap(), b"root");
    assert_eq!(fs::metadata(layer.at("etc")).unwrap().mtime(), 0o144, "set after its file was made");
    let su = fs::metadata(layer.at("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.nlink(), su.mtime()), (0o4755, 0o1750, 2, 1));
    assert_eq!(fs::read_link(layer.at("bin/sh")).unwrap(), PathBuf::from("/bin/busybox"));
    assert!(fs::metadata(layer.at("pipe")).unwrap().file_type().is_fifo());
    let result = layer.result.unwrap();
    assert_eq!(result.implied, [b"bin".to_vec()]);
    assert_eq!(result.inodes, 7);
}

#[test]
fn cases_1_to_17_paths() {
    if !root_or_skip("cases_1_to_17_paths") {
        return;
    }
    bad(Tar::default().file("../x", b""), "`..`");
    bad(Tar::default().file("a/../../x", b""), "`..`");
    bad(Tar::default().dir(".."), "`..`");
    bad(Tar::default().file("", b""), "empty");
    bad(Tar::default().file("file/", b""), "means a directory");
    bad(Tar::default().file(&"x".repeat(256), b""), "longer than 255");
    bad(Tar::default().dir(&"a/".repeat(2500)), "longer than");
    bad(Tar::default().dir(&"a/".repeat(1500)), "deeper than");
    bad(Tar::default().symlink(".", "/canary"), "root");
    bad(Tar::default().file("a", b"").file("a/b", b""), "no directory");
    let layer = good(
        Tar::default()
            .file("/absolute", b"1")
            .dir("./")
            .file("a//b/./c", b"2")
            .file(&"y".repeat(255), b"3")
            .named(b'0', b"\xff\xfe", 0, b"")
            .file("new\nline\x1b[31m", b"")
            .file("-rf", b"")
            .file("C:\\x", b"")
            .file("case", b"lower")
            .file("CASE", b"upper")
            .dir(&"d/".repeat(1000)),
    );
    assert!(layer.at("absolute").exists() && layer.at("a/b/c").exists());
    assert!(layer.at("").join(OsStr::from_bytes(b"\xff\xfe")).exists());
    assert_eq!(fs::read(layer.at("case")).unwrap(), b"lower");
}

#[test]
fn cases_18_to_29_symlinks() {
    if !root_or_skip("cases_18_to_29_symlinks") {
        return;
    }
    // 18: written through: the link itself is replaced.
    let layer = good(Tar::default().symlink("link", "/etc/passwd").file("link", b"ours"));
    assert!(fs::symlink_metadata(layer.at("link")).unwrap().is_file());
    // 18, 19, 22: a child below a link stays in the root, wherever the link points.
    for target in ["/etc", "../../../../etc", "/../..//etc/.", "etc"] {
        let layer = good(Tar::default().symlink("link", target).file("link/podwright-was-here", b"x"));
        assert!(layer.at("etc/podwright-was-here").exists(), "{target}");
        assert!(!PathBuf::from("/etc/podwright-was-here").exists());
    }
    let layer = good(Tar::default().symlink("up", "../canary-dir").file("up/x", b""));
    assert!(layer.at("canary-dir/x").exists());
    // 20, 21: chains and loops.
    let chain = (0..42).fold(Tar::default().dir("l42"), |archive, link| {
        archive.symlink(&format!("l{link}"), &format!("l{}", link + 1))
    });
    bad(chain.clone().file("l0/x", b""), "symbolic links");
    assert!(good(chain.file("l5/x", b"")).at("l42/x").exists());
    bad(Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", b""), "symbolic links");
    bad(Tar::default().symlink("self", "self").file("self/x", b""), "symbolic links");
    // 23: a link replaced by a directory whose mode must not reach what it pointed to.
    let wide = Block::new(b'5', b"d", 0).with(100, b"0000777\0");
    let layer = good(Tar::default().symlink("d", "../canary").block(wide));
    assert!(fs::symlink_metadata(layer.at("d")).unwrap().is_dir());
    // 24: the other way round, with the way cached.
    let layer = good(
        Tar::default().file("d/one", b"").dir("other").symlink("d", "other").file("d/two", b"").file("d/three", b""),
    );
    assert!(layer.at("other/two").exists() && layer.at("other/three").exists() && !layer.at("other/one").exists());
    // 26, 27.
    bad(Tar::default().symlink("long", &"t".repeat(4096)), "too long");
    bad(Tar::default().symlink("empty", ""), "empty");
    // 28: magic links are names like others.
    let layer = good(Tar::default().symlink("fd", "/proc/self/fd").file("fd/1", b"text"));
    assert_eq!(fs::read(layer.at("proc/self/fd/1")).unwrap(), b"text");
}

#[test]
fn links_that_cost_hours_are_refused() {
    if !root_or_skip("links_that_cost_hours_are_refused") {
        return;
    }
    let target = format!("{}d", "x/../".repeat(800));
    let mut archive = Tar::default().dir("d").dir("x");
    for link in 0..39 {
        archive = archive.symlink(
            &format!("l{link}"),
            &if link == 0 { target.clone() } else { format!("{}l{}", "x/../".repeat(800), link - 1) },
        );
    }
    for entry in 0..300 {
        archive = archive.file(&format!("l38/{entry}"), b"").file(&format!("d/{entry}"), b"");
    }
    bad(archive, "steps");
}

#[test]
fn cases_30_to_38_hard_links() {
    if !root_or_skip("cases_30_to_38_hard_links") {
        return;
    }
    bad(Tar::default().hardlink("x", "../canary"), "`..`");
    bad(Tar::default().hardlink("x", "../../etc/shadow"), "`..`");
    // What isn't here is asked of the layers below; a layer that has none below is refused then.
    let foreign = |archive: Tar, expected: &[(&str, &str)]| {
        let layer = good(archive);
        let found = layer.result.as_ref().unwrap().foreign.clone();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let found: Vec<_> = found.iter().map(|(link, target)| (text(link), text(target))).collect();
        let expected: Vec<_> =
            expected.iter().map(|(link, target)| ((*link).to_owned(), (*target).to_owned())).collect();
        assert_eq!(found, expected);
        layer
    };
    foreign(Tar::default().hardlink("x", "/etc/passwd"), &[("x", "etc/passwd")]);
    foreign(Tar::default().symlink("etc", "../..").hardlink("x", "etc/canary"), &[("x", "etc/canary")]);
    foreign(Tar::default().hardlink("d/x", "missing").hardlink("y", "d/x"), &[("d/x", "missing"), ("y", "missing")]);
    foreign(Tar::default().hardlink("x", "later").file("later", b""), &[("x", "later")]);
    foreign(Tar::default().hardlink("x", "later").file("x", b""), &[]);
    foreign(Tar::default().hardlink("x", "later").dir("x"), &[]);
    assert!(!foreign(Tar::default().file("x", b"").hardlink("x", "y"), &[("x", "y")]).at("x").exists());
    bad(Tar::default().hardlink("x", "y").hardlink("y", "x"), "the link itself");
    bad(Tar::default().file("f", b"").hardlink("x", "f/y"), "can't be reached");
    bad(Tar::default().dir("d").hardlink("x", "d"), "neither a file");
    bad(Tar::default().hardlink("x", "."), "root");
    bad(Tar::default().file("x", b"").hardlink("x", "x"), "the link itself");
    bad(Tar::default().file(".wh.gone", b"").hardlink("x", "gone"), "neither a file");
    let layer = good(
        Tar::default()
            .file("f", b"data")
            .hardlink("absolute", "/f")
            .symlink("s", "/etc/shadow")
            .hardlink("to-link", "s")
            .symlink("here", ".")
            .hardlink("here/f", "f"),
    );
    assert_eq!(fs::metadata(layer.at("f")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(layer.at("to-link")).unwrap(), PathBuf::from("/etc/shadow"));
}

#[test]
fn cases_39_to_48_whiteouts() {
    if !root_or_skip("cases_39_to_48_whiteouts") {
        return;
    }
    for name in [".wh...", ".wh.", ".wh..", "d/.wh...", ".wh.x/y", ".wh..wh.unknown"] {
        bad(Tar::default().file(name, b""), "reserved prefix");
    }
    bad(Tar::default().dir(".wh.foo/"), "reserved prefix");
    bad(Tar::default().symlink(".wh.foo", "x"), "reserved prefix");
    assert!(good(Tar::default().file(".wh..wh..opq", b"")).result.unwrap().root_opaque);
    let layer = good(
        Tar::default()
            .file("gone/.wh.file", b"")
            .file("opaque/.wh..wh..opq", b"")
            .file("opaque/kept", b"")
            .file(".wh..wh.plnk", b"")
            .file(".wh..wh.aufs/x", b"")
            // 44: through a link.
            .symlink("link", "gone")
            .file("link/.wh.other", b"")
            // 45: of what the same layer brings.
            .file("same", b"stays")
            .file(".wh.same", b"")
            .file("same-dir/x", b"")
            .file(".wh.same-dir", b"")
            // 46: and brought again.
            .file(".wh.again", b"")
            .dir("again")
            .file(".wh.again-file", b"")
            .file("again-file", b"new")
            // 48: overlayfs's own.
            .block(Block::new(b'3', b"raw", 0)),
    );
    assert!(layer.is_whiteout("gone/file") && layer.is_whiteout("gone/other") && layer.is_whiteout("raw"));
    assert!(layer.opaque("opaque") && layer.at("opaque/kept").exists());
    assert_eq!(fs::read(layer.at("same")).unwrap(), b"stays");
    assert!(layer.opaque("same-dir") && layer.at("same-dir/x").exists());
    assert!(layer.opaque("again") && !layer.opaque("gone"));
    assert_eq!(fs::read(layer.at("again-file")).unwrap(), b"new");
    assert!(!layer.at(".wh..wh.plnk").exists() && !layer.at(".wh..wh.aufs").exists());
}

#[test]
fn case_43_opaque_markers_without_end() {
    if !root_or_skip("case_43_opaque_markers_without_end") {
        return;
    }
    let deep = "d/".repeat(100);
    let mut archive = Tar::default();
    for number in 0..2000 {
        archive = archive.file(&format!("{deep}{number}"), b"");
    }
    let one = Tar::default().file(&format!("{deep}.wh..wh..opq"), b"").0;
    archive.0.extend(one.repeat(100_000));
    let began = fs::metadata("/proc/self").unwrap().ctime();
    good(archive);
    let took = fs::metadata("/proc/self").unwrap().ctime() - began;
    assert!(took <= 30, "{took} s");
}

#[test]
fn cases_49_to_59_attributes() {
    if !root_or_skip("cases_49_to_59_attributes") {
        return;
    }
    let with = |name: &str, value: &[u8]| {
        let key = format!("SCHILY.xattr.{name}");
        Tar::default().pax(&record(key.as_bytes(), value)).file("x", b"")
    };
    for name in ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.metacopy"] {
        bad(with(name, b"y"), "overlayfs");
    }
    bad(with("", b"y"), "name that the kernel doesn't take");
    bad(with(&"n".repeat(256), b"y"), "name that the kernel doesn't take");
    bad(with("user.large", &vec![0; 65537]), "longer than 65536");
    bad(with("system.posix_acl_access", b"\x02\0\0\0abc"), "can't be set");
    bad(with("security.capability", b"nonsense"), "can't be set");
    let value = |layer: &Layer, name: &std::ffi::CStr| {
        let file = sys::open(layer.at("x"), Open::READ, 0).unwrap();
        sys::fgetxattr(&file, name).unwrap()
    };
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = good(with("security.capability", capability));
    assert_eq!(value(&layer, c"security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(value(&good(with("user.mime", b"text")), c"user.mime").as_deref(), Some(&b"text"[..]));
    assert_eq!(value(&good(with("security.selinux", b"label")), c"security.selinux"), None);
    assert_eq!(value(&good(with("trusted.other", b"x")), c"trusted.other"), None);
}

#[test]
fn case_50_devices() {
    if !root_or_skip("case_50_devices") {
        return;
    }
    let null = Block::new(b'3', b"null", 0).with(329, b"0000001\0").with(337, b"0000003\0").with(100, b"0000666\0");
    let layer = Layer::new(&Tar::default().block(null).end());
    match &layer.result {
        Ok(_) => {
            let found = fs::metadata(layer.at("null")).unwrap();
            assert!(found.file_type().is_char_device());
            assert_eq!((found.rdev(), found.mode() & 0o7777), (0x103, 0o666));
        }
        Err(error) => assert!(crate::store::chain(error).contains("EPERM"), "{error}"),
    }
    layer.canary_lives();
}

#[test]
fn case_69_the_last_of_equal_names_stays() {
    if !root_or_skip("case_69_the_last_of_equal_names_stays") {
        return;
    }
    let mut archive = Tar::default();
    for number in 0..2000 {
        archive = archive.file("x", number.to_string().as_bytes()).dir("d").file("d/y", b"").file("d", b"");
    }
    let layer = good(archive.file("last", b""));
    assert_eq!(fs::read(layer.at("x")).unwrap(), b"1999");
    assert_eq!(crate::testing::names(&layer.at("")), ["d", "last", "x"]);
}

#[test]
fn files_with_holes_come_in_as_gnu_tar_writes_them() {
    use std::os::unix::fs::FileExt as _;
    if !root_or_skip("files_with_holes_come_in_as_gnu_tar_writes_them") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holes");
    let file = fs::File::create(&path).unwrap();
    // More pieces than an old header has room for, and a hole at the end.
    for piece in 0_u8..40 {
        file.write_all_at(&[b'a' + piece % 26; 5000], u64::from(piece) * 1_000_000).unwrap();
    }
    file.set_len(64_000_000).unwrap();
    for format in ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"] {
        let posix = if format.starts_with("--sparse") { "--format=posix" } else { "--sparse" };
        let mut tar = std::process::Command::new("tar");
        tar.args(["--create", "--sparse", posix, format, "--directory"]).arg(directory.path()).arg("holes");
        let made = tar.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert!(made.stdout.len() < 1_000_000, "{format}: {} bytes have holes filled", made.stdout.len());
        let layer = Layer::new(&made.stdout);
        if let Err(error) = &layer.result {
            panic!("{format}: {}", crate::store::chain(error));
        }
        let found = fs::metadata(layer.at("holes")).unwrap();
        assert_eq!(found.len(), 64_000_000, "{format}");
        assert!(found.blocks() * 512 < 2_000_000, "{format}: {} blocks are no holes", found.blocks());
        assert!(fs::read(layer.at("holes")).unwrap() == fs::read(&path).unwrap(), "{format}: other contents");
        assert!(layer.result.as_ref().unwrap().bytes < 1_000_000, "{format}: holes are counted");
    }
}

#[test]
fn the_root_s_attributes_are_kept() {
    if !root_or_skip("the_root_s_attributes_are_kept") {
        return;
    }
    let root = Block::new(b'5', b"./", 0).with(100, b"0001751\0").with(108, b"0000007\0").with(116, b"0000010\0");
    let layer = good(Tar::default().block(root).file("x", b""));
    let listed = RootAttributes { mode: 0o1751, uid: 7, gid: 8 };
    assert_eq!(layer.result.unwrap().root, Some(listed));
    assert_eq!(good(Tar::default().file("x", b"")).result.unwrap().root, None);
}
