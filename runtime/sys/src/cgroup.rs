//! Control groups by descriptors: made a thousand times a second, so no path is parsed twice and no file is opened that
//! isn't needed. Version 1 (a hierarchy for each controller) and version 2 (one for all).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{SysError, SysResult};
use crate::procfs::{self, Mount, write_once};
use crate::rootfs::c_path;

mod figures;
mod usage;
pub use figures::{DeviceCost, DeviceTraffic, Figures, HugePages, Limits, MemoryFigures, Throttling, huge_page_sizes};
pub use usage::{Pressure, Stall, StallTime, Swap, USAGE_CONTROLLERS, Usage};

/// Controllers of version 1 that are used; a hierarchy with none of them (`name=systemd`) is left alone.
const CONTROLLERS_V1: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
];

/// Controllers of version 2 that are handed down to the groups below.
const CONTROLLERS_V2: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

/// Longest control file that is read, in bytes: `cgroup.procs` of a full group (4 million pids don't fit; 100,000 do).
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// How the kernel's control groups are mounted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy.
    V2,
}

/// How the machine was set up, for `info` and for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Version 1 alone.
    Legacy,
    /// Version 1, and version 2 without controllers beside it.
    Hybrid,
    /// Version 2 alone.
    Unified,
}

/// How `/sys/fs/cgroup` is set up.
pub fn setup() -> SysResult<Setup> {
    use libcgroups::common::{CgroupSetup, get_cgroup_setup};
    match get_cgroup_setup() {
        Ok(CgroupSetup::Legacy) => Ok(Setup::Legacy),
        Ok(CgroupSetup::Hybrid) => Ok(Setup::Hybrid),
        Ok(CgroupSetup::Unified) => Ok(Setup::Unified),
        Err(_) => Err(SysError::new("statfs(\"/sys/fs/cgroup\")", libc::ENOENT)),
    }
}

/// One mounted hierarchy.
#[derive(Debug)]
pub struct Hierarchy {
    /// Its controllers; empty on version 2.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    root: OwnedFd,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }
}

/// All that are used.
#[derive(Debug)]
pub struct Hierarchies {
    /// Which kind.
    pub version: Version,
    /// Several on version 1, one on version 2.
    pub list: Vec<Hierarchy>,
}

/// The machine's hierarchies, looked up once. Version 2 when no controller of version 1 is mounted.
pub fn hierarchies() -> SysResult<&'static Hierarchies> {
    static FOUND: OnceLock<SysResult<Hierarchies>> = OnceLock::new();
    FOUND.get_or_init(|| detect(&procfs::mounts()?)).as_ref().map_err(Clone::clone)
}

fn detect(mounts: &[Mount]) -> SysResult<Hierarchies> {
    let open = |controllers: Vec<String>, mount: &Mount| -> SysResult<Hierarchy> {
        let root = crate::rootfs::open_host_directory(&c_path(mount.mount_point.as_os_str())?)?;
        Ok(Hierarchy { controllers, mount_point: mount.mount_point.clone(), root })
    };
    let mut list: Vec<Hierarchy> = Vec::new();
    for mount in mounts.iter().filter(|mount| mount.filesystem == "cgroup") {
        let controllers: Vec<String> = mount
            .super_options
            .split(',')
            .filter(|option| CONTROLLERS_V1.contains(option))
            .map(ToOwned::to_owned)
            .collect();
        // The same hierarchy may be mounted twice; its first place is as good as the second.
        if !controllers.is_empty() && !list.iter().any(|known| known.has(&controllers[0])) {
            list.push(open(controllers, mount)?);
        }
    }
    if !list.is_empty() {
        return Ok(Hierarchies { version: Version::V1, list });
    }
    match mounts.iter().find(|mount| mount.filesystem == "cgroup2") {
        Some(mount) => Ok(Hierarchies { version: Version::V2, list: vec![open(Vec::new(), mount)?] }),
        None => Err(SysError::new("no cgroup hierarchy in /proc/self/mountinfo", libc::ENOENT)),
    }
}

/// A group: a directory in each hierarchy, or in some of them.
#[derive(Debug)]
pub struct Cgroup {
    /// Relative to each hierarchy's root, without a slash at either end.
    path: PathBuf,
    /// As [`Hierarchies::list`]; `None` where it has no directory.
    directories: Vec<Option<OwnedFd>>,
    hierarchies: &'static Hierarchies,
}

