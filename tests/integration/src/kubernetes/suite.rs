//! Runs cases, several at a time where they don't disturb each other, and tells what came of them.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::shell::{Shell, Skip};
use crate::Outcome;

/// Whom a case can't run beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// Everybody; it stays in its namespace.
    Any,
    /// Nobody: it stops daemons, fills the node or counts what is on it.
    None,
}

/// One thing that has to work.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// `chapter::what_holds`.
    pub name: &'static str,
    /// Whom it can't run beside.
    pub company: Company,
    /// The case, in a namespace of its own.
    pub run: fn(&Shell, &Cluster) -> Outcome,
}

/// What a case came to.
#[derive(Debug, Clone)]
pub enum Result {
    /// It holds.
    Passed,
    /// It does not, with what was said.
    Failed(String),
    /// It can't be looked at here, and why.
    Skipped(String),
}

/// A row of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// The case.
    pub name: &'static str,
    /// What it came to.
    pub result: Result,
    /// How long it took.
    pub time: Duration,
}

/// Runs `cases`: first those that can run beside others, `jobs` at a time, then the others in their order.
pub fn run(cluster: &Cluster, cases: &[Case], jobs: usize) -> Vec<Row> {
    let (together, alone): (Vec<Case>, Vec<Case>) = cases.iter().partition(|case| case.company == Company::Any);
    let queue = Mutex::new(VecDeque::from(together));
    let rows = Mutex::new(Vec::new());
    let take = || {
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        while let Some(case) = next() {
            let row = one(cluster, &case);
            rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(take);
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.extend(alone.iter().map(|case| one(cluster, case)));
    rows.sort_by_key(|row| cases.iter().position(|case| case.name == row.name));
    rows
}

fn one(cluster: &Cluster, case: &Case) -> Row {
    let began = Instant::now();
    let result = match in_namespace(cluster, case) {
        Ok(()) => Result::Passed,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(Skip(why)) => Result::Skipped(why.clone()),
            None => Result::Failed(format!("{error:#}")),
        },
    };
    let row = Row { name: case.name, result, time: began.elapsed() };
    eprintln!("{}", line(&row));
    row
}

fn in_namespace(cluster: &Cluster, case: &Case) -> Outcome {
    let namespace = case.name.replace("::", "-").replace('_', "-");
    let outside = cluster.shell("default")?;
    outside.run(&format!("kubectl create namespace {namespace}"))?;
    // Pods are refused before it is there.
    outside.comes_to_say(30, &format!("kubectl -n {namespace} get serviceaccount default -o name"), "default")?;
    let outcome = (case.run)(&cluster.shell(&namespace)?, cluster);
    if outcome.as_ref().is_err_and(|error| !error.is::<Skip>()) {
        let look = format!(
            "kubectl -n {namespace} get all,pvc -o wide; kubectl -n {namespace} describe pods; \
             kubectl -n {namespace} get events --sort-by=.lastTimestamp"
        );
        if let Ok(said) = outside.ends(&look, Duration::from_secs(60)) {
            let _ = std::fs::write(cluster.layout.logs.join(format!("{namespace}.txt")), said.out + &said.err);
        }
    }
    // Gone before the next one where that counts what is on the node.
    let wait = case.company == Company::None;
    let gone = outside
        .ends(&format!("kubectl delete namespace {namespace} --wait={wait} --timeout=80s"), Duration::from_secs(90))?;
    outcome?;
    anyhow::ensure!(gone.code == 0, "the namespace is not gone: {}{}", gone.out, gone.err);
    Ok(())
}

/// One line of progress.
fn line(row: &Row) -> String {
    let seconds = row.time.as_secs_f64();
    match &row.result {
        Result::Passed => format!("passed: {} ({seconds:.1} s)", row.name),
        Result::Skipped(why) => format!("skipped: {}: {why}", row.name),
        Result::Failed(why) => {
            let lines: Vec<&str> = why.lines().take(20).collect();
            format!("failed: {} ({seconds:.1} s)\n    {}", row.name, lines.join("\n    "))
        }
    }
}

/// The table and the last line.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from("| case | result | seconds |\n|---|---|---|\n");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for row in rows {
        let result = match &row.result {
            Result::Passed => {
                passed += 1;
                "passed".to_owned()
            }
            Result::Failed(_) => {
                failed += 1;
                "**failed**".to_owned()
            }
            Result::Skipped(why) => {
                skipped += 1;
                format!("skipped: {why}")
            }
        };
        let _ = writeln!(text, "| {} | {result} | {:.1} |", row.name, row.time.as_secs_f64());
    }
    let _ = write!(text, "{passed} passed, {failed} failed, {skipped} skipped");
    text
}

/// Whether a row is a failure.
pub fn failed(row: &Row) -> bool {
    matches!(row.result, Result::Failed(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_ends_with_its_counts() {
        let row = |name, result| Row { name, result, time: Duration::from_millis(1250) };
        let rows = [
            row("a::b", Result::Passed),
            row("a::c", Result::Failed("no\nidea".into())),
            row("a::d", Result::Skipped("no swap".into())),
        ];
        let text = table(&rows);
        assert!(text.contains("| a::b | passed | 1.2 |"), "{text}");
        assert!(text.contains("| a::d | skipped: no swap | 1.2 |"), "{text}");
        assert!(text.ends_with("\n1 passed, 1 failed, 1 skipped"), "{text}");
        assert_eq!(rows.iter().filter(|row| failed(row)).count(), 1);
    }
}
