//! What is written down about each sandbox and container: one JSON file each.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    ContainerConfig, ContainerId, ContainerState, ProcessIdentity, Resources, SandboxConfig, SandboxId, SandboxState,
    Timestamp,
};

/// The version of both records. A reader ignores fields that it doesn't know.
pub const RECORD_VERSION: u32 = 1;

/// A sandbox, as written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Its id.
    pub id: SandboxId,
    /// What was asked for.
    pub config: SandboxConfig,
    /// `/proc/sys/kernel/random/boot_id` when it was made.
    pub boot: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The cgroup of its pause process: a path below each hierarchy's root.
    pub cgroup: String,
    /// The supervisor, once started.
    #[serde(default)]
    pub supervisor: Option<ProcessIdentity>,
    /// Its network, once attached. Nothing on the host's network.
    #[serde(default)]
    pub network: Option<NetworkRecord>,
    /// What it is doing.
    #[serde(flatten)]
    pub state: SandboxState,
}

/// What the network gave a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its addresses, the first is the pod's.
    pub ips: Vec<IpAddr>,
    /// The interface's name in the pod.
    pub interface: String,
}

/// A container, as written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Its id.
    pub id: ContainerId,
    /// The sandbox that it is in.
    pub sandbox: SandboxId,
    /// What was asked for.
    pub config: ContainerConfig,
    /// The image's id.
    pub image_id: String,
    /// The ids of the images that are its volumes, in the order of its mounts.
    #[serde(default)]
    pub volume_images: Vec<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Where its log is: absolute, also when there is none (then a file that never exists): a client that is told an
    /// empty path has been seen to remove everything below `/`.
    pub log: PathBuf,
    /// Its cgroup: a path below each hierarchy's root.
    pub cgroup: String,
    /// Its first process's user.
    pub uid: u32,
    /// And group.
    pub gid: u32,
    /// And further groups.
    #[serde(default)]
    pub groups: Vec<u32>,
    /// The signal that asks it to end.
    pub stop_signal: i32,
    /// Its limits, if they were changed since it was created ([`Self::resources`] answers).
    #[serde(default)]
    pub resources: Option<Resources>,
    /// What it is doing.
    #[serde(flatten)]
    pub state: ContainerState,
}

#[cfg(test)]
pub(crate) mod samples {
    use super::{ContainerRecord, RECORD_VERSION, SandboxRecord};
    use crate::{
        ContainerConfig, ContainerId, ContainerState, ImageName, IpcMode, Metadata, NamespaceModes, NetworkMode,
        PidMode, Privilege, Resources, SandboxConfig, SandboxId, SandboxState, Security, Stdin, Terminal, Timestamp,
        UserMode,
    };

    pub(crate) fn sandbox_id(seed: u8) -> SandboxId {
        SandboxId::from_random([seed; 32])
    }

    pub(crate) fn container_id(seed: u8) -> ContainerId {
        ContainerId::from_random([seed; 32])
    }

    pub(crate) fn sandbox(seed: u8, state: SandboxState) -> SandboxRecord {
        SandboxRecord {
            version: RECORD_VERSION,
            id: sandbox_id(seed),
            config: SandboxConfig {
                metadata: Metadata {
                    namespace: "ns".to_owned(),
                    name: format!("pod-{seed}"),
                    uid: "u".to_owned(),
                    attempt: 0,
                },
                hostname: "pod".to_owned(),
                log_directory: None,
                dns: None,
                ports: Vec::new(),
                labels: [("app".to_owned(), "web".to_owned())].into(),
                annotations: [].into(),
                cgroup_parent: None,
                namespaces: NamespaceModes {
                    network: NetworkMode::Pod,
                    pid: PidMode::Container,
                    ipc: IpcMode::Pod,
                    user: UserMode::Node,
                },
                sysctls: [].into(),
                privilege: Privilege::Confined,
                overhead: Resources::default(),
                resources: Resources::default(),
                runtime_handler: String::new(),
            },
            boot: "boot".to_owned(),
            created_at: Timestamp(1),
            cgroup: "/pods/x".to_owned(),
            supervisor: None,
            network: None,
            state,
        }
    }

    pub(crate) fn container(seed: u8, sandbox: u8, state: ContainerState) -> ContainerRecord {
        ContainerRecord {
            version: RECORD_VERSION,
            id: container_id(seed),
            sandbox: sandbox_id(sandbox),
            config: ContainerConfig {
                name: "main".to_owned(),
                attempt: 0,
                image: ImageName { image: "busybox".to_owned(), ..ImageName::default() },
                command: Vec::new(),
                args: Vec::new(),
                working_dir: String::new(),
                envs: Vec::new(),
                mounts: Vec::new(),
                devices: Vec::new(),
                cdi_devices: Vec::new(),
                labels: [("app".to_owned(), "web".to_owned())].into(),
                annotations: [].into(),
                log_path: "main/0.log".into(),
                stdin: Stdin::Closed,
                terminal: Terminal::No,
                resources: Resources::default(),
                security: Security::default(),
                stop_signal: None,
            },
            image_id: "sha256:00".to_owned(),
            volume_images: Vec::new(),
            created_at: Timestamp(2),
            log: "/logs/main/0.log".into(),
            cgroup: "/pods/c".to_owned(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            stop_signal: 15,
            resources: None,
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ContainerRecord, SandboxRecord, samples};
    use crate::{ContainerState, ProcessIdentity, SandboxState, Timestamp};

    #[test]
    fn records_survive_json_and_unknown_fields() {
        let process = ProcessIdentity { pid: 1, start_ticks: 2 };
        let sandbox = samples::sandbox(1, SandboxState::Ready { pause: process });
        let container = samples::container(2, 1, ContainerState::Running { process, since: Timestamp(3) });
        let text = serde_json::to_string(&sandbox).expect("serializable");
        let later = text.replacen('{', "{\"from_a_later_version\":[1],", 1);
        assert_eq!(serde_json::from_str::<SandboxRecord>(&later).expect(&later), sandbox);
        let text = serde_json::to_string(&container).expect("serializable");
        assert_eq!(serde_json::from_str::<ContainerRecord>(&text).expect(&text), container);
    }

    #[test]
    fn a_record_with_a_wrong_id_is_refused() {
        let text = serde_json::to_string(&samples::sandbox(1, SandboxState::Making)).expect("serializable");
        let bad = text.replace(&"01".repeat(32), "../../etc");
        assert!(serde_json::from_str::<SandboxRecord>(&bad).is_err());
    }
}
