//! What a pod does in time. Seconds are those of the pod's first step; back-off is told without chance.

use super::check;

/// A pod's spec, the world's script, the seconds that are looked at, the timeline.
type Scenario = (&'static str, &'static str, u64, &'static str);

fn run(scenarios: &[Scenario]) {
    for (spec, script, seconds, expected) in scenarios {
        check(spec, script, *seconds, expected);
    }
}

/// Every scenario, for the properties.
pub(super) fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        A_CONTAINER_RUNS,
        THE_BACK_OFF_DOUBLES_AND_IS_FORGOTTEN,
        INIT_CONTAINERS_COME_FIRST,
        SIDECARS_START_BEFORE_AND_END_AFTER,
        LIVENESS_KILLS,
        READINESS_COMES_AND_GOES,
        STARTUP_HOLDS_THE_OTHERS_BACK,
        HOOKS,
        ENDS,
        WHAT_THE_RUNTIME_REFUSES_IS_TRIED_AGAIN,
        LOSSES,
    ]
    .into_iter()
    .flatten()
}

const A_CONTAINER_RUNS: &[Scenario] = &[
    ("containers: [{name: a, image: i}]", "", 20, "0 sandbox#0, 0 a start, 0 a ready, 0 Running"),
    (
        "containers: [{name: a, image: i},{name: b, image: i}]",
        "at 3 delete 30",
        20,
        "0 sandbox#0, 0 a start, 0 a ready, 0 b start, 0 b ready, 0 Running, 3 delete, 3 a unready, \
         3 b unready, 3 a term 30, 3 b term 30, 3 a exit 143, 3 b exit 143, 3 sandbox stop, 3 gone",
    ),
    (
        "restartPolicy: Never, containers: [{name: a, image: i},{name: b, image: i}]",
        "a runs 2:0; b runs 3:7",
        30,
        "0 sandbox#0, 0 a start, 0 a ready, 0 b start, 0 b ready, 0 Running, 2 a exit 0, 2 a unready, \
         3 b exit 7, 3 b unready, 3 Failed, 3 sandbox stop",
    ),
    (
        "restartPolicy: Never, containers: [{name: a, image: i},{name: b, image: i}]",
        "a runs 2:0; b runs 3:0",
        30,
        "0 sandbox#0, 0 a start, 0 a ready, 0 b start, 0 b ready, 0 Running, 2 a exit 0, 2 a unready, \
         3 b exit 0, 3 b unready, 3 Succeeded, 3 sandbox stop",
    ),
    (
        "restartPolicy: OnFailure, containers: [{name: a, image: i}]",
        "a runs 2:1 2:0",
        30,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 2 a exit 1, 2 a unready, 2 a start#1, 2 a ready, \
         4 a exit 0, 4 a unready, 4 Succeeded, 4 sandbox stop",
    ),
    (
        "restartPolicy: OnFailure, containers: [{name: a, image: i},{name: b, image: i}]",
        "a runs 2:0; b runs 5:1 1:0",
        30,
        "0 sandbox#0, 0 a start, 0 a ready, 0 b start, 0 b ready, 0 Running, 2 a exit 0, 2 a unready, \
         5 b exit 1, 5 b unready, 5 b start#1, 5 b ready, 6 b exit 0, 6 b unready, 6 Succeeded, \
         6 sandbox stop",
    ),
];

#[test]
fn a_container_runs() {
    run(A_CONTAINER_RUNS);
}

