//! The images that critest 1.36 names, made from programs of Debian on this machine.
//!
//! The suite pulls from registry.k8s.io, k8s.gcr.io and gcr.io; the node under test reaches these copies by a mirror for
//! every host. What the specs look at decides what is in an image: a shell that finds its applets on PATH (a masked
//! `/bin/ls` must not be answered by a built-in one), a hard link for each applet (masking one must leave the others),
//! `ipcs` and `pgrep`, a web server whose process calls itself a master process, a set-user-id program.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::image::{Blob, Image, architecture, digest};
use crate::machine;
use crate::registry::Registry;

/// Programs that are not installed, only unpacked: installing them would start a service or take `busybox-static` away.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Debian's dynamically linked busybox.
    pub busybox: PathBuf,
    /// Debian's nginx.
    pub nginx: PathBuf,
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// nginx, as its images start it.
pub(crate) const SERVE: [&str; 3] = ["/usr/sbin/nginx", "-g", "daemon off;"];

/// A process that waits and reaps, as PID 1 of a pod has to.
const PAUSE: &str = r#"#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, 0, WNOHANG) > 0) { } }
int main(void) {
    signal(SIGTERM, end);
    signal(SIGINT, end);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
"#;

/// Tells the user that it acts as; its file is root's and set-user-id.
const EFFECTIVE: &str = r#"#include <stdio.h>
#include <unistd.h>
int main(void) { printf("Effective uid: %u\n", (unsigned)geteuid()); return 0; }
"#;

/// Makes every image and pushes it; returns their number.
///
/// # Errors
/// When a program is missing, the compiler fails or the registry refuses.
pub async fn push_all(registry: &Registry, programs: &Programs) -> anyhow::Result<usize> {
    let base = busybox(programs, "", "")?.packed()?;
    let shell = |layers: &[&Packed], user: &str| image(layers, json!({"Cmd": ["sh"], "User": user}));
    let staging = "k8s-staging-cri-tools";
    let mut all: Vec<(String, String, Image)> = Vec::new();
    let mut add = |repository: String, tag: &str, image: Image| all.push((repository, tag.to_owned(), image));

    add("e2e-test-images/busybox".into(), "1.29-2", shell(&[&base], "")?);
    add("pause".into(), "3.9", pause()?);
    let mut effective = Layer::new();
    effective.file("nnp", 0o4755, &compiled(EFFECTIVE)?)?;
    let effective = effective.packed()?;
    let config = json!({"Entrypoint": ["/nnp"]});
    add("e2e-test-images/nonewprivs".into(), "1.3", image(&[&base, &effective], config)?);

    let served = json!({"Cmd": SERVE});
    let (web, other) = (server(programs, 80)?.packed()?, server(programs, 12003)?.packed()?);
    add("e2e-test-images/nginx".into(), "1.14-2", image(&[&base, &web], served.clone())?);
    add(format!("{staging}/hostnet-nginx-{}", architecture()), "latest", image(&[&base, &other], served)?);
    let mut greeting = Layer::new();
    let script =
        format!("#!/bin/sh\necho \"'httpd -D FOREGROUND'\" >&2\nexec {} {} '{}'\n", SERVE[0], SERVE[1], SERVE[2]);
    greeting.file("httpd.sh", 0o755, script.as_bytes())?;
    let greeting = greeting.packed()?;
    let config = json!({"Cmd": ["/httpd.sh"]});
    add("e2e-test-images/httpd".into(), "2.4.39-4", image(&[&base, &web, &greeting], config)?);

    for (name, user) in [
        ("user-uid", "1002"),
        ("user-username", "www-data"),
        ("user-uid-group", "1003:1003"),
        ("user-username-group", "www-data:100"),
    ] {
        add(format!("{staging}/test-image-{name}"), "latest", shell(&[&base], user)?);
    }
    let grouped = busybox(
        programs,
        "default-user:x:1000:1000::/home/default-user:/bin/sh\n",
        "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n",
    )?
    .packed()?;
    add(format!("{staging}/test-image-predefined-group"), "latest", shell(&[&grouped], "1000")?);
    // One image under three tags, three images, and those that are known by tag or by none.
    for (name, tag, mark) in [
        ("latest", "latest", "latest"),
        ("tag", "test", "test"),
        ("tag", "all", "all"),
        ("1", "latest", "1"),
        ("2", "latest", "2"),
        ("3", "latest", "3"),
        ("tags", "1", "tags"),
        ("tags", "2", "tags"),
        ("tags", "3", "tags"),
    ] {
        let mut marked = Layer::new();
        marked.file("mark", 0o644, mark.as_bytes())?;
        add(format!("{staging}/test-image-{name}"), tag, shell(&[&base, &marked.packed()?], "")?);
    }
    for (repository, tag, image) in &all {
        registry.push(repository, tag, image).await.with_context(|| format!("{repository}:{tag}"))?;
    }
    Ok(all.len())
}

/// The pause image, for runtimes that need one.
pub(crate) fn pause() -> anyhow::Result<Image> {
    let mut layer = Layer::new();
    layer.file("pause", 0o755, &compiled(PAUSE)?)?;
    image(&[&layer.packed()?], json!({"Entrypoint": ["/pause"], "User": "65535:65535"}))
}

/// Debian's busybox with its applets, and further lines of its passwd and group files.
pub(crate) fn busybox(programs: &Programs, users: &str, groups: &str) -> anyhow::Result<Layer> {
    let mut layer = Layer::new();
    for name in ["dev", "home", "proc", "root", "sbin", "sys", "usr/sbin", "var/run", "var/www"] {
        layer.directory(name, 0o755)?;
    }
    layer.directory("tmp", 0o1777)?;
    layer.file("bin/busybox", 0o755, &std::fs::read(&programs.busybox)?)?;
    let path = programs.busybox.display().to_string();
    for applet in machine::run(&path, &["--list"])?.lines().filter(|applet| *applet != "busybox") {
        layer.hard_link(&format!("bin/{applet}"), "bin/busybox")?;
    }
    layer.libraries(&programs.busybox)?;
    for name in ["ipcs", "pgrep"] {
        let own = machine::find(name).with_context(|| format!("no {name} (apt-get install util-linux procps)"))?;
        layer.file(&format!("usr/bin/{name}"), 0o755, &std::fs::read(&own)?)?;
        layer.libraries(&own)?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                  nobody:x:65534:65534:nobody:/home:/bin/false\n";
    layer.file("etc/passwd", 0o644, format!("{passwd}{users}").as_bytes())?;
    let group = "root:x:0:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n";
    layer.file("etc/group", 0o644, format!("{group}{groups}").as_bytes())?;
    Ok(layer)
}

/// nginx on `port` with a page of its own.
pub(crate) fn server(programs: &Programs, port: u16) -> anyhow::Result<Layer> {
    let mut layer = Layer::new();
    for name in ["var/log/nginx", "var/lib/nginx", "var/run"] {
        layer.directory(name, 0o755)?;
    }
    layer.file("usr/sbin/nginx", 0o755, &std::fs::read(&programs.nginx)?)?;
    layer.libraries(&programs.nginx)?;
    layer.file("usr/share/nginx/html/index.html", 0o644, b"<html><h1>Welcome</h1></html>\n")?;
    let config = format!(
        "user root;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log /dev/stderr;\nevents {{}}\n\
         http {{\n  access_log /dev/stdout;\n  server {{ listen {port}; root /usr/share/nginx/html; }}\n}}\n"
    );
    layer.file("etc/nginx/nginx.conf", 0o644, config.as_bytes())?;
    Ok(layer)
}

/// A static program from one text in C.
fn compiled(source: &str) -> anyhow::Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let (text, program) = (folder.path().join("program.c"), folder.path().join("program"));
    std::fs::write(&text, source)?;
    let path = |path: &Path| path.display().to_string();
    machine::run("cc", &["-O2", "-static", "-s", "-o", &path(&program), &path(&text)])
        .context("cannot compile (apt-get install gcc libc6-dev)")?;
    Ok(std::fs::read(program)?)
}

/// An image of `layers`, lowest first, with the fields of its `config`.
pub(crate) fn image(layers: &[&Packed], mut config: Value) -> anyhow::Result<Image> {
    config["Env"] = json!([PATH]);
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| &layer.identity).collect::<Vec<_>>()},
    });
    let config =
        Blob { media_type: "application/vnd.oci.image.config.v1+json".into(), bytes: serde_json::to_vec(&config)? };
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config.descriptor(),
        "layers": layers.iter().map(|layer| layer.blob.descriptor()).collect::<Vec<_>>(),
    });
    let manifest = Blob { media_type: media_type.into(), bytes: serde_json::to_vec(&manifest)? };
    Ok(Image { manifest, config, layers: layers.iter().map(|layer| layer.blob.clone()).collect() })
}

