//! A machine within the machine: its own network namespace, directories and cgroup root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use cni_chain::{Network, NetworkConfig};
use images_service::{Images, ImagesConfig, RegistryConfig};
use runtime_engine::{Engine, EngineConfig, Limits};
use runtime_lifecycle::{
    ContainerConfig, ContainerId, ContainerState, ImageName, IpcMode, Metadata, NamespaceModes, NetworkMode, PidMode,
    Privilege, Resources, SandboxConfig, SandboxId, Security, Stdin, Terminal, UserMode,
};
use tokio::runtime::Runtime;

const IMAGE: &str = "test.local/busybox:1";

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Machine {
    directory: tempfile::TempDir,
    name: String,
    runtime: Option<Runtime>,
    engine: Option<Arc<Engine>>,
    containers: AtomicU32,
}

/// Makes one, or says why it can't be made here.
pub(crate) fn machine(name: &str) -> Option<Machine> {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().nth(1));
    if uid != Some("0") {
        eprintln!("skipped: needs root");
        return None;
    }
    if !Path::new("/bin/busybox").exists() {
        eprintln!("skipped: needs /bin/busybox (package busybox-static)");
        return None;
    }
    // This thread and those that it starts: nothing is done in the host's network.
    runtime_sys::process::unshare(runtime_sys::process::Namespaces::NETWORK).expect("root may");
    let directory = tempfile::Builder::new().prefix(&format!("pw-engine-{name}-")).tempdir().expect("a directory");
    let mut machine = Machine {
        directory,
        name: format!("pw-engine-{name}-{}", std::process::id()),
        runtime: None,
        engine: None,
        containers: AtomicU32::new(0),
    };
    make_archive(machine.directory());
    fs::create_dir(machine.logs()).expect("a directory");
    machine.reopen();
    Some(machine)
}

impl Machine {
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.directory().join("logs")
    }

    pub(crate) fn engine(&self) -> Arc<Engine> {
        Arc::clone(self.engine.as_ref().expect("open"))
    }

    /// The daemon is there again.
    pub(crate) fn reopen(&mut self) {
        assert_eq!(self.reopen_damaged(), Vec::<String>::new(), "all records are readable");
    }

    /// The same after records were damaged; answers with what was set aside.
    pub(crate) fn reopen_damaged(&mut self) -> Vec<String> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let root = self.directory().to_owned();
        let config = EngineConfig {
            root: root.join("root"),
            run: root.join("run"),
            supervisor_program: supervisor(),
            cgroup_root: format!("/{}", self.name),
            cdi_spec_dirs: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            limits: Limits::default(),
        };
        let images = ImagesConfig {
            root: root.join("images"),
            registry: RegistryConfig::default(),
            embedded: Vec::new(),
            pinned: Vec::new(),
            layers_at_once: 2,
        };
        let network = NetworkConfig {
            state_dir: root.join("run/network"),
            conf_dir: None,
            bin_dirs: Vec::new(),
            pod_cidr: "10.199.0.0/24".parse().expect("a network"),
            bridge: "pwtest0".to_owned(),
            mtu: None,
        };
        let (engine, set_aside) = runtime.block_on(async {
            fs::create_dir_all(&network.state_dir).expect("a directory");
            let images = Images::open(images).await.expect("an image store");
            if images.find(IMAGE).is_none() {
                let archive = fs::File::open(root.join("image.tar")).expect("made before");
                images.import(archive, Some(IMAGE)).await.expect("imported");
            }
            let network = Network::open(network).await.expect("a network");
            let (engine, recovered) = Engine::open(config, images, network).await.expect("an engine");
            (engine, recovered.set_aside)
        });
        self.runtime = Some(runtime);
        self.engine = Some(engine);
        set_aside
    }

    /// The daemon is gone from one moment to the next: no task gets to its end.
    pub(crate) fn crash(&mut self) {
        self.engine = None;
        self.runtime.take().expect("open").shutdown_background();
        // Threads of the runtime let the image store go when they end.
        pause(Duration::from_millis(200));
    }

    pub(crate) fn run<T>(&mut self, work: impl AsyncFnOnce(&Self) -> T) -> T {
        let runtime = self.runtime.take().expect("open");
        let result = runtime.block_on(work(self));
        self.runtime = Some(runtime);
        result
    }

    pub(crate) fn pod(&self, name: &str) -> SandboxConfig {
        let metadata =
            Metadata { namespace: "test".to_owned(), name: name.to_owned(), uid: "0".to_owned(), attempt: 0 };
        SandboxConfig {
            metadata,
            hostname: name.to_owned(),
            log_directory: Some(self.logs()),
            dns: None,
            ports: Vec::new(),
            labels: [].into(),
            annotations: [].into(),
            cgroup_parent: None,
            namespaces: NamespaceModes {
                network: NetworkMode::Pod,
                pid: PidMode::Container,
                ipc: IpcMode::Pod,
                user: UserMode::Node,
            },
            sysctls: [].into(),
            privilege: Privilege::Confined,
            overhead: Resources::default(),
            resources: Resources::default(),
            runtime_handler: String::new(),
        }
    }

    pub(crate) fn container(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            name: name.to_owned(),
            attempt: 0,
            image: ImageName { image: IMAGE.to_owned(), ..ImageName::default() },
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            args: Vec::new(),
            working_dir: String::new(),
            envs: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            cdi_devices: Vec::new(),
            labels: [].into(),
            annotations: [].into(),
            log_path: format!("{name}.log").into(),
            stdin: Stdin::Closed,
            terminal: Terminal::No,
            resources: Resources::default(),
            security: Security::default(),
            stop_signal: None,
        }
    }

    /// One more container, running.
    pub(crate) async fn started(&self, sandbox: &SandboxId, script: &str) -> ContainerId {
        let name = format!("c{}", self.containers.fetch_add(1, Ordering::Relaxed));
        let id = self.engine().create_container(sandbox, self.container(&name, script)).await.expect("a container");
        self.engine().start_container(&id).await.expect("started");
        id
    }

    pub(crate) async fn ended(&self, id: &ContainerId) {
        let engine = self.engine();
        self.until(|| matches!(engine.container(id).expect("is there").state, ContainerState::Exited { .. })).await;
    }

    pub(crate) async fn until(&self, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "nothing happened for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Processes that still have something to do with this machine.
    fn left_processes(&self) -> Vec<String> {
        let mut left = Vec::new();
        for entry in fs::read_dir("/proc").expect("procfs").flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if cgroups.contains(&self.name) {
                left.push(pid);
            }
        }
        left
    }

    fn left_cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
        let mut left = Vec::new();
        for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
            let pods = hierarchy.join(&self.name).join("pods");
            left.extend(
                fs::read_dir(pods)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter(|entry| entry.path().is_dir())
                    .map(|entry| entry.path()),
            );
        }
        left
    }

    fn remove_cgroups(&self) {
        for below in ["supervisors", "pods", ""] {
            let path = PathBuf::from(format!("/{}/{below}", self.name));
            if let Ok(cgroup) = runtime_sys::cgroup::Cgroup::open(&path)
                && let Err(error) = cgroup.remove()
            {
                eprintln!("cgroup {path:?} is left: {error}");
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A failed test leaves its pods: they go first, and the failure is told by the test itself.
        if let (Some(runtime), Some(engine)) = (&self.runtime, &self.engine) {
            runtime.block_on(async {
                for record in engine.sandboxes(&Default::default()) {
                    let _ = engine.remove_sandbox(&record.id).await;
                }
            });
        }
        self.engine = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        let mut left = self.left_processes();
        let begun = Instant::now();
        while !left.is_empty() && begun.elapsed() < Duration::from_secs(3) {
            pause(Duration::from_millis(20));
            left = self.left_processes();
        }
        for pid in left.iter().filter_map(|pid| pid.parse().ok()) {
            let _ = runtime_sys::process::kill(pid, 9);
        }
        if !left.is_empty() {
            pause(Duration::from_millis(200));
        }
        let cgroups = self.left_cgroups();
        let directories: Vec<_> = ["root/containers", "run/pods"]
            .iter()
            .flat_map(|below| fs::read_dir(self.directory().join(below)).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect();
        self.remove_cgroups();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "processes are left: {left:?}");
            assert!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
            assert!(directories.is_empty(), "directories are left: {directories:?}");
        }
    }
}