const THE_BACK_OFF_DOUBLES_AND_IS_FORGOTTEN: &[Scenario] = &[
    (
        "containers: [{name: a, image: i}]",
        "a runs 1:1",
        120,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 1 a exit 1, 1 a unready, 1 a start#1, 1 a ready, \
         2 a exit 1, 2 a unready, 2 a waits CrashLoopBackOff, 12 a start#2, 12 a ready, 13 a exit 1, \
         13 a unready, 13 a waits CrashLoopBackOff, 33 a start#3, 33 a ready, 34 a exit 1, 34 a unready, \
         34 a waits CrashLoopBackOff, 74 a start#4, 74 a ready, 75 a exit 1, 75 a unready, \
         75 a waits CrashLoopBackOff",
    ),
    (
        "containers: [{name: a, image: i}]",
        "a runs 5:0",
        60,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 5 a exit 0, 5 a unready, 5 a start#1, 5 a ready, \
         10 a exit 0, 10 a unready, 10 a waits CrashLoopBackOff, 20 a start#2, 20 a ready, 25 a exit 0, \
         25 a unready, 25 a waits CrashLoopBackOff, 45 a start#3, 45 a ready, 50 a exit 0, 50 a unready, \
         50 a waits CrashLoopBackOff",
    ),
    (
        "containers: [{name: a, image: i}]",
        "a runs 12:1",
        120,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 12 a exit 1, 12 a unready, 12 a start#1, \
         12 a ready, 24 a exit 1, 24 a unready, 24 a waits CrashLoopBackOff, 34 a start#2, 34 a ready, \
         46 a exit 1, 46 a unready, 46 a waits CrashLoopBackOff, 66 a start#3, 66 a ready, 78 a exit 1, \
         78 a unready, 78 a waits CrashLoopBackOff, 118 a start#4, 118 a ready",
    ),
    (
        "containers: [{name: a, image: i}]",
        "a runs 1:1 1:1 700:1 1:1",
        760,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 1 a exit 1, 1 a unready, 1 a start#1, 1 a ready, \
         2 a exit 1, 2 a unready, 2 a waits CrashLoopBackOff, 12 a start#2, 12 a ready, 712 a exit 1, \
         712 a unready, 712 a start#3, 712 a ready, 713 a exit 1, 713 a unready, \
         713 a waits CrashLoopBackOff, 723 a start#4, 723 a ready, 724 a exit 1, 724 a unready, \
         724 a waits CrashLoopBackOff, 744 a start#5, 744 a ready, 745 a exit 1, 745 a unready, \
         745 a waits CrashLoopBackOff",
    ),
    (
        "containers: [{name: a, image: i},{name: b, image: i}]",
        "a runs 1:1; b runs 20:1 -",
        40,
        "0 sandbox#0, 0 a start, 0 a ready, 0 b start, 0 b ready, 0 Running, 1 a exit 1, 1 a unready, \
         1 a start#1, 1 a ready, 2 a exit 1, 2 a unready, 2 a waits CrashLoopBackOff, 12 a start#2, \
         12 a ready, 13 a exit 1, 13 a unready, 13 a waits CrashLoopBackOff, 20 b exit 1, 20 b unready, \
         20 b start#1, 20 b ready, 33 a start#3, 33 a ready, 34 a exit 1, 34 a unready, \
         34 a waits CrashLoopBackOff",
    ),
];

#[test]
fn the_back_off_doubles_and_is_forgotten() {
    run(THE_BACK_OFF_DOUBLES_AND_IS_FORGOTTEN);
}

const INIT_CONTAINERS_COME_FIRST: &[Scenario] = &[
    (
        "initContainers: [{name: x, image: i},{name: y, image: i}], containers: [{name: a, image: i}]",
        "x runs 2:0; y runs 3:1 3:0",
        30,
        "0 sandbox#0, 0 x start, 2 x exit 0, 2 y start, 5 y exit 1, 5 y start#1, 8 y exit 0, 8 a start, \
         8 a ready, 8 Running",
    ),
    (
        "restartPolicy: Never, initContainers: [{name: x, image: i},{name: y, image: i}], \
         containers: [{name: a, image: i}]",
        "x runs 2:0; y runs 3:1 3:0",
        30,
        "0 sandbox#0, 0 x start, 2 x exit 0, 2 y start, 5 y exit 1, 5 Failed, 5 sandbox stop",
    ),
    (
        "restartPolicy: OnFailure, initContainers: [{name: x, image: i}], containers: [{name: a, image: i}]",
        "x runs 1:2 1:2 1:0; a runs 1:0",
        60,
        "0 sandbox#0, 0 x start, 1 x exit 2, 1 x start#1, 2 x exit 2, 2 x waits CrashLoopBackOff, \
         12 x start#2, 13 x exit 0, 13 a start, 13 a ready, 13 Running, 14 a exit 0, 14 a unready, \
         14 Succeeded, 14 sandbox stop",
    ),
    (
        "initContainers: [{name: x, image: i}], containers: [{name: a, image: i}]",
        "x runs -; x term 1; at 5 delete 10",
        30,
        "0 sandbox#0, 0 x start, 5 delete, 5 x term 10, 6 x exit 143, 6 sandbox stop, 6 gone",
    ),
];

