use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::{Cli, PodName, PodOrId, Ports, Until, Verb, duration};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn what_is_taken() {
    for line in [
        "podwright run examples/hello.yaml",
        "podwright run a.yaml b.yaml --detach --timeout 90s",
        "podwright run - --until ready --run /run/other --root /var/lib/other --pod-cidr 10.9.0.0/16 --bridge b0",
        "podwright apply -f a.yaml",
        "podwright apply a.yaml",
        "podwright ps -o json",
        "podwright logs -f hello -c web --tail 10 -t",
        "podwright logs --previous kube-system/dns",
        "podwright exec hello -c web -- /podwright demo true",
        "podwright exec hello -- sh -c exit",
        "podwright exec -it hello -c web -- sh",
        "podwright exec -i 3fa9 --timeout 5s -- cat",
        "podwright attach -it hello -c web",
        "podwright attach system/dns",
        "podwright port-forward hello 8080 9090:80 :443 --bind 0.0.0.0 --bind ::1",
        "podwright delete hello other/name --grace 1s",
        "podwright pull docker.io/library/debian:12",
        "podwright images",
        "podwright import image.tar --name demo:1",
        "podwright export -o out.tar demo:1 other:2",
        "podwright rmi demo:1",
        "podwright tag demo:1 demo:2",
        "podwright prune",
        "podwright info --address unix:///x.sock",
        "podwright --address unix:///x.sock version",
        "podwright check a.yaml",
        "podwright node --listen unix:///run/podwright/podwright.sock --root /var/lib/podwright --run /run/podwright \
         --registry-config /etc/podwright/certs.d --pod-cidr 10.166.0.0/16 --config /etc/podwright/config.toml",
        "podwright kubelet --manifests /etc/manifests --runtime-endpoint unix:///run/containerd/containerd.sock",
        "podwright cleanup --images --run /run/other",
        "podwright completions bash",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn what_is_refused() {
    for line in [
        "podwright",
        "podwright run",
        "podwright exec hello",
        "podwright exec hello true",
        "podwright attach",
        "podwright attach hello -- sh",
        "podwright port-forward hello",
        "podwright port-forward hello 0",
        "podwright port-forward hello 8080:",
        "podwright port-forward hello 8080:65536",
        "podwright port-forward hello +80",
        "podwright port-forward hello 80 --bind localhost",
        "podwright logs a/b/c",
        "podwright node --pod-cidr 10.0.0.0/40",
        "podwright node --listen tcp://127.0.0.1:1",
        "podwright kubelet",
        "podwright run a.yaml --timeout soon",
        "podwright completions nosuchshell",
    ] {
        assert!(parse(line).is_err(), "{line} was taken");
    }
}

#[test]
fn flags_reach_their_verb() {
    let Verb::Run(run) = parse("podwright run a.yaml --until ready --timeout 5 --bridge b0").expect("valid").verb
    else {
        panic!("not run");
    };
    assert_eq!((run.until, run.timeout), (Until::Ready, Some(Duration::from_secs(5))));
    assert_eq!(run.node.options.bridge.as_deref(), Some("b0"));

    let Verb::Exec(exec) = parse("podwright exec hello -- cat -n").expect("valid").verb else { panic!("not exec") };
    assert_eq!(exec.command, ["cat", "-n"]);
}

#[test]
fn pods_are_named_with_and_without_namespace() {
    let check = |text: &str, namespace: &str, name: &str, shown: &str| {
        let pod: PodName = text.parse().expect("valid");
        assert_eq!((pod.namespace.as_str(), pod.name.as_str()), (namespace, name));
        assert_eq!(pod.to_string(), shown);
    };
    check("hello", "default", "hello", "hello");
    check("default/hello", "default", "hello", "hello");
    check("system/dns", "system", "dns", "system/dns");
}

#[test]
fn what_may_be_an_id_is_also_a_name() {
    let check = |text: &str, id: Option<&str>| {
        let pod: PodOrId = text.parse().expect("valid");
        assert_eq!((pod.id.as_deref(), pod.pod.name.as_str()), (id, text.rsplit('/').next().expect("a name")));
    };
    check("beef01", Some("beef01"));
    check("hello", None);
    check("default/beef01", None);
}

#[test]
fn ports_of_both_sides() {
    let check = |text: &str, local: u16, remote: u16| assert_eq!(text.parse(), Ok(Ports { local, remote }));
    check("80", 80, 80);
    check("8080:80", 8080, 80);
    check(":80", 0, 80);
    check("0:80", 0, 80);
}

#[test]
fn times() {
    assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert!(duration("-1s").is_err());
    assert!(duration("").is_err());
}
