//! The control group of a container, and of an exec below it.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::Spec;
use runtime_sys::cgroup::{Cgroup, Version, write_file};
use runtime_sys::device_filter::set_device_rules;
use runtime_sys::process;

use crate::OciError;
use crate::error::During;

mod limits;
mod update;
use limits::Missing;
pub(crate) use limits::number;
pub use update::{Change, Update};

const SIGKILL: i32 = 9;
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const ENODEV: i32 = 19;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ERANGE: i32 = 34;

/// How often a frozen group is looked at before its processes are killed anyhow: a task in uninterruptible sleep freezes
/// when it wakes, which may be never.
const FREEZE_LOOKS_MAX: usize = 50;

/// How often removal is tried while the kernel still tidies up after the last process.
const REMOVE_TRIES_MAX: usize = 100;

/// The control group of one container, or of one exec below it: a directory in each hierarchy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ContainerCgroup {
    pub(crate) group: Arc<Cgroup>,
}

impl ContainerCgroup {
    /// Makes it, with its parents, and without limits. `path` as in `linux.cgroupsPath`.
    ///
    /// # Errors
    /// The path isn't plain, or the kernel refuses.
    pub fn make(path: &str) -> Result<Self, OciError> {
        if path.contains(':') && !path.contains('/') {
            return Err(OciError::invalid(format!(
                "cgroup path {path:?} is one of systemd's (slice:prefix:name), which this runtime doesn't take: set the \
                 kubelet's cgroupDriver to cgroupfs"
            )));
        }
        let group = Cgroup::make(Path::new(path)).during(|| format!("make cgroup {path:?}"))?;
        Ok(Self { group: Arc::new(group) })
    }

    /// Opens one that stands, for a caller that was restarted. `path` as in `linux.cgroupsPath`.
    ///
    /// # Errors
    /// It isn't there.
    pub fn open(path: &str) -> Result<Self, OciError> {
        let group = Cgroup::open(Path::new(path)).during(|| format!("open cgroup {path:?}"))?;
        Ok(Self { group: Arc::new(group) })
    }

    /// A leaf for one exec, which a kubelet's statistics don't see: in the freezer hierarchy alone on v1, without
    /// controllers on v2.
    pub(crate) fn make_leaf(&self, id: &str) -> Result<Self, OciError> {
        let path = self.group.path().join(format!("exec-{id}"));
        let group = Cgroup::make_bare(&path, "freezer").during(|| format!("make cgroup {path:?}"))?;
        Ok(Self { group: Arc::new(group) })
    }

    /// Writes the limits and device rules of a specification; answers with warnings.
    pub(crate) fn limit(&self, spec: &Spec) -> Result<Vec<String>, OciError> {
        let linux = spec.linux().as_ref();
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let mut warnings = Vec::new();
        if let Some(resources) = resources {
            for write in limits::writes(resources, self.group.version())? {
                match self.group.write(write.controller, &write.file, write.value.as_bytes()) {
                    Err(error) if error.errno() == ENOENT && write.missing == Missing::Warning => {
                        warnings.push(format!("limit {:?} isn't kept: this kernel has no such file", write.file));
                    }
                    Err(error) if error.errno() == ENOENT && write.missing == Missing::Nothing => {}
                    Err(error) => return Err(refused(&self.group, &write, error)),
                    Ok(()) => {}
                }
            }
        }
        let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        let rules = limits::device_rules(resources.and_then(|resources| resources.devices().as_deref()), devices)?;
        if self.group.version() == Version::V2 {
            if let Some(directory) = self.group.directory("") {
                let opened = runtime_sys::cgroup::readable(directory).during(|| "open the cgroup".to_owned())?;
                set_device_rules(opened.as_fd(), &rules).during(|| "attach the device rules".to_owned())?;
            }
            return Ok(warnings);
        }
        let mut line = String::new();
        for rule in &rules {
            let file = limits::device_line(rule, &mut line);
            match self.group.write("devices", file, line.as_bytes()) {
                Err(error) if error.errno() == ENOENT => {
                    warnings.push("device rules aren't kept: no devices controller is mounted".to_owned());
                    break;
                }
                answer => answer.during(|| format!("set {file:?} to {line:?}"))?,
            }
        }
        Ok(warnings)
    }