impl Cgroup {
    /// Makes it with its parents; what is there already stays as it is. On version 1 a new cpuset gets its parent's
    /// processors and memory nodes, on version 2 each parent hands down the controllers that it has.
    pub fn make(path: &Path) -> SysResult<Self> {
        Self::in_each(path, |_| true, Found::Make)
    }

    /// The same in one hierarchy of version 1 alone (nothing is made in the others); on version 2 a group that its parent
    /// hands no controller down to.
    pub fn make_bare(path: &Path, controller: &str) -> SysResult<Self> {
        Self::in_each(path, |hierarchy| hierarchy.controllers.is_empty() || hierarchy.has(controller), Found::MakeBare)
    }

    /// Opens one that is there, in as many hierarchies as it is in; `ENOENT` when it is in none.
    pub fn open(path: &Path) -> SysResult<Self> {
        let group = Self::in_each(path, |_| true, Found::Open)?;
        if group.directories.iter().all(Option::is_none) {
            return Err(SysError::new(format!("open(cgroup {path:?})"), libc::ENOENT));
        }
        Ok(group)
    }

    /// The same in the hierarchies of `controllers` alone, for who reads a few files of many groups.
    pub fn open_for(path: &Path, controllers: &[&str]) -> SysResult<Self> {
        let wanted = |hierarchy: &Hierarchy| {
            hierarchy.controllers.is_empty() || controllers.iter().any(|controller| hierarchy.has(controller))
        };
        let group = Self::in_each(path, wanted, Found::Open)?;
        if group.directories.iter().all(Option::is_none) {
            return Err(SysError::new(format!("open(cgroup {path:?})"), libc::ENOENT));
        }
        Ok(group)
    }

    fn in_each(path: &Path, wanted: impl Fn(&Hierarchy) -> bool, found: Found) -> SysResult<Self> {
        let hierarchies = hierarchies()?;
        let path = path.strip_prefix("/").unwrap_or(path).to_path_buf();
        let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !plain || path.as_os_str().is_empty() || path.as_os_str().len() > 4096 {
            return Err(SysError::new(format!("mkdir(cgroup {path:?})"), libc::EINVAL));
        }
        let mut directories = Vec::with_capacity(hierarchies.list.len());
        for hierarchy in &hierarchies.list {
            directories.push(match found {
                _ if !wanted(hierarchy) => None,
                Found::Open => match open_below(&hierarchy.root, &path) {
                    Ok(directory) => Some(directory),
                    Err(error) if error.errno() == libc::ENOENT => None,
                    Err(error) => return Err(error),
                },
                Found::Make | Found::MakeBare => Some(make_below(hierarchy, &path, found)?),
            });
        }
        Ok(Self { path, directories, hierarchies })
    }

    /// Its path below each hierarchy's root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which kind of hierarchies it is in.
    #[must_use]
    pub fn version(&self) -> Version {
        self.hierarchies.version
    }