#[test]
fn init_containers_come_first() {
    run(INIT_CONTAINERS_COME_FIRST);
}

const SIDECARS_START_BEFORE_AND_END_AFTER: &[Scenario] = &[
    (
        "initContainers: [{name: s, image: i, restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}, periodSeconds: 1}}], \
         containers: [{name: a, image: i}]",
        "s startup xxo; s term 2; a term 3; at 20 delete 30",
        60,
        "0 sandbox#0, 0 s start, 1 s probe startup fail, 2 s probe startup fail, 3 s probe startup ok, \
         3 s ready, 3 a start, 3 a ready, 3 Running, 20 delete, 20 s unready, 20 a unready, \
         20 a term 30, 23 a exit 143, 23 s term 27, 25 s exit 143, 25 sandbox stop, 25 gone",
    ),
    (
        "restartPolicy: Never, initContainers: [{name: s, image: i, restartPolicy: Always}], \
         containers: [{name: a, image: i}]",
        "a runs 5:0; s runs 2:1 -; s term 1",
        100,
        "0 sandbox#0, 0 s start, 0 s ready, 0 a start, 0 a ready, 0 Running, 2 s exit 1, 2 s unready, \
         2 s start#1, 2 s ready, 5 a exit 0, 5 s unready, 5 a unready, 5 s term 30, 6 s exit 143, \
         6 Succeeded, 6 sandbox stop",
    ),
    (
        "initContainers: [{name: s, image: i, restartPolicy: Always},{name: t, image: i, restartPolicy: Always}], \
         containers: [{name: a, image: i}]",
        "s term 1; t term 2; a term 3; at 5 delete 30",
        60,
        "0 sandbox#0, 0 s start, 0 s ready, 0 t start, 0 t ready, 0 a start, 0 a ready, 0 Running, \
         5 delete, 5 s unready, 5 t unready, 5 a unready, 5 a term 30, 8 a exit 143, 8 t term 27, \
         10 t exit 143, 10 s term 25, 11 s exit 143, 11 sandbox stop, 11 gone",
    ),
    (
        "initContainers: [{name: s, image: i, restartPolicy: Always}], containers: [{name: a, image: i}]",
        "s term 1; a term never; at 5 delete 4",
        60,
        "0 sandbox#0, 0 s start, 0 s ready, 0 a start, 0 a ready, 0 Running, 5 delete, 5 s unready, \
         5 a unready, 5 a term 4, 9 a exit 137, 9 s term 2, 10 s exit 143, 10 sandbox stop, 10 gone",
    ),
    (
        "initContainers: [{name: s, image: i, restartPolicy: Always},{name: x, image: i}], \
         containers: [{name: a, image: i}]",
        "x runs 3:0; s runs 10:0 -",
        30,
        "0 sandbox#0, 0 s start, 0 s ready, 0 x start, 3 x exit 0, 3 a start, 3 a ready, 3 Running, \
         10 s exit 0, 10 s unready, 10 s start#1, 10 s ready",
    ),
    (
        "initContainers: [{name: s, image: i, restartPolicy: Always, readinessProbe: {tcpSocket: {port: 1}}}], \
         containers: [{name: a, image: i}]",
        "s readiness xo",
        30,
        "0 sandbox#0, 0 s start, 0 s probe readiness fail, 0 a start, 0 a ready, 0 Running, \
         10 s probe readiness ok, 10 s ready, 20 s probe readiness ok, 30 s probe readiness ok",
    ),
];

