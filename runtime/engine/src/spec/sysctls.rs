//! Kernel parameters that a pod may set: those that are its own.

use std::collections::BTreeMap;

use runtime_lifecycle::{IpcMode, NamespaceModes, NetworkMode};

use crate::EngineError;

/// Longest name and value, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// Checks each and brings names to dotted form (`net/ipv4/ip_forward` is the same; with `/` as separator a dot is part of
/// a name, as in an interface's).
pub(crate) fn check(
    asked: &BTreeMap<String, String>,
    namespaces: &NamespaceModes,
) -> Result<Vec<(String, String)>, EngineError> {
    asked.iter().map(|(name, value)| one(name, value, namespaces)).collect()
}

fn one(name: &str, value: &str, namespaces: &NamespaceModes) -> Result<(String, String), EngineError> {
    let refused = |why: &str| {
        let name: String = name.chars().take(200).collect();
        Err(EngineError::invalid(format!("sysctl {name:?}"), why))
    };
    let separator = name.find(['.', '/']).map_or('.', |at| if name.as_bytes()[at] == b'/' { '/' } else { '.' });
    let parts: Vec<&str> = name.split(separator).collect();
    let good = |part: &str| {
        !part.is_empty()
            && part != ".."
            && part != "."
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@'))
    };
    if name.len() > TEXT_BYTES_MAX
        || value.len() > TEXT_BYTES_MAX
        || value.contains('\0')
        || !parts.iter().all(|part| good(part))
    {
        return refused("is not a kernel parameter");
    }
    if parts.iter().any(|part| part.contains('.')) {
        return refused("names an interface with a dot, which is not supported");
    }
    let ipc = match parts.as_slice() {
        ["kernel", last] => last.starts_with("shm") || last.starts_with("msg") || *last == "sem",
        ["fs", "mqueue", ..] => true,
        _ => false,
    };
    let network = parts.first() == Some(&"net");
    if !ipc && !network {
        return refused("is not one that a pod has of its own");
    }
    if ipc && namespaces.ipc == IpcMode::Node {
        return refused("is the host's, since the pod uses the host's IPC namespace");
    }
    if network && namespaces.network == NetworkMode::Node {
        return refused("is the host's, since the pod uses the host's network");
    }
    Ok((parts.join("."), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use runtime_lifecycle::{IpcMode, NamespaceModes, NetworkMode, PidMode, UserMode};

    use super::check;

    #[test]
    fn only_what_is_the_pods_own() {
        let own = NamespaceModes {
            network: NetworkMode::Pod,
            pid: PidMode::Container,
            ipc: IpcMode::Pod,
            user: UserMode::Node,
        };
        let hosts_network = NamespaceModes { network: NetworkMode::Node, ..own };
        let hosts_ipc = NamespaceModes { ipc: IpcMode::Node, ..own };
        for (name, namespaces, told) in [
            ("net.ipv4.ip_forward", own, Some("net.ipv4.ip_forward")),
            ("net/ipv4/ip_forward", own, Some("net.ipv4.ip_forward")),
            ("kernel.shmmax", own, Some("kernel.shmmax")),
            ("kernel.msgmni", own, Some("kernel.msgmni")),
            ("kernel.sem", own, Some("kernel.sem")),
            ("fs.mqueue.msg_max", own, Some("fs.mqueue.msg_max")),
            ("net.ipv4.ip_forward", hosts_network, None),
            ("kernel.shmmax", hosts_ipc, None),
            ("kernel.core_pattern", own, None),
            ("kernel.semaphore", own, None),
            ("vm.swappiness", own, None),
            ("fs.file-max", own, None),
            ("net/../kernel/core_pattern", own, None),
            ("net..ipv4", own, None),
            ("/proc/sys/net", own, None),
            ("net/ipv4/conf/eth0.1/forwarding", own, None),
            ("", own, None),
        ] {
            let asked = [(name.to_owned(), "1".to_owned())].into();
            let checked = check(&asked, &namespaces).ok().map(|mut checked| checked.remove(0).0);
            assert_eq!(checked.as_deref(), told, "{name}");
        }
        let asked = [("net.x".to_owned(), "1\0".to_owned())].into();
        assert!(check(&asked, &own).is_err());
    }
}
