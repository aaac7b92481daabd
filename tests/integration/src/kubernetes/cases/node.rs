//! The node itself.

use anyhow::ensure;

use super::case;
use crate::Outcome;
use crate::kubernetes::cluster::{Cluster, Runtime};
use crate::kubernetes::shell::Shell;
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] =
    &[case("node::is_ready_and_names_its_runtime", is_ready), case("node::statistics_of_pods", statistics)];

fn is_ready(shell: &Shell, cluster: &Cluster) -> Outcome {
    let runtime = cluster.layout.runtime.daemon();
    let version = match cluster.layout.runtime {
        Runtime::Podwright => {
            shell.run("podwright --version")?.split_whitespace().last().unwrap_or_default().to_owned()
        }
        Runtime::Containerd => "2.4.2".to_owned(),
    };
    let nodes = shell.says("kubectl get nodes -o wide", &format!("{runtime}://{version}"))?;
    let row: Vec<&str> = nodes.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    ensure!(row.get(1) == Some(&"Ready"), "{nodes}");
    Ok(())
}

fn statistics(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl run busy --image=busybox --restart=Never -- sleep 600")?;
    shell.run("kubectl wait --for=condition=Ready pod/busy --timeout=30s")?;
    let of_pod = |text: &str| text.contains("\"busy\"");
    shell.until(60, "kubectl get --raw /api/v1/nodes/node1/proxy/stats/summary", "the pod busy", of_pod)?;
    for (path, wanted) in [("metrics/resource", "container=\"busy\""), ("metrics/cadvisor", "container_memory_rss")] {
        let raw = format!("kubectl get --raw /api/v1/nodes/node1/proxy/{path} | grep pod=.busy");
        shell.comes_to_say(60, &raw, wanted)?;
    }
    Ok(())
}
