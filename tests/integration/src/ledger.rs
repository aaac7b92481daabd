//! The leak ledger: what of ours is on this machine, taken before and after, so that the difference is a leak.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::machine;

/// Everything countable that a runtime makes, as lines of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger(BTreeMap<&'static str, BTreeSet<String>>);

impl Ledger {
    /// Looks at processes, mounts, cgroups, network namespaces, links, rules, sockets and our directories.
    pub fn take() -> Ledger {
        let mut rows = BTreeMap::new();
        rows.insert("process", processes());
        rows.insert("mount", mounts());
        rows.insert("cgroup", cgroups());
        rows.insert("network namespace", namespaces());
        rows.insert("link", lines("ip", &["-o", "-brief", "link"]));
        rows.insert("route", lines("ip", &["route"]));
        rows.insert("rule", lines("nft", &["list", "ruleset"]));
        rows.insert("file", files());
        rows.insert("unix socket", sockets());
        Ledger(rows)
    }

    /// What `self` has and `before` had not, a line each.
    pub fn since(&self, before: &Ledger) -> Vec<String> {
        let empty = BTreeSet::new();
        self.0
            .iter()
            .flat_map(|(kind, now)| {
                now.difference(before.0.get(kind).unwrap_or(&empty)).map(move |row| format!("{kind}: {row}"))
            })
            .collect()
    }

    /// The rows that contain `word`.
    pub fn mentions(&self, word: &str) -> Vec<String> {
        self.0
            .iter()
            .flat_map(|(kind, rows)| {
                rows.iter().filter(|row| row.contains(word)).map(move |row| format!("{kind}: {row}"))
            })
            .collect()
    }

    /// Looks until nothing is left beyond `before`, at most `limit`; what is left then.
    pub async fn settle(before: &Ledger, limit: Duration) -> Vec<String> {
        let began = Instant::now();
        loop {
            let left = Ledger::take().since(before);
            if left.is_empty() || began.elapsed() > limit {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn lines(program: &str, arguments: &[&str]) -> BTreeSet<String> {
    machine::run(program, arguments).unwrap_or_default().lines().map(|line| line.trim().to_owned()).collect()
}

/// Processes that are ours by name, zombies included.
fn processes() -> BTreeSet<String> {
    let own = std::process::id();
    each_process()
        .filter(|(pid, _)| *pid != own)
        .filter_map(|(pid, folder)| {
            let name = fs::read_to_string(folder.join("comm")).ok()?;
            let name = name.trim();
            (name.starts_with("podwright") || name == "pause").then(|| format!("{pid} {name}"))
        })
        .collect()
}

fn each_process() -> impl Iterator<Item = (u32, PathBuf)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        Some((pid, entry.path()))
    })
}

/// The union of all mount tables, cut to place, type and source; only lines that name us (others mount, too).
fn mounts() -> BTreeSet<String> {
    each_process()
        .filter_map(|(_, folder)| fs::read_to_string(folder.join("mountinfo")).ok())
        .flat_map(|text| {
            text.lines()
                .filter(|line| line.contains("podwright"))
                .map(|line| line.splitn(5, ' ').nth(4).unwrap_or(line).to_owned())
                .collect::<Vec<_>>()
        })
        .collect()
}

fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else { return found };
    for line in table.lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        if !kind.starts_with("cgroup") {
            continue;
        }
        let root = PathBuf::from(place.split(' ').nth(4).unwrap_or_default());
        below(&root, 6, &mut |folder| {
            let text = folder.display().to_string();
            // The parents stay while a node is installed; `podwright cleanup` takes them away.
            if text.contains("podwright") {
                found.insert(text);
            }
        });
    }
    found
}

fn below(folder: &Path, depth: u8, found: &mut impl FnMut(&Path)) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found(&entry.path());
            below(&entry.path(), depth - 1, found);
        }
    }
}

/// Network namespaces by name, and those that a process of ours lives in.
fn namespaces() -> BTreeSet<String> {
    let named =
        fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path().display().to_string());
    named.filter(|name| name.contains("podwright") || name.contains("pwt-")).collect()
}

/// What our tests and their nodes leave on disk: in places that others use too, what carries this run's name.
fn files() -> BTreeSet<String> {
    let listed = |folder: PathBuf| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().display().to_string()).collect()
    };
    let own = machine::scratch_prefix();
    let shared = [PathBuf::from("/dev/shm"), std::env::temp_dir()].into_iter().flat_map(listed);
    // No test may use the places of an installed node.
    let installed = ["/run", "/var/lib"].map(PathBuf::from).into_iter().flat_map(listed);
    let scratch = shared.filter(|name| name.rsplit('/').next().is_some_and(|name| name.starts_with(&own)));
    scratch.chain(installed.filter(|name| name.contains("podwright"))).collect()
}

fn sockets() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .filter(|path| path.contains("podwright"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_this_run_are_leaks_and_those_of_others_are_not() {
        let before = Ledger(BTreeMap::from([("file", files())]));
        let folder = |prefix: &str| tempfile::Builder::new().prefix(prefix).tempdir().expect("a directory");
        let (ours, others) = (folder(&machine::scratch_prefix()), folder("podwright-test-1-"));
        let left = Ledger(BTreeMap::from([("file", files())])).since(&before);
        assert_eq!(left, [format!("file: {}", ours.path().display())], "{others:?}");
    }
}
