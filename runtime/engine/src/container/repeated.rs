//! Whether a request to create a container is one that was made before.

use runtime_lifecycle::{ContainerConfig, Mount};

/// The annotation in which a kubelet says where in the container its last words are to be written
/// (kuberuntime/labels.go, `containerTerminationMessagePathLabel`).
const LAST_WORDS: &str = "io.kubernetes.container.terminationMessagePath";

/// Whether a request is the one that a container was made from. A kubelet that repeats itself makes a new file for the
/// container's last words each time, `…/containers/NAME/1a2b3c4d` (kuberuntime_container.go, `makeMounts`); the first one's
/// is as good, since it reads where the container's status says. No other mount may differ: it would be another volume.
pub(super) fn is_repeated(made: &ContainerConfig, asked: &ContainerConfig) -> bool {
    let last_words = asked.annotations.get(LAST_WORDS);
    let same_but_for_the_file = |one: &Mount, other: &Mount| {
        if last_words != Some(&one.container_path) {
            return false;
        }
        let (Some((one_in, one_name)), Some((other_in, other_name))) =
            (one.host_path.rsplit_once('/'), other.host_path.rsplit_once('/'))
        else {
            return false;
        };
        let made_up =
            |name: &str| name.len() == 8 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        one_in == other_in && made_up(one_name) && made_up(other_name)
    };
    if made.mounts.len() != asked.mounts.len() {
        return false;
    }
    let mut alike = asked.clone();
    for (one, other) in made.mounts.iter().zip(&mut alike.mounts) {
        if same_but_for_the_file(one, other) {
            other.host_path.clone_from(&one.host_path);
        }
    }
    *made == alike
}

#[cfg(test)]
mod tests {
    use runtime_lifecycle::{Propagation, ReadOnly};

    use super::*;

    fn mount(host_path: &str) -> Mount {
        Mount {
            container_path: "/dev/termination-log".to_owned(),
            host_path: host_path.to_owned(),
            read_only: ReadOnly::No,
            propagation: Propagation::Private,
            options: Vec::new(),
            id_mappings: None,
            image: None,
        }
    }

    fn config(host_path: &str) -> ContainerConfig {
        serde_json::from_value::<ContainerConfig>(serde_json::json!({
            "name": "main", "attempt": 0, "image": {"image": "i"}, "mounts": [mount(host_path)],
            "annotations": {LAST_WORDS: "/dev/termination-log"}
        }))
        .expect("is one")
    }

    #[test]
    fn only_the_kubelets_file_may_differ() {
        let made = config("/pods/u/containers/main/0123abcd");
        for (host_path, alike) in [
            ("/pods/u/containers/main/0123abcd", true),
            ("/pods/u/containers/main/ffffffff", true),
            ("/pods/v/containers/main/ffffffff", false),
            ("/pods/u/containers/main/fffffff", false),
            ("/pods/u/containers/main/ffffffffg", false),
            ("/pods/u/containers/main/FFFFFFFF", false),
            ("/pods/u/containers/main/other", false),
            ("ffffffff", false),
        ] {
            assert_eq!(is_repeated(&made, &config(host_path)), alike, "{host_path}");
        }
        // A volume whose directory happens to have such a name, or a container of somebody who is no kubelet.
        let mut one = made.clone();
        one.mounts[0].container_path = "/data".to_owned();
        let mut another = one.clone();
        another.mounts[0].host_path = "/pods/u/containers/main/ffffffff".to_owned();
        assert!(is_repeated(&one, &one) && !is_repeated(&one, &another));
        let (mut one, mut another) = (made.clone(), config("/pods/u/containers/main/ffffffff"));
        one.annotations.clear();
        another.annotations.clear();
        assert!(!is_repeated(&one, &another));
        let mut other = made.clone();
        other.args = vec!["x".to_owned()];
        assert!(!is_repeated(&made, &other));
        other = made.clone();
        other.mounts.push(mount("/y"));
        assert!(!is_repeated(&made, &other) && !is_repeated(&other, &made));
    }
}
