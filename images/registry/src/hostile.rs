//! Nothing that comes from outside can make the parsers panic.

use proptest::prelude::*;
use reqwest::header::{HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE};

use crate::manifest::{Document, Platform, choose, parse_document};
use crate::reference::Reference;

/// JSON in which every string, number and key may be anything, among keys that mean something.
fn json() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        proptest::sample::select(vec![
            "schemaVersion",
            "mediaType",
            "manifests",
            "layers",
            "config",
            "digest",
            "size",
            "platform",
            "os",
            "architecture",
            "variant",
            "annotations",
            "urls",
            "data",
            "subject",
        ])
        .prop_map(ToOwned::to_owned),
        ".{0,8}",
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        Just(2.into()),
        ".{0,80}".prop_map(Into::into),
        "sha256:[0-9a-f]{63,65}".prop_map(Into::into),
        Just(crate::manifest::OCI_INDEX.into()),
        Just("application/vnd.oci.image.layer.v1.tar".into()),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            proptest::collection::hash_map(key.clone(), inner, 0..8)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
    .prop_map(|value: serde_json::Value| value.to_string())
}

proptest! {
    #[test]
    fn documents(text in json(), claimed in proptest::option::of(".{0,60}")) {
        if let Ok(Document::Index(index)) = parse_document(text.as_bytes(), claimed.as_deref()) {
            let _ = choose(&index, &Platform::host());
        }
    }

    #[test]
    fn bytes_as_documents(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse_document(&bytes, None).is_err());
    }

    #[test]
    fn references(text in prop_oneof![".{0,60}", "[a-zA-Z0-9./:@_-]{0,60}"]) {
        if let Ok(reference) = text.parse::<Reference>() {
            // What is taken is written in one way only, and its registry makes a URL.
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            prop_assert!(crate::hosts::endpoints(None, reference.registry()).is_ok(), "{}", reference);
        }
    }

    #[test]
    fn headers(value in prop_oneof!["[ -~]{0,80}", "(Bearer|Basic|[=\",\\\\ ]|realm|https://a){0,20}"]) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, value.clone()), (LOCATION, value)]);
            crate::token::challenges(&headers);
            let _ = crate::net::redirect_target(&"https://a.example/v2/".parse().unwrap(), &headers);
        }
    }
}
