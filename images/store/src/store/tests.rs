//! The store on a real directory.

use std::fs;
use std::io::{self, Cursor, Read};

use tempfile::TempDir;

use super::*;
use crate::compression::Compression;
use crate::error::Kind;
use crate::stream::LayerError;
use crate::testing::{Tar, gzip, names, root_or_skip, zstd};

pub(super) struct Fixture {
    pub(super) directory: TempDir,
    pub(super) store: Arc<Store>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("images")).unwrap());
        Self { directory, store }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("images").join(name)
    }

    pub(super) fn reopened(self) -> Self {
        let Self { directory, store } = self;
        drop(store);
        let store = Arc::new(Store::open(&directory.path().join("images")).unwrap());
        Self { directory, store }
    }

    /// Takes an image of these archives in, under these names.
    pub(super) fn image(&self, layers: &[Vec<u8>], names: &[&str]) -> Arc<Image> {
        self.try_image(layers, names).unwrap()
    }

    pub(super) fn try_image(&self, layers: &[Vec<u8>], names: &[&str]) -> Result<Arc<Image>, StoreError> {
        let mut lease = self.store.lease();
        let mut descriptors = Vec::new();
        for tar in layers {
            let blob = gzip(tar);
            let layer = source(&blob, tar, Some(Compression::Gzip));
            lease.protect(layer.digest);
            lease.protect(layer.diff_id);
            self.store.ingest_layer(&layer, &mut Cursor::new(&blob)).unwrap();
            descriptors.push(descriptor(Compression::Gzip.media_type(), &blob));
        }
        let config = config(layers);
        let manifest = manifest(&config, &descriptors);
        lease.protect(self.store.put_blob(&config).unwrap());
        let manifest = self.store.put_blob(&manifest).unwrap();
        lease.protect(manifest);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.store.commit(manifest, &names)
    }

    pub(super) fn nothing_half_made(&self) {
        assert_eq!(names(&self.path("ingest")), [""; 0]);
    }
}

fn source(blob: &[u8], tar: &[u8], compression: Option<Compression>) -> LayerSource {
    let size_bytes = u64::try_from(blob.len()).unwrap();
    LayerSource { digest: Digest::of(blob), size_bytes, diff_id: Digest::of(tar), compression }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|tar| Digest::of(tar)).collect();
    serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"User": "web", "Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

