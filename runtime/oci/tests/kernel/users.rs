//! Pods with a user namespace.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::time::Instant;

use runtime_oci::{ErrorKind, Pause, PidNamespace, PodSpec, SeccompChoice, spawn_pause};
use runtime_sys::process::{Ended, pidfd_send_signal, wait};
use runtime_sys::userns::{IdMap, IdRange};
use serde_json::{Value, json};

use crate::Test;
use crate::support::{Fixture, process, spec, start};

pub(crate) const TESTS: &[Test] = &[
    ("users_root_inside_is_somebody_else_outside", somebody),
    ("users_an_image_keeps_its_owners", owners),
    ("users_what_is_written_has_mapped_owners", written),
    ("users_a_directory_that_others_may_not_enter", closed),
    ("users_a_volume_with_mapped_owners", volumes),
    ("users_a_volume_that_cannot_be_mapped", cannot),
    ("users_namespaces_belong_to_the_pod", namespaces),
    ("users_the_host_is_out_of_reach", reach),
    ("users_devices_and_a_terminal", devices),
    ("users_exec", exec),
    ("users_shared_process_ids", shared),
    ("users_ids_that_are_not_there", ids),
    ("users_need_the_pods_namespaces", needs),
    ("users_forty_layers", layers),
    ("users_limits_beyond_its_own", limits),
    ("users_how_fast", speed),
];

/// Of nobody else on this machine.
const OUTSIDE: u32 = 1_700_000_000;

const MAP: IdMap = IdMap {
    uids: IdRange { inside: 0, outside: OUTSIDE, length: 65_536 },
    gids: IdRange { inside: 0, outside: OUTSIDE + 100_000, length: 65_536 },
};

fn pod(this: &Fixture, pid: PidNamespace) -> PodSpec {
    PodSpec {
        hostname: "podname".to_owned(),
        network: true,
        ipc: true,
        pid,
        cgroup: this.cgroup("pause"),
        sysctls: vec![
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "81".to_owned()),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ],
        shm_bytes: 1024 * 1024,
        users: Some(MAP),
    }
}

fn end(pause: Pause) {
    pidfd_send_signal(pause.process.pidfd.as_fd(), 9).expect("kills");
    wait(pause.process.pidfd.as_fd()).expect("waits");
    pause.cgroup.remove().expect("removes");
}

/// Runs a script in a pod of its own.
fn run(this: &Fixture, value: &Value) -> String {
    let pause = spawn_pause(&pod(this, PidNamespace::Own)).expect("starts");
    let joins = pause.joins().expect("copies");
    let running = start(this, value, SeccompChoice::RuntimeDefault, joins);
    let text = running.map(|running| running.finish().output);
    end(pause);
    text.unwrap_or_else(|error| panic!("{error}"))
}

