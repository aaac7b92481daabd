//! One container on its own.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use runtime_oci::{ErrorKind, Joins, Progress, SeccompChoice, Stdio, StopBefore, prepare};
use runtime_sys::process::{Ended, Limit, Resource, resource_limit, set_resource_limit, wait};
use runtime_sys::sync::readable;
use serde_json::{Value, json};

use crate::Test;
use crate::support::{Fixture, Running, drive, overlay, parse, pipes, process, run, spec, start};

pub(crate) const TESTS: &[Test] = &[
    ("a_program_runs_and_its_code_arrives", code),
    ("isolation_as_seen_from_inside", isolation),
    ("devices_are_six_and_the_group_denies_the_rest", devices),
    ("masked_and_read_only", masked),
    ("capabilities_are_the_fourteen", capabilities),
    ("a_user_without_rights", user),
    ("the_root_can_be_read_only", read_only_root),
    ("binds_follow_their_options", binds),
    ("links_of_the_image_lead_nowhere", hostile_links),
    ("a_volume_that_changes_under_the_mount", race),
    ("procfs_is_not_covered", over_proc),
    ("a_program_that_is_not_there", cannot_execute),
    ("a_missing_source_is_named", missing_source),
    ("the_hosts_null_device_is_out_of_reach", null),
    ("five_hundred_mounts_with_256_descriptors", many_mounts),
    ("a_group_frozen_from_within_is_killed", frozen),
    ("exec_joins_and_leaves_no_group", exec),
    ("a_terminal_of_its_own", terminal),
    ("create_waits_for_the_start", create),
    ("a_fork_storm_is_killed_whole", storm),
    ("out_of_memory_is_counted", oom),
    ("limits_stand_before_the_program", limits),
    ("rlimits_and_oom_score_are_clamped", clamped),
    ("short_names_mount_a_long_overlay", long_names),
    ("abandoned_before_the_end", abandoned),
    ("how_fast", speed),
];

/// One container, whatever comes of it.
pub(crate) fn warm_up() {
    let this = Fixture::new();
    if let Ok(running) = start(&this, &spec(&this, "true"), SeccompChoice::RuntimeDefault, Joins::default()) {
        drop(running.finish());
    }
}

fn code() {
    let this = Fixture::new();
    let outcome = run(&this, &spec(&this, "echo hello; exit 7"));
    assert_eq!((outcome.output.as_str(), outcome.ended), ("hello\n", Ended::Exited(7)));
    let outcome = run(&this, &spec(&this, "kill -9 $$; sleep 5"));
    // PID 1 of its namespace can't kill itself: the shell goes on, as under any runtime.
    assert_eq!(outcome.ended, Ended::Exited(0));
}

fn isolation() {
    let this = Fixture::new();
    let script = "echo pid $$; umask; ls /proc/self/fd; cat /proc/self/mountinfo; echo SESSION; \
                  cat /proc/self/stat; grep -E 'Seccomp:|NoNewPrivs:|SigIgn|SigBlk|Groups' /proc/self/status; pwd; cat /proc/self/cgroup";
    let mut value = spec(&this, script);
    value["process"]["noNewPrivileges"] = json!(true);
    let text = run(&this, &value).output;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "pid 1");
    assert_eq!(lines[1], "0022");
    // ls itself opens one more.
    assert_eq!(lines[2..6], ["0", "1", "2", "3"], "{text}");
    let mounts: Vec<&str> = lines[6..].iter().take_while(|line| **line != "SESSION").copied().collect();
    for mount in &mounts {
        assert!(!mount.contains("shared:") && !mount.contains("master:"), "{mount}");
        assert!(!mount.contains("/dev/vda") && !mount.contains(" /mask ") && !mount.contains(" /root "), "{mount}");
    }
    assert!(text.contains("Seccomp:\t2") && text.contains("NoNewPrivs:\t1"), "{text}");
    assert!(text.contains("SigIgn:\t0000000000000000") && text.contains("SigBlk:\t0000000000000000"), "{text}");
    assert!(text.lines().any(|line| line.ends_with(":pids:/") || line == "0::/"), "{text}");
}

