use std::time::Duration;

use super::{Document, MANIFEST_BYTES_MAX, parse};
use crate::pod::{EnvironmentSource, FieldPath, Pod, ProbeHandler, PullPolicy, RestartPolicy, VolumeSource};

fn pod(text: &str) -> Pod {
    match parse("p.yaml", text).unwrap_or_else(|error| panic!("{error}")).remove(0) {
        Document::Pod(pod) => *pod,
        other => panic!("{other:?}"),
    }
}

fn spec(text: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n{text}\n")
}

/// One mistake, at that place, that says so.
fn wrong(text: &str, place: &str, says: &str) {
    let error = parse("p.yaml", text).expect_err(text);
    assert_eq!(error.0.len(), 1, "{error}");
    let message = error.to_string();
    assert!(message.starts_with(&format!("p.yaml{place}")), "{message}\nwanted the place {place}");
    assert!(message.contains(says), "{message}\nwanted: {says}");
}

#[test]
fn defaults_are_those_of_the_api_server() {
    let pod = pod(&spec(
        "  containers:\n  - name: c\n    image: r.test/app\n    ports: [{containerPort: 80, name: web}]\n    livenessProbe: {httpGet: {port: web}}",
    ));
    assert_eq!((pod.metadata.namespace.as_str(), pod.hostname.as_str()), ("default", "p"));
    assert_eq!(pod.metadata.uid.len(), 36);
    assert_eq!(pod.restart_policy, RestartPolicy::Always);
    assert_eq!(pod.grace, Duration::from_secs(30));
    let container = &pod.containers[0];
    assert_eq!(container.pull_policy, PullPolicy::Always);
    let probe = container.liveness.as_ref().unwrap();
    assert_eq!((probe.period, probe.timeout), (Duration::from_secs(10), Duration::from_secs(1)));
    assert_eq!((probe.success_threshold, probe.failure_threshold), (1, 3));
    match &probe.handler {
        ProbeHandler::Http(get) => assert_eq!((get.port, get.path.as_str()), (80, "/")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_pull_policy_follows_the_tag() {
    for (image, want) in [
        ("app", PullPolicy::Always),
        ("r.test:5000/app", PullPolicy::Always),
        ("app:latest", PullPolicy::Always),
        ("app:1", PullPolicy::IfNotPresent),
        ("r.test:5000/app:1", PullPolicy::IfNotPresent),
        ("app@sha256:00", PullPolicy::IfNotPresent),
    ] {
        assert_eq!(
            pod(&spec(&format!("  containers: [{{name: c, image: \"{image}\"}}]"))).containers[0].pull_policy,
            want,
            "{image}"
        );
    }
}

#[test]
fn a_rich_pod_is_read() {
    let pod = pod(&spec(
        r#"  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 5
  securityContext: {runAsUser: 1000, runAsNonRoot: true}
  hostAliases: [{ip: 10.0.0.1, hostnames: [db, db.test]}]
  dnsConfig: {nameservers: [10.0.0.53], options: [{name: ndots, value: "2"}]}
  initContainers:
  - {name: side, image: i:1, restartPolicy: Always}
  containers:
  - name: c
    image: i:1
    command: [/app]
    env:
    - {name: A, value: "1"}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    securityContext: {runAsUser: 2000, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: data, mountPath: /data, readOnly: true}]
    lifecycle: {preStop: {sleep: {seconds: 3}}}
  volumes:
  - name: data
    emptyDir: {medium: Memory, sizeLimit: 1Mi}"#,
    ));
    let container = &pod.containers[0];
    assert!(pod.init_containers[0].sidecar);
    assert_eq!(container.security.runs_as.user, Some(2000));
    assert!(container.security.runs_as.non_root);
    assert_eq!(container.env[1].source, EnvironmentSource::Field(FieldPath::PodIp));
    assert_eq!(container.env[2].source, EnvironmentSource::Resource("64".to_owned()));
    assert_eq!(container.resources.cpu_request_milli, Some(500));
    assert!(matches!(pod.volumes[0].source, VolumeSource::EmptyDir { size_bytes_max: Some(1_048_576), .. }));
    assert_eq!(pod.dns.options, ["ndots:2"]);
}

#[test]
fn the_revision_follows_the_content_and_the_uid_the_name() {
    let text = spec("  containers: [{name: c, image: i}]");
    let one = pod(&text);
    let same = pod(&format!("# a comment\n\n{text}"));
    let other = pod(&text.replace("image: i", "image: j"));
    assert_eq!(one.revision, same.revision);
    assert_ne!(one.revision, other.revision);
    assert_eq!(one.metadata.uid, other.metadata.uid);
    assert_ne!(one.metadata.uid, pod(&text.replace("name: p", "name: q")).metadata.uid);
}

#[test]
fn json_and_several_documents() {
    let json = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}"#;
    assert_eq!(pod(json).metadata.name, "p");
    let text = format!(
        "---\n{}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{key: hunter2}}\n---\n",
        spec("  containers: [{name: c, image: i}]")
    );
    let documents = parse("p.yaml", &text).unwrap();
    assert_eq!(documents.len(), 2);
    assert!(!format!("{documents:?}").contains("hunter2"));
}

#[test]
fn mistakes_say_where_and_what() {
    let container = "  containers:\n  - name: c\n    image: i\n";
    wrong(
        &spec("  containers:\n  - name: c\n    image: i\n    imagePullPolcy: Always"),
        ":9:5",
        "unknown field `imagePullPolcy`; did you mean `imagePullPolicy`?",
    );
    wrong(
        &spec(&format!("{container}  affinity: {{nodeAffinity: {{}}}}")),
        ":9:3",
        "field `spec.affinity` is not supported",
    );
    wrong(&spec(&format!("{container}  restartPolicy: always")), ":9:18", "did you mean `Always`?");
    wrong(&spec("  containers: [{name: C, image: i}]"), ":6:23", "\"C\" is not valid");
    wrong(&spec("  containers: [{name: c}]"), ":6:16", "spec.containers[0].image: is required");
    wrong(&spec("  containers: []"), ":6:15", "at least one container");
    wrong(
        &spec("  containers: [{name: c, image: i}, {name: c, image: i}]"),
        ":6:3",
        "two containers have the name `c`",
    );
    wrong(&spec("  containers: [{name: c, image: i, ports: [{containerPort: 70000}]}]"), ":6:", "from 1 to 65535");
    wrong(&spec("  containers: [{name: c, image: i, env: [{name: A, value: 5}]}]"), ":6:", "put it in quotes");
    wrong(
        &spec("  containers: [{name: c, image: i, resources: {limits: {memory: 64Mb}}}]"),
        ":6:",
        "is not a quantity",
    );
    wrong(
        &spec("  containers: [{name: c, image: i, livenessProbe: {httpGet: {port: web}}}]"),
        ":6:",
        "nor the name of one of the container's ports",
    );
    wrong(
        &spec("  containers: [{name: c, image: i, livenessProbe: {successThreshold: 2, exec: {command: [x]}}}]"),
        ":6:",
        "must be 1",
    );
    wrong(&spec("  containers: [{name: c, image: i, livenessProbe: {}}]"), ":6:", "exactly one of");
    wrong(
        &spec(
            "  containers: [{name: c, image: i, volumeMounts: [{name: dta, mountPath: /d}]}]\n  volumes: [{name: data, emptyDir: {}}]",
        ),
        ":6:",
        "did you mean `data`?",
    );
    wrong(
        &spec(
            "  containers: [{name: c, image: i, volumeMounts: [{name: d, mountPath: /d, subPath: x}]}]\n  volumes: [{name: d, emptyDir: {}}]",
        ),
        ":6:",
        "sub-paths come later",
    );
    wrong(
        &spec("  containers: [{name: c, image: i}]\n  volumes: [{name: v, hostPath: {path: /a/../b}}]"),
        ":7:",
        "not hold `..`",
    );
    wrong(&spec("  containers: [{name: c, image: i}]\n  volumes: [{name: v, gitRepo: {repository: x}}]"), ":7:", "");
    wrong(
        &spec("  containers: [{name: c, image: i, securityContext: {seccompProfile: {type: Localhost}}}]"),
        ":6:",
        "Localhost",
    );
    wrong(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n",
        ":2:7",
        "write its pod template as `kind: Pod`",
    );
    wrong("apiVersion: v1\nkind: Pood\n", ":2:7", "did you mean `Pod`?");
    wrong("apiVersion: v2\nkind: Pod\n", ":1:13", "`apiVersion: v1`");
    wrong("", "", "holds no document");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = spec("  contaners: []\n  containers: [{name: c, image: i, comand: [x]}]\n  hostNetwork: maybe");
    let error = parse("p.yaml", &text).unwrap_err();
    let places: Vec<u64> = error.0.iter().map(|mistake| mistake.line).collect();
    assert_eq!(places, [6, 7, 8], "{error}");
}

#[test]
fn hostile_text_is_refused() {
    wrong(&spec("  containers: [{name: c, image: i, image: j}]"), ":6:", "");
    wrong(&"x".repeat(MANIFEST_BYTES_MAX + 1), "", "at most");
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in b'b'..b'k' {
        let (name, below) = (char::from(level), char::from(level - 1));
        let list = vec![format!("*{below}"); 10].join(", ");
        bomb.push_str(&format!("{name}: &{name} [{list}]\n"));
    }
    assert!(parse("p.yaml", &bomb).is_err());
    let deep = format!("a: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    wrong(&deep, "", "is not valid YAML");
    let block: String = (0..5_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).take(1_000).collect();
    assert!(parse("p.yaml", &block).is_err());
    for text in ["\0", "a: !!binary x", "*x", "{", "a: b: c", "? a", "%YAML 9", "\u{feff}", "- 1", "5", "a: .nan"] {
        assert!(parse("p.yaml", text).is_err(), "{text:?}");
    }
}

#[test]
fn nothing_that_is_cut_or_bent_makes_it_panic() {
    let text = spec(
        "  containers:\n  - name: c\n    image: i\n    ports: [{containerPort: 80}]\n    env: [{name: A, value: \"$(B)\"}]",
    );
    for cut in 0..text.len() {
        drop(parse("p.yaml", &text[..cut]));
        for letter in ["\"", "[", "{", ":", "&a ", "*a", "\n", "\t", "-", "~"] {
            drop(parse("p.yaml", &format!("{}{letter}{}", &text[..cut], &text[cut..])));
        }
    }
}
