//! Pods under virtual time, with scripted containers; a timeline is one text.
//!
//! A script is a list of sentences, separated by `;`:
//! `a runs 3:1 5:0 -` (three seconds then code 1, five then 0, then for ever; the last one repeats) · `a liveness oxxoet`
//! (o: success, x: failure, u: can't be run, e: the runtime's error, t: times out; the last one repeats) · `a term 5`
//! (ends five seconds after SIGTERM; `never`: only by SIGKILL) · `a pull xxo` · `a create xo` · `a start xo` ·
//! `a postStart 2:o`, `a preStop 3:x` (takes so long) · `sandbox xo` · `at 10 delete 30` (with that grace) ·
//! `at 5 sandbox dies` · `at 5 a vanishes`.
//!
//! A timeline names, by second: `a start#N`, `a exit CODE`, `a ready`, `a unready`, `a probe KIND OUTCOME`, `a term GRACE`,
//! `a hook WHICH`, `a waits REASON`, `sandbox#N`, `sandbox stop`, phases, `gone`.

mod properties;
mod scenarios;
mod world;

pub(crate) use world::{Restarts, timeline};

/// Runs a scenario for `seconds` and compares; the part of a probe is only told when `expected` names one.
fn check(spec: &str, script: &str, seconds: u64, expected: &str) {
    let lines = timeline(spec, script, seconds, Restarts::Never);
    let with_probes = expected.contains(" probe ");
    let got: Vec<&str> =
        lines.iter().map(String::as_str).filter(|line| with_probes || !line.contains(" probe ")).collect();
    let expected: Vec<&str> = expected.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    assert_eq!(got.join(", "), expected.join(", "), "\nspec: {spec}\nscript: {script}\n");
}