fn devices() {
    let this = Fixture::new();
    let script = "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' $d; done; ls /dev | tr '\\n' ' '; \
                  stat -c %N /dev/ptmx /dev/fd; mknod /tmp/mem c 1 1 && echo made; cat /tmp/mem 2>&1; dd if=/dev/zero bs=1 count=1 2>/dev/null | \
                  tr '\\000' z";
    let text = run(&this, &spec(&this, script)).output;
    for line in ["null character special file 1:3 666", "tty character special file 5:0 666"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.contains("fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"), "{text}");
    assert!(text.contains("made\n") && text.contains("/tmp/mem': Operation not permitted"), "{text}");
    assert!(text.ends_with('z'), "{text}");
}

fn masked() {
    let this = Fixture::new();
    let script = "cat /proc/keys; stat -c '%t:%T' /proc/keys; ls /sys/firmware; mount -o remount,rw /proc/sys; echo 1 > /proc/sys/kernel/shmmax; \
                  echo x > /sys/fs/cgroup/pids/notify_on_release || echo x > /sys/fs/cgroup/cgroup.procs; mount -t tmpfs x /tmp";
    let mut value = spec(&this, script);
    let text = run(&this, &value).output;
    assert!(text.starts_with("1:3\n"), "{text}");
    assert!(text.matches("Read-only file system").count() >= 2, "{text}");
    assert_eq!(text.matches("permission denied").count(), 2, "{text}");
    // It is the list that masks, nothing else.
    value["linux"]["maskedPaths"] = json!([]);
    let text = run(&this, &value).output;
    assert!(!text.starts_with("1:3\n"), "{text}");
}

