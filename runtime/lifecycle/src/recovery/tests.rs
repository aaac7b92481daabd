use std::{collections::BTreeMap, time::Duration};

use super::{Action, Boot, ContainerView, Heard, PauseView, Recovery, View, recover};
use crate::{
    BootTime, ContainerState, Exit, ExitReason, ProcessIdentity, SandboxState, Timestamp,
    record::samples::{self, container_id, sandbox_id},
};

const PROCESS: ProcessIdentity = ProcessIdentity { pid: 5, start_ticks: 50 };
const KILL_AT: BootTime = BootTime(Duration::from_secs(99));
const NOW: Timestamp = Timestamp(1000);

fn sandbox_state(word: &str) -> SandboxState {
    match word {
        "making" => SandboxState::Making,
        "ready" => SandboxState::Ready { pause: PROCESS },
        "notready" => SandboxState::NotReady { why: "before".to_owned() },
        "stopping" => SandboxState::Stopping,
        "stopped" => SandboxState::Stopped,
        other => panic!("no sandbox state {other}"),
    }
}

fn container_state(word: &str) -> ContainerState {
    match word {
        "creating" => ContainerState::Creating,
        "created" => ContainerState::Created,
        "starting" => ContainerState::Starting,
        "running" => ContainerState::Running { process: PROCESS, since: Timestamp(7) },
        "stopping" => ContainerState::Stopping { process: PROCESS, since: Timestamp(7), kill_at: KILL_AT },
        "exited" => ContainerState::Exited { exit: Exit::observed(4, false), since: None, until: Timestamp(8) },
        other => panic!("no container state {other}"),
    }
}

fn view(word: &str) -> Option<ContainerView> {
    match word {
        "absent" => None,
        "created" => Some(ContainerView::Created),
        "running" => Some(ContainerView::Running { process: PROCESS, since: Timestamp(7) }),
        "exited" => {
            let exit = Exit::observed(3, false);
            Some(ContainerView::Exited { exit, since: Timestamp(7), until: Timestamp(9) })
        }
        other => panic!("no view {other}"),
    }
}

/// `setting`: sandbox record, supervisor (`alive`, `pausedead`, `gone`, `rebooted`), container record, what the supervisor
/// says of it, and `+exit` if an exit record lies on disk.
fn check(setting: &str, expected: &str) {
    let words: Vec<&str> = setting.split_whitespace().collect();
    let &[sandbox, supervisor, container, seen, ..] = words.as_slice() else { panic!("{setting}") };
    let containers = view(seen).map(|view| (container_id(2).as_str().to_owned(), view)).into_iter().collect();
    let pause = if supervisor == "pausedead" { PauseView::Dead } else { PauseView::Alive(PROCESS) };
    let heard = match supervisor {
        "gone" | "rebooted" => BTreeMap::new(),
        _ => [(sandbox_id(1), Heard::Alive(View { pause, containers }))].into(),
    };
    let exits = if words.contains(&"+exit") {
        [(container_id(2), (Exit::observed(6, false), Timestamp(7), Timestamp(10)))].into()
    } else {
        BTreeMap::new()
    };
    let decision = recover(Recovery {
        boot: if supervisor == "rebooted" { Boot::Other } else { Boot::Same },
        sandboxes: vec![samples::sandbox(1, sandbox_state(sandbox))],
        containers: vec![samples::container(2, 1, container_state(container))],
        heard,
        exits,
        now: NOW,
    });
    let mut told = Vec::new();
    told.extend(decision.sandboxes.iter().map(|sandbox| sandbox.state.name().replace(' ', "-")));
    told.extend(decision.containers.iter().map(|container| match &container.state {
        ContainerState::Exited { exit, .. } => format!("exited:{}:{}", exit.code, exit.reason.as_str()),
        state => state.name().replace(' ', "-"),
    }));
    told.extend(decision.actions.iter().map(|action| {
        match action {
            Action::DiscardSandbox(_) => "+discard-sandbox",
            Action::DiscardContainer(_) => "+discard-container",
            Action::KillSandbox(_) => "+kill",
            Action::Forget { .. } => "+forget",
            Action::ResumeStop { .. } => "+resume-stop",
            Action::ResumeStopSandbox(_) => "+resume-stop-sandbox",
        }
        .to_owned()
    }));
    assert_eq!(told.join(" "), expected, "{setting}");
}

