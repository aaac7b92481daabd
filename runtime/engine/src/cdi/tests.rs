use std::{fs, path::PathBuf};

use oci_spec::runtime::{Linux, LinuxDeviceType, Mount, Process, Spec, User};
use runtime_lifecycle::ContainerConfig;
use tempfile::TempDir;

use super::Devices;
use crate::{Kind, fixtures};

const GPUS: &str = r#"{
    "cdiVersion": "0.6.0", "kind": "vendor.test/gpu",
    "devices": [
        {"name": "zero", "containerEdits": {
            "env": ["GPU=0", "PATH=/gpu"],
            "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "r"}],
            "mounts": [{"hostPath": "/srv/driver", "containerPath": "/usr/lib/driver", "options": ["ro"]}]}},
        {"name": "one", "containerEdits": {
            "deviceNodes": [{"path": "/dev/gpu1", "type": "b", "major": 7, "minor": 1, "fileMode": 384, "uid": 5}]}}
    ],
    "containerEdits": {"env": ["DRIVER=1"]}
}"#;

const NICS: &str = "
cdiVersion: 1.1.0
kind: vendor.test/nic
annotations: {made: by-hand}
devices:
- name: eth
  containerEdits: {additionalGids: [44, 0, 44]}
- name: hooked
  containerEdits: {hooks: [{hookName: createContainer, path: /usr/bin/hook, args: [hook, run]}]}
- name: moved
  containerEdits: {netDevices: [{hostInterfaceName: eth7, name: eth0}]}
- name: cached
  containerEdits: {intelRdt: {closID: a}}
- name: wrongly
  containerEdits: {deviceNodes: [{path: /dev/null, type: b}]}
- name: absent
  containerEdits: {deviceNodes: [{path: /dev/there-is-none}]}
";

fn config(names: &[&str], annotations: &[(&str, &str)]) -> ContainerConfig {
    ContainerConfig {
        cdi_devices: names.iter().map(|name| (*name).to_owned()).collect(),
        annotations: annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..fixtures::container()
    }
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().expect("makes");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("writes");
    }
    directory
}

/// Files must be root's; whoever else runs the tests skips what reads them.
fn skipped() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let skipped = fs::metadata("/proc/self").expect("stats").uid() != 0;
    if skipped {
        eprintln!("skipped: specification files must be root's, and this is not root");
    }
    skipped
}

fn spec() -> Spec {
    let mut user = User::default();
    user.set_uid(7).set_gid(8);
    let mut process = Process::default();
    process.set_env(Some(vec!["PATH=/bin".to_owned(), "A=1".to_owned()])).set_user(user);
    let mount = |path: &str| {
        let mut mount = Mount::default();
        mount.set_destination(PathBuf::from(path));
        mount
    };
    let mut spec = Spec::default();
    spec.set_process(Some(process))
        .set_linux(Some(Linux::default()))
        .set_mounts(Some(["/proc", "/dev/pts", "/usr", "/usr/lib/driver/x/y"].map(mount).to_vec()));
    spec
}

fn applied(names: &[&str], annotations: &[(&str, &str)], directories: &[PathBuf]) -> Result<Spec, String> {
    let mut spec = spec();
    let found = Devices::find(&config(names, annotations), directories);
    let done = found.and_then(|devices| devices.apply(&mut spec));
    done.map(|()| spec).map_err(|error| {
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        error.to_string()
    })
}