fn somebody() {
    let this = Fixture::new();
    let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
    let status = |pid: i32| fs::read_to_string(format!("/proc/{pid}/status")).expect("reads");
    assert!(
        status(pause.process.pid).contains(&format!("Uid:\t{}", OUTSIDE + 65_535)),
        "{}",
        status(pause.process.pid)
    );
    let script = "cat /proc/self/uid_map /proc/self/gid_map; id; echo out > /dev/stdout; sleep 0.5";
    let value = spec(&this, script);
    let running = start(&this, &value, SeccompChoice::RuntimeDefault, pause.joins().expect("copies")).expect("starts");
    let seen = status(running.process.pid);
    assert!(seen.contains(&format!("Uid:\t{OUTSIDE}\t{OUTSIDE}")), "{seen}");
    assert!(seen.contains(&format!("Gid:\t{}\t", OUTSIDE + 100_000)), "{seen}");
    // PID 1 of its own namespace, which is the second level.
    assert!(seen.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{seen}");
    let text = running.finish().output;
    let numbers: Vec<&str> = text.split_ascii_whitespace().take(6).collect();
    let (uids, gids) = (OUTSIDE.to_string(), (OUTSIDE + 100_000).to_string());
    assert_eq!(numbers, ["0", &uids, "65536", "0", &gids, "65536"], "{text}");
    assert!(text.contains("uid=0 gid=0") && text.contains("out\n"), "{text}");
    end(pause);
}

fn owners() {
    let this = Fixture::new();
    fs::write(this.lower().join("etc/owned"), "x").expect("writes");
    chown(this.lower().join("etc/owned"), Some(1000), Some(2000)).expect("gives");
    fs::write(this.lower().join("etc/shadow"), "secret").expect("writes");
    fs::set_permissions(this.lower().join("etc/shadow"), fs::Permissions::from_mode(0o600)).expect("sets");
    // In the upper layer, over the lower one's.
    fs::create_dir(this.path("top/etc")).expect("makes");
    symlink("/etc/owned", this.path("top/etc/link")).expect("links");
    let script = "cat /etc/shadow; stat -c '%u:%g' / /etc /etc/owned /etc/shadow /bin/busybox; stat -L -c '%u:%g' /etc/link; \
                  echo y >> /etc/owned; stat -c '%u:%g' /etc/owned; echo y >> /etc/shadow; stat -c '%u:%g:%a' /etc/shadow";
    let text = run(&this, &spec(&this, script));
    assert_eq!(text, "secret0:0\n0:0\n1000:2000\n0:0\n0:0\n1000:2000\n1000:2000\n0:0:600\n");
    // The layer itself is as it was.
    let own = fs::metadata(this.lower().join("etc/owned")).expect("stats");
    assert_eq!((own.uid(), own.gid(), own.len()), (1000, 2000, 1));
}

fn written() {
    let this = Fixture::new();
    let mut value = spec(&this, "echo x > /new; mkdir /dir; chmod 4755 /new; echo more >> /etc/old");
    fs::write(this.lower().join("etc/old"), "x").expect("writes");
    chown(this.lower().join("etc/old"), Some(7), Some(8)).expect("gives");
    run(&this, &value);
    let upper = fs::read_dir(this.directory.path())
        .expect("lists")
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("upper-") && entry.path().join("new").exists());
    let upper = upper.expect("is there").path();
    for (path, uid, gid) in [("new", 0, 0), ("dir", 0, 0), ("etc/old", 7, 8)] {
        let found = fs::metadata(upper.join(path)).expect("stats");
        assert_eq!((found.uid(), found.gid()), (OUTSIDE + uid, OUTSIDE + 100_000 + gid), "{path}");
    }
    value["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5]});
    value["process"]["args"][2] = json!(
        "id; touch /tmp/mine; stat -c '%u:%g' /tmp/mine; echo out > /dev/stdout; ls -ln /proc/self/fd/1 | grep -c 1000"
    );
    fs::set_permissions(this.lower().join("tmp"), fs::Permissions::from_mode(0o1777)).expect("sets");
    let text = run(&this, &value);
    assert!(text.starts_with("uid=1000 gid=1001 groups=5\n1000:1001\nout\n"), "{text}");
}

fn closed() {
    let this = Fixture::new();
    let volume = this.path("volume");
    fs::create_dir(&volume).expect("makes");
    fs::write(volume.join("file"), "found").expect("writes");
    fs::set_permissions(this.directory.path(), fs::Permissions::from_mode(0o700)).expect("sets");
    let mut value = spec(&this, "cat /volume/file; echo; ls / > /dev/null && echo lists; echo x > /x && echo writes");
    value["mounts"].as_array_mut().expect("a list").push(json!({
        "destination": "/volume", "type": "bind", "source": volume, "options": ["rbind", "ro"]
    }));
    assert_eq!(run(&this, &value), "found\nlists\nwrites\n");
}

fn mapped(source: &OsStr, destination: &str, map: Option<&IdMap>) -> Value {
    let mut mount = json!({
        "destination": destination, "type": "bind", "source": source.to_str(), "options": ["rbind", "rprivate"]
    });
    if let Some(map) = map {
        let range =
            |range: IdRange| json!([{"containerID": range.inside, "hostID": range.outside, "size": range.length}]);
        mount["uidMappings"] = range(map.uids);
        mount["gidMappings"] = range(map.gids);
    }
    mount
}

fn volumes() {
    let this = Fixture::new();
    let other = IdMap { uids: IdRange { inside: 500, outside: OUTSIDE + 10, length: 1 }, ..MAP };
    let script = "cd /mapped && stat -c '%u:%g' old && echo x > new && chmod 600 new; cd /plain && stat -c '%u:%g' old; \
                  echo x > new; cd /other; stat -c '%u:%g' old five; true";
    let mut value = spec(&this, script);
    for (name, map) in [("mapped", Some(&MAP)), ("plain", None), ("other", Some(&other))] {
        let volume = this.path(name);
        fs::create_dir(&volume).expect("makes");
        fs::write(volume.join("old"), "x").expect("writes");
        fs::write(volume.join("five"), "x").expect("writes");
        chown(volume.join("five"), Some(500), Some(0)).expect("gives");
        let mount = mapped(volume.as_os_str(), &format!("/{name}"), map);
        value["mounts"].as_array_mut().expect("a list").push(mount);
    }
    let text = run(&this, &value);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["0:0", "65534:65534"], "{text}");
    assert!(lines[2].contains("ermission denied"), "{text}");
    // As the mount has it: 0 is nobody there, and 500 is 10 inside.
    assert_eq!(lines[3..], ["65534:0", "10:0"], "{text}");
    let new = fs::metadata(this.path("mapped/new")).expect("was written");
    assert_eq!((new.uid(), new.gid()), (0, 0));
    assert!(!this.path("plain/new").exists());
}

