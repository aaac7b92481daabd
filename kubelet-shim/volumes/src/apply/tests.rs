use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use kubelet_shim_manifest::{Document, Pod, parse};

use super::{apply, remove};

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pw-volumes-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("the test's directory holds no mount any more");
    }
}

fn pod(volumes: &str) -> Pod {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  volumes:\n{volumes}\n  containers: [{{name: c, image: i}}]\n"
    );
    match parse("p.yaml", &text).unwrap().remove(0) {
        Document::Pod(pod) => *pod,
        other => panic!("{other:?}"),
    }
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let root = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    if !root {
        eprintln!("skipped: mounts need root");
    }
    root
}

#[test]
fn a_disk_volume_is_open_to_all_keeps_its_data_and_goes() {
    let scratch = Scratch::new("disk");
    let pod = pod("  - {name: data, emptyDir: {}}");
    let paths = apply(&pod, &scratch.0).unwrap();
    let path = &paths["data"];
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o777);
    fs::create_dir(path.join("deep")).unwrap();
    fs::write(path.join("deep/file"), "x").unwrap();
    std::os::unix::fs::symlink("/etc", path.join("deep/link")).unwrap();
    assert_eq!(apply(&pod, &scratch.0).unwrap(), paths);
    assert!(path.join("deep/file").exists());
    remove(&scratch.0, &pod.metadata.uid).unwrap();
    assert!(!path.exists() && Path::new("/etc/passwd").exists());
    remove(&scratch.0, &pod.metadata.uid).unwrap();
}

#[test]
fn a_memory_volume_is_a_tmpfs_of_its_size() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("memory");
    let pod = pod("  - {name: ram, emptyDir: {medium: Memory, sizeLimit: 1Mi}}");
    let path = apply(&pod, &scratch.0).unwrap()["ram"].clone();
    let again = apply(&pod, &scratch.0).unwrap()["ram"].clone();
    assert_eq!(path, again);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.matches(path.to_str().unwrap()).count(), 1);
    let too_much = fs::write(path.join("big"), vec![0; 2 << 20]);
    remove(&scratch.0, &pod.metadata.uid).unwrap();
    assert_eq!(too_much.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert!(!path.exists());
}

#[test]
fn removal_stops_at_a_foreign_mount() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("foreign");
    let pod = pod("  - {name: data, emptyDir: {}}");
    let inner = apply(&pod, &scratch.0).unwrap()["data"].join("inner");
    fs::create_dir(&inner).unwrap();
    super::tmpfs(inner.parent().unwrap(), &inner, Some(1 << 20)).unwrap();
    fs::write(inner.join("precious"), "x").unwrap();
    let answer = remove(&scratch.0, &pod.metadata.uid);
    let survived = inner.join("precious").exists();
    let path = std::ffi::CString::new(inner.to_str().unwrap()).unwrap();
    super::detach(&path).unwrap();
    assert!(survived, "a file on another file system was deleted");
    assert!(answer.unwrap_err().to_string().contains("EXDEV"));
    remove(&scratch.0, &pod.metadata.uid).unwrap();
}

#[test]
fn host_paths() {
    let scratch = Scratch::new("host");
    let dir = scratch.0.join("dir");
    let file = scratch.0.join("file");
    fs::create_dir(&dir).unwrap();
    fs::write(&file, "").unwrap();
    let check = |path: &Path, kind: &str, want: Result<(), &str>| {
        let pod = pod(&format!("  - {{name: h, hostPath: {{path: {}, type: \"{kind}\"}}}}", path.display()));
        let got = apply(&pod, &scratch.0);
        match (want, got) {
            (Ok(()), Ok(paths)) => assert_eq!(paths["h"], path),
            (Err(text), Err(error)) => {
                let error = error.to_string();
                assert!(error.contains(text) && error.contains("p.yaml:6"), "{error}");
                assert!(error.contains(path.to_str().unwrap()), "{error}");
            }
            (want, got) => panic!("{path:?} {kind}: wanted {want:?}, got {got:?}"),
        }
    };
    check(&dir, "", Ok(()));
    check(&dir, "Directory", Ok(()));
    check(&dir, "File", Err("is not a regular file"));
    check(&file, "File", Ok(()));
    check(&file, "Directory", Err("is not a directory"));
    check(&file, "Socket", Err("is not a socket"));
    check(&file, "CharDevice", Err("is not a character device"));
    check(Path::new("/dev/null"), "CharDevice", Ok(()));
    let absent = scratch.0.join("absent");
    check(&absent, "", Err("does not exist: make it, or write `type: DirectoryOrCreate`"));
    check(&absent, "Directory", Err("does not exist"));
    check(&absent, "File", Err("FileOrCreate"));
    check(&absent, "Socket", Err("start the program"));
    check(&absent.join("deep"), "FileOrCreate", Err("its directory must exist"));
    check(&absent, "FileOrCreate", Ok(()));
    check(&scratch.0.join("a/b"), "DirectoryOrCreate", Ok(()));
}
