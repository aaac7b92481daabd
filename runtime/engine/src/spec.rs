//! The OCI specification of a container, from what was asked for, what the image says and where the pod lies. Pure: every
//! fact of the machine (devices, capabilities that can be had, who the user is) comes with the placement.
//!
//! Strings of the image and annotations are never policy: an image says what to run, as whom and where, nothing else.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use oci_spec::{
    image::ImageConfiguration,
    runtime::{
        Capability, Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType,
        LinuxSeccomp, Process, Root, Spec, User,
    },
};
use runtime_lifecycle::{ContainerConfig, NetworkMode, PidMode, Privilege, SandboxConfig, Terminal, UserMode};

use crate::{EngineError, anonymous::Volume, lsm::Labels, users::Resolved};

mod capabilities;
mod devices;
mod limits;
mod mounts;
mod raw;
mod signals;
mod sysctls;

pub(crate) use capabilities::{all as all_capabilities, held as held_capabilities};
pub(crate) use devices::{HostDevice, devices_of, host_device};
pub(crate) use limits::resources as limits;
pub(crate) use mounts::check_inside;
pub(crate) use signals::{SIGKILL, stop_signal};
pub(crate) use sysctls::check as check_sysctls;

/// The version of the runtime specification that ours is written in.
const OCI_VERSION: &str = "1.2.0";

/// Where a program is looked for when the image doesn't say; as other runtimes have it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments and environment together, in bytes: what `execve` takes with the usual 8 MiB stack is a quarter of it.
const ARGUMENTS_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Hidden from confined containers: what tells of the host or lets them touch it.
const MASKED_PATHS: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/sys/kernel/security",
    "/sys/fs/selinux",
];

/// Not to be written by confined containers.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Everything that a specification is made of.
#[derive(Debug)]
pub(crate) struct Placement<'a> {
    pub(crate) sandbox: &'a SandboxConfig,
    pub(crate) config: &'a ContainerConfig,
    pub(crate) image: &'a ImageConfiguration,
    pub(crate) user: &'a Resolved,
    /// The pod's directory, where hosts, hostname and resolv.conf are.
    pub(crate) pod_files: &'a Path,
    pub(crate) cgroup: &'a str,
    /// What this daemon holds, and so can give.
    pub(crate) available: &'a HashSet<Capability>,
    pub(crate) devices: &'a [HostDevice],
    /// Directories that the image calls volumes.
    pub(crate) volumes: &'a [Volume],
    /// A profile of the host, read.
    pub(crate) seccomp: Option<LinuxSeccomp>,
    /// Of the kernel's security modules.
    pub(crate) labels: &'a Labels,
}

/// Makes it.
pub(crate) fn build(placement: Placement<'_>) -> Result<Spec, EngineError> {
    let confined = placement.config.security.privilege == Privilege::Confined;
    if !confined && placement.sandbox.privilege == Privilege::Confined {
        return Err(EngineError::invalid("privileged", "a privileged container needs a privileged sandbox"));
    }
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(placement.config.security.read_only_root));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts::all(&placement)?))
        .set_process(Some(process(&placement)?))
        .set_hostname(None)
        .set_linux(Some(linux(&placement, confined)?));
    Ok(spec)
}