fn capabilities() {
    let this = Fixture::new();
    let mut value = spec(&this, "grep ^Cap /proc/self/status");
    let sets = |text: &str| -> Vec<u64> {
        let number = |line: &str| u64::from_str_radix(line.split('\t').nth(1).expect("a number"), 16).expect("hex");
        text.lines().map(number).collect()
    };
    const FOURTEEN: u64 = 0xa804_25fb;
    assert_eq!(sets(&run(&this, &value).output), [0, FOURTEEN, FOURTEEN, FOURTEEN, 0]);
    value["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(sets(&run(&this, &value).output), [0, 0, 0, FOURTEEN, 0]);
    value["process"]["capabilities"] = Value::Null;
    assert_eq!(sets(&run(&this, &value).output), [0; 5]);
    value["process"]["capabilities"] = json!({
        "bounding": ["CAP_NET_RAW"], "effective": ["CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"], "ambient": ["CAP_NET_RAW"]
    });
    assert_eq!(sets(&run(&this, &value).output), [1 << 13; 5]);
}

fn user() {
    let this = Fixture::new();
    let mut value = spec(&this, "id; echo out > /dev/stdout; echo err > /dev/stderr; umask");
    value["process"]["user"] = json!({"uid": 1000, "gid": 2000, "additionalGids": [3000, 4000], "umask": 0o27});
    let text = run(&this, &value).output;
    assert_eq!(text, "uid=1000 gid=2000 groups=3000,4000\nout\nerr\n0027\n");
}

fn read_only_root() {
    let this = Fixture::new();
    let mut value = spec(&this, "echo x > /tmp/file; echo $?; echo y > /dev/shm/file && cat /dev/shm/file; pwd");
    value["root"]["readonly"] = json!(true);
    value["process"]["cwd"] = json!("/made/for/it");
    let text = run(&this, &value).output;
    assert!(text.contains("Read-only file system") && text.ends_with("1\ny\n/made/for/it\n"), "{text}");
}

fn binds() {
    let this = Fixture::new();
    fs::create_dir_all(this.path("volume")).expect("makes");
    fs::write(this.path("volume/file"), "content\n").expect("writes");
    let mut value =
        spec(&this, "cat /data/file /etc/only; echo x > /data/file; echo y > /ro/file; grep /ro /proc/self/mountinfo");
    let mounts = value["mounts"].as_array_mut().expect("a list");
    for (target, source, options) in [
        ("/data", "volume", json!(["rbind", "rw", "rslave"])),
        ("/ro", "volume", json!(["rbind", "ro", "nosuid"])),
        ("/etc/only", "volume/file", json!(["bind", "ro"])),
    ] {
        mounts.push(json!({"destination": target, "type": "bind", "source": this.path(source), "options": options}));
    }
    let text = run(&this, &value).output;
    assert!(text.starts_with("content\ncontent\n") && text.contains("/ro/file: Read-only"), "{text}");
    assert!(text.contains("ro,nosuid"), "{text}");
    assert_eq!(fs::read_to_string(this.path("volume/file")).expect("reads"), "x\n");
}

fn hostile_links() {
    for name in ["dev", "dev/null", "dev/console", "dev/pts", "dev/shm", "sys", "etc/hosts", "data", "proc"] {
        let this = Fixture::new();
        let canary = this.path("canary");
        fs::create_dir_all(&canary).expect("makes");
        fs::write(canary.join("file"), "untouched").expect("writes");
        let place = this.lower().join(name);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).expect("makes");
        }
        let up = format!("../../../../../../../..{}", canary.display());
        symlink(&up, &place).expect("links");
        fs::write(this.path("volume"), "v").expect("writes");
        let mut value = spec(&this, "true");
        let mounts = value["mounts"].as_array_mut().expect("a list");
        for target in ["/etc/hosts", "/data/file"] {
            let source = this.path("volume");
            mounts.push(json!({"destination": target, "type": "bind", "source": source, "options": ["bind"]}));
        }
        match start(&this, &value, SeccompChoice::RuntimeDefault, Joins::default()) {
            Ok(running) => drop(running.finish()),
            Err(error) => assert!(["proc", "sys"].contains(&name), "{name}: {error}"),
        }
        let left: Vec<_> = fs::read_dir(&canary).expect("reads").map(|e| e.expect("reads").file_name()).collect();
        assert_eq!(left, ["file"], "{name}");
        assert_eq!(fs::read_to_string(canary.join("file")).expect("reads"), "untouched", "{name}");
    }
}