    /// Its path below each hierarchy's root.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.group.path()
    }

    /// Kills every process in it and below. One pass: freeze, kill, thaw on v1 and `cgroup.kill` on v2; until
    /// [`Self::is_empty`] the caller calls again (a task in uninterruptible sleep stays).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill_all(&self) -> Result<(), OciError> {
        if self.group.version() == Version::V2 {
            return gone_is_fine(self.group.write("", c"cgroup.kill", b"1")).during(|| self.text("kill"));
        }
        // Frozen, nothing can fork between the list and the kill, and no pid can be given anew.
        let frozen = self.freeze();
        let killed = self.kill_listed();
        // Also after a failure: what stays frozen can't die.
        let thawed = self.thaw();
        killed?;
        frozen?;
        thawed
    }

    fn kill_listed(&self) -> Result<(), OciError> {
        for pid in self.pids()? {
            match process::kill(pid, SIGKILL) {
                Err(error) if error.errno() == ESRCH => {}
                answer => answer.during(|| format!("kill process {pid}"))?,
            }
        }
        Ok(())
    }

    /// No process is in it or below.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn is_empty(&self) -> Result<bool, OciError> {
        Ok(self.pids()?.is_empty())
    }

    /// How many processes the out-of-memory killer has taken here. 0 when the group is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn oom_kills(&self) -> Result<u64, OciError> {
        let file = if self.group.version() == Version::V1 { c"memory.oom_control" } else { c"memory.events" };
        let text = match self.group.read("memory", file) {
            Err(error) if [ENOENT, ENODEV].contains(&error.errno()) => return Ok(0),
            answer => answer.during(|| self.text("read the memory events of"))?,
        };
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        Ok(count.unwrap_or(0))
    }

    /// Whether the out-of-memory killer has taken one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn oom_killed(&self) -> Result<bool, OciError> {
        Ok(self.oom_kills()? > 0)
    }

    /// Stops every process. On v1 it looks a bounded number of times whether all have stopped, and goes on then.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn freeze(&self) -> Result<(), OciError> {
        if self.group.version() == Version::V2 {
            return gone_is_fine(self.group.write("", c"cgroup.freeze", b"1")).during(|| self.text("freeze"));
        }
        gone_is_fine(self.group.write("freezer", c"freezer.state", b"FROZEN")).during(|| self.text("freeze"))?;
        for _ in 0..FREEZE_LOOKS_MAX {
            match self.group.read("freezer", c"freezer.state") {
                Ok(state) if state.trim() == "FREEZING" => std::thread::yield_now(),
                _ => break,
            }
        }
        Ok(())
    }

    /// Lets them go on; groups below that were frozen on their own as well, since a container may freeze its own.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> Result<(), OciError> {
        let (controller, file, value) = match self.group.version() {
            Version::V1 => ("freezer", c"freezer.state", b"THAWED".as_slice()),
            Version::V2 => ("", c"cgroup.freeze", b"0".as_slice()),
        };
        self.group
            .for_each_below(controller, &mut |directory| gone_is_fine(write_file(directory, file, value)))
            .during(|| self.text("thaw"))
    }

    /// Every process in it and below, as pids of the caller's namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn pids(&self) -> Result<Vec<i32>, OciError> {
        self.group.pids().during(|| self.text("list the processes of"))
    }

    /// The processes in uninterruptible sleep, for a message ("2 tasks in D").
    #[must_use]
    pub fn stuck(&self) -> Vec<i32> {
        let stuck = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('D'))
        };
        self.pids().unwrap_or_default().into_iter().filter(stuck).collect()
    }

    /// Removes it and what is below, deepest first. One that is gone is no error. Tries again for a bounded number of
    /// times while the kernel is busy with it; the caller calls again later.
    ///
    /// # Errors
    /// Processes are left in it.
    pub fn remove(&self) -> Result<(), OciError> {
        let mut answer = self.group.remove();
        for _ in 0..REMOVE_TRIES_MAX {
            match &answer {
                // Processes that live won't be gone by trying again.
                Err(_) if self.group.pids().is_ok_and(|pids| pids.is_empty()) => {
                    std::thread::yield_now();
                    answer = self.group.remove();
                }
                _ => break,
            }
        }
        answer.during(|| self.text("remove"))
    }

    fn text(&self, verb: &str) -> String {
        format!("{verb} cgroup {:?}", self.group.path())
    }
}

/// A limit that the kernel doesn't take: a wrong request, if it is the value that is wrong.
fn refused(group: &Cgroup, write: &limits::Write, source: runtime_sys::SysError) -> OciError {
    let limits::Write { file, value, controller, .. } = write;
    let step = format!("set {file:?} to {value:?}");
    if *controller == "hugetlb" && source.errno() == ENOENT {
        let file = file.to_string_lossy();
        return OciError::invalid(format!("{file}: huge pages of this size can't be limited on this machine"));
    }
    if ![EINVAL, EACCES, ERANGE].contains(&source.errno()) {
        return OciError::Kernel { step, source };
    }
    let file = file.to_string_lossy();
    // What the group has now is its parent's as long as nobody has narrowed it.
    let has = match (*controller, group.read(controller, &write.file)) {
        ("cpuset", Ok(has)) if !has.trim().is_empty() => format!("; this group has {}", has.trim()),
        _ => String::new(),
    };
    OciError::invalid(format!("{file}: {value:?} is not taken by the kernel ({}){has}", source.cause()))
}

/// A group that was removed meanwhile has nothing left to stop.
fn gone_is_fine(answer: runtime_sys::SysResult<()>) -> runtime_sys::SysResult<()> {
    match answer {
        Err(error) if [ENOENT, ENODEV].contains(&error.errno()) => Ok(()),
        other => other,
    }
}