fn linux(placement: &Placement<'_>, confined: bool) -> Result<Linux, EngineError> {
    let security = &placement.config.security;
    let mut linux = Linux::default();
    let mut resources = limits::resources(&placement.config.resources)?;
    resources.set_devices(Some(if confined {
        devices::rules(placement.devices)
    } else {
        let mut all = LinuxDeviceCgroup::default();
        all.set_allow(true).set_typ(Some(LinuxDeviceType::A)).set_access(Some("rwm".to_owned()));
        vec![all]
    }));
    // On the wire an empty list is none. A kubelet names the paths itself, and sends empty lists for `procMount: Unmasked`,
    // which it takes for pods with users of their own alone: there, a client that sends none means none.
    let unmasked = matches!(placement.sandbox.namespaces.user, UserMode::Pod(_))
        && security.masked_paths.is_none()
        && security.readonly_paths.is_none();
    let paths = |asked: &Option<Vec<String>>, default: &[&str]| -> Result<Option<Vec<String>>, EngineError> {
        match (confined, asked) {
            (false, _) => Ok(None),
            (true, None) if unmasked => Ok(None),
            (true, None) => Ok(Some(default.iter().map(|path| (*path).to_owned()).collect())),
            (true, Some(asked)) => {
                for path in asked {
                    check_inside("masked or read-only path", path)?;
                }
                Ok(Some(asked.clone()))
            }
        }
    };
    linux
        .set_cgroups_path(Some(PathBuf::from(placement.cgroup)))
        .set_namespaces(Some(namespaces(placement, confined)?))
        .set_resources(Some(resources))
        .set_devices(Some(placement.devices.iter().map(HostDevice::node).collect::<Vec<LinuxDevice>>()))
        .set_masked_paths(paths(&security.masked_paths, &MASKED_PATHS)?)
        .set_readonly_paths(paths(&security.readonly_paths, &READONLY_PATHS)?)
        .set_rootfs_propagation(None)
        .set_mount_label(placement.labels.mounts.clone())
        .set_seccomp(placement.seccomp.clone());
    Ok(linux)
}

/// Those that are the container's own; what it shares with the pod or the host is left out.
fn namespaces(placement: &Placement<'_>, confined: bool) -> Result<Vec<LinuxNamespace>, EngineError> {
    let mut own = vec![LinuxNamespaceType::Mount];
    if has_own_processes(placement)? {
        own.push(LinuxNamespaceType::Pid);
    }
    if confined {
        own.push(LinuxNamespaceType::Cgroup);
    }
    let new = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    Ok(own.into_iter().map(new).collect())
}

/// Whether the container has a process-id namespace of its own. What a container asks for counts, as far as its pod has it.
fn has_own_processes(placement: &Placement<'_>) -> Result<bool, EngineError> {
    let security = &placement.config.security;
    if security.user_mode.is_some_and(|asked| asked != placement.sandbox.namespaces.user) {
        return Err(EngineError::invalid("userns_options", "a container has the user namespace of its sandbox"));
    }
    if security.pid_target.is_some() {
        return Ok(false);
    }
    match (placement.sandbox.namespaces.pid, security.pid) {
        (_, Some(PidMode::Container)) | (PidMode::Container, None) => Ok(true),
        (PidMode::Pod | PidMode::Node, None)
        | (PidMode::Pod | PidMode::Container, Some(PidMode::Pod))
        | (PidMode::Node, Some(PidMode::Pod | PidMode::Node)) => Ok(false),
        (PidMode::Pod | PidMode::Container, Some(PidMode::Node)) => {
            let why = "the host's processes are for containers of a sandbox that was made with them";
            Err(EngineError::invalid("namespace_options.pid", why))
        }
    }
}

fn process(placement: &Placement<'_>) -> Result<Process, EngineError> {
    let (config, security) = (placement.config, &placement.config.security);
    let image = placement.image.config().as_ref();
    let args = arguments(config, image)?;
    let env = environment(placement)?;
    let bytes: usize = args.iter().chain(&env).map(|text| text.len() + 1).sum();
    if bytes > ARGUMENTS_BYTES_MAX {
        return Err(EngineError::invalid(
            "arguments and environment",
            format!("{bytes} bytes are more than the {ARGUMENTS_BYTES_MAX} that a program can be started with"),
        ));
    }
    let asked = Some(config.working_dir.as_str()).filter(|dir| !dir.is_empty());
    let cwd = asked.or_else(|| image.and_then(|image| image.working_dir().as_deref())).filter(|dir| !dir.is_empty());
    let cwd = cwd.unwrap_or("/");
    check_inside("working directory", cwd)?;
    let mut user = User::default();
    user.set_uid(placement.user.uid)
        .set_gid(placement.user.gid)
        .set_additional_gids(Some(placement.user.groups.clone()).filter(|groups| !groups.is_empty()));
    let oom =
        i32::try_from(config.resources.oom_score_adj).ok().filter(|adjustment| (-1000..=1000).contains(adjustment));
    let oom = oom.ok_or_else(|| EngineError::invalid("oom_score_adj", "is not between -1000 and 1000"))?;
    let mut process = Process::default();
    process
        .set_terminal(Some(config.terminal == Terminal::Yes))
        .set_user(user)
        .set_args(Some(args))
        .set_env(Some(env))
        .set_cwd(PathBuf::from(cwd))
        .set_capabilities(Some(capabilities::all(security, placement.available)?))
        .set_rlimits(Some(limits::of_processes()))
        .set_no_new_privileges(Some(security.no_new_privileges))
        .set_apparmor_profile(placement.labels.apparmor.clone())
        .set_selinux_label(placement.labels.process.clone())
        .set_oom_score_adj(Some(oom));
    Ok(process)
}