/// CVE-2021-30465 and CVE-2024-45310: somebody who shares a volume swaps a directory of it with a link while another
/// container mounts below it.
fn race() {
    let this = Fixture::new();
    let (volume, canary) = (this.path("volume"), this.path("canary"));
    fs::create_dir_all(volume.join("a")).expect("makes");
    fs::create_dir_all(&canary).expect("makes");
    symlink(format!("../../../../../../../..{}", canary.display()), volume.join("link")).expect("links");
    fs::write(this.path("file"), "f").expect("writes");
    let attacker = runtime_sys::process::clone3(runtime_sys::process::Namespaces::NONE, None, || {
        let at = |name: &str| volume.join(name);
        loop {
            for (from, to) in [("a", "aside"), ("link", "a"), ("a", "link"), ("aside", "a")] {
                let _ = fs::rename(at(from), at(to));
            }
        }
    })
    .expect("clones");
    let mut value = spec(&this, "true");
    let mounts = value["mounts"].as_array_mut().expect("a list");
    mounts.push(json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind", "rw"]}));
    mounts.push(
        json!({"destination": "/vol/a/sub/file", "type": "bind", "source": this.path("file"), "options": ["bind"]}),
    );
    let mut mounted = 0;
    for _ in 0..100 {
        if let Ok(running) = start(&this, &value, SeccompChoice::RuntimeDefault, Joins::default()) {
            drop(running.finish());
            mounted += 1;
        }
    }
    runtime_sys::process::pidfd_send_signal(attacker.pidfd.as_fd(), 9).expect("kills");
    wait(attacker.pidfd.as_fd()).expect("waits");
    assert_eq!(fs::read_dir(&canary).expect("reads").count(), 0, "{mounted} of 100 mounted");
    assert!(mounted > 0, "some must come through");
}

fn over_proc() {
    let this = Fixture::new();
    fs::write(this.path("volume"), "v").expect("writes");
    for target in ["/proc/self/attr", "/proc/../proc/sys", "/proc", "/"] {
        let mut value = spec(&this, "true");
        let mount = json!({"destination": target, "type": "bind", "source": this.path("volume"), "options": ["bind"]});
        value["mounts"].as_array_mut().expect("a list").push(mount);
        let error = start(&this, &value, SeccompChoice::Unconfined, Joins::default()).err().expect("refuses");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{target}: {error}");
    }
    // A link of the image that leads into procfs.
    symlink("/proc/self", this.lower().join("way")).expect("links");
    let mut value = spec(&this, "true");
    let mount =
        json!({"destination": "/way/environ", "type": "bind", "source": this.path("volume"), "options": ["bind"]});
    value["mounts"].as_array_mut().expect("a list").push(mount);
    let error = start(&this, &value, SeccompChoice::Unconfined, Joins::default()).err().expect("refuses");
    assert!(error.to_string().contains("/way/environ"), "{error}");
}

fn cannot_execute() {
    let this = Fixture::new();
    fs::write(this.lower().join("bin/text"), "no magic").expect("writes");
    let check = |program: &str, text: &str| {
        let mut value = spec(&this, "");
        value["process"]["args"] = json!([program]);
        let error = start(&this, &value, SeccompChoice::RuntimeDefault, Joins::default()).err().expect("fails");
        assert_eq!(error.kind(), ErrorKind::CannotExecute, "{error}");
        assert_eq!(error.to_string(), format!("cannot execute {program:?} in the container: {text}"));
    };
    check("/bin/nope", "no such file or directory");
    check("nope", "no such file or directory");
    check("/bin/text", "permission denied");
}

fn missing_source() {
    let this = Fixture::new();
    let mut value = spec(&this, "true");
    let mount = json!({"destination": "/data", "type": "bind", "source": "/no/such/place", "options": ["rbind"]});
    value["mounts"].as_array_mut().expect("a list").push(mount);
    let error = start(&this, &value, SeccompChoice::RuntimeDefault, Joins::default()).err().expect("fails");
    assert_eq!(error.to_string(), "mount source \"/no/such/place\": no such file or directory");
}

fn exec() {
    let this = Fixture::new();
    let value = spec(&this, "sleep 1000");
    let running = start(&this, &value, SeccompChoice::RuntimeDefault, Joins::default()).expect("starts");
    let outcome = running
        .exec(
            "one",
            &process("echo in $$; cat /proc/1/comm; grep Seccomp: /proc/self/status; cat /proc/self/cgroup; exit 3"),
        )
        .expect("runs");
    assert_eq!(outcome.ended, Ended::Exited(3), "{}", outcome.output);
    assert!(outcome.output.contains("sleep\n") && outcome.output.contains("Seccomp:\t2"), "{}", outcome.output);
    assert!(
        outcome.output.contains(":freezer:/exec-one") || outcome.output.contains("0::/exec-one"),
        "{}",
        outcome.output
    );
    let error = running.exec("two", &{
        let mut process = process("");
        process["args"] = json!(["nope"]);
        process
    });
    assert_eq!(error.err().expect("fails").kind(), ErrorKind::CannotExecute);
    let mut outside = process("pwd");
    outside["cwd"] = json!("/proc/self/fd/7");
    assert!(running.exec("three", &outside).is_err());
    running.cgroup.kill_all().expect("kills");
    wait(running.process.pidfd.as_fd()).expect("waits");
    assert_eq!(running.exec("four", &process("true")).err().expect("fails").kind(), ErrorKind::Gone);
    running.cgroup.remove().expect("removes");
}

fn terminal() {
    use std::io::Read;
    let this = Fixture::new();
    let script = "stat -c %N /proc/self/fd/0; ls -l /dev/console; echo $(stty size 2>/dev/null); echo done";
    let spec = parse(&spec(&this, script));
    let lowers = [this.path("top"), this.lower()];
    let paths = (this.path("upper"), this.path("work"));
    let input = runtime_oci::Input {
        id: "c",
        spec: &spec,
        root: overlay(&this, &lowers, &paths),
        seccomp: SeccompChoice::RuntimeDefault,
        joins: Joins::default(),
        volumes: runtime_oci::Volumes::default(),
    };
    let prepared = prepare(input).expect("prepares");
    let cgroup = prepared.cgroup();
    let size = Some(runtime_sys::pty::WindowSize { rows: 24, columns: 80 });
    let mut launching = prepared.launch(Stdio::Terminal { size }, StopBefore::Nothing).expect("launches");
    let process = drive(&mut launching).expect("runs");
    let mut master = fs::File::from(launching.take_terminal().expect("has a terminal"));
    let mut text = Vec::new();
    let mut part = [0; 1024];
    // The slave's last close is EIO at the master.
    while let Ok(count) = master.read(&mut part) {
        text.extend_from_slice(&part[..count]);
    }
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("/dev/pts/0") && text.contains("/dev/console") && text.contains("done"), "{text}");
    wait(process.pidfd.as_fd()).expect("waits");
    cgroup.remove().expect("removes");
}