fn cannot() {
    let this = Fixture::new();
    let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
    let mut value = spec(&this, "true");
    // cgroupfs has no mapped owners on any kernel.
    let source = fs::read_dir("/sys/fs/cgroup").expect("lists").filter_map(Result::ok);
    let source = source.map(|entry| entry.path()).find(|path| path.join("cgroup.procs").exists()).expect("a hierarchy");
    value["mounts"].as_array_mut().expect("a list").push(mapped(source.as_os_str(), "/volume", Some(&MAP)));
    let error = start(&this, &value, SeccompChoice::RuntimeDefault, pause.joins().expect("copies")).err();
    end(pause);
    let error = error.expect("refuses");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains(source.to_str().expect("text")) && text.contains("hostUsers: true"), "{text}");
}

fn namespaces() {
    let this = Fixture::new();
    let script = "hostname; hostname other && hostname; ip link add dummy0 type dummy 2>/dev/null; ip addr show lo | grep -c 127.0.0.1; \
                  cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; \
                  mount -t tmpfs none /tmp && echo mounts; mount -t proc none /tmp && echo proc; umount /proc/keys 2>&1; \
                  umount /sys 2>/dev/null; cat /proc/self/mountinfo | grep -c ' /mask \\| /work \\| /layers '; \
                  ls /proc | grep -c '^[0-9]'; touch /dev/shm/x /dev/mqueue/y && stat -c '%u %n' /dev/shm/x /dev/mqueue/y; \
                  ls /sys/class/net | tr '\\n' ' '";
    let mut value = spec(&this, script);
    value["process"]["capabilities"] = all_capabilities();
    let text = run(&this, &value);
    assert!(text.starts_with("podname\nother\n1\n81\n1\nmounts\n"), "{text}");
    assert!(text.contains("\n0\n"), "{text}");
    assert!(text.contains("0 /dev/shm/x\n0 /dev/mqueue/y\n") && text.contains("lo "), "{text}");
}

fn all_capabilities() -> Value {
    let names = json!([
        "CAP_SYS_ADMIN",
        "CAP_NET_ADMIN",
        "CAP_MKNOD",
        "CAP_DAC_OVERRIDE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_BOOT",
        "CAP_SYS_MODULE",
        "CAP_CHOWN",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_SYS_TIME",
        "CAP_SYSLOG",
        "CAP_SYS_PTRACE"
    ]);
    json!({"bounding": names, "effective": names, "permitted": names})
}

