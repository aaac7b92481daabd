//! Pods with a user namespace, and whose processes a container sees.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::client::{Sandbox, container, spec};
use tests_integration::image::{self, Dialect, Entry, Packing};
use tests_integration::{Client, Node, Options, Outcome};

use crate::{BUSYBOX, World};

/// The first user and group of the host; of nobody else on this machine.
const UID: u32 = 1_800_000_000;
const GID: u32 = UID + 1_000_000;
const LENGTH: u32 = 65_536;

fn mapping(host_id: u32) -> Vec<cri::IdMapping> {
    vec![cri::IdMapping { host_id, container_id: 0, length: LENGTH }]
}

fn options() -> cri::UserNamespace {
    cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, uids: mapping(UID), gids: mapping(GID) }
}

fn with_users(mut config: cri::PodSandboxConfig) -> cri::PodSandboxConfig {
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    if let Some(namespaces) = context.and_then(|context| context.namespace_options.as_mut()) {
        namespaces.userns_options = Some(options());
    }
    config
}

async fn sandbox(world: &World, name: &str) -> anyhow::Result<Sandbox> {
    world.client.run(with_users(world.pod(name))).await
}

async fn idle(world: &World, name: &str) -> anyhow::Result<(Sandbox, String)> {
    let sandbox = sandbox(world, name).await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    Ok((sandbox, id))
}

/// A container that the test changes before it is made.
async fn launch(
    client: &Client,
    sandbox: &Sandbox,
    name: &str,
    command: &[&str],
    change: impl FnOnce(&mut cri::ContainerConfig, &mut cri::LinuxContainerSecurityContext),
) -> anyhow::Result<String> {
    let mut config = container(name, BUSYBOX, command);
    let mut security = config.linux.as_mut().and_then(|linux| linux.security_context.take()).context("has one")?;
    change(&mut config, &mut security);
    if let Some(linux) = &mut config.linux {
        linux.security_context = Some(security);
    }
    let id = client.create(sandbox, config).await?;
    client.start(&id).await?;
    Ok(id)
}

async fn verbose(client: &Client, id: &str) -> anyhow::Result<serde_json::Value> {
    let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let answer = client.runtime.clone().container_status(request).await?.into_inner();
    Ok(serde_json::from_str(answer.info.get("info").context("has verbose information")?)?)
}

/// `Uid:` and the like of a container's first process, as the host sees it.
async fn seen_from_outside(client: &Client, id: &str, field: &str) -> anyhow::Result<Vec<String>> {
    let pid = verbose(client, id).await?["pid"].as_i64().context("has a pid")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field)).context("has the field")?;
    Ok(line.split_ascii_whitespace().skip(1).map(ToOwned::to_owned).collect())
}

pub(crate) async fn root_inside_is_nobody_outside(world: Arc<World>) -> Outcome {
    let (sandbox, id) = idle(&world, "userns").await?;
    let inside =
        world.client.shell(&id, "id -u; cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g / /bin/sh").await?;
    let words: Vec<&str> = inside.split_ascii_whitespace().collect();
    let (uid, gid, length) = (UID.to_string(), GID.to_string(), LENGTH.to_string());
    ensure!(words == ["0", "0", &uid, &length, "0", &gid, &length, "0:0", "0:0"], "{inside}");
    ensure!(seen_from_outside(&world.client, &id, "Uid:").await? == vec![uid; 4], "another user runs it");
    ensure!(seen_from_outside(&world.client, &id, "Gid:").await? == vec![gid; 4], "another group runs it");
    // Every namespace is one that the container's root owns or that is its own.
    let pid = verbose(&world.client, &id).await?["pid"].as_i64().context("has a pid")?;
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let (own, host) = (format!("/proc/{pid}/ns/{kind}"), format!("/proc/self/ns/{kind}"));
        ensure!(std::fs::read_link(own)? != std::fs::read_link(host)?, "{kind} is the host's");
    }
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: false };
    let status = world.client.runtime.clone().pod_sandbox_status(request).await?.into_inner().status;
    let told = status.and_then(|status| status.linux?.namespaces?.options?.userns_options);
    ensure!(told == Some(options()), "PodSandboxStatus says {told:?}");
    world.client.end(&sandbox).await
}