fn create() {
    let this = Fixture::new();
    let spec = parse(&spec(&this, "echo started"));
    let lowers = [this.path("top"), this.lower()];
    let paths = (this.path("upper"), this.path("work"));
    let input = runtime_oci::Input {
        id: "c",
        spec: &spec,
        root: overlay(&this, &lowers, &paths),
        seccomp: SeccompChoice::RuntimeDefault,
        joins: Joins::default(),
        volumes: runtime_oci::Volumes::default(),
    };
    let prepared = prepare(input).expect("prepares");
    let cgroup = prepared.cgroup();
    let (stdio, output) = pipes();
    let mut launching = prepared.launch(stdio, StopBefore::Exec).expect("launches");
    while !matches!(launching.advance(), Progress::Blocked) {
        assert!(readable(launching.descriptor(), Duration::from_secs(10)).expect("polls"));
    }
    assert_eq!(cgroup.pids().expect("lists"), [launching.pid()]);
    assert!(!readable(output.as_fd(), Duration::from_millis(50)).expect("polls"), "it waits");
    launching.proceed();
    let process = drive(&mut launching).expect("runs");
    let running = Running { process, cgroup, output, seccomp: None, warnings: Vec::new(), users: None };
    assert_eq!(running.finish().output, "started\n");
}

fn storm() {
    let this = Fixture::new();
    let mut value = spec(&this, "f() { while true; do f & sleep 0; done; }; f 2>/dev/null");
    value["linux"]["resources"] = json!({"pids": {"limit": 60}});
    let running = start(&this, &value, SeccompChoice::RuntimeDefault, Joins::default()).expect("starts");
    let begun = Instant::now();
    // At its limit the storm may break down by itself, so what counts is that it was there.
    while running.cgroup.pids().expect("lists").len() < 40 {
        assert!(begun.elapsed() < Duration::from_secs(10), "no storm");
        std::thread::yield_now();
    }
    let begun = Instant::now();
    while !running.cgroup.is_empty().expect("lists") {
        running.cgroup.kill_all().expect("kills");
        let _ = runtime_sys::process::reap(running.process.pidfd.as_fd());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?} stay", running.cgroup.pids());
    }
    // The first process leaves its cgroup before it can be reaped: gone from there is not ended. ECHILD: the loop had it.
    let _ = runtime_sys::process::wait(running.process.pidfd.as_fd());
    running.cgroup.remove().expect("removes");
}

