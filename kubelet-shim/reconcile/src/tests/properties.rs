//! What holds in every scenario, whatever happens to the keeper.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Restarts, scenarios::all, timeline};

/// Starts and ends, without what a restarted keeper may repeat (a probe whose answer was lost, a second SIGTERM).
fn story(lines: &[String]) -> Vec<&String> {
    let told =
        |line: &&String| [" start", " exit ", " ready", " unready", "sandbox#"].iter().any(|word| line.contains(word));
    lines.iter().filter(told).collect()
}

/// A refusal that nobody heard is not the same as one that was heard, nor is a hook; the others must not differ.
fn is_repeatable(script: &str, spec: &str) -> bool {
    !["pull", "create", " start ", "sandbox x"].iter().any(|word| script.contains(word))
        && !spec.contains("postStart")
        && !spec.contains("preStop")
}

#[test]
fn a_keeper_that_dies_again_and_again_changes_nothing() {
    for (spec, script, seconds, _) in all().filter(|(spec, script, ..)| is_repeatable(script, spec)) {
        let calm = timeline(spec, script, *seconds, Restarts::Never);
        for each in [2, 3, 4, 5, 7] {
            let stormy = timeline(spec, script, *seconds, Restarts::EachStep(each));
            assert_eq!(story(&calm), story(&stormy), "every {each} steps\nspec: {spec}\nscript: {script}");
        }
    }
}

#[test]
fn every_kill_has_a_cause() {
    for (spec, script, seconds, _) in all() {
        let lines = timeline(spec, script, *seconds, Restarts::Never);
        let mut failed = BTreeMap::new();
        let mut excused = false;
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[1..] {
                [name, "probe", _, "fail" | "timeout" | "unrunnable"] => drop(failed.insert(name.to_owned(), true)),
                ["delete"] => excused = true,
                [name, "term", _] => {
                    let cause = excused
                        || failed.remove(name).is_some()
                        || spec.contains("activeDeadline")
                        || spec.contains("postStart")
                        // A sidecar ends with the pod.
                        || (name == "s" && lines.iter().any(|line| line.ends_with("Succeeded")));
                    assert!(cause, "{line}\nspec: {spec}\n{}", lines.join("\n"));
                }
                _ => {}
            }
        }
    }
}

fn spec(period: u64, delay: u64, failures: u64, policy: &str) -> String {
    let probe = |failures: u64| {
        format!(
            "{{tcpSocket: {{port: 1}}, periodSeconds: {period}, initialDelaySeconds: {delay}, failureThreshold: {failures}}}"
        )
    };
    format!(
        "restartPolicy: {policy}, containers: [{{name: a, image: i, livenessProbe: {}, readinessProbe: {}}}, {{name: b, image: i}}]",
        probe(failures),
        probe(1)
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// The simulator itself refuses two instances of a name and a machine that runs in circles.
    #[test]
    fn no_probe_comes_before_its_delay(
        period in 1_u64..6,
        delay in 0_u64..9,
        failures in 1_u64..4,
        outcomes in "[oxteu]{1,12}",
        readiness in "[ox]{1,12}",
        run in 1_u64..30,
        each in 0_usize..6,
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
    ) {
        let script = format!("a liveness {outcomes}; a readiness {readiness}; a runs {run}:1; b runs 7:0; a term 1");
        let restarts = if each < 2 { Restarts::Never } else { Restarts::EachStep(each) };
        let lines = timeline(&spec(period, delay, failures, policy), &script, 90, restarts);
        let mut started = f64::MAX;
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            let at: f64 = words[0].parse().unwrap();
            match words[1..] {
                ["a", start] if start.starts_with("start") => started = at,
                ["a", "probe", _, outcome] if outcome != "timeout" => {
                    prop_assert!(at + 1e-6 >= started + f64::from(u32::try_from(delay).unwrap()), "{line}\n{}", lines.join("\n"));
                }
                _ => {}
            }
        }
    }
}