#[test]
fn a_device_is_nodes_mounts_and_variables() {
    if skipped() {
        return;
    }
    let files = directory(&[("gpu.json", GPUS), ("nic.yaml", NICS), ("README.md", "no specification")]);
    let directories = [PathBuf::from("/no/such/place"), files.path().to_owned()];
    let spec = applied(
        &["vendor.test/gpu=zero", "vendor.test/gpu=one"],
        &[("cdi.k8s.io/plugin", "vendor.test/nic=eth, vendor.test/gpu=zero"), ("other.io/x", "nonsense")],
        &directories,
    )
    .expect("good");
    let process = spec.process().as_ref().expect("built");
    assert_eq!(process.env().as_deref().expect("built"), ["PATH=/gpu", "A=1", "DRIVER=1", "GPU=0"]);
    assert_eq!(process.user().additional_gids().as_deref(), Some([44].as_slice()));
    let linux = spec.linux().as_ref().expect("built");
    let nodes: Vec<_> = linux
        .devices()
        .iter()
        .flatten()
        .map(|node| (node.path().display().to_string(), node.typ(), node.major(), node.minor(), node.uid(), node.gid()))
        .collect();
    assert_eq!(
        nodes,
        [
            ("/dev/gpu0".to_owned(), LinuxDeviceType::C, 1, 3, Some(7), Some(8)),
            ("/dev/gpu1".to_owned(), LinuxDeviceType::B, 7, 1, Some(5), Some(8)),
        ]
    );
    assert_eq!(linux.devices().iter().flatten().next_back().and_then(|node| node.file_mode()), Some(0o600));
    let rules: Vec<_> = linux.resources().iter().flat_map(|all| all.devices().iter().flatten()).collect();
    let told: Vec<_> = rules.iter().map(|rule| (rule.major(), rule.access().clone())).collect();
    assert_eq!(told, [(Some(1), Some("r".to_owned())), (Some(7), Some("rwm".to_owned()))]);
    let places: Vec<String> =
        spec.mounts().iter().flatten().map(|mount| mount.destination().display().to_string()).collect();
    assert_eq!(places.join(" "), "/proc /dev/pts /usr /usr/lib/driver /usr/lib/driver/x/y");
    let driver = spec.mounts().iter().flatten().nth(3).and_then(|mount| mount.options().clone());
    assert_eq!(driver.expect("built"), ["ro", "rbind"]);
}

#[test]
fn what_cannot_be_done_is_named() {
    if skipped() {
        return;
    }
    let broken = GPUS.replace("0.6.0", "9.0.0");
    let files = directory(&[("broken.json", &broken), ("nic.yaml", NICS), ("worse.yaml", "a: [")]);
    let directories = [files.path().to_owned()];
    for (name, words) in [
        ("vendor.test/gpu=zero", ["vendor.test/nic=eth", "9.0.0", "worse.yaml"]),
        ("vendor.test/nic=hooked", ["hooked", "createContainer", "/usr/bin/hook"]),
        ("vendor.test/nic=moved", ["moved", "eth7", "network"]),
        ("vendor.test/nic=cached", ["cached", "intelRdt", ""]),
        ("vendor.test/nic=wrongly", ["wrongly", "/dev/null", "type \"b\""]),
        ("vendor.test/nic=absent", ["absent", "/dev/there-is-none", "o such file"]),
        ("nonsense", ["nonsense", "vendor.com/class=device", ""]),
    ] {
        let error = applied(&[name], &[], &directories).expect_err(name);
        assert!(words.iter().all(|word| error.contains(word)), "{name}: {error}");
    }
    let error = applied(&["v.io/c=a"], &[], &[]).expect_err("none");
    assert!(error.contains("there is no device"), "{error}");
    assert!(applied(&[], &[("cdi.k8s.io/x", "")], &directories).is_err(), "an empty name");
}

#[test]
fn a_later_directory_hides_and_equals_conflict() {
    if skipped() {
        return;
    }
    let other = GPUS.replace("GPU=0", "GPU=later");
    let (first, later) = (directory(&[("gpu.json", GPUS)]), directory(&[("gpu.json", &other)]));
    let both = [first.path().to_owned(), later.path().to_owned()];
    let env = |spec: &Spec| spec.process().as_ref().and_then(|process| process.env().clone()).expect("built").join(" ");
    let hidden = applied(&["vendor.test/gpu=zero"], &[], &both).expect("good");
    assert!(env(&hidden).contains("GPU=later"), "{}", env(&hidden));
    fs::write(first.path().join("again.json"), GPUS).expect("writes");
    let error = applied(&["vendor.test/gpu=zero"], &[], &both[..1]).expect_err("two have it");
    assert!(error.contains("gpu.json") && error.contains("again.json"), "{error}");
    // What others may write isn't believed.
    use std::os::unix::fs::PermissionsExt as _;
    fs::remove_file(first.path().join("again.json")).expect("removes");
    fs::set_permissions(first.path().join("gpu.json"), fs::Permissions::from_mode(0o666)).expect("sets");
    let error = applied(&["vendor.test/gpu=zero"], &[], &both[..1]).expect_err("anybody's");
    assert!(error.contains("somebody else than root"), "{error}");
}
