//! The daemons in the node: a registry, the runtime, the control plane, kubelet and kube-proxy.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::shell::{Shell, pause};
use super::{API_IP, DNS_IP, NODE_IP, NODE_NAME, POD_CIDR, SERVICE_CIDR};

/// How long a daemon may take to answer; etcd and the API server need seconds.
const START: Duration = Duration::from_secs(90);

/// Who runs the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Ours.
    Podwright,
    /// containerd with runc and the CNI reference plugins.
    Containerd,
}

impl Runtime {
    /// Its daemon's name.
    pub fn daemon(self) -> &'static str {
        match self {
            Runtime::Podwright => "podwright",
            Runtime::Containerd => "containerd",
        }
    }

    /// Its CRI socket.
    pub fn endpoint(self) -> &'static str {
        match self {
            Runtime::Podwright => "unix:///run/podwright/podwright.sock",
            Runtime::Containerd => "unix:///run/containerd/containerd.sock",
        }
    }
}

/// Where everything lies.
#[derive(Debug, Clone)]
pub struct Layout {
    /// This suite's directory: configuration, manifests, scripts.
    pub home: PathBuf,
    /// The built programs of Kubernetes and others.
    pub bin: PathBuf,
    /// `podwright` and `podwright-pod`.
    pub programs: PathBuf,
    /// The node's state, gone after the run.
    pub state: PathBuf,
    /// Where the daemons' logs stay.
    pub logs: PathBuf,
    /// The node's cgroup.
    pub cgroup: String,
    /// Who runs the pods.
    pub runtime: Runtime,
}

/// When the kubelet removes images: above and down to so many percent of the disk.
#[derive(Debug, Clone, Copy)]
pub struct ImageRoom {
    /// Removes above.
    pub high: u8,
    /// Removes down to.
    pub low: u8,
}

/// Never.
pub const NO_COLLECTION: ImageRoom = ImageRoom { high: 100, low: 99 };

#[derive(Debug)]
struct Daemon {
    program: PathBuf,
    arguments: Vec<String>,
    child: Child,
}

/// A running cluster of one node. Its processes end with the node.
#[derive(Debug)]
pub struct Cluster {
    /// Where everything lies.
    pub layout: Layout,
    daemons: Mutex<BTreeMap<&'static str, Daemon>>,
}

impl Cluster {
    /// Starts everything and waits until the node is Ready and names are resolved.
    ///
    /// # Errors
    /// When a daemon doesn't answer in time; the text carries the end of its log.
    pub fn start(layout: Layout, registry: &str) -> anyhow::Result<Cluster> {
        fs::create_dir_all(&layout.logs)?;
        fs::create_dir_all("/etc/kubernetes/manifests")?;
        let cluster = Cluster { layout, daemons: Mutex::default() };
        cluster.certificates()?;
        cluster.start_runtime(registry)?;
        cluster.start_plane()?;
        cluster.configure_kubelet(NO_COLLECTION)?;
        cluster.configured("kube-proxy.yaml")?;
        let config = cluster.config("kubelet.yaml");
        let kubeconfig = cluster.pki("kubelet.kubeconfig");
        let pki = "/var/lib/kubelet/pki";
        cluster.daemon(
            "kubelet",
            &format!(
                "--config {config} --kubeconfig {kubeconfig} --hostname-override {NODE_NAME} --node-ip {NODE_IP} --cert-dir {pki} --v 2"
            ),
        )?;
        cluster.daemon("kube-proxy", &format!("--config {} --v 2", cluster.config("kube-proxy.yaml")))?;
        let shell = cluster.shell("default")?;
        cluster.answers("kubelet", &shell, &format!("kubectl get node {NODE_NAME}"))?;
        cluster.answers(
            "kubelet",
            &shell,
            &format!("kubectl wait --for=condition=Ready node/{NODE_NAME} --timeout=2s"),
        )?;
        Ok(cluster)
    }

    /// Applies a file of `config/`.
    ///
    /// # Errors
    /// When kubectl refuses it.
    pub fn apply(&self, name: &str) -> anyhow::Result<()> {
        self.configured(name)?;
        self.shell("default")?.run(&format!("kubectl apply -f {}", self.config(name))).map(drop)
    }

    /// A shell in a namespace, which need not exist yet.
    ///
    /// # Errors
    /// When its files can't be written.
    pub fn shell(&self, namespace: &str) -> anyhow::Result<Shell> {
        let scratch = self.layout.state.join("scratch").join(namespace);
        fs::create_dir_all(&scratch)?;
        let kubeconfig = scratch.join("kubeconfig");
        let admin = fs::read_to_string(self.pki("admin.kubeconfig"))?;
        if !kubeconfig.exists() {
            // Renamed into place: another case's kubectl may read that of the default namespace just now.
            let whole = tempfile::NamedTempFile::new_in(&scratch)?;
            fs::write(whole.path(), admin.replace("user: admin}", &format!("user: admin, namespace: {namespace}}}")))?;
            whole.persist(&kubeconfig)?;
        }
        Ok(Shell {
            kubeconfig,
            manifests: self.layout.home.join("manifests"),
            path: self.path(),
            namespace: namespace.into(),
            scratch,
        })
    }