#[test]
fn sidecars_start_before_and_end_after() {
    run(SIDECARS_START_BEFORE_AND_END_AFTER);
}

const LIVENESS_KILLS: &[Scenario] = &[
    (
        "containers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 1}}}]",
        "a liveness oxxoxxx; a term 1",
        120,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 10 a probe liveness ok, 20 a probe liveness fail, \
         30 a probe liveness fail, 40 a probe liveness ok, 50 a probe liveness fail, \
         60 a probe liveness fail, 70 a probe liveness fail, 70 a unready, 70 a term 30, 71 a exit 143, \
         71 a start#1, 71 a ready, 80 a probe liveness fail, 90 a probe liveness fail, \
         100 a probe liveness fail, 100 a unready, 100 a term 30, 101 a exit 143, 101 a start#2, \
         101 a ready, 110 a probe liveness fail, 120 a probe liveness fail",
    ),
    (
        "containers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 1}, periodSeconds: 4}}]",
        "a liveness x",
        90,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 4 a probe liveness fail, 8 a probe liveness fail, \
         12 a probe liveness fail, 12 a unready, 12 a term 30, 12 a exit 143, 12 a start#1, 12 a ready, \
         16 a probe liveness fail, 20 a probe liveness fail, 24 a probe liveness fail, 24 a unready, \
         24 a term 30, 24 a exit 143, 24 a start#2, 24 a ready, 28 a probe liveness fail, \
         32 a probe liveness fail, 36 a probe liveness fail, 36 a unready, 36 a term 30, 36 a exit 143, \
         36 a start#3, 36 a ready, 40 a probe liveness fail, 44 a probe liveness fail, \
         48 a probe liveness fail, 48 a unready, 48 a term 30, 48 a exit 143, \
         48 a waits CrashLoopBackOff, 68 a start#4, 68 a ready, 72 a probe liveness fail, \
         76 a probe liveness fail, 80 a probe liveness fail, 80 a unready, 80 a term 30, 80 a exit 143, \
         80 a waits CrashLoopBackOff",
    ),
    (
        "containers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 1}, periodSeconds: 3, initialDelaySeconds: 5, failureThreshold: 1}}]",
        "a liveness ox",
        20,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 6 a probe liveness ok, 9 a probe liveness fail, \
         9 a unready, 9 a term 30, 9 a exit 143, 9 a start#1, 9 a ready, 15 a probe liveness fail, \
         15 a unready, 15 a term 30, 15 a exit 143, 15 a start#2, 15 a ready",
    ),
    (
        "restartPolicy: OnFailure, \
         containers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 1}, failureThreshold: 1}}]",
        "a liveness xo",
        25,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 10 a probe liveness fail, 10 a unready, \
         10 a term 30, 10 a exit 143, 10 a start#1, 10 a ready, 20 a probe liveness ok",
    ),
    (
        "restartPolicy: Never, \
         containers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 1}, failureThreshold: 1}}]",
        "a liveness x; a term 2",
        25,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 10 a probe liveness fail, 10 a unready, \
         10 a term 30, 12 a exit 143, 12 Failed, 12 sandbox stop",
    ),
    (
        "containers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 1}, failureThreshold: 1, terminationGracePeriodSeconds: 4}}]",
        "a liveness xo; a term never",
        25,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 10 a probe liveness fail, 10 a unready, \
         10 a term 4, 14 a exit 137, 14 a start#1, 14 a ready, 20 a probe liveness ok",
    ),
    (
        "containers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 1}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 2}}]",
        "a liveness to",
        25,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 7 a probe liveness timeout, \
         7 a probe liveness ok, 8 a probe liveness ok, 10 a probe liveness ok, 12 a probe liveness ok, \
         14 a probe liveness ok, 16 a probe liveness ok, 18 a probe liveness ok, 20 a probe liveness ok, \
         22 a probe liveness ok, 24 a probe liveness ok",
    ),
    (
        "containers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 1}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 2}}]",
        "a liveness tto",
        25,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 7 a probe liveness timeout, \
         12 a probe liveness timeout, 12 a unready, 12 a term 30, 12 a exit 143, 12 a start#1, \
         12 a ready, 14 a probe liveness ok, 16 a probe liveness ok, 18 a probe liveness ok, \
         20 a probe liveness ok, 22 a probe liveness ok, 24 a probe liveness ok",
    ),
    (
        "containers: [{name: a, image: i, livenessProbe: {exec: {command: [x]}, periodSeconds: 5, failureThreshold: 2}}]",
        "a liveness uuo",
        25,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 5 a probe liveness unrunnable, \
         10 a probe liveness unrunnable, 10 a unready, 10 a term 30, 10 a exit 143, 10 a start#1, \
         10 a ready, 15 a probe liveness ok, 20 a probe liveness ok, 25 a probe liveness ok",
    ),
    (
        "containers: [{name: a, image: i, livenessProbe: {exec: {command: [x]}, periodSeconds: 5, failureThreshold: 2}}]",
        "a liveness xexeo",
        40,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 5 a probe liveness fail, \
         10 a probe liveness error, 15 a probe liveness fail, 15 a unready, 15 a term 30, 15 a exit 143, \
         15 a start#1, 15 a ready, 20 a probe liveness error, 25 a probe liveness ok, \
         30 a probe liveness ok, 35 a probe liveness ok, 40 a probe liveness ok",
    ),
];

