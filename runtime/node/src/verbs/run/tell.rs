//! The difference between two looks at a pod, in a person's words. Pure.

use kubelet_shim_manifest::Protocol;
use runtime_control_api::v1::{Container, Pod, PodEvent};

/// What a line that tells of trouble begins with.
pub(super) const WARNING: &str = "warning: ";
/// Failed probes of a pod that was never ready that are passed over.
const UNWELL_COUNT: u32 = 3;

/// What happened between `before` (nothing at first) and `now`, in order of interest.
pub(super) fn changes(before: Option<&Pod>, now: &Pod) -> Vec<String> {
    let mut told = Vec::new();
    if !now.ip.is_empty() && before.is_none_or(|before| before.ip != now.ip) {
        told.push(format!("address {}", now.ip));
    }
    for container in &now.containers {
        let former = before.and_then(|before| before.containers.iter().find(|former| former.name == container.name));
        told.extend(container_changes(former, container));
    }
    let seen = before.map(|before| before.events.as_slice()).unwrap_or_default();
    // A server takes a moment to listen: its first refused probes are no news, those of one that stays unwell are.
    let starts_up = |event: &PodEvent| {
        event.reason == "Unhealthy"
            && event.count < UNWELL_COUNT
            && !now.ready
            && before.is_none_or(|before| !before.ready)
    };
    // What a pod went through before it was looked at first, and got over, is history.
    let over = now.ready && before.is_none();
    for event in now.events.iter().filter(|event| event.warning && !over && !starts_up(event)) {
        let known = seen.iter().any(|old| {
            (&old.reason, &old.message, &old.container) == (&event.reason, &event.message, &event.container)
                && old.count >= event.count
        });
        if !known {
            let whose =
                if event.container.is_empty() { String::new() } else { format!("container {}: ", event.container) };
            told.push(format!("{WARNING}{whose}{}: {}", event.reason, event.message));
        }
    }
    if now.ready && before.is_none_or(|before| !before.ready) {
        told.push("ready".to_owned());
    } else if !now.ready && before.is_some_and(|before| before.ready) && !now.deleting {
        told.push("not ready any more".to_owned());
    }
    told
}

fn container_changes(before: Option<&Container>, now: &Container) -> Option<String> {
    let name = &now.name;
    let was = |look: fn(&Container) -> &str| before.map(look).unwrap_or_default();
    if before.is_some_and(|before| now.restarts > before.restarts) {
        return Some(format!("container {name} was started again ({} times so far)", now.restarts));
    }
    let state_changed = was(|container| &container.state) != now.state || was(|container| &container.id) != now.id;
    match now.state.as_str() {
        "terminated" if state_changed => {
            let code = now.exit_code.map(|code| format!(" with code {code}")).unwrap_or_default();
            Some(format!("container {name} ended{code} ({})", now.reason))
        }
        "running" if state_changed => Some(format!("container {name} runs")),
        "running" if now.ready && !now.init && before.is_some_and(|before| !before.ready) => {
            Some(format!("container {name} is ready"))
        }
        _ => None,
    }
}

/// Where a ready pod is reached, one line each.
pub(super) fn ways_in(manifest: &kubelet_shim_manifest::Pod, ip: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for container in &manifest.containers {
        for port in &container.ports {
            let http =
                port.protocol == Protocol::Tcp && port.name.as_deref().is_some_and(|name| name.starts_with("http"));
            let shown = |host: &str, number: u16| {
                let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
                if http { format!("http://{host}:{number}") } else { format!("{host}:{number} ({:?})", port.protocol) }
            };
            if let Some(host_port) = port.host {
                let host = port.host_ip.map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string());
                lines.push(format!("{} leads to {}", shown(&host, host_port), container.name));
            }
            if !ip.is_empty() {
                lines.push(format!("{} leads to {}", shown(ip, port.container), container.name));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use runtime_control_api::v1::{Container, Pod, PodEvent};

    use super::{UNWELL_COUNT, changes, ways_in};

    fn container(state: &str, ready: bool) -> Container {
        Container { name: "web".to_owned(), state: state.to_owned(), ready, id: "a".to_owned(), ..Default::default() }
    }

    fn pod(container: Container) -> Pod {
        Pod { containers: vec![container], ..Default::default() }
    }

    #[test]
    fn each_change_is_told_once() {
        let check = |before: Option<&Pod>, now: &Pod, expected: &[&str]| assert_eq!(changes(before, now), expected);
        let waiting = pod(Container { name: "web".to_owned(), state: "waiting".to_owned(), ..Default::default() });
        check(None, &waiting, &[]);
        let running = Pod { ip: "10.0.0.2".to_owned(), ..pod(container("running", false)) };
        check(Some(&waiting), &running, &["address 10.0.0.2", "container web runs"]);
        check(Some(&running), &running, &[]);
        let ready = Pod { ready: true, containers: vec![container("running", true)], ..running.clone() };
        check(Some(&running), &ready, &["container web is ready", "ready"]);
        check(Some(&ready), &running, &["not ready any more"]);
        let mut ended = running.clone();
        ended.containers =
            vec![Container { exit_code: Some(3), reason: "Error".to_owned(), ..container("terminated", false) }];
        check(Some(&running), &ended, &["container web ended with code 3 (Error)"]);
        let mut again = running.clone();
        again.containers[0].restarts = 2;
        check(Some(&running), &again, &["container web was started again (2 times so far)"]);
    }

    #[test]
    fn warnings_are_told_and_again_when_they_come_again() {
        let event = |count| PodEvent {
            warning: true,
            reason: "BackOff".to_owned(),
            message: "it crashed".to_owned(),
            container: "web".to_owned(),
            count,
            ..Default::default()
        };
        let before = Pod { events: vec![event(1)], ..Default::default() };
        let line = "warning: container web: BackOff: it crashed";
        assert_eq!(changes(None, &before), [line]);
        assert!(changes(Some(&before), &before).is_empty());
        assert_eq!(changes(Some(&before), &Pod { events: vec![event(2)], ..Default::default() }), [line]);
    }

    #[test]
    fn the_first_refused_probes_of_a_starting_server_are_no_news() {
        let unwell = |count| Pod {
            events: vec![PodEvent { warning: true, reason: "Unhealthy".to_owned(), count, ..Default::default() }],
            ..Default::default()
        };
        assert!(changes(None, &unwell(1)).is_empty());
        assert_eq!(changes(Some(&unwell(1)), &unwell(UNWELL_COUNT)).len(), 1);
        let well = Pod { ready: true, ..unwell(UNWELL_COUNT) };
        assert_eq!(changes(None, &well), ["ready"], "what a pod has got over is history");
        let was_ready = Pod { ready: true, ..Default::default() };
        assert!(changes(Some(&was_ready), &unwell(1)).iter().any(|line| line.contains("Unhealthy")));
    }

    #[test]
    fn ports_are_shown_as_they_are_used() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: web\n    image: i\n    \
                    ports:\n    - {name: http, containerPort: 80, hostPort: 8080}\n    - {containerPort: 53, protocol: UDP}\n";
        let documents = kubelet_shim_manifest::parse("a.yaml", text).expect("valid");
        let kubelet_shim_manifest::Document::Pod(pod) = &documents[0] else { panic!("no pod") };
        assert_eq!(
            ways_in(pod, "10.0.0.2"),
            ["http://127.0.0.1:8080 leads to web", "http://10.0.0.2:80 leads to web", "10.0.0.2:53 (Udp) leads to web"]
        );
    }
}