/// `command` replaces the image's entrypoint and its arguments, `args` replaces its arguments.
fn arguments(config: &ContainerConfig, image: Option<&oci_spec::image::Config>) -> Result<Vec<String>, EngineError> {
    let from_image = |part: fn(&oci_spec::image::Config) -> &Option<Vec<String>>| {
        image.and_then(|image| part(image).clone()).unwrap_or_default()
    };
    let (mut words, rest) = if config.command.is_empty() {
        let args = if config.args.is_empty() { from_image(oci_spec::image::Config::cmd) } else { config.args.clone() };
        (from_image(oci_spec::image::Config::entrypoint), args)
    } else {
        (config.command.clone(), config.args.clone())
    };
    words.extend(rest);
    if words.first().is_none_or(String::is_empty) {
        return Err(EngineError::invalid("command", "neither the container nor the image says what to run"));
    }
    check_text("command", &words)?;
    Ok(words)
}

/// What the runtime sets, then the image, then what was asked for; the last one of a name wins, in the first one's place.
fn environment(placement: &Placement<'_>) -> Result<Vec<String>, EngineError> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut set = |name: &str, value: &[u8]| {
        if values.insert(name.to_owned(), value.to_vec()).is_none() {
            order.push(name.to_owned());
        }
    };
    let (path, default) = DEFAULT_PATH.split_once('=').expect("written so above");
    set(path, default.as_bytes());
    if placement.sandbox.namespaces.network == NetworkMode::Pod {
        set("HOSTNAME", placement.sandbox.hostname.as_bytes());
    }
    if placement.config.terminal == Terminal::Yes {
        set("TERM", b"xterm");
    }
    set("HOME", placement.user.home.as_bytes());
    for variable in placement.image.config().iter().filter_map(|config| config.env().as_ref()).flatten() {
        // An entry without a name is the image's mistake; nothing can be looked up under it.
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if !name.is_empty() {
            set(name, value.as_bytes());
        }
    }
    for variable in &placement.config.envs {
        if variable.name.is_empty() || variable.name.contains('=') {
            return Err(EngineError::invalid("environment", format!("{:?} is not a variable's name", variable.name)));
        }
        set(&variable.name, variable.value.as_bytes());
    }
    let all: Vec<String> = order.iter().map(|name| raw::variable(name, &values[name])).collect();
    if let Some(name) = order.iter().find(|name| name.contains('\0') || values[*name].contains(&0)) {
        return Err(EngineError::invalid("environment", format!("{name:?} contains a NUL byte")));
    }
    Ok(all)
}

/// The process of one more command in a running container: the first one's surroundings, other words.
pub(crate) fn exec_process(first: &Process, args: Vec<String>, terminal: Terminal) -> Result<Process, EngineError> {
    check_command(&args)?;
    let mut process = first.clone();
    process.set_args(Some(args)).set_terminal(Some(terminal == Terminal::Yes));
    Ok(process)
}

/// Whether it could be executed at all.
pub(crate) fn check_command(args: &[String]) -> Result<(), EngineError> {
    if args.first().is_none_or(String::is_empty) {
        return Err(EngineError::invalid("command", "there is nothing to execute"));
    }
    check_text("command", args)?;
    if args.iter().map(|text| text.len() + 1).sum::<usize>() > ARGUMENTS_BYTES_MAX {
        return Err(EngineError::invalid("command", "is longer than a program can be started with"));
    }
    Ok(())
}

fn check_text(what: &str, texts: &[String]) -> Result<(), EngineError> {
    match texts.iter().any(|text| text.contains('\0')) {
        true => Err(EngineError::invalid(what, "contains a NUL byte")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
