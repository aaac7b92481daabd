//! Volumes: options, propagation, order, images, and what lies at their sources.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use runtime_cri_api::v1::{self as cri, MountPropagation};
use tests_integration::client::{Sandbox, container, spec};
use tests_integration::image::{self, Dialect, Entry, Packing};
use tests_integration::{Client, Node, Options, Outcome, machine};

use crate::{BUSYBOX, World};

/// The image that is mounted as a volume: two layers, of which the upper one hides a file of the lower one.
const DATA: &str = "podwright.test/data:1";

fn volume(host: &Path, inside: &str) -> cri::Mount {
    cri::Mount { host_path: host.display().to_string(), container_path: inside.to_owned(), ..Default::default() }
}

fn with(mounts: &[cri::Mount]) -> cri::ContainerConfig {
    cri::ContainerConfig { mounts: mounts.to_vec(), ..container("c", BUSYBOX, &["/bin/sleep", "1000"]) }
}

/// A container that runs, with these volumes.
async fn running(client: &Client, sandbox: &Sandbox, config: cri::ContainerConfig) -> anyhow::Result<String> {
    let id = client.create(sandbox, config).await?;
    client.start(&id).await?;
    Ok(id)
}

/// The call failed with this code, and its message has all of the words.
pub(crate) fn refused<T>(answer: anyhow::Result<T>, code: tonic::Code, words: &[&str]) -> Outcome {
    let error = answer.err().with_context(|| format!("not refused: {words:?}"))?;
    let status = error.downcast_ref::<tonic::Status>().with_context(|| format!("no status: {error:#}"))?;
    ensure!(status.code() == code, "{status:?}");
    let missing: Vec<_> = words.iter().filter(|word| !status.message().contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} is not in {:?}", status.message());
    Ok(())
}

/// A directory for one test, empty.
fn scratch(world: &World, name: &str) -> anyhow::Result<PathBuf> {
    let directory = world.node.scratch().join("volumes").join(name);
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// A mount of the host, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(at)?;
        let place = at.display().to_string();
        machine::run("mount", &[arguments, &[place.as_str()]].concat())?;
        Ok(Self(at.to_owned()))
    }

    fn tmpfs(at: &Path) -> anyhow::Result<Self> {
        Self::new(at, &["-t", "tmpfs", "podwright-test"])
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = machine::run("umount", &["-R", &self.0.display().to_string()]) {
            eprintln!("{error:#}");
        }
    }
}

