//! The answer to ADD.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{Dns, Route};
use crate::version::Version;

/// What a plugin prints after ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddResult {
    /// The version in which this answer is written.
    pub cni_version: Version,
    /// The links that were made.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// The addresses that were assigned.
    #[serde(default)]
    pub ips: Vec<IpConfig>,
    /// The routes that were added.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The name servers.
    #[serde(default)]
    pub dns: Dns,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, where it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// The path of its namespace; empty for the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Words of later versions (`mtu`, `socketPath`, `pciID`).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// `4` or `6`; asked for in 0.4.0, gone in 1.0.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The index of the link in `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// The address with its network's prefix.
    pub address: IpNet,
    /// The gateway of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

impl AddResult {
    /// The same answer in the words of another version.
    #[must_use]
    pub fn in_version(mut self, version: Version) -> Self {
        self.cni_version = version;
        for ip in &mut self.ips {
            ip.version = match (version, ip.address) {
                (Version::V0_4_0, IpNet::V4(_)) => Some("4".to_owned()),
                (Version::V0_4_0, IpNet::V6(_)) => Some("6".to_owned()),
                (Version::V1_0_0 | Version::V1_1_0, _) => None,
            };
        }
        self
    }

    /// The first link inside a namespace (the pod's), where one is named.
    #[must_use]
    pub fn pod_interface(&self) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| !interface.sandbox.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer of the bridge plugin in the specification's appendix.
    const EXAMPLE: &str = r#"{
        "cniVersion": "1.1.0",
        "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "interfaces": [
            {"name": "cni0", "mac": "00:11:22:33:44:55"},
            {"name": "veth3243", "mac": "55:44:33:22:11:11"},
            {"name": "eth0", "mac": "99:88:77:66:55:44", "sandbox": "/var/run/netns/blue", "mtu": 1500}
        ],
        "dns": {"nameservers": ["10.1.0.1"]}
    }"#;

    #[test]
    fn round_trip() {
        let result: AddResult = serde_json::from_str(EXAMPLE).unwrap();
        assert_eq!(result.pod_interface().unwrap().name, "eth0");
        assert_eq!(result.interfaces[2].other["mtu"], 1500);
        let again: AddResult = serde_json::from_str(&serde_json::to_string(&result).unwrap()).unwrap();
        assert_eq!(again, result);
        let old = result.in_version(Version::V0_4_0);
        assert!(serde_json::to_string(&old).unwrap().contains(r#""version":"4""#));
        assert_eq!(old.in_version(Version::V1_0_0).ips[0].version, None);
    }

    #[test]
    fn an_address_without_prefix_is_refused() {
        assert!(serde_json::from_str::<IpConfig>(r#"{"address":"10.1.0.5"}"#).is_err());
    }
}
