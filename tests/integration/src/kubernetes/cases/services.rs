//! Services through kube-proxy, names through CoreDNS.

use anyhow::ensure;

use super::case;
use crate::Outcome;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::shell::{Shell, Skip};
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] = &[
    case("services::cluster_ip", cluster_ip),
    case("services::node_port", node_port),
    case("services::headless_and_names", names),
    case("services::load_balancer_stays_pending", load_balancer),
    case("services::endpoints_follow_readiness", readiness),
    case("services::host_port", host_port),
    case("services::a_pod_reaches_itself_through_its_service", hairpin),
    case("services::ingress", ingress),
];

/// Debian's busybox crashes by its own `-T`.
const GET: &str = "timeout 5 wget -q -O -";

fn begun(shell: &Shell) -> Outcome {
    shell.run("kubectl apply -f nginx-deployment.yaml -f client.yaml")?;
    // A port of the node is one case's alone.
    shell.run("sed /nodePort/d services.yaml | kubectl apply -f -")?;
    shell.run("kubectl rollout status deployment/nginx-deployment --timeout=60s")?;
    shell.run("kubectl wait --for=condition=Ready pod/client --timeout=30s")?;
    shell.becomes(20, "kubectl get endpointslices -l kubernetes.io/service-name=my-service -o jsonpath='{.items[0].endpoints[*].conditions.ready}'", "true true true").map(drop)
}

fn cluster_ip(shell: &Shell, _: &Cluster) -> Outcome {
    begun(shell)?;
    let address = shell.run("kubectl get service my-service -o jsonpath='{.spec.clusterIP}'")?;
    shell.comes_to_say(20, &format!("kubectl exec client -- {GET} http://{address}:8080/version"), "1.14.2")?;
    shell.comes_to_say(20, &format!("curl -sf --max-time 5 http://{address}:8080/version"), "1.14.2")?;
    shell.says(&format!("kubectl exec client -- {GET} http://my-service:8080/version"), "1.14.2")?;
    // Every pod gets its share.
    let asked = format!(
        "for i in $(seq 40); do curl -s -o /dev/null --max-time 5 http://{address}:8080/; done; kubectl logs -l app=nginx --prefix | grep -c 'GET / ' || true"
    );
    shell.run(&asked)?;
    let served =
        shell.run("for p in $(kubectl get pods -l app=nginx -o name); do kubectl logs $p | grep -c 'GET / '; done")?;
    ensure!(served.lines().count() == 3 && served.lines().all(|line| line != "0"), "served: {served}");
    shell.run("kubectl scale deployment/nginx-deployment --replicas=0")?;
    shell
        .until(30, &format!("curl -s --max-time 5 http://{address}:8080/ || echo refused"), "refused", |out| {
            out.contains("refused")
        })
        .map(drop)
}

fn node_port(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f nginx-deployment.yaml -f services.yaml -f client.yaml")?;
    shell.run("kubectl rollout status deployment/nginx-deployment --timeout=60s")?;
    shell.says("kubectl get service from-outside", "80:30008/TCP")?;
    shell.comes_to_say(20, "curl -sf --max-time 5 http://10.87.0.1:30008/version", "1.14.2")?;
    shell.run("kubectl wait --for=condition=Ready pod/client --timeout=30s")?;
    shell.says(&format!("kubectl exec client -- {GET} http://10.87.0.1:30008/version"), "1.14.2").map(drop)
}

fn names(shell: &Shell, _: &Cluster) -> Outcome {
    begun(shell)?;
    let lookup = |name: &str| format!("kubectl exec client -- nslookup -type=a {name}");
    shell.says(&lookup("kubernetes.default.svc.cluster.local"), "10.96.0.1")?;
    let pods = shell.run("kubectl get pods -l app=nginx -o jsonpath='{.items[*].status.podIP}'")?;
    let headless = format!("headless.{}.svc.cluster.local", shell.namespace);
    shell.until(40, &lookup(&headless), "every pod's address", |out| pods.split(' ').all(|pod| out.contains(pod)))?;
    shell.says(
        "kubectl exec client -- cat /etc/resolv.conf",
        &format!("search {}.svc.cluster.local svc.cluster.local cluster.local", shell.namespace),
    )?;
    shell.says("kubectl exec client -- cat /etc/resolv.conf", "nameserver 10.96.0.10")?;
    let alias = format!("kubectl exec client -- nslookup -type=cname elsewhere.{}.svc.cluster.local", shell.namespace);
    shell.says(&alias, "my-service.services-cluster-ip.svc.cluster.local")?;
    shell.refused(&format!("kubectl exec client -- {GET} http://nobody:8080/")).map(drop)
}

fn load_balancer(shell: &Shell, _: &Cluster) -> Outcome {
    begun(shell)?;
    // Right without a provider: nobody gives out addresses.
    shell.says("kubectl get service balanced", "<pending>")?;
    let address = shell.run("kubectl get service balanced -o jsonpath='{.spec.clusterIP}'")?;
    shell.comes_to_say(20, &format!("kubectl exec client -- {GET} http://{address}/version"), "1.14.2").map(drop)
}

fn readiness(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f readiness.yaml")?;
    shell.run("kubectl rollout status deployment/ready --timeout=60s")?;
    let ready = "kubectl get endpointslices -l kubernetes.io/service-name=ready -o jsonpath='{range .items[0].endpoints[*]}{.conditions.ready} {end}' | tr ' ' '\\n' | grep -c true";
    shell.becomes(20, ready, "2")?;
    let first = shell.run("kubectl get pods -l app=ready -o jsonpath='{.items[0].metadata.name}'")?;
    shell.run(&format!("kubectl exec {first} -- touch /tmp/not-ready"))?;
    shell.becomes(20, ready, "1")?;
    let address = shell.run(&format!("kubectl get pod {first} -o jsonpath='{{.status.podIP}}'"))?;
    let rules = format!("nft list ruleset | grep -c 'endpoint.*{address}\\|{address} . 80' || true");
    shell.becomes(20, &rules, "0")?;
    shell.run(&format!("kubectl exec {first} -- rm /tmp/not-ready"))?;
    shell.becomes(20, ready, "2")?;
    shell.becomes(5, "kubectl get pods -o jsonpath='{.items[*].status.containerStatuses[0].restartCount}'", "0 0")
}

fn host_port(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f host-port.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/host-port --timeout=30s")?;
    shell.comes_to_say(10, "curl -sf --max-time 5 http://10.87.0.1:8085/version", "latest")?;
    shell.comes_to_say(10, "curl -sf --max-time 5 http://127.0.0.1:8085/version", "latest")?;
    shell.run("kubectl delete pod host-port")?;
    shell.refused("curl -sf --max-time 5 http://10.87.0.1:8085/version").map(drop)
}

fn hairpin(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl run self --image=nginx --port=80 --expose")?;
    shell.run("kubectl wait --for=condition=Ready pod/self --timeout=30s")?;
    shell.comes_to_say(30, &format!("kubectl exec self -- {GET} http://self/version"), "latest").map(drop)
}

fn ingress(_: &Shell, _: &Cluster) -> Outcome {
    Err(Skip("no Ingress controller is built here; Traefik is to be had as a Go module".into()).into())
}
