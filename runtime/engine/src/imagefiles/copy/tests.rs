use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    time::{Duration, SystemTime},
};

use runtime_lifecycle::{IdMappings, IdRange};
use runtime_sys::fs::{Node, mknodat};

use super::*;

fn own() -> Copies<'static> {
    Copies { user: UserMode::Node, label: None }
}

/// Every path below `root`, links with their target, files with their contents.
fn listed(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(root).expect("below it").display().to_string();
            let kind = fs::symlink_metadata(&path).expect("it is there").file_type();
            found.push(if kind.is_symlink() {
                format!("{name} -> {}", fs::read_link(&path).expect("a link").display())
            } else if kind.is_dir() {
                left.push(path);
                format!("{name}/")
            } else {
                format!("{name} = {}", fs::read_to_string(&path).expect("text"))
            });
        }
    }
    found.sort();
    found
}

#[test]
fn layers_are_joined_and_nothing_of_the_host_is_copied() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [top, low, into] = ["top", "low", "into"].map(|name| dir.path().join(name));
    for path in ["top/srv/data/both", "low/srv/data/both", "low/srv/data/gone", "into"] {
        fs::create_dir_all(dir.path().join(path)).expect("a directory");
    }
    fs::write(top.join("srv/data/both/new"), "top").expect("a file");
    fs::write(top.join("srv/data/both/same"), "top").expect("a file");
    fs::write(low.join("srv/data/both/same"), "low").expect("a file");
    fs::write(low.join("srv/data/old"), "low").expect("a file");
    fs::write(low.join("srv/data/gone/x"), "low").expect("a file");
    symlink("/etc/passwd", low.join("srv/data/link")).expect("a link");
    symlink("/srv/data", low.join("alias")).expect("a link");
    let data = fs::File::open(top.join("srv/data")).expect("a directory");
    if let Err(error) = mknodat(&data, "gone", Node::Character { major: 0, minor: 0 }, 0) {
        eprintln!("skipped: no device node can be made here: {error}");
        return;
    }
    mknodat(&data, "null", Node::Character { major: 1, minor: 3 }, 0o666).expect("one worked");
    mknodat(&data, "fifo", Node::Fifo, 0o666).expect("one worked");
    let layers = [top.clone(), low.clone()];
    // Through a link of the image, which leads nowhere but into it.
    copy(&layers, "/alias", &into, own(), &mut Copied::default()).expect("copied");
    let expected = ["both/", "both/new = top", "both/same = top", "link -> /etc/passwd", "old = low"];
    assert_eq!(listed(&into), expected);
    // An opaque directory hides what is below it; what isn't there, or is a file, is nothing.
    let both = fs::File::open(top.join("srv/data/both")).expect("a directory");
    fsetxattr(&both, c"trusted.overlay.opaque", b"y").expect("root may");
    for (path, expected) in [("/srv/data/both", 2), ("/nowhere", 0), ("/srv/data/old", 0), ("/srv/data/null", 0)] {
        let into = tempfile::tempdir().expect("a temporary directory");
        copy(&layers, path, into.path(), own(), &mut Copied::default()).expect("copied");
        assert_eq!(listed(into.path()).len(), expected, "{path}");
    }
}

#[test]
fn owners_modes_times_and_attributes_are_the_images_in_the_pods_words() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let layer = dir.path().join("layer");
    fs::create_dir_all(layer.join("data")).expect("a directory");
    let file = layer.join("data/file");
    fs::write(&file, "x").expect("a file");
    if let Err(error) = std::os::unix::fs::chown(&file, Some(70_000), Some(7)) {
        eprintln!("skipped: no owner can be changed here: {error}");
        return;
    }
    std::os::unix::fs::chown(layer.join("data"), Some(5), Some(6)).expect("root may");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).expect("root may");
    fs::set_permissions(layer.join("data"), fs::Permissions::from_mode(0o1770)).expect("root may");
    let handle = fs::File::options().write(true).open(&file).expect("a file");
    fsetxattr(&handle, c"user.kept", b"1").expect("the file system has attributes");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    handle.set_modified(long_ago).expect("its owner may");
    let range = IdRange { container: 0, host: 200_000, length: 65_536 };
    let pod = UserMode::Pod(IdMappings { uids: range, gids: range });
    // An id that the pod has no word for is its root's.
    for (user, [uid, gid], top) in
        [(UserMode::Node, [70_000, 7], [5, 6]), (pod, [200_000, 200_007], [200_005, 200_006])]
    {
        let into = tempfile::tempdir().expect("a temporary directory");
        let copies = Copies { user, label: None };
        copy(std::slice::from_ref(&layer), "/data", into.path(), copies, &mut Copied::default()).expect("copied");
        let found = fs::metadata(into.path().join("file")).expect("it is there");
        assert_eq!([found.uid(), found.gid(), found.mode() & 0o7777], [uid, gid, 0o4751]);
        assert_eq!(found.modified().expect("a time"), long_ago);
        let copied = fs::File::open(into.path().join("file")).expect("a file");
        assert_eq!(fgetxattr(&copied, c"user.kept").expect("reads").as_deref(), Some(&b"1"[..]));
        let found = fs::metadata(into.path()).expect("it is there");
        assert_eq!([found.uid(), found.gid(), found.mode() & 0o7777], [top[0], top[1], 0o1770]);
    }
}

#[test]
fn what_is_too_much_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let layer = dir.path().join("layer");
    fs::create_dir_all(layer.join("data")).expect("a directory");
    fs::File::create(layer.join("data/huge")).and_then(|file| file.set_len(BYTES_MAX + 1)).expect("a file with a hole");
    let deep = (0..=DEPTH_MAX).fold(layer.join("deep"), |path, _| path.join("d"));
    fs::create_dir_all(deep).expect("a directory");
    for (path, what) in [("/data", "bytes"), ("/deep", "directories in each other")] {
        let into = tempfile::tempdir().expect("a temporary directory");
        let copied = &mut Copied::default();
        let error = copy(std::slice::from_ref(&layer), path, into.path(), own(), copied).expect_err("too much");
        assert!(matches!(error, CopyError::TooMuch { what: found, .. } if found == what), "{error}");
    }
    // All volumes of a container together.
    fs::create_dir(layer.join("small")).expect("a directory");
    fs::write(layer.join("small/file"), "x").expect("a file");
    for full in [Copied { entries: 0, bytes: BYTES_MAX }, Copied { entries: ENTRIES_MAX, bytes: 0 }] {
        let into = tempfile::tempdir().expect("a temporary directory");
        let answer = copy(std::slice::from_ref(&layer), "/small", into.path(), own(), &mut { full });
        assert!(matches!(answer, Err(CopyError::TooMuch { .. })), "{full:?}");
    }
}