#[test]
fn what_runs_goes_on() {
    check("ready alive running running", "ready running");
    check("ready alive created created", "ready created");
    check("ready alive exited exited", "ready exited:4:Error");
    check("notready pausedead exited absent", "not-ready exited:4:Error");
    check("stopped gone exited absent", "stopped exited:4:Error");
}

#[test]
fn the_supervisor_knows_what_we_missed() {
    check("ready alive starting running", "ready running");
    check("ready alive starting created", "ready created");
    check("ready alive starting exited", "ready exited:3:Error");
    check("ready alive running exited", "ready exited:3:Error");
    check("ready alive stopping exited", "ready exited:3:Error");
    check("ready pausedead running exited", "not-ready exited:3:Error");
}

#[test]
fn stops_are_seen_through() {
    check("ready alive stopping running", "ready being-stopped +resume-stop");
    check("stopping alive running running", "being-stopped running +resume-stop-sandbox");
    check("stopping gone running absent", "being-stopped exited:137:SupervisorLost +kill +resume-stop-sandbox");
}

#[test]
fn a_lost_supervisor_ends_its_pod() {
    check("ready gone running absent", "not-ready exited:137:SupervisorLost +kill");
    check("ready gone running absent +exit", "not-ready exited:6:Error +kill");
    check("ready gone created absent", "not-ready exited:137:SupervisorLost +kill");
    check("notready gone exited absent", "not-ready exited:4:Error +kill");
}

#[test]
fn a_restart_of_the_machine_ends_everything() {
    check("ready rebooted running absent", "not-ready exited:255:Unknown");
    check("ready rebooted running absent +exit", "not-ready exited:6:Error");
    check("ready rebooted exited absent", "not-ready exited:4:Error");
    check("stopping rebooted exited absent", "being-stopped exited:4:Error +resume-stop-sandbox");
    check("stopped rebooted exited absent", "stopped exited:4:Error");
}

#[test]
fn what_was_never_finished_is_discarded() {
    check("making alive creating absent", "+discard-container +discard-sandbox");
    check("making gone created absent", "+discard-container +discard-sandbox");
    check("ready alive creating absent", "ready +discard-container");
    check("ready alive creating created", "ready +discard-container");
}

#[test]
fn containers_without_a_sandbox_are_discarded() {
    let decision = recover(Recovery {
        boot: Boot::Same,
        sandboxes: Vec::new(),
        containers: vec![samples::container(2, 1, container_state("running"))],
        heard: BTreeMap::new(),
        exits: BTreeMap::new(),
        now: NOW,
    });
    assert!(matches!(decision.actions.as_slice(), [Action::DiscardContainer(_)]), "{decision:?}");
}

#[test]
fn what_only_the_supervisor_knows_is_forgotten() {
    let containers = [("feed".to_owned(), ContainerView::Created)].into();
    let heard = [(sandbox_id(1), Heard::Alive(View { pause: PauseView::Alive(PROCESS), containers }))].into();
    let decision = recover(Recovery {
        boot: Boot::Same,
        sandboxes: vec![samples::sandbox(1, sandbox_state("ready"))],
        containers: Vec::new(),
        heard,
        exits: BTreeMap::new(),
        now: NOW,
    });
    assert_eq!(decision.actions, [Action::Forget { sandbox: sandbox_id(1), container: "feed".to_owned() }]);
}

#[test]
fn recovery_twice_is_recovery_once() {
    let sandboxes = vec![samples::sandbox(1, sandbox_state("ready"))];
    let containers = vec![samples::container(2, 1, container_state("running"))];
    let findings = |sandboxes, containers| Recovery {
        boot: Boot::Same,
        sandboxes,
        containers,
        heard: BTreeMap::new(),
        exits: BTreeMap::new(),
        now: NOW,
    };
    let once = recover(findings(sandboxes, containers));
    let twice = recover(findings(once.sandboxes.clone(), once.containers.clone()));
    assert_eq!((&once.sandboxes, &once.containers), (&twice.sandboxes, &twice.containers));
    assert!(matches!(&once.containers[0].state,
        ContainerState::Exited { exit, .. } if exit.reason == ExitReason::SupervisorLost));
}
