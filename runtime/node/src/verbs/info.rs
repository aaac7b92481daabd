//! `podwright info`: what the node is and where it keeps what.

use runtime_control_api::v1::{InfoRequest, InfoResponse};
use serde_json::json;

use crate::address::Address;
use crate::cli::{Format, Info};
use crate::client::Client;
use crate::error::refused;
use crate::output;
use crate::verbs::Answer;

pub(super) async fn run(mut client: Client, address: Address, arguments: &Info) -> Answer {
    let info = client.control.info(InfoRequest {}).await.map_err(refused("info"))?.into_inner();
    match arguments.output {
        Format::Json => output::json(&as_json(&address, &info)),
        Format::Table => as_table(&address, &info),
    }
    Ok(0)
}

fn as_table(address: &Address, info: &InfoResponse) {
    let network = if info.network_not_ready.is_empty() {
        format!("{} on {}", info.pod_cidr, info.bridge)
    } else {
        format!("not ready: {}", info.network_not_ready)
    };
    let rows = [
        ("node", info.node_name.clone()),
        ("version", info.version.clone()),
        ("address", address.to_string()),
        (
            "process",
            format!("{}, up {}", info.pid, output::age(i64::try_from(info.uptime_seconds).unwrap_or(i64::MAX))),
        ),
        ("kernel", format!("{}, cgroup {}", info.kernel, info.cgroups)),
        ("state", info.root.clone()),
        ("run", info.run.clone()),
        ("network", network),
        ("keeper", if info.keeper { "on" } else { "off" }.to_owned()),
        ("pods", format!("{} with {} containers", info.sandboxes, info.containers)),
        ("images", format!("{}, {}", info.images, output::size(info.image_bytes))),
    ];
    for (name, value) in rows {
        output::line(&format!("{name:<9}{value}"));
    }
}

fn as_json(address: &Address, info: &InfoResponse) -> serde_json::Value {
    json!({
        "node": info.node_name,
        "version": info.version,
        "address": address.to_string(),
        "pid": info.pid,
        "uptimeSeconds": info.uptime_seconds,
        "kernel": info.kernel,
        "cgroups": info.cgroups,
        "root": info.root,
        "run": info.run,
        "podCidr": info.pod_cidr,
        "bridge": info.bridge,
        "networkReady": info.network_not_ready.is_empty(),
        "networkMessage": info.network_not_ready,
        "keeper": info.keeper,
        "sandboxes": info.sandboxes,
        "containers": info.containers,
        "images": info.images,
        "imageBytes": info.image_bytes,
    })
}