/// Root in a container owns the host's node too, wherever it gets hold of it: as a masked file, as a stream.
fn null() {
    let this = Fixture::new();
    let mode = || fs::metadata("/dev/null").expect("looks").permissions().mode() & 0o7777;
    let before = mode();
    let script = "chmod 1666 /proc/self/fd/0; sleep 60";
    let running = start(&this, &spec(&this, script), SeccompChoice::RuntimeDefault, Joins::default()).expect("starts");
    let execed = running.exec(
        "e1",
        &process("chmod 1666 /proc/keys /proc/timer_list /proc/self/fd/0 2>/dev/null; stat -c %t:%T:%a /dev/null"),
    );
    let after = mode();
    fs::set_permissions("/dev/null", fs::Permissions::from_mode(before)).expect("as it was");
    running.kill();
    assert_eq!(execed.expect("runs").output, "1:3:1666\n");
    assert_eq!(format!("{after:o}"), format!("{before:o}"));
}

fn many_mounts() {
    const COUNT: usize = 500;
    let this = Fixture::new();
    fs::create_dir_all(this.path("volume")).expect("makes");
    let mut value = spec(&this, "grep -c ' /m/' /proc/self/mountinfo; cat /m/0/file /m/499/file");
    fs::write(this.path("volume/file"), "v\n").expect("writes");
    let mounts = value["mounts"].as_array_mut().expect("a list");
    for number in 0..COUNT {
        let (target, source) = (format!("/m/{number}"), this.path("volume"));
        mounts.push(json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "ro"]}));
    }
    let files = Resource::named("RLIMIT_NOFILE").expect("is one");
    let before = resource_limit(files).expect("reads");
    set_resource_limit(files, Limit { soft: 256, ..before }).expect("sets");
    let started = start(&this, &value, SeccompChoice::RuntimeDefault, Joins::default());
    set_resource_limit(files, before).expect("sets back");
    assert_eq!(started.expect("starts").finish().output, "500\nv\nv\n");
}

fn frozen() {
    let this = Fixture::new();
    let value = spec(&this, "sleep 1000");
    let running = start(&this, &value, SeccompChoice::RuntimeDefault, Joins::default()).expect("starts");
    let (execed, leaf) = running.begin_exec("e1", &process("sleep 1000"));
    leaf.freeze().expect("freezes");
    running.cgroup.freeze().expect("freezes");
    let begun = Instant::now();
    while !running.cgroup.is_empty().expect("lists") {
        running.cgroup.kill_all().expect("kills");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?} stay", running.cgroup.pids());
    }
    // The first process of a namespace ends when the others are reaped.
    for process in [&execed, &running.process] {
        assert_eq!(wait(process.pidfd.as_fd()).expect("waits"), Ended::Signalled(9));
    }
    running.cgroup.remove().expect("removes");
}

fn oom() {
    let this = Fixture::new();
    let mut value = spec(&this, "dd if=/dev/zero of=/dev/null bs=64M count=1; echo code $?");
    value["linux"]["resources"] = json!({"memory": {"limit": 8 * 1024 * 1024, "swap": 8 * 1024 * 1024}});
    let running = start(&this, &value, SeccompChoice::RuntimeDefault, Joins::default()).expect("starts");
    let cgroup = running.cgroup.clone();
    assert!(readable(running.process.pidfd.as_fd(), Duration::from_secs(20)).expect("polls"));
    assert!(cgroup.oom_killed().expect("reads"));
    drop(running.finish());
    assert!(!cgroup.oom_killed().expect("a group that is gone says no"));
}

fn limits() {
    let this = Fixture::new();
    let mut value = spec(
        &this,
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.weight",
    );
    value["linux"]["resources"] =
        json!({"pids": {"limit": 33}, "memory": {"limit": 33_554_432}, "cpu": {"shares": 512}});
    let text = run(&this, &value).output;
    assert!(["33\n33554432\n512\n", "33\n33554432\n20\n"].contains(&text.as_str()), "{text}");
}

