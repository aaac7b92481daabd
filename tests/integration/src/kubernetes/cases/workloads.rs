//! Workloads, by YAML as people write it.

use std::time::Duration;

use anyhow::ensure;

use super::case;
use crate::Outcome;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::shell::{Shell, pause};
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] = &[
    case("workloads::deployment", deployment),
    case("workloads::rolling_update_by_set_image_and_undo", set_image),
    case("workloads::rolling_update_by_apply_and_by_edit", apply_and_edit),
    case("workloads::rollout_pause_and_resume", rollout_pause),
    case("workloads::an_image_that_is_not_there", missing_image),
    case("workloads::recreate", recreate),
    case("workloads::scale_up_down_and_to_zero", scale),
    case("workloads::bare_pod_and_kubectl_run", bare_pod),
    case("workloads::replica_set_and_replication_controller", replicas),
    case("workloads::daemon_set", daemon_set),
    case("workloads::stateful_set_with_a_volume", stateful_set),
    case("workloads::job_with_completions_and_back_off", job),
    case("workloads::cron_job", cron_job),
    case("workloads::init_containers", init_containers),
    case("workloads::native_sidecar", sidecar),
    case("workloads::containers_share_a_volume_and_localhost", two_containers),
];

const ROLLED_OUT: &str = "kubectl rollout status deployment/nginx-deployment --timeout=80s";

/// What the pods of a label serve at /version, each once.
pub(super) fn versions(shell: &Shell, label: &str) -> anyhow::Result<String> {
    let ask = format!(
        "for ip in $(kubectl get pods -l {label} --no-headers \
         -o custom-columns=IP:.status.podIP,GOING:.metadata.deletionTimestamp | awk '$2 == \"<none>\" {{ print $1 }}'); \
         do curl -sSf --max-time 5 http://$ip/version; done | sort -u"
    );
    shell.run(&ask)
}

fn three_of(shell: &Shell, version: &str) -> Outcome {
    shell.run(ROLLED_OUT)?;
    shell.says("kubectl get deployment nginx-deployment", "3/3")?;
    shell.becomes(60, "kubectl get pods -l app=nginx --no-headers | grep -c Running", "3")?;
    let served = versions(shell, "app=nginx")?;
    ensure!(served.trim() == version, "served is {served:?}, not {version}");
    Ok(())
}

fn begun(shell: &Shell) -> Outcome {
    shell.run("kubectl apply -f nginx-deployment.yaml")?;
    shell.run(ROLLED_OUT).map(drop)
}

fn deployment(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f nginx-deployment.yaml")?;
    three_of(shell, "1.14.2")?;
    shell.says("kubectl get replicasets", "nginx-deployment-")?;
    shell.says("kubectl describe deployment nginx-deployment", "3 available | 0 unavailable")?;
    // One that is deleted is replaced.
    let first = "kubectl get pods -l app=nginx -o jsonpath='{.items[0].metadata.name}'";
    let gone = shell.run(first)?;
    shell.run(&format!("kubectl delete pod {gone}"))?;
    three_of(shell, "1.14.2")
}

fn set_image(shell: &Shell, _: &Cluster) -> Outcome {
    begun(shell)?;
    shell.run("kubectl set image deployment/nginx-deployment nginx=nginx:1.16.1")?;
    three_of(shell, "1.16.1")?;
    shell.run("kubectl annotate deployment/nginx-deployment kubernetes.io/change-cause='image updated to 1.16.1'")?;
    shell.says("kubectl rollout history deployment/nginx-deployment", "image updated to 1.16.1")?;
    shell.says("kubectl rollout history deployment/nginx-deployment --revision=1", "nginx:1.14.2")?;
    shell.run("kubectl rollout undo deployment/nginx-deployment")?;
    three_of(shell, "1.14.2")?;
    shell.run("kubectl rollout undo deployment/nginx-deployment --to-revision=2")?;
    three_of(shell, "1.16.1")?;
    shell.run("kubectl rollout restart deployment/nginx-deployment")?;
    three_of(shell, "1.16.1")
}

fn apply_and_edit(shell: &Shell, _: &Cluster) -> Outcome {
    begun(shell)?;
    shell.says("sed s/1.14.2/1.16.1/ nginx-deployment.yaml | kubectl diff -f - || true", "nginx:1.16.1")?;
    shell.run("sed s/1.14.2/1.16.1/ nginx-deployment.yaml | kubectl apply -f -")?;
    three_of(shell, "1.16.1")?;
    shell.run("KUBE_EDITOR='sed -i s/nginx:1.16.1/nginx:latest/' kubectl edit deployment/nginx-deployment")?;
    three_of(shell, "latest")
}