fn manifest(config: &[u8], layers: &[serde_json::Value]) -> Vec<u8> {
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

#[test]
fn layers_of_every_kind_come_in() {
    if !root_or_skip("layers_of_every_kind_come_in") {
        return;
    }
    let fixture = Fixture::new();
    let members = |tar: &[u8]| [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    type Pack<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let cases: [(&str, Compression, Pack<'_>); 4] = [
        ("plain", Compression::Plain, &|tar| tar.to_vec()),
        ("gzip", Compression::Gzip, &gzip),
        ("members", Compression::Gzip, &members),
        ("zstd", Compression::Zstd, &zstd),
    ];
    for (name, compression, pack) in cases {
        let tar = Tar::default().file("name", name.as_bytes()).end();
        let blob = pack(&tar);
        let layer = source(&blob, &tar, Some(compression));
        fixture.store.ingest_layer(&layer, &mut Cursor::new(&blob)).unwrap();
        assert!(fixture.store.has_blob(&layer.digest, layer.size_bytes) && fixture.store.has_layer(&layer.diff_id));
        let tree = fixture.store.disk.tree(layer.diff_id);
        assert_eq!(fs::read_to_string(tree.join("name")).unwrap(), name);
        assert_eq!(fs::read(fixture.path("blobs/sha256").join(layer.digest.hex())).unwrap(), blob);
    }
    fixture.nothing_half_made();
}

#[test]
fn cases_72_to_76_wrong_layers_leave_nothing() {
    if !root_or_skip("cases_72_to_76_wrong_layers_leave_nothing") {
        return;
    }
    let fixture = Fixture::new();
    let tar = Tar::default().file("x", &[7; 5000]).end();
    let blob = gzip(&tar);
    let right = source(&blob, &tar, Some(Compression::Gzip));
    let other = Digest::of(b"other");
    let refused = |layer: LayerSource, bytes: &[u8], words: &str| {
        let error = fixture.store.ingest_layer(&layer, &mut Cursor::new(bytes)).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(words), "{text:?} doesn't say {words:?}");
        assert_eq!(error.kind(), Kind::Invalid, "{text}");
        fixture.nothing_half_made();
        assert_eq!(names(&fixture.path("blobs/sha256")), [""; 0]);
        assert_eq!(names(&fixture.path("layers")), [""; 0]);
    };
    refused(LayerSource { digest: other, ..right }, &blob, "its digest is");
    refused(LayerSource { diff_id: other, ..right }, &blob, "the image's configuration says");
    refused(LayerSource { size_bytes: right.size_bytes - 1, ..right }, &blob, "longer than");
    refused(LayerSource { size_bytes: right.size_bytes + 1, ..right }, &blob, "the manifest says");
    refused(LayerSource { compression: Some(Compression::Zstd), ..right }, &blob, "its bytes are gzip");
    refused(LayerSource { compression: Some(Compression::Plain), ..right }, &blob, "its bytes are gzip");
    let plain = source(&tar, &tar, Some(Compression::Gzip));
    refused(plain, &tar, "its bytes are plain tar");
    let mut broken = blob.clone();
    let at = broken.len() - 6;
    broken[at] ^= 1;
    refused(source(&broken, &tar, None), &broken, "broken");
    let trailing = [blob.clone(), b"more".to_vec()].concat();
    refused(source(&trailing, &tar, None), &trailing, "broken");
    let nested = gzip(&blob);
    refused(source(&nested, &blob, None), &nested, "broken");
    let bomb = Tar::default().block(crate::testing::Block::new(b'0', b"bomb", 1 << 34)).0;
    refused(source(&gzip(&bomb), &bomb, None), &gzip(&bomb), "middle");
    let cut = fixture.store.ingest_layer(&right, &mut Cursor::new(&blob[..20]));
    assert!(matches!(cut.unwrap_err(), StoreError::Layer { .. }));
    fixture.nothing_half_made();
}

#[test]
fn a_stream_that_breaks_off_is_no_fault_of_the_image() {
    struct Breaking;
    impl io::Read for Breaking {
        fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "gone"))
        }
    }
    let fixture = Fixture::new();
    let layer = source(b"blob", b"tar", None);
    let error = fixture.store.ingest_layer(&layer, &mut Breaking).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
    let StoreError::Layer { source, .. } = error else { panic!("{error}") };
    assert!(matches!(*source, LayerError::Source(_)));
    fixture.nothing_half_made();
}

