//! What this machine has, and the network namespace that a test program runs in.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, bail};

/// Set in the process that already runs in a network namespace of its own.
const MARK: &str = "PODWRIGHT_TEST_NETNS";

/// Why these tests can't run here at all; `None` when they can.
pub fn obstacle() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|rest| rest.split_whitespace().next());
    if uid != Some("0") {
        return Some("needs root (namespaces, cgroups, mounts)".into());
    }
    for program in ["unshare", "ip", "nft"] {
        if find(program).is_none() {
            return Some(format!("needs the program `{program}` (apt-get install util-linux iproute2 nftables)"));
        }
    }
    if !Path::new("/bin/busybox").exists() {
        return Some("needs /bin/busybox (apt-get install busybox-static)".into());
    }
    None
}

/// What names of this run's directories in places that others use too begin with: what is left of them is a leak of ours.
pub fn scratch_prefix() -> String {
    format!("podwright-test-{}-", std::process::id())
}

/// Starts this program again in a new network namespace with loopback up, so that nothing a test does reaches the host's
/// network; returns at once where that has happened. The mount namespace stays the host's, as a node's is.
///
/// # Errors
/// When `unshare` or `ip` fails. On success in the outer process it doesn't return: the process is replaced.
pub fn enter_private_network() -> anyhow::Result<()> {
    if std::env::var_os(MARK).is_some() {
        run("ip", &["link", "set", "lo", "up"])?;
        return Ok(());
    }
    let program = std::env::current_exe().context("this test's own path")?;
    let error = Command::new("unshare")
        .arg("--net")
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .exec();
    Err(error).context("cannot run `unshare --net`")
}

/// Runs a program to its end; its standard output when it succeeded.
///
/// # Errors
/// When it can't be started or fails; the text carries its standard error.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = output(program, arguments)?;
    if !output.status.success() {
        bail!("{program} {}: {}\n{}", arguments.join(" "), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program to its end, whatever that is.
///
/// # Errors
/// When it can't be started.
pub fn output(program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))
}

/// A program on PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// A program built by this workspace, `target/<profile>/NAME`: a test lies in `deps` there, a program beside it.
///
/// # Errors
/// When it isn't built; the text says by which command it would be.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("this test's own path")?;
    let folder = own.parent().context("a program lies in a folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().context("`deps` lies in a profile")? } else { folder };
    let program = folder.join(name);
    if !program.is_file() {
        let profile = if folder.ends_with("release") { " --release" } else { "" };
        bail!("{} is not built: cargo build{profile} -p runtime-node -p runtime-supervisor", program.display());
    }
    Ok(program)
}

/// A network namespace beside the test's own, joined to it by a veth pair; gone when dropped.
#[derive(Debug)]
pub struct Neighbour {
    /// Its name for `ip netns`.
    pub name: String,
    /// Our end's address.
    pub host: String,
    /// Its end's address.
    pub own: String,
}

impl Neighbour {
    /// Makes one on 192.0.2.x (TEST-NET-1), `index` 0 to 60.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn new(index: u8) -> anyhow::Result<Neighbour> {
        let name = format!("pwt-{}-{index}", std::process::id());
        let (host, own) = (format!("192.0.2.{}", index * 4 + 1), format!("192.0.2.{}", index * 4 + 2));
        let link = format!("pwn{index}");
        run("ip", &["netns", "add", &name])?;
        let neighbour = Neighbour { name, host, own };
        run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &neighbour.name])?;
        run("ip", &["addr", "add", &format!("{}/30", neighbour.host), "dev", &link])?;
        run("ip", &["link", "set", &link, "up"])?;
        neighbour.run(&["ip", "addr", "add", &format!("{}/30", neighbour.own), "dev", "eth0"])?;
        neighbour.run(&["ip", "link", "set", "eth0", "up"])?;
        neighbour.run(&["ip", "link", "set", "lo", "up"])?;
        neighbour.run(&["ip", "route", "add", "default", "via", &neighbour.host])?;
        Ok(neighbour)
    }

    /// Runs a command inside.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let place = format!("--net=/run/netns/{}", self.name);
        run("nsenter", &[&[place.as_str()], command].concat())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = output("ip", &["netns", "del", &self.name]);
    }
}