/// One layer in the making; everything in it is root's and dated 0, so that the same inputs give the same digest.
pub(crate) struct Layer {
    archive: tar::Builder<Vec<u8>>,
    names: BTreeSet<String>,
}

impl Layer {
    pub(crate) fn new() -> Layer {
        Layer { archive: tar::Builder::new(Vec::new()), names: BTreeSet::new() }
    }

    fn header(kind: tar::EntryType, mode: u32, bytes: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes as u64);
        header.set_mtime(0);
        header
    }

    /// A directory and those above it.
    pub(crate) fn directory(&mut self, name: &str, mode: u32) -> anyhow::Result<()> {
        if self.names.contains(name) {
            return Ok(());
        }
        self.parents(name)?;
        self.names.insert(name.to_owned());
        let mut header = Layer::header(tar::EntryType::Directory, mode, 0);
        Ok(self.archive.append_data(&mut header, name, std::io::empty())?)
    }

    fn parents(&mut self, name: &str) -> anyhow::Result<()> {
        match name.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent, 0o755),
            None => Ok(()),
        }
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
        self.parents(name)?;
        self.names.insert(name.to_owned());
        let mut header = Layer::header(tar::EntryType::Regular, mode, bytes.len());
        Ok(self.archive.append_data(&mut header, name, bytes)?)
    }

    fn hard_link(&mut self, name: &str, target: &str) -> anyhow::Result<()> {
        self.names.insert(name.to_owned());
        Ok(self.archive.append_link(&mut Layer::header(tar::EntryType::Link, 0o755, 0), name, target)?)
    }

    /// The shared libraries that a program of this machine loads.
    fn libraries(&mut self, program: &Path) -> anyhow::Result<()> {
        let told = machine::run("ldd", &[&program.display().to_string()])?;
        ensure!(!told.contains("not found"), "{} lacks a library: {told}", program.display());
        for path in told.split_whitespace().filter(|word| word.starts_with('/')) {
            let name = path.trim_start_matches('/');
            if !self.names.contains(name) {
                self.file(name, 0o755, &std::fs::read(path)?)?;
            }
        }
        Ok(())
    }

    pub(crate) fn packed(self) -> anyhow::Result<Packed> {
        let tar = self.archive.into_inner()?;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&tar)?;
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip".to_owned();
        Ok(Packed { identity: digest(&tar), blob: Blob { media_type, bytes: packer.finish()? } })
    }

    /// Not compressed, for what is large and never leaves this machine.
    pub(crate) fn plain(self) -> anyhow::Result<Packed> {
        let bytes = self.archive.into_inner()?;
        let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
        Ok(Packed { identity: digest(&bytes), blob: Blob { media_type, bytes } })
    }
}

/// A layer as it is pushed, with the digest of its tar.
pub(crate) struct Packed {
    identity: String,
    blob: Blob,
}
