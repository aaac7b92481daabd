//! The command line: verbs and their flags.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use images_demo::DemoCommand;

use crate::address::Address;
use crate::config::NodeArguments;

/// Where a verb looks for a node when nothing else is said.
pub(crate) const DEFAULT_ADDRESS: &str = "unix:///run/podwright/podwright.sock";

/// Runs pods on this machine: images, processes in boxes, addresses, and a keeper that keeps them alive
#[derive(Debug, Parser)]
#[command(name = "podwright", version, max_term_width = 120, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The node to talk to [default: unix:///run/podwright/podwright.sock]
    #[arg(long, global = true, value_name = "unix://PATH", env = "PODWRIGHT_ADDRESS")]
    pub(crate) address: Option<Address>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run pods from manifests; without a node, in one of its own that ends with them
    Run(Run),
    /// Hand pods to the node, which keeps them until they are deleted
    Apply(Apply),
    /// List pods and their containers
    Ps(Ps),
    /// Print what containers wrote
    Logs(Logs),
    /// Run a command in a container and pass its exit code on
    Exec(Exec),
    /// Join the streams of a container's own process
    Attach(Attach),
    /// Listen on this machine and carry connections to ports of a pod
    PortForward(PortForward),
    /// Stop pods and forget them
    Delete(Delete),
    /// Fetch an image
    Pull(Pull),
    /// List images
    Images(Images),
    /// Read images from an OCI or docker archive
    Import(Import),
    /// Write images to an OCI archive
    Export(Export),
    /// Remove images
    Rmi(Rmi),
    /// Give an image one more name
    Tag(Tag),
    /// Remove what no image and no container uses
    Prune(Prune),
    /// Say what the node is and where it keeps what
    Info(Info),
    /// Print the versions of this program and of the node
    Version(Version),
    /// Read manifests and say what is wrong, without running anything
    Check(Check),
    /// Serve CRI: the daemon
    Node(Node),
    /// Keep the pods of a directory of manifests running, on any CRI runtime
    Kubelet(Kubelet),
    /// Stop every pod of a node and take away all that it made on this machine
    Cleanup(Cleanup),
    /// Print a completion script for a shell
    Completions(Completions),
    /// The program inside the demo image
    #[command(hide = true)]
    Demo(Demo),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Manifests, YAML or JSON; - reads standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Leave the pods running in the background and return when they are ready
    #[arg(long)]
    pub(crate) detach: bool,
    /// How far to go: `ready` ends (and takes the pods away) once all pods are ready, `done` when they end by themselves
    #[arg(long, value_enum, default_value_t = Until::Done)]
    pub(crate) until: Until,
    /// Give up when the pods aren't ready after this time, such as 90s
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) node: NodeArguments,
}

/// How far `run` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    Ready,
    Done,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// Manifests, YAML or JSON; - reads standard input
    #[arg(required = true, value_name = "FILE", id = "files")]
    pub(crate) files: Vec<PathBuf>,
    /// As kubectl has it: the same as naming the file
    #[arg(short = 'f', long = "filename", hide = true)]
    pub(crate) filename: bool,
}