#[test]
fn liveness_kills() {
    run(LIVENESS_KILLS);
}

const READINESS_COMES_AND_GOES: &[Scenario] = &[
    (
        "containers: [{name: a, image: i, readinessProbe: {tcpSocket: {port: 1}, periodSeconds: 5, successThreshold: 2}}]",
        "a readiness xoooxxxo",
        60,
        "0 sandbox#0, 0 a start, 0 Running, 0 a probe readiness fail, 5 a probe readiness ok, \
         10 a probe readiness ok, 10 a ready, 15 a probe readiness ok, 20 a probe readiness fail, \
         25 a probe readiness fail, 30 a probe readiness fail, 30 a unready, 35 a probe readiness ok, \
         40 a probe readiness ok, 40 a ready, 45 a probe readiness ok, 50 a probe readiness ok, \
         55 a probe readiness ok, 60 a probe readiness ok",
    ),
    (
        "containers: [{name: a, image: i, readinessProbe: {tcpSocket: {port: 1}}}]",
        "a readiness o",
        12,
        "0 sandbox#0, 0 a start, 0 Running, 0 a probe readiness ok, 0 a ready, 10 a probe readiness ok",
    ),
    (
        "containers: [{name: a, image: i, readinessProbe: {tcpSocket: {port: 1}, initialDelaySeconds: 4, periodSeconds: 5}}]",
        "a readiness o",
        12,
        "0 sandbox#0, 0 a start, 0 Running, 5 a probe readiness ok, 5 a ready, 10 a probe readiness ok",
    ),
    (
        "containers: [{name: a, image: i, readinessProbe: {tcpSocket: {port: 1}, periodSeconds: 2}}]",
        "a readiness oxoxxo",
        14,
        "0 sandbox#0, 0 a start, 0 Running, 0 a probe readiness ok, 0 a ready, 2 a probe readiness fail, \
         4 a probe readiness ok, 6 a probe readiness fail, 8 a probe readiness fail, \
         10 a probe readiness ok, 12 a probe readiness ok, 14 a probe readiness ok",
    ),
    (
        "containers: [{name: a, image: i, readinessProbe: {tcpSocket: {port: 1}, periodSeconds: 4}}]",
        "a readiness o; a runs 10:1 -",
        20,
        "0 sandbox#0, 0 a start, 0 Running, 0 a probe readiness ok, 0 a ready, 4 a probe readiness ok, \
         8 a probe readiness ok, 10 a exit 1, 10 a unready, 10 a start#1, 10 a probe readiness ok, \
         10 a ready, 14 a probe readiness ok, 18 a probe readiness ok",
    ),
];

