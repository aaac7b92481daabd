//! Device nodes of the host, and devices by name.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use runtime_cri_api::v1 as cri;
use tests_integration::client::{self, container};
use tests_integration::image::{self, Dialect, Packing};
use tests_integration::{Client, Node, Options, Outcome, machine};

use crate::mounts::refused;
use crate::{BUSYBOX, World};

fn with(devices: &[(&str, &str, &str)]) -> cri::ContainerConfig {
    let devices = devices.iter().map(|(host, inside, permissions)| cri::Device {
        host_path: (*host).to_owned(),
        container_path: (*inside).to_owned(),
        permissions: (*permissions).to_owned(),
    });
    cri::ContainerConfig { devices: devices.collect(), ..container("c", BUSYBOX, &["/bin/sleep", "1000"]) }
}

/// Nodes of a host that has the devices: made for the test, since /dev is everybody's.
fn nodes(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory.join("deep/er"))?;
    for (name, kind, major, minor) in [
        // Not among the ones that every container may open: /dev/net/tun, /dev/loop0.
        ("tun", "c", "10", "200"),
        ("loop", "b", "7", "0"),
        ("deep/er/tun", "c", "10", "200"),
    ] {
        let place = directory.join(name).display().to_string();
        machine::run("mknod", &["-m", "640", &place, kind, major, minor])?;
    }
    std::fs::write(directory.join("file"), "no device")?;
    Ok(())
}

/// Whether the device rules let a script through: a device that this machine doesn't have may fail otherwise.
async fn permitted(client: &Client, id: &str, script: &str) -> anyhow::Result<bool> {
    let (code, out, err) = client.exec(id, &["/bin/sh", "-c", script]).await?;
    let refused = err.contains("Operation not permitted");
    ensure!(code == 0 || refused || err.contains("No such device"), "`{script}` gave {code}: {out}{err}");
    Ok(!refused)
}

pub(crate) async fn devices_are_as_allowed(world: Arc<World>) -> Outcome {
    let directory = world.node.scratch().join("devices");
    nodes(&directory)?;
    let of = |name: &str| directory.join(name).display().to_string();
    let sandbox = world.sandbox("devices-allowed").await?;
    let config =
        with(&[(&of("tun"), "/dev/read", "r"), (&of("loop"), "/dev/block", "r"), (&of("deep"), "/dev/all", "r")]);
    let id = world.client.create(&sandbox, config).await?;
    world.client.start(&id).await?;
    let seen = world.client.shell(&id, "stat -c '%n %F %t:%T %a' /dev/read /dev/block /dev/all/er/tun").await?;
    ensure!(
        seen == "/dev/read character special file a:c8 640\n/dev/block block special file 7:0 640\n\
                 /dev/all/er/tun character special file a:c8 640\n",
        "{seen}"
    );
    for (script, expected) in [
        ("exec 3</dev/read", true),
        ("exec 3</dev/all/er/tun", true),
        ("exec 3</dev/block", true),
        ("exec 3>/dev/read", false),
        ("exec 3<>/dev/read", false),
        ("exec 3>/dev/block", false),
        // Nodes may be made of anything, and that helps nobody.
        ("mknod /tmp/fuse c 10 229 && exec 3</tmp/fuse", false),
        ("mknod /tmp/loop b 7 1 && exec 3</tmp/loop", false),
        ("mknod /tmp/mem c 1 1 && exec 3</tmp/mem", false),
    ] {
        ensure!(permitted(&world.client, &id, script).await? == expected, "`{script}` is allowed: {}", !expected);
    }
    world.client.remove(&id).await?;
    for (host, permissions, words) in [
        (of("nothing"), "r", ["nothing", "o such file"]),
        (of("file"), "r", ["file", "neither a device nor"]),
        (of("tun"), "rx", ["permissions", "rx"]),
        (of("tun"), "", ["permissions", ""]),
    ] {
        let answer = world.client.create(&sandbox, with(&[(&host, "/dev/x", permissions)])).await;
        refused(answer, tonic::Code::InvalidArgument, &words)?;
    }
    world.client.end(&sandbox).await
}

