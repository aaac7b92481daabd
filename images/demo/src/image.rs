//! The demo image: an OCI image layout as a tar archive, made from the running program. Equal programs make equal images.

use std::io::{self, Read};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// Largest program that an image is made of, in bytes: it is held in memory once. Debug builds have some hundred MB.
pub const PROGRAM_BYTES_MAX: u64 = 1 << 30;
/// The unit of tar.
const BLOCK_BYTES: usize = 512;

const PASSWD: &str = "root:x:0:0:root:/:/podwright\nnobody:x:65534:65534:nobody:/:/podwright\n\
                      demo:x:1000:1000:demo:/tmp:/podwright\n";
const GROUP: &str = "root:x:0:\nnobody:x:65534:\ndemo:x:1000:\n";

/// A blob of the layout.
struct Blob {
    digest: String,
    size: usize,
}

/// Assembles the image called `name` (its full name, with tag) around `program`, which is read to its end. Equal input
/// gives equal bytes: no time, no user, no order of a file system is in it.
pub fn archive(program: &mut dyn Read, name: &str) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let layer = append_layer(&mut out, program)?;
    let config = append_json(&mut out, &configuration(&layer))?;
    let manifest = append_json(&mut out, &manifest(&config, &layer))?;
    append_file(&mut out, "index.json", 0o644, index(&manifest, name).to_string().as_bytes())?;
    append_file(&mut out, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append_end(&mut out);
    Ok(out)
}

/// The layer stands in the archive under its digest, which is known only once it is written: its header is filled in
/// afterwards, so that the program is in memory once and not three times.
fn append_layer(out: &mut Vec<u8>, program: &mut dyn Read) -> io::Result<Blob> {
    let header_at = out.len();
    out.resize(header_at + BLOCK_BYTES, 0);
    let start = out.len();
    for (path, mode) in [("dev/", 0o755), ("etc/", 0o755), ("proc/", 0o555), ("sys/", 0o555), ("tmp/", 0o1777)] {
        out.extend_from_slice(header(path, EntryType::Directory, mode, 0)?.as_bytes());
    }
    append_file(out, "etc/group", 0o644, GROUP.as_bytes())?;
    append_file(out, "etc/passwd", 0o644, PASSWD.as_bytes())?;
    append_program(out, program)?;
    append_end(out);
    let blob = Blob { digest: sha256(&out[start..]), size: out.len() - start };
    let header = header(&blob_path(&blob), EntryType::Regular, 0o644, blob.size)?;
    out[header_at..start].copy_from_slice(header.as_bytes());
    Ok(blob)
}

fn append_program(out: &mut Vec<u8>, program: &mut dyn Read) -> io::Result<()> {
    let header_at = out.len();
    out.resize(header_at + BLOCK_BYTES, 0);
    let start = out.len();
    program.take(PROGRAM_BYTES_MAX + 1).read_to_end(out)?;
    let size = out.len() - start;
    if u64::try_from(size).is_ok_and(|size| size > PROGRAM_BYTES_MAX) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the program is too large for an image"));
    }
    out[header_at..start].copy_from_slice(header("podwright", EntryType::Regular, 0o755, size)?.as_bytes());
    append_padding(out);
    Ok(())
}

fn configuration(layer: &Blob) -> Value {
    json!({
        "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
        "os": "linux",
        "config": {
            "Entrypoint": ["/podwright", "demo"],
            "Env": ["PATH=/"],
            "ExposedPorts": { "8080/tcp": {} },
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
    })
}

fn manifest(config: &Blob, layer: &Blob) -> Value {
    let descriptor =
        |media_type: &str, blob: &Blob| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size });
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    })
}

fn index(manifest: &Blob, name: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest.digest,
            "size": manifest.size,
            "annotations": { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name },
        }],
    })
}

fn append_json(out: &mut Vec<u8>, value: &Value) -> io::Result<Blob> {
    let text = value.to_string();
    let blob = Blob { digest: sha256(text.as_bytes()), size: text.len() };
    append_file(out, &blob_path(&blob), 0o644, text.as_bytes())?;
    Ok(blob)
}

fn append_file(out: &mut Vec<u8>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    out.extend_from_slice(header(path, EntryType::Regular, mode, content.len())?.as_bytes());
    out.extend_from_slice(content);
    append_padding(out);
    Ok(())
}

fn append_padding(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
}

/// Two empty blocks end a tar archive.
fn append_end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK_BYTES, 0);
}

fn header(path: &str, kind: EntryType, mode: u32, size: usize) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(size).map_err(io::Error::other)?);
    header.set_cksum();
    Ok(header)
}

fn blob_path(blob: &Blob) -> String {
    format!("blobs/{}", blob.digest.replace(':', "/"))
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String can't fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const NAME: &str = "podwright.local/demo:1";

    fn members(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let (mode, mut bytes) = (entry.header().mode().unwrap(), Vec::new());
            entry.read_to_end(&mut bytes).unwrap();
            assert!(found.insert(path, (mode, bytes)).is_none());
        }
        found
    }

    fn blob<'a>(layout: &'a BTreeMap<String, (u32, Vec<u8>)>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = &layout[&format!("blobs/{}", digest.replace(':', "/"))].1;
        assert_eq!((sha256(bytes), Some(bytes.len() as u64)), (digest.to_owned(), descriptor["size"].as_u64()));
        bytes
    }

    #[test]
    fn the_archive_is_an_image_layout() {
        let program: Vec<u8> = (0..70_001_u32).map(|n| n.to_le_bytes()[0]).collect();
        let made = archive(&mut &program[..], NAME).unwrap();
        assert_eq!(made, archive(&mut &program[..], NAME).unwrap(), "deterministic");
        assert_eq!(made.len() % BLOCK_BYTES, 0);
        let layout = members(&made);
        assert_eq!(layout.len(), 5);
        assert!(layout.contains_key("oci-layout"));
        let index: Value = serde_json::from_slice(&layout["index.json"].1).unwrap();
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], NAME);
        let manifest: Value = serde_json::from_slice(blob(&layout, &index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(blob(&layout, &manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/podwright", "demo"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let layer = members(blob(&layout, &manifest["layers"][0]));
        assert_eq!(layer["podwright"], (0o755, program));
        assert_eq!(layer["tmp/"].0, 0o1777);
        assert!(layer["etc/passwd"].1.starts_with(b"root:x:0:0:"));
    }
}
