//! What a node is told: flags, then the file, then defaults.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::Deserialize;

use crate::address::{Address, AddressError};

/// Where the file is looked for when no flag names another.
pub(crate) const CONFIG_FILE: &str = "/etc/podwright/config.toml";
/// A configuration is a page of text; more is a wrong file.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Where packages put the supervisor's program.
const SUPERVISOR_INSTALLED: &str = "/usr/libexec/podwright/podwright-pod";

/// The flags of a node with the file that holds the rest.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub(crate) struct NodeArguments {
    /// Configuration file; it may be absent
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: NodeOptions,
}

/// Each is a flag and, under the same name, a key of the configuration file: one struct is both, so they can't part.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct NodeOptions {
    /// Socket for CRI and the command line [default: unix://RUN/podwright.sock, that is unix:///run/podwright/podwright.sock]
    #[arg(long, value_name = "unix://PATH")]
    pub(crate) listen: Option<Address>,
    /// Address for the streams of exec, attach and port-forward; keep it on loopback: a kubelet passes clients on
    /// [default: 127.0.0.1 and a free port]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) streaming_address: Option<SocketAddr>,
    /// State that outlives a reboot: images, writable layers, logs [default: /var/lib/podwright]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// State that is gone after a reboot, on tmpfs [default: /run/podwright]
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
    /// Directory of HOST/hosts.toml files, as containerd has them [default: /etc/podwright/certs.d]
    #[arg(long, value_name = "DIR")]
    pub(crate) registry_config: Option<PathBuf>,
    /// Addresses of pods [default: 10.166.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<IpNet>,
    /// CNI configuration to use in place of the bundled bridge
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Directory of CNI plugin programs [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_bin_dir: Option<PathBuf>,
    /// Directories of Container Device Interface files [default: /etc/cdi,/var/run/cdi]
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    pub(crate) cdi_spec_dir: Option<Vec<PathBuf>>,
    /// Images that are never removed for room: names, or beginnings of full ones with a `*` behind
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) pin_image: Option<Vec<String>>,
    /// Interface name of the bundled bridge [default: podwright0]
    #[arg(long, value_name = "NAME")]
    pub(crate) bridge: Option<String>,
    /// Largest packet in pods, in bytes [default: the bridge's]
    #[arg(long, value_name = "BYTES")]
    pub(crate) mtu: Option<u32>,
    /// The supervisor's program [default: podwright-pod beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) supervisor: Option<PathBuf>,
    /// Least severe messages to write [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogLevel>,
    /// Directory of pod manifests to keep running
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// Whether the keeper runs in this daemon; off below a kubelet [default: on]
    #[arg(long, value_name = "on|off")]
    pub(crate) keeper: Option<Switch>,
    /// The node's name for pods that ask [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Cgroup below which supervisors and pods live [default: /podwright]
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_root: Option<String>,
    /// Threads that serve requests [default: 2]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) threads: Option<usize>,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Switch {
    On,
    Off,
}

/// How much is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As the flag takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }

    /// The same for tracing.
    pub(crate) fn filter(self) -> tracing::level_filters::LevelFilter {
        match self {
            LogLevel::Error => tracing::level_filters::LevelFilter::ERROR,
            LogLevel::Warn => tracing::level_filters::LevelFilter::WARN,
            LogLevel::Info => tracing::level_filters::LevelFilter::INFO,
            LogLevel::Debug => tracing::level_filters::LevelFilter::DEBUG,
            LogLevel::Trace => tracing::level_filters::LevelFilter::TRACE,
        }
    }
}

