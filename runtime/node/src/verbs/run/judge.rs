//! What a pod's state means to the person who runs it. Pure.

use runtime_control_api::v1::{Container, Pod};

/// Where a pod stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on; what is waited for.
    Starting(String),
    /// Every container is ready.
    Ready,
    /// It has ended by itself.
    Over { failed: bool },
    /// It will not start as it is, however often it is tried: a person must change something.
    Broken { reason: String, message: String },
}

/// Reasons of a waiting container that trying again doesn't mend in a person's time. `CrashLoopBackOff` is not among them:
/// to crash is what a program may do, and to start it again is what the keeper is for.
const BROKEN_CONTAINER: [&str; 11] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "StartError",
    "ContainerCannotRun",
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
];

/// The same of a pod's events.
const BROKEN_POD: [&str; 4] = ["FailedCreatePodSandBox", "FailedMount", "FailedValidation", "InvalidDiskCapacity"];

/// Judges a pod as the keeper shows it.
pub(super) fn judge(pod: &Pod) -> Verdict {
    match pod.phase.as_str() {
        "Succeeded" => return Verdict::Over { failed: false },
        "Failed" => return broken_container(pod).unwrap_or(Verdict::Over { failed: true }),
        _ => {}
    }
    if let Some(broken) = broken_container(pod).or_else(|| broken_pod(pod)) {
        return broken;
    }
    if pod.ready {
        return Verdict::Ready;
    }
    Verdict::Starting(waited_for(pod))
}

fn broken_container(pod: &Pod) -> Option<Verdict> {
    let container = pod
        .containers
        .iter()
        .find(|container| container.state != "running" && BROKEN_CONTAINER.contains(&container.reason.as_str()))?;
    // Back-off hides the first message behind "back-off": the event that told it is still there.
    let told = pod.events.iter().rev().find(|event| {
        event.warning && event.container == container.name && !event.message.is_empty() && event.reason != "BackOff"
    });
    let message = match told {
        Some(event) if container.message.is_empty() || container.reason.ends_with("BackOff") => &event.message,
        _ => &container.message,
    };
    Some(Verdict::Broken {
        reason: format!("container {}: {}", container.name, container.reason),
        message: message.clone(),
    })
}

/// Only while there is no sandbox: a failure that a later attempt has mended is history.
fn broken_pod(pod: &Pod) -> Option<Verdict> {
    if pod.containers.iter().any(|container| container.started || !container.id.is_empty()) {
        return None;
    }
    let event = pod.events.iter().rev().find(|event| event.warning && BROKEN_POD.contains(&event.reason.as_str()))?;
    Some(Verdict::Broken { reason: event.reason.clone(), message: event.message.clone() })
}

fn waited_for(pod: &Pod) -> String {
    let done = |container: &Container| container.ready || (container.init && container.reason == "Completed");
    match pod.containers.iter().find(|container| !done(container)) {
        None => "starting".to_owned(),
        Some(container) if container.state == "running" && container.init => format!("{} runs", container.name),
        Some(container) if container.state == "running" && !container.started => {
            format!("{} starts up", container.name)
        }
        Some(container) if container.state == "running" => format!("{} is not ready yet", container.name),
        Some(container) if container.reason.is_empty() => format!("{} is {}", container.name, container.state),
        Some(container) => format!("{}: {}", container.name, container.reason),
    }
}

#[cfg(test)]
mod tests {
    use runtime_control_api::v1::{Container, Pod, PodEvent};

    use super::{Verdict, judge};

    fn container(name: &str, state: &str, reason: &str) -> Container {
        Container { name: name.to_owned(), state: state.to_owned(), reason: reason.to_owned(), ..Default::default() }
    }

    fn pod(phase: &str, containers: Vec<Container>) -> Pod {
        Pod { phase: phase.to_owned(), containers, ..Default::default() }
    }

    fn warning(reason: &str, container: &str, message: &str) -> PodEvent {
        PodEvent {
            warning: true,
            reason: reason.to_owned(),
            container: container.to_owned(),
            message: message.to_owned(),
            ..Default::default()
        }
    }

    fn starting(pod: &Pod, expected: &str) {
        assert_eq!(judge(pod), Verdict::Starting(expected.to_owned()));
    }

    #[test]
    fn a_pod_on_its_way_says_what_is_waited_for() {
        starting(&pod("Pending", vec![]), "starting");
        starting(&pod("Pending", vec![container("web", "waiting", "ContainerCreating")]), "web: ContainerCreating");
        let mut init = container("setup", "running", "");
        init.init = true;
        starting(&pod("Pending", vec![init, container("web", "waiting", "PodInitializing")]), "setup runs");
        let mut done = container("setup", "terminated", "Completed");
        done.init = true;
        let mut web = container("web", "running", "");
        starting(&pod("Running", vec![done.clone(), web.clone()]), "web starts up");
        web.started = true;
        starting(&pod("Running", vec![done, web]), "web is not ready yet");
    }

    #[test]
    fn a_crash_is_no_reason_to_give_up() {
        starting(&pod("Running", vec![container("web", "waiting", "CrashLoopBackOff")]), "web: CrashLoopBackOff");
    }

    #[test]
    fn ends() {
        assert_eq!(judge(&pod("Succeeded", vec![])), Verdict::Over { failed: false });
        assert_eq!(
            judge(&pod("Failed", vec![container("web", "terminated", "Error")])),
            Verdict::Over { failed: true }
        );
        let ready = Pod { ready: true, ..pod("Running", vec![container("web", "running", "")]) };
        assert_eq!(judge(&ready), Verdict::Ready);
    }

    #[test]
    fn what_a_person_must_mend_is_told_with_its_cause() {
        let mut broken = pod("Pending", vec![container("web", "waiting", "ImagePullBackOff")]);
        broken.events = vec![warning("Failed", "web", "no such image"), warning("BackOff", "web", "back-off 10 s")];
        assert_eq!(
            judge(&broken),
            Verdict::Broken {
                reason: "container web: ImagePullBackOff".to_owned(),
                message: "no such image".to_owned()
            }
        );

        let mut port = pod("Pending", vec![container("web", "waiting", "ContainerCreating")]);
        port.events = vec![warning("FailedCreatePodSandBox", "", "host port 8080 is in use")];
        assert!(matches!(judge(&port), Verdict::Broken { message, .. } if message == "host port 8080 is in use"));

        port.containers[0].id = "abc".to_owned();
        starting(&port, "web: ContainerCreating");
    }
}
