//! What tests of several modules begin with.

use runtime_lifecycle::{ContainerConfig, ImageName, Resources, Security, Stdin, Terminal};

/// A container that asks for nothing but its name.
pub(crate) fn container() -> ContainerConfig {
    ContainerConfig {
        name: "main".to_owned(),
        attempt: 0,
        image: ImageName::default(),
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: [].into(),
        annotations: [].into(),
        log_path: "".into(),
        stdin: Stdin::Closed,
        terminal: Terminal::No,
        resources: Resources::default(),
        security: Security::default(),
        stop_signal: None,
    }
}