#[test]
fn readiness_comes_and_goes() {
    run(READINESS_COMES_AND_GOES);
}

const STARTUP_HOLDS_THE_OTHERS_BACK: &[Scenario] = &[
    (
        "containers: [{name: a, image: i, startupProbe: {tcpSocket: {port: 1}, periodSeconds: 2}, livenessProbe: {tcpSocket: {port: 1}}, readinessProbe: {tcpSocket: {port: 1}}}]",
        "a startup xxo",
        22,
        "0 sandbox#0, 0 a start, 0 Running, 2 a probe startup fail, 4 a probe startup fail, \
         6 a probe startup ok, 6 a probe readiness ok, 6 a ready, 10 a probe liveness ok, \
         16 a probe readiness ok, 20 a probe liveness ok",
    ),
    (
        "containers: [{name: a, image: i, startupProbe: {tcpSocket: {port: 1}, periodSeconds: 2}}]",
        "a startup x",
        60,
        "0 sandbox#0, 0 a start, 0 Running, 2 a probe startup fail, 4 a probe startup fail, \
         6 a probe startup fail, 6 a term 30, 6 a exit 143, 6 a start#1, 8 a probe startup fail, \
         10 a probe startup fail, 12 a probe startup fail, 12 a term 30, 12 a exit 143, 12 a start#2, \
         14 a probe startup fail, 16 a probe startup fail, 18 a probe startup fail, 18 a term 30, \
         18 a exit 143, 18 a waits CrashLoopBackOff, 28 a start#3, 30 a probe startup fail, \
         32 a probe startup fail, 34 a probe startup fail, 34 a term 30, 34 a exit 143, \
         34 a waits CrashLoopBackOff, 54 a start#4, 56 a probe startup fail, 58 a probe startup fail, \
         60 a probe startup fail, 60 a term 30, 60 a exit 143, 60 a waits CrashLoopBackOff",
    ),
    (
        "containers: [{name: a, image: i, startupProbe: {tcpSocket: {port: 1}, periodSeconds: 2, failureThreshold: 10}, livenessProbe: {tcpSocket: {port: 1}, periodSeconds: 3, failureThreshold: 1}}]",
        "a startup xxxo; a liveness xo; a runs -",
        24,
        "0 sandbox#0, 0 a start, 0 Running, 2 a probe startup fail, 4 a probe startup fail, \
         6 a probe startup fail, 8 a probe startup ok, 8 a ready, 9 a probe liveness fail, 9 a unready, \
         9 a term 30, 9 a exit 143, 9 a start#1, 10 a probe startup ok, 10 a ready, \
         12 a probe liveness ok, 15 a probe liveness ok, 18 a probe liveness ok, 21 a probe liveness ok, \
         24 a probe liveness ok",
    ),
    (
        "restartPolicy: Never, \
         containers: [{name: a, image: i, startupProbe: {tcpSocket: {port: 1}, periodSeconds: 2, failureThreshold: 1}}]",
        "a startup x; a term 1",
        24,
        "0 sandbox#0, 0 a start, 0 Running, 2 a probe startup fail, 2 a term 30, 3 a exit 143, 3 Failed, \
         3 sandbox stop",
    ),
];

#[test]
fn startup_holds_the_others_back() {
    run(STARTUP_HOLDS_THE_OTHERS_BACK);
}