/// A node's configuration, complete.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) listen: Address,
    pub(crate) streaming_address: SocketAddr,
    pub(crate) root: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) registry_config: PathBuf,
    pub(crate) pod_cidr: IpNet,
    pub(crate) cni_conf_dir: Option<PathBuf>,
    pub(crate) cni_bin_dir: PathBuf,
    pub(crate) cdi_spec_dir: Vec<PathBuf>,
    pub(crate) pin_image: Vec<String>,
    pub(crate) bridge: String,
    pub(crate) mtu: Option<u32>,
    pub(crate) supervisor: Option<PathBuf>,
    /// `None`: as much as the verb thinks right.
    pub(crate) log_level: Option<LogLevel>,
    pub(crate) manifests: Option<PathBuf>,
    pub(crate) keeper: Switch,
    pub(crate) node_name: Option<String>,
    pub(crate) cgroup_root: String,
    pub(crate) threads: usize,
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {file:?}")]
    Read { file: PathBuf, source: io::Error },
    #[error("the configuration {file:?} has more than {CONFIG_BYTES_MAX} bytes: it is not a configuration")]
    TooLarge { file: PathBuf },
    #[error("{file}:{line}: {message}")]
    Syntax { file: String, line: usize, message: String },
    #[error("cannot make {path:?} absolute")]
    Absolute { path: PathBuf, source: io::Error },
    #[error("run directory {run:?}: give --listen another place")]
    Listen { run: PathBuf, source: AddressError },
    #[error("--bridge {name:?}: an interface's name has 1 to 15 characters, no slash, colon or space")]
    Bridge { name: String },
    #[error("--pod-cidr {cidr}: {message}")]
    PodCidr { cidr: IpNet, message: &'static str },
    #[error("--cgroup-root {path:?}: give an absolute path of plain names, such as /podwright")]
    CgroupRoot { path: String },
    #[error("--threads {threads}: give 1 to {THREADS_MAX}")]
    Threads { threads: usize },
    #[error("--mtu {mtu}: give 576 to 65535 bytes")]
    Mtu { mtu: u32 },
    #[error(
        "there is no supervisor program at {beside:?} or {SUPERVISOR_INSTALLED}: build it with \
             `cargo build --release -p runtime-supervisor` or name it with --supervisor"
    )]
    NoSupervisor { beside: PathBuf },
    #[error("--supervisor {path:?} can't be used: build it with `cargo build --release -p runtime-supervisor`")]
    Supervisor { path: PathBuf, source: io::Error },
    #[error("this program's own path is unknown: name the supervisor with --supervisor")]
    OwnPath { source: io::Error },
}

/// More threads than a node's requests can use: all waits for the kernel are on threads of their own.
const THREADS_MAX: usize = 64;

impl NodeArguments {
    /// Flags, then the file, then defaults.
    pub(crate) fn settings(self) -> Result<Settings, ConfigError> {
        let file = self.config.unwrap_or_else(|| PathBuf::from(CONFIG_FILE));
        self.options.over(NodeOptions::read(&file)?).complete()
    }
}