pub(crate) async fn status_announces_it(world: Arc<World>) -> Outcome {
    let status = world.client.runtime.clone().status(cri::StatusRequest { verbose: false }).await?.into_inner();
    for handler in &status.runtime_handlers {
        let features = handler.features.as_ref().context("has features")?;
        ensure!(features.user_namespaces && features.recursive_read_only_mounts, "{handler:?}");
    }
    let features = status.features.context("has features")?;
    ensure!(!features.user_namespaces_host_network, "it is refused, so it isn't announced");
    Ok(())
}

pub(crate) async fn what_it_writes_has_mapped_owners_and_the_image_stays(world: Arc<World>) -> Outcome {
    let name = "podwright.test/owners:1";
    let mut entries = image::busybox()?;
    entries.extend([Entry::Owned("secret", 0o600, (0, 0)), Entry::Owned("owned", 0o644, (1000, 2000))]);
    let built = image::image(Dialect::Oci, &[(Packing::Gzip, entries)], &["/bin/sh"])?;
    world.node.import(&image::archive(&built, name)?, name)?;
    // The same layer, for a pod without a user namespace and one with.
    let plain = world.sandbox("owners-plain").await?;
    let mapped = sandbox(&world, "owners-mapped").await?;
    for sandbox in [&plain, &mapped] {
        let id = world.client.launch(sandbox, "c", name, &["/bin/sleep", "1000"]).await?;
        let script = "cat secret; stat -c %u:%g secret owned; echo y >> owned; stat -c %u:%g owned; echo x > new; \
                      chmod 4755 new; stat -c %u:%g new";
        let text = world.client.shell(&id, script).await?;
        ensure!(text == "secret0:0\n1000:2000\n1000:2000\n0:0\n", "{text}");
        let host = if sandbox.id == mapped.id { (UID, GID) } else { (0, 0) };
        let upper = world.node.root().join("containers").join(&id).join("upper");
        for (file, uid, gid) in [("new", 0, 0), ("owned", 1000, 2000)] {
            let found = std::fs::metadata(upper.join(file))?;
            ensure!(
                (found.uid(), found.gid()) == (host.0 + uid, host.1 + gid),
                "{file} on disk: {}:{}",
                found.uid(),
                found.gid()
            );
        }
    }
    world.client.end(&plain).await?;
    world.client.end(&mapped).await
}

pub(crate) async fn volumes_are_mapped_where_the_mount_says_so(world: Arc<World>) -> Outcome {
    let sandbox = sandbox(&world, "userns-volumes").await?;
    let mut mounts = Vec::new();
    // One below a directory that nobody but the host's root may enter.
    let closed = world.node.scratch().join("closed");
    std::fs::create_dir_all(closed.join("mapped"))?;
    std::fs::create_dir_all(closed.join("plain"))?;
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700))?;
    for (name, mapped) in [("mapped", true), ("plain", false)] {
        std::fs::write(closed.join(name).join("old"), name)?;
        let ids = |first| if mapped { mapping(first) } else { Vec::new() };
        mounts.push(cri::Mount {
            container_path: format!("/{name}"),
            host_path: closed.join(name).display().to_string(),
            uid_mappings: ids(UID),
            gid_mappings: ids(GID),
            ..Default::default()
        });
    }
    // On tmpfs, as a kubelet keeps secrets.
    let memory = world.node.run_directory().join("userns-volume");
    std::fs::create_dir(&memory)?;
    std::fs::write(memory.join("token"), "secret")?;
    std::fs::set_permissions(memory.join("token"), std::fs::Permissions::from_mode(0o400))?;
    mounts.push(cri::Mount {
        container_path: "/secret".to_owned(),
        host_path: memory.display().to_string(),
        readonly: true,
        uid_mappings: mapping(UID),
        gid_mappings: mapping(GID),
        ..Default::default()
    });
    // An image; nothing is said of its owners.
    mounts.push(cri::Mount {
        container_path: "/image".to_owned(),
        image: Some(spec(BUSYBOX)),
        readonly: true,
        ..Default::default()
    });
    let id = launch(&world.client, &sandbox, "c", &["/bin/sleep", "1000"], |config, _| config.mounts = mounts).await?;
    let script = "stat -c %u:%g /mapped/old /plain/old; echo x > /mapped/new; cat /plain/old; cat /secret/token; \
                  stat -c %u:%g /image/etc/passwd /image/bin/busybox; touch /image/x 2>/dev/null || echo read-only";
    let text = world.client.shell(&id, script).await?;
    ensure!(text == "0:0\n65534:65534\nplainsecret0:0\n0:0\nread-only\n", "{text}");
    let (code, _, error) = world.client.exec(&id, &["/bin/sh", "-c", "echo x > /plain/new"]).await?;
    ensure!(code != 0 && error.contains("denied"), "wrote to the host root's directory: {error}");
    let new = std::fs::metadata(closed.join("mapped/new"))?;
    ensure!((new.uid(), new.gid()) == (0, 0), "the new file belongs to {}:{}", new.uid(), new.gid());
    world.client.end(&sandbox).await?;
    std::fs::remove_dir_all(memory)?;
    Ok(())
}