const HOOKS: &[Scenario] = &[
    (
        "containers: [{name: a, image: i, lifecycle: {postStart: {exec: {command: [x]}}, preStop: {exec: {command: [y]}}}},{name: b, image: i}]",
        "a postStart 5:o; a preStop 3:x; a term 1; at 20 delete 10",
        60,
        "0 sandbox#0, 0 a start, 0 a hook postStart, 5 a ready, 5 b start, 5 b ready, 5 Running, \
         20 delete, 20 a unready, 20 b unready, 20 a hook preStop, 20 b term 10, 20 b exit 143, \
         23 a term 7, 24 a exit 143, 24 sandbox stop, 24 gone",
    ),
    (
        "containers: [{name: a, image: i, lifecycle: {postStart: {exec: {command: [x]}}}}]",
        "a postStart 1:x 1:x 0:o; a term 1",
        60,
        "0 sandbox#0, 0 a start, 0 a hook postStart, 1 a term 30, 2 a exit 143, \
         2 a waits PostStartHookError, 2 Running, 2 a start#1, 2 a hook postStart, 3 a term 30, \
         4 a exit 143, 4 a waits PostStartHookError, 14 a start#2, 14 a hook postStart, 14 a ready",
    ),
    (
        "containers: [{name: a, image: i, lifecycle: {postStart: {sleep: {seconds: 3}}}},{name: b, image: i}]",
        "",
        10,
        "0 sandbox#0, 0 a start, 3 a ready, 3 b start, 3 b ready, 3 Running",
    ),
    (
        "containers: [{name: a, image: i, lifecycle: {preStop: {sleep: {seconds: 20}}}}]",
        "a term never; at 10 delete 5",
        60,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 10 delete, 10 a unready, 15 a term 2, \
         17 a exit 137, 17 sandbox stop, 17 gone",
    ),
    (
        "containers: [{name: a, image: i, lifecycle: {preStop: {exec: {command: [y]}}}, livenessProbe: {tcpSocket: {port: 1}, failureThreshold: 1}}]",
        "a liveness xo; a preStop 2:o",
        25,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 10 a probe liveness fail, 10 a unready, \
         10 a hook preStop, 12 a term 28, 12 a exit 143, 12 a start#1, 12 a ready, 20 a probe liveness ok",
    ),
    (
        "containers: [{name: a, image: i, lifecycle: {postStart: {exec: {command: [x]}}}}]",
        "a postStart 9:o; a runs 3:1 -",
        30,
        "0 sandbox#0, 0 a start, 0 a hook postStart, 3 a exit 1, 3 Running, 3 a start#1, \
         3 a hook postStart, 12 a ready",
    ),
];

#[test]
fn hooks() {
    run(HOOKS);
}

const ENDS: &[Scenario] = &[
    (
        "activeDeadlineSeconds: 6, containers: [{name: a, image: i}]",
        "a term 1",
        60,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 6 a unready, 6 a term 30, 7 a exit 143, 7 Failed, \
         7 sandbox stop",
    ),
    (
        "activeDeadlineSeconds: 6, containers: [{name: a, image: i}]",
        "a runs 1:1",
        60,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 1 a exit 1, 1 a unready, 1 a start#1, 1 a ready, \
         2 a exit 1, 2 a unready, 2 a waits CrashLoopBackOff, 6 Failed, 6 sandbox stop",
    ),
    (
        "containers: [{name: a, image: i}]",
        "a term never; at 5 delete 30; at 10 delete 1",
        60,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 5 delete, 5 a unready, 5 a term 30, 10 delete, \
         10 a term 2, 12 a exit 137, 12 sandbox stop, 12 gone",
    ),
    (
        "containers: [{name: a, image: i}]",
        "a term never; at 5 delete 0",
        60,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 5 delete, 5 a unready, 5 a term 0, 5 a exit 137, \
         5 sandbox stop, 5 gone",
    ),
    (
        "containers: [{name: a, image: i}]",
        "a term never; at 5 delete 1",
        60,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 5 delete, 5 a unready, 5 a term 2, 7 a exit 137, \
         7 sandbox stop, 7 gone",
    ),
    (
        "restartPolicy: Never, containers: [{name: a, image: i}]",
        "a runs 2:0; at 5 delete 1",
        60,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 2 a exit 0, 2 a unready, 2 Succeeded, \
         2 sandbox stop, 5 delete, 5 gone",
    ),
    (
        "containers: [{name: a, image: i}]",
        "a runs 1:1; at 7 delete 30",
        60,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 1 a exit 1, 1 a unready, 1 a start#1, 1 a ready, \
         2 a exit 1, 2 a unready, 2 a waits CrashLoopBackOff, 7 delete, 7 sandbox stop, 7 gone",
    ),
    (
        "containers: [{name: a, image: i}]",
        "a pull x; at 7 delete 30",
        60,
        "0 sandbox#0, 0 a waits ErrImagePull, 7 delete, 7 sandbox stop, 7 gone",
    ),
];