#[test]
fn a_beginning_is_kept_and_gone_on_with() {
    if !root_or_skip("a_beginning_is_kept_and_gone_on_with") {
        return;
    }
    let mut word: u32 = 1;
    let noise: Vec<u8> = (0..1_500_000)
        .map(|_n| {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            word.to_le_bytes()[3]
        })
        .collect();
    let tar = Tar::default().file("noise", &noise).raw(&[0; 1024]).0;
    let blob = gzip(&tar);
    let layer = source(&blob, &tar, Some(Compression::Gzip));
    let size = layer.size_bytes;
    let broken = |until: usize| Cursor::new(blob[..until].to_vec()).chain(Gone);
    struct Gone;
    impl Read for Gone {
        fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
    let fixture = Fixture::new();
    let begun = fixture.store.begin(layer.digest, size).yours().unwrap();
    assert_eq!(begun.bytes(), 0);
    assert!(matches!(fixture.store.begin(layer.digest, size), Begun::Taken), "one at a time");
    let error = fixture.store.ingest_rest(&layer, begun, &mut broken(700_000)).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
    fixture.nothing_half_made();
    assert_eq!(fixture.store.usage().bytes, 700_000, "it is told");
    // Over a restart, and broken once more.
    let fixture = fixture.reopened();
    let begun = fixture.store.begin(layer.digest, size).yours().unwrap();
    assert_eq!(begun.bytes(), 700_000);
    fixture.store.ingest_rest(&layer, begun, &mut Gone).unwrap_err();
    let begun = fixture.store.begin(layer.digest, size).yours().unwrap();
    assert_eq!(begun.bytes(), 700_000);
    fixture.store.ingest_rest(&layer, begun, &mut Cursor::new(&blob[700_000..])).unwrap();
    assert!(fixture.store.has_layer(&layer.diff_id) && fixture.store.has_blob(&layer.digest, size));
    assert_eq!(fs::read(fixture.path("blobs/sha256").join(layer.digest.hex())).unwrap(), blob);
    assert_eq!(names(&fixture.path("partial")), Vec::<String>::new());

    // One that a power cut has spoiled goes, and so do all when somebody asks for the room.
    let fixture = Fixture::new();
    let begun = fixture.store.begin(layer.digest, size).yours().unwrap();
    fixture.store.ingest_rest(&layer, begun, &mut broken(600_000)).unwrap_err();
    let file = fs::File::options().write(true).open(fixture.path("partial").join(layer.digest.hex())).unwrap();
    file.set_len(300_000).unwrap();
    file.set_len(600_000).unwrap();
    let begun = fixture.store.begin(layer.digest, size).yours().unwrap();
    let error = fixture.store.ingest_rest(&layer, begun, &mut Cursor::new(&blob[600_000..])).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    let begun = fixture.store.begin(layer.digest, size).yours().unwrap();
    assert_eq!(begun.bytes(), 0);
    fixture.store.ingest_rest(&layer, begun, &mut broken(600_000)).unwrap_err();
    assert_eq!(fixture.store.discard_beginnings(), 600_000);
    assert_eq!((names(&fixture.path("partial")), fixture.store.usage().bytes), (Vec::new(), 0));
    // What is quickly fetched again isn't kept.
    let begun = fixture.store.begin(layer.digest, size).yours().unwrap();
    fixture.store.ingest_rest(&layer, begun, &mut broken(1000)).unwrap_err();
    assert_eq!(names(&fixture.path("partial")), Vec::<String>::new());
}

#[test]
fn layers_that_others_read_in_parts_are_ordinary_ones() {
    if !root_or_skip("layers_that_others_read_in_parts_are_ordinary_ones") {
        return;
    }
    let fixture = Fixture::new();
    let tar = Tar::default().file("a", b"1").file("b", &[7; 100_000]).end();
    // zstd:chunked: a frame for each file, and the table of contents in frames to be skipped. eStargz: gzip members.
    let skipped = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        [&[0x50, 0x2a, 0x4d, 0x18][..], &length, bytes].concat()
    };
    let chunked = [zstd(&tar[..1024]), zstd(&tar[1024..]), skipped(b"a table"), skipped(&[0; 64])].concat();
    let estargz = [gzip(&tar[..1024]), gzip(&tar[1024..]), gzip(b"")].concat();
    for (blob, compression) in [(chunked, Compression::Zstd), (estargz, Compression::Gzip)] {
        let layer = source(&blob, &tar, Some(compression));
        fixture.store.ingest_layer(&layer, &mut Cursor::new(&blob)).unwrap();
        assert!(fixture.store.has_layer(&layer.diff_id));
        fixture.store.collect().unwrap();
    }
}