impl NodeOptions {
    /// The file's keys; none when there is no file.
    fn read(file: &Path) -> Result<NodeOptions, ConfigError> {
        let read = |source| ConfigError::Read { file: file.to_owned(), source };
        let opened = match fs::File::open(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(NodeOptions::default()),
            Err(error) => return Err(read(error)),
        };
        let mut text = String::new();
        opened.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text).map_err(read)?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLarge { file: file.to_owned() });
        }
        NodeOptions::parse(&file.display().to_string(), &text)
    }

    /// The keys of a configuration's text; `file` is its name in messages.
    fn parse(file: &str, text: &str) -> Result<NodeOptions, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
            // A value's own error ("invalid IP address syntax") names neither the key nor the value.
            let source = text.lines().nth(line - 1).unwrap_or_default().trim();
            let message = error.message().trim_end();
            let message = if source.is_empty() { message.to_owned() } else { format!("{message}; it says `{source}`") };
            ConfigError::Syntax { file: file.to_owned(), line, message }
        })
    }

    /// What is said here, and the rest from `file`.
    fn over(self, file: NodeOptions) -> NodeOptions {
        NodeOptions {
            listen: self.listen.or(file.listen),
            root: self.root.or(file.root),
            run: self.run.or(file.run),
            streaming_address: self.streaming_address.or(file.streaming_address),
            registry_config: self.registry_config.or(file.registry_config),
            pod_cidr: self.pod_cidr.or(file.pod_cidr),
            cni_conf_dir: self.cni_conf_dir.or(file.cni_conf_dir),
            cni_bin_dir: self.cni_bin_dir.or(file.cni_bin_dir),
            cdi_spec_dir: self.cdi_spec_dir.or(file.cdi_spec_dir),
            pin_image: self.pin_image.or(file.pin_image),
            bridge: self.bridge.or(file.bridge),
            mtu: self.mtu.or(file.mtu),
            supervisor: self.supervisor.or(file.supervisor),
            log_level: self.log_level.or(file.log_level),
            manifests: self.manifests.or(file.manifests),
            keeper: self.keeper.or(file.keeper),
            node_name: self.node_name.or(file.node_name),
            cgroup_root: self.cgroup_root.or(file.cgroup_root),
            threads: self.threads.or(file.threads),
        }
    }

    /// Defaults where nothing is said, and checks of what is.
    pub(crate) fn complete(self) -> Result<Settings, ConfigError> {
        let run = absolute(self.run.unwrap_or_else(|| PathBuf::from("/run/podwright")))?;
        let listen = match self.listen {
            Some(listen) => listen,
            None => {
                Address::in_run_directory(&run).map_err(|source| ConfigError::Listen { run: run.clone(), source })?
            }
        };
        let settings = Settings {
            listen,
            streaming_address: self.streaming_address.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            run,
            root: absolute(self.root.unwrap_or_else(|| PathBuf::from("/var/lib/podwright")))?,
            registry_config: absolute(self.registry_config.unwrap_or_else(|| PathBuf::from("/etc/podwright/certs.d")))?,
            pod_cidr: self.pod_cidr.unwrap_or_else(default_pod_cidr).trunc(),
            cni_conf_dir: self.cni_conf_dir.map(absolute).transpose()?,
            cni_bin_dir: absolute(self.cni_bin_dir.unwrap_or_else(|| PathBuf::from("/opt/cni/bin")))?,
            cdi_spec_dir: match self.cdi_spec_dir {
                Some(given) => given.into_iter().map(absolute).collect::<Result<_, _>>()?,
                None => ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec(),
            },
            pin_image: self.pin_image.unwrap_or_default(),
            bridge: self.bridge.unwrap_or_else(|| "podwright0".to_owned()),
            mtu: self.mtu,
            supervisor: self.supervisor.map(absolute).transpose()?,
            log_level: self.log_level,
            manifests: self.manifests.map(absolute).transpose()?,
            keeper: self.keeper.unwrap_or(Switch::On),
            node_name: self.node_name,
            cgroup_root: self.cgroup_root.unwrap_or_else(|| "/podwright".to_owned()),
            threads: self.threads.unwrap_or(2),
        };
        settings.check()?;
        Ok(settings)
    }
}

impl Settings {
    fn check(&self) -> Result<(), ConfigError> {
        let name = &self.bridge;
        // IFNAMSIZ is 16 with the closing zero; the kernel's dev_valid_name refuses the rest.
        let valid = (1..=15).contains(&name.len())
            && name != "."
            && name != ".."
            && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:".contains(&byte));
        if !valid {
            return Err(ConfigError::Bridge { name: name.clone() });
        }
        let cidr = self.pod_cidr;
        // Network, broadcast and gateway leave one address for a pod in a /30.
        let longest = if cidr.addr().is_ipv4() { 30 } else { 126 };
        if cidr.prefix_len() > longest {
            return Err(ConfigError::PodCidr { cidr, message: "it is too small for a gateway and one pod" });
        }
        if cidr.prefix_len() < 8 || cidr.addr().is_loopback() || cidr.addr().is_multicast() {
            return Err(ConfigError::PodCidr {
                cidr,
                message: "it is no network for pods; give one like 10.166.0.0/16",
            });
        }
        let names = self.cgroup_root.strip_prefix('/').unwrap_or("");
        // A dot could leave the tree, a percent or colon means something to systemd's driver.
        let plain = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if !names.split('/').all(plain) {
            return Err(ConfigError::CgroupRoot { path: self.cgroup_root.clone() });
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return Err(ConfigError::Threads { threads: self.threads });
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !(576..=65535).contains(mtu)) {
            return Err(ConfigError::Mtu { mtu });
        }
        Ok(())
    }

