//! The configuration of a network: a list of plugins.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::name::{NetworkName, PluginType};
use crate::port::PortMapping;
use crate::result::AddResult;
use crate::version::Version;

/// Most bytes of a configuration file; real ones have a few hundred.
pub const LIST_BYTES_MAX: usize = 256 * 1024;
/// Most plugins in a list; real ones have two to five.
pub const LIST_PLUGINS_MAX: usize = 32;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It isn't JSON, or a word in it is wrong.
    #[error("the network configuration can't be read")]
    Json(#[source] serde_json::Error),
    /// It has no plugin, or too many.
    #[error("the network configuration lists {count} plugins; 1 to {LIST_PLUGINS_MAX} are allowed")]
    Count {
        /// How many it has.
        count: usize,
    },
    /// It is too long.
    #[error("the network configuration has {bytes} bytes; at most {LIST_BYTES_MAX} are read")]
    Long {
        /// Its length.
        bytes: usize,
    },
}

/// A network: its name and the plugins that make it, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConfList {
    /// The version of the specification.
    pub cni_version: Version,
    /// The network's name.
    pub name: NetworkName,
    /// The plugins, first to last for ADD, last to first for DEL.
    pub plugins: Vec<PluginConf>,
    /// Keys that have no word here (`disableCheck`, `cniVersions`, …).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginConf {
    /// The plugin's type: the name of its program.
    #[serde(rename = "type")]
    pub kind: PluginType,
    /// What the plugin asks the runtime for.
    #[serde(default, skip_serializing_if = "Capabilities::is_empty")]
    pub capabilities: Capabilities,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The capabilities that a plugin asks for, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(Map<String, Value>);

/// What the runtime gives for the capabilities that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// `portMappings`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Other capabilities.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Name servers and search domains.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers, most wanted first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub dst: IpNet,
    /// The next hop; none means the address's own gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Words of later versions (`mtu`, `advmss`, `priority`, `table`, `scope`).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The `ipam` section of the host-local plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostLocal {
    /// `host-local`.
    #[serde(rename = "type")]
    pub kind: PluginType,
    /// One set per address that a pod gets; a set's ranges are used one after the other.
    #[serde(default)]
    pub ranges: Vec<Vec<HostLocalRange>>,
    /// The routes of the pod.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Keys that have no word here; the old single `subnet` among them.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostLocalRange {
    /// The network.
    pub subnet: IpNet,
    /// The first address to hand out; none: the first after the network's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_start: Option<IpAddr>,
    /// The last address to hand out; none: the last before broadcast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_end: Option<IpAddr>,
    /// The gateway; none: the first address of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

impl Capabilities {
    /// Whether the plugin asks for this one.
    #[must_use]
    pub fn asks_for(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// Whether it asks for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl NetConfList {
    /// Reads a list (`.conflist`), or a single plugin's configuration (`.conf`) as a list of one.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.len() > LIST_BYTES_MAX {
            return Err(ConfigError::Long { bytes: text.len() });
        }
        let value: Value = serde_json::from_str(text).map_err(ConfigError::Json)?;
        let value = match value {
            Value::Object(mut single) if !single.contains_key("plugins") => {
                let version = single.remove("cniVersion").unwrap_or_default();
                let name = single.remove("name").unwrap_or_default();
                json!({ "cniVersion": version, "name": name, "plugins": [single] })
            }
            list => list,
        };
        let list: Self = serde_json::from_value(value).map_err(ConfigError::Json)?;
        if list.plugins.is_empty() || list.plugins.len() > LIST_PLUGINS_MAX {
            return Err(ConfigError::Count { count: list.plugins.len() });
        }
        Ok(list)
    }

    /// What is written to a plugin's standard input: its own keys with the list's name and version, the runtime's answers
    /// to the capabilities it asks for, and the result of the plugin before it.
    #[must_use]
    pub fn request(&self, plugin: &PluginConf, runtime: &RuntimeConfig, previous: Option<&AddResult>) -> Value {
        let mut request = plugin.other.clone();
        request.insert("type".to_owned(), json!(plugin.kind));
        request.insert("name".to_owned(), json!(self.name));
        request.insert("cniVersion".to_owned(), json!(self.cni_version));
        let mut given = Map::new();
        if plugin.capabilities.asks_for("portMappings") && !runtime.port_mappings.is_empty() {
            given.insert("portMappings".to_owned(), json!(runtime.port_mappings));
        }
        for (name, value) in runtime.other.iter().filter(|(name, _)| plugin.capabilities.asks_for(name)) {
            given.insert(name.clone(), value.clone());
        }
        if !given.is_empty() {
            request.insert("runtimeConfig".to_owned(), Value::Object(given));
        }
        if let Some(previous) = previous {
            request.insert("prevResult".to_owned(), json!(previous.clone().in_version(self.cni_version)));
        }
        Value::Object(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Protocol;

    /// The list of the specification's appendix, shortened.
    const EXAMPLE: &str = r#"{
        "cniVersion": "1.1.0", "cniVersions": ["0.4.0", "1.1.0"], "name": "dbnet",
        "plugins": [
            {"type": "bridge", "bridge": "cni0", "keyA": ["some more", "plugin specific", "configuration"],
             "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16", "gateway": "10.1.0.1"}]],
                      "routes": [{"dst": "0.0.0.0/0"}]},
             "dns": {"nameservers": ["10.1.0.1"]}},
            {"type": "tuning", "capabilities": {"mac": true}, "sysctl": {"net.core.somaxconn": "500"}},
            {"type": "portmap", "capabilities": {"portMappings": true}}
        ]
    }"#;

    #[test]
    fn round_trip_keeps_every_key() {
        let list = NetConfList::parse(EXAMPLE).unwrap();
        let written = serde_json::to_value(&list).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(EXAMPLE).unwrap());
        let ipam: HostLocal = serde_json::from_value(list.plugins[0].other["ipam"].clone()).unwrap();
        assert_eq!(ipam.ranges[0][0].gateway, Some("10.1.0.1".parse().unwrap()));
    }

    #[test]
    fn a_plugin_gets_what_it_asks_for() {
        let list = NetConfList::parse(EXAMPLE).unwrap();
        let runtime = RuntimeConfig {
            port_mappings: vec![PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: None,
            }],
            other: Map::from_iter([("mac".to_owned(), json!("00:11:22:33:44:66"))]),
        };
        let asked = |index: usize| list.request(&list.plugins[index], &runtime, None);
        assert!(asked(0).get("runtimeConfig").is_none());
        assert_eq!(asked(1)["runtimeConfig"], json!({"mac": "00:11:22:33:44:66"}));
        assert_eq!(asked(2)["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
        assert_eq!((&asked(2)["name"], asked(2).get("capabilities")), (&json!("dbnet"), None));
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = NetConfList::parse(r#"{"cniVersion":"0.4.0","name":"lo","type":"loopback"}"#).unwrap();
        assert_eq!((list.plugins.len(), list.plugins[0].kind.as_str()), (1, "loopback"));
    }

    #[test]
    fn bad_lists() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"cniVersion":"9","name":"a","plugins":[{"type":"b"}]}"#,
            r#"{"cniVersion":"1.0.0","name":"../a","plugins":[{"type":"b"}]}"#,
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"../b"}]}"#,
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#,
        ] {
            assert!(NetConfList::parse(bad).is_err(), "{bad}");
        }
        assert!(NetConfList::parse(&" ".repeat(LIST_BYTES_MAX + 1)).is_err());
    }
}