pub(crate) async fn mount_options_hold(world: Arc<World>) -> Outcome {
    let features = world.client.runtime.clone().status(cri::StatusRequest::default()).await?.into_inner().features;
    ensure!(features.is_some_and(|features| features.mount_options), "the feature is not announced");
    let source = scratch(&world, "options")?;
    std::fs::copy("/bin/busybox", source.join("busybox"))?;
    let sandbox = world.sandbox("mount-options").await?;
    let given = ["noexec", "nosuid", "nodev", "noatime"].map(str::to_owned).to_vec();
    let mounts = [
        cri::Mount { mount_options: given.clone(), ..volume(&source, "/limited") },
        cri::Mount { mount_options: given.clone(), readonly: true, ..volume(&source, "/both") },
        volume(&source, "/free"),
    ];
    let id = running(&world.client, &sandbox, with(&mounts)).await?;
    let table = world.client.shell(&id, "cut -d' ' -f5,6 /proc/self/mountinfo").await?;
    let found = |place: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(place)?.strip_prefix(' '));
        line.map(str::to_owned).with_context(|| format!("no {place} in {table}"))
    };
    ensure!(found("/limited")? == "rw,nosuid,nodev,noexec,noatime", "{table}");
    ensure!(found("/both")? == "ro,nosuid,nodev,noexec,noatime", "{table}");
    ensure!(!found("/free")?.contains("no"), "{table}");
    world.client.shell(&id, "/free/busybox true && touch /limited/written").await?;
    let (code, ..) = world.client.exec(&id, &["/bin/sh", "-c", "/limited/busybox true"]).await?;
    ensure!(code == 126, "a program of a noexec volume gave {code}");
    let status = world.client.status(&id).await?;
    ensure!(status.mounts[0].mount_options == given && status.mounts[2].mount_options.is_empty(), "{status:?}");
    world.client.remove(&id).await?;
    let all = "noexec, nosuid, nodev, noatime";
    for (option, why) in [
        ("sync", all),
        ("size=1g", all),
        ("", all),
        ("exec", "would allow"),
        ("suid", "would allow"),
        ("ro", "readonly"),
        ("rshared", "propagation"),
    ] {
        let mount = cri::Mount { mount_options: vec![option.to_owned()], ..volume(&source, "/data") };
        let answer = world.client.create(&sandbox, with(&[mount])).await;
        refused(answer, tonic::Code::InvalidArgument, &["/data", &format!("{option:?}"), why])?;
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn later_mounts_propagate_as_asked(world: Arc<World>) -> Outcome {
    let source = scratch(&world, "propagation")?;
    let base = Mounted::tmpfs(&source)?;
    machine::run("mount", &["--make-shared", &source.display().to_string()])?;
    let mut pod = world.pod("propagation");
    let context = pod.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("a context")?;
    context.privileged = true;
    let sandbox = world.client.run(pod).await?;
    let asked = |propagation: MountPropagation, inside: &str| cri::Mount {
        propagation: propagation as i32,
        ..volume(&source, inside)
    };
    let mut config = with(&[
        asked(MountPropagation::PropagationPrivate, "/private"),
        asked(MountPropagation::PropagationHostToContainer, "/slave"),
        asked(MountPropagation::PropagationBidirectional, "/shared"),
    ]);
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("a context")?;
    context.privileged = true;
    let id = running(&world.client, &sandbox, config).await?;
    // From the host.
    let late = Mounted::tmpfs(&source.join("late"))?;
    std::fs::write(source.join("late/file"), "")?;
    for (place, expected) in [("/private", ""), ("/slave", "file\n"), ("/shared", "file\n")] {
        let seen = world.client.shell(&id, &format!("ls {place}/late")).await?;
        ensure!(seen == expected, "{place} shows {seen:?} of the host's mount");
    }
    // From the container.
    for (place, name, arrives) in [("/private", "a", false), ("/slave", "b", false), ("/shared", "c", true)] {
        let script =
            format!("mkdir {place}/{name} && mount -t tmpfs podwright-test {place}/{name} && touch {place}/{name}/x");
        world.client.shell(&id, &script).await?;
        let seen = source.join(name).join("x").exists();
        ensure!(seen == arrives, "{place}: the host sees the container's mount: {seen}");
    }
    world.client.shell(&id, "umount /shared/c").await?;
    drop(late);
    world.client.end(&sandbox).await?;
    // A mount that nothing propagates from.
    let sandbox = world.sandbox("propagation-refused").await?;
    machine::run("mount", &["--make-private", &source.display().to_string()])?;
    let place = source.display().to_string();
    let answer =
        world.client.create(&sandbox, with(&[asked(MountPropagation::PropagationHostToContainer, "/data")])).await;
    refused(answer, tonic::Code::InvalidArgument, &[&place, "is mounted on", "not a shared or slave mount"])?;
    let answer =
        world.client.create(&sandbox, with(&[asked(MountPropagation::PropagationBidirectional, "/data")])).await;
    refused(answer, tonic::Code::InvalidArgument, &["bidirectional", "privileged"])?;
    world.client.end(&sandbox).await?;
    drop(base);
    Ok(())
}

pub(crate) async fn read_only_is_recursive_when_asked(world: Arc<World>) -> Outcome {
    let source = scratch(&world, "recursive")?;
    let below = Mounted::tmpfs(&source.join("below"))?;
    let sandbox = world.sandbox("recursive").await?;
    let read_only = |recursive: bool, inside: &str| cri::Mount {
        readonly: true,
        recursive_read_only: recursive,
        ..volume(&source, inside)
    };
    let id = running(&world.client, &sandbox, with(&[read_only(false, "/flat"), read_only(true, "/deep")])).await?;
    let script =
        "touch /flat/below/x; for f in /flat/x /deep/x /deep/below/x; do touch $f 2>/dev/null && echo $f; done; true";
    let written = world.client.shell(&id, script).await?;
    ensure!(written.is_empty() && source.join("below/x").exists(), "written: {written}");
    let status = world.client.status(&id).await?;
    ensure!(!status.mounts[0].recursive_read_only && status.mounts[1].recursive_read_only, "{status:?}");
    for wrong in [
        cri::Mount { readonly: false, ..read_only(true, "/data") },
        cri::Mount { propagation: MountPropagation::PropagationHostToContainer as i32, ..read_only(true, "/data") },
        cri::Mount { propagation: MountPropagation::PropagationBidirectional as i32, ..read_only(true, "/data") },
    ] {
        let answer = world.client.create(&sandbox, with(&[wrong])).await;
        refused(answer, tonic::Code::InvalidArgument, &["/data", "recursive_read_only"])?;
    }
    world.client.end(&sandbox).await?;
    drop(below);
    Ok(())
}

pub(crate) async fn mounts_nest_and_mismatches_are_named(world: Arc<World>) -> Outcome {
    let source = scratch(&world, "nesting")?;
    for part in ["outer/middle", "middle/inner", "inner"] {
        std::fs::create_dir_all(source.join(part))?;
    }
    for part in ["outer", "middle", "inner"] {
        std::fs::write(source.join(part).join("which"), part)?;
    }
    std::fs::write(source.join("file"), "a file")?;
    let sandbox = world.sandbox("nesting").await?;
    // In the wrong order, one below a link of the image's kind, one a file.
    let id = running(
        &world.client,
        &sandbox,
        with(&[
            volume(&source.join("inner"), "/a/middle/inner"),
            volume(&source.join("middle"), "/a/middle"),
            volume(&source.join("outer"), "/a"),
            volume(&source.join("file"), "/new/place/file"),
        ]),
    )
    .await?;
    let seen = world.client.shell(&id, "cd /a; cat which middle/which middle/inner/which /new/place/file").await?;
    ensure!(seen == "outermiddleinnera file", "{seen}");
    world.client.remove(&id).await?;
    let (file, directory) = (source.join("file").display().to_string(), source.join("outer").display().to_string());
    for (host, inside, words) in [
        (&file, "/tmp", ["a directory is there", "/tmp"]),
        (&directory, "/etc/passwd", ["something else is there", "/etc/passwd"]),
        (&directory, "/etc/passwd/x", ["no directory", "/etc/passwd/x"]),
    ] {
        let id = world.client.create(&sandbox, with(&[volume(Path::new(host), inside)])).await?;
        refused(world.client.start(&id).await, tonic::Code::InvalidArgument, &[host, words[0], words[1]])?;
        world.client.remove(&id).await?;
    }
    for place in ["/proc", "/proc/self/attr", "/"] {
        let answer = world.client.create(&sandbox, with(&[volume(&source, place)])).await;
        refused(answer, tonic::Code::InvalidArgument, &[])?;
    }
    let answer = world.client.create(&sandbox, with(&[volume(Path::new("/no/\u{1}"), "/data")])).await;
    refused(answer, tonic::Code::InvalidArgument, &["host_path"])?;
    world.client.end(&sandbox).await
}

pub(crate) async fn a_source_must_stay_what_it_was(world: Arc<World>) -> Outcome {
    let source = scratch(&world, "identity")?;
    let place = source.join("volume");
    std::fs::create_dir(&place)?;
    let sandbox = world.sandbox("identity").await?;
    let id = world.client.create(&sandbox, with(&[volume(&place, "/data")])).await?;
    std::fs::remove_dir(&place)?;
    std::os::unix::fs::symlink("/", &place)?;
    let words = [&*place.display().to_string(), "is not what it was when the container was created"];
    refused(world.client.start(&id).await, tonic::Code::InvalidArgument, &words)?;
    world.client.remove(&id).await?;
    std::fs::remove_file(&place)?;
    // A mount that comes between is seen, below the source and on it.
    for at in [place.join("below"), place.clone()] {
        std::fs::create_dir_all(&at)?;
        let id = world.client.create(&sandbox, with(&[volume(&place, "/data")])).await?;
        let late = Mounted::tmpfs(&at)?;
        std::fs::write(at.join("late"), "")?;
        world.client.start(&id).await?;
        ensure!(world.client.shell(&id, "find /data -name late").await?.lines().count() == 1, "{at:?} is not seen");
        world.client.remove(&id).await?;
        drop(late);
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn a_read_only_root_leaves_volumes_writable(world: Arc<World>) -> Outcome {
    let source = scratch(&world, "read-only-root")?;
    let sandbox = world.sandbox("read-only-root").await?;
    let mut config = with(&[volume(&source, "/data")]);
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("a context")?;
    context.readonly_rootfs = true;
    let id = running(&world.client, &sandbox, config).await?;
    let script = "for f in /data/x /dev/shm/x /x /etc/x /etc/hosts /etc/hostname /etc/resolv.conf /dev/null; do \
                  (echo x >>$f) 2>/dev/null && echo $f; done; true";
    let written = world.client.shell(&id, script).await?;
    ensure!(written == "/data/x\n/dev/shm/x\n/dev/null\n", "written: {written}");
    // Every container of the pod has the same shared memory.
    let other = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "d".to_owned(), attempt: 0 }),
        ..with(&[])
    };
    let other = running(&world.client, &sandbox, other).await?;
    ensure!(world.client.shell(&other, "cat /dev/shm/x").await? == "x\n", "shared memory is not the pod's");
    world.client.end(&sandbox).await?;
    // The node's, when that was asked for.
    let mut pod = world.pod("host-ipc");
    let context = pod.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("a context")?;
    let options = context.namespace_options.as_mut().context("options")?;
    options.ipc = cri::NamespaceMode::Node as i32;
    let options = options.clone();
    let sandbox = world.client.run(pod).await?;
    let mut config = with(&[]);
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("a context")?;
    context.namespace_options = Some(options);
    let id = running(&world.client, &sandbox, config).await?;
    let name = format!("podwright-test-{}", std::process::id());
    world.client.shell(&id, &format!("echo here >/dev/shm/{name}")).await?;
    let seen = std::fs::read_to_string(Path::new("/dev/shm").join(&name));
    std::fs::remove_file(Path::new("/dev/shm").join(&name))?;
    ensure!(seen? == "here\n");
    world.client.end(&sandbox).await
}