#[test]
fn ends() {
    run(ENDS);
}

const WHAT_THE_RUNTIME_REFUSES_IS_TRIED_AGAIN: &[Scenario] = &[
    (
        "containers: [{name: a, image: i}]",
        "a pull xxxo",
        100,
        "0 sandbox#0, 0 a waits ErrImagePull, 10 a waits ImagePullBackOff, 30 a waits ImagePullBackOff, \
         70 a start, 70 a ready, 70 Running",
    ),
    (
        "containers: [{name: a, image: i}]",
        "a create xxxo",
        100,
        "0 sandbox#0, 0 a waits CreateContainerError, 0 a waits CreateContainerError, \
         10 a waits CreateContainerError, 30 a start, 30 a ready, 30 Running",
    ),
    (
        "containers: [{name: a, image: i}]",
        "a start xxxo",
        100,
        "0 sandbox#0, 0 a start fails, 0 Running, 0 a start fails, 0 a waits CrashLoopBackOff, \
         10 a start fails, 10 a waits CrashLoopBackOff, 30 a start#3, 30 a ready",
    ),
    (
        "restartPolicy: Never, containers: [{name: a, image: i}]",
        "a start x",
        100,
        "0 sandbox#0, 0 a start fails, 0 Failed, 0 sandbox stop",
    ),
    ("containers: [{name: a, image: i}]", "sandbox xxo", 100, "3 sandbox#2, 3 a start, 3 a ready, 3 Running"),
    (
        "containers: [{name: a, image: i},{name: b, image: i}]",
        "a pull xo",
        20,
        "0 sandbox#0, 0 a waits ErrImagePull, 0 b start, 0 b ready, 10 a start, 10 a ready, 10 Running",
    ),
];

#[test]
fn what_the_runtime_refuses_is_tried_again() {
    run(WHAT_THE_RUNTIME_REFUSES_IS_TRIED_AGAIN);
}

const LOSSES: &[Scenario] = &[
    (
        "initContainers: [{name: x, image: i}], containers: [{name: a, image: i}]",
        "x runs 1:0; at 10 sandbox dies",
        100,
        "0 sandbox#0, 0 x start, 1 x exit 0, 1 a start, 1 a ready, 1 Running, 10 sandbox dies, \
         10 a exit 137, 10 a unready, 10 sandbox stop, 10 sandbox#1, 10 x start#1, 11 x exit 0, \
         11 a start#1, 11 a ready",
    ),
    (
        "restartPolicy: Never, containers: [{name: a, image: i}]",
        "at 10 sandbox dies",
        100,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 10 sandbox dies, 10 a exit 137, 10 a unready, \
         10 Failed, 10 sandbox stop",
    ),
    (
        "containers: [{name: a, image: i}]",
        "at 10 a vanishes; at 20 delete 1",
        100,
        "0 sandbox#0, 0 a start, 0 a ready, 0 Running, 10 a unready, 10 a start#1, 10 a ready, \
         20 delete, 20 a unready, 20 a term 2, 20 a exit 143, 20 sandbox stop, 20 gone",
    ),
];

#[test]
fn losses() {
    run(LOSSES);
}
