//! The images that the suite's manifests name, as people name them, made on this machine.

use std::path::Path;

use anyhow::Context;
use serde_json::json;

use crate::conformance::images::{self as made, Layer, Programs, SERVE};
use crate::registry::Registry;

/// What lies in images of its own, from the directory of the built programs.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("agnhost", "e2e-test-images/agnhost", "2.61"),
    ("coredns", "coredns/coredns", "v1.15.0"),
    ("metrics-server", "metrics-server/metrics-server", "v0.9.0"),
];

/// Makes every image and pushes it; returns their number. Programs that `bin` doesn't have are left out.
///
/// # Errors
/// When a program of Debian is missing, the compiler fails or the registry refuses.
pub async fn push_all(registry: &Registry, programs: &Programs, bin: &Path) -> anyhow::Result<usize> {
    let base = made::busybox(programs, "", "")?.packed()?;
    let server = made::server(programs, 80)?.packed()?;
    let mut all = Vec::new();
    for tag in ["latest", "1.37"] {
        all.push(("library/busybox", tag, made::image(&[&base], json!({"Cmd": ["sh"]}))?));
    }
    for tag in ["latest", "1.14.2", "1.16.1"] {
        let mut page = Layer::new();
        page.file("usr/share/nginx/html/version", 0o644, format!("{tag}\n").as_bytes())?;
        let config = json!({"Cmd": SERVE, "StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}}});
        all.push(("library/nginx", tag, made::image(&[&base, &server, &page.packed()?], config)?));
    }
    all.push(("pause", "3.9", made::pause()?));
    for (program, repository, tag) in PROGRAMS {
        let Ok(bytes) = std::fs::read(bin.join(program)) else { continue };
        let mut layer = Layer::new();
        layer.directory("tmp", 0o1777)?;
        layer.file(program, 0o755, &bytes)?;
        let config = json!({"Entrypoint": [format!("/{program}")]});
        all.push((repository, tag, made::image(&[&base, &layer.plain()?], config)?));
    }
    for (repository, tag, image) in &all {
        registry.push(repository, tag, image).await.with_context(|| format!("{repository}:{tag}"))?;
    }
    Ok(all.len())
}