fn rollout_pause(shell: &Shell, _: &Cluster) -> Outcome {
    begun(shell)?;
    shell.run("kubectl rollout pause deployment/nginx-deployment")?;
    shell.run("kubectl set image deployment/nginx-deployment nginx=nginx:1.16.1")?;
    shell.run("kubectl set resources deployment/nginx-deployment -c=nginx --limits=cpu=200m,memory=64Mi")?;
    pause(Duration::from_secs(2));
    shell.says("kubectl get replicasets --no-headers | wc -l", "1")?;
    shell.run("kubectl rollout resume deployment/nginx-deployment")?;
    three_of(shell, "1.16.1")?;
    shell
        .says("kubectl get pods -o jsonpath='{.items[0].spec.containers[0].resources.limits.memory}'", "64Mi")
        .map(drop)
}

fn missing_image(shell: &Shell, _: &Cluster) -> Outcome {
    begun(shell)?;
    shell.run("kubectl set image deployment/nginx-deployment nginx=nginx:1.161")?;
    shell.until(40, "kubectl get pods", "ImagePullBackOff", |out| {
        out.contains("ImagePullBackOff") || out.contains("ErrImagePull")
    })?;
    shell.refused("kubectl rollout status deployment/nginx-deployment --timeout=2s")?;
    shell.comes_to_say(20, "kubectl get events", "Failed to pull image \"nginx:1.161\"")?;
    shell.says("kubectl get deployment nginx-deployment", "3/3")?;
    shell.run("kubectl rollout undo deployment/nginx-deployment")?;
    three_of(shell, "1.14.2")
}

fn recreate(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f recreate.yaml")?;
    let status = "kubectl rollout status deployment/one-at-a-time --timeout=60s";
    shell.run(status)?;
    shell.run("kubectl set image deployment/one-at-a-time nginx=nginx:1.16.1")?;
    shell.run(status)?;
    // The last of the old had ended before the first of the new was made.
    shell.says("kubectl describe deployment one-at-a-time", "StrategyType:       Recreate")?;
    ensure!(versions(shell, "app=one-at-a-time")?.trim() == "1.16.1", "the old ones still serve");
    let events = shell.run("kubectl describe deployment one-at-a-time | grep 'Scaled '")?;
    let (down, up) = (events.rfind("Scaled down"), events.rfind("Scaled up"));
    ensure!(down.is_some() && down < up, "{events}");
    Ok(())
}

fn scale(shell: &Shell, _: &Cluster) -> Outcome {
    begun(shell)?;
    for count in ["6", "1", "0", "2"] {
        shell.run(&format!("kubectl scale deployment/nginx-deployment --replicas={count}"))?;
        shell.run(ROLLED_OUT)?;
        shell.becomes(60, "kubectl get pods --no-headers 2>/dev/null | wc -l", count)?;
    }
    Ok(())
}

fn bare_pod(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f pod.yaml")?;
    shell.run("kubectl run web --image=nginx --port=80")?;
    shell.run("kubectl wait --for=condition=Ready pod/nginx pod/web --timeout=60s")?;
    shell.says(
        "kubectl get pod web -o jsonpath='{.status.containerStatuses[0].image}'",
        "docker.io/library/nginx:latest",
    )?;
    shell.says("kubectl get pod web -o jsonpath='{.status.containerStatuses[0].imageID}'", "sha256:")?;
    shell.run("kubectl expose pod web --name=web-service")?;
    shell.comes_to_say(20, "kubectl get endpointslices -l kubernetes.io/service-name=web-service", "10.88.")?;
    // A user sees a temporary pod's output; kubectl shows it twice when the pod had ended before it came to attach.
    let said = shell.run("kubectl run once --image=busybox --restart=Never --rm -i --quiet -- echo hello from once")?;
    ensure!(said.lines().all(|line| line == "hello from once") && !said.is_empty(), "{said:?}");
    shell.refused("kubectl get pod once").map(drop)
}

fn replicas(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f replicaset.yaml -f replicationcontroller.yaml")?;
    shell.run("kubectl wait --for=jsonpath='{.status.readyReplicas}'=2 replicaset/frontend replicationcontroller/nginx --timeout=60s")?;
    shell.run("kubectl scale replicaset/frontend replicationcontroller/nginx --replicas=3")?;
    shell.run("kubectl wait --for=jsonpath='{.status.readyReplicas}'=3 replicaset/frontend replicationcontroller/nginx --timeout=60s")?;
    // A pod whose label is taken away is replaced and stays.
    let first = shell.run("kubectl get pods -l tier=frontend -o jsonpath='{.items[0].metadata.name}'")?;
    shell.run(&format!("kubectl label pod {first} tier-"))?;
    shell.becomes(20, "kubectl get pods -l tier=frontend --no-headers | grep -c Running", "3")?;
    shell.says(&format!("kubectl get pod {first}"), "Running").map(drop)
}