/// The form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// The form of the list
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// NAME or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pub(crate) pod: PodName,
    /// Only this container; all by default
    #[arg(short, long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// Go on until the pod is gone
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The container before the last restart
    #[arg(short, long)]
    pub(crate) previous: bool,
    /// Only so many last lines of each container
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<u64>,
    /// Put the time before each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// NAME or NAMESPACE/NAME; or the beginning of a pod's or container's id
    #[arg(value_name = "POD")]
    pub(crate) pod: PodOrId,
    /// The container; the first by default
    #[arg(short, long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Give the command a terminal: with -i, this one
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Kill the command after this time
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
    /// The command and its arguments, after --
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// NAME or NAMESPACE/NAME; or the beginning of a pod's or container's id
    #[arg(value_name = "POD")]
    pub(crate) pod: PodOrId,
    /// The container; the first by default
    #[arg(short, long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// Pass standard input on, to a container that takes any (`stdin: true`)
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Join the container's terminal; nothing changes where it has none, or where it has one anyway
    #[arg(short, long)]
    pub(crate) tty: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PortForward {
    /// NAME or NAMESPACE/NAME; or the beginning of a pod's id
    #[arg(value_name = "POD")]
    pub(crate) pod: PodOrId,
    /// PORT, LOCAL:PORT, or :PORT for a free local one
    #[arg(required = true, value_name = "[LOCAL:]PORT")]
    pub(crate) ports: Vec<Ports>,
    /// Listen on this address of the machine; may be repeated [default: 127.0.0.1 and ::1]
    #[arg(long, value_name = "IP")]
    pub(crate) bind: Vec<IpAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// NAME or NAMESPACE/NAME
    #[arg(required = true, value_name = "POD")]
    pub(crate) pods: Vec<PodName>,
    /// Time until the pod's processes are killed; the pod's own by default
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) grace: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// The image, such as docker.io/library/debian:12
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// User for the registry; the password is read from standard input
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Images {
    /// The form of the list
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The archive; - reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The image's name, for an archive that has none
    #[arg(long, value_name = "IMAGE")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The archive to write; - writes standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Rmi {
    /// Names or ids; all names of an image go
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Tag {
    /// A name or id
    #[arg(value_name = "IMAGE")]
    pub(crate) source: String,
    /// The new name
    #[arg(value_name = "NAME")]
    pub(crate) target: String,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {}

#[derive(Debug, Args)]
pub(crate) struct Info {
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Version {}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Manifests, YAML or JSON; - reads standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Node {
    /// Leave the terminal's session: `run --detach` starts it so
    #[arg(long, hide = true)]
    pub(crate) background: bool,
    #[command(flatten)]
    pub(crate) node: NodeArguments,
}

#[derive(Debug, Args)]
pub(crate) struct Kubelet {
    /// Directory of pod manifests to keep running
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: PathBuf,
    /// The CRI runtime [default: the address of the node]
    #[arg(long, value_name = "unix://PATH")]
    pub(crate) runtime_endpoint: Option<Address>,
    /// Where volumes and the keeper's memory lie
    #[arg(long, value_name = "DIR", default_value = "/var/lib/podwright/kubelet")]
    pub(crate) root: PathBuf,
    /// Where pods' logs lie
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    pub(crate) log_dir: PathBuf,
    /// The node's name for pods that ask [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Cleanup {
    /// Take the image store away too
    #[arg(long)]
    pub(crate) images: bool,
    #[command(flatten)]
    pub(crate) node: NodeArguments,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    pub(crate) command: DemoCommand,
}

/// A pod as people write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl std::str::FromStr for PodName {
    type Err = String;

    fn from_str(text: &str) -> Result<PodName, String> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err("write NAME or NAMESPACE/NAME".to_owned());
        }
        Ok(PodName { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The default namespace is left out, as it may be when a pod is named.
        if self.namespace == "default" {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A pod as people write it, or the beginning of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodOrId {
    pub(crate) pod: PodName,
    /// The same text, where it may be one.
    pub(crate) id: Option<String>,
}

impl std::str::FromStr for PodOrId {
    type Err = String;

    fn from_str(text: &str) -> Result<PodOrId, String> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        Ok(PodOrId { pod: text.parse()?, id: digits.then(|| text.to_owned()) })
    }
}

impl std::fmt::Display for PodOrId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.pod.fmt(f)
    }
}

/// A port of a pod and the one of this machine that leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// 0 for a free one.
    pub(crate) local: u16,
    pub(crate) remote: u16,
}

impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Ports, String> {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        // An empty local port stands for a free one; digits alone, since `+1` is no port.
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let local = if local.is_empty() { Some(0) } else { number(local) };
        match (local, number(remote)) {
            (Some(local), Some(remote)) if remote > 0 => Ok(Ports { local, remote }),
            _ => Err("write PORT, LOCAL:PORT or :PORT, with ports from 1 to 65535".to_owned()),
        }
    }
}

/// `90s`, `1m30s`, `500ms`; a bare number counts seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let spelled = if text.bytes().all(|byte| byte.is_ascii_digit()) { format!("{text}s") } else { text.to_owned() };
    spelled
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|found| Duration::try_from(found).ok())
        .ok_or_else(|| "write a time such as 90s, 1m30s or 500ms".to_owned())
}

#[cfg(test)]
mod tests;