/// The tests' own threads wait for nobody else.
#[expect(clippy::disallowed_methods, reason = "a thread of a test, outside its runtime")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Splits as a shell does, single quotes only.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (number, part) in text.split('\'').enumerate() {
        match number % 2 {
            0 => all.extend(part.split_whitespace().map(str::to_owned)),
            _ => all.push(part.to_owned()),
        }
    }
    all
}

/// The supervisor's program, built with the test's own profile, and with the node's, whose features the dependencies were
/// most likely built with already.
fn supervisor() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let done = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "runtime-node", "-p", "runtime-supervisor", "--bins"])
            .args(if cfg!(debug_assertions) { &[][..] } else { &["--release"][..] })
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(done.success(), "the supervisor can't be built");
        // …/debug/deps/pods-0123 → …/debug/podwright-pod
        let test = std::env::current_exe().expect("its own path");
        test.parent().and_then(Path::parent).expect("below the profile's directory").join("podwright-pod")
    });
    built.clone()
}

/// An archive as `docker save` writes it: one layer with busybox and its names.
fn make_archive(directory: &Path) {
    let script = r#"set -e
mkdir -p image/root/bin image/root/etc image/root/tmp image/root/root
cp /bin/busybox image/root/bin/busybox
for name in sh cat echo sleep id test ps true ls mount kill setsid grep stty tty yes; do ln -s busybox image/root/bin/$name; done
echo 'root:x:0:0:root:/root:/bin/sh' > image/root/etc/passwd
echo 'root:x:0:root' > image/root/etc/group
tar -C image/root --numeric-owner --owner=0 --group=0 -cf image/layer.tar .
sum=$(sha256sum image/layer.tar | cut -d' ' -f1)
arch=amd64; [ "$(uname -m)" = aarch64 ] && arch=arm64
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $arch $sum > image/config.json
printf '[{"Config":"config.json","RepoTags":["test.local/busybox:1"],"Layers":["layer.tar"]}]' > image/manifest.json
tar -C image -cf image.tar manifest.json config.json layer.tar
rm -r image
"#;
    let done = Command::new("/bin/sh").args(["-c", script]).current_dir(directory).status().expect("a shell");
    assert!(done.success(), "the archive can't be made");
}
