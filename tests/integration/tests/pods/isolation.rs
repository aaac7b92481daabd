//! What a container sees and does not see, looked at from inside.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::Outcome;
use tests_integration::client::container;
use tests_integration::image::{self, Dialect, Entry, Packing};

use crate::{BUSYBOX, World};

async fn idle(world: &World, pod: &str) -> anyhow::Result<(tests_integration::client::Sandbox, String)> {
    let sandbox = world.sandbox(pod).await?;
    let id = world.client.launch(&sandbox, "c", BUSYBOX, &["/bin/sleep", "1000"]).await?;
    Ok((sandbox, id))
}

pub(crate) async fn namespaces_are_its_own(world: Arc<World>) -> Outcome {
    let (sandbox, id) = idle(&world, "namespaces").await?;
    let inside =
        world.client.shell(&id, "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done").await?;
    let kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];
    for (kind, inner) in kinds.iter().zip(inside.lines()) {
        let outer = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        ensure!(outer.to_string_lossy() != inner, "{kind} is the host's");
    }
    let mounts = world.client.shell(&id, "cat /proc/self/mountinfo").await?;
    for line in mounts.lines() {
        ensure!(!line.contains("shared:"), "a mount propagates out: {line}");
    }
    ensure!(world.client.shell(&id, "ps | grep -c '[s]leep 1000'").await?.trim() == "1", "it sees other processes");
    world.client.end(&sandbox).await
}

