//! The watched directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use inotify::{Inotify, WatchMask};
use kubelet_shim_manifest::{Document, MANIFEST_BYTES_MAX, Pod, parse};
use tokio::io::unix::AsyncFd;

use crate::{registry::Registry, view::PodEvent};

/// How often the directory is read although nothing was heard.
const RESCAN: Duration = Duration::from_secs(20);
/// Events within this time come to one reading: an editor makes several of each save, a storm makes thousands.
const SETTLE: Duration = Duration::from_millis(100);
/// Most files that are read.
const FILES_MAX: usize = 1_000;

/// What identifies a file's content without reading it.
type Stamp = (u64, u64, SystemTime, i64);

/// A file as it was read last.
#[derive(Debug)]
struct Known {
    stamp: Stamp,
    read: Result<Vec<Pod>, String>,
}

/// Reads the directory whenever it changes, for ever.
pub(crate) async fn watch(registry: Arc<Registry>, directory: PathBuf) {
    let mut known = BTreeMap::new();
    let mut told = BTreeMap::new();
    let listener = listen(&directory);
    if let Err(error) = &listener {
        tracing::warn!(directory = %directory.display(), %error, "the directory can't be watched; it is read from time to time");
    }
    let mut listener = listener.ok();
    loop {
        let path = directory.clone();
        let work = tokio::task::spawn_blocking(move || {
            let answer = scan(&path, &mut known);
            (answer, known)
        });
        let answer;
        (answer, known) = match work.await {
            Ok((answer, known)) => (answer, known),
            Err(_) => return,
        };
        tell(&registry, answer, &known, &mut told);
        heard(&mut listener).await;
    }
}

fn listen(directory: &Path) -> std::io::Result<AsyncFd<Inotify>> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::CREATE
        | WatchMask::ATTRIB
        | WatchMask::ONLYDIR;
    inotify.watches().add(directory, mask)?;
    #[expect(deprecated, reason = "its successor is unsafe; an Inotify owns its descriptor as long as it lives")]
    AsyncFd::new(inotify)
}

async fn heard(listener: &mut Option<AsyncFd<Inotify>>) {
    let Some(listener) = listener else { return tokio::time::sleep(RESCAN).await };
    match tokio::time::timeout(RESCAN, listener.readable_mut()).await {
        Err(_) => return,
        Ok(Err(_)) => return tokio::time::sleep(RESCAN).await,
        Ok(Ok(mut ready)) => ready.clear_ready(),
    }
    tokio::time::sleep(SETTLE).await;
    let mut buffer = [0; 4096];
    // What they say doesn't matter: the directory is read as a whole.
    while listener.get_mut().read_events(&mut buffer).is_ok_and(|mut events| events.next().is_some()) {}
}

/// Reads what has changed; `Err` when the directory itself can't be read.
fn scan(directory: &Path, known: &mut BTreeMap<PathBuf, Known>) -> Result<(), String> {
    let entries = std::fs::read_dir(directory).map_err(|error| error.to_string())?;
    let mut present = BTreeSet::new();
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_manifest = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
        if !is_manifest || name.starts_with('.') {
            continue;
        }
        present.insert(path);
        if present.len() > FILES_MAX {
            return Err(format!("holds more than {FILES_MAX} manifests"));
        }
    }
    known.retain(|path, _| present.contains(path));
    for path in present {
        let Ok(stamp) = stamp(&path) else { continue };
        if known.get(&path).is_some_and(|file| file.stamp == stamp) {
            continue;
        }
        known.insert(path.clone(), Known { stamp, read: read(&path) });
    }
    Ok(())
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(path)?;
    let changed = found.ctime().saturating_mul(1_000_000_000).saturating_add(found.ctime_nsec());
    Ok((found.ino(), found.len(), found.modified()?, changed))
}

fn read(path: &Path) -> Result<Vec<Pod>, String> {
    let bytes_max = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
    let file = path.display().to_string();
    let text = kubelet_shim_volumes::read_trusted(path, bytes_max).map_err(|error| format!("{file}: {error}"))?;
    let documents = parse(&file, &text).map_err(|mistakes| mistakes.to_string())?;
    let pods = documents.into_iter().filter_map(|document| match document {
        Document::Pod(pod) => Some(*pod),
        Document::ConfigMap(_) | Document::Secret(_) => None,
    });
    Ok(pods.collect())
}

/// Hands the pods on, and tells each refusal once.
fn tell(
    registry: &Arc<Registry>,
    answer: Result<(), String>,
    known: &BTreeMap<PathBuf, Known>,
    told: &mut BTreeMap<PathBuf, String>,
) {
    let mut problems: BTreeMap<PathBuf, String> = BTreeMap::new();
    match answer {
        // An unreadable directory is no order to stop everything.
        Err(problem) => drop(problems.insert(PathBuf::from("."), format!("the manifest directory {problem}"))),
        Ok(()) => {
            let files = known.iter().filter_map(|(path, file)| Some((path.clone(), file.read.as_ref().ok()?.clone())));
            let kept = known.iter().filter(|(_, file)| file.read.is_err()).map(|(path, _)| path.clone()).collect();
            for (path, problem) in registry.mirror(files.collect(), &kept) {
                problems.insert(path, problem);
            }
            for (path, file) in known {
                if let Err(problem) = &file.read {
                    problems.insert(path.clone(), problem.clone());
                }
            }
        }
    }
    for path in told.keys().filter(|path| !problems.contains_key(*path)) {
        let file = path.display().to_string();
        drop(registry.shared.told.send(PodEvent::Manifest { file, message: String::new() }));
    }
    for (path, problem) in &problems {
        if told.get(path) != Some(problem) {
            let file = path.display().to_string();
            drop(registry.shared.told.send(PodEvent::Manifest { file, message: problem.clone() }));
        }
    }
    *told = problems;
}
