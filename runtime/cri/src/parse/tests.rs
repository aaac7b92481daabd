use runtime_cri_api::v1::{
    self, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping,
    SecurityProfile, security_profile::ProfileType,
};
use runtime_lifecycle::{IpcMode, NetworkMode, PidMode, ReadOnly, SeccompChoice, User};
use tonic::{Code, Status};

use super::{container_config, sandbox_config};

fn sandbox(change: impl FnOnce(&mut PodSandboxConfig)) -> Result<runtime_lifecycle::SandboxConfig, Status> {
    let metadata = PodSandboxMetadata { name: "pod".into(), uid: "u".into(), namespace: "ns".into(), attempt: 3 };
    let mut config = PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() };
    change(&mut config);
    sandbox_config(Some(config), String::new())
}

fn sandbox_wire() -> Option<PodSandboxConfig> {
    let metadata = PodSandboxMetadata { name: "pod".into(), ..PodSandboxMetadata::default() };
    Some(PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() })
}

fn container(change: impl FnOnce(&mut v1::ContainerConfig)) -> Result<runtime_lifecycle::ContainerConfig, Status> {
    let mut config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 2 }),
        image: Some(v1::ImageSpec { image: "busybox".into(), ..v1::ImageSpec::default() }),
        ..v1::ContainerConfig::default()
    };
    change(&mut config);
    container_config(Some(config))
}

fn secured(
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> Result<runtime_lifecycle::ContainerConfig, Status> {
    container(|config| {
        let mut context = LinuxContainerSecurityContext::default();
        change(&mut context);
        config.linux = Some(LinuxContainerConfig { resources: None, security_context: Some(context) });
    })
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>) {
    assert_eq!(result.expect_err("refused").code(), Code::InvalidArgument);
}

#[test]
fn names_and_paths_are_one_line_of_sane_length() {
    for hostile in ["a\nb", "a\0b", "\u{1b}[2J", &"x".repeat(1 << 20)] {
        let given = || hostile.to_owned();
        refused(sandbox(|config| config.metadata.as_mut().expect("set").name = given()));
        refused(sandbox(|config| config.metadata.as_mut().expect("set").namespace = given()));
        refused(sandbox(|config| config.metadata.as_mut().expect("set").uid = given()));
        refused(sandbox(|config| config.log_directory = format!("/{hostile}")));
        refused(container(|config| config.metadata.as_mut().expect("set").name = given()));
        refused(container(|config| config.image.as_mut().expect("set").image = given()));
        refused(sandbox_config(sandbox_wire(), given()));
    }
    for hostile in ["a\nb", "a\0b", "\u{1b}[2J"] {
        let given = || hostile.to_owned();
        let device = |container: &str, host: &str| v1::Device {
            container_path: container.to_owned(),
            host_path: host.to_owned(),
            ..v1::Device::default()
        };
        let mount = |container: &str, host: &str| v1::Mount {
            container_path: container.to_owned(),
            host_path: host.to_owned(),
            ..v1::Mount::default()
        };
        refused(container(|config| config.log_path = given()));
        refused(container(|config| config.mounts = vec![mount(hostile, "/a")]));
        refused(container(|config| config.mounts = vec![mount("/a", hostile)]));
        refused(container(|config| config.devices = vec![device(hostile, "/dev/null")]));
        refused(container(|config| config.devices = vec![device("/dev/null", hostile)]));
    }
    // What may have lines: an annotation holds whole documents, a command whole scripts.
    sandbox(|config| config.annotations = [("a".to_owned(), "{\n}\n".to_owned())].into()).expect("good");
    container(|config| config.command = vec!["sh".to_owned(), "-c".to_owned(), "a\nb".to_owned()]).expect("good");
}

#[test]
fn sandboxes() {
    let told = sandbox(|_| {}).expect("good");
    assert_eq!((told.metadata.attempt, told.namespaces.network), (3, NetworkMode::Pod));
    // As CRI has it: 0 is POD, also for processes.
    assert_eq!((told.namespaces.pid, told.namespaces.ipc), (PidMode::Pod, IpcMode::Pod));
    refused(sandbox_config(None, String::new()));
    refused(sandbox(|config| config.metadata = None));
    refused(sandbox(|config| config.metadata.as_mut().expect("set").name.clear()));
    refused(sandbox(|config| config.metadata.as_mut().expect("set").uid = "u\0".into()));
    refused(sandbox(|config| config.log_directory = "relative".into()));
    refused(sandbox(|config| config.log_directory = "/a/../b".into()));
    refused(sandbox(|config| config.labels = [("a\0".to_owned(), String::new())].into()));
    refused(sandbox(|config| config.annotations = [("a".to_owned(), "x".repeat(2 << 20))].into()));
    let code = sandbox_config(Some(PodSandboxConfig::default()), "kata".into()).expect_err("none").code();
    assert_eq!(code, Code::NotFound);
}

#[test]
fn sandbox_namespaces() {
    let with = |options: NamespaceOption| {
        sandbox(|config| {
            let security_context = Some(LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..LinuxSandboxSecurityContext::default()
            });
            config.linux = Some(LinuxPodSandboxConfig { security_context, ..LinuxPodSandboxConfig::default() });
        })
    };
    let node = i32::from(NamespaceMode::Node);
    let told =
        with(NamespaceOption { network: node, pid: node, ipc: node, ..NamespaceOption::default() }).expect("good");
    assert_eq!((told.namespaces.network, told.namespaces.pid), (NetworkMode::Node, PidMode::Node));
    refused(with(NamespaceOption { network: 77, ..NamespaceOption::default() }));
    refused(with(NamespaceOption { network: NamespaceMode::Container.into(), ..NamespaceOption::default() }));
    refused(with(NamespaceOption { pid: NamespaceMode::Target.into(), ..NamespaceOption::default() }));
    let user = v1::UserNamespace { mode: NamespaceMode::Pod.into(), ..v1::UserNamespace::default() };
    refused(with(NamespaceOption { userns_options: Some(user), ..NamespaceOption::default() }));
}

