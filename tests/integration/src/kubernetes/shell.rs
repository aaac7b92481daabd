//! Commands as a person types them, each with a deadline.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// How long a command may take that says nothing else.
const LIMIT: Duration = Duration::from_secs(90);
/// Between two looks at something that changes: a kubectl costs 50 ms of a processor.
const LOOK: Duration = Duration::from_millis(700);

/// Says that a case can't be run here, and why.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// What a command came to.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its exit code; 124 when its time was up.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

/// A shell in the manifests' directory whose kubectl works in one namespace.
#[derive(Debug, Clone)]
pub struct Shell {
    /// The kubeconfig of that namespace.
    pub kubeconfig: PathBuf,
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// PATH.
    pub path: String,
    /// The namespace.
    pub namespace: String,
    /// A directory for the case's own files, `$SCRATCH` in commands.
    pub scratch: PathBuf,
}

impl Shell {
    /// A command to be started: `sh -c text` with a deadline.
    pub fn command(&self, text: &str, limit: Duration) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=2", &limit.as_secs().to_string(), "sh", "-c", text])
            .current_dir(&self.manifests)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PATH", &self.path)
            .env("NAMESPACE", &self.namespace)
            .env("SCRATCH", &self.scratch)
            .env("HOME", &self.scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end, whatever that is.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn ends(&self, text: &str, limit: Duration) -> anyhow::Result<Said> {
        let output = self.command(text, limit).output().context("cannot run `timeout`")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// Runs a command that has to succeed; what it wrote.
    ///
    /// # Errors
    /// When it fails or takes longer than 90 s.
    pub fn run(&self, text: &str) -> anyhow::Result<String> {
        let said = self.ends(text, LIMIT)?;
        ensure!(said.code == 0, "`{text}` ended with {}:\n{}{}", said.code, said.out, said.err);
        Ok(said.out)
    }

    /// Runs commands that have to succeed, one after the other.
    ///
    /// # Errors
    /// As [`Shell::run`].
    pub fn all(&self, texts: &[&str]) -> anyhow::Result<()> {
        texts.iter().try_for_each(|text| self.run(text).map(drop))
    }

    /// Runs a command that has to fail; what it wrote.
    ///
    /// # Errors
    /// When it succeeds or takes longer than 90 s.
    pub fn refused(&self, text: &str) -> anyhow::Result<String> {
        let said = self.ends(text, LIMIT)?;
        ensure!(said.code != 0 && said.code != 124, "`{text}` ended with {}:\n{}{}", said.code, said.out, said.err);
        Ok(said.out + &said.err)
    }

    /// Runs a command and wants `wanted` in what it wrote.
    ///
    /// # Errors
    /// As [`Shell::run`], and when it isn't there.
    pub fn says(&self, text: &str, wanted: &str) -> anyhow::Result<String> {
        let out = self.run(text)?;
        ensure!(out.contains(wanted), "`{text}` says, without {wanted:?}:\n{out}");
        Ok(out)
    }

    /// Runs a command again and again until it says exactly `wanted`, white space at its ends left out.
    ///
    /// # Errors
    /// When it doesn't within `seconds`; the text has what it said last.
    pub fn becomes(&self, seconds: u64, text: &str, wanted: &str) -> anyhow::Result<()> {
        self.until(seconds, text, wanted, |out| out.trim() == wanted).map(drop)
    }

    /// Runs a command again and again until `wanted` is in what it says.
    ///
    /// # Errors
    /// When it isn't within `seconds`; the text has what it said last.
    pub fn comes_to_say(&self, seconds: u64, text: &str, wanted: &str) -> anyhow::Result<String> {
        self.until(seconds, text, wanted, |out| out.contains(wanted))
    }

    /// Runs a command again and again until it succeeds and what it says holds; `wanted` says that in words.
    ///
    /// # Errors
    /// When it doesn't within `seconds`; the text has what it said last.
    pub fn until(
        &self,
        seconds: u64,
        text: &str,
        wanted: &str,
        holds: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        let began = Instant::now();
        loop {
            let said = self.ends(text, LIMIT)?;
            if said.code == 0 && holds(&said.out) {
                return Ok(said.out);
            }
            if began.elapsed() > Duration::from_secs(seconds) {
                bail!(
                    "`{text}` was to say {wanted:?} within {seconds} s; it ends with {}:\n{}{}",
                    said.code,
                    said.out,
                    said.err
                );
            }
            pause(LOOK);
        }
    }
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "each case has a thread of its own; nobody waits for it")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