fn daemon_set(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f daemonset.yaml")?;
    let status = "kubectl rollout status daemonset/log-collector --timeout=60s";
    shell.run(status)?;
    shell.says("kubectl logs daemonset/log-collector", "kube-system_coredns")?;
    shell.run("kubectl set env daemonset/log-collector LEVEL=debug")?;
    shell.run(status)?;
    shell.says("kubectl exec daemonset/log-collector -- sh -c 'echo $LEVEL'", "debug").map(drop)
}

fn stateful_set(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f statefulset.yaml -f client.yaml")?;
    let status = "kubectl rollout status statefulset/web --timeout=80s";
    shell.run(status)?;
    shell.says("kubectl get pods -l app=web -o name", "pod/web-0\npod/web-1\n")?;
    for name in ["web-0", "web-1"] {
        let write = format!("kubectl exec {name} -- sh -c 'hostname > /usr/share/nginx/html/index.html'");
        shell.run(&write)?;
    }
    shell.run("kubectl wait --for=condition=Ready pod/client --timeout=30s")?;
    shell.comes_to_say(40, "kubectl exec client -- timeout 5 wget -q -O - http://web-1.web/", "web-1")?;
    let uid = "kubectl get pod web-1 -o jsonpath='{.metadata.uid}'";
    let before = shell.run(uid)?;
    shell.run("kubectl delete pod web-1")?;
    shell.until(40, uid, "another web-1", |out| out != before)?;
    shell.run(status)?;
    // The same name and the same volume; its address may be another.
    shell.comes_to_say(60, "kubectl exec client -- timeout 5 wget -q -O - http://web-1.web/", "web-1")?;
    shell.run("kubectl scale statefulset/web --replicas=1")?;
    shell.becomes(40, "kubectl get pods -l app=web -o name", "pod/web-0")?;
    shell.run("kubectl delete statefulset/web")?;
    shell.run("kubectl delete pvc --all")?;
    shell.run("kubectl delete pv by-hand-0 by-hand-1").map(drop)
}

fn job(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f job.yaml")?;
    shell.run("kubectl wait --for=condition=Complete job/four --timeout=60s")?;
    shell.says("kubectl get job four", "4/4")?;
    let parts = shell.run("kubectl logs -l job-name=four --tail=-1 | sort")?;
    ensure!(parts == "part 0\npart 1\npart 2\npart 3\n", "{parts}");
    shell.run("kubectl wait --for=condition=Failed job/hopeless --timeout=60s")?;
    shell.says("kubectl describe job hopeless", "BackoffLimitExceeded")?;
    let codes = "kubectl get pods -l job-name=hopeless -o jsonpath='{.items[*].status.containerStatuses[0].state.terminated.exitCode}'";
    shell.becomes(10, codes, "3 3")
}

fn cron_job(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f cronjob.yaml")?;
    shell.run("kubectl create job --from=cronjob/hello by-hand")?;
    shell.run("kubectl wait --for=condition=Complete job/by-hand --timeout=30s")?;
    shell.comes_to_say(75, "kubectl get jobs -o name", "job.batch/hello-")?;
    let scheduled = shell.run("kubectl get jobs -o name | grep hello- | head -n 1")?;
    let scheduled = scheduled.trim();
    shell.run(&format!("kubectl wait --for=condition=Complete {scheduled} --timeout=30s"))?;
    shell.says(&format!("kubectl logs {scheduled}"), "Hello from the cluster").map(drop)
}

fn init_containers(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f init.yaml")?;
    shell.comes_to_say(20, "kubectl get pod myapp", "Init:")?;
    shell.run("kubectl wait --for=condition=Ready pod/myapp --timeout=60s")?;
    let order = shell.run("kubectl logs myapp -c myapp")?;
    ensure!(order == "first\nsecond\nsecond\n", "{order}");
    let restarts = "kubectl get pod myapp -o jsonpath='{.status.initContainerStatuses[*].restartCount}'";
    shell.says(restarts, "0 1").map(drop)
}

fn sidecar(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f sidecar.yaml")?;
    shell.run("kubectl wait --for=condition=Complete job/with-sidecar --timeout=60s")?;
    shell.says("kubectl logs job/with-sidecar -c client", "latest")?;
    shell.says("kubectl get pods -l job-name=with-sidecar", "Completed").map(drop)
}

fn two_containers(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f two-containers.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/two-containers --timeout=60s")?;
    shell.comes_to_say(
        10,
        "kubectl exec two-containers -c writer -- wget -q -O - http://localhost/",
        "Hello from the other container",
    )?;
    shell.says("kubectl get pod two-containers", "2/2").map(drop)
}