pub(crate) async fn variables_are_bytes(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("bytes").await?;
    let variable = |value: &[u8]| cri::KeyValue { key: "RAW".to_owned(), value: value.to_vec() };
    let config = cri::ContainerConfig { envs: vec![variable(&[0xff, 0x01, 0xc3, b'x'])], ..with(&[]) };
    let id = running(&world.client, &sandbox, config).await?;
    for script in ["cat /proc/1/environ", "env | grep RAW="] {
        let seen = world.client.shell(&id, &format!("{script} | od -An -tx1 | tr -d ' \\n'")).await?;
        ensure!(seen.contains("5241573dff01c378"), "{script}: {seen}");
    }
    world.client.remove(&id).await?;
    let config = cri::ContainerConfig { envs: vec![variable(b"a\0b")], ..with(&[]) };
    refused(world.client.create(&sandbox, config).await, tonic::Code::InvalidArgument, &["RAW", "NUL"])?;
    world.client.end(&sandbox).await
}

fn data_image() -> anyhow::Result<Vec<u8>> {
    let program = std::fs::read("/bin/busybox")?;
    let lower = vec![
        Entry::Directory("etc", 0o755),
        Entry::File("etc/both", 0o644, b"lower".to_vec()),
        Entry::File("etc/hidden", 0o644, b"lower".to_vec()),
        Entry::File("program", 0o755, program),
        Entry::Link("inside".to_owned(), "/etc/both".to_owned()),
        Entry::Link("outside".to_owned(), "../../../../../../etc/hostname".to_owned()),
    ];
    let upper =
        vec![Entry::File("etc/both", 0o644, b"upper".to_vec()), Entry::File("etc/.wh.hidden", 0o644, Vec::new())];
    let image = image::image(Dialect::Oci, &[(Packing::Gzip, lower), (Packing::Plain, upper)], &["/program"])?;
    image::archive(&image, DATA)
}