#[test]
fn ports() {
    let with = |port: PortMapping| sandbox(|config| config.port_mappings = vec![port]);
    let good = PortMapping { protocol: 1, container_port: 80, host_port: 8080, host_ip: "127.0.0.1".into() };
    let told = with(good.clone()).expect("good").ports.remove(0);
    assert_eq!((told.host_port, told.container_port), (8080, 80));
    refused(with(PortMapping { protocol: 9, ..good.clone() }));
    refused(with(PortMapping { host_port: 70_000, ..good.clone() }));
    refused(with(PortMapping { host_port: -1, ..good.clone() }));
    refused(with(PortMapping { container_port: 0, ..good.clone() }));
    refused(with(PortMapping { host_ip: "localhost".into(), ..good }));
}

#[test]
fn containers() {
    let told = container(|config| {
        config.envs = vec![KeyValue { key: "A".into(), value: b"1=2".to_vec() }];
        config.stop_signal = v1::Signal::Sigquit.into();
    })
    .expect("good");
    assert_eq!((told.attempt, told.envs[0].value.as_bytes(), told.stop_signal), (2, b"1=2".as_slice(), Some(3)));
    assert_eq!(format!("{:?}", told.envs), "[A=…]", "values are secrets");
    refused(container_config(None));
    refused(container(|config| config.metadata = None));
    refused(container(|config| config.image = None));
    refused(container(|config| config.image = Some(v1::ImageSpec::default())));
    refused(container(|config| config.command = vec!["a\0b".into()]));
    let told = container(|config| config.envs = vec![KeyValue { key: "A".into(), value: vec![0xff] }]).expect("bytes");
    assert_eq!(told.envs[0].value.as_bytes(), [0xff]);
    refused(container(|config| config.envs = vec![KeyValue { key: "A".into(), value: vec![b'a', 0] }]));
    refused(container(|config| config.log_path = "a\0".into()));
    refused(container(|config| config.stop_signal = 99));
}

