//! Users, capabilities, filters, profiles, limits and parameters, as CRI asks for them; what is refused, and in which words.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::client::{Sandbox, container};
use tests_integration::image::{self, Dialect, Entry, Packing};
use tests_integration::{Node, Options, Outcome};
use tonic::Code;

use crate::{BUSYBOX, World};

/// A container that sleeps, with another security context.
fn with(change: impl FnOnce(&mut cri::LinuxContainerSecurityContext)) -> cri::ContainerConfig {
    named("c", change)
}

fn named(name: &str, change: impl FnOnce(&mut cri::LinuxContainerSecurityContext)) -> cri::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["/bin/sleep", "1000"]);
    if let Some(context) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        change(context);
    }
    config
}

async fn running(world: &World, sandbox: &Sandbox, config: cri::ContainerConfig) -> anyhow::Result<String> {
    let id = world.client.create(sandbox, config).await?;
    world.client.start(&id).await?;
    Ok(id)
}

/// The status that a call must fail with; `words` are in its message.
fn refused<T: std::fmt::Debug>(answer: anyhow::Result<T>, code: Code, words: &[&str]) -> anyhow::Result<()> {
    let error = match answer {
        Ok(answer) => bail!("not refused: {answer:?}"),
        Err(error) => error,
    };
    let status = error.downcast_ref::<tonic::Status>().context("no status")?;
    ensure!(status.code() == code, "{:?} and not {code:?}: {}", status.code(), status.message());
    for word in words {
        ensure!(status.message().contains(word), "{word:?} is not in {:?}", status.message());
    }
    Ok(())
}

fn localhost(path: &Path) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::Localhost as i32,
        localhost_ref: path.display().to_string(),
    })
}

pub(crate) async fn a_profile_of_the_host_is_kept(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("seccomp").await?;
    let file = world.node.scratch().join("profile.json");
    // As Docker's own profile is written.
    std::fs::write(
        &file,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]},
            {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
            "syscalls":[{"name":"sethostname","action":"SCMP_ACT_ERRNO","errnoRet":95},
              {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":122,"excludes":{"caps":["CAP_SYS_TIME"]}},
              {"names":["symlink","symlinkat"],"action":"SCMP_ACT_ERRNO","errnoRet":122,"includes":{"caps":["CAP_SYS_TIME"]}}]}"#,
    )?;
    let plain = running(&world, &sandbox, with(|context| context.seccomp = localhost(&file))).await?;
    let told = world.client.shell(&plain, "mkdir /tmp/x 2>&1; ln -s a /tmp/y && echo linked; ls /tmp").await?;
    ensure!(told.contains("uota") && told.contains("linked") && !told.lines().any(|line| line == "x"), "{told}");
    let timed = named("timed", |context| {
        context.seccomp = localhost(&file);
        context.capabilities =
            Some(cri::Capability { add_capabilities: vec!["SYS_TIME".into()], ..Default::default() });
    });
    let timed = running(&world, &sandbox, timed).await?;
    let told = world.client.shell(&timed, "mkdir /tmp/x && echo made; ln -s a /tmp/y 2>&1; true").await?;
    ensure!(told.contains("made") && told.contains("uota"), "{told}");
    for (name, text, words) in [
        ("empty.json", Some(""), "is empty"),
        ("none.json", None, "no such file"),
        ("nothing.json", Some("{}"), "defaultAction"),
        ("notify.json", Some(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#), "SCMP_ACT_NOTIFY"),
    ] {
        let file = world.node.scratch().join(name);
        if let Some(text) = text {
            std::fs::write(&file, text)?;
        }
        let answer = world.client.create(&sandbox, named(name, |context| context.seccomp = localhost(&file))).await;
        refused(answer, Code::InvalidArgument, &[name, words])?;
    }
    let relative = named("relative", |context| context.seccomp = localhost(Path::new("localhost/p.json")));
    refused(world.client.create(&sandbox, relative).await, Code::InvalidArgument, &["absolute"])?;
    world.client.end(&sandbox).await
}

pub(crate) async fn capabilities_are_exactly_those(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("capabilities").await?;
    const DEFAULT: u64 = 0xa804_25fb;
    const NET_ADMIN: u64 = 1 << 12;
    const CHOWN: u64 = 1;
    let own = std::fs::read_to_string("/proc/self/status")?;
    let own = own.lines().find_map(|line| line.strip_prefix("CapPrm:")).context("CapPrm")?;
    let everything = u64::from_str_radix(own.trim(), 16)?;
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let cases: [(&str, &str, &str, i64, u64, u64); 8] = [
        ("", "", "", 0, DEFAULT, DEFAULT),
        ("NET_ADMIN", "CHOWN", "", 0, DEFAULT & !CHOWN | NET_ADMIN, DEFAULT & !CHOWN | NET_ADMIN),
        ("", "ALL", "", 0, 0, 0),
        ("cap_net_admin", "ALL", "", 0, NET_ADMIN, NET_ADMIN),
        ("ALL", "", "", 0, everything, everything),
        ("ALL", "CAP_CHOWN", "", 0, everything & !CHOWN, everything & !CHOWN),
        ("", "", "", 1000, DEFAULT, 0),
        ("", "ALL", "NET_ADMIN", 1000, NET_ADMIN, NET_ADMIN),
    ];
    for (add, drop, ambient, user, bounding, held) in cases {
        let config = named(&format!("c-{add}-{drop}-{ambient}-{user}"), |context| {
            context.run_as_user = Some(cri::Int64Value { value: user });
            context.capabilities = Some(cri::Capability {
                add_capabilities: words(add),
                drop_capabilities: words(drop),
                add_ambient_capabilities: words(ambient),
            });
        });
        let id = running(&world, &sandbox, config).await?;
        let inherited = if ambient.is_empty() { 0 } else { held };
        // An exec has what the first process has.
        for process in ["1", "self"] {
            let status = world.client.shell(&id, &format!("cat /proc/{process}/status")).await?;
            for (name, wanted) in [
                ("CapBnd:", bounding),
                ("CapPrm:", held),
                ("CapEff:", held),
                ("CapInh:", inherited),
                ("CapAmb:", inherited),
            ] {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a set")?;
                let found = u64::from_str_radix(line.trim(), 16)?;
                ensure!(found == wanted, "+{add} -{drop} ^{ambient} uid {user}: {name} {found:x}, not {wanted:x}");
            }
        }
        world.client.stop(&id, 0).await?;
    }
    let unknown = named("unknown", |context| {
        context.capabilities = Some(cri::Capability { add_capabilities: words("NO_SUCH"), ..Default::default() });
    });
    refused(world.client.create(&sandbox, unknown).await, Code::InvalidArgument, &["NO_SUCH"])?;
    world.client.end(&sandbox).await
}

type Change = fn(&mut cri::LinuxContainerSecurityContext);

fn id(value: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value })
}

