//! The list of plugins: where it comes from, and which of them are the bundled ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cni_plugins::{BridgeConfig, BridgeError, BridgeNetwork};
use cni_spec::{AddResult, Interface, IpConfig, NetConfList, Route, Version};
use ipnet::IpNet;
use serde_json::{Map, json};

use crate::request::{Attached, NetworkConfig, NetworkError};

/// A list that is ready to be run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) list: NetConfList,
    /// The bundled bridge, where the list has one. It maps the host ports too.
    pub(crate) bridge: Option<Arc<BridgeNetwork>>,
    /// Whether host ports are mapped.
    pub(crate) portmap: bool,
}

/// Who runs a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    Bridge,
    Loopback,
    /// The bundled portmap: the bridge has done its work.
    Done,
    Program,
}

impl Plan {
    pub(crate) fn runner(&self, kind: &str) -> Runner {
        match kind {
            "bridge" => Runner::Bridge,
            "loopback" => Runner::Loopback,
            "portmap" if self.bridge.is_some() => Runner::Done,
            _ => Runner::Program,
        }
    }

    pub(crate) fn has_programs(&self) -> bool {
        self.list.plugins.iter().any(|plugin| self.runner(plugin.kind.as_str()) == Runner::Program)
    }

    pub(crate) fn has_loopback(&self) -> bool {
        self.list
            .plugins
            .iter()
            .any(|plugin| matches!(self.runner(plugin.kind.as_str()), Runner::Bridge | Runner::Loopback))
    }
}

/// The list of the configuration directory, or the bundled one.
pub(crate) fn load(config: &NetworkConfig, boot: &str) -> Result<Plan, NetworkError> {
    let list = match &config.conf_dir {
        Some(dir) => read_first(dir)?,
        None => bundled(config)?,
    };
    let kind = |kind: &'static str| move |plugin: &&cni_spec::PluginConf| plugin.kind.as_str() == kind;
    let setup = |error| NetworkError::Setup(error);
    let bridge = match list.plugins.iter().find(kind("bridge")) {
        Some(plugin) => {
            let bridge = BridgeConfig::parse(plugin).map_err(BridgeError::Config).map_err(setup)?;
            Some(Arc::new(BridgeNetwork::open(bridge, &config.state_dir, boot).map_err(setup)?))
        }
        None => None,
    };
    let portmap = list.plugins.iter().any(|plugin| kind("portmap")(&plugin));
    Ok(Plan { list, bridge, portmap })
}

fn bundled(config: &NetworkConfig) -> Result<NetConfList, NetworkError> {
    if config.pod_cidr.addr().is_ipv6() {
        return Err(NetworkError::Family { cidr: config.pod_cidr });
    }
    let list = json!({
        "cniVersion": Version::V1_1_0,
        "name": "podwright",
        "plugins": [
            {
                "type": "bridge", "bridge": config.bridge, "mtu": config.mtu.unwrap_or_default(),
                "isGateway": true, "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": { "type": "host-local", "ranges": [[{ "subnet": config.pod_cidr.trunc() }]] },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    NetConfList::parse(&list.to_string())
        .map_err(|source| NetworkError::Configuration { path: PathBuf::from("(bundled)"), source })
}

/// The first file by name, as the other runtimes take it.
fn read_first(dir: &Path) -> Result<NetConfList, NetworkError> {
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| NetworkError::File { step, path, source }
    };
    let entries = fs::read_dir(dir).map_err(failed("list", dir))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "conflist" || end == "conf" || end == "json"))
        .collect();
    paths.sort();
    let path = paths.into_iter().next().ok_or_else(|| NetworkError::NoConfiguration { path: dir.to_owned() })?;
    let length = fs::metadata(&path).map_err(failed("read", &path))?.len();
    let too_long =
        |bytes| NetworkError::Configuration { path: path.clone(), source: cni_spec::ConfigError::Long { bytes } };
    match usize::try_from(length) {
        Ok(bytes) if bytes <= cni_spec::LIST_BYTES_MAX => {}
        other => return Err(too_long(other.unwrap_or(usize::MAX))),
    }
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    NetConfList::parse(&text).map_err(|source| NetworkError::Configuration { path, source })
}

/// The bundled bridge's work in the words of the specification, for the plugins after it.
pub(crate) fn result_of(attachment: &cni_plugins::Attachment, netns: &Path, bridge: &str) -> AddResult {
    let link = |name: &str, mac: &str, sandbox: String| Interface {
        name: name.to_owned(),
        mac: mac.to_owned(),
        sandbox,
        other: Map::new(),
    };
    let ip = |address: &IpNet| IpConfig {
        version: None,
        interface: Some(2),
        address: *address,
        gateway: Some(attachment.gateway),
    };
    AddResult {
        cni_version: Version::V1_1_0,
        interfaces: vec![
            link(bridge, "", String::new()),
            link(&attachment.host_link, "", String::new()),
            link(&attachment.interface, &attachment.mac, netns.to_string_lossy().into_owned()),
        ],
        ips: attachment.ips.iter().map(ip).collect(),
        routes: vec![Route { dst: IpNet::V4(ipnet::Ipv4Net::default()), gw: None, other: Map::new() }],
        dns: cni_spec::Dns::default(),
    }
}

/// What the engine is told of a list's result.
pub(crate) fn attached(result: &AddResult, interface: &str) -> Attached {
    let link = result.pod_interface();
    Attached {
        ips: result.ips.iter().map(|ip| ip.address.addr()).collect(),
        interface: link.map_or_else(|| interface.to_owned(), |link| link.name.clone()),
        mac: link.map(|link| link.mac.clone()).unwrap_or_default(),
        gateway: result.ips.first().and_then(|ip| ip.gateway),
        dns: result.dns.clone(),
    }
}
