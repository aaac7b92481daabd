//! Newer and rarer features: resizing, user namespaces, limits of pods, runtime classes, priorities, quotas, policies.

use anyhow::ensure;

use super::case;
use crate::Outcome;
use crate::kubernetes::cluster::{Cluster, Runtime};
use crate::kubernetes::shell::{Shell, Skip};
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] = &[
    case("features::resize_in_place", resize),
    case("features::resources_of_the_whole_pod", pod_resources),
    case("features::user_namespaces", user_namespaces),
    case("features::user_namespaces_with_volumes_in_memory", user_namespaces_in_memory),
    case("features::swap", swap),
    case("features::runtime_class", runtime_class),
    case("features::priority_and_preemption", priority),
    case("features::eviction_of_those_that_fill_the_disk", eviction),
    case("features::resource_quota", quota),
    case("features::limit_range", limit_range),
    case("features::network_policy", network_policy),
];

/// What a container may use, by its own cgroup, on either version: bytes of memory.
const MEMORY: &str =
    "sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max'";
/// As [`MEMORY`]: microseconds of a processor in each tenth of a second.
const CPU: &str =
    "sh -c 'cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d\" \" -f1 /sys/fs/cgroup/cpu.max'";

fn ready(shell: &Shell, pod: &str) -> Outcome {
    shell.run(&format!("kubectl wait --for=condition=Ready pod/{pod} --timeout=60s")).map(drop)
}

fn skipped(why: &str) -> Outcome {
    Err(Skip(why.to_owned()).into())
}

fn resize(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f resize.yaml")?;
    ready(shell, "resizable")?;
    let limits = |container: &str, cpu: &str, memory: &str| {
        shell.run(&format!(
            "kubectl patch pod resizable --subresource=resize -p '{{\"spec\":{{\"containers\":[{{\"name\":\"{container}\",\
             \"resources\":{{\"limits\":{{\"cpu\":\"{cpu}\",\"memory\":\"{memory}\"}}}}}}]}}}}'"
        ))
    };
    let told = |container: &str, wanted: &str| {
        let status = format!("{{.status.containerStatuses[?(@.name==\"{container}\")]");
        let look = format!(
            "kubectl get pod resizable -o jsonpath='{status}.resources.limits.cpu}} {status}.resources.limits.memory}} {status}.restartCount}}'"
        );
        shell.becomes(60, &look, wanted)
    };
    limits("live", "300m", "48Mi")?;
    told("live", "300m 48Mi 0")?;
    shell.becomes(0, &format!("kubectl exec resizable -c live -- {MEMORY}"), "50331648")?;
    shell.becomes(0, &format!("kubectl exec resizable -c live -- {CPU}"), "30000")?;
    // Down again.
    limits("live", "150m", "24Mi")?;
    told("live", "150m 24Mi 0")?;
    shell.becomes(0, &format!("kubectl exec resizable -c live -- {MEMORY}"), "25165824")?;
    // Its memory is changed by a restart, as it asks for, its processor without.
    limits("restarted", "300m", "32Mi")?;
    told("restarted", "300m 32Mi 0")?;
    limits("restarted", "300m", "48Mi")?;
    told("restarted", "300m 48Mi 1")?;
    shell.becomes(10, &format!("kubectl exec resizable -c restarted -- {MEMORY}"), "50331648")?;
    // Less than it uses is put off and said, and nobody is killed for it.
    shell.run("kubectl exec resizable -c live -- dd if=/dev/zero of=/dev/shm/used bs=1M count=16")?;
    limits("live", "150m", "12Mi")?;
    let progress =
        "kubectl get pod resizable -o jsonpath='{.status.conditions[?(@.type==\"PodResizeInProgress\")].message}'";
    shell.comes_to_say(30, progress, "below current usage")?;
    told("live", "150m 24Mi 0")?;
    // More than the node has.
    let said = shell.refused(
        "kubectl patch pod resizable --subresource=resize -p '{\"spec\":{\"containers\":[{\"name\":\"live\",\
         \"resources\":{\"requests\":{\"cpu\":\"900\"},\"limits\":{\"cpu\":\"900\"}}}]}}'",
    )?;
    ensure!(said.contains("didn't have enough allocatable resources"), "{said}");
    Ok(())
}

