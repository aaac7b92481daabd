//! What people do with a cluster, case by case.

mod configuration;
mod downtime;
mod features;
mod life;
mod node;
mod pods;
mod probes;
mod services;
mod storage;
mod verbs;
mod workloads;

use super::cluster::Cluster;
use super::suite::{Case, Company};
use crate::Outcome;

/// Cases by chapter, in the order of the table.
pub fn all() -> Vec<Case> {
    [
        node::CASES,
        workloads::CASES,
        configuration::CASES,
        storage::CASES,
        services::CASES,
        pods::CASES,
        probes::CASES,
        verbs::CASES,
        features::CASES,
        downtime::CASES,
        life::CASES,
    ]
    .concat()
}

/// What the cases need in the cluster besides it: names.
///
/// # Errors
/// When it doesn't come up in time.
pub fn prepare(cluster: &Cluster) -> Outcome {
    let shell = cluster.shell("kube-system")?;
    cluster.apply("coredns.yaml")?;
    if cluster.layout.bin.join("metrics-server").is_file() {
        cluster.apply("metrics-server.yaml")?;
    }
    shell.run("kubectl rollout status deployment/coredns --timeout=60s").map(drop)
}

/// A case that others may run beside.
const fn case(name: &'static str, run: fn(&super::shell::Shell, &Cluster) -> Outcome) -> Case {
    Case { name, company: Company::Any, run }
}

/// A case that has the node to itself.
const fn alone(name: &'static str, run: fn(&super::shell::Shell, &Cluster) -> Outcome) -> Case {
    Case { name, company: Company::None, run }
}
