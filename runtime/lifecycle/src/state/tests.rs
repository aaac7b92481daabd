use std::time::Duration;

use super::{
    BootTime, ContainerEvent, ContainerState, Exit, ExitReason, ProcessIdentity, SandboxEvent, SandboxState, Timestamp,
};

const PROCESS: ProcessIdentity = ProcessIdentity { pid: 42, start_ticks: 7 };

fn kill_at(seconds: u64) -> BootTime {
    BootTime(Duration::from_secs(seconds))
}

fn container_event(word: &str) -> ContainerEvent {
    match word {
        "created" => ContainerEvent::Created,
        "start" => ContainerEvent::StartAsked,
        "started" => ContainerEvent::Started { process: PROCESS, at: Timestamp(10) },
        "failed" => ContainerEvent::StartFailed { message: "no such file".to_owned(), at: Timestamp(11) },
        "abandoned" => ContainerEvent::StartAbandoned,
        "stop" => ContainerEvent::StopAsked { kill_at: kill_at(30) },
        "died" => ContainerEvent::Died { exit: Exit::observed(3, false), since: Some(Timestamp(9)), at: Timestamp(12) },
        "ended" => ContainerEvent::Died { exit: Exit::observed(128, false), since: None, at: Timestamp(12) },
        other => panic!("no event {other}"),
    }
}

/// Plays `events` from `Creating`; the last word is the name of the state, or "refused".
fn check(events: &str, expected: &str) {
    let mut state = ContainerState::Creating;
    for word in events.split_whitespace() {
        match state.after(container_event(word)) {
            Ok(next) => state = next,
            Err(refused) => {
                assert_eq!(expected, "refused", "{events}: {refused}");
                return;
            }
        }
    }
    assert_eq!(state.name(), expected, "{events}");
}

#[test]
fn containers_take_legal_steps_only() {
    check("", "being created");
    check("created", "created");
    check("start", "refused");
    check("created start", "being started");
    check("created start start", "refused");
    check("created start abandoned", "created");
    check("created start abandoned start started", "running");
    check("created start started", "running");
    check("created start started started", "running");
    check("created start died started", "exited");
    check("created start failed", "exited");
    check("created start failed start", "refused");
    check("created start ended failed", "exited");
    check("created start ended started", "exited");
    check("created start died failed", "refused");
    check("created start started stop", "being stopped");
    check("created start started stop stop", "being stopped");
    check("created start started stop died", "exited");
    check("created start started died", "exited");
    check("created start started died died", "exited");
    check("created start started died stop", "exited");
    check("created stop", "refused");
    check("created died", "exited");
    check("created created", "refused");
}

#[test]
fn the_sooner_kill_holds() {
    let stopping = ContainerState::Stopping { process: PROCESS, since: Timestamp(1), kill_at: kill_at(30) };
    for (second, expected) in [(5, 5), (60, 30)] {
        let after = stopping.clone().after(ContainerEvent::StopAsked { kill_at: kill_at(second) });
        assert_eq!(
            after,
            Ok(ContainerState::Stopping { process: PROCESS, since: Timestamp(1), kill_at: kill_at(expected) })
        );
    }
}

#[test]
fn an_end_keeps_the_start_that_was_seen() {
    let running = ContainerState::Running { process: PROCESS, since: Timestamp(5) };
    let ContainerState::Exited { since, until, exit } = running.after(container_event("died")).expect("legal") else {
        panic!("not exited")
    };
    assert_eq!((since, until, exit.code), (Some(Timestamp(5)), Timestamp(12), 3));
}

#[test]
fn reasons_follow_code_and_memory() {
    for (code, oom, reason) in [
        (0, false, ExitReason::Completed),
        (1, false, ExitReason::Error),
        (137, false, ExitReason::Error),
        (137, true, ExitReason::OomKilled),
        (0, true, ExitReason::OomKilled),
    ] {
        assert_eq!(Exit::observed(code, oom).reason, reason, "{code} {oom}");
    }
    assert_eq!(Exit::start_error(String::new()).code, 128);
    assert_eq!(Exit::supervisor_lost().code, 137);
    assert_eq!(Exit::rebooted().code, 255);
}

fn sandbox(events: &str, expected: &str) {
    let mut state = SandboxState::Making;
    for word in events.split_whitespace() {
        let event = match word {
            "made" => SandboxEvent::Made { pause: PROCESS },
            "died" => SandboxEvent::PauseDied { why: "killed".to_owned() },
            "stop" => SandboxEvent::StopAsked,
            "torn" => SandboxEvent::Torn,
            other => panic!("no event {other}"),
        };
        match state.after(event) {
            Ok(next) => state = next,
            Err(refused) => {
                assert_eq!(expected, "refused", "{events}: {refused}");
                return;
            }
        }
    }
    assert_eq!(state.name(), expected, "{events}");
}

#[test]
fn sandboxes_take_legal_steps_only() {
    sandbox("made", "ready");
    sandbox("made made", "refused");
    sandbox("died", "not ready");
    sandbox("made died", "not ready");
    sandbox("made died died", "not ready");
    sandbox("made died made", "refused");
    sandbox("made stop", "being stopped");
    sandbox("made stop died", "being stopped");
    sandbox("made stop stop", "being stopped");
    sandbox("made stop torn", "stopped");
    sandbox("made died stop torn", "stopped");
    sandbox("made stop torn stop", "stopped");
    sandbox("made stop torn torn", "stopped");
    sandbox("made torn", "refused");
    sandbox("stop torn made", "refused");
}

#[test]
fn states_survive_json() {
    for state in [
        ContainerState::Creating,
        ContainerState::Created,
        ContainerState::Starting,
        ContainerState::Running { process: PROCESS, since: Timestamp(1) },
        ContainerState::Stopping { process: PROCESS, since: Timestamp(1), kill_at: kill_at(9) },
        ContainerState::Exited { exit: Exit::observed(137, true), since: None, until: Timestamp(2) },
    ] {
        let json = serde_json::to_string(&state).expect("serializable");
        assert_eq!(serde_json::from_str::<ContainerState>(&json).expect(&json), state);
    }
}
