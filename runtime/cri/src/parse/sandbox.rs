//! A sandbox's configuration.

use runtime_cri_api::v1::{self, NamespaceMode, NamespaceOption, PodSandboxConfig};
use runtime_lifecycle::{
    Dns, IpcMode, Metadata, NamespaceModes, NetworkMode, PidMode, Port, Privilege, Protocol, SandboxConfig,
};
use tonic::Status;

use super::{absolute, container::resources, known, map, name, optional_name, plain, text, texts, userns::user_mode};
use crate::error::invalid;

/// The one handler besides the default, which is the same.
const HANDLER: &str = "podwright";

pub(crate) fn sandbox_config(config: Option<PodSandboxConfig>, handler: String) -> Result<SandboxConfig, Status> {
    let config = config.ok_or_else(|| invalid("config", "is missing"))?;
    if !matches!(handler.as_str(), "" | HANDLER) {
        let handler = optional_name("runtime_handler", handler)?;
        return Err(Status::not_found(format!("no runtime handler {handler:?}: there are \"\" and {HANDLER:?}")));
    }
    let metadata = config.metadata.ok_or_else(|| invalid("metadata", "is missing"))?;
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let namespaces = namespaces(security.namespace_options.as_ref())?;
    let hostname = text("hostname", config.hostname)?;
    let ports = config.port_mappings.into_iter().map(port).collect::<Result<Vec<_>, Status>>()?;
    Ok(SandboxConfig {
        metadata: Metadata {
            namespace: optional_name("metadata.namespace", metadata.namespace)?,
            name: name("metadata.name", metadata.name)?,
            uid: optional_name("metadata.uid", metadata.uid)?,
            attempt: metadata.attempt,
        },
        hostname,
        log_directory: absolute("log_directory", config.log_directory)?,
        dns: config.dns_config.map(dns).transpose()?,
        ports,
        labels: map("labels", config.labels)?,
        annotations: map("annotations", config.annotations)?,
        cgroup_parent: Some(plain("cgroup_parent", linux.cgroup_parent)?).filter(|parent| !parent.is_empty()),
        namespaces,
        sysctls: map("sysctls", linux.sysctls)?,
        privilege: if security.privileged { Privilege::Privileged } else { Privilege::Confined },
        overhead: resources(linux.overhead.unwrap_or_default())?,
        resources: resources(linux.resources.unwrap_or_default())?,
        runtime_handler: handler,
    })
}

fn dns(dns: v1::DnsConfig) -> Result<Dns, Status> {
    Ok(Dns {
        servers: texts("dns_config.servers", dns.servers)?,
        searches: texts("dns_config.searches", dns.searches)?,
        options: texts("dns_config.options", dns.options)?,
    })
}

fn port(port: v1::PortMapping) -> Result<Port, Status> {
    let number =
        |what: &str, number: i32| u16::try_from(number).map_err(|_| invalid(what, format!("{number} is not a port")));
    let host_ip = match port.host_ip.as_str() {
        "" => None,
        text => {
            Some(text.parse().map_err(|_| invalid("port_mappings.host_ip", format!("{text:?} is not an address")))?)
        }
    };
    let host_port = number("port_mappings.host_port", port.host_port)?;
    let container_port = number("port_mappings.container_port", port.container_port)?;
    if host_port != 0 && container_port == 0 {
        return Err(invalid("port_mappings.container_port", "is missing"));
    }
    Ok(Port {
        host_port,
        container_port,
        protocol: match known("port_mappings.protocol", port.protocol)? {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Sctp => Protocol::Sctp,
        },
        host_ip,
    })
}

fn namespaces(options: Option<&NamespaceOption>) -> Result<NamespaceModes, Status> {
    let options = options.cloned().unwrap_or_default();
    let network = match known("namespace_options.network", options.network)? {
        NamespaceMode::Pod => NetworkMode::Pod,
        NamespaceMode::Node => NetworkMode::Node,
        NamespaceMode::Container | NamespaceMode::Target => {
            return Err(invalid("namespace_options.network", "is the pod's or the node's"));
        }
    };
    let ipc = match known("namespace_options.ipc", options.ipc)? {
        NamespaceMode::Pod => IpcMode::Pod,
        NamespaceMode::Node => IpcMode::Node,
        NamespaceMode::Container | NamespaceMode::Target => {
            return Err(invalid("namespace_options.ipc", "is the pod's or the node's"));
        }
    };
    let pid = match pid(&options)? {
        (pid, None) => pid,
        (_, Some(_)) => return Err(invalid("namespace_options.pid", "a sandbox has no target container")),
    };
    Ok(NamespaceModes { network, pid, ipc, user: user_mode(&options)? })
}

/// Whose processes are seen, and the container whose they are where that isn't the pod's to say.
pub(super) fn pid(options: &NamespaceOption) -> Result<(PidMode, Option<String>), Status> {
    match known("namespace_options.pid", options.pid)? {
        NamespaceMode::Pod => Ok((PidMode::Pod, None)),
        NamespaceMode::Container => Ok((PidMode::Container, None)),
        NamespaceMode::Node => Ok((PidMode::Node, None)),
        NamespaceMode::Target => {
            let target = name("namespace_options.target_id", options.target_id.clone())?;
            Ok((PidMode::Container, Some(target)))
        }
    }
}