#[test]
fn mounts() {
    let with = |change: fn(&mut v1::Mount)| {
        container(|config| {
            let mut mount = v1::Mount { container_path: "/a".into(), host_path: "/b".into(), ..v1::Mount::default() };
            change(&mut mount);
            config.mounts = vec![mount];
        })
    };
    let told = with(|mount| {
        mount.readonly = true;
        mount.recursive_read_only = true;
    });
    assert_eq!(told.expect("good").mounts[0].read_only, ReadOnly::Recursive);
    refused(with(|mount| mount.recursive_read_only = true));
    refused(with(|mount| mount.propagation = 9));
    let told = with(|mount| mount.mount_options = vec!["noexec".into()]).expect("good");
    assert_eq!(told.mounts[0].options, ["noexec"]);
    refused(with(|mount| mount.uid_mappings = vec![v1::IdMapping::default()]));
    refused(with(|mount| mount.image = Some(v1::ImageSpec { image: "x".into(), ..v1::ImageSpec::default() })));
    let told = container(|config| {
        config.mounts = vec![v1::Mount {
            container_path: "/a".into(),
            image: Some(v1::ImageSpec { image: "x".into(), ..v1::ImageSpec::default() }),
            image_sub_path: "docs".into(),
            readonly: true,
            ..v1::Mount::default()
        }];
    });
    assert_eq!(told.expect("good").mounts[0].image.as_ref().map(|image| image.sub_path.as_str()), Some("docs"));
    // As a kubelet has it for every volume of a pod with an image among them.
    assert_eq!(with(|mount| mount.image_sub_path = "docs".into()).expect("good").mounts[0].image, None);
}

#[test]
fn users_and_filters() {
    let user = |value| Some(Int64Value { value });
    let told = secured(|context| context.run_as_user = user(1000)).expect("good");
    assert_eq!(told.security.user, Some(User::Id(1000)));
    refused(secured(|context| context.run_as_user = user(-1)));
    refused(secured(|context| context.run_as_user = user(1 << 32)));
    refused(secured(|context| context.supplemental_groups = vec![-5]));
    refused(secured(|context| {
        context.run_as_user = user(1);
        context.run_as_username = "web".into();
    }));
    let profile =
        |kind: ProfileType, path: &str| Some(SecurityProfile { profile_type: kind.into(), localhost_ref: path.into() });
    let told = secured(|context| context.seccomp = profile(ProfileType::RuntimeDefault, "")).expect("good");
    assert_eq!(told.security.seccomp, SeccompChoice::RuntimeDefault);
    assert_eq!(secured(|_| {}).expect("good").security.seccomp, SeccompChoice::Unconfined);
    refused(secured(|context| context.seccomp = profile(ProfileType::Localhost, "")));
    secured(|context| context.apparmor = profile(ProfileType::Localhost, "x"))
        .expect("the engine knows which are loaded");
    secured(|context| context.apparmor = profile(ProfileType::RuntimeDefault, "")).expect("good");
}

#[test]
fn profiles_and_labels() {
    use runtime_lifecycle::AppArmorChoice::{Localhost, RuntimeDefault, Unconfined};
    let check = |new: Option<(ProfileType, &str)>, old: &str, told: Option<runtime_lifecycle::AppArmorChoice>| {
        let answer = secured(|context| {
            context.apparmor =
                new.map(|(kind, name)| SecurityProfile { profile_type: kind as i32, localhost_ref: name.to_owned() });
            #[expect(deprecated, reason = "older clients know only the name")]
            context.apparmor_profile.push_str(old);
        });
        match told {
            Some(told) => assert_eq!(answer.expect("good").security.apparmor, told, "{new:?} {old:?}"),
            None => refused(answer),
        }
    };
    check(None, "", Some(RuntimeDefault));
    check(None, "runtime/default", Some(RuntimeDefault));
    check(None, "unconfined", Some(Unconfined));
    check(None, "localhost/a", Some(Localhost("a".to_owned())));
    check(None, "localhost/", None);
    check(None, "a", None);
    check(Some((ProfileType::Localhost, "localhost/a")), "localhost/b", Some(Localhost("a".to_owned())));
    check(Some((ProfileType::Localhost, "a")), "", Some(Localhost("a".to_owned())));
    check(Some((ProfileType::Localhost, "")), "localhost/b", None);
    check(Some((ProfileType::Localhost, "a\nb")), "", None);
    check(Some((ProfileType::Unconfined, "")), "localhost/b", Some(Unconfined));
    check(Some((ProfileType::RuntimeDefault, "")), "", Some(RuntimeDefault));
    let label = v1::SeLinuxOption { user: "u".into(), role: "r".into(), r#type: "t".into(), level: "s0:c1".into() };
    let told =
        secured(|context| context.selinux_options = Some(label)).expect("good").security.selinux.expect("a label");
    assert_eq!((told.user.as_str(), told.kind.as_str(), told.level.as_str()), ("u", "t", "s0:c1"));
    // A relative path would be looked for below the daemon's own directory.
    refused(secured(|context| {
        context.seccomp =
            Some(SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: "p.json".to_owned() });
    }));
}
