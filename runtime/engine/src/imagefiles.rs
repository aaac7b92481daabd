//! Reads a file of an image before it is mounted: the layers are walked as overlayfs would join them.
//!
//! Everything here is the image's word: links lead nowhere but into the layers (each is followed here, never by the
//! kernel), devices and FIFOs are not opened, whiteouts and opaque directories hide what is below them.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io::Read as _,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Component, Path, PathBuf},
};

use images_service::RootAttributes;
use runtime_lifecycle::{IdRange, UserMode};
use runtime_sys::{
    SysError,
    fs::{Kind, Open, Resolve, fchmod, fchown, fgetxattr, fstat, open, openat2, readlinkat},
};

mod copy;

pub(crate) use copy::{Copied, Copies, CopyError, copy};

/// Largest account file read, in bytes: a thousand times a usual one.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Most links followed, as the kernel has it.
const LINKS_MAX: usize = 40;

/// Most components walked: links can make a short name long.
const COMPONENTS_MAX: usize = 256;

/// Makes the container's own layer show what the image says of its root directory. Ids are those that the pod's user
/// namespace means by the image's; one that it has no word for stays with the pod's root.
pub(crate) fn dress(upper: &Path, root: RootAttributes, user: UserMode) -> Result<(), SysError> {
    let (uid, gid) = match user {
        UserMode::Node => (Some(root.uid), Some(root.gid)),
        UserMode::Pod(mappings) => (host_id(mappings.uids, root.uid), host_id(mappings.gids, root.gid)),
    };
    let directory = open(upper, Open::READ | Open::DIRECTORY | Open::NO_FOLLOW, 0)?;
    let found = fstat(&directory)?;
    let (uid, gid) = (uid.unwrap_or(found.uid), gid.unwrap_or(found.gid));
    if (uid, gid) != (found.uid, found.gid) {
        fchown(&directory, uid, gid)?;
    }
    if found.mode == root.mode { Ok(()) } else { fchmod(&directory, root.mode) }
}

fn host_id(range: IdRange, id: u32) -> Option<u32> {
    let offset = id.checked_sub(range.container).filter(|offset| *offset < range.length)?;
    range.host.checked_add(offset)
}

