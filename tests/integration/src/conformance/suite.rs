//! One run of critest, and what its report says.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

/// Specs that can't pass on any runtime here, by their text, with the reason.
const IMPOSSIBLE: &[(&str, &str)] =
    &[("public image with digest should be pulled", "it names an image by a digest whose bytes only gcr.io has")];

/// How long the whole suite may take; it needs a minute, and ten on an emulated machine.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// How to run the suite.
#[derive(Debug, Clone)]
pub struct Suite {
    /// The critest program.
    pub critest: PathBuf,
    /// ginkgo's command line, which runs a suite in several processes.
    pub ginkgo: PathBuf,
    /// Processes at a time.
    pub processes: u16,
    /// Streams by WebSocket in place of SPDY.
    pub streams: Streams,
    /// Further arguments, as they are.
    pub arguments: Vec<String>,
}

/// How the suite's exec, attach and port-forward specs talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// SPDY/3.1.
    Spdy,
    /// WebSocket.
    WebSocket,
}

/// What a run came to.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// How many passed.
    pub passed: usize,
    /// Name and message of each that failed.
    pub failed: Vec<(String, String)>,
    /// Name and reason of each that was skipped.
    pub skipped: Vec<(String, String)>,
}

impl Suite {
    /// Runs the suite once against `endpoint`, with its files in `folder` and its output in `folder/critest.log`.
    ///
    /// # Errors
    /// When it can't be started, doesn't end in time or writes no report; the text carries the end of its output.
    pub async fn run(&self, endpoint: &str, seed: u32, folder: &Path) -> anyhow::Result<Tally> {
        let (report, log) = (folder.join("report.json"), folder.join("critest.log"));
        let scratch = folder.join("tmp");
        std::fs::create_dir_all(&scratch)?;
        let skip = IMPOSSIBLE.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("|");
        let output = File::create(&log)?;
        let mut command = Command::new(&self.critest);
        command
            .args(["--config", "/dev/null", "--ginkgo.no-color", "--runtime-endpoint", endpoint])
            .arg(format!("--ginkgo.seed={seed}"))
            .arg(format!("--ginkgo.skip={skip}"))
            .arg(format!("--ginkgo.json-report={}", report.display()))
            .arg(format!("--ginkgo.timeout={}s", LIMIT.as_secs()));
        // Told also for one process it would be taken for Go's own flag and refused.
        if self.processes > 1 {
            command.arg(format!("--parallel={}", self.processes));
        }
        if self.streams == Streams::WebSocket {
            command.args(["--websocket-exec", "--websocket-attach", "--websocket-portforward"]);
        }
        let programs = self.ginkgo.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
        let path = std::env::var("PATH").unwrap_or_default();
        let child = command
            .args(&self.arguments)
            .env("PATH", format!("{programs}:{path}"))
            .env("TMPDIR", &scratch)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", self.critest.display()))?;
        Group(child).ended(LIMIT + Duration::from_secs(60)).await?;
        let text = std::fs::read(&report).with_context(|| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            format!("critest wrote no report:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
        })?;
        tally(&text)
    }
}

/// A process group that doesn't outlive this value: critest starts others.
struct Group(Child);

impl Group {
    async fn ended(mut self, limit: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.0.try_wait()?.is_none() {
            if began.elapsed() > limit {
                bail!("critest did not end within {limit:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

/// ginkgo's report, as far as it is read here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
    #[serde(default)]
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

fn tally(report: &[u8]) -> anyhow::Result<Tally> {
    let suites: Vec<Report> = serde_json::from_slice(report).context("critest's report is not understood")?;
    let mut tally = Tally::default();
    for spec in suites.iter().flat_map(|suite| suite.spec_reports.iter().flatten()) {
        let message = spec.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
        let mut words = spec.container_hierarchy_texts.clone().unwrap_or_default();
        words.push(spec.leaf_node_text.clone());
        let name = words.join(" ").trim_start_matches("[k8s.io] ").to_owned();
        match (spec.leaf_node_type.as_str(), spec.state.as_str()) {
            ("It", "passed") => tally.passed += 1,
            (_, "passed") => {}
            (_, "skipped") => {
                let known = IMPOSSIBLE.iter().find(|(text, _)| name.contains(text)).map(|(_, why)| (*why).to_owned());
                // One without a reason was left out by a filter: benchmarks, and what the caller does not focus on.
                if let Some(why) = known.or((!message.is_empty()).then_some(message)) {
                    tally.skipped.push((name, why));
                }
            }
            (kind, state) => {
                let name = if kind == "It" { name } else { format!("[{kind}] {name}") };
                tally.failed.push((name, format!("{state}: {message}")));
            }
        }
    }
    for reason in suites.iter().flat_map(|suite| suite.special_suite_failure_reasons.iter().flatten()) {
        // Told also where one spec failed, then without news.
        if tally.failed.is_empty() {
            tally.failed.push(("the suite".into(), reason.clone()));
        }
    }
    if tally.passed == 0 && tally.failed.is_empty() {
        tally.failed.push(("the suite".into(), "no spec ran".into()));
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_counted_and_filtered_specs_are_left_out() {
        let report = br#"[{"SpecReports": [
            {"LeafNodeType": "BeforeSuite", "State": "passed"},
            {"ContainerHierarchyTexts": ["[k8s.io] A", "b"], "LeafNodeType": "It", "LeafNodeText": "c", "State": "passed"},
            {"LeafNodeType": "It", "LeafNodeText": "d", "State": "failed", "Failure": {"Message": "m"}},
            {"LeafNodeType": "It", "LeafNodeText": "e", "State": "skipped", "Failure": {"Message": "no x here"}},
            {"LeafNodeType": "It", "LeafNodeText": "benchmark", "State": "skipped"},
            {"LeafNodeType": "It", "LeafNodeText": "public image with digest should be pulled and removed", "State": "skipped"},
            {"LeafNodeType": "It", "LeafNodeText": "f", "State": "panicked", "Failure": {"Message": "p"}}]}]"#;
        let tally = tally(report).expect("it is a report");
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failed, [("d".into(), "failed: m".into()), ("f".into(), "panicked: p".into())]);
        assert_eq!(tally.skipped.len(), 2);
        assert_eq!(tally.skipped[0], ("e".into(), "no x here".into()));
        assert!(tally.skipped[1].1.contains("digest"));
    }

    #[test]
    fn a_run_of_nothing_is_a_failure() {
        assert_eq!(tally(b"[]").expect("it is a report").failed.len(), 1);
        assert!(tally(b"{").is_err());
    }
}