fn pod_resources(shell: &Shell, cluster: &Cluster) -> Outcome {
    shell.run("kubectl apply -f pod-resources.yaml")?;
    shell.comes_to_say(40, "kubectl get pod shared", "Running")?;
    shell.becomes(
        0,
        "kubectl get pod shared -o jsonpath='{.status.qosClass} {.spec.resources.limits.memory}'",
        "Burstable 64Mi",
    )?;
    let uid = shell.run("kubectl get pod shared -o jsonpath='{.metadata.uid}'")?;
    let limit = format!(
        "cat /sys/fs/cgroup/memory/{group}/kubepods/burstable/pod{uid}/memory.limit_in_bytes 2>/dev/null \
         || cat /sys/fs/cgroup/{group}/kubepods/burstable/pod{uid}/memory.max",
        group = cluster.layout.cgroup
    );
    shell.becomes(0, &limit, "67108864")?;
    shell.run("kubectl patch pod shared --subresource=resize -p '{\"spec\":{\"resources\":{\"limits\":{\"memory\":\"80Mi\"}}}}'")?;
    shell.becomes(30, &limit, "83886080")?;
    let reason = "kubectl get pod shared -o jsonpath='{.status.containerStatuses[?(@.name==\"hungry\")].state.terminated.reason}'";
    shell.becomes(60, reason, "OOMKilled")?;
    shell.becomes(0, "kubectl exec shared -c modest -- echo lives", "lives")
}

