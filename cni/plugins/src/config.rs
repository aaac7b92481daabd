//! The configuration of the bundled bridge.

use std::net::{IpAddr, Ipv4Addr};

use cni_spec::{HostLocal, HostLocalRange, InterfaceName, NameError, PluginConf};
use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;

use crate::host_local::{Range, RangeError};

/// A bridge and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// The bridge's name.
    pub bridge: InterfaceName,
    /// The link's name inside the pods.
    pub interface: InterfaceName,
    /// The pods' addresses; all IPv4 and of one network.
    pub ranges: Vec<Range>,
    /// The MTU in bytes; `None`: the kernel's 1500.
    pub mtu: Option<u32>,
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BridgeConfigError {
    /// A name can't be used.
    #[error("{0}")]
    Name(NameError),
    /// The bundled host-local hands out other addresses than these.
    #[error("{0}")]
    Range(RangeError),
    /// A value of a key isn't served.
    #[error("the bundled bridge does not serve {key}: {value}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// The addresses can't be read.
    #[error("the ipam section can't be read: {0}")]
    Ipam(serde_json::Error),
    /// There are no addresses, or some of two networks.
    #[error("the ranges must be of one IPv4 network")]
    Ranges,
}

impl BridgeConfig {
    /// A bridge with the whole network for pods.
    pub fn of(bridge: &str, pods: IpNet, mtu: Option<u32>) -> Result<Self, BridgeConfigError> {
        let range = Range::of(pods, None, None, None).map_err(BridgeConfigError::Range)?;
        Self::with_ranges(bridge, vec![range], mtu)
    }

    fn with_ranges(bridge: &str, ranges: Vec<Range>, mtu: Option<u32>) -> Result<Self, BridgeConfigError> {
        let name = |name: &str| InterfaceName::parse(name).map_err(BridgeConfigError::Name);
        let mut networks = ranges.iter().map(|range| (range.subnet, range.gateway));
        let first = networks.next().ok_or(BridgeConfigError::Ranges)?;
        if !first.0.addr().is_ipv4() || networks.any(|other| other != first) {
            return Err(BridgeConfigError::Ranges);
        }
        // `all` and `default` are directories beside the links' in /proc/sys/net.
        if matches!(bridge, "all" | "default" | "lo") {
            return Err(BridgeConfigError::Unsupported { key: "bridge".to_owned(), value: bridge.to_owned() });
        }
        Ok(Self { bridge: name(bridge)?, interface: name("eth0")?, ranges, mtu })
    }

    /// Reads the configuration of a `bridge` plugin. The bundled one is always the pods' gateway and masquerades; a key
    /// that asks for something else is refused by name.
    pub fn parse(plugin: &PluginConf) -> Result<Self, BridgeConfigError> {
        let (mut bridge, mut mtu, mut ranges) = ("cni0".to_owned(), None, Vec::new());
        for (key, value) in &plugin.other {
            let refused = || BridgeConfigError::Unsupported { key: key.clone(), value: value.to_string() };
            match (key.as_str(), value) {
                ("bridge", Value::String(name)) => bridge.clone_from(name),
                ("mtu", Value::Number(bytes)) => {
                    let bytes = bytes.as_u64().and_then(|bytes| u32::try_from(bytes).ok()).ok_or_else(refused)?;
                    mtu = (bytes != 0).then_some(bytes);
                }
                ("isGateway" | "isDefaultGateway" | "ipMasq" | "hairpinMode" | "forceAddress", Value::Bool(true))
                | ("promiscMode" | "macspoofchk" | "forceAddress", Value::Bool(false))
                | ("dns" | "name" | "cniVersion" | "runtimeConfig" | "prevResult", _) => {}
                ("ipam", ipam) => ranges = read_ipam(ipam)?,
                _ => return Err(refused()),
            }
        }
        Self::with_ranges(&bridge, ranges, mtu)
    }

    /// The pods' network.
    #[must_use]
    pub fn pods(&self) -> Ipv4Net {
        match self.ranges.first().map(|range| range.subnet) {
            Some(IpNet::V4(net)) => net,
            // `with_ranges` lets neither through; nothing is in this network.
            Some(IpNet::V6(_)) | None => Ipv4Net::default(),
        }
    }

    /// The bridge's own address.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        match self.ranges.first().map(|range| range.gateway) {
            Some(IpAddr::V4(ip)) => ip,
            Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
        }
    }
}

fn read_ipam(ipam: &Value) -> Result<Vec<Range>, BridgeConfigError> {
    let section: HostLocal = serde_json::from_value(ipam.clone()).map_err(BridgeConfigError::Ipam)?;
    let unsupported = |key: &str, value: String| BridgeConfigError::Unsupported { key: key.to_owned(), value };
    if section.kind.as_str() != "host-local" {
        return Err(unsupported("ipam.type", section.kind.to_string()));
    }
    let mut sets = section.ranges;
    if section.other.contains_key("subnet") {
        let single: HostLocalRange = serde_json::from_value(ipam.clone()).map_err(BridgeConfigError::Ipam)?;
        sets.insert(0, vec![single]);
    }
    if let Some(route) = section.routes.iter().find(|route| route.dst.prefix_len() != 0 || route.gw.is_some()) {
        return Err(unsupported("ipam.routes", route.dst.to_string()));
    }
    let [set] = sets.as_slice() else { return Err(BridgeConfigError::Ranges) };
    set.iter()
        .map(|range| Range::of(range.subnet, range.range_start, range.range_end, range.gateway))
        .collect::<Result<_, _>>()
        .map_err(BridgeConfigError::Range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        let plugin: PluginConf = serde_json::from_str(text).unwrap();
        match BridgeConfig::parse(&plugin) {
            Ok(config) => format!("{} {} via {} {:?}", config.bridge, config.pods(), config.gateway(), config.mtu),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn configurations() {
        assert_eq!(
            check(
                r#"{"type":"bridge","bridge":"cni1","isGateway":true,"ipMasq":true,"mtu":1400,
                "ipam":{"type":"host-local","ranges":[[{"subnet":"10.88.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}}"#
            ),
            "cni1 10.88.0.0/16 via 10.88.0.1 Some(1400)"
        );
        assert_eq!(
            check(r#"{"type":"bridge","ipam":{"type":"host-local","subnet":"10.1.0.0/24","gateway":"10.1.0.9"}}"#),
            "cni0 10.1.0.0/24 via 10.1.0.9 None"
        );
        for (text, error) in [
            (r#"{"type":"bridge"}"#, "the ranges must be of one IPv4 network"),
            (r#"{"type":"bridge","vlan":7}"#, "the bundled bridge does not serve vlan: 7"),
            (r#"{"type":"bridge","ipMasq":false}"#, "the bundled bridge does not serve ipMasq: false"),
            (r#"{"type":"bridge","ipam":{"type":"dhcp"}}"#, "the bundled bridge does not serve ipam.type: dhcp"),
            (
                r#"{"type":"bridge","ipam":{"type":"host-local","subnet":"fd00::/64"}}"#,
                "the ranges must be of one IPv4 network",
            ),
        ] {
            assert_eq!(check(text), error);
        }
        assert!(
            check(r#"{"type":"bridge","bridge":"a/b","ipam":{"type":"host-local","subnet":"10.1.0.0/24"}}"#)
                .contains("a/b")
        );
    }
}