/// The text of `path` in the image made of `layers` (topmost first); empty if there is none, or if it is no regular file.
pub(crate) fn read(layers: &[PathBuf], path: &str) -> Result<String, SysError> {
    let roots =
        layers.iter().map(|layer| open(layer, Open::PATH | Open::DIRECTORY, 0)).collect::<Result<Vec<_>, _>>()?;
    let Some(file) = find(&roots, Path::new(path))? else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    File::from(file)
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| SysError::from_io(format!("read({path:?} of the image)"), &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Opens the regular file `path`.
fn find(roots: &[OwnedFd], path: &Path) -> Result<Option<OwnedFd>, SysError> {
    match walk(roots, path)? {
        Place::File { at, layer } => {
            let how = Open::READ | Open::NON_BLOCK | Open::NO_FOLLOW;
            openat2(&roots[layer], &at, how, 0, Resolve::IN_ROOT | Resolve::NO_SYMLINKS).map(Some)
        }
        Place::Nothing | Place::Directory { .. } => Ok(None),
    }
}

/// What is at the end of a path, links followed.
enum Place {
    /// Nothing, or nothing that is opened.
    Nothing,
    /// A directory, and which layers show something of it, the topmost first.
    Directory { at: PathBuf, layers: Vec<usize> },
    /// A regular file, and the layer that it is in.
    File { at: PathBuf, layer: usize },
}

/// Walks component by component: at each, the topmost layer that has it decides.
fn walk(roots: &[OwnedFd], path: &Path) -> Result<Place, SysError> {
    let mut left: VecDeque<OsString> = components(path);
    let mut at = PathBuf::new();
    // Which layers show the directory `at`, by stages, so that `..` can go back.
    let mut visible: Vec<Vec<usize>> = vec![(0..roots.len()).collect()];
    let mut links = 0;
    let mut walked = 0;
    while let Some(name) = left.pop_front() {
        walked += 1;
        if walked > COMPONENTS_MAX {
            return Ok(Place::Nothing);
        }
        if name == ".." {
            if at.pop() {
                visible.pop();
            }
            continue;
        }
        let here = visible.last().expect("the root's is never popped");
        let path = at.join(&name);
        match look(roots, here, &path)? {
            Found::Nothing => return Ok(Place::Nothing),
            Found::Directory(layers) => {
                visible.push(layers);
                at = path;
            }
            Found::Link(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Ok(Place::Nothing);
                }
                if target.has_root() {
                    at = PathBuf::new();
                    visible.truncate(1);
                }
                for part in components(&target).into_iter().rev() {
                    left.push_front(part);
                }
            }
            Found::File(layer) if left.is_empty() => return Ok(Place::File { at: path, layer }),
            Found::File(_) => return Ok(Place::Nothing),
        }
    }
    Ok(Place::Directory { at, layers: visible.pop().expect("the root's is never popped") })
}

enum Found {
    Nothing,
    Directory(Vec<usize>),
    Link(PathBuf),
    File(usize),
}

fn look(roots: &[OwnedFd], visible: &[usize], path: &Path) -> Result<Found, SysError> {
    let mut layers = Vec::new();
    for &layer in visible {
        let opened =
            openat2(&roots[layer], path, Open::PATH | Open::NO_FOLLOW, 0, Resolve::IN_ROOT | Resolve::NO_SYMLINKS);
        let entry = match opened {
            Ok(entry) => entry,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let metadata = fstat(&entry)?;
        match metadata.kind {
            Kind::Directory => {
                layers.push(layer);
                if is_opaque(&roots[layer], path)? {
                    break;
                }
            }
            // A whiteout hides what is below; a file below a directory is hidden by it.
            _ if !layers.is_empty() => break,
            Kind::Symlink => return Ok(Found::Link(PathBuf::from(OsString::from_vec(readlinkat(entry.as_fd(), "")?)))),
            Kind::Regular => return Ok(Found::File(layer)),
            _ => return Ok(Found::Nothing),
        }
    }
    Ok(if layers.is_empty() { Found::Nothing } else { Found::Directory(layers) })
}

/// Extended attributes can't be read through an `O_PATH` handle.
fn is_opaque(root: &OwnedFd, path: &Path) -> Result<bool, SysError> {
    let directory = openat2(root, path, Open::READ | Open::DIRECTORY, 0, Resolve::IN_ROOT | Resolve::NO_SYMLINKS)?;
    Ok(fgetxattr(&directory, c"trusted.overlay.opaque")?.as_deref() == Some(b"y"))
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, symlink},
        path::{Path, PathBuf},
    };

    use images_service::RootAttributes;
    use runtime_lifecycle::{IdMappings, IdRange, UserMode};

    use super::read;

    fn layer(root: &Path, name: &str, entries: &[(&str, &str)]) -> PathBuf {
        let layer = root.join(name);
        fs::create_dir(&layer).expect("a fresh directory");
        for (path, content) in entries {
            let path = layer.join(path);
            fs::create_dir_all(path.parent().expect("below the layer")).expect("a directory");
            match content.strip_prefix("-> ") {
                Some(target) => symlink(target, path).expect("a link"),
                None => fs::write(path, content).expect("a file"),
            }
        }
        layer
    }

    #[test]
    fn the_root_is_the_image_s_in_the_pod_s_words() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = RootAttributes { mode: 0o1751, uid: 7, gid: 70_000 };
        let range = IdRange { container: 0, host: 200_000, length: 65_536 };
        let pod = UserMode::Pod(IdMappings { uids: range, gids: range });
        let owner = fs::metadata(dir.path()).expect("it is there").gid();
        for (user, uid, gid) in [(pod, 200_007, owner), (UserMode::Node, 7, 70_000)] {
            if let Err(error) = super::dress(dir.path(), root, user) {
                eprintln!("skipped: no owner can be changed here: {error}");
                return;
            }
            let found = fs::metadata(dir.path()).expect("it is there");
            assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o1751, uid, gid));
        }
    }

    #[test]
    fn layers_are_joined_and_links_stay_inside() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let top = layer(
            dir.path(),
            "top",
            &[("etc/passwd", "top"), ("abs", "-> /etc/passwd"), ("up", "-> ../../../etc/host")],
        );
        let low = layer(
            dir.path(),
            "low",
            &[
                ("etc/passwd", "low"),
                ("etc/group", "group"),
                ("etc/host", "inside"),
                ("lib", "-> usr/lib"),
                ("usr/lib/file", "through a link"),
                ("loop", "-> loop"),
                ("etc/up", "-> ../abs"),
            ],
        );
        let layers = [top.clone(), low.clone()];
        for (path, text) in [
            ("/etc/passwd", "top"),
            ("/etc/group", "group"),
            ("/abs", "top"),
            ("/up", "inside"),
            ("/lib/file", "through a link"),
            ("/etc/up", "top"),
            ("/loop", ""),
            ("/etc", ""),
            ("/etc/none", ""),
            ("/etc/passwd/x", ""),
            ("/../../etc/group", "group"),
        ] {
            assert_eq!(read(&layers, path).expect(path), text, "{path}");
        }
        // A link to the host's file by its host path finds nothing.
        symlink(dir.path().join("low/etc/passwd"), top.join("escape")).expect("a link");
        assert_eq!(read(&layers, "/escape").expect("no error"), "");
    }

    #[test]
    fn whiteouts_hide_and_devices_are_not_opened() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let top = layer(dir.path(), "top", &[("keep", "x")]);
        let low = layer(dir.path(), "low", &[("etc/passwd", "low"), ("gone", "y")]);
        let handle = fs::File::open(&top).expect("a directory");
        let node = runtime_sys::fs::Node::Character { major: 0, minor: 0 };
        if let Err(error) = runtime_sys::fs::mknodat(&handle, "gone", node, 0) {
            eprintln!("skipped: no device node can be made here: {error}");
            return;
        }
        runtime_sys::fs::mknodat(&handle, "null", runtime_sys::fs::Node::Character { major: 1, minor: 3 }, 0o666)
            .expect("one worked");
        let layers = [top.clone(), low];
        assert_eq!(read(&layers, "/gone").expect("no error"), "");
        assert_eq!(read(&layers, "/null").expect("no error"), "");
        assert_eq!(read(&layers, "/etc/passwd").expect("no error"), "low");
        let etc = top.join("etc");
        fs::create_dir(&etc).expect("a directory");
        let etc = fs::File::open(etc).expect("a directory");
        runtime_sys::fs::fsetxattr(&etc, c"trusted.overlay.opaque", b"y").expect("root may");
        assert_eq!(read(&layers, "/etc/passwd").expect("no error"), "");
    }
}
