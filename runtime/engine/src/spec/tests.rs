use std::{collections::HashSet, path::Path};

use oci_spec::{
    image::{Config, ImageConfiguration},
    runtime::{Capability, LinuxNamespaceType, Spec},
};
use runtime_lifecycle::{
    CapabilityChange, ContainerConfig, EnvironmentVariable, ImageMount, IpcMode, Metadata, Mount, NamespaceModes,
    NetworkMode, PidMode, Privilege, Propagation, ReadOnly, Resources, SandboxConfig, Security, Terminal, UserMode,
};

use super::{Placement, build, capabilities::held, exec_process};
use crate::{EngineError, anonymous::Volume, fixtures::container, lsm::Labels, users::Resolved};

fn sandbox() -> SandboxConfig {
    SandboxConfig {
        metadata: Metadata { namespace: "ns".to_owned(), name: "pod".to_owned(), uid: "u".to_owned(), attempt: 0 },
        hostname: "pod".to_owned(),
        log_directory: None,
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

fn image(entrypoint: &[&str], cmd: &[&str], env: &[&str], dir: &str) -> ImageConfiguration {
    let words = |words: &[&str]| {
        Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).filter(|words| !words.is_empty())
    };
    let mut config = Config::default();
    config
        .set_entrypoint(words(entrypoint))
        .set_cmd(words(cmd))
        .set_env(words(env))
        .set_working_dir(Some(dir.to_owned()).filter(|dir| !dir.is_empty()));
    let mut image = ImageConfiguration::default();
    image.set_config(Some(config));
    image
}

fn everything() -> HashSet<Capability> {
    held("CapPrm:\t000001ffffffffff\n")
}

fn built(sandbox: &SandboxConfig, config: &ContainerConfig, image: &ImageConfiguration) -> Result<Spec, EngineError> {
    let user = Resolved { uid: 7, gid: 8, groups: vec![8, 9], home: "/srv".to_owned() };
    build(Placement {
        sandbox,
        config,
        image,
        user: &user,
        pod_files: Path::new("/run/pod"),
        cgroup: "/pods/c",
        available: &everything(),
        devices: &[],
        volumes: &[Volume { path: "/from/image".to_owned(), source: "/layer/volumes/0".into() }],
        seccomp: None,
        labels: &Labels::default(),
    })
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn command_and_args_replace_the_images() {
    for (entrypoint, cmd, command, args, told) in [
        ("/e", "c", "", "", Some("/e c")),
        ("/e", "c", "", "a b", Some("/e a b")),
        ("/e", "c", "/x", "", Some("/x")),
        ("/e", "c", "/x y", "a", Some("/x y a")),
        ("", "c", "", "", Some("c")),
        ("", "", "", "", None),
        ("", "", "", "a", Some("a")),
    ] {
        let config = ContainerConfig { command: words(command), args: words(args), ..container() };
        let entrypoint = words(entrypoint);
        let entrypoint: Vec<&str> = entrypoint.iter().map(String::as_str).collect();
        let cmd = words(cmd);
        let cmd: Vec<&str> = cmd.iter().map(String::as_str).collect();
        let spec = built(&sandbox(), &config, &image(&entrypoint, &cmd, &[], ""));
        let args = spec
            .ok()
            .map(|spec| spec.process().as_ref().and_then(|process| process.args().clone()).expect("built").join(" "));
        assert_eq!(args.as_deref(), told, "{command:?} {args:?}");
    }
    let nul = ContainerConfig { command: vec!["/x".to_owned(), "a\0b".to_owned()], ..container() };
    assert!(built(&sandbox(), &nul, &image(&[], &[], &[], "")).is_err());
    let long = ContainerConfig { command: vec!["x".repeat(3 * 1024 * 1024)], ..container() };
    assert!(built(&sandbox(), &long, &image(&[], &[], &[], "")).is_err());
}

#[test]
fn the_environment_is_merged_in_place() {
    let variable = |name: &str, value: &str| EnvironmentVariable { name: name.to_owned(), value: value.into() };
    let config =
        ContainerConfig { envs: vec![variable("B", "mine"), variable("Z", ""), variable("B", "last")], ..container() };
    let spec = built(&sandbox(), &config, &image(&["/e"], &[], &["PATH=/bin", "A=1", "B=2", "=x", "LONE"], "/w"));
    let process = spec.expect("good").process().clone().expect("built");
    assert_eq!(
        process.env().clone().expect("built"),
        ["PATH=/bin", "HOSTNAME=pod", "HOME=/srv", "A=1", "B=last", "LONE=", "Z="]
    );
    assert_eq!(process.cwd(), Path::new("/w"));
    assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
    for (name, value) in [("", "x"), ("A=B", "x"), ("A", "x\0"), ("A\0", "x")] {
        let config = ContainerConfig { envs: vec![variable(name, value)], ..container() };
        assert!(built(&sandbox(), &config, &image(&["/e"], &[], &[], "")).is_err(), "{name:?}");
    }
    for dir in ["relative", "/a/../../b", "/a\0"] {
        assert!(built(&sandbox(), &container(), &image(&["/e"], &[], &[], dir)).is_err(), "{dir:?}");
    }
}

#[test]
fn capabilities_are_the_default_plus_and_minus() {
    let count = |add: &str, drop: &str| {
        let capabilities = CapabilityChange { add: words(add), drop: words(drop), ambient: Vec::new() };
        let config = ContainerConfig { security: Security { capabilities, ..Security::default() }, ..container() };
        let spec = built(&sandbox(), &config, &image(&["/e"], &[], &[], "")).ok()?;
        let capabilities = spec.process().as_ref()?.capabilities().clone()?;
        assert_eq!(capabilities.inheritable().as_ref().map(|set| set.len()), Some(0));
        assert_eq!(capabilities.bounding(), capabilities.effective());
        capabilities.bounding().as_ref().map(|set| set.len())
    };
    assert_eq!(count("", ""), Some(14));
    assert_eq!(count("NET_ADMIN", ""), Some(15));
    assert_eq!(count("CAP_NET_ADMIN", "net_raw"), Some(14));
    assert_eq!(count("", "ALL"), Some(0));
    assert_eq!(count("CHOWN", "ALL"), Some(1));
    assert_eq!(count("ALL", ""), Some(41));
    assert_eq!(count("ALL", "CHOWN"), Some(40));
    assert_eq!(count("ALL CHOWN", "ALL"), Some(1));
    assert_eq!(count("NOPE", ""), None);
}

#[test]
fn namespaces_and_walls() {
    let kinds = |sandbox: &SandboxConfig, config: &ContainerConfig| {
        let spec = built(sandbox, config, &image(&["/e"], &[], &[], "")).expect("good");
        let linux = spec.linux().clone().expect("built");
        let kinds: Vec<_> = linux.namespaces().iter().flatten().map(|namespace| namespace.typ()).collect();
        (kinds, linux.masked_paths().as_ref().map(Vec::len))
    };
    use LinuxNamespaceType::{Cgroup, Mount, Pid};
    assert_eq!(kinds(&sandbox(), &container()), (vec![Mount, Pid, Cgroup], Some(14)));
    let mut users = sandbox();
    let range = runtime_lifecycle::IdRange { container: 0, host: 100_000, length: 65_536 };
    users.namespaces.user = UserMode::Pod(runtime_lifecycle::IdMappings { uids: range, gids: range });
    assert_eq!(kinds(&users, &container()).1, None, "procMount: Unmasked");
    let masked = Security { masked_paths: Some(words("/proc/kcore")), ..Security::default() };
    assert_eq!(kinds(&users, &ContainerConfig { security: masked, ..container() }).1, Some(1));
    let mut shared = sandbox();
    shared.namespaces.pid = PidMode::Pod;
    assert_eq!(kinds(&shared, &container()).0, [Mount, Cgroup]);
    let privileged = SandboxConfig { privilege: Privilege::Privileged, ..sandbox() };
    let security = Security { privilege: Privilege::Privileged, ..Security::default() };
    let config = ContainerConfig { security, ..container() };
    assert_eq!(kinds(&privileged, &config), (vec![Mount, Pid], None));
    assert!(built(&sandbox(), &config, &image(&["/e"], &[], &[], "")).is_err(), "needs a privileged sandbox");
}

fn volume(to: &str) -> Mount {
    Mount {
        container_path: to.to_owned(),
        host_path: "/srv/data".to_owned(),
        read_only: ReadOnly::No,
        propagation: Propagation::Private,
        options: Vec::new(),
        id_mappings: None,
        image: None,
    }
}

#[test]
fn mounts_are_sorted_by_depth_and_replace_ours() {
    let mounts = ["/a/b/c", "/a", "/etc/hosts", "/dev/shm/", "/a/b"].map(volume).to_vec();
    let spec =
        built(&sandbox(), &ContainerConfig { mounts, ..container() }, &image(&["/e"], &[], &[], "")).expect("good");
    let places: Vec<String> =
        spec.mounts().iter().flatten().map(|mount| mount.destination().display().to_string()).collect();
    assert_eq!(
        places.join(" "),
        "/proc /dev /dev/pts /dev/mqueue /sys /sys/fs/cgroup /etc/hostname /etc/resolv.conf /a /etc/hosts /dev/shm/ /a/b /from/image /a/b/c"
    );
    for bad in ["", "relative", "/", "/a/../b", "/a\0"] {
        let config = ContainerConfig { mounts: vec![volume(bad)], ..container() };
        assert!(built(&sandbox(), &config, &image(&["/e"], &[], &[], "")).is_err(), "{bad:?}");
    }
    let shared = Mount { propagation: Propagation::Bidirectional, ..volume("/a") };
    let recursive = Mount { read_only: ReadOnly::Recursive, propagation: Propagation::HostToContainer, ..volume("/a") };
    for bad in [shared, recursive] {
        let config = ContainerConfig { mounts: vec![bad], ..container() };
        assert!(built(&sandbox(), &config, &image(&["/e"], &[], &[], "")).is_err());
    }
}

#[test]
fn options_of_a_mount_only_take_away() {
    let options = |mount: Mount| {
        let config = ContainerConfig { mounts: vec![mount], ..container() };
        let spec = built(&sandbox(), &config, &image(&["/e"], &[], &[], "")).ok()?;
        let mount = spec.mounts().as_ref()?.last()?.clone();
        Some(format!("{} {}", mount.source().as_ref()?.display(), mount.options().as_ref()?.join(",")))
    };
    let with = |given: &str| options(Mount { options: words(given), ..volume("/a/b/c") });
    assert_eq!(with("").as_deref(), Some("/srv/data rbind,rprivate,rw"));
    assert_eq!(with("noexec rnosuid noatime").as_deref(), Some("/srv/data rbind,rprivate,rw,noexec,rnosuid,noatime"));
    assert!(with("relatime rrelatime nodiratime").is_some());
    for bad in ["exec", "suid", "dev", "rw", "ro", "rro", "bind", "rshared", "size=1", "loop", "noatime strictatime"] {
        assert_eq!(with(bad), None, "{bad}");
    }
    let image = Mount {
        host_path: String::new(),
        read_only: ReadOnly::Yes,
        image: Some(ImageMount { image: "i".to_owned(), sub_path: String::new() }),
        options: words("noatime"),
        ..volume("/a/b/c")
    };
    let told = "podwright:image/0 rbind,rprivate,ro,nosuid,nodev,noexec,noatime";
    assert_eq!(options(image.clone()).as_deref(), Some(told));
    assert_eq!(options(Mount { read_only: ReadOnly::No, ..image.clone() }), None);
    assert_eq!(options(Mount { propagation: Propagation::HostToContainer, ..image.clone() }), None);
    assert_eq!(options(Mount { host_path: "/srv".to_owned(), ..image }), None);
}

#[test]
fn limits_in_the_specifications_units() {
    let resources = Resources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_bytes: 64 << 20,
        oom_score_adj: 900,
        cpuset_cpus: "0-1".to_owned(),
        ..Resources::default()
    };
    let spec =
        built(&sandbox(), &ContainerConfig { resources, ..container() }, &image(&["/e"], &[], &[], "")).expect("good");
    let told = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).expect("built");
    assert_eq!(told.memory().as_ref().and_then(|memory| memory.limit()), Some(64 << 20));
    assert_eq!(told.cpu().as_ref().and_then(|cpu| cpu.shares()), Some(512));
    assert_eq!(spec.process().as_ref().and_then(|process| process.oom_score_adj()), Some(900));
    for bad in [
        Resources { cpu_shares: -1, ..Resources::default() },
        Resources { memory_limit_bytes: -5, ..Resources::default() },
        Resources { oom_score_adj: 2000, ..Resources::default() },
        Resources { cpuset_cpus: "0;rm".to_owned(), ..Resources::default() },
        Resources { unified: [("cgroup.procs".to_owned(), "1".to_owned())].into(), ..Resources::default() },
        Resources { unified: [("../memory.max".to_owned(), "1".to_owned())].into(), ..Resources::default() },
    ] {
        let config = ContainerConfig { resources: bad, ..container() };
        assert!(built(&sandbox(), &config, &image(&["/e"], &[], &[], "")).is_err());
    }
}

#[test]
fn an_exec_has_the_first_processs_surroundings() {
    let spec = built(&sandbox(), &container(), &image(&["/e"], &[], &["A=1"], "/w")).expect("good");
    let first = spec.process().clone().expect("built");
    let process = exec_process(&first, words("ls -l"), Terminal::Yes).expect("good");
    assert_eq!(process.args().clone().expect("set").join(" "), "ls -l");
    assert_eq!(
        (process.cwd(), process.env(), process.capabilities()),
        (first.cwd(), first.env(), first.capabilities())
    );
    assert_eq!(process.terminal(), Some(true));
    assert!(exec_process(&first, Vec::new(), Terminal::No).is_err());
    assert!(exec_process(&first, vec!["a\0".to_owned()], Terminal::No).is_err());
}
