use super::*;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn descriptor(media_type: &str, digest: &str, more: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":7{more}}}"#)
}

fn manifest(media_type: &str, layers: &[String], more: &str) -> String {
    let config = descriptor(CONFIGS[0], A, "");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{}]{more}}}"#,
        layers.join(",")
    )
}

fn index(entries: &[String]) -> String {
    format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, entries.join(","))
}

fn for_platform(digest: &str, os: &str, architecture: &str, variant: &str) -> String {
    let variant = if variant.is_empty() { String::new() } else { format!(r#","variant":"{variant}""#) };
    let platform = format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"{variant}}}"#);
    descriptor(OCI_MANIFEST, digest, &platform)
}

fn refused(text: &str, claimed: Option<&str>) -> String {
    match parse_document(text.as_bytes(), claimed) {
        Ok(document) => panic!("taken: {document:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn both_families_are_taken() {
    let layer = descriptor(LAYERS[1], B, "");
    for media_type in [OCI_MANIFEST, DOCKER_MANIFEST] {
        let text = manifest(media_type, std::slice::from_ref(&layer), "");
        for claimed in [None, Some(media_type)] {
            assert!(matches!(parse_document(text.as_bytes(), claimed), Ok(Document::Manifest(_))), "{media_type}");
        }
    }
    // An OCI document may leave its type to the transport.
    let untyped = index(&[]).replace(&format!(r#""mediaType":"{OCI_INDEX}","#), "");
    for claimed in [None, Some(OCI_INDEX), Some(DOCKER_LIST)] {
        assert!(matches!(parse_document(untyped.as_bytes(), claimed), Ok(Document::Index(_))), "{claimed:?}");
    }
}

#[test]
fn documents_that_could_be_read_in_two_ways_are_refused() {
    let plain = manifest(OCI_MANIFEST, &[], "");
    for (text, claimed, says) in [
        (manifest(OCI_MANIFEST, &[], r#","manifests":[]"#), None, "both manifests and layers"),
        (plain.clone(), Some(OCI_INDEX), "by the registry"),
        (plain.clone(), Some(DOCKER_MANIFEST), "by the registry"),
        (plain.clone(), Some("text/html"), "by the registry"),
        (manifest(OCI_INDEX, &[], ""), None, "by itself"),
        (manifest(OCI_MANIFEST, &[], r#","layers":[]"#), None, "duplicate field"),
        (manifest(OCI_MANIFEST, &[], r#","schemaVersion":2"#), None, "duplicate field"),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), None, "schema 1"),
        (r#"{"schemaVersion":2}"#.into(), Some(DOCKER_SCHEMA1[1]), "schema 1"),
        (r#"{"schemaVersion":3,"manifests":[]}"#.into(), None, "schemaVersion is 3"),
        (r#"{"schemaVersion":2}"#.into(), None, "neither"),
        (r#"{"schemaVersion":1e999}"#.into(), None, "not a manifest"),
        ("[".repeat(10_000), None, "not a manifest"),
        (format!(r#"{{"schemaVersion":2,"x":{}"#, "[".repeat(10_000)), None, "not a manifest"),
        (String::new(), None, "not a manifest"),
        ("null".into(), None, "not a manifest"),
    ] {
        let error = refused(&text, claimed);
        assert!(error.contains(says), "{error} for {text:.80}");
        assert!(error.len() < 600, "{} bytes", error.len());
    }
}

#[test]
fn blobs_of_a_manifest_are_checked() {
    let big = descriptor(LAYERS[0], B, "").replace(":7", ":99999999999999");
    for (layer, says) in [
        (descriptor(FOREIGN_LAYERS[3], B, r#","urls":["http://169.254.169.254/"]"#), "foreign layer"),
        (descriptor(FOREIGN_LAYERS[0], B, ""), "foreign layer"),
        (descriptor("application/octet-stream", B, ""), "unsupported media type"),
        (descriptor(LAYERS[0], "sha256:../..", ""), "not a manifest"),
        (descriptor(LAYERS[0], "sha256:", ""), "not a manifest"),
        (descriptor(LAYERS[0], &A[..70], ""), "not a manifest"),
        (descriptor(LAYERS[0], &A.to_uppercase(), ""), "not a manifest"),
        (descriptor(LAYERS[0], "md5:d41d8cd98f00b204e9800998ecf8427e", ""), "algorithm"),
        (descriptor(LAYERS[0], B, "").replace(":7", ":-1"), "not a manifest"),
        (big, "more than"),
    ] {
        let error = refused(&manifest(OCI_MANIFEST, std::slice::from_ref(&layer), ""), None);
        assert!(error.contains(says), "{error} for {layer}");
    }
    let helm = manifest(OCI_MANIFEST, &[], "").replace(CONFIGS[0], "application/vnd.cncf.helm.config.v1+json");
    assert!(refused(&helm, None).contains("no container image"));
    let many = vec![descriptor(LAYERS[1], B, ""); 10_000];
    assert!(refused(&manifest(OCI_MANIFEST, &many, ""), None).contains("10000 layers"));
    assert!(refused(&index(&many), None).contains("10000 entries"));
}

fn chosen(entries: &[String], architecture: &str, variant: Option<&str>) -> Result<String, String> {
    let platform = Platform { architecture: architecture.to_owned(), variant: variant.map(ToOwned::to_owned) };
    match parse_document(index(entries).as_bytes(), None) {
        Ok(Document::Index(index)) => match choose(&index, &platform) {
            Ok(entry) => Ok(entry.digest().to_string()),
            Err(error) => Err(error.to_string()),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_best_variant_that_runs_is_chosen() {
    let arm = |digest: &str, variant: &str| for_platform(digest, "linux", "arm", variant);
    for (entries, architecture, variant, digest) in [
        (vec![for_platform(A, "linux", "arm64", "v8"), for_platform(B, "linux", "amd64", "")], "amd64", None, B),
        (vec![for_platform(A, "windows", "amd64", ""), for_platform(B, "linux", "amd64", "")], "amd64", None, B),
        (vec![arm(A, "v6"), arm(B, "v7")], "arm", Some("v7"), B),
        (vec![arm(A, "v6"), arm(B, "v7")], "arm", Some("v6"), A),
        (vec![arm(A, "v5")], "arm", Some("v7"), A),
        (vec![for_platform(A, "linux", "arm64", "")], "arm64", Some("v8"), A),
        (vec![for_platform(A, "linux", "amd64", "v3"), for_platform(B, "linux", "amd64", "")], "amd64", None, B),
        (vec![for_platform(A, "linux", "amd64", ""), for_platform(B, "linux", "amd64", "")], "amd64", None, A),
        (vec![descriptor(OCI_MANIFEST, A, "")], "amd64", None, A),
        (vec![descriptor("application/x", A, ""), for_platform(B, "linux", "amd64", "")], "amd64", None, B),
    ] {
        assert_eq!(chosen(&entries, architecture, variant).as_deref(), Ok(digest), "{entries:?}");
    }
}

#[test]
fn an_index_without_our_platform_says_what_it_has() {
    let entries = [for_platform(A, "linux", "s390x", ""), for_platform(B, "unknown", "unknown", "")];
    let error = chosen(&entries, "amd64", None).unwrap_err();
    assert_eq!(error, "it has no image for linux/amd64; it has linux/s390x");
    assert!(chosen(&[for_platform(A, "linux", "arm", "v7")], "arm", Some("v6")).is_err());
    assert!(chosen(&[for_platform(A, "linux", "arm", "vx")], "arm", Some("v7")).is_err());
    assert!(chosen(&[], "amd64", None).is_err());
}
