use super::*;

fn parsed(registry: &str, text: &str) -> Result<Vec<Endpoint>, String> {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join(registry);
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), text).unwrap();
    endpoints(Some(directory.path()), registry).map_err(|error| error.to_string())
}

fn bases(endpoints: &[Endpoint]) -> Vec<&str> {
    endpoints.iter().map(|endpoint| endpoint.base.as_str()).collect()
}

#[test]
fn without_settings_the_registry_itself_is_asked() {
    for (registry, base) in [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("registry.k8s.io", "https://registry.k8s.io/v2"),
        ("example.org:5000", "https://example.org:5000/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("127.0.0.1:5005", "http://127.0.0.1:5005/v2"),
        ("localhost", "https://localhost/v2"),
        ("127.0.0.1:443", "https://127.0.0.1/v2"),
    ] {
        let found = endpoints(None, registry).unwrap();
        assert_eq!(bases(&found), [base]);
        assert!(found[0].is_upstream && found[0].namespace.is_none());
    }
}

#[test]
fn mirrors_keep_the_order_of_the_file_and_the_server_is_last() {
    let found = parsed(
        "docker.io",
        r#"
        server = "https://registry-1.docker.io"
        [host."https://zzz.example"]
          capabilities = ["pull", "resolve"]
        [host."http://10.0.0.1:5000"]
          capabilities = ["pull"]
          skip_verify = true
        [host."aaa.example/proxy/"]
        [host."https://mmm.example/v2/cache"]
          override_path = true
          ca = "ca.pem"
          client = [["c.pem", "k.pem"], "/abs/both.pem"]
          dial_timeout = "2s"
          [host."https://mmm.example/v2/cache".header]
            x-one = "1"
            x-two = ["2", "3"]
        "#,
    )
    .unwrap();
    assert_eq!(
        bases(&found),
        [
            "https://zzz.example/v2",
            "http://10.0.0.1:5000/v2",
            "https://aaa.example/proxy/v2",
            "https://mmm.example/v2/cache",
            "https://registry-1.docker.io/v2"
        ]
    );
    assert_eq!(
        found.iter().map(|endpoint| endpoint.is_upstream).collect::<Vec<_>>(),
        [false, false, false, false, true]
    );
    assert_eq!(found[1].capabilities, Capabilities { pull: true, resolve: false });
    assert!(found[1].tls.skip_verify && !found[0].tls.skip_verify);
    let full = &found[3];
    assert!(full.tls.authorities[0].ends_with("docker.io/ca.pem"));
    assert!(full.tls.identities[0].1.as_ref().unwrap().ends_with("docker.io/k.pem"));
    assert_eq!(full.tls.identities[1], (PathBuf::from("/abs/both.pem"), None));
    assert_eq!(full.header.get_all("x-two").iter().count(), 2);
    assert_eq!(full.dial_timeout, Some(Duration::from_secs(2)));
    assert_eq!(full.namespace.as_deref(), Some("docker.io"));
    assert_eq!(found[4].namespace, None);
    assert!(!format!("{full:?}").contains("\"3\""), "header values may be tokens");
}

#[test]
fn the_server_alone_and_the_default_directory() {
    let found = parsed("example.org:5000", "server = \"http://10.1.2.3:80\"\nskip_verify = true\n").unwrap();
    assert_eq!(bases(&found), ["http://10.1.2.3/v2"]);
    assert!(found[0].is_upstream && found[0].tls.skip_verify);
    assert_eq!(found[0].namespace.as_deref(), Some("example.org:5000"));
    // A server that is listed as a host too is asked once.
    let twice = "server = \"https://m.example\"\n[host.\"https://m.example\"]\n";
    assert_eq!(bases(&parsed("quay.io", twice).unwrap()), ["https://m.example/v2"]);

    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, host: &str| {
        std::fs::create_dir(directory.path().join(name)).unwrap();
        let text = format!("[host.\"http://{host}\"]\n");
        std::fs::write(directory.path().join(name).join("hosts.toml"), text).unwrap();
    };
    write("_default", "default.example");
    write("127.0.0.1:5000", "colon.example");
    let first = |registry: &str| bases(&endpoints(Some(directory.path()), registry).unwrap())[0].to_owned();
    assert_eq!(first("anything.example"), "http://default.example/v2");
    assert_eq!(first("127.0.0.1:5000"), "http://colon.example/v2");
    write("127.0.0.1_5000_", "underscore.example");
    assert_eq!(first("127.0.0.1:5000"), "http://underscore.example/v2");
    assert_eq!(first("127.0.0.1:5001"), "http://default.example/v2");
}

#[test]
fn dockers_certificates_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("quay.io");
    std::fs::create_dir(&own).unwrap();
    for name in ["a.crt", "b.crt", "me.cert", "me.key", "README"] {
        std::fs::write(own.join(name), "").unwrap();
    }
    let tls = &endpoints(Some(directory.path()), "quay.io").unwrap()[0].tls;
    assert_eq!(tls.authorities, [own.join("a.crt"), own.join("b.crt")]);
    assert_eq!(tls.identities, [(own.join("me.cert"), Some(own.join("me.key")))]);
}

#[test]
fn a_wrong_file_is_named_with_its_line() {
    for (text, place, says) in [
        ("server = \"https://a\"\n[host.\"https://b\"]\ncapabilites = [\"pull\"]\n", ":3:", "capabilites"),
        ("\n[host.\"https://b\"]\ncapabilities = [\"pul\"]\n", ":3:", "unknown capability"),
        ("[host.\"https://b\"]\n[host.\"https://b\"]\n", ":2:", "duplicate"),
        ("server = \n", ":1:", ""),
        ("\nserver = \"ftp://x\"\n", ":2:", "only http and https"),
        ("\n\n[host.\"https://u:p@b\"]\n", ":3:", "more than scheme"),
        ("[host.\"https://b\"]\nskip_verify = \"yes\"\n", ":2:", "expected a boolean"),
        ("[host.\"https://b\"]\nca = 7\n", ":2:", "a text or a list of texts"),
        ("[host.\"https://b\"]\nclient = [7]\n", ":2:", "expected a file"),
        ("[host.\"https://b\"]\ndial_timeout = \"soon\"\n", ":2:", "no duration"),
        ("[host.\"https://b\".header]\n\"a b\" = \"c\"\n", "", "no header name"),
        ("[host.\"https://b\"]\nclient = [[\"only\"]]\n", "", "pairs of a certificate"),
    ] {
        let error = parsed("quay.io", text).expect_err(text);
        assert!(error.contains(&format!("quay.io/hosts.toml{place}")) && error.contains(says), "{error} for {text}");
        assert!(!error.contains("u:p"), "{error}");
    }
    let many: String = (0..40).map(|n| format!("[host.\"https://m{n}\"]\n")).collect();
    assert!(parsed("quay.io", &many).unwrap_err().contains("more than 32"));
    let long = format!("#{}", "x".repeat(300_000));
    assert!(parsed("quay.io", &long).unwrap_err().contains("more than 262144 bytes"));
}

#[test]
fn durations_are_gos() {
    for (text, milliseconds) in [
        ("500ms", Some(500)),
        ("10s", Some(10_000)),
        ("1m30s", Some(90_000)),
        ("1.5s", Some(1500)),
        ("1h", Some(3_600_000)),
    ] {
        assert_eq!(duration(text), milliseconds.map(Duration::from_millis), "{text}");
    }
    for text in ["", "10", "s", "-1s", "1..5s", "1d", "1e400s", "1s2"] {
        assert_eq!(duration(text), None, "{text}");
    }
}