pub(crate) async fn a_privileged_container_has_all_devices(world: Arc<World>) -> Outcome {
    let mut pod = world.pod("devices-privileged");
    let context = pod.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("a context")?;
    context.privileged = true;
    let sandbox = world.client.run(pod).await?;
    let privileged = |mounts: Vec<cri::Mount>| -> anyhow::Result<cri::ContainerConfig> {
        let mut config = cri::ContainerConfig { mounts, ..with(&[]) };
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("a context")?;
        context.privileged = true;
        Ok(config)
    };
    let id = world.client.create(&sandbox, privileged(Vec::new())?).await?;
    world.client.start(&id).await?;
    let list = "find /dev -type b -o -type c | grep -v -e /dev/pts -e /dev/console -e /dev/ptmx | sort";
    let inside = world.client.shell(&id, list).await?;
    let outside = machine::run("sh", &["-c", list])?;
    let missing: Vec<&str> = outside.lines().filter(|line| !inside.lines().any(|there| there == *line)).collect();
    ensure!(missing.is_empty(), "{missing:?} of the host's are not there");
    world.client.shell(&id, "mknod /tmp/kmsg c 1 11 && exec 3</tmp/kmsg").await?;
    world.client.remove(&id).await?;
    // The host's own directory, as node agents have it.
    let mount = cri::Mount { host_path: "/dev".to_owned(), container_path: "/dev".to_owned(), ..Default::default() };
    let id = world.client.create(&sandbox, privileged(vec![mount])?).await?;
    world.client.start(&id).await?;
    world.client.shell(&id, "exec 3<>/dev/null && ls /dev").await?;
    world.client.end(&sandbox).await
}

const CDI: &str = r#"
cdiVersion: "0.6.0"
kind: podwright.test/thing
devices:
- name: one
  containerEdits:
    env: [THING=NUMBER]
    deviceNodes: [{path: /dev/thing, hostPath: DIRECTORY/tun, permissions: r}]
    mounts: [{hostPath: DIRECTORY/deep, containerPath: /opt/thing, options: [ro, nosuid]}]
- name: hooked
  containerEdits:
    hooks: [{hookName: createContainer, path: /usr/bin/thing-hook}]
"#;

const GROUPS: &str = r#"{"cdiVersion": "0.7.0", "kind": "podwright.test/groups",
    "devices": [{"name": "video", "containerEdits": {"additionalGids": [44]}}]}"#;

pub(crate) async fn devices_by_name(_: Arc<World>) -> Outcome {
    let directory = tempfile::tempdir()?;
    nodes(directory.path())?;
    let files = directory.path().join("cdi");
    std::fs::create_dir(&files)?;
    let write = |number: &str| {
        let place = directory.path().display().to_string();
        std::fs::write(files.join("thing.yaml"), CDI.replace("DIRECTORY", &place).replace("NUMBER", number))
    };
    write("1")?;
    std::fs::write(files.join("groups.json"), GROUPS)?;
    let arguments = ["--cdi-spec-dir".to_owned(), format!("/no/such/place,{}", files.display())].to_vec();
    let node = Node::start(Options { arguments, ..Options::default() }).await?;
    let busybox = image::image(Dialect::Oci, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
    node.import(&image::archive(&busybox, BUSYBOX)?, BUSYBOX)?;
    let client = node.client().await?;
    let sandbox = client.run(client::pod("cdi", &node.scratch().join("logs"))).await?;
    let asking = |names: &[&str]| cri::ContainerConfig {
        cdi_devices: names.iter().map(|name| cri::CdiDevice { name: (*name).to_owned() }).collect(),
        ..with(&[])
    };
    let mut config = asking(&["podwright.test/thing=one"]);
    config.annotations.insert("cdi.k8s.io/plugin".to_owned(), "podwright.test/groups=video".to_owned());
    let id = client.create(&sandbox, config).await?;
    client.start(&id).await?;
    let script = "echo $THING; stat -c %t:%T /dev/thing; ls /opt/thing/er; id -G; \
                  touch /opt/thing/x 2>/dev/null || echo read-only";
    let seen = client.shell(&id, script).await?;
    ensure!(seen == "1\na:c8\ntun\n0 44\nread-only\n", "{seen}");
    ensure!(permitted(&client, &id, "exec 3</dev/thing").await?, "it can't be read");
    ensure!(!permitted(&client, &id, "exec 3>/dev/thing").await?, "it can be written");
    client.remove(&id).await?;
    // The files are read anew.
    write("2")?;
    let id = client.create(&sandbox, asking(&["podwright.test/thing=one"])).await?;
    client.start(&id).await?;
    ensure!(client.shell(&id, "echo $THING").await? == "2\n");
    client.remove(&id).await?;
    for (name, words) in [
        ("podwright.test/thing=two", ["podwright.test/thing=two", "podwright.test/groups=video"]),
        ("podwright.test/thing=hooked", ["createContainer", "/usr/bin/thing-hook"]),
        ("thing", ["thing", "vendor.com/class=device"]),
    ] {
        refused(client.create(&sandbox, asking(&[name])).await, tonic::Code::InvalidArgument, &words)?;
    }
    client.end(&sandbox).await
}
