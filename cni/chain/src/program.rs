//! Plugins that are programs.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use cni_spec::{AddResult, Args, CniError, InterfaceName, PluginType};
use serde_json::Value;

use crate::request::NetworkError;

/// How long a plugin may take: the kubelet gives up on a sandbox after four minutes, and a list has several plugins.
const DEADLINE: Duration = Duration::from_secs(60);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// How often a program that has closed its output is asked whether it has ended.
const POLL: Duration = Duration::from_millis(1);

/// A command of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
}

impl Verb {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

/// One call of a plugin program.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) verb: Verb,
    pub(crate) plugin: &'a PluginType,
    pub(crate) bin_dirs: &'a [PathBuf],
    pub(crate) sandbox: &'a str,
    /// Empty where the namespace is gone.
    pub(crate) netns: &'a Path,
    pub(crate) interface: &'a InterfaceName,
    pub(crate) args: &'a Args,
    pub(crate) request: &'a Value,
}

fn find(plugin: &PluginType, dirs: &[PathBuf]) -> Result<PathBuf, NetworkError> {
    let found = dirs.iter().map(|dir| dir.join(plugin.as_str())).find(|path| path.is_file());
    found.ok_or_else(|| NetworkError::NoProgram { plugin: plugin.to_string(), dirs: dirs.to_vec() })
}

/// Runs the program to its end or its deadline. `None` where it answers nothing, as DEL does.
pub(crate) fn call(call: &Call<'_>) -> Result<Option<AddResult>, NetworkError> {
    call_within(call, DEADLINE)
}

fn call_within(call: &Call<'_>, deadline: Duration) -> Result<Option<AddResult>, NetworkError> {
    let program = find(call.plugin, call.bin_dirs)?;
    let plugin = || call.plugin.to_string();
    let failed = |source| NetworkError::Run { plugin: plugin(), source };
    let path = std::env::join_paths(call.bin_dirs).unwrap_or_default();
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", call.verb.text())
        .env("CNI_CONTAINERID", call.sandbox)
        .env("CNI_NETNS", call.netns)
        .env("CNI_IFNAME", call.interface.as_str())
        .env("CNI_ARGS", call.args.text())
        .env("CNI_PATH", path)
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let (ended, answer) = converse(&mut child, call.request.to_string().into_bytes(), deadline).map_err(failed)?;
    let command = call.verb.text();
    if !ended {
        return Err(NetworkError::Slow { plugin: plugin(), command, seconds: deadline.as_secs() });
    }
    let status = child.wait().map_err(failed)?;
    let refused = |problem: String| NetworkError::Answer { plugin: plugin(), command, problem };
    if !status.success() {
        return Err(match serde_json::from_slice::<CniError>(&answer) {
            Ok(source) => NetworkError::Refused { plugin: plugin(), command, source },
            Err(_) => refused(format!("{status} and no error in the specification's form")),
        });
    }
    if call.verb == Verb::Del || answer.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    serde_json::from_slice(&answer).map(Some).map_err(|error| refused(format!("JSON that isn't a result: {error}")))
}

/// Writes the request and reads the answer; a program that takes too long is killed. Answers whether it ended by itself.
fn converse(child: &mut Child, request: Vec<u8>, deadline: Duration) -> io::Result<(bool, Vec<u8>)> {
    let end = Instant::now() + deadline;
    let (sender, receiver) = mpsc::channel();
    if let Some(mut stdin) = child.stdin.take() {
        // On threads of their own: a program that doesn't read, or whose children keep its output open, holds up
        // neither the other direction nor the deadline.
        thread::Builder::new().name("cni-stdin".to_owned()).spawn(move || stdin.write_all(&request))?;
    }
    if let Some(stdout) = child.stdout.take() {
        thread::Builder::new().name("cni-stdout".to_owned()).spawn(move || {
            let mut answer = Vec::new();
            let read = stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
            // The other side gave up waiting.
            drop(sender.send(read.map(|_| answer)));
        })?;
    }
    let answer = receiver.recv_timeout(deadline);
    while answer.is_ok() && Instant::now() < end {
        if child.try_wait()?.is_some() {
            return Ok((true, answer.unwrap_or_else(|_| Ok(Vec::new()))?));
        }
        thread::park_timeout(POLL);
    }
    child.kill()?;
    child.wait()?;
    Ok((false, Vec::new()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn run(script: &str, verb: Verb) -> Result<Option<AddResult>, NetworkError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test-plugin");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let call = || {
            call_within(
                &Call {
                    verb,
                    plugin: &PluginType::parse("test-plugin").unwrap(),
                    bin_dirs: &[PathBuf::from("/nowhere"), dir.path().to_owned()],
                    sandbox: "ab",
                    netns: Path::new("/proc/1/ns/net"),
                    interface: &InterfaceName::parse("eth0").unwrap(),
                    args: &Args::parse("A=b").unwrap(),
                    request: &serde_json::json!({"cniVersion": "1.0.0", "name": "n", "type": "test-plugin"}),
                },
                Duration::from_secs(2),
            )
        };
        let mut answer = call();
        // Another test's child may hold the script open for writing until it executes (ETXTBSY).
        for _ in 0..100 {
            match &answer {
                Err(NetworkError::Run { source, .. }) if source.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now();
                    answer = call();
                }
                _ => break,
            }
        }
        answer
    }

    #[test]
    fn answers() {
        let good = r#"read -r x; echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/16"}]}'"#;
        assert_eq!(run(good, Verb::Add).unwrap().unwrap().ips.len(), 1);
        let words = r#"[ "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS" = "DEL ab eth0 A=b" ] && cat | grep -q test-plugin"#;
        assert!(run(words, Verb::Del).unwrap().is_none());
        let refusal = run(r#"echo '{"code":11,"msg":"later"}'; exit 1"#, Verb::Add).unwrap_err();
        assert!(matches!(&refusal, NetworkError::Refused { source, .. } if source.code == 11), "{refusal}");
        assert!(matches!(run("echo no; exit 1", Verb::Add), Err(NetworkError::Answer { .. })));
        assert!(matches!(run("echo '{}'", Verb::Add), Err(NetworkError::Answer { .. })));
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let start = Instant::now();
        assert!(matches!(run("exec sleep 60", Verb::Add), Err(NetworkError::Slow { .. })));
        assert!(matches!(run("exec >&-; exec sleep 60", Verb::Add), Err(NetworkError::Slow { .. })));
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn none_there() {
        let dirs = [PathBuf::from("/nowhere")];
        let error = find(&PluginType::parse("x").unwrap(), &dirs).unwrap_err().to_string();
        assert_eq!(error, "the network plugin x is in none of [\"/nowhere\"]");
    }
}
