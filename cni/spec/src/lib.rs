//! The words of the CNI specification, 0.4.0 to 1.1.0.
//!
//! *In*: JSON of configuration lists, results and errors; the text of `CNI_ARGS`. *Out*: the same as checked values, and
//! back. *Not here*: files, programs, the kernel. Keys that this crate has no word for are kept as they came, since a
//! plugin may know them. Names that later become part of a path are checked here, once.

mod args;
mod config;
mod error;
mod name;
mod port;
mod result;
mod version;

pub use args::{Args, ArgsError, PodArgs};
pub use config::{
    Capabilities, ConfigError, Dns, HostLocal, HostLocalRange, LIST_BYTES_MAX, LIST_PLUGINS_MAX, NetConfList,
    PluginConf, Route, RuntimeConfig,
};
pub use error::{CniError, code};
pub use name::{ContainerName, InterfaceName, NameError, NetworkName, PluginType};
pub use port::{PortMapping, Protocol};
pub use result::{AddResult, Interface, IpConfig};
pub use version::{SUPPORTED, Version, VersionError, VersionInfo};