/// An image whose accounts say something.
fn accounts(world: &World) -> anyhow::Result<String> {
    let name = "podwright.test/accounts:1";
    let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n1000:x:0:0::/:/bin/sh\n";
    let group = "root:x:0:\nwww:x:102:\nlogs:x:200:web\nother:x:300:nobody\n";
    let entries = vec![
        Entry::File("etc/passwd", 0o644, passwd.as_bytes().to_vec()),
        Entry::File("etc/group", 0o644, group.as_bytes().to_vec()),
    ];
    let layers = [(Packing::Gzip, image::busybox()?), (Packing::Gzip, entries)];
    let image = image::image(Dialect::Oci, &layers, &["/bin/sh"])?;
    world.node.import(&image::archive(&image, name)?, name)?;
    Ok(name.to_owned())
}

fn of_image(image: &str, name: &str, change: Change) -> cri::ContainerConfig {
    let mut config = named(name, change);
    config.image = Some(tests_integration::client::spec(image));
    config
}

pub(crate) async fn users_and_groups_are_the_images_or_the_requests(world: Arc<World>) -> Outcome {
    let image = accounts(&world)?;
    let sandbox = world.sandbox("users").await?;
    type Ids = (i64, i64, &'static [i64]);
    let cases: [(&str, Change, Ids); 5] = [
        ("merged", |context| context.run_as_username = "web".into(), (101, 102, &[102, 200])),
        ("by-number", |context| context.run_as_user = id(101), (101, 102, &[102, 200])),
        (
            "more",
            |context| {
                (context.run_as_user, context.run_as_group) = (id(101), id(7));
                context.supplemental_groups = vec![9];
            },
            (101, 7, &[7, 9, 200]),
        ),
        (
            "strict",
            |context| {
                context.run_as_username = "web".into();
                context.supplemental_groups = vec![9];
                context.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict as i32;
            },
            (101, 102, &[9, 102]),
        ),
        ("digits", |context| context.run_as_username = "1000".into(), (1000, 0, &[0])),
    ];
    for (name, change, (uid, gid, groups)) in cases {
        let container = running(&world, &sandbox, of_image(&image, name, change)).await?;
        let told = world.client.shell(&container, "id -u; id -g; id -G").await?;
        let mut lines = told.lines();
        let inside = |line: Option<&str>| -> anyhow::Result<Vec<i64>> {
            let mut list: Vec<i64> =
                line.context("a line")?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            list.sort_unstable();
            list.dedup();
            Ok(list)
        };
        let seen = (inside(lines.next())?, inside(lines.next())?, inside(lines.next())?);
        ensure!(seen == (vec![uid], vec![gid], groups.to_vec()), "{name}: {told}");
        let status = world.client.status(&container).await?.user.and_then(|user| user.linux).context("a user")?;
        let mut told = status.supplemental_groups.clone();
        told.sort_unstable();
        ensure!((status.uid, status.gid, told.as_slice()) == (uid, gid, groups), "{name}: {status:?}");
    }
    let wrong: [(&str, Change, &str); 5] = [
        ("group-alone", |context| context.run_as_group = id(5), "run_as_group"),
        ("both", |context| (context.run_as_user, context.run_as_username) = (id(5), "web".into()), "exclude"),
        ("nobody", |context| context.run_as_username = "nobody".into(), "nobody"),
        ("minus", |context| context.run_as_user = id(-1), "-1"),
        ("overflow", |context| context.run_as_user = id(1 << 32), "4294967296"),
    ];
    for (name, change, words) in wrong {
        refused(world.client.create(&sandbox, of_image(&image, name, change)).await, Code::InvalidArgument, &[words])?;
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn paths_are_masked_as_asked(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("masks").await?;
    let config = with(|context| {
        context.masked_paths = vec!["/proc/version".into(), "/sys/kernel".into(), "/no/such".into()];
        context.readonly_paths = vec!["/proc/sys".into(), "/tmp".into()];
        context.readonly_rootfs = true;
    });
    let id = running(&world, &sandbox, config).await?;
    let script = "[ -z \"$(cat /proc/version)\" ] && [ -z \"$(ls /sys/kernel)\" ] && [ -n \"$(ls /proc/irq)\" ] && \
                  ! touch /tmp/x && ! touch /x && ! echo 1 > /proc/sys/kernel/shmmni";
    world.client.shell(&id, script).await?;
    for path in ["relative", "/a/../../b"] {
        let config = named("wrong", |context| context.masked_paths = vec![path.into()]);
        refused(world.client.create(&sandbox, config).await, Code::InvalidArgument, &[path])?;
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn resource_limits_are_the_stated_ones(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("rlimits").await?;
    let id = running(&world, &sandbox, with(|_| {})).await?;
    for process in ["1", "self"] {
        let told = world.client.shell(&id, &format!("cat /proc/{process}/limits")).await?;
        let fields = |name: &str| -> anyhow::Result<Vec<String>> {
            let line = told.lines().find_map(|line| line.strip_prefix(name)).context("a limit")?;
            Ok(line.split_whitespace().map(str::to_owned).collect())
        };
        let files = fields("Max open files")?;
        let hard: u64 = files.get(1).context("a hard one")?.parse()?;
        ensure!(files[0] == "1024" && hard <= 524_288, "{files:?}");
        ensure!(fields("Max core file size")?[0] == "unlimited", "{told}");
        ensure!(fields("Max stack size")?[0] == "8388608", "{told}");
    }
    world.client.end(&sandbox).await
}

fn with_parameters(mut pod: cri::PodSandboxConfig, sysctls: &[(&str, &str)]) -> cri::PodSandboxConfig {
    if let Some(linux) = pod.linux.as_mut() {
        linux.sysctls = sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }
    pod
}

pub(crate) async fn kernel_parameters_are_set_or_named(world: Arc<World>) -> Outcome {
    let good = [
        ("net.ipv4.ip_unprivileged_port_start", "81"),
        ("net/ipv4/ping_group_range", "5 6"),
        ("kernel.shm_rmid_forced", "1"),
    ];
    let sandbox = world.client.run(with_parameters(world.pod("sysctl"), &good)).await?;
    let id = running(&world, &sandbox, with(|_| {})).await?;
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range /proc/sys/kernel/shm_rmid_forced";
    let told = world.client.shell(&id, script).await?;
    ensure!(told == "81\n5\t6\n1\n", "{told:?}");
    world.client.end(&sandbox).await?;
    for (name, value, words) in [
        ("net.ipv4.ip_local_port_range", "nonsense", "invalid argument"),
        ("net.ipv4.no_such_parameter", "1", "doesn't have it"),
        ("net.ipv4.tcp_keepalive_time", "99999999999999999999", ""),
        ("kernel.core_pattern", "|/bin/sh", "not one that a pod has"),
        ("kernel.shmmax+kernel.core_pattern", "1", "not a kernel parameter"),
        ("net.ipv4.ip_forward", "1\n2", "control characters"),
        ("../kernel.core_pattern", "x", "not a kernel parameter"),
    ] {
        let bad = with_parameters(world.pod("sysctl-bad"), &[(name, value)]);
        refused(world.client.run(bad).await, Code::InvalidArgument, &[name, words])?;
    }
    let host = tests_integration::client::host_network(with_parameters(
        world.pod("sysctl-host"),
        &[("net.ipv4.ip_forward", "1")],
    ));
    refused(world.client.run(host).await, Code::InvalidArgument, &["net.ipv4.ip_forward", "host's network"])?;
    Ok(())
}

fn profile(kind: cri::security_profile::ProfileType, name: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: kind as i32, localhost_ref: name.to_owned() })
}

fn level(level: &str) -> Option<cri::SeLinuxOption> {
    Some(cri::SeLinuxOption { level: level.to_owned(), ..Default::default() })
}

pub(crate) async fn a_security_module_that_is_off_is_named(world: Arc<World>) -> Outcome {
    use cri::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
    let sandbox = world.sandbox("modules").await?;
    for (name, apparmor) in
        [("default", profile(RuntimeDefault, "")), ("unconfined", profile(Unconfined, "")), ("unsaid", None)]
    {
        let id = running(&world, &sandbox, named(name, |context| context.apparmor = apparmor)).await?;
        let wanted = if enabled && name != "unconfined" { "podwright-default (enforce)" } else { "unconfined" };
        if enabled {
            let label = world.client.shell(&id, "cat /proc/1/attr/current").await?;
            ensure!(label.trim() == wanted, "{name}: {label}");
        }
    }
    let words: &[&str] = if enabled {
        &["podwright-test-none", "apparmor_parser"]
    } else {
        &["podwright-test-none", "AppArmor is not on"]
    };
    for (name, change) in [("new", true), ("old", false)] {
        let config = named(name, |context| {
            if change {
                context.apparmor = profile(Localhost, "localhost/podwright-test-none");
            } else {
                #[expect(deprecated, reason = "what older clients send")]
                context.apparmor_profile.push_str("localhost/podwright-test-none");
            }
        });
        refused(world.client.create(&sandbox, config).await, Code::InvalidArgument, words)?;
    }
    // Kept and ignored where SELinux is off, as under containerd; nonsense is refused everywhere.
    running(&world, &sandbox, named("selinux", |context| context.selinux_options = level("s0:c1,c2"))).await?;
    let wrong = named("selinux-bad", |context| context.selinux_options = level("s0 c1"));
    refused(world.client.create(&sandbox, wrong).await, Code::InvalidArgument, &["selinux_options.level"])?;
    world.client.end(&sandbox).await
}

/// Ids that nobody gave out, some of which would lead elsewhere as paths.
const STRANGE_IDS: [&str; 6] = ["../x", ".", "/", "feed", "a b", "x\ny"];

/// Every verb that wants one says so of an id that nobody has.
async fn nobody_has(world: &World, id: String) -> Outcome {
    let mut runtime = world.client.runtime.clone();
    let status = cri::ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let start = cri::StartContainerRequest { container_id: id.clone() };
    let log = cri::ReopenContainerLogRequest { container_id: id.clone() };
    let stats = cri::ContainerStatsRequest { container_id: id.clone() };
    let exec = cri::ExecSyncRequest { container_id: id.clone(), cmd: vec!["true".into()], timeout: 1 };
    let sandbox = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
    let create = cri::CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(container("c", BUSYBOX, &["true"])),
        sandbox_config: Some(world.pod("x")),
    };
    let answers = [
        ("status", runtime.container_status(status).await.err()),
        ("start", runtime.start_container(start).await.err()),
        ("log", runtime.reopen_container_log(log).await.err()),
        ("stats", runtime.container_stats(stats).await.err()),
        ("exec", runtime.exec_sync(exec).await.err()),
        ("sandbox", runtime.pod_sandbox_status(sandbox).await.err()),
        ("create", runtime.create_container(create).await.err()),
    ];
    for (verb, answer) in answers {
        let status = answer.with_context(|| format!("{verb} of {id:?} is no error"))?;
        ensure!(status.code() == Code::NotFound, "{verb} of {id:?}: {status:?}");
    }
    Ok(())
}

pub(crate) async fn errors_have_their_code_and_say_what_to_do(world: Arc<World>) -> Outcome {
    let ids = STRANGE_IDS.iter().map(|id| (*id).to_owned()).chain(["f".repeat(4096)]);
    for id in ids.collect::<Vec<_>>() {
        nobody_has(&world, id).await?;
    }
    let sandbox = world.sandbox("errors").await?;
    // A file where a directory is wanted, and the other way round.
    let file = world.node.scratch().join("plain-file");
    std::fs::write(&file, "x")?;
    let mut config = container("mount", BUSYBOX, &["/bin/sleep", "1000"]);
    config.mounts =
        vec![cri::Mount { container_path: "/etc".into(), host_path: file.display().to_string(), ..Default::default() }];
    let answer = running(&world, &sandbox, config).await;
    let text = format!("{:#}", answer.err().context("a file over a directory")?);
    ensure!(text.contains("plain-file") && text.contains("/etc"), "{text}");
    let missing = container("image", "podwright.test/none:1", &["true"]);
    refused(world.client.create(&sandbox, missing).await, Code::NotFound, &["podwright.test/none:1", "pull"])?;
    let no_program = container("program", BUSYBOX, &["/no/such/program"]);
    let id = world.client.create(&sandbox, no_program).await?;
    refused(world.client.start(&id).await, Code::Unknown, &["/no/such/program"])?;
    refused(world.client.start(&id).await, Code::FailedPrecondition, &[&id[..12]])?;
    let (code, ..) = match world.client.exec(&id, &["true"]).await {
        Err(error) => (error.downcast_ref::<tonic::Status>().context("a status")?.code(), ()),
        Ok(answer) => bail!("executed in what doesn't run: {answer:?}"),
    };
    ensure!(code == Code::FailedPrecondition, "{code:?}");
    let big = cri::ContainerConfig {
        envs: vec![cri::KeyValue { key: "BIG".into(), value: vec![b'x'; 3 * 1024 * 1024] }],
        ..container("big", BUSYBOX, &["true"])
    };
    refused(world.client.create(&sandbox, big).await, Code::InvalidArgument, &[])?;
    world.client.end(&sandbox).await
}

pub(crate) async fn secrets_are_never_in_the_log(_: Arc<World>) -> Outcome {
    const SECRETS: [&str; 5] =
        ["hunter2-password", "hunter2-token", "hunter2-env", "hunter2-command", "hunter2-annotation"];
    let node =
        Node::start(Options { arguments: vec!["--log-level".into(), "trace".into()], ..Options::default() }).await?;
    let busybox = image::image(Dialect::Oci, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
    node.import(&image::archive(&busybox, BUSYBOX)?, BUSYBOX)?;
    let client = node.client().await?;
    for auth in [
        cri::AuthConfig { username: "user".into(), password: SECRETS[0].into(), ..Default::default() },
        cri::AuthConfig { identity_token: SECRETS[1].into(), registry_token: SECRETS[1].into(), ..Default::default() },
    ] {
        let pull = cri::PullImageRequest {
            image: Some(tests_integration::client::spec("127.0.0.1:1/none:1")),
            auth: Some(auth),
            ..Default::default()
        };
        let error = client.images.clone().pull_image(pull).await.err().context("nobody listens there")?;
        ensure!(!SECRETS.iter().any(|secret| error.message().contains(secret)), "{error}");
    }
    let mut pod = tests_integration::client::pod("secrets", &node.scratch().join("logs"));
    pod.annotations = HashMap::from([("note".to_owned(), SECRETS[4].to_owned())]);
    let sandbox = client.run(pod).await?;
    let mut config = container("c", BUSYBOX, &["/bin/sleep", "1000"]);
    config.envs = vec![cri::KeyValue { key: "PASSWORD".into(), value: SECRETS[2].into() }];
    let id = client.create(&sandbox, config.clone()).await?;
    client.start(&id).await?;
    let told = client.shell(&id, &format!("echo $PASSWORD; : {}", SECRETS[3])).await?;
    ensure!(told.contains(SECRETS[2]), "the container has it: {told}");
    // One that fails, since errors tell the most.
    config.metadata = Some(cri::ContainerMetadata { name: "d".into(), attempt: 0 });
    config.command = vec!["/no/such".into()];
    let failing = client.create(&sandbox, config).await?;
    let error = client.start(&failing).await.err().context("no such program")?;
    ensure!(!format!("{error:#}").contains(SECRETS[2]), "{error:#}");
    client.stop(&id, 1).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.end(&sandbox).await?;
    let log = node.log();
    ensure!(log.contains("TRACE") || log.contains("DEBUG"), "the log has no details: {log}");
    for secret in SECRETS {
        ensure!(
            !log.contains(secret),
            "{secret} is in the log: {}",
            log.lines().find(|line| line.contains(secret)).unwrap_or("")
        );
    }
    Ok(())
}