#[test]
fn the_root_is_as_the_topmost_layer_that_lists_it_says() {
    if !root_or_skip("the_root_is_as_the_topmost_layer_that_lists_it_says") {
        return;
    }
    let fixture = Fixture::new();
    let listed = |mode: &[u8]| {
        let root = crate::testing::Block::new(b'5', b"./", 0).with(100, mode).with(108, b"0000007\0");
        Tar::default().block(root).file("x", b"1").end()
    };
    let layers = [listed(b"0000700\0"), listed(b"0001751\0"), Tar::default().file("y", b"2").end()];
    let image = fixture.image(&layers, &["example.com/root:1"]);
    let fixture = fixture.reopened();
    let attributes = fixture.store.hold(&image.id, "c").unwrap().attributes;
    assert_eq!(attributes, RootAttributes { mode: 0o1751, uid: 7, gid: 0 });
    let silent = fixture.image(&[Tar::default().file("z", b"3").end()], &["example.com/silent:1"]);
    assert_eq!(fixture.store.hold(&silent.id, "d").unwrap().attributes, RootAttributes::default());
}

#[test]
fn zstd_windows_are_bounded() {
    if !root_or_skip("zstd_windows_are_bounded") {
        return;
    }
    // Magic number, a frame header without content size, and a window of 2^41 bytes.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 1, 0, 0];
    let fixture = Fixture::new();
    let error = fixture.store.ingest_layer(&source(&frame, b"", None), &mut Cursor::new(frame)).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{}", chain(&error));
}

#[test]
fn one_process_at_a_time_and_crashes_leave_nothing() {
    if !root_or_skip("one_process_at_a_time_and_crashes_leave_nothing") {
        return;
    }
    let fixture = Fixture::new();
    let image = fixture.image(&[Tar::default().file("x", b"1").end()], &["example.com/a:1"]);
    assert_eq!(Store::open(&fixture.path("")).unwrap_err().kind(), Kind::Locked);
    fs::create_dir_all(fixture.path("ingest/layer-9/fs/deep")).unwrap();
    fs::write(fixture.path("ingest/blob-3"), b"half").unwrap();
    let unmarked = fixture.path("layers").join(Digest::of(b"unmarked").hex());
    fs::create_dir_all(unmarked.join("fs")).unwrap();
    let fixture = fixture.reopened();
    fixture.nothing_half_made();
    assert!(!unmarked.exists());
    assert_eq!(fixture.store.list(), [image]);
}

#[test]
fn a_broken_index_or_image_is_set_aside() {
    if !root_or_skip("a_broken_index_or_image_is_set_aside") {
        return;
    }
    let fixture = Fixture::new();
    let layers = [Tar::default().file("x", b"1").end()];
    let image = fixture.image(&layers, &["example.com/a:1"]);
    // Power loss left a blob of length zero.
    fs::write(fixture.path("blobs/sha256").join(image.layers[0].digest.hex()), b"").unwrap();
    let fixture = fixture.reopened();
    assert_eq!(fixture.store.list(), []);
    fixture.image(&layers, &["example.com/a:1"]);
    assert_eq!(fixture.store.list().len(), 1);
    fs::write(fixture.path("index.json"), b"{").unwrap();
    let fixture = fixture.reopened();
    assert_eq!(fixture.store.list(), []);
    assert!(fixture.path("index.json.broken").exists());
}

