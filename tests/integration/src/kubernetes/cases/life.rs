//! The life of a node: daemons that are killed, many pods, what is collected and what is left.

use std::time::Duration;

use anyhow::ensure;

use super::{alone, case};
use crate::Outcome;
use crate::kubernetes::cluster::{Cluster, ImageRoom, NO_COLLECTION};
use crate::kubernetes::shell::{Shell, Skip, pause};
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] = &[
    case("life::logs_are_rotated", rotation),
    case("life::a_reboot", reboot),
    alone("life::the_kubelets_log_has_no_error_of_the_runtime", kubelet_log),
    alone("life::the_runtime_is_killed_under_load", runtime_killed),
    alone("life::the_kubelet_is_killed", kubelet_killed),
    alone("life::both_are_killed", both_killed),
    alone("life::images_that_nobody_uses_are_collected", images),
    alone("life::110_pods", many),
    alone("life::nothing_is_left", nothing_left),
];

/// What must stay as it is: pod, address, container and restarts.
const IDENTITY: &str = "kubectl get pods -l app=sleepers --sort-by=.metadata.name -o jsonpath='{range .items[*]}{.metadata.name} {.status.podIP} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}'";
const READY: &str = "kubectl rollout status deployment/sleepers --timeout=80s";

/// Pods keep their addresses and processes while `harm` is done, and others can be made after it.
fn unharmed(shell: &Shell, harm: impl FnOnce() -> Outcome) -> Outcome {
    shell.all(&["kubectl apply -f sleepers.yaml", READY])?;
    let before = shell.run(IDENTITY)?;
    ensure!(before.lines().count() == 8, "{before}");
    let first = before.split(' ').next().unwrap_or_default().to_owned();
    // A clock inside that stands still when its process does.
    shell.run(&format!("kubectl exec {first} -- sh -c 'cat /proc/1/stat | cut -d\" \" -f22 > /tmp/born'"))?;
    harm()?;
    shell.until(60, "kubectl get node node1", "Ready", |out| out.contains(" Ready"))?;
    // Long enough for a kubelet that believes otherwise to act.
    pause(Duration::from_secs(5));
    shell.run(READY)?;
    let after = shell.run(IDENTITY)?;
    ensure!(after == before, "before:\n{before}after:\n{after}");
    let same = format!(
        "kubectl exec {first} -- sh -c '[ \"$(cut -d\" \" -f22 /proc/1/stat)\" = \"$(cat /tmp/born)\" ] && echo same'"
    );
    shell.comes_to_say(20, &same, "same")?;
    shell.run("kubectl run after --image=busybox -- sleep 600")?;
    shell.run("kubectl wait --for=condition=Ready pod/after --timeout=60s")?;
    shell.run("kubectl delete pod after --now").map(drop)
}

fn runtime_killed(shell: &Shell, cluster: &Cluster) -> Outcome {
    let runtime = cluster.layout.runtime.daemon();
    unharmed(shell, || {
        shell.run("sed s/sleepers/churn/ sleepers.yaml | kubectl apply -f -")?;
        let churn = shell
            .command("while :; do kubectl scale deployment/churn --replicas=6; sleep 2; kubectl scale deployment/churn --replicas=0; sleep 2; done", Duration::from_secs(20))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        for _ in 0..4 {
            pause(Duration::from_millis(2300));
            cluster.stop(runtime, "KILL")?;
            cluster.again(runtime)?;
        }
        let _ = churn?.wait()?;
        // None is stuck, and what comes after runs once.
        shell.run("kubectl scale deployment/churn --replicas=4")?;
        shell.run("kubectl rollout status deployment/churn --timeout=80s")?;
        let restarts =
            "kubectl get pods -l app=churn -o jsonpath='{.items[*].status.containerStatuses[0].restartCount}'";
        shell.until(60, restarts, "0 0 0 0", |out| out.trim() == "0 0 0 0")?;
        shell.run("kubectl delete deployment churn")?;
        shell.becomes(80, "kubectl get pods -l app=churn -o name", "")
    })
}

fn kubelet_killed(shell: &Shell, cluster: &Cluster) -> Outcome {
    unharmed(shell, || {
        cluster.stop("kubelet", "KILL")?;
        cluster.again("kubelet")
    })
}

fn both_killed(shell: &Shell, cluster: &Cluster) -> Outcome {
    let runtime = cluster.layout.runtime.daemon();
    unharmed(shell, || {
        cluster.stop("kubelet", "KILL")?;
        cluster.stop(runtime, "KILL")?;
        cluster.again(runtime)?;
        cluster.again("kubelet")
    })
}

fn rotation(shell: &Shell, _: &Cluster) -> Outcome {
    // Five times what the kubelet lets a log grow to; then one line that has to be found.
    shell.run("kubectl run writer --image=busybox --restart=Never -- sh -c 'for i in 1 2 3 4 5; do yes a line of a log | head -c 1000000; sleep 5; done; while :; do echo still here; sleep 1; done'")?;
    shell.run("kubectl wait --for=condition=Ready pod/writer --timeout=40s")?;
    let files = format!("ls /var/log/pods/{}_writer_*/writer/", shell.namespace);
    shell.until(60, &files, "rotated files", |out| out.lines().count() >= 2 && out.contains("0.log.2"))?;
    shell.comes_to_say(60, "kubectl logs writer --tail=2", "still here")?;
    let size = format!("du -sk /var/log/pods/{}_writer_* | cut -f1", shell.namespace);
    let size: u32 = shell.run(&size)?.trim().parse()?;
    ensure!(size < 6_000, "{size} KiB of logs, where three files of 1 MiB are wanted");
    Ok(())
}

