//! Volumes: what lies at their sources, how it is mounted, images, and the variables that are no text.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use runtime_oci::{ErrorKind, ImageVolume, OciError, Seen, Volumes, check_sources};
use runtime_sys::sync::readable;
use serde_json::{Value, json};

use crate::support::{Fixture, parse, process, run, spec, start_with};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("sources_are_looked_at_by_a_child", sources),
    ("a_source_that_was_replaced_is_refused", replaced),
    ("mounts_made_after_the_look_are_there", later_mounts),
    ("propagation_needs_a_mount_that_propagates", sharing),
    ("a_file_and_a_directory_are_told_apart", mismatch),
    ("attributes_reach_as_far_as_they_say", attributes),
    ("an_image_is_a_volume", image),
    ("a_part_of_an_image_is_a_volume", part_of_an_image),
    ("a_variable_may_be_any_bytes", bytes),
];

fn with_mounts(this: &Fixture, script: &str, mounts: &[Value]) -> Value {
    let mut value = spec(this, script);
    value["mounts"].as_array_mut().expect("a list").extend(mounts.iter().cloned());
    value
}

fn bind(source: impl AsRef<Path>, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source.as_ref(), "options": options})
}

fn look(value: &Value, images: &[ImageVolume]) -> Result<Seen, OciError> {
    let mut look = check_sources(&parse(value), images).expect("starts");
    loop {
        assert!(readable(look.descriptor(), Duration::from_secs(10)).expect("polls"), "no news for 10 s");
        if let Some(answer) = look.advance() {
            return answer;
        }
    }
}

/// What a container prints whose sources were looked at before.
fn told(this: &Fixture, value: &Value, images: &[ImageVolume]) -> Result<String, OciError> {
    let seen = look(value, images)?;
    Ok(start_with(this, value, Volumes { images, seen })?.finish().output)
}

/// Something mounted for a test; unmounted when dropped, whatever the test came to.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf, arguments: &[&str]) -> Self {
        fs::create_dir_all(&at).expect("makes");
        run_program(Command::new("mount").args(arguments).arg(&at));
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-R").arg(&self.0).status();
        assert!(status.expect("runs").success() || std::thread::panicking(), "{:?} is still mounted", self.0);
    }
}