fn image_volume(sub_path: &str) -> cri::Mount {
    cri::Mount {
        container_path: "/data".to_owned(),
        readonly: true,
        image: Some(spec(DATA)),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

pub(crate) async fn an_image_is_a_volume(_: Arc<World>) -> Outcome {
    // A node of its own: the daemon is killed, and images are removed.
    let mut node = Node::start(Options::default()).await?;
    let busybox = image::image(Dialect::Oci, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
    node.import(&image::archive(&busybox, BUSYBOX)?, BUSYBOX)?;
    let client = node.client().await?;
    let sandbox = client.run(tests_integration::client::pod("image-volume", &node.scratch().join("logs"))).await?;
    let absent = client.create(&sandbox, with(&[image_volume("")])).await;
    refused(absent, tonic::Code::NotFound, &["ImageVolumeMountFailed", DATA, "/data"])?;
    node.import(&data_image()?, DATA)?;
    for (wrong, words) in [
        (cri::Mount { readonly: false, ..image_volume("") }, ["/data", "readonly"]),
        (cri::Mount { host_path: "/srv".to_owned(), ..image_volume("") }, ["/data", "exclude each other"]),
        (image_volume("../etc"), ["image_sub_path", ".."]),
        (image_volume("/etc"), ["image_sub_path", "relative"]),
        (image_volume("nothing"), ["ImageVolumeMountFailed", "nothing"]),
        (image_volume("etc/hidden"), ["ImageVolumeMountFailed", "etc/hidden"]),
        (image_volume("outside"), ["ImageVolumeMountFailed", "outside"]),
    ] {
        refused(client.create(&sandbox, with(&[wrong])).await, tonic::Code::InvalidArgument, &words)?;
    }
    for (part, script, expected) in [
        ("etc", "ls /data", "both\n"),
        ("inside", "cat /data", "upper"),
        ("etc/both", "cat /data", "upper"),
        ("", "cat /data/etc/both; ls /data/etc", "upperboth\n"),
    ] {
        let id = running(&client, &sandbox, with(&[image_volume(part)])).await?;
        let seen = client.shell(&id, script).await?;
        ensure!(seen == expected, "{part}: {seen}");
        for refused in ["touch /data", "touch /data/x", "/data/program true"] {
            let (code, ..) = client.exec(&id, &["/bin/sh", "-c", refused]).await?;
            ensure!(code != 0, "{part}: `{refused}` is allowed");
        }
        client.remove(&id).await?;
    }
    the_image_stays_while_it_is_used(&mut node, &sandbox).await
}

async fn the_image_stays_while_it_is_used(node: &mut Node, sandbox: &Sandbox) -> Outcome {
    let client = node.client().await?;
    let image = |client: &Client| {
        let mut images = client.images.clone();
        async move {
            let request = cri::ImageStatusRequest { image: Some(spec(DATA)), verbose: false };
            anyhow::Ok(images.image_status(request).await?.into_inner().image)
        }
    };
    let known = image(&client).await?.context("the image is here")?;
    let id = running(&client, sandbox, with(&[image_volume("")])).await?;
    let mount = client.status(&id).await?.mounts.first().cloned().context("a mount")?;
    let told = mount.image.context("the image is told")?;
    ensure!(told.image == DATA, "{told:?}");
    ensure!(told.image_ref == *known.repo_digests.first().unwrap_or(&known.id), "{told:?}, {known:?}");
    // Its name goes, the daemon dies: its files stay until the container goes.
    client.images.clone().remove_image(cri::RemoveImageRequest { image: Some(spec(DATA)) }).await?;
    ensure!(image(&client).await?.is_none(), "the image is still named");
    let layers = || count(&node.root().join("images"));
    let before = layers()?;
    node.kill()?;
    node.launch().await?;
    let client = node.client().await?;
    ensure!(client.shell(&id, "cat /data/etc/both").await? == "upper");
    // A second container that is made now keeps it as well.
    ensure!(count(&node.root().join("images"))? == before, "layers went while a container has them");
    client.remove(&id).await?;
    let began = std::time::Instant::now();
    while count(&node.root().join("images"))? >= before {
        ensure!(began.elapsed().as_secs() < 10, "the image's files are still there");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    client.end(sandbox).await
}

pub(crate) async fn a_part_of_an_image_is_a_volume_in_a_user_namespace(world: Arc<World>) -> Outcome {
    world.node.import(&data_image()?, DATA)?;
    let mut pod = world.pod("image-volume-users");
    let context = pod.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("a context")?;
    let options = context.namespace_options.as_mut().context("options")?;
    // Of the host: nobody else's on this machine.
    let mapping = vec![cri::IdMapping { host_id: 1_900_000_000, container_id: 0, length: 65_536 }];
    options.userns_options =
        Some(cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, uids: mapping.clone(), gids: mapping });
    let options = options.clone();
    let sandbox = world.client.run(pod).await?;
    for (part, script, expected) in [
        ("etc", "ls /data; stat -c %u:%g /data/both", "both\n0:0\n"),
        ("etc/both", "cat /data; stat -c %u /data", "upper0\n"),
        ("", "cat /data/etc/both; touch /data/x 2>/dev/null || echo read-only", "upperread-only\n"),
    ] {
        let mut config = with(&[image_volume(part)]);
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("a context")?;
        context.namespace_options = Some(options.clone());
        let id = running(&world.client, &sandbox, config).await.with_context(|| format!("{part:?}"))?;
        let seen = world.client.shell(&id, script).await?;
        ensure!(seen == expected, "{part}: {seen}");
        let (code, ..) = world.client.exec(&id, &["/bin/sh", "-c", "mount -o remount,bind,rw /data"]).await?;
        ensure!(code != 0, "{part}: it can be made writable");
        world.client.remove(&id).await?;
    }
    let answer = world.client.create(&sandbox, with(&[image_volume("outside")])).await;
    refused(answer, tonic::Code::InvalidArgument, &["ImageVolumeMountFailed", "outside"])?;
    world.client.images.clone().remove_image(cri::RemoveImageRequest { image: Some(spec(DATA)) }).await?;
    world.client.end(&sandbox).await
}

pub(crate) async fn huge_pages_are_a_volume_like_others(world: Arc<World>) -> Outcome {
    let source = scratch(&world, "huge")?;
    let mounted = Mounted::new(&source, &["-t", "hugetlbfs", "podwright-test"])?;
    let sandbox = world.sandbox("huge").await?;
    let id = running(&world.client, &sandbox, with(&[volume(&source, "/hugepages")])).await?;
    let seen = world.client.shell(&id, "grep ' /hugepages ' /proc/mounts | cut -d' ' -f3; touch /hugepages/x").await?;
    ensure!(seen == "hugetlbfs\n" && source.join("x").exists(), "{seen}");
    world.client.end(&sandbox).await?;
    drop(mounted);
    Ok(())
}

/// Files below a directory. What goes while it is walked isn't there.
fn count(directory: &Path) -> anyhow::Result<usize> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("read {directory:?}")),
    };
    let mut files = 0;
    for entry in entries {
        let entry = entry?;
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        files += 1 + if is_directory { count(&entry.path())? } else { 0 };
    }
    Ok(files)
}