    /// Its directory (`O_PATH`) where that controller is: any name does on version 2.
    #[must_use]
    pub fn directory(&self, controller: &str) -> Option<BorrowedFd<'_>> {
        self.each().find(|(hierarchy, _)| self.version() == Version::V2 || hierarchy.has(controller)).map(|(_, fd)| fd)
    }

    /// Its directories with their hierarchies.
    pub fn each(&self) -> impl Iterator<Item = (&Hierarchy, BorrowedFd<'_>)> {
        self.hierarchies.list.iter().zip(&self.directories).filter_map(|(h, fd)| Some((h, fd.as_ref()?.as_fd())))
    }

    /// Writes a control file, in one write.
    pub fn write(&self, controller: &str, file: &CStr, value: &[u8]) -> SysResult<()> {
        let missing = || SysError::new(format!("open(cgroup {:?}, {file:?})", self.path), libc::ENOENT);
        write_file(self.directory(controller).ok_or_else(missing)?, file, value)
    }

    /// Reads a control file.
    pub fn read(&self, controller: &str, file: &CStr) -> SysResult<String> {
        let missing = || SysError::new(format!("open(cgroup {:?}, {file:?})", self.path), libc::ENOENT);
        read_file(self.directory(controller).ok_or_else(missing)?, file)
    }

    /// `cgroup.procs` of each directory, open for writing: whoever writes "0" into all is a member.
    pub fn doors(&self) -> SysResult<Vec<OwnedFd>> {
        self.each().map(|(_, directory)| open_file(directory, c"cgroup.procs", OFlags::WRONLY)).collect()
    }

    /// The same for a group in one hierarchy below `container`, whose doors it takes in the others.
    pub fn doors_below(&self, container: &Self) -> SysResult<Vec<OwnedFd>> {
        self.directories
            .iter()
            .zip(&container.directories)
            .filter_map(|(own, above)| own.as_ref().or(above.as_ref()))
            .map(|directory| open_file(directory.as_fd(), c"cgroup.procs", OFlags::WRONLY))
            .collect()
    }

    /// Every process in it and below, as pids of the caller's namespace, from one hierarchy.
    pub fn pids(&self) -> SysResult<Vec<i32>> {
        let mut pids = Vec::new();
        if let Some(directory) = self.directory("freezer").or_else(|| self.each().next().map(|(_, fd)| fd)) {
            collect_pids(directory, &mut pids, 0)?;
        }
        Ok(pids)
    }

    /// Does something in each directory of one hierarchy, the group's own first.
    pub fn for_each_below(
        &self,
        controller: &str,
        what: &mut dyn FnMut(BorrowedFd<'_>) -> SysResult<()>,
    ) -> SysResult<()> {
        match self.directory(controller) {
            Some(directory) => visit(directory, what, 0),
            None => Ok(()),
        }
    }

    /// Removes it, and what is below, in every hierarchy; one that is gone is no error. `EBUSY` when a process is left (also
    /// a dead one that isn't reaped yet).
    pub fn remove(&self) -> SysResult<()> {
        let path = c_path(self.path.as_os_str())?;
        let mut failed = None;
        for (hierarchy, directory) in self.hierarchies.list.iter().zip(&self.directories) {
            if directory.is_some()
                && let Err(error) = remove_below(hierarchy.root.as_fd(), &path, 0)
            {
                // To the end: a group that is left in one hierarchy is a smaller leak than in eight.
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// What is done about a directory that isn't there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Open,
    Make,
    MakeBare,
}

/// Deepest nesting below a group that is walked; a container can nest its own as deep as it likes.
const DEPTH_MAX: usize = 64;

fn open_below(root: &OwnedFd, path: &Path) -> SysResult<OwnedFd> {
    rustix::fs::openat(root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| SysError::new(format!("openat({}, {path:?}, O_PATH)", root.as_raw_fd()), errno.raw_os_error()))
}

fn make_below(hierarchy: &Hierarchy, path: &Path, found: Found) -> SysResult<OwnedFd> {
    if let Ok(directory) = open_below(&hierarchy.root, path) {
        return Ok(directory);
    }
    // The parent stands nearly always: one open in place of one per component.
    let parent = match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        None => hierarchy.root.try_clone().map_err(|error| SysError::from_io("fcntl(F_DUPFD_CLOEXEC)", &error))?,
        Some(parent) => make_below(hierarchy, parent, Found::Make)?,
    };
    if hierarchy.controllers.is_empty() && found == Found::Make {
        hand_down(parent.as_fd())?;
    }
    let name = Path::new(path.file_name().unwrap_or_default());
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => {
            return Err(SysError::new(format!("mkdir({:?})", hierarchy.mount_point.join(path)), errno.raw_os_error()));
        }
    }
    let directory = open_below(&parent, name)?;
    if hierarchy.has("cpuset") {
        inherit_cpuset(parent.as_fd(), directory.as_fd())?;
    }
    Ok(directory)
}

/// A version 1 cpuset starts empty, and nothing can be put into an empty one. One that isn't empty has got its parent's
/// because that was told to copy, and tells its own children so.
fn inherit_cpuset(parent: BorrowedFd<'_>, child: BorrowedFd<'_>) -> SysResult<()> {
    if !read_file(child, c"cpuset.cpus")?.trim().is_empty() {
        return Ok(());
    }
    for file in [c"cpuset.cpus", c"cpuset.mems"] {
        let above = read_file(parent, file)?;
        if !above.trim().is_empty() {
            write_file(child, file, above.trim().as_bytes())?;
        }
    }
    write_file(child, c"cgroup.clone_children", b"1")
}

/// Version 2: what the group has and hands down to nobody yet.
fn hand_down(group: BorrowedFd<'_>) -> SysResult<()> {
    let has = read_file(group, c"cgroup.controllers")?;
    let given = read_file(group, c"cgroup.subtree_control")?;
    let has: Vec<&str> = has.split_whitespace().collect();
    let given: Vec<&str> = given.split_whitespace().collect();
    let missing: Vec<String> = CONTROLLERS_V2
        .iter()
        .filter(|name| has.contains(name) && !given.contains(name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() { Ok(()) } else { write_file(group, c"cgroup.subtree_control", missing.join(" ").as_bytes()) }
}

fn open_file(directory: BorrowedFd<'_>, file: &CStr, flags: OFlags) -> SysResult<OwnedFd> {
    rustix::fs::openat(directory, file, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        SysError::new(format!("openat({}, {file:?}, {flags:?})", directory.as_raw_fd()), errno.raw_os_error())
    })
}

/// Writes "0" into an open `cgroup.procs`: the caller becomes a member.
pub fn enter(door: BorrowedFd<'_>) -> SysResult<()> {
    rustix::io::write(door, b"0").map(drop).map_err(|errno| {
        SysError::new(format!("write({}, \"0\") to cgroup.procs", door.as_raw_fd()), errno.raw_os_error())
    })
}

/// A group's directory opened for reading: what the kernel takes in `bpf` and `CLONE_INTO_CGROUP` calls that refuse `O_PATH`.
pub fn readable(directory: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    open_file(directory, c".", OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Writes a file of a cgroup's directory, in one write.
pub fn write_file(directory: BorrowedFd<'_>, file: &CStr, value: &[u8]) -> SysResult<()> {
    write_once(open_file(directory, file, OFlags::WRONLY)?, &|| format!("{file:?}"), value)
}

/// Reads a file of a cgroup's directory.
pub fn read_file(directory: BorrowedFd<'_>, file: &CStr) -> SysResult<String> {
    let opened = open_file(directory, file, OFlags::RDONLY)?;
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = rustix::io::read(&opened, &mut part).map_err(|errno| {
            SysError::new(format!("read({}, {file:?})", directory.as_raw_fd()), errno.raw_os_error())
        })?;
        bytes.extend_from_slice(part.get(..count).unwrap_or_default());
        // Control files come whole, so a part that isn't full is the last: saves the read that says 0.
        if count < part.len() || bytes.len() > FILE_BYTES_MAX {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

fn collect_pids(directory: BorrowedFd<'_>, pids: &mut Vec<i32>, depth: usize) -> SysResult<()> {
    match read_file(directory, c"cgroup.procs") {
        // 0 is a process that our namespace can't see.
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        // Removed meanwhile; or a threaded group, whose processes its parent names.
        Err(error) if [libc::ENODEV, libc::ENOENT, libc::EOPNOTSUPP].contains(&error.errno()) => return Ok(()),
        Err(error) => return Err(error),
    }
    for name in below(directory, depth)? {
        if let Ok(child) = open_below(&directory.try_clone_to_owned().map_err(|e| SysError::from_io("dup", &e))?, &name)
        {
            collect_pids(child.as_fd(), pids, depth + 1)?;
        }
    }
    Ok(())
}

fn visit(
    directory: BorrowedFd<'_>,
    what: &mut dyn FnMut(BorrowedFd<'_>) -> SysResult<()>,
    depth: usize,
) -> SysResult<()> {
    what(directory)?;
    for name in below(directory, depth)? {
        if let Ok(child) = open_below(&directory.try_clone_to_owned().map_err(|e| SysError::from_io("dup", &e))?, &name)
        {
            visit(child.as_fd(), what, depth + 1)?;
        }
    }
    Ok(())
}

/// The names of the groups right below one.
fn below(directory: BorrowedFd<'_>, depth: usize) -> SysResult<Vec<PathBuf>> {
    let failed = |errno: Errno| SysError::new(format!("getdents({})", directory.as_raw_fd()), errno.raw_os_error());
    if depth >= DEPTH_MAX {
        return Err(failed(Errno::NAMETOOLONG));
    }
    // A directory's link count is 2 and one for each directory in it: most groups have none, and none is listed.
    if rustix::fs::fstat(directory).map_err(failed)?.st_nlink <= 2 {
        return Ok(Vec::new());
    }
    let opened = match rustix::fs::openat(
        directory,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(opened) => opened,
        Err(Errno::NODEV | Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(failed(errno)),
    };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(opened).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == rustix::fs::FileType::Directory && name != b"." && name != b".." {
            names.push(PathBuf::from(std::ffi::OsStr::from_bytes(name)));
        }
    }
    Ok(names)
}

fn remove_below(parent: BorrowedFd<'_>, name: &CString, depth: usize) -> SysResult<()> {
    let failed = |errno: Errno| SysError::new(format!("rmdir(cgroup {name:?})"), errno.raw_os_error());
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let directory = rustix::fs::openat(parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed)?;
    let children = below(directory.as_fd(), depth)?;
    for child in &children {
        remove_below(directory.as_fd(), &c_path(child.as_os_str())?, depth + 1)?;
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

#[cfg(test)]
mod tests;
