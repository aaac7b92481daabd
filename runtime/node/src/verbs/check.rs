//! `podwright check`: what is wrong with manifests, without running anything.

use crate::cli::Check;
use crate::output;
use crate::verbs::{Answer, manifests};

pub(super) fn run(arguments: &Check) -> Answer {
    let texts = manifests::read(&arguments.files)?;
    for pod in manifests::parse(&texts)? {
        let containers: Vec<&str> = pod.containers.iter().map(|container| container.name.as_str()).collect();
        let mut line = format!("{}:{}: pod {}: ", pod.origin.file, pod.origin.line, pod.key());
        if !pod.init_containers.is_empty() {
            let init: Vec<&str> = pod.init_containers.iter().map(|container| container.name.as_str()).collect();
            line.push_str(&format!("init containers {}; ", init.join(", ")));
        }
        line.push_str(&format!("containers {}", containers.join(", ")));
        output::line(&line);
    }
    Ok(0)
}