#[test]
fn names_holders_and_what_goes() {
    if !root_or_skip("names_holders_and_what_goes") {
        return;
    }
    let fixture = Fixture::new();
    let store = &fixture.store;
    let shared = Tar::default().file("shared", b"both").end();
    let pinned = format!("example.com/a@{}", Digest::of(b"index"));
    let first = fixture.image(&[shared.clone(), Tar::default().file("a", b"1").end()], &["example.com/a:1", &pinned]);
    let second = fixture.image(&[shared.clone(), Tar::default().file("b", b"2").end()], &["example.com/b:1"]);
    assert_eq!(
        (first.repo_tags.as_slice(), first.repo_digests.as_slice()),
        (&["example.com/a:1".to_owned()][..], &[pinned][..])
    );
    assert_eq!(first.user.as_deref(), Some("web"));
    assert_eq!(store.by_id(&first.id["sha256:".len()..][..12]), Some(first.clone()));
    assert_eq!(store.by_id(""), None, "two begin so");
    let root = store.hold(&first.id, "container").unwrap();
    assert_eq!(root.lowers.len(), 2);
    assert_eq!(names(&root.lowers[0]), ["a"]);
    assert_eq!(names(&root.lowers[1]), ["shared"]);
    store.remove(&first).unwrap();
    assert_eq!(store.list(), std::slice::from_ref(&second));
    assert!(root.lowers[0].join("a").exists(), "held");
    let fixture = fixture.reopened();
    let store = &fixture.store;
    store.hold(&first.id, "container").unwrap();
    store.collect().unwrap();
    assert!(root.lowers[0].join("a").exists(), "held after a restart");
    assert!(store.release("container"));
    assert!(!store.release("container"));
    let gone = store.collect().unwrap();
    assert_eq!((gone.layers, gone.blobs), (1, 3));
    assert!(!root.lowers[0].exists() && root.lowers[1].join("shared").exists());
    store.tag(&second, "example.com/c:1").unwrap();
    store.untag("example.com/b:1").unwrap();
    assert_eq!(store.by_name("example.com/c:1").unwrap().repo_tags, ["example.com/c:1"]);
    store.untag("example.com/c:1").unwrap();
    assert_eq!(store.usage(), Usage::default());
    assert_eq!(names(&fixture.path("blobs/sha256")), [""; 0]);
    fixture.nothing_half_made();
}

#[test]
fn a_lease_keeps_what_has_no_name_yet() {
    if !root_or_skip("a_lease_keeps_what_has_no_name_yet") {
        return;
    }
    let fixture = Fixture::new();
    let tar = Tar::default().file("x", b"1").end();
    let layer = source(&tar, &tar, None);
    let mut lease = fixture.store.lease();
    lease.protect(layer.digest);
    lease.protect(layer.diff_id);
    fixture.store.ingest_layer(&layer, &mut Cursor::new(&tar)).unwrap();
    assert_eq!(fixture.store.collect().unwrap(), Collected::default());
    drop(lease);
    assert_eq!(fixture.store.collect().unwrap().layers, 1);
}

#[test]
fn layers_join_under_overlayfs() {
    if !root_or_skip("layers_join_under_overlayfs") {
        return;
    }
    let fixture = Fixture::new();
    let lower = Tar::default()
        .file("etc/old", b"")
        .file("etc/gone", b"")
        .file("dir/a", b"")
        .file("dir/b", b"")
        .file("again/old", b"")
        .file("hidden", b"")
        .end();
    let upper = Tar::default()
        .file("etc/.wh.gone", b"")
        .file("dir/.wh..wh..opq", b"")
        .file("dir/c", b"")
        .file(".wh.again", b"")
        .file("again/new", b"")
        .end();
    let image = fixture.image(&[lower.clone(), upper, lower_empty()], &["example.com/o:1"]);
    let root = fixture.store.hold(&image.id, "test").unwrap();
    assert_eq!(root.lowers.len(), 2, "the empty layer isn't mounted");
    let merged = fixture.directory.path().join("merged");
    fs::create_dir(&merged).unwrap();
    let lowers: Vec<_> = root.lowers.iter().map(|lower| lower.to_str().unwrap()).collect();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o"])
        .arg(format!("lowerdir={}", lowers.join(":")))
        .arg(&merged)
        .output()
        .unwrap();
    assert!(mounted.status.success(), "{mounted:?}");
    let found = [names(&merged), names(&merged.join("etc")), names(&merged.join("dir")), names(&merged.join("again"))];
    let unmounted = std::process::Command::new("umount").arg(&merged).status().unwrap();
    assert!(unmounted.success());
    assert_eq!(found[0], ["again", "dir", "etc", "hidden"]);
    assert_eq!(
        (&found[1][..], &found[2][..], &found[3][..]),
        (&["old".to_owned()][..], &["c".to_owned()][..], &["new".to_owned()][..])
    );
    // The same layer at the bottom and on top: overlayfs takes no directory twice.
    let top = Tar::default().file(".wh.hidden", b"").end();
    let twice = fixture.image(&[lower.clone(), top, lower], &["example.com/t:1"]);
    assert_eq!(fixture.store.hold(&twice.id, "twice").unwrap().lowers.len(), 2);
    let none = fixture.image(&[], &["example.com/none:1"]);
    let lowers = fixture.store.hold(&none.id, "none").unwrap().lowers;
    assert_eq!((lowers.len(), names(&lowers[0])), (1, vec![]));
}