fn reboot(_: &Shell, _: &Cluster) -> Outcome {
    Err(Skip("a machine of namespaces has no reboot; that takes the VM".into()).into())
}

fn images(shell: &Shell, cluster: &Cluster) -> Outcome {
    shell.all(&["kubectl run used --image=nginx:1.16.1", "kubectl run gone --image=nginx:1.14.2"])?;
    shell.run("kubectl wait --for=condition=Ready pod/used pod/gone --timeout=60s")?;
    shell.run("kubectl delete pod gone")?;
    let names = "kubectl get node node1 -o jsonpath='{.status.images[*].names}'";
    shell.comes_to_say(80, names, "nginx:1.14.2")?;
    let again = |room| {
        cluster.stop("kubelet", "TERM")?;
        cluster.configure_kubelet(room)?;
        cluster.again("kubelet")
    };
    again(ImageRoom { high: 1, low: 0 })?;
    // It looks every five minutes, and what it saw for the first time stays until the next look.
    let collected = shell.until(340, names, "no nginx:1.14.2", |out| !out.contains("nginx:1.14.2"));
    again(NO_COLLECTION)?;
    ensure!(collected?.contains("nginx:1.16.1"), "an image in use was collected");
    shell.comes_to_say(60, "kubectl get node node1", " Ready")?;
    // What was collected comes again when it is asked for.
    shell.run("kubectl run back --image=nginx:1.14.2")?;
    shell.run("kubectl wait --for=condition=Ready pod/back --timeout=60s").map(drop)
}

fn many(shell: &Shell, _: &Cluster) -> Outcome {
    let others = shell.run("kubectl get pods -A --no-headers | wc -l")?;
    let count = 110 - others.trim().parse::<u32>()?;
    shell.run(&format!("sed 's/replicas: 8/replicas: {count}/' sleepers.yaml | kubectl apply -f -"))?;
    shell.becomes(240, "kubectl get pods -l app=sleepers --no-headers | grep -c Running", &count.to_string())?;
    let addresses = "kubectl get pods -l app=sleepers -o jsonpath='{range .items[*]}{.status.podIP}{\"\\n\"}{end}' | sort -u | grep -c 10.88.";
    shell.becomes(10, addresses, &count.to_string())?;
    shell.run("kubectl delete deployment sleepers")?;
    shell.becomes(240, "kubectl get pods -l app=sleepers -o name", "")
}

/// What a runtime rightly answers to the kubelet here.
const RIGHT_ANSWERS: &[&str] = &[
    // Asked about what is just being removed, or to pull what isn't there.
    "code = NotFound",
    "not found",
    "ErrImagePull",
    "ImagePullBackOff",
    // A probe that takes too long, and one whose container ends meanwhile.
    "code = DeadlineExceeded",
    "code = Canceled",
    // Cases ask for it.
    "no/such",
    "nowhere",
];

fn kubelet_log(_: &Shell, cluster: &Cluster) -> Outcome {
    let log = cluster.log("kubelet");
    let right = |line: &str| RIGHT_ANSWERS.iter().any(|text| line.contains(text));
    let errors: Vec<&str> =
        log.lines().filter(|line| line.starts_with('E') && line.contains("rpc error") && !right(line)).collect();
    ensure!(errors.is_empty(), "{} lines, the first:\n{}", errors.len(), errors[..errors.len().min(5)].join("\n"));
    Ok(())
}

fn nothing_left(shell: &Shell, cluster: &Cluster) -> Outcome {
    let pods = "kubectl get pods -A --no-headers | grep -v kube-system || true";
    shell.becomes(120, pods, "")?;
    // Every pod there is has an end of a pair on the node, and nothing else has one.
    let count = shell.run("kubectl get pods -n kube-system -o name | wc -l")?;
    let count = count.trim();
    shell.becomes(60, "ip -o link show type veth | wc -l", count)?;
    let cgroups = format!("find /sys/fs/cgroup/memory/{}/kubepods -type d -name 'pod*' | wc -l", cluster.layout.cgroup);
    shell.becomes(60, &cgroups, count)?;
    let folders = "ls /var/lib/kubelet/pods | wc -l";
    shell.becomes(60, folders, count)?;
    if cluster.layout.runtime == crate::kubernetes::cluster::Runtime::Podwright {
        shell.becomes(60, "ls /run/podwright/pods | wc -l", count)?;
        let supervisors =
            format!("wc -l < /sys/fs/cgroup/memory/{}/podwright/supervisors/cgroup.procs", cluster.layout.cgroup);
        shell.becomes(60, &supervisors, count)?;
    }
    Ok(())
}