fn reach() {
    let this = Fixture::new();
    let script = "echo h > /proc/sysrq-trigger; echo 1 > /proc/sys/kernel/sysrq; echo x > /proc/sys/kernel/core_pattern; mknod /n c 1 1; \
                  echo 0 > /sys/fs/cgroup/pids/cgroup.procs; for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/notify_on_release; do \
                  [ -e $f ] && echo 1 > $f; done; cat /proc/1/environ | grep -c PODWRIGHT; dmesg; true";
    let mut value = spec(&this, script);
    value["process"]["capabilities"] = all_capabilities();
    // Nothing but the ids stands between.
    value["linux"]["maskedPaths"] = json!([]);
    value["linux"]["readonlyPaths"] = json!([]);
    for mount in value["mounts"].as_array_mut().expect("a list") {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "ro");
        }
    }
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("reads");
    let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
    let running = start(&this, &value, SeccompChoice::Unconfined, pause.joins().expect("copies")).expect("starts");
    let text = running.finish().output;
    end(pause);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").expect("reads"), before);
    for refused in ["core_pattern: Permission denied", "/n: Operation not permitted"] {
        assert!(text.contains(refused), "{refused} in {text}");
    }
    assert!(!text.contains("notify_on_release: ") || text.contains("notify_on_release: Permission denied"), "{text}");
}

fn devices() {
    let this = Fixture::new();
    let script = "cd /dev; for d in null zero full random urandom tty mine; do stat -c '%n %F %t:%T %a %u:%g' $d; done; echo x > null; \
                  dd if=zero bs=1 count=1 2>/dev/null | tr '\\000' z; echo; ls /dev | tr '\\n' ' '; stat -c '%G %g' /dev/pts; chmod 600 mine && \
                  stat -c %a mine; ls -ln /dev/pts/ptmx";
    let mut value = spec(&this, script);
    value["linux"]["devices"] =
        json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 0, "gid": 6}]);
    let text = run(&this, &value);
    for line in [
        "null character special file 1:3 666 0:0",
        "tty character special file 5:0 666 0:0",
        "mine character special file 1:5 640 0:6",
        "fd full mine mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
        "\n600\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    // The host's own nodes are as they were.
    assert_eq!(fs::metadata("/dev/null").expect("stats").mode() & 0o777, 0o666);
}

fn exec() {
    let this = Fixture::new();
    let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
    let value = spec(&this, "sleep 600 & wait");
    let running = start(&this, &value, SeccompChoice::RuntimeDefault, pause.joins().expect("copies")).expect("starts");
    let script =
        "id; cat /proc/self/uid_map; hostname; echo x > /dev/stdout; cat /proc/1/comm; grep CapBnd /proc/self/status";
    let outcome = running.exec("one", &process(script)).expect("runs");
    assert_eq!(outcome.ended, Ended::Exited(0), "{}", outcome.output);
    assert!(outcome.output.starts_with("uid=0 gid=0"), "{}", outcome.output);
    for part in [OUTSIDE.to_string().as_str(), "podname\nx\nsh\nCapBnd:\t00000000a80425fb"] {
        assert!(outcome.output.contains(part), "{part} in {}", outcome.output);
    }
    let mut other = process("id; echo x > /dev/stdout");
    other["user"] = json!({"uid": 33, "gid": 34});
    assert!(running.exec("two", &other).expect("runs").output.starts_with("uid=33 gid=34\nx\n"));
    other["user"] = json!({"uid": 70_000, "gid": 34});
    let error = running.exec("three", &other).err().expect("refuses").to_string();
    assert!(error.contains("70000 is not in the pod's user namespace"), "{error}");
    running.kill();
    end(pause);
}