fn lower_empty() -> Vec<u8> {
    Tar::default().end()
}

#[test]
fn what_is_exported_is_imported() {
    if !root_or_skip("what_is_exported_is_imported") {
        return;
    }
    let fixture = Fixture::new();
    let image = fixture
        .image(&[Tar::default().file("x", b"1").end(), Tar::default().file("y", b"2").end()], &["example.com/a:1"]);
    let mut archive = Vec::new();
    fixture.store.export(&[(&image, Some("example.com/a:1".to_owned()))], &mut archive).unwrap();
    for packed in [archive.clone(), gzip(&archive), zstd(&archive)] {
        let other = Fixture::new();
        let mut lease = other.store.lease();
        let imported = other.store.import(&mut Cursor::new(packed), &mut lease).unwrap();
        assert_eq!(imported.len(), 1);
        assert_eq!(
            (imported[0].manifest, &imported[0].names[..]),
            (image.manifest, &["example.com/a:1".to_owned()][..])
        );
        let committed = other.store.commit(imported[0].manifest, &imported[0].names).unwrap();
        assert_eq!(committed, image);
        other.nothing_half_made();
    }
}

#[test]
fn docker_archives_come_in() {
    if !root_or_skip("docker_archives_come_in") {
        return;
    }
    let layers = [Tar::default().file("x", b"1").end(), Tar::default().file("y", b"2").end()];
    let config = config(&layers);
    let contents = serde_json::json!([
        {"Config": "c.json", "RepoTags": ["a:1", "b:2"], "Layers": ["1/layer.tar", "2/layer.tar"]},
    ]);
    let archive = |contents: &str| {
        Tar::default()
            .file("c.json", &config)
            .dir("1")
            .file("1/layer.tar", &layers[0])
            .file("3/layer.tar", &layers[1])
            .symlink("2/layer.tar", "../3/layer.tar")
            .file("manifest.json", contents.as_bytes())
            .end()
    };
    let fixture = Fixture::new();
    let mut lease = fixture.store.lease();
    let mut import = |bytes: Vec<u8>| fixture.store.import(&mut Cursor::new(bytes), &mut lease);
    let imported = import(archive(&contents.to_string())).unwrap();
    assert_eq!(imported[0].names, ["a:1", "b:2"]);
    let image = fixture.store.commit(imported[0].manifest, &imported[0].names).unwrap();
    assert_eq!(image.id, Digest::of(&config).to_string());
    let refused = |result: Result<Vec<crate::Imported>, StoreError>, words: &str| {
        let text = chain(&result.unwrap_err());
        assert!(text.contains(words), "{text:?} doesn't say {words:?}");
    };
    refused(import(archive("[]")), "no image");
    refused(import(archive(r#"[{"Config": "../../etc/passwd", "Layers": []}]"#)), "no file");
    refused(import(archive(r#"[{"Config": "c.json", "Layers": ["1/layer.tar"]}]"#)), "1 layers");
    refused(import(archive(r#"{"#)), "manifest.json is wrong");
    refused(import(b"no archive at all".to_vec()), "broken");
    refused(import(Tar::default().file("x", b"").end()), "neither");
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    refused(import(archive(&nested)), "manifest.json is wrong");
    fixture.nothing_half_made();
}