    /// Sends a signal to a daemon and waits for its end.
    ///
    /// # Errors
    /// When it was not started or stays.
    pub fn stop(&self, name: &str, signal: &str) -> anyhow::Result<()> {
        let mut daemons = self.locked();
        let daemon = daemons.get_mut(name).with_context(|| format!("no {name} was started"))?;
        crate::machine::run("kill", &[&format!("-{signal}"), &daemon.child.id().to_string()])?;
        let began = Instant::now();
        while daemon.child.try_wait()?.is_none() {
            ensure!(began.elapsed() < START, "{name} does not end after {signal}");
            pause(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts a stopped daemon as it was started before; the runtime answers then, since a kubelet ends without one.
    ///
    /// # Errors
    /// When it was never started, or is the runtime and doesn't answer.
    pub fn again(&self, name: &str) -> anyhow::Result<()> {
        {
            let mut daemons = self.locked();
            let daemon = daemons.get_mut(name).with_context(|| format!("no {name} was started"))?;
            daemon.child = self.spawn(name, &daemon.program, &daemon.arguments)?;
        }
        if name == self.layout.runtime.daemon() { self.runtime_answers() } else { Ok(()) }
    }

    /// A daemon's log so far.
    pub fn log(&self, name: &str) -> String {
        fs::read(self.layout.logs.join(format!("{name}.log")))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Writes the kubelet's configuration; it reads it when it starts.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn configure_kubelet(&self, room: ImageRoom) -> anyhow::Result<()> {
        self.configured("kubelet.yaml")?;
        let path = self.config("kubelet.yaml");
        let text = fs::read_to_string(&path)?
            .replace("@IMAGE_GC_HIGH@", &room.high.to_string())
            .replace("@IMAGE_GC_LOW@", &room.low.to_string());
        Ok(fs::write(path, text)?)
    }

    fn certificates(&self) -> anyhow::Result<()> {
        let status = Command::new(self.layout.home.join("certificates"))
            .arg(self.layout.state.join("pki"))
            .envs([("NODE_NAME", NODE_NAME), ("NODE_IP", NODE_IP), ("API_IP", API_IP)])
            .status()?;
        ensure!(status.success(), "certificates: {status}");
        Ok(())
    }

    fn start_runtime(&self, registry: &str) -> anyhow::Result<()> {
        let registries = self.layout.state.join("registries");
        fs::create_dir_all(registries.join("_default"))?;
        let hosts = format!(
            "server = \"http://{registry}\"\n[host.\"http://{registry}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        fs::write(registries.join("_default/hosts.toml"), hosts)?;
        match self.layout.runtime {
            Runtime::Podwright => {
                // Everything else is where it lies by itself: the node has a /run and a /var/lib of its own.
                let arguments = format!(
                    "node --keeper off --registry-config {} --pod-cidr {POD_CIDR} --cgroup-root /{}/podwright",
                    registries.display(),
                    self.layout.cgroup
                );
                self.program("podwright", self.layout.programs.join("podwright"), &arguments)?;
            }
            Runtime::Containerd => {
                self.configured("cni/10-bridge.conflist")?;
                self.configured("containerd.toml")?;
                self.daemon("containerd", &format!("--config {}", self.config("containerd.toml")))?;
            }
        }
        self.runtime_answers()
    }

    fn runtime_answers(&self) -> anyhow::Result<()> {
        let socket = self.layout.runtime.endpoint().trim_start_matches("unix://");
        self.waits(self.layout.runtime.daemon(), || std::os::unix::net::UnixStream::connect(socket).is_ok())
    }

    fn start_plane(&self) -> anyhow::Result<()> {
        let data = self.layout.state.join("etcd");
        let pki = self.layout.state.join("pki").display().to_string();
        self.daemon(
            "etcd",
            &format!(
                "--data-dir {} --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
                 --listen-peer-urls http://127.0.0.1:2380 --log-level warn --unsafe-no-fsync",
                data.display()
            ),
        )?;
        self.waits("etcd", || std::net::TcpStream::connect("127.0.0.1:2379").is_ok())?;
        self.daemon(
            "kube-apiserver",
            &format!(
                "--etcd-servers http://127.0.0.1:2379 --advertise-address {NODE_IP} --tls-cert-file {pki}/apiserver.crt \
                 --tls-private-key-file {pki}/apiserver.key --client-ca-file {pki}/ca.crt \
                 --kubelet-client-certificate {pki}/kubelet-client.crt --kubelet-client-key {pki}/kubelet-client.key \
                 --kubelet-certificate-authority {pki}/ca.crt --kubelet-preferred-address-types InternalIP \
                 --service-cluster-ip-range {SERVICE_CIDR} --authorization-mode Node,RBAC \
                 --enable-admission-plugins NodeRestriction --service-account-key-file {pki}/sa.pub \
                 --service-account-issuer https://kubernetes.default.svc.cluster.local \
                 --service-account-signing-key-file {pki}/sa.key --requestheader-client-ca-file {pki}/front-proxy-ca.crt \
                 --requestheader-allowed-names front-proxy-client --requestheader-username-headers X-Remote-User \
                 --requestheader-group-headers X-Remote-Group --requestheader-extra-headers-prefix X-Remote-Extra- \
                 --proxy-client-cert-file {pki}/front-proxy.crt --proxy-client-key-file {pki}/front-proxy.key \
                 --allow-privileged=true"
            ),
        )?;
        let shell = self.shell("default")?;
        self.answers("kube-apiserver", &shell, "kubectl get --raw /readyz")?;
        self.daemon(
            "kube-controller-manager",
            &format!(
                "--kubeconfig {pki}/controller-manager.kubeconfig --bind-address 127.0.0.1 --leader-elect=false \
                 --root-ca-file {pki}/ca.crt --service-account-private-key-file {pki}/sa.key \
                 --use-service-account-credentials --cluster-signing-cert-file {pki}/ca.crt \
                 --cluster-signing-key-file {pki}/ca.key"
            ),
        )?;
        let scheduler = format!("{pki}/scheduler.kubeconfig");
        self.daemon(
            "kube-scheduler",
            &format!(
                "--kubeconfig {scheduler} --authentication-kubeconfig {scheduler} --authorization-kubeconfig {scheduler} \
                 --bind-address 127.0.0.1 --leader-elect=false"
            ),
        )
    }

    fn daemon(&self, name: &'static str, arguments: &str) -> anyhow::Result<()> {
        self.program(name, self.layout.bin.join(name), arguments)
    }

    fn program(&self, name: &'static str, program: PathBuf, arguments: &str) -> anyhow::Result<()> {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let child = self.spawn(name, &program, &arguments)?;
        self.locked().insert(name, Daemon { program, arguments, child });
        Ok(())
    }

    fn spawn(&self, name: &str, program: &Path, arguments: &[String]) -> anyhow::Result<Child> {
        let log = File::options().create(true).append(true).open(self.layout.logs.join(format!("{name}.log")))?;
        Command::new(program)
            .args(arguments)
            .current_dir("/")
            // containerd looks for its shim there.
            .env("PATH", self.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))
    }

    fn answers(&self, name: &str, shell: &Shell, command: &str) -> anyhow::Result<()> {
        self.waits(name, || shell.ends(command, START).is_ok_and(|said| said.code == 0))
    }

    fn waits(&self, name: &str, ready: impl Fn() -> bool) -> anyhow::Result<()> {
        let began = Instant::now();
        while !ready() {
            let ended = self.locked().get_mut(name).and_then(|daemon| daemon.child.try_wait().ok().flatten());
            if ended.is_some() || began.elapsed() > START {
                let log = self.log(name);
                let lines: Vec<&str> = log.lines().collect();
                let state = ended.map_or("does not answer".to_owned(), |status| format!("ended with {status}"));
                bail!("{name} {state}:\n{}", lines[lines.len().saturating_sub(12)..].join("\n"));
            }
            pause(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Copies a file of `config/` into the node's state, with the values that it asks for.
    fn configured(&self, name: &str) -> anyhow::Result<()> {
        let Layout { home, bin, state, cgroup, runtime, .. } = &self.layout;
        let mut text = fs::read_to_string(home.join("config").join(name)).with_context(|| format!("config/{name}"))?;
        for (word, value) in [
            ("@PKI@", state.join("pki").display().to_string()),
            ("@BIN@", bin.display().to_string()),
            ("@CONFIG@", state.join("config").display().to_string()),
            ("@REGISTRIES@", state.join("registries").display().to_string()),
            ("@ENDPOINT@", runtime.endpoint().to_owned()),
            ("@CGROUP@", cgroup.clone()),
            ("@NODE_NAME@", NODE_NAME.to_owned()),
            ("@POD_CIDR@", POD_CIDR.to_owned()),
            ("@DNS_IP@", DNS_IP.to_owned()),
        ] {
            text = text.replace(word, &value);
        }
        let place = state.join("config").join(name);
        fs::create_dir_all(place.parent().context("a file lies in a directory")?)?;
        Ok(fs::write(place, text)?)
    }

    fn path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{}:{path}", self.layout.bin.display(), self.layout.programs.display())
    }

    fn config(&self, name: &str) -> String {
        self.layout.state.join("config").join(name).display().to_string()
    }

    fn pki(&self, name: &str) -> String {
        self.layout.state.join("pki").join(name).display().to_string()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<&'static str, Daemon>> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
