//! A `podwright node` on directories of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::{Client, machine};

/// Each node of a test program gets the next pod network and bridge.
static NEXT: AtomicU8 = AtomicU8::new(0);

/// What differs from node to node.
#[derive(Debug, Default)]
pub struct Options {
    /// A registry that every host is mirrored to: `127.0.0.1:PORT`.
    pub mirror: Option<String>,
    /// The state directory is a tmpfs of this size, in MiB.
    pub root_mib: Option<u32>,
    /// Cgroup below which it lives, in place of /podwright.
    pub cgroup_root: Option<String>,
    /// More arguments of `podwright node`.
    pub arguments: Vec<String>,
    /// Its environment besides the test's own.
    pub environment: Vec<(String, String)>,
}

/// A node and its directories. When dropped: stopped, cleaned up, deleted.
#[derive(Debug)]
pub struct Node {
    state: TempDir,
    run: TempDir,
    child: Option<Child>,
    cgroup_root: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// The pod network.
    pub pod_cidr: String,
    /// The bridge's name.
    pub bridge: String,
}

impl Node {
    /// Makes the directories and starts the node; returns when its socket answers.
    ///
    /// # Errors
    /// When it isn't built or doesn't answer within 20 s; the text carries its log.
    pub async fn start(options: Options) -> anyhow::Result<Node> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // On tmpfs, as a host's /run is.
        let run = tempfile::Builder::new().prefix(&machine::scratch_prefix()).tempdir_in("/dev/shm")?;
        let state = tempfile::Builder::new().prefix(&machine::scratch_prefix()).tempdir()?;
        let hosts = state.path().join("certs.d/_default");
        std::fs::create_dir_all(&hosts)?;
        if let Some(mirror) = &options.mirror {
            std::fs::write(
                hosts.join("hosts.toml"),
                format!("[host.\"http://{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"),
            )?;
        }
        let (pod_cidr, bridge) = (format!("10.166.{number}.0/24"), format!("pwt{number}"));
        if let Some(size) = options.root_mib {
            let root = state.path().join("root");
            std::fs::create_dir(&root)?;
            machine::run(
                "mount",
                &["-t", "tmpfs", "-o", &format!("size={size}m"), "podwright-test", &root.display().to_string()],
            )?;
        }
        let Options { cgroup_root, arguments, environment, .. } = options;
        let mut node = Node { state, run, child: None, cgroup_root, arguments, environment, pod_cidr, bridge };
        node.launch().await?;
        Ok(node)
    }

    /// Starts the daemon on the same directories, again or for the first time.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn launch(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        let began = Instant::now();
        loop {
            if let Ok(client) = Client::connect(&self.socket()).await
                && client.version().await.is_ok()
            {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("the node ended with {status}:\n{}", self.log());
            }
            if began.elapsed() > Duration::from_secs(20) {
                bail!("the node did not answer within 20 s:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the daemon without waiting.
    ///
    /// # Errors
    /// When it isn't built.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.state.path().join("node.log"))?;
        let child = Command::new(machine::built("podwright")?)
            .arg("node")
            .args(self.places())
            .arg("--supervisor")
            .arg(machine::built("podwright-pod")?)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run podwright")?;
        self.child = Some(child);
        Ok(())
    }

    fn places(&self) -> Vec<String> {
        let path = |path: PathBuf| path.display().to_string();
        let mut places = vec![
            "--listen".into(),
            self.endpoint(),
            "--root".into(),
            path(self.root()),
            "--run".into(),
            path(self.run.path().to_owned()),
            "--registry-config".into(),
            path(self.state.path().join("certs.d")),
            "--config".into(),
            path(self.state.path().join("config.toml")),
            "--pod-cidr".into(),
            self.pod_cidr.clone(),
            "--bridge".into(),
            self.bridge.clone(),
        ];
        if let Some(root) = &self.cgroup_root {
            places.extend(["--cgroup-root".into(), root.clone()]);
        }
        places
    }

    /// `kill -9` of the daemon alone.
    ///
    /// # Errors
    /// When it was not running.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the node is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, as a service manager stops it; pods stay.
    ///
    /// # Errors
    /// When it doesn't end within 20 s.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        machine::run("kill", &["-TERM", &child.id().to_string()])?;
        let began = Instant::now();
        while child.try_wait()?.is_none() {
            if began.elapsed() > Duration::from_secs(20) {
                child.kill()?;
                child.wait()?;
                bail!("the node did not end within 20 s of SIGTERM:\n{}", self.log());
            }
            pause(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The daemon's pid.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.run.path().join("podwright.sock")
    }

    /// `unix://…`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The state directory.
    pub fn root(&self) -> PathBuf {
        self.state.path().join("root")
    }

    /// The run directory.
    pub fn run_directory(&self) -> &Path {
        self.run.path()
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.state.path()
    }

    /// What the daemon said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.state.path().join("node.log")).unwrap_or_default()
    }

    /// A client of its CRI.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&self.socket()).await
    }

    /// Runs the command line against this node.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn podwright(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Command::new(machine::built("podwright")?)
            .args(arguments)
            .env("PODWRIGHT_ADDRESS", self.endpoint())
            .stdin(Stdio::null())
            .output()
            .context("cannot run podwright")
    }

    /// Imports an archive under `name`.
    ///
    /// # Errors
    /// When the node refuses it.
    pub fn import(&self, archive: &[u8], name: &str) -> anyhow::Result<()> {
        // One file a call: trials side by side import into one node.
        let file = tempfile::NamedTempFile::new_in(self.state.path())?;
        std::fs::write(file.path(), archive)?;
        let output = self.podwright(&["import", &file.path().display().to_string(), "--name", name])?;
        if !output.status.success() {
            bail!("import: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.terminate() {
            eprintln!("{error:#}");
        }
        let mut arguments = vec!["cleanup".to_owned(), "--images".to_owned()];
        arguments.extend(self.places());
        let cleaned =
            machine::built("podwright").and_then(|program| Ok(Command::new(program).args(arguments).output()?));
        match cleaned {
            Ok(output) if output.status.success() => {}
            Ok(output) => eprintln!("podwright cleanup: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => eprintln!("podwright cleanup: {error:#}"),
        }
        // Only where it was mounted: an error says that it wasn't.
        let _ = machine::output("umount", &[&self.root().display().to_string()]);
    }
}

/// A port of loopback that nobody listens on now.
///
/// # Errors
/// When none can be bound.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[expect(clippy::disallowed_methods, reason = "a test's own thread; nobody else waits for it")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
