//! The layout test: DESIGN's dependency table and invariants, as facts about the tree. Needs no root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every edge between two crates of the workspace that may exist, left to right. What is not here is refused: an edge is a
/// decision about who may know whom, so it is added here, with a reason in ARCHITECTURE.md, or not at all.
const EDGES: &[(&str, &[&str])] = &[
    (
        "runtime-node",
        &[
            "runtime-cri",
            "runtime-control-api",
            "runtime-cri-api",
            "runtime-engine",
            "runtime-streaming",
            "runtime-sys",
            "images-service",
            "images-demo",
            "cni-chain",
            "kubelet-shim-agent",
            "kubelet-shim-manifest",
        ],
    ),
    ("runtime-cri", &["runtime-engine", "runtime-lifecycle", "runtime-streaming", "images-service", "runtime-cri-api"]),
    ("runtime-streaming", &[]),
    ("runtime-engine", &["runtime-lifecycle", "runtime-wire", "images-service", "cni-chain", "runtime-sys"]),
    ("runtime-supervisor", &["runtime-oci", "runtime-wire", "runtime-sys"]),
    ("runtime-oci", &["runtime-sys"]),
    ("runtime-lifecycle", &[]),
    ("runtime-wire", &[]),
    ("runtime-sys", &[]),
    ("runtime-cri-api", &[]),
    ("runtime-control-api", &[]),
    ("images-service", &["images-registry", "images-store"]),
    ("images-store", &["runtime-sys"]),
    ("images-registry", &[]),
    ("images-demo", &[]),
    ("cni-chain", &["cni-spec", "cni-plugins"]),
    ("cni-plugins", &["cni-spec", "runtime-sys"]),
    ("cni-spec", &[]),
    (
        "kubelet-shim-agent",
        &["kubelet-shim-reconcile", "kubelet-shim-manifest", "kubelet-shim-volumes", "runtime-cri-api"],
    ),
    ("kubelet-shim-reconcile", &["kubelet-shim-manifest"]),
    ("kubelet-shim-volumes", &["kubelet-shim-manifest", "runtime-sys"]),
    ("kubelet-shim-manifest", &[]),
];

/// Crates that talk to the kernel by themselves, and who may name them.
const KERNEL_CRATES: &[&str] = &[
    "nix",
    "libc",
    "rustix",
    "caps",
    "libcgroups",
    "rtnetlink",
    "netlink-packet-route",
    "netlink-packet-core",
    "netlink-sys",
];
const KERNEL_USERS: &[&str] = &["runtime-sys", "cni-plugins"];

/// No I/O, clock, randomness, threads.
const PURE: &[&str] =
    &["runtime-wire", "runtime-lifecycle", "cni-spec", "kubelet-shim-manifest", "kubelet-shim-reconcile"];
/// May touch the kernel through `runtime-sys`; no tokio of their own.
const SYNCHRONOUS: &[&str] =
    &["runtime-sys", "runtime-oci", "runtime-supervisor", "images-store", "cni-plugins", "kubelet-shim-volumes"];

struct Crate {
    name: String,
    folder: PathBuf,
    dependencies: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// Our crates with their direct dependencies outside tests.
fn crates() -> BTreeMap<String, Crate> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let packages = metadata["packages"].as_array().expect("metadata lists packages");
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().expect("a package has a name").to_owned();
            let manifest = Path::new(package["manifest_path"].as_str().expect("a package has a manifest"));
            let dependencies = package["dependencies"]
                .as_array()
                .expect("a package lists dependencies")
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| dependency["name"].as_str().expect("a dependency has a name").to_owned())
                .collect();
            let folder = manifest.parent().expect("a manifest lies in a folder").to_owned();
            (name.clone(), Crate { name, folder, dependencies })
        })
        .collect()
}

/// The crate's Rust sources, without tests and benches.
fn sources(of: &Crate) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    walk(&of.folder.join("src"), &mut found);
    found
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source is text");
            (path, text)
        })
        .collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

/// A source's lines before its unit tests, comments left out.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number + 1, line))
}

fn is_test_file(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests") || path.components().any(|part| part.as_os_str() == "tests")
}