/// The first line of what a pod's user identities are mapped to: inside, outside, count.
fn mapping(shell: &Shell, pod: &str) -> anyhow::Result<Vec<u64>> {
    let map = shell.run(&format!("kubectl exec {pod} -- cat /proc/self/uid_map"))?;
    Ok(map.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

fn user_namespaces(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f user-namespace.yaml")?;
    ready(shell, "mapped")?;
    ready(shell, "mapped-too")?;
    let (one, two) = (mapping(shell, "mapped")?, mapping(shell, "mapped-too")?);
    let ([0, first, 65_536], [0, second, 65_536]) = (&one[..], &two[..]) else {
        anyhow::bail!("{one:?} and {two:?}");
    };
    ensure!(first.abs_diff(*second) >= 65_536 && *first >= 65_536 && *second >= 65_536, "{first} and {second} overlap");
    // Root inside, nobody outside; what it writes is root's in its volume.
    shell.becomes(0, "kubectl exec mapped -- id -u", "0")?;
    shell.becomes(0, "kubectl exec mapped -- sh -c 'touch /disk/new && stat -c %u /disk/new'", "0")?;
    shell.becomes(0, "kubectl exec mapped -- wget -q -O - http://localhost/version", "latest")?;
    let uid = shell.run("kubectl get pod mapped -o jsonpath='{.metadata.uid}'")?;
    shell.becomes(
        0,
        &format!("stat -c %u /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/disk/new"),
        "0",
    )?;
    let masters = "for p in $(pgrep -f '^nginx: master'); do awk '/^Uid:/ { print $2 }' /proc/$p/status; done";
    shell.says(masters, &first.to_string())?;
    // What only the host's root may do.
    shell.refused("kubectl exec mapped -- sh -c 'echo 1 > /proc/sys/kernel/panic'")?;
    shell.refused("kubectl exec mapped -- mknod /tmp/null c 1 3").map(drop)
}

fn user_namespaces_in_memory(shell: &Shell, _: &Cluster) -> Outcome {
    let release = shell.run("uname -r")?;
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (6, 3) {
        return skipped("before Linux 6.3 a tmpfs can't be mapped into a user namespace");
    }
    shell.run("kubectl apply -f user-namespace-memory.yaml")?;
    ready(shell, "mapped")?;
    shell.becomes(0, "kubectl exec mapped -- cat /login/password", "t0p-Secret")?;
    shell.becomes(0, "kubectl exec mapped -- stat -L -c '%u %g %a' /login/password", "0 2000 440")?;
    shell.becomes(
        0,
        "kubectl exec mapped -- sh -c 'touch /memory/new && stat -c \"%u %g\" /memory/new'",
        "1000 2000",
    )?;
    shell
        .says("kubectl exec mapped -- cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", &shell.namespace)?;
    shell.becomes(0, "kubectl exec mapped -- sh -c 'touch /part/new && stat -c \"%u %g\" /part/new'", "1000 2000")?;
    // Who is added later lives in the same user namespace.
    shell.run("kubectl debug mapped --image=busybox --target=mapped -c look -- sleep 600")?;
    let running = "kubectl get pod mapped -o jsonpath='{.status.ephemeralContainerStatuses[0].state.running}'";
    shell.comes_to_say(30, running, "startedAt")?;
    let map = shell.run("kubectl exec mapped -c mapped -- cat /proc/self/uid_map")?;
    shell.becomes(0, "kubectl exec mapped -c look -- cat /proc/self/uid_map", map.trim())?;
    shell.run("echo copied > $SCRATCH/file && kubectl cp -c mapped $SCRATCH/file mapped:/memory/copied")?;
    shell.becomes(0, "kubectl exec mapped -c mapped -- cat /memory/copied", "copied")
}

fn swap(shell: &Shell, _: &Cluster) -> Outcome {
    let capacity = shell.run("kubectl get node node1 -o jsonpath='{.status.nodeInfo.swap.capacity}'")?;
    if capacity.is_empty() || capacity == "0" {
        return skipped("the machine has no swap");
    }
    shell.run("kubectl run swapping --image=busybox -- sleep 600")?;
    ready(shell, "swapping")?;
    let limit = shell
        .ends("kubectl exec swapping -- cat /sys/fs/cgroup/memory.swap.max", std::time::Duration::from_secs(20))?;
    if limit.code != 0 {
        return skipped("a kubelet limits swap on cgroup v2 only");
    }
    // What a kubelet says that isn't told otherwise (NoSwap).
    ensure!(limit.out.trim() == "0", "{}", limit.out);
    Ok(())
}

fn runtime_class(shell: &Shell, cluster: &Cluster) -> Outcome {
    let handler = match cluster.layout.runtime {
        Runtime::Podwright => "podwright",
        Runtime::Containerd => "runc",
    };
    shell.says("kubectl get node node1 -o jsonpath='{.status.runtimeHandlers[*].name}'", handler)?;
    shell.run(&format!("sed s/podwright/{handler}/ runtime-class.yaml | kubectl apply -f -"))?;
    ready(shell, "by-name")?;
    shell.becomes(0, "kubectl get pod by-name -o jsonpath='{.spec.overhead.memory}'", "8Mi")?;
    shell.comes_to_say(40, "kubectl describe pod not-there", "FailedCreatePodSandBox")?;
    shell.says("kubectl describe pod not-there", "nowhere")?;
    shell.refused("kubectl run other --image=busybox --overrides='{\"spec\":{\"runtimeClassName\":\"unknown\"}}'")?;
    shell.run("kubectl delete -f runtime-class.yaml --timeout=60s").map(drop)
}

fn priority(shell: &Shell, _: &Cluster) -> Outcome {
    let have = |count: &str| {
        shell.run(&format!(
            "kubectl patch node node1 --subresource=status --type=merge \
             -p '{{\"status\":{{\"capacity\":{{\"example.com/dongle\":{count}}},\"allocatable\":{{\"example.com/dongle\":{count}}}}}}}'"
        ))
    };
    have("\"1\"")?;
    let documents = "awk -v RS='---\\n' -v ORS='---\\n'";
    shell.run(&format!("{documents} '!/name: urgent\\nspec/' priority.yaml | kubectl apply -f -"))?;
    ready(shell, "humble")?;
    shell.run("kubectl apply -f priority.yaml")?;
    ready(shell, "urgent")?;
    shell.says("kubectl get events --field-selector=reason=Preempted", "pod/humble")?;
    shell.refused("kubectl get pod humble")?;
    shell.becomes(0, "kubectl get pod urgent -o jsonpath='{.spec.priority}'", "1000000")?;
    shell.run("kubectl delete -f priority.yaml --ignore-not-found --timeout=60s")?;
    have("null").map(drop)
}

fn eviction(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f greedy.yaml")?;
    let reason = |pod| format!("kubectl get pod {pod} -o jsonpath='{{.status.phase}} {{.status.reason}}'");
    // The kubelet measures layers every ten seconds and volumes once a minute.
    shell.becomes(60, &reason("greedy-layer"), "Failed Evicted")?;
    shell.says("kubectl describe pod greedy-layer", "exceeds the total limit of containers 8Mi")?;
    shell.becomes(150, &reason("greedy-volume"), "Failed Evicted")?;
    shell.says("kubectl describe pod greedy-volume", "exceeds the limit \"8Mi\"").map(drop)
}

fn quota(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f quota.yaml")?;
    shell.comes_to_say(20, "kubectl describe quota small", "pods           0     2")?;
    let run = |name: &str, memory: &str| {
        format!(
            "kubectl run {name} --image=busybox --overrides='{{\"spec\":{{\"containers\":[{{\"name\":\"{name}\",\"image\":\"busybox\",\
             \"command\":[\"sleep\",\"600\"],\"resources\":{{\"limits\":{{{memory}}}}}}}]}}}}'"
        )
    };
    let said = shell.refused(&run("unlimited", ""))?;
    ensure!(said.contains("must specify limits.memory"), "{said}");
    let said = shell.refused(&run("large", "\"memory\":\"96Mi\""))?;
    ensure!(said.contains("exceeded quota: small"), "{said}");
    for name in ["first", "second"] {
        shell.run(&run(name, "\"memory\":\"16Mi\""))?;
    }
    let said = shell.refused(&run("third", "\"memory\":\"16Mi\""))?;
    ensure!(said.contains("exceeded quota: small") && said.contains("pods=2"), "{said}");
    ready(shell, "first")?;
    ready(shell, "second")?;
    shell.says("kubectl describe quota small", "32Mi  64Mi")?;
    shell.run("kubectl delete pod second --now")?;
    shell.until(20, &run("third", "\"memory\":\"16Mi\""), "made", |_| true)?;
    ready(shell, "third")
}

fn limit_range(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f limit-range.yaml")?;
    shell.run("kubectl run usual --image=busybox -- sleep 600")?;
    ready(shell, "usual")?;
    shell.becomes(0, &format!("kubectl exec usual -- {MEMORY}"), "33554432")?;
    shell.becomes(0, &format!("kubectl exec usual -- {CPU}"), "10000")?;
    let said = shell.refused(
        "kubectl run large --image=busybox --overrides='{\"spec\":{\"containers\":[{\"name\":\"large\",\"image\":\"busybox\",\
         \"resources\":{\"limits\":{\"memory\":\"96Mi\"}}}]}}'",
    )?;
    ensure!(said.contains("maximum memory usage per Container is 64Mi"), "{said}");
    Ok(())
}

fn network_policy(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f pod.yaml -f client.yaml")?;
    ready(shell, "nginx")?;
    ready(shell, "client")?;
    let address = shell.run("kubectl get pod nginx -o jsonpath='{.status.podIP}'")?;
    let ask = format!("kubectl exec client -- timeout 3 wget -q -O - http://{address}/version");
    shell.comes_to_say(20, &ask, "1.14.2")?;
    shell.run("kubectl apply -f network-policy.yaml")?;
    shell.says("kubectl describe networkpolicy deny-all", "Allowing ingress traffic:\n    <none>")?;
    let enforced = shell
        .until(5, &format!("{ask} > /dev/null && echo passed || echo denied"), "denied", |out| out.contains("denied"));
    if enforced.is_err() {
        return skipped(
            "a bridge enforces no policy: what it denies passes; a policy CNI (Calico, Cilium) takes its place",
        );
    }
    Ok(())
}