fn clamped() {
    let this = Fixture::new();
    let mut value = spec(&this, "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj");
    value["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 256, "hard": 4_000_000_000u64}]);
    value["process"]["oomScoreAdj"] = json!(-999);
    let outcome = run(&this, &value);
    let lines: Vec<&str> = outcome.output.lines().collect();
    assert_eq!(lines[0], "256");
    if lines[1] != "4000000000" {
        assert_eq!(outcome.warnings.len(), 2, "{:?}", outcome.warnings);
        assert!(outcome.warnings[0].contains("oom_score_adj") && outcome.warnings[1].contains("RLIMIT_NOFILE"));
    }
}

fn long_names() {
    let this = Fixture::new();
    let long = this.path(&["x".repeat(120), "y".repeat(120), "z".repeat(60)].join("/"));
    fs::create_dir_all(long.join("etc")).expect("makes");
    fs::write(long.join("etc/long"), "from a long path\n").expect("writes");
    let spec = parse(&spec(&this, "cat /etc/long"));
    let lowers = [long, this.path("top"), this.lower()];
    let paths = (this.path("upper"), this.path("work"));
    let input = runtime_oci::Input {
        id: "c",
        spec: &spec,
        root: overlay(&this, &lowers, &paths),
        seccomp: SeccompChoice::RuntimeDefault,
        joins: Joins::default(),
        volumes: runtime_oci::Volumes::default(),
    };
    let prepared = prepare(input).expect("prepares");
    let cgroup = prepared.cgroup();
    let (stdio, output) = pipes();
    let mut launching = prepared.launch(stdio, StopBefore::Nothing).expect("launches");
    let process = drive(&mut launching).expect("runs");
    let running = Running { process, cgroup, output, seccomp: None, warnings: Vec::new(), users: None };
    assert_eq!(running.finish().output, "from a long path\n");
}

fn abandoned() {
    let this = Fixture::new();
    let spec = parse(&spec(&this, "true"));
    let lowers = [this.path("top"), this.lower()];
    let paths = (this.path("upper"), this.path("work"));
    let input = runtime_oci::Input {
        id: "c",
        spec: &spec,
        root: overlay(&this, &lowers, &paths),
        seccomp: SeccompChoice::RuntimeDefault,
        joins: Joins::default(),
        volumes: runtime_oci::Volumes::default(),
    };
    let prepared = prepare(input).expect("prepares");
    let cgroup = prepared.cgroup();
    let (stdio, _output) = pipes();
    let launching = prepared.launch(stdio, StopBefore::Exec).expect("launches");
    if let Some(process) = launching.abandon() {
        wait(process.pidfd.as_fd()).expect("waits");
    }
    cgroup.remove().expect("removes");
}

/// Prints; asserts only what a loaded machine keeps as well.
fn speed() {
    let this = Fixture::new();
    let mut launches = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let running =
            start(&this, &spec(&this, "sleep 100"), SeccompChoice::RuntimeDefault, Joins::default()).expect("starts");
        launches.push(begun.elapsed());
        running.kill();
    }
    launches.sort();
    let running =
        start(&this, &spec(&this, "sleep 100"), SeccompChoice::RuntimeDefault, Joins::default()).expect("starts");
    let mut execs = Vec::new();
    for number in 0..50 {
        let begun = Instant::now();
        let mut command = process("");
        command["args"] = json!(["/bin/true"]);
        running.exec(&format!("n{number}"), &command).expect("runs");
        execs.push(begun.elapsed());
    }
    execs.sort();
    running.kill();
    eprintln!(
        "container: {:?} at best, {:?} in the middle; exec and wait: {:?}, {:?}",
        launches[0], launches[10], execs[0], execs[25]
    );
    assert!(launches[10] < Duration::from_millis(500) && execs[25] < Duration::from_millis(200));
}