pub(crate) async fn a_terminal_is_its_users(world: Arc<World>) -> Outcome {
    let sandbox = sandbox(&world, "userns-terminal").await?;
    let script = "tty; stat -c '%u %n' /dev/console $(tty); echo to-tty > /dev/tty; exec sleep 1000";
    let id = launch(&world.client, &sandbox, "c", &["/bin/sh", "-c", script], |config, security| {
        config.tty = true;
        security.run_as_user = Some(cri::Int64Value { value: 1000 });
    })
    .await?;
    let began = std::time::Instant::now();
    loop {
        let log = world.log("userns-terminal", "c")?;
        if ["/dev/pts/0", "1000 /dev/console", "1000 /dev/pts/0", "to-tty"].iter().all(|part| log.contains(part)) {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(10), "{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(world.client.shell(&id, "id -u").await? == "1000\n", "another user");
    world.client.end(&sandbox).await
}

pub(crate) async fn a_volume_that_cannot_be_mapped_is_named(world: Arc<World>) -> Outcome {
    let sandbox = sandbox(&world, "userns-cannot").await?;
    let mut config = container("c", BUSYBOX, &["/bin/true"]);
    config.mounts = vec![cri::Mount {
        container_path: "/data".to_owned(),
        host_path: "/proc/sys".to_owned(),
        uid_mappings: mapping(UID),
        gid_mappings: mapping(GID),
        ..Default::default()
    }];
    let id = world.client.create(&sandbox, config).await?;
    let error = world.client.start(&id).await.err().context("it starts")?.to_string();
    ensure!(
        error.contains("/proc/sys") && error.contains("hostUsers: true") && error.contains("proc can't map"),
        "{error}"
    );
    world.client.end(&sandbox).await
}

pub(crate) async fn the_pods_own_files_and_network_work(world: Arc<World>) -> Outcome {
    let (first, one) = idle(&world, "userns-one").await?;
    let (second, _) = {
        let sandbox = sandbox(&world, "userns-two").await?;
        // A port below 1024, and a parameter of the pod's network.
        let server = "mkdir -p /srv/w; echo two > /srv/w/index.html; exec httpd -f -p 80 -h /srv/w";
        let id = world.client.launch(&sandbox, "web", BUSYBOX, &["/bin/sh", "-c", server]).await?;
        (sandbox, id)
    };
    let address = world.client.address(&second).await?;
    let script = format!(
        "ping -c 1 -W 2 {address} > /dev/null && echo pings; for i in 1 2 3 4 5; do printf 'GET / HTTP/1.0\\r\\n\\r\\n' | \
         /bin/busybox nc -w 5 {address} 80 | tail -n 1 | grep two && break; sleep 0.2; done; hostname; \
         grep -c userns-one /etc/hosts; stat -c %u:%g /etc/hosts /etc/hostname /etc/resolv.conf; echo '# mine' >> /etc/hosts && \
         tail -n 1 /etc/hosts; echo x > /dev/shm/x && echo shm; echo y > /dev/stderr 2> /dev/null; ls /dev/mqueue; \
         stat -c %u:%g /dev/pts /dev/null; ip link add d0 type dummy 2>/dev/null; ip link show lo | grep -c UP"
    );
    let text = world.client.shell(&one, &script).await?;
    let expected = "pings\ntwo\nuserns-one\n1\n0:0\n0:0\n0:0\n# mine\nshm\n0:0\n0:0\n1\n";
    ensure!(text == expected, "{text}");
    world.client.end(&first).await?;
    world.client.end(&second).await
}

pub(crate) async fn sysctls_are_set_in_its_own_namespaces(world: Arc<World>) -> Outcome {
    let mut config = with_users(world.pod("userns-sysctls"));
    let wanted = [("net.ipv4.ip_unprivileged_port_start", "77"), ("kernel.shm_rmid_forced", "1")];
    config.linux.as_mut().context("has it")?.sysctls =
        wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let sandbox = world.client.run(config).await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; \
                  echo 5 > /proc/sys/net/ipv4/ip_unprivileged_port_start 2>/dev/null || echo read-only";
    let text = world.client.shell(&id, script).await?;
    ensure!(text == "77\n1\nread-only\n", "{text}");
    world.client.end(&sandbox).await
}

pub(crate) async fn the_host_is_out_of_reach(world: Arc<World>) -> Outcome {
    let mut config = with_users(world.pod("userns-reach"));
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    context.context("has one")?.privileged = true;
    let sandbox = world.client.run(config).await?;
    // As free as a container can be: nothing but the ids stands between it and the host.
    let id = launch(&world.client, &sandbox, "c", &["/bin/sleep", "1000"], |_, security| {
        security.privileged = true;
        security.seccomp = None;
        security.no_new_privs = false;
    })
    .await?;
    ensure!(seen_from_outside(&world.client, &id, "Uid:").await?[0] == UID.to_string(), "runs as the host's root");
    // Its own namespaces are its own to change.
    world
        .client
        .shell(
            &id,
            "hostname mine && mount -t tmpfs none /tmp && umount /tmp && ip link set lo down && ip link set lo up",
        )
        .await?;
    // Files are only opened, lest a test that fails changes the machine.
    for attempt in [
        "exec 3>> /proc/sys/kernel/core_pattern",
        "exec 3>> /proc/sys/vm/drop_caches",
        "[ -e /proc/sysrq-trigger ] && exec 3>> /proc/sysrq-trigger",
        "mknod /tmp/mem c 1 1",
        "mount -t cgroup -o memory none /tmp",
        "(exec 3>> /sys/fs/cgroup/memory/cgroup.procs) || (exec 3>> /sys/fs/cgroup/cgroup.procs)",
        "for f in /sys/fs/cgroup/*/release_agent; do [ -e $f ] && (exec 3>> $f) && exit 0; done; exit 1",
        "for d in /dev/vda /dev/sda /dev/nvme0n1 /dev/mem /dev/kmsg; do [ -e $d ] && head -c 1 $d > /dev/null 2>&1 && exit 0; done; exit 1",
        "dmesg",
    ] {
        let (code, out, error) = world.client.exec(&id, &["/bin/sh", "-c", attempt]).await?;
        ensure!(code != 0, "`{attempt}` works: {out}{error}");
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn users_of_the_container_and_execs(world: Arc<World>) -> Outcome {
    let sandbox = sandbox(&world, "userns-users").await?;
    let script = "id; echo to-stdout > /dev/stdout; echo to-stderr > /dev/stderr; exec sleep 1000";
    let id = launch(&world.client, &sandbox, "c", &["/bin/sh", "-c", script], |_, security| {
        security.run_as_user = Some(cri::Int64Value { value: 1000 });
        security.run_as_group = Some(cri::Int64Value { value: 1001 });
        security.supplemental_groups = vec![7, 8];
    })
    .await?;
    let text = world.client.shell(&id, "id; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status").await?;
    ensure!(text.starts_with("uid=1000 gid=1001 groups=7,8"), "{text}");
    ensure!(
        text.contains("CapEff:\t0000000000000000") && text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2"),
        "{text}"
    );
    ensure!(seen_from_outside(&world.client, &id, "Uid:").await?[0] == (UID + 1000).to_string(), "another user");
    let log = world.log("userns-users", "c")?;
    ensure!(log.contains("uid=1000 gid=1001") && log.contains("to-stdout") && log.contains("to-stderr"), "{log}");
    // Somebody whom the namespace doesn't have.
    let refused = launch(&world.client, &sandbox, "d", &["/bin/true"], |_, security| {
        security.run_as_user = Some(cri::Int64Value { value: i64::from(LENGTH) });
    })
    .await
    .err()
    .context("it starts")?
    .to_string();
    ensure!(refused.contains("65536 is not in the pod's user namespace"), "{refused}");
    // Another user namespace than the pod's.
    let refused = launch(&world.client, &sandbox, "e", &["/bin/true"], |_, security| {
        if let Some(namespaces) = &mut security.namespace_options {
            let other = vec![cri::IdMapping { host_id: 5, container_id: 0, length: 10 }];
            namespaces.userns_options = Some(cri::UserNamespace { uids: other.clone(), gids: other, ..options() });
        }
    })
    .await
    .err()
    .context("it starts")?
    .to_string();
    ensure!(refused.contains("has the user namespace of its sandbox"), "{refused}");
    world.client.end(&sandbox).await
}

pub(crate) async fn what_cannot_be_is_refused_with_a_sentence(world: Arc<World>) -> Outcome {
    type Change = fn(&mut cri::NamespaceOption);
    let cases: [(&str, Change, &str); 5] = [
        ("network", |options| options.network = cri::NamespaceMode::Node as i32, "the host's network"),
        ("pid", |options| options.pid = cri::NamespaceMode::Node as i32, "the host's process ids"),
        ("ipc", |options| options.ipc = cri::NamespaceMode::Node as i32, "the host's IPC"),
        (
            "two",
            |options| {
                if let Some(user) = &mut options.userns_options {
                    user.uids.extend(mapping(5));
                }
            },
            "one each is supported",
        ),
        (
            "mode",
            |options| {
                if let Some(user) = &mut options.userns_options {
                    user.mode = cri::NamespaceMode::Container as i32;
                }
            },
            "the pod's (POD) or the host's (NODE)",
        ),
    ];
    for (name, change, expected) in cases {
        let mut config = with_users(world.pod(&format!("userns-refused-{name}")));
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        change(context.and_then(|context| context.namespace_options.as_mut()).context("has them")?);
        let error = world.client.run(config).await.err().with_context(|| format!("{name} is accepted"))?;
        let status = error.downcast_ref::<tonic::Status>().context("is a status")?;
        ensure!(status.code() == tonic::Code::InvalidArgument, "{name}: {status:?}");
        ensure!(status.message().contains(expected), "{name}: {status:?}");
    }
    Ok(())
}

pub(crate) async fn it_outlives_the_daemon(_: Arc<World>) -> Outcome {
    let mut node = Node::start(Options::default()).await?;
    let busybox = image::image(Dialect::Oci, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
    node.import(&image::archive(&busybox, BUSYBOX)?, BUSYBOX)?;
    let client = node.client().await?;
    let config = with_users(tests_integration::client::pod("userns-crash", &node.scratch().join("logs")));
    let sandbox = client.run(config).await?;
    let id = client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    node.kill()?;
    node.launch().await?;
    let client = node.client().await?;
    let text = client.shell(&id, "cat /proc/self/uid_map; stat -c %u /etc/hosts").await?;
    ensure!(text.contains(&UID.to_string()) && text.ends_with("\n0\n"), "{text}");
    // A new container joins the same namespace.
    let second = client.launch(&sandbox, "d", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    let namespace = |id: String| {
        let client = client.clone();
        async move { client.shell(&id, "readlink /proc/self/ns/user").await }
    };
    ensure!(namespace(id.clone()).await? == namespace(second).await?, "another user namespace");
    client.stop(&id, 0).await?;
    ensure!(client.status(&id).await?.exit_code == 137, "its end is not known");
    client.remove(&id).await?;
    client.end(&sandbox).await
}

pub(crate) async fn a_shared_process_namespace_and_a_read_only_root(world: Arc<World>) -> Outcome {
    let mut config = with_users(world.pod("userns-shared"));
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    context.and_then(|context| context.namespace_options.as_mut()).context("has them")?.pid =
        cri::NamespaceMode::Pod as i32;
    let sandbox = world.client.run(config).await?;
    let change = |_: &mut cri::ContainerConfig, security: &mut cri::LinuxContainerSecurityContext| {
        security.readonly_rootfs = true;
        if let Some(namespaces) = &mut security.namespace_options {
            namespaces.pid = cri::NamespaceMode::Pod as i32;
        }
    };
    let one = launch(&world.client, &sandbox, "one", &["/bin/sleep", "1001"], change).await?;
    launch(&world.client, &sandbox, "two", &["/bin/sleep", "1002"], change).await?;
    let text = world
        .client
        .shell(&one, "cat /proc/1/comm; ps | grep -c 'sleep 100[12]'; touch /x 2>/dev/null || echo read-only")
        .await?;
    ensure!(text == "pause\n3\nread-only\n" || text == "pause\n2\nread-only\n", "{text}");
    world.client.end(&sandbox).await
}

pub(crate) async fn a_container_sees_its_targets_processes(world: Arc<World>) -> Outcome {
    for users in [false, true] {
        let config = world.pod(if users { "target-users" } else { "target" });
        let sandbox = world.client.run(if users { with_users(config) } else { config }).await?;
        let target = world.client.launch(&sandbox, "app", BUSYBOX, &["/bin/sleep", "1003"]).await?;
        let aim = |id: String| {
            move |_: &mut cri::ContainerConfig, security: &mut cri::LinuxContainerSecurityContext| {
                if let Some(namespaces) = &mut security.namespace_options {
                    namespaces.pid = cri::NamespaceMode::Target as i32;
                    namespaces.target_id = id;
                }
            }
        };
        let debug = launch(&world.client, &sandbox, "debug", &["/bin/sleep", "1004"], aim(target.clone())).await?;
        let seen = world.client.shell(&debug, "cat /proc/1/cmdline | tr '\\0' ' '").await?;
        ensure!(seen == "/bin/sleep 1003 ", "PID 1 is {seen}");
        let seen = world.client.shell(&target, "ps").await?;
        ensure!(seen.contains("sleep 1004"), "the target doesn't see it: {seen}");
        // Not a container of another pod, none that isn't there, and none that has ended.
        let other = world.sandbox(if users { "target-other-users" } else { "target-other" }).await?;
        let stranger = world.client.launch(&other, "app", BUSYBOX, &["/bin/sleep", "1005"]).await?;
        let ended = world.client.launch(&sandbox, "short", BUSYBOX, &["/bin/true"]).await?;
        world.client.wait(&ended, Duration::from_secs(10)).await?;
        for (name, id, expected) in [
            ("stranger", stranger, tonic::Code::InvalidArgument),
            ("missing", "feedbeef".to_owned(), tonic::Code::NotFound),
            ("ended", ended, tonic::Code::FailedPrecondition),
        ] {
            let refused = launch(&world.client, &sandbox, name, &["/bin/true"], aim(id)).await;
            let error = refused.err().with_context(|| format!("{name} is accepted"))?;
            let status = error.downcast_ref::<tonic::Status>().context("is a status")?;
            ensure!(status.code() == expected, "{name}: {status:?}");
        }
        // When the target ends, so does its namespace with all who are in it.
        world.client.stop(&target, 0).await?;
        let status = world.client.wait(&debug, Duration::from_secs(10)).await?;
        ensure!(status.exit_code == 137, "the debugger ended with {}", status.exit_code);
        world.client.end(&sandbox).await?;
        world.client.end(&other).await?;
    }
    Ok(())
}

pub(crate) async fn a_container_may_join_or_leave_the_pods_processes(world: Arc<World>) -> Outcome {
    let mode = |mode: cri::NamespaceMode| {
        move |_: &mut cri::ContainerConfig, security: &mut cri::LinuxContainerSecurityContext| {
            if let Some(namespaces) = &mut security.namespace_options {
                namespaces.pid = mode as i32;
            }
        }
    };
    // Apart by default.
    let sandbox = world.sandbox("processes").await?;
    let own = launch(&world.client, &sandbox, "own", &["/bin/sleep", "1"], mode(cri::NamespaceMode::Container)).await?;
    let joined =
        launch(&world.client, &sandbox, "joined", &["/bin/sleep", "1000"], mode(cri::NamespaceMode::Pod)).await?;
    ensure!(world.client.shell(&joined, "cat /proc/1/comm").await? == "pause\n", "it is not in the pod's");
    world.client.wait(&own, Duration::from_secs(10)).await?;
    let refused = launch(&world.client, &sandbox, "host", &["/bin/true"], mode(cri::NamespaceMode::Node)).await;
    let refused = refused.err().context("it sees the host's processes")?.to_string();
    ensure!(refused.contains("the host's processes"), "{refused}");
    world.client.end(&sandbox).await?;
    // Shared by default.
    let mut config = world.pod("processes-shared");
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    context.and_then(|context| context.namespace_options.as_mut()).context("has them")?.pid =
        cri::NamespaceMode::Pod as i32;
    let sandbox = world.client.run(config).await?;
    let apart =
        launch(&world.client, &sandbox, "apart", &["/bin/sleep", "1000"], mode(cri::NamespaceMode::Container)).await?;
    ensure!(world.client.shell(&apart, "cat /proc/1/comm").await? == "sleep\n", "it is in the pod's");
    world.client.end(&sandbox).await
}
