//! Sandboxes.

use std::collections::HashMap;

use runtime_cri_api::v1::{
    IdMapping, LinuxPodSandboxStatus, Namespace, NamespaceMode, NamespaceOption, PodIp, PodSandbox, PodSandboxMetadata,
    PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus, UserNamespace,
};
use runtime_lifecycle::{
    IdRange, IpcMode, Metadata, NamespaceModes, NetworkMode, PidMode, SandboxRecord, SandboxState, UserMode,
};

use super::map;

pub(super) fn metadata(metadata: &Metadata) -> PodSandboxMetadata {
    PodSandboxMetadata {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        attempt: metadata.attempt,
    }
}

fn state(state: &SandboxState) -> PodSandboxState {
    if state.is_ready() { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

/// For lists.
pub(crate) fn sandbox(record: &SandboxRecord) -> PodSandbox {
    PodSandbox {
        id: record.id.to_string(),
        metadata: Some(metadata(&record.config.metadata)),
        state: state(&record.state).into(),
        created_at: record.created_at.0,
        labels: map(&record.config.labels),
        annotations: map(&record.config.annotations),
        runtime_handler: record.config.runtime_handler.clone(),
    }
}

/// In full.
pub(crate) fn sandbox_status(record: &SandboxRecord) -> PodSandboxStatus {
    // A sandbox that isn't ready has no address any more, or soon hasn't.
    let mut ips = record.network.iter().filter(|_| record.state.is_ready()).flat_map(|network| &network.ips);
    let network = PodSandboxNetworkStatus {
        ip: ips.next().map(ToString::to_string).unwrap_or_default(),
        additional_ips: ips.map(|ip| PodIp { ip: ip.to_string() }).collect(),
    };
    PodSandboxStatus {
        id: record.id.to_string(),
        metadata: Some(metadata(&record.config.metadata)),
        state: state(&record.state).into(),
        created_at: record.created_at.0,
        network: Some(network),
        linux: Some(LinuxPodSandboxStatus {
            namespaces: Some(Namespace { options: Some(namespaces(&record.config.namespaces)) }),
        }),
        labels: map(&record.config.labels),
        annotations: map(&record.config.annotations),
        runtime_handler: record.config.runtime_handler.clone(),
    }
}

fn namespaces(modes: &NamespaceModes) -> NamespaceOption {
    let network = match modes.network {
        NetworkMode::Pod => NamespaceMode::Pod,
        NetworkMode::Node => NamespaceMode::Node,
    };
    let pid = match modes.pid {
        PidMode::Pod => NamespaceMode::Pod,
        PidMode::Container => NamespaceMode::Container,
        PidMode::Node => NamespaceMode::Node,
    };
    let ipc = match modes.ipc {
        IpcMode::Pod => NamespaceMode::Pod,
        IpcMode::Node => NamespaceMode::Node,
    };
    NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        target_id: String::new(),
        userns_options: Some(user_namespace(modes.user)),
    }
}

/// CRI has a list where one range is all there is.
pub(super) fn range(range: IdRange) -> Vec<IdMapping> {
    vec![IdMapping { container_id: range.container, host_id: range.host, length: range.length }]
}

fn user_namespace(mode: UserMode) -> UserNamespace {
    match mode {
        UserMode::Node => UserNamespace { mode: NamespaceMode::Node.into(), ..UserNamespace::default() },
        UserMode::Pod(mappings) => {
            UserNamespace { mode: NamespaceMode::Pod.into(), uids: range(mappings.uids), gids: range(mappings.gids) }
        }
    }
}

/// For `inspectp`.
pub(crate) fn sandbox_verbose(record: &SandboxRecord) -> HashMap<String, String> {
    let pid = match &record.state {
        SandboxState::Ready { pause } => pause.pid,
        SandboxState::Making | SandboxState::NotReady { .. } | SandboxState::Stopping | SandboxState::Stopped => 0,
    };
    let why = match &record.state {
        SandboxState::NotReady { why } => why.as_str(),
        _ => "",
    };
    let info = serde_json::json!({
        "pid": pid,
        "state": record.state.name(),
        "reason": why,
        "cgroup": record.cgroup,
        "supervisorPid": record.supervisor.map(|supervisor| supervisor.pid),
        "interface": record.network.as_ref().map(|network| &network.interface),
        "hostname": record.config.hostname,
        "logDirectory": record.config.log_directory,
        "overhead": record.config.overhead,
        "resources": record.config.resources,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}
