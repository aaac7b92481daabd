//! docs/cri.md against the API and the tree: every call and field is a row, every test that a row names is there. Needs no
//! root.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Messages whose every field is a row of the section of that name.
const MESSAGES: &[&str] = &[
    "PodSandboxConfig",
    "LinuxPodSandboxConfig",
    "LinuxSandboxSecurityContext",
    "NamespaceOption",
    "UserNamespace",
    "DNSConfig",
    "PortMapping",
    "ContainerConfig",
    "ImageSpec",
    "Mount",
    "Device",
    "CDIDevice",
    "KeyValue",
    "LinuxContainerConfig",
    "LinuxContainerResources",
    "HugepageLimit",
    "LinuxContainerSecurityContext",
    "SecurityProfile",
    "SELinuxOption",
    "Capability",
    "AuthConfig",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn api() -> String {
    read("runtime/cri-api/proto/api.proto")
}

/// The words in backticks of a table's row, its first and its last column.
fn rows(section: &str) -> Vec<(String, Vec<String>)> {
    let quoted = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|rest| {
            let (name, rest) = rest.split_once('`').expect("a row's name ends");
            let last = rest.trim_end_matches(['|', ' ']).rsplit("| ").next().unwrap_or_default();
            (name.to_owned(), quoted(last))
        })
        .collect()
}

/// The page's sections by their titles.
fn sections() -> BTreeMap<String, String> {
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    let mut title = String::new();
    for line in read("docs/cri.md").lines() {
        if line.starts_with('#') {
            title = line.trim_start_matches(['#', ' ']).to_owned();
        }
        sections.entry(title.clone()).or_default().push_str(&format!("{line}\n"));
    }
    sections
}

/// The fields of a message, by its text in the API's definition.
fn fields(message: &str) -> Vec<String> {
    let api = api();
    let begin = api.find(&format!("\nmessage {message} {{")).unwrap_or_else(|| panic!("no message {message}"));
    let mut depth = 0_u32;
    let mut fields = Vec::new();
    for line in api[begin + 1..].lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        let opens = u32::try_from(line.matches('{').count()).expect("a line is short");
        let closes = u32::try_from(line.matches('}').count()).expect("a line is short");
        if depth == 1
            && opens == 0
            && let Some((left, number)) = line.split_once('=')
            && number.trim().starts_with(|digit: char| digit.is_ascii_digit())
            && let Some(name) = left.split_whitespace().last()
            && !line.starts_with("reserved")
        {
            fields.push(name.to_owned());
        }
        depth = depth + opens - closes;
        if depth == 0 {
            break;
        }
    }
    assert!(!fields.is_empty(), "{message} has fields");
    fields
}

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with(".git") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source is text");
            found.push((path.with_extension("").display().to_string(), text));
        }
    }
}

#[test]
fn every_call_is_a_row() {
    let calls: Vec<String> = api()
        .lines()
        .filter_map(|line| line.trim().strip_prefix("rpc "))
        .filter_map(|rest| rest.split('(').next().map(str::to_owned))
        .collect();
    assert_eq!(calls.len(), 43);
    let rows: Vec<String> = rows(&sections()["Calls"]).into_iter().map(|(name, _)| name).collect();
    assert_eq!(rows, calls, "the rows are the calls, in the API's order");
}

#[test]
fn every_field_is_a_row() {
    let sections = sections();
    for message in MESSAGES {
        let section = sections.get(*message).unwrap_or_else(|| panic!("no section {message}"));
        let mut rows: Vec<String> = rows(section).into_iter().map(|(name, _)| name).collect();
        let mut fields = fields(message);
        rows.sort();
        fields.sort();
        assert_eq!(rows, fields, "{message}");
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let mut all = Vec::new();
    for folder in ["runtime", "images", "cni", "tests"] {
        sources(&root().join(folder), &mut all);
    }
    let mut missing = Vec::new();
    // Tables of what isn't there.
    let without = ["Announced", "What isn't counted", "Metrics that aren't told"];
    for (title, section) in sections().iter().filter(|(title, _)| !without.contains(&title.as_str())) {
        for (row, tests) in rows(section) {
            if tests.is_empty() {
                missing.push(format!("{title}: {row} names no test"));
            }
            for test in tests {
                let Some((module, name)) = test.split_once("::") else {
                    missing.push(format!("{title}: {row}: {test} is not module::name"));
                    continue;
                };
                let there = all.iter().any(|(path, text)| {
                    path.split('/').any(|part| part == module) && text.contains(&format!("fn {name}("))
                });
                if !there {
                    missing.push(format!("{title}: {row}: no test {test}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// What the page calls not read is read nowhere: Windows' parts, and a relabelling that would not be done.
#[test]
fn what_is_not_done_is_not_read() {
    let mut all = Vec::new();
    sources(&root().join("runtime/cri/src"), &mut all);
    for (path, text) in all {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for field in [".windows", "selinux_relabel"] {
                assert!(!line.contains(field), "{path} reads {field}");
            }
        }
    }
}
