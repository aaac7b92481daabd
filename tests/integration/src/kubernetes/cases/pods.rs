//! What a pod's own fields ask for: rights, names, namespaces.

use anyhow::ensure;

use super::case;
use crate::Outcome;
use crate::kubernetes::NODE_IP;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::shell::Shell;
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] = &[
    case("pods::security_context", security_context),
    case("pods::names_and_resolver", names),
    case("pods::shared_and_host_namespaces", namespaces),
];

fn ready(shell: &Shell, pod: &str) -> Outcome {
    shell.run(&format!("kubectl wait --for=condition=Ready pod/{pod} --timeout=60s")).map(drop)
}

fn security_context(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f security-context.yaml")?;
    ready(shell, "careful")?;
    shell.becomes(0, "kubectl exec careful -- id", "uid=1000 gid=3000 groups=3000,4000")?;
    let status = shell.run("kubectl exec careful -- cat /proc/1/status")?;
    let words: Vec<&str> = status.split_whitespace().collect();
    for line in
        [["CapEff:", "0000000000000000"], ["CapBnd:", "0000000000000400"], ["NoNewPrivs:", "1"], ["Seccomp:", "2"]]
    {
        ensure!(words.windows(2).any(|pair| pair == line), "no {line:?} in\n{status}");
    }
    let said = shell.refused("kubectl exec careful -- touch /tmp/new")?;
    ensure!(said.contains("Read-only file system"), "{said}");
    shell.becomes(
        0,
        "kubectl exec careful -- cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
        "80\n1",
    )?;
    shell.comes_to_say(30, "kubectl get pod careless", "CreateContainerConfigError")?;
    shell.says("kubectl describe pod careless", "container has runAsNonRoot and image will run as root")?;
    ready(shell, "mighty")?;
    shell.becomes(0, "kubectl exec mighty -- sh -c 'mount -t tmpfs none /tmp && echo mounted'", "mounted")
}

fn names(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f names.yaml")?;
    ready(shell, "named")?;
    let full = format!("host-1.sub.{}.svc.cluster.local", shell.namespace);
    shell.becomes(0, "kubectl exec named -- hostname", &full)?;
    let hosts = shell.run("kubectl exec named -- cat /etc/hosts")?;
    ensure!(hosts.contains("10.1.2.3\tfoo.remote\tbar.remote") && hosts.contains(&full), "{hosts}");
    let resolver = shell.run("kubectl exec named -- cat /etc/resolv.conf")?;
    let mut lines: Vec<Vec<&str>> = resolver.lines().map(|line| line.split(' ').collect()).collect();
    // The kubelet keeps options in a map.
    lines.iter_mut().filter(|line| line.first() == Some(&"options")).for_each(|line| line.sort_unstable());
    ensure!(
        lines
            == [
                vec!["nameserver", "192.0.2.1"],
                vec!["search", "ns1.svc.cluster-domain.example", "my.dns.search.suffix"],
                vec!["edns0", "ndots:2", "options"]
            ],
        "{resolver}"
    );
    Ok(())
}

fn namespaces(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f namespaces.yaml")?;
    ready(shell, "shared")?;
    ready(shell, "on-the-node")?;
    shell.says("kubectl exec shared -c look -- ps", "nginx: master")?;
    let page = "for p in /proc/[0-9]*; do grep -q '^nginx: master' $p/cmdline && cat $p/root/usr/share/nginx/html/version; done; true";
    shell.becomes(0, &format!("kubectl exec shared -c look -- sh -c \"{}\"", page.replace('$', "\\$")), "latest")?;
    shell.says("kubectl exec on-the-node -- ps", "kube-apiserver")?;
    shell.becomes(0, "kubectl exec on-the-node -- hostname", "node1")?;
    shell.becomes(0, "kubectl get pod on-the-node -o jsonpath='{.status.podIP}'", NODE_IP)?;
    let of = |kind| format!("kubectl exec on-the-node -- readlink /proc/self/ns/{kind}");
    for kind in ["net", "ipc", "pid"] {
        let node = shell.run(&format!("readlink /proc/self/ns/{kind}"))?;
        shell.becomes(0, &of(kind), node.trim())?;
    }
    Ok(())
}