fn shared() {
    let this = Fixture::new();
    let pause = spawn_pause(&pod(&this, PidNamespace::Shared)).expect("starts");
    let mut value = spec(
        &this,
        "cat /proc/1/comm; ls /proc | grep -c '^[0-9]'; ls /proc/1/root/ 2>&1; stat -c %u /proc/self/status",
    );
    value["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
    value["process"]["capabilities"] = all_capabilities();
    let joins = pause.joins().expect("copies");
    let running = start(&this, &value, SeccompChoice::RuntimeDefault, joins).expect("starts");
    let text = running.finish().output;
    end(pause);
    // pause, the shell, ls and grep.
    assert!(text.starts_with("pause\n4\n") && text.ends_with("0\n"), "{text}");
}

fn ids() {
    let this = Fixture::new();
    let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
    let mut value = spec(&this, "true");
    value["process"]["user"] = json!({"uid": 65_536, "gid": 0});
    let error = start(&this, &value, SeccompChoice::RuntimeDefault, pause.joins().expect("copies")).err();
    end(pause);
    let error = error.expect("refuses").to_string();
    assert!(error.contains("user 65536 is not in the pod's user namespace, which has 0 to 65535"), "{error}");
}

fn needs() {
    let this = Fixture::new();
    for change in [
        (|spec: &mut PodSpec| spec.network = false) as fn(&mut PodSpec),
        |spec| spec.ipc = false,
        |spec| spec.pid = PidNamespace::Host,
    ] {
        let mut wanted = pod(&this, PidNamespace::Own);
        wanted.sysctls.clear();
        change(&mut wanted);
        assert_eq!(spawn_pause(&wanted).expect_err("refuses").kind(), ErrorKind::Invalid);
    }
    // A small one: its last id is nobody.
    let mut wanted = pod(&this, PidNamespace::Own);
    wanted.users = Some(IdMap { uids: IdRange { length: 10, ..MAP.uids }, gids: IdRange { length: 5, ..MAP.gids } });
    let pause = spawn_pause(&wanted).expect("starts");
    let status = fs::read_to_string(format!("/proc/{}/status", pause.process.pid)).expect("reads");
    assert!(status.contains(&format!("Uid:\t{}", OUTSIDE + 9)), "{status}");
    assert!(status.contains(&format!("Gid:\t{}", OUTSIDE + 100_004)), "{status}");
    end(pause);
}

fn layers() {
    let this = Fixture::new();
    let mut lowers = vec![this.path("top")];
    for number in 0..40 {
        let layer = this.path(&format!("layer-{number}"));
        fs::create_dir(&layer).expect("makes");
        fs::write(layer.join(format!("file-{number}")), "x").expect("writes");
        lowers.push(layer);
    }
    lowers.push(this.lower());
    let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
    let value = spec(&this, "stat -c %u /file-0 /file-39 | tr '\\n' ' '; ls / | grep -c file-");
    let joins = pause.joins().expect("copies");
    let running = crate::support::start_on(&this, &value, SeccompChoice::RuntimeDefault, joins, &lowers);
    let text = running.map(|running| running.finish().output);
    end(pause);
    assert_eq!(text.expect("starts"), "0 0 40\n");
}

fn limits() {
    let this = Fixture::new();
    let mut value = spec(&this, "ulimit -n; ulimit -Hn; ulimit -c");
    value["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    assert_eq!(run(&this, &value), "100\n200\n0\n");
}

fn speed() {
    let this = Fixture::new();
    let (mut pods, mut containers) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let begun = Instant::now();
        let pause = spawn_pause(&pod(&this, PidNamespace::Own)).expect("starts");
        pods.push(begun.elapsed());
        let value = spec(&this, "true");
        let begun = Instant::now();
        let running =
            start(&this, &value, SeccompChoice::RuntimeDefault, pause.joins().expect("copies")).expect("starts");
        containers.push(begun.elapsed());
        running.finish();
        end(pause);
    }
    pods.sort();
    containers.sort();
    eprintln!(
        "with users: pause {:?} at best, {:?} in the middle; container {:?}, {:?}",
        pods[0], pods[10], containers[0], containers[10]
    );
    assert!(containers[10].as_millis() < 500);
}