    /// The supervisor's program: the one that is named, else the one beside this program, else the installed one.
    pub(crate) fn supervisor_program(&self) -> Result<PathBuf, ConfigError> {
        if let Some(path) = &self.supervisor {
            let refused = |source| ConfigError::Supervisor { path: path.clone(), source };
            let found = fs::metadata(path).map_err(refused)?;
            return if found.is_file() { Ok(path.clone()) } else { Err(refused(io::ErrorKind::IsADirectory.into())) };
        }
        let own = std::env::current_exe().map_err(|source| ConfigError::OwnPath { source })?;
        let beside = own.with_file_name("podwright-pod");
        let installed = PathBuf::from(SUPERVISOR_INSTALLED);
        [&beside, &installed]
            .into_iter()
            .find(|path| path.is_file())
            .cloned()
            .ok_or(ConfigError::NoSupervisor { beside: beside.clone() })
    }

    /// The node's name: the one that is given, else the host's.
    pub(crate) fn name(&self) -> String {
        self.node_name.clone().unwrap_or_else(crate::serve::host_name)
    }

    /// The same as flags, for a node that is started in the background.
    pub(crate) fn flags(&self) -> Vec<String> {
        self.keys().flat_map(|(key, value)| [format!("--{key}"), value]).collect()
    }

    /// The same as keys of a file, with their values; those that are not set are left out.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (String, String)> {
        let path = |path: &Path| path.display().to_string();
        let mut keys = vec![
            ("listen", self.listen.to_string()),
            ("streaming-address", self.streaming_address.to_string()),
            ("root", path(&self.root)),
            ("run", path(&self.run)),
            ("registry-config", path(&self.registry_config)),
            ("pod-cidr", self.pod_cidr.to_string()),
            ("cni-bin-dir", path(&self.cni_bin_dir)),
            ("cdi-spec-dir", self.cdi_spec_dir.iter().map(|one| path(one)).collect::<Vec<_>>().join(",")),
            ("bridge", self.bridge.clone()),
            ("cgroup-root", self.cgroup_root.clone()),
            (
                "keeper",
                match self.keeper {
                    Switch::On => "on",
                    Switch::Off => "off",
                }
                .to_owned(),
            ),
            ("threads", self.threads.to_string()),
        ];
        let optional = [
            ("pin-image", Some(self.pin_image.join(",")).filter(|names| !names.is_empty())),
            ("cni-conf-dir", self.cni_conf_dir.as_deref().map(path)),
            ("mtu", self.mtu.map(|mtu| mtu.to_string())),
            ("log-level", self.log_level.map(|level| level.name().to_owned())),
            ("supervisor", self.supervisor.as_deref().map(path)),
            ("manifests", self.manifests.as_deref().map(path)),
            ("node-name", self.node_name.clone()),
        ];
        keys.extend(optional.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))));
        keys.into_iter().map(|(key, value)| (key.to_owned(), value))
    }
}

fn default_pod_cidr() -> IpNet {
    IpNet::new(IpAddr::from([10, 166, 0, 0]), 16).expect("16 is a prefix length of IPv4")
}

/// Relative to where the command was given: the daemon's own directory may be another.
fn absolute(path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|source| ConfigError::Absolute { path, source })
}

#[cfg(test)]
mod tests;