#[test]
fn only_the_edges_of_the_table_exist() {
    let crates = crates();
    let table: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut wrong = Vec::new();
    for one in crates.values().filter(|one| one.name != "tests-integration") {
        let Some(allowed) = table.get(one.name.as_str()) else {
            wrong.push(format!("{} is in no row of the table", one.name));
            continue;
        };
        for edge in one.dependencies.iter().filter(|name| crates.contains_key(*name)) {
            if !allowed.contains(&edge.as_str()) {
                wrong.push(format!("{} must not use {edge}", one.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_package_is_named_by_its_path() {
    let root = root();
    for one in crates().values() {
        let path = one.folder.strip_prefix(&root).expect("a crate lies in the workspace");
        assert_eq!(one.name, path.to_string_lossy().replace('/', "-"));
        assert!(
            !["common", "util", "utils", "core", "types"].iter().any(|word| one.name.ends_with(word)),
            "{}: a name that says nothing collects everything",
            one.name
        );
    }
}

#[test]
fn only_sys_talks_to_the_kernel() {
    for one in crates().values().filter(|one| !KERNEL_USERS.contains(&one.name.as_str())) {
        for name in KERNEL_CRATES {
            assert!(
                !one.dependencies.contains(*name),
                "{} must not use {name}: system calls live in runtime/sys",
                one.name
            );
        }
    }
}

#[test]
fn unsafe_lives_in_sys_alone() {
    for one in crates().values().filter(|one| one.name != "runtime-sys") {
        let manifest = fs::read_to_string(one.folder.join("Cargo.toml")).expect("a manifest is text");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} does not take the workspace's lints", one.name);
    }
}

#[test]
fn the_named_packages_are_used() {
    let all: BTreeSet<String> = crates().values().flat_map(|one| one.dependencies.clone()).collect();
    for name in [
        "nix",
        "oci-spec",
        "libcgroups",
        "tokio",
        "tonic",
        "prost",
        "netlink-packet-route",
        "rtnetlink",
        "caps",
        "tracing",
    ] {
        assert!(all.contains(name), "{name} is fixed by the project's user and used nowhere");
    }
}

#[test]
fn pure_and_synchronous_crates_have_no_tokio() {
    let crates = crates();
    for name in PURE.iter().chain(SYNCHRONOUS) {
        let one = &crates[*name];
        assert!(!one.dependencies.contains("tokio"), "{name} must not use tokio");
    }
}

#[test]
fn pure_crates_name_no_clock_and_no_io() {
    let crates = crates();
    let forbidden = [
        "Instant",
        "SystemTime",
        "std::fs",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "ToSocketAddrs",
        "std::thread",
        "std::process",
        "std::env",
        "rand::",
        "getrandom",
    ];
    for name in PURE {
        for (path, text) in sources(&crates[*name]).iter().filter(|(path, _)| !is_test_file(path)) {
            for (number, line) in code(text) {
                for word in forbidden {
                    assert!(
                        !line.contains(word),
                        "{}:{number}: {name} is pure and must not name {word}",
                        path.display()
                    );
                }
            }
        }
    }
}

#[test]
fn the_keeper_names_nothing_of_the_runtime_but_cri() {
    for one in crates().values().filter(|one| one.name.starts_with("kubelet-shim-")) {
        for name in one.dependencies.iter().filter(|name| name.starts_with("runtime-")) {
            let allowed = name == "runtime-cri-api" || (name == "runtime-sys" && one.name == "kubelet-shim-volumes");
            assert!(allowed, "{} must not use {name}: the keeper runs on any CRI", one.name);
        }
    }
}

#[test]
fn cri_messages_stop_in_cri() {
    for one in crates().values() {
        if one.dependencies.contains("runtime-cri-api") {
            let allowed = ["runtime-cri", "runtime-node", "kubelet-shim-agent", "tests-integration"];
            assert!(allowed.contains(&one.name.as_str()), "{} must not know CRI's messages", one.name);
        }
    }
}

#[test]
fn files_are_short_and_modules_have_names() {
    let mut wrong = Vec::new();
    for one in crates().values() {
        for (path, text) in sources(one) {
            assert!(
                path.file_name().is_none_or(|name| name != "mod.rs"),
                "{}: foo.rs and foo/, not mod.rs",
                path.display()
            );
            let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
            if lines > 500 && !is_test_file(&path) {
                wrong.push(format!("{}: {lines} lines, at most 500", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_crate_says_what_goes_in_and_out() {
    for one in crates().values() {
        let Ok(text) = fs::read_to_string(one.folder.join("src/lib.rs")) else { continue };
        for word in ["*In*", "*Out*", "*Not here*"] {
            assert!(text.contains(word), "{}/src/lib.rs does not say {word}", one.folder.display());
        }
    }
}

#[test]
fn no_path_of_a_machine_is_written_down() {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Ok(output) = output else { return };
    // Put together here so that this file does not name them itself.
    let forbidden = [["/var/tmp/", "tgt-"].concat(), ["/work", "/main"].concat(), ["/root/", ".cargo"].concat()];
    for name in output.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let path = root().join(String::from_utf8_lossy(name).as_ref());
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for word in &forbidden {
            assert!(!text.contains(word.as_str()), "{} names {word}", path.display());
        }
    }
}

#[test]
fn the_top_level_is_as_agreed() {
    let expected = [
        ".cargo",
        ".ci",
        ".gitignore",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "clippy.toml",
        "cni",
        "deny.toml",
        "docs",
        "examples",
        "images",
        "kubelet-shim",
        "runtime",
        "rust-toolchain.toml",
        "rustfmt.toml",
        "tests",
        "vagrant",
    ];
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().expect("git runs");
    let names: BTreeSet<String> = output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).split('/').next().unwrap_or_default().to_owned())
        .collect();
    let unexpected: Vec<_> = names.iter().filter(|name| !expected.contains(&name.as_str())).collect();
    assert!(unexpected.is_empty(), "unexpected at the top level: {unexpected:?}");
}