pub(crate) async fn capabilities_filter_and_no_new_privileges(world: Arc<World>) -> Outcome {
    let (sandbox, id) = idle(&world, "privileges").await?;
    // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP
    let default = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31].iter().fold(0_u64, |mask, bit| mask | 1 << bit);
    for place in ["/proc/1/status", "/proc/self/status"] {
        let status = world.client.shell(&id, &format!("cat {place}")).await?;
        let field = |name: &str| -> anyhow::Result<String> {
            let line =
                status.lines().find(|line| line.starts_with(name)).with_context(|| format!("{place} has no {name}"))?;
            Ok(line[name.len() + 1..].trim().to_owned())
        };
        for (name, mask) in
            [("CapInh", 0), ("CapAmb", 0), ("CapPrm", default), ("CapEff", default), ("CapBnd", default)]
        {
            ensure!(u64::from_str_radix(&field(name)?, 16)? == mask, "{place}: {name} is {}", field(name)?);
        }
        ensure!(field("NoNewPrivs")? == "1" && field("Seccomp")? == "2", "{place}: {status}");
    }
    for refused in ["mount -t tmpfs none /tmp", "unshare -U true", "swapoff -a", "dmesg", "reboot -f"] {
        let (code, out, err) = world.client.exec(&id, &["/bin/sh", "-c", refused]).await?;
        ensure!(code != 0, "`{refused}` is allowed: {out}{err}");
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn masked_and_read_only_paths(world: Arc<World>) -> Outcome {
    let (sandbox, id) = idle(&world, "paths").await?;
    for masked in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/acpi", "/proc/scsi"] {
        let read = format!(
            "[ ! -e {masked} ] || {{ [ -d {masked} ] && [ -z \"$(ls {masked})\" ]; }} || [ -z \"$(head -c 1 {masked})\" ]"
        );
        world.client.shell(&id, &read).await.with_context(|| format!("{masked} shows something"))?;
    }
    for refused in [
        "echo 1 > /proc/sys/kernel/panic",
        "echo h > /proc/sysrq-trigger",
        "touch /sys/x",
        "mkdir /sys/fs/cgroup/x",
        "umount /proc/kcore",
        "for f in /sys/fs/cgroup/*/release_agent; do echo x > $f && exit 0; done; exit 1",
    ] {
        let (code, ..) = world.client.exec(&id, &["/bin/sh", "-c", refused]).await?;
        ensure!(code != 0, "`{refused}` is allowed");
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn devices_are_the_default_ones(world: Arc<World>) -> Outcome {
    let (sandbox, id) = idle(&world, "devices").await?;
    let list = world.client.shell(&id, "cd /dev; ls").await?;
    let seen: BTreeSet<&str> = list.split_whitespace().collect();
    let expected = BTreeSet::from([
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ]);
    ensure!(seen.difference(&expected).all(|name| *name == "core") && expected.is_subset(&seen), "{seen:?}");
    let (code, ..) = world.client.exec(&id, &["/bin/sh", "-c", "mknod /tmp/m c 1 1 && cat /tmp/m | head -c 1"]).await?;
    let (opened, ..) = world.client.exec(&id, &["/bin/sh", "-c", "mknod /tmp/k c 10 232; head -c 1 /tmp/k"]).await?;
    ensure!(code != 0 || opened != 0, "/dev/mem or /dev/kvm can be opened");
    world.client.shell(&id, "echo x > /dev/null && [ \"$(stat -c %t:%T /dev/null)\" = 1:3 ] && [ \"$(df /dev/shm | tail -1 | awk '{print $2}')\" = 65536 ]").await?;
    world.client.end(&sandbox).await
}

pub(crate) async fn no_descriptor_is_inherited(world: Arc<World>) -> Outcome {
    let (sandbox, id) = idle(&world, "descriptors").await?;
    let first = world.client.shell(&id, "ls /proc/1/fd").await?;
    ensure!(first.split_whitespace().collect::<Vec<_>>() == ["0", "1", "2"], "the first process has {first}");
    // `ls` itself opens one directory: 3.
    let exec = world.client.shell(&id, "exec ls /proc/self/fd").await?;
    ensure!(exec.split_whitespace().collect::<Vec<_>>() == ["0", "1", "2", "3"], "an exec has {exec}");
    world.client.end(&sandbox).await
}

pub(crate) async fn the_network_files_are_there(world: Arc<World>) -> Outcome {
    let (sandbox, id) = idle(&world, "files").await?;
    let address = world.client.address(&sandbox).await?;
    let hosts = world.client.shell(&id, "cat /etc/hosts /etc/hostname").await?;
    ensure!(
        hosts.contains("127.0.0.1") && hosts.contains(&address) && hosts.lines().last() == Some("files"),
        "{hosts}"
    );
    world.client.shell(&id, "test -f /etc/resolv.conf").await?;
    world.client.end(&sandbox).await
}

pub(crate) async fn limits_are_set_before_the_first_instruction(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("limits").await?;
    let mut config = container("c", BUSYBOX, &["/bin/sh", "-c", "cat /proc/self/cgroup; sleep 1000"]);
    if let Some(linux) = config.linux.as_mut() {
        linux.resources = Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            ..Default::default()
        });
    }
    let id = world.client.create(&sandbox, config).await?;
    world.client.start(&id).await?;
    let find = |file: &str| -> anyhow::Result<String> {
        let root = if file.starts_with("memory") { "memory" } else { "cpu" };
        let found = tests_integration::machine::run(
            "find",
            &[&format!("/sys/fs/cgroup/{root}"), "-path", &format!("*{id}/{file}")],
        )?;
        let path = found.lines().next().with_context(|| format!("no {file} of {id}"))?.to_owned();
        Ok(std::fs::read_to_string(path)?.trim().to_owned())
    };
    if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        ensure!(find("memory.limit_in_bytes")? == (64 << 20).to_string(), "{}", find("memory.limit_in_bytes")?);
        ensure!(find("cpu.cfs_quota_us")? == "50000" && find("cpu.shares")? == "512", "{}", find("cpu.cfs_quota_us")?);
    }
    // Its own cgroup namespace: it sees itself at the root, not where it is on the host.
    let began = Instant::now();
    let log = loop {
        match world.log("limits", "c") {
            Ok(log) if log.contains(":/") => break log,
            told => ensure!(began.elapsed() < Duration::from_secs(30), "it does not tell its group: {told:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    ensure!(!log.contains(&id), "the container sees its place on the host: {log}");
    world.client.end(&sandbox).await
}

pub(crate) async fn the_pause_process_holds_nothing(world: Arc<World>) -> Outcome {
    let mut config = world.pod("pause");
    if let Some(options) = config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut())
        .and_then(|context| context.namespace_options.as_mut())
    {
        options.pid = cri::NamespaceMode::Pod as i32;
    }
    let sandbox = world.client.run(config).await?;
    let mut config = container("c", BUSYBOX, &["/bin/sh", "-c", "(sleep 0.2 &) ; sleep 1000"]);
    if let Some(context) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        context.capabilities =
            Some(cri::Capability { add_capabilities: vec!["SYS_PTRACE".into()], ..Default::default() });
        if let Some(options) = context.namespace_options.as_mut() {
            options.pid = cri::NamespaceMode::Pod as i32;
        }
    }
    let id = world.client.create(&sandbox, config).await?;
    world.client.start(&id).await?;
    let status = world.client.shell(&id, "cat /proc/1/status").await?;
    ensure!(
        status.contains("65535")
            && status.contains("CapPrm:\t0000000000000000")
            && status.contains("NoNewPrivs:\t1")
            && status.contains("Seccomp:\t2"),
        "{status}"
    );
    let held = world
        .client
        .exec(&id, &["/bin/sh", "-c", "ls /proc/1/fd; ls -A /proc/1/root/; tr '\\0' '\\n' < /proc/1/environ"])
        .await?;
    ensure!(held.1.is_empty(), "the pause process holds {}", held.1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let zombies = world.client.shell(&id, "ps -o stat | grep -c '^Z' || true").await?;
    ensure!(zombies.trim() == "0", "{zombies} zombies: the pause process does not reap");
    world.client.end(&sandbox).await
}

pub(crate) async fn a_hostile_root_leads_nowhere(world: Arc<World>) -> Outcome {
    let canary = tempfile::tempdir()?;
    let place = canary.path().display().to_string();
    for (number, name) in
        ["dev", "proc", "sys", "etc", "dev/pts", "dev/shm", "etc/resolv.conf", "etc/hosts"].into_iter().enumerate()
    {
        let mut entries = image::busybox()?;
        entries.retain(|entry| match entry {
            Entry::Directory(entry, _) | Entry::File(entry, ..) | Entry::Owned(entry, ..) => {
                !(*entry == name || entry.starts_with(&format!("{name}/")))
            }
            Entry::Link(..) => true,
        });
        entries.push(Entry::Link(name.to_owned(), place.clone()));
        let image = image::image(Dialect::Oci, &[(Packing::Gzip, entries)], &["/bin/sh"])?;
        let reference = format!("podwright.test/hostile:{number}");
        world.node.import(&image::archive(&image, &reference)?, &reference)?;
        let sandbox = world.sandbox(&format!("hostile{number}")).await?;
        // Refused or contained, both are right; what counts is the canary.
        if let Ok(id) = world
            .client
            .launch(&sandbox, "c", &reference, &["/bin/sh", "-c", "echo x > /etc/hosts; echo x > /dev/x; true"])
            .await
        {
            let _ = world.client.wait(&id, Duration::from_secs(5)).await;
        }
        world.client.end(&sandbox).await?;
        let found: Vec<_> = std::fs::read_dir(&canary)?.flatten().map(|entry| entry.path()).collect();
        ensure!(found.is_empty(), "/{name} as a link led to the host: {found:?}");
    }
    Ok(())
}

/// Each field of a sandbox's security context that is about its own process, asking for something else than there is.
fn asked_of_the_sandbox() -> Vec<(&'static str, cri::LinuxSandboxSecurityContext)> {
    let nothing = cri::LinuxSandboxSecurityContext::default;
    let number = |value| Some(cri::Int64Value { value });
    let profile = |kind: cri::security_profile::ProfileType, name: &str| {
        Some(cri::SecurityProfile { profile_type: kind as i32, localhost_ref: name.to_owned() })
    };
    let (unconfined, localhost) =
        (cri::security_profile::ProfileType::Unconfined, cri::security_profile::ProfileType::Localhost);
    let level = cri::SeLinuxOption { level: "s0:c7,c8".to_owned(), ..Default::default() };
    #[expect(deprecated, reason = "what older clients send")]
    let old = cri::LinuxSandboxSecurityContext { seccomp_profile_path: "unconfined".to_owned(), ..nothing() };
    vec![
        ("selinux-options", cri::LinuxSandboxSecurityContext { selinux_options: Some(level), ..nothing() }),
        ("run-as-user", cri::LinuxSandboxSecurityContext { run_as_user: number(0), ..nothing() }),
        (
            "run-as-group",
            cri::LinuxSandboxSecurityContext { run_as_user: number(1234), run_as_group: number(1235), ..nothing() },
        ),
        ("readonly-rootfs", cri::LinuxSandboxSecurityContext { readonly_rootfs: true, ..nothing() }),
        ("supplemental-groups", cri::LinuxSandboxSecurityContext { supplemental_groups: vec![77, 78], ..nothing() }),
        (
            "groups-policy",
            cri::LinuxSandboxSecurityContext {
                supplemental_groups: vec![77],
                supplemental_groups_policy: cri::SupplementalGroupsPolicy::Strict as i32,
                ..nothing()
            },
        ),
        ("seccomp", cri::LinuxSandboxSecurityContext { seccomp: profile(unconfined, ""), ..nothing() }),
        ("apparmor", cri::LinuxSandboxSecurityContext { apparmor: profile(localhost, "no-such-profile"), ..nothing() }),
        ("seccomp-path", old),
    ]
}

/// Pause's, and then its container's: ids, groups, rights, filter, label, and whether its root can be written.
const SEEN: &str = "for p in 1 self; do grep -E '^(Uid|Gid|Groups|CapPrm|NoNewPrivs|Seccomp):' /proc/$p/status; \
                    cat /proc/$p/attr/current 2>/dev/null | tr -d '\\0'; \
                    grep -q '^[^ ]* [^ ]* [^ ]* / / ro' /proc/$p/mountinfo && echo read-only; done; ls -A /proc/1/root/";

pub(crate) async fn a_sandboxs_own_process_is_the_same_whatever_is_asked_of_it(world: Arc<World>) -> Outcome {
    let asked = [("nothing", cri::LinuxSandboxSecurityContext::default())].into_iter().chain(asked_of_the_sandbox());
    let mut usual = None;
    for (name, mut context) in asked {
        let mut config = world.pod(&format!("asked-{name}"));
        let shared = cri::NamespaceOption { pid: cri::NamespaceMode::Pod as i32, ..Default::default() };
        context.namespace_options = Some(shared.clone());
        config.linux.get_or_insert_default().security_context = Some(context);
        let sandbox = world.client.run(config).await?;
        let mut config = container("c", BUSYBOX, &["/bin/sleep", "1000"]);
        if let Some(context) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            context.capabilities =
                Some(cri::Capability { add_capabilities: vec!["SYS_PTRACE".into()], ..Default::default() });
            context.namespace_options = Some(shared);
        }
        let id = world.client.create(&sandbox, config).await?;
        world.client.start(&id).await?;
        let seen = world.client.shell(&id, SEEN).await?;
        match &usual {
            None => {
                let pause = ["Uid:\t65535\t", "Gid:\t65535\t", "Groups:\t \n", "CapPrm:\t0000000000000000\n"];
                let at = |word: &&str| !seen.contains(*word);
                let missing: Vec<_> = pause
                    .iter()
                    .chain(&["NoNewPrivs:\t1\nSeccomp:\t2\n", "read-only\n"])
                    .filter(|word| at(word))
                    .collect();
                ensure!(missing.is_empty() && seen.contains("Uid:\t0\t"), "{missing:?} not in {seen}");
                ensure!(seen.matches("read-only").count() == 1, "pause's root alone is read-only: {seen}");
                usual = Some(seen);
            }
            Some(usual) => ensure!(seen == *usual, "{name}: {seen}\nand not\n{usual}"),
        }
        world.client.end(&sandbox).await?;
    }
    Ok(())
}