fn run_program(command: &mut Command) {
    let output = command.output().expect("runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn sources() {
    let this = Fixture::new();
    let check = |source: &str| {
        let value = with_mounts(&this, "true", &[bind(source, "/data", &["rbind"])]);
        look(&value, &[]).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(check("/etc"), Ok(()));
    assert_eq!(check("/no/such/place"), Err("mount source \"/no/such/place\": no such file or directory".to_owned()));
    // More of them than one message is long, and one socket's buffer.
    let many: Vec<Value> = (0..500).map(|number| bind("/etc", &format!("/data{number}"), &["rbind"])).collect();
    look(&with_mounts(&this, "true", &many), &[]).expect("all are there");
}

fn replaced() {
    let this = Fixture::new();
    let (volume, outside) = (this.path("volume"), this.path("outside"));
    fs::create_dir(&volume).expect("makes");
    fs::create_dir(&outside).expect("makes");
    let value = with_mounts(&this, "ls /data", &[bind(&volume, "/data", &["rbind"])]);
    let refused = |seen: &Seen| {
        let volumes = Volumes { images: &[], seen: seen.clone() };
        let error = start_with(&this, &value, volumes).err().expect("refuses");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let words = ["is not what it was when the container was created", &*volume.to_string_lossy()];
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    };
    let seen = look(&value, &[]).expect("is there");
    // Another directory, a link to the host's root, a link to a mount of the host's.
    fs::rename(&volume, this.path("old")).expect("renames");
    fs::create_dir(&volume).expect("makes");
    refused(&seen);
    for target in ["/", "/proc", "outside"] {
        fs::remove_dir(&volume).or_else(|_| fs::remove_file(&volume)).expect("removes");
        symlink(target, &volume).expect("links");
        refused(&seen);
    }
    // The same object again is as good as ever, also by a link that was one from the beginning.
    fs::remove_file(&volume).expect("removes");
    fs::rename(this.path("old"), &volume).expect("renames");
    fs::write(volume.join("file"), "").expect("writes");
    symlink("volume", this.path("way")).expect("links");
    let by_link = with_mounts(&this, "ls /data", &[bind(this.path("way"), "/data", &["rbind"])]);
    let volumes = Volumes { images: &[], seen };
    assert_eq!(start_with(&this, &value, volumes).expect("starts").finish().output, "file\n");
    assert_eq!(told(&this, &by_link, &[]).expect("starts"), "file\n");
}

fn later_mounts() {
    let this = Fixture::new();
    let volume = this.path("volume");
    fs::create_dir_all(volume.join("below")).expect("makes");
    let value = with_mounts(&this, "ls /data /data/below", &[bind(&volume, "/data", &["rbind"])]);
    let seen = look(&value, &[]).expect("is there");
    let started = |seen: &Seen| {
        let volumes = Volumes { images: &[], seen: seen.clone() };
        start_with(&this, &value, volumes).map(|running| running.finish().output)
    };
    let below = Mounted::new(volume.join("below"), &["-t", "tmpfs", "podwright-oci-test"]);
    fs::write(volume.join("below/mounted-below"), "").expect("writes");
    assert!(started(&seen).expect("starts").contains("mounted-below"));
    drop(below);
    // Right on the source: the host's own doing, too.
    let top = Mounted::new(volume.clone(), &["-t", "tmpfs", "podwright-oci-test"]);
    fs::create_dir(volume.join("below")).expect("makes");
    fs::write(volume.join("mounted-on-it"), "").expect("writes");
    assert!(started(&seen).expect("starts").contains("mounted-on-it"));
    // What was seen mounted must stay mounted.
    let seen = look(&value, &[]).expect("is there");
    drop(top);
    assert!(started(&seen).is_err());
}

fn sharing() {
    let this = Fixture::new();
    let volume = this.path("volume");
    let mounted = Mounted::new(volume.clone(), &["-t", "tmpfs", "podwright-oci-test"]);
    let check = |kind: &str, option: &str| {
        run_program(Command::new("mount").arg(format!("--make-{kind}")).arg(&volume));
        let value = with_mounts(&this, "true", &[bind(&volume, "/data", &["rbind", option])]);
        look(&value, &[]).map(drop).map_err(|error| error.to_string())
    };
    for option in ["rprivate", "rslave", "rshared"] {
        assert_eq!(check("shared", option), Ok(()), "{option}");
    }
    assert_eq!(check("private", "rprivate"), Ok(()));
    let place = volume.display();
    let why = |needed: &str| {
        Err(format!(
            "path \"{place}\" is mounted on \"{place}\", which is not {needed}, as the volume's propagation needs"
        ))
    };
    assert_eq!(check("private", "rslave"), why("a shared or slave mount"));
    assert_eq!(check("private", "rshared"), why("a shared mount"));
    drop(mounted);
}

fn mismatch() {
    let this = Fixture::new();
    let (directory, file) = (this.path("directory"), this.path("file"));
    fs::create_dir(&directory).expect("makes");
    fs::write(&file, "").expect("writes");
    fs::create_dir(this.lower().join("there")).expect("makes");
    fs::write(this.lower().join("plain"), "").expect("writes");
    for (source, destination, why) in [
        (&file, "/there", "the source is no directory, and a directory is there"),
        (&directory, "/plain", "the source is a directory, and something else is there"),
        (&directory, "/plain/x", "something on the way there is no directory"),
        (&file, "/plain/x", "something on the way there is no directory"),
    ] {
        let value = with_mounts(&this, "true", &[bind(source, destination, &["rbind"])]);
        let error = told(&this, &value, &[]).expect_err("refuses");
        assert_eq!(error.to_string(), format!("mount source {source:?} can't be mounted at {destination:?}: {why}"));
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

fn attributes() {
    let this = Fixture::new();
    let volume = this.path("volume");
    fs::create_dir(&volume).expect("makes");
    let below = Mounted::new(volume.join("below"), &["-t", "tmpfs", "podwright-oci-test"]);
    let options = |given: &[&str]| {
        let given: Vec<&str> = ["rbind"].iter().chain(given).copied().collect();
        let script = "grep -o ' /data[^ ]* [^ ]*' /proc/self/mountinfo | sort";
        let value = with_mounts(&this, script, &[bind(&volume, "/data", &given)]);
        let output = told(&this, &value, &[]).expect("starts");
        let words = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_owned();
        match output.lines().collect::<Vec<_>>().as_slice() {
            [top, below] => (words(top), words(below)),
            other => panic!("{other:?}"),
        }
    };
    let has = |given: &[&str], top: &str, below: &str| {
        let (found_top, found_below) = options(given);
        assert_eq!((found_top.as_str(), found_below.as_str()), (top, below), "{given:?}");
    };
    has(&[], "rw,relatime", "rw,relatime");
    has(&["ro"], "ro,relatime", "rw,relatime");
    has(&["rro"], "ro,relatime", "ro,relatime");
    has(&["rro", "rw"], "rw,relatime", "ro,relatime");
    has(&["ro", "rnoexec"], "ro,noexec,relatime", "rw,noexec,relatime");
    has(&["rro", "noexec", "nosuid", "nodev"], "ro,nosuid,nodev,noexec,relatime", "ro,relatime");
    has(&["noatime"], "rw,noatime", "rw,relatime");
    has(&["rnoatime"], "rw,noatime", "rw,noatime");
    has(&["strictatime"], "rw", "rw,relatime");
    has(&["rnosymfollow"], "rw,relatime,nosymfollow", "rw,relatime,nosymfollow");
    has(&["nodiratime", "rnodev"], "rw,nodev,nodiratime,relatime", "rw,nodev,relatime");
    drop(below);
}

/// Two layers: the upper one hides a file of the lower one and brings its own.
fn layers(this: &Fixture) -> ImageVolume {
    for part in ["image/low/etc/deep", "image/high/etc", "image/empty"] {
        fs::create_dir_all(this.path(part)).expect("makes");
    }
    fs::write(this.path("image/low/etc/both"), "low").expect("writes");
    fs::write(this.path("image/low/etc/hidden"), "low").expect("writes");
    fs::write(this.path("image/low/etc/deep/file"), "deep").expect("writes");
    fs::write(this.path("image/high/etc/both"), "high").expect("writes");
    symlink("/etc/deep/file", this.path("image/high/inside")).expect("links");
    symlink("../../../../../../etc/hostname", this.path("image/high/outside")).expect("links");
    run_program(Command::new("mknod").arg(this.path("image/high/etc/hidden")).args(["c", "0", "0"]));
    fs::copy("/bin/busybox", this.path("image/low/busybox")).expect("copies");
    ImageVolume { lowers: vec![this.path("image/high"), this.path("image/low")], sub_path: String::new() }
}

fn image_mount(destination: &str) -> Value {
    json!({"destination": destination, "type": "bind", "source": "podwright:image/0",
           "options": ["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"]})
}

fn image() {
    let this = Fixture::new();
    let images = [layers(&this)];
    let script = "cat /data/etc/both; ls /data/etc; touch /data/x 2>&1; /data/busybox true 2>&1; \
                  grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6,9; id -u";
    let output = told(&this, &with_mounts(&this, script, &[image_mount("/data")]), &images).expect("starts");
    assert_eq!(
        output.replace("relatime overlay", "relatime - overlay"),
        "highboth\ndeep\ntouch: /data/x: Read-only file system\n/bin/sh: /data/busybox: Permission denied\n\
         ro,nosuid,nodev,noexec,relatime - overlay\n0\n",
        "{output}"
    );
    // One layer above the empty directory that a kernel wants for a second one.
    let single =
        ImageVolume { lowers: vec![this.path("image/low"), this.path("image/empty")], sub_path: String::new() };
    let value = with_mounts(&this, "cat /data/etc/hidden", &[image_mount("/data")]);
    assert_eq!(told(&this, &value, &[single]).expect("starts"), "low");
    let value = with_mounts(&this, "true", &[bind("podwright:image/7", "/data", &["rbind"])]);
    let error = check_sources(&parse(&value), &images).expect_err("there is none");
    assert!(error.to_string().contains("no image number 7"), "{error}");
}

fn part_of_an_image() {
    let this = Fixture::new();
    let whole = layers(&this);
    let part = |sub_path: &str, script: &str| {
        let images = [ImageVolume { sub_path: sub_path.to_owned(), ..whole.clone() }];
        told(&this, &with_mounts(&this, script, &[image_mount("/data")]), &images)
    };
    assert_eq!(part("etc", "ls /data").expect("starts"), "both\ndeep\n");
    assert_eq!(part("etc/both", "cat /data").expect("starts"), "high", "a file");
    assert_eq!(part("inside", "cat /data").expect("starts"), "deep", "a link is walked inside");
    assert_eq!(part("etc/./deep/", "ls /data; echo >/data/x 2>&1").expect("starts").lines().next(), Some("file"));
    // Neither what was hidden nor what leads out is there, and the look says so before anything is made.
    for missing in ["nothing", "etc/hidden", "outside", "etc/both/x"] {
        let images = [ImageVolume { sub_path: missing.to_owned(), ..whole.clone() }];
        let value = with_mounts(&this, "true", &[image_mount("/data")]);
        let error = look(&value, &images).expect_err(missing);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        assert!(
            text.starts_with("ImageVolumeMountFailed: ") && text.contains(missing) && text.contains("/data"),
            "{text}"
        );
        let late = start_with(&this, &value, Volumes { images: &images, seen: Seen::default() });
        assert_eq!(late.err().expect("refuses").to_string(), text);
    }
}

fn bytes() {
    let this = Fixture::new();
    let mut value = spec(&this, "");
    // A=, then 0xff 0x01 0xc3.
    value["process"] = process("cat /proc/1/environ | od -An -tx1");
    value["process"]["env"] = json!(["PATH=/bin", "\x00413dff01c3"]);
    symlink("busybox", this.lower().join("bin/od")).expect("links");
    let printed = run(&this, &value).output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(printed.contains("41 3d ff 01 c3 00"), "{printed}");
    for wrong in ["\0", "A=\0", "\0zz", "\x00413"] {
        value["process"]["env"] = json!(["PATH=/bin", wrong]);
        let started = start_with(&this, &value, Volumes::default());
        // Without digits it is an empty string, which is no variable but harms nobody.
        assert_eq!(started.map(|running| running.finish().output).is_err(), wrong != "\0", "{wrong:?}");
    }
}
