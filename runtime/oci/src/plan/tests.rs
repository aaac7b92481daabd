use super::*;

fn check(name: &str, own: Namespaces, path: Option<&str>) {
    let answer = sysctl(name, "1", own).ok().map(|(path, _)| path.to_string_lossy().into_owned());
    assert_eq!(answer.as_deref(), path, "{name}");
}

#[test]
fn only_parameters_of_own_namespaces() {
    let network = Namespaces::NETWORK;
    check("net.ipv4.ip_forward", network, Some("sys/net/ipv4/ip_forward"));
    check("net/ipv4/ip_forward", network, Some("sys/net/ipv4/ip_forward"));
    check("net.ipv4.conf.eth0/1.forwarding", network, Some("sys/net/ipv4/conf/eth0.1/forwarding"));
    check("net/ipv4/conf/eth0.1/forwarding", network, Some("sys/net/ipv4/conf/eth0.1/forwarding"));
    check("net.ipv4.ip_forward", Namespaces::IPC, None);
    check("kernel.shmmax", Namespaces::IPC, Some("sys/kernel/shmmax"));
    check("kernel.core_pattern", network.and(Namespaces::IPC), None);
    check("net/../kernel/core_pattern", network, None);
    check("net..kernel", network, None);
    check("net.ipv4.x+kernel.core_pattern", network, None);
    check("", network, None);
}

#[test]
fn a_value_is_one_line() {
    assert!(sysctl("net.ipv4.ip_local_port_range", "1024\t65535", Namespaces::NETWORK).is_ok());
    assert!(sysctl("net.ipv4.ip_forward", "1\n2", Namespaces::NETWORK).is_err());
}
