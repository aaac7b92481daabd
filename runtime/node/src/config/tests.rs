use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser};

use super::{ConfigError, LogLevel, NodeArguments, NodeOptions, Settings, Switch};

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    node: NodeArguments,
}

fn settings(flags: &str, file: &str) -> Result<Settings, ConfigError> {
    let program =
        Program::try_parse_from(std::iter::once("test").chain(flags.split_whitespace())).expect("flags parse");
    program.node.options.over(NodeOptions::parse("config.toml", file)?).complete()
}

fn refused(flags: &str, file: &str) -> String {
    match settings(flags, file) {
        Ok(settings) => panic!("{flags} {file:?} was taken: {settings:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_defaults_are_those_of_the_manual() {
    let found = settings("", "").expect("defaults are valid");
    assert_eq!(found.listen.to_string(), "unix:///run/podwright/podwright.sock");
    assert_eq!(found.root, PathBuf::from("/var/lib/podwright"));
    assert_eq!(found.run, PathBuf::from("/run/podwright"));
    assert_eq!(found.registry_config, PathBuf::from("/etc/podwright/certs.d"));
    assert_eq!(found.pod_cidr.to_string(), "10.166.0.0/16");
    assert_eq!(found.cni_conf_dir, None);
    assert_eq!(found.bridge, "podwright0");
    assert_eq!(found.keeper, Switch::On);
    assert_eq!(super::CONFIG_FILE, "/etc/podwright/config.toml");
}

#[test]
fn a_flag_beats_the_file_and_the_file_beats_the_default() {
    let check = |flags: &str, file: &str, expected: &str| {
        assert_eq!(settings(flags, file).expect("valid").bridge, expected, "{flags} {file:?}");
    };
    check("", "", "podwright0");
    check("", "bridge = 'file0'", "file0");
    check("--bridge flag0", "bridge = 'file0'", "flag0");
    check("--bridge flag0", "", "flag0");
}

#[test]
fn the_socket_follows_the_run_directory() {
    let listen = |flags: &str, file: &str| settings(flags, file).expect("valid").listen.to_string();
    assert_eq!(listen("--run /run/other", ""), "unix:///run/other/podwright.sock");
    assert_eq!(listen("--run /run/other", "listen = 'unix:///x.sock'"), "unix:///x.sock");
}

#[test]
fn every_flag_is_a_key() {
    let flags = NodeOptions::augment_args(clap::Command::new("test"));
    for flag in flags.get_arguments().filter_map(|argument| argument.get_long()) {
        let text = match flag {
            "mtu" | "threads" => format!("{flag} = 2"),
            "log-level" => format!("{flag} = 'debug'"),
            "keeper" => format!("{flag} = 'off'"),
            "pod-cidr" => format!("{flag} = '10.1.0.0/16'"),
            "cdi-spec-dir" | "pin-image" => format!("{flag} = ['/some/where']"),
            "streaming-address" => format!("{flag} = '127.0.0.1:10010'"),
            _ => format!("{flag} = '/some/where'"),
        };
        let parsed = NodeOptions::parse("config.toml", &text);
        assert!(parsed.is_ok_and(|parsed| parsed != NodeOptions::default()), "{flag} is no key");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let check = |file: &str, expected: &str| {
        let message = refused("", file);
        assert!(message.starts_with(expected), "{message:?} does not start with {expected:?}");
    };
    check(
        "bridge = 'a'\n\npod-cird = '10.0.0.0/8'\n",
        "config.toml:3: unknown field `pod-cird`, expected one of `listen`",
    );
    check("log-level = 'loud'", "config.toml:1: unknown variant `loud`");
    check("bridge = 'a'\npod-cidr = '10.0.0.0/33'", "config.toml:2: ");
    check("pod-cidr = 'garbage'", "config.toml:1: invalid IP address syntax; it says `pod-cidr = 'garbage'`");
    check("listen = 'tcp://1'", "config.toml:1: \"tcp://1\" is no address");
    check("bridge = 'a'\nbridge = 'b'", "config.toml:2: duplicate key");
}

#[test]
fn values_that_can_not_work_are_refused() {
    for (flags, word) in [
        ("--bridge sixteen-letters-", "--bridge"),
        ("--bridge a/b", "--bridge"),
        ("--pod-cidr 10.0.0.0/31", "too small"),
        ("--pod-cidr 0.0.0.0/0", "no network"),
        ("--pod-cidr 127.0.0.0/16", "no network"),
        ("--threads 0", "--threads"),
        ("--mtu 10", "--mtu"),
        ("--cgroup-root podwright", "--cgroup-root"),
        ("--cgroup-root /a/../b", "--cgroup-root"),
        ("--cgroup-root /", "--cgroup-root"),
    ] {
        let message = refused(flags, "");
        assert!(message.contains(word), "{flags}: {message}");
    }
}

#[test]
fn flags_of_a_background_node_say_the_same() {
    let text = "--bridge b0 --run /r --root /s --pod-cidr 10.1.0.0/24 --mtu 1400 --node-name n --log-level debug \
                --keeper off --cgroup-root /c/d --manifests /m --supervisor /p --cni-conf-dir /c --threads 3 \
                --pin-image a:1,b:2 --cdi-spec-dir /d,/e";
    let first = settings(text, "").expect("valid");
    assert_eq!(first.log_level, Some(LogLevel::Debug));
    assert_eq!(settings(&first.flags().join(" "), "").expect("valid"), first);
    // As few words as possible, none of them empty: an image of no name would keep the node in the background from starting.
    let none = settings("", "").expect("valid");
    assert!(none.flags().iter().all(|word| !word.is_empty()), "{:?}", none.flags());
    assert_eq!(settings(&none.flags().join(" "), "").expect("valid"), none);
}

#[test]
fn an_absent_file_is_no_error() {
    let matches = Program::command().get_matches_from(["test", "--config", "/nonexistent/podwright.toml"]);
    let program = Program::from_arg_matches(&matches).expect("flags parse");
    assert!(program.node.settings().is_ok());
}

#[test]
fn a_missing_supervisor_is_named() {
    let found = settings("--supervisor /nonexistent/podwright-pod", "").expect("valid");
    let message = found.supervisor_program().expect_err("it isn't there").to_string();
    assert!(message.contains("/nonexistent/podwright-pod") && message.contains("cargo build"), "{message}");
}
