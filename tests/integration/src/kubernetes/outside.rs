//! The node seen from the host: its cgroups, its namespaces and its end.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{NODE_IP, NODE_NAME};
use crate::kubernetes::shell::pause;

/// How long cgroups may take to get empty after their processes were killed.
const SETTLE: Duration = Duration::from_secs(15);

/// A node's namespaces, held by one process. When dropped: killed with everything in it, its cgroups removed.
#[derive(Debug)]
pub struct Outside {
    child: Option<Child>,
    cgroup: String,
}

impl Outside {
    /// Makes the cgroups and starts `command` as the node's first.
    ///
    /// # Errors
    /// When a cgroup can't be made or `unshare` is missing.
    pub fn start(node_script: &Path, state: &Path, command: &[String]) -> anyhow::Result<Outside> {
        let mut outside = Outside { child: None, cgroup: cgroup() };
        for hierarchy in hierarchies() {
            let own = hierarchy.join(&outside.cgroup);
            fs::create_dir(&own).with_context(|| format!("cannot make {}", own.display()))?;
            // A new cpuset is empty on version 1, and nothing runs in an empty one.
            if hierarchy.join("cpuset.mems").exists() && !hierarchy.join("cgroup.controllers").exists() {
                for name in ["cpuset.cpus", "cpuset.mems"] {
                    fs::write(own.join(name), fs::read(hierarchy.join(name))?)?;
                }
                fs::write(own.join("cgroup.clone_children"), "1")?;
            }
            fs::create_dir(own.join("node"))?;
        }
        let child = Command::new("unshare")
            .args(["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--propagation", "private"])
            .arg(node_script)
            .arg(state)
            .arg(&outside.cgroup)
            .args(command)
            .env("NODE_NAME", NODE_NAME)
            .env("NODE_IP", NODE_IP)
            .stdin(Stdio::null())
            // ^C is for us: we end it, and in order.
            .process_group(0)
            .spawn()
            .context("cannot run unshare (apt-get install util-linux)")?;
        outside.child = Some(child);
        Ok(outside)
    }

    /// The process whose one child is the node's process 1; 0 after its end.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel doesn't tell.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    /// Ends every process of the node and removes its cgroups.
    ///
    /// # Errors
    /// When a cgroup stays; the text names it and the processes in it.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.take_away()
    }

    fn take_away(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            // A frozen process can't die.
            for folder in below(&Path::new("/sys/fs/cgroup/freezer").join(&self.cgroup)) {
                let _ = fs::write(folder.join("freezer.state"), "THAWED");
            }
            child.kill()?;
            child.wait()?;
        }
        let began = Instant::now();
        loop {
            let mut left = None;
            for hierarchy in hierarchies() {
                for folder in below(&hierarchy.join(&self.cgroup)) {
                    if fs::remove_dir(&folder).is_err() {
                        left = Some(folder);
                    }
                }
            }
            let Some(folder) = left else { return Ok(()) };
            if began.elapsed() > SETTLE {
                let inside = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                bail!("{} stays; in it: {}", folder.display(), inside.replace('\n', " "));
            }
            pause(Duration::from_millis(50));
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Err(error) = self.take_away() {
            eprintln!("{error:#}");
        }
    }
}

/// The cgroup of the node that this process holds, in every hierarchy.
pub fn cgroup() -> String {
    format!("podwright-kubernetes-{}", std::process::id())
}

/// Mounted cgroup hierarchies, those of version 1 and the unified one.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    fields.filter(|(_, kind)| matches!(*kind, "cgroup" | "cgroup2")).map(|(place, _)| place.into()).collect()
}

/// A cgroup and those below it, the deepest first; nothing where it isn't.
fn below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut all: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .flat_map(|entry| below(&entry.path()))
        .collect();
    all.push(folder.to_owned());
    all
}
