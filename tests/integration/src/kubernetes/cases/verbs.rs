//! kubectl's verbs.

use anyhow::ensure;

use super::{alone, case};
use crate::Outcome;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::shell::{Shell, Skip};
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] = &[
    case("verbs::get_watch_and_describe", get),
    case("verbs::logs", logs),
    case("verbs::exec", exec),
    case("verbs::attach", attach),
    case("verbs::cp", cp),
    case("verbs::port_forward", port_forward),
    case("verbs::debug", debug),
    case("verbs::top", top),
    case("verbs::label_annotate_patch_wait", label),
    alone("verbs::cordon_drain_uncordon", drain),
];

fn chatty(shell: &Shell) -> Outcome {
    shell.run("kubectl apply -f chatty.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/chatty --timeout=60s").map(drop)
}

fn get(shell: &Shell, _: &Cluster) -> Outcome {
    let watch = "kubectl get pods -w > $SCRATCH/watch & w=$!; sleep 1; kubectl apply -f pod.yaml >&2; \
                 kubectl wait --for=condition=Ready pod/nginx --timeout=40s >&2; kubectl delete pod nginx --now >&2; sleep 1; \
                 kill $w; cat $SCRATCH/watch";
    let seen = shell.run(watch)?;
    ensure!(
        ["Pending", "ContainerCreating", "Running", "Terminating"].iter().all(|state| seen.contains(state)),
        "{seen}"
    );
    shell.run("kubectl apply -f pod.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/nginx --timeout=40s")?;
    let wide = shell.run("kubectl get pods -o wide -A")?;
    let row = wide.lines().find(|line| line.starts_with(&shell.namespace)).unwrap_or_default();
    ensure!(row.contains("1/1") && row.contains("10.88.") && row.contains("node1"), "{wide}");
    let told = shell.run("kubectl describe pod nginx")?;
    for wanted in
        ["Successfully assigned", "Container image \"nginx:1.14.2\"", "Container created", "Container started"]
    {
        ensure!(told.contains(wanted), "without {wanted:?}: {told}");
    }
    shell.says("kubectl get events", "Scheduled").map(drop)
}

fn logs(shell: &Shell, _: &Cluster) -> Outcome {
    chatty(shell)?;
    shell.comes_to_say(20, "kubectl logs chatty -c counter --tail=1", "count")?;
    let lines = shell.run("kubectl logs chatty -c counter --tail=3")?;
    ensure!(lines.lines().count() == 3, "{lines}");
    let followed = shell.run("timeout 4 kubectl logs -f chatty -c counter --tail=1 || [ $? = 124 ]")?;
    ensure!(followed.lines().count() > 8, "{followed}");
    shell.says("kubectl logs chatty -c once-failed --previous", "the first time")?;
    shell.says("kubectl logs chatty --all-containers --prefix", "[pod/chatty/counter] count 0")?;
    shell.says("kubectl logs chatty -c counter --timestamps --tail=1", "20")?;
    let short = shell.run("kubectl logs chatty -c counter --limit-bytes=20")?;
    ensure!(short.len() == 20, "{short:?}");
    let recent = shell.run("kubectl logs chatty -c counter --since=2s")?;
    ensure!((3..20).contains(&recent.lines().count()), "{recent}");
    shell.refused("kubectl logs chatty -c counter --previous").map(drop)
}

fn exec(shell: &Shell, _: &Cluster) -> Outcome {
    chatty(shell)?;
    shell.says("kubectl exec chatty -c counter -- cat /proc/1/comm", "sh")?;
    let said = shell.run("printf 'a\\nb\\n' | kubectl exec -i chatty -c counter -- wc -l")?;
    ensure!(said.trim() == "2", "{said}");
    let code = shell
        .run("kubectl exec chatty -c counter -- sh -c 'echo out; echo err >&2; exit 7' 2>$SCRATCH/err; echo $?")?;
    ensure!(code == "out\n7\n", "{code}");
    shell.says("cat $SCRATCH/err", "err\n")?;
    let absent = shell.refused("kubectl exec chatty -c counter -- no-such-program")?;
    ensure!(absent.contains("no-such-program"), "{absent}");
    // A terminal, as a person has one.
    let typed = "(sleep 1; echo 'tty; stty size; exit 3') | script -qefc 'stty rows 40 cols 100; kubectl exec -it chatty -c counter -- sh' /dev/null; echo ended $?";
    let seen = shell.run(typed)?;
    ensure!(seen.contains("/dev/pts/") && seen.contains("40 100") && seen.contains("ended 3"), "{seen}");
    // Much at once.
    let many = shell.run("kubectl exec chatty -c counter -- head -c 20000000 /dev/zero | wc -c")?;
    ensure!(many.trim() == "20000000", "{many}");
    Ok(())
}

fn attach(shell: &Shell, _: &Cluster) -> Outcome {
    chatty(shell)?;
    let seen = shell.run("timeout 3 kubectl attach chatty -c counter || [ $? = 124 ]")?;
    ensure!(seen.matches("count ").count() > 4, "{seen}");
    let typed = shell
        .run("(sleep 1; echo to be said back; sleep 1) | timeout 5 kubectl attach -i chatty -c echo || [ $? = 124 ]")?;
    ensure!(typed.contains("to be said back"), "{typed}");
    let terminal = "(sleep 1; echo 'echo $((6*7)) is it'; sleep 1) | timeout 6 script -qefc 'kubectl attach -it chatty -c shell' /dev/null || true";
    shell.says(terminal, "42 is it").map(drop)
}

fn cp(shell: &Shell, _: &Cluster) -> Outcome {
    chatty(shell)?;
    shell.all(&[
        "mkdir -p $SCRATCH/there/below; head -c 3000000 /dev/urandom > $SCRATCH/there/below/large; ln -s below/large $SCRATCH/there/link",
        "kubectl cp $SCRATCH/there chatty:/tmp/there -c counter",
        "kubectl cp chatty:/tmp/there $SCRATCH/back -c counter",
        "cmp $SCRATCH/there/below/large $SCRATCH/back/below/large",
    ])
}

fn port_forward(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl run web --image=nginx --port=80 --expose")?;
    shell.run("kubectl wait --for=condition=Ready pod/web --timeout=40s")?;
    for target in ["pod/web", "service/web"] {
        let port = if target == "pod/web" { 18080 } else { 18081 };
        let forward = format!(
            "kubectl port-forward {target} {port}:80 > $SCRATCH/forward & f=$!; \
             for i in $(seq 50); do grep -q Forwarding $SCRATCH/forward && break; sleep 0.1; done; \
             for i in 1 2 3; do curl -sSf --max-time 5 http://127.0.0.1:{port}/version; done; code=$?; kill $f; exit $code"
        );
        let said = shell.run(&forward)?;
        ensure!(said == "latest\nlatest\nlatest\n", "{target}: {said}");
    }
    let nobody = "kubectl port-forward pod/web 18082:81 > $SCRATCH/forward 2>&1 & f=$!; sleep 2; \
                  curl -s --max-time 5 http://127.0.0.1:18082/; sleep 1; kill $f; cat $SCRATCH/forward";
    let said = shell.run(nobody)?.to_lowercase();
    ensure!(said.contains("connection refused"), "{said}");
    Ok(())
}

fn debug(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f pod.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/nginx --timeout=40s")?;
    // What a person at a terminal does with `kubectl debug -it`.
    shell.run("kubectl debug nginx --image=busybox --target=nginx --container=look -- sh -c 'ps; ls -l /proc/1/root/ >/dev/null && echo sees its files; sleep 300'")?;
    shell.comes_to_say(40, "kubectl logs nginx -c look", "nginx: master process")?;
    let again = "(sleep 2; echo 'id -u; exit'; sleep 2) | timeout 30 script -qefc 'kubectl debug -it nginx --image=busybox --container=typed -- sh' /dev/null || true";
    shell.says(again, "\n0\r")?;
    shell.run("kubectl debug nginx --copy-to=copy --set-image=nginx=nginx:1.16.1")?;
    shell.run("kubectl wait --for=condition=Ready pod/copy --timeout=40s")?;
    shell.run(
        "kubectl debug node/node1 --image=busybox --profile=sysadmin -- sh -c 'cat /host/etc/hostname; sleep 60'",
    )?;
    let name = shell.run("kubectl get pods -o name | grep node-debugger")?;
    shell.comes_to_say(30, &format!("kubectl logs {}", name.trim()), "node1").map(drop)
}

fn top(shell: &Shell, cluster: &Cluster) -> Outcome {
    if !cluster.layout.bin.join("metrics-server").is_file() {
        return Err(Skip("no metrics-server was built".into()).into());
    }
    shell.run("kubectl run busy --image=busybox --restart=Never -- sh -c 'while :; do :; done'")?;
    shell.run("kubectl -n kube-system rollout status deployment/metrics-server --timeout=80s")?;
    let uses = |out: &str| {
        out.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let cpu = words.get(1).and_then(|word| word.strip_suffix('m')).and_then(|word| word.parse::<u32>().ok());
            words.first() == Some(&"busy")
                && cpu.is_some_and(|cpu| cpu > 50)
                && words.get(2).is_some_and(|word| word.ends_with("Mi"))
        })
    };
    shell.until(90, "kubectl top pod", "processor and memory of the pod busy", uses)?;
    shell.says("kubectl top pod --containers", "busy")?;
    shell.says("kubectl top node", "node1")?;
    shell.run("kubectl delete pod busy --now").map(drop)
}

fn label(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f pod.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/nginx --timeout=40s")?;
    shell.all(&[
        "kubectl label pod nginx tier=front",
        "kubectl annotate pod nginx note='a sentence'",
        "kubectl label pod nginx tier=back --overwrite",
        "kubectl patch pod nginx -p '{\"spec\":{\"containers\":[{\"name\":\"nginx\",\"image\":\"nginx:1.16.1\"}]}}'",
    ])?;
    shell.says("kubectl get pods -l tier=back -L tier", "back")?;
    // Another image restarts the container, in the same pod.
    shell.becomes(40, "kubectl get pod nginx -o jsonpath='{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].image}'", "1 docker.io/library/nginx:1.16.1")?;
    shell.run("kubectl delete -f pod.yaml --wait=true")?;
    shell.refused("kubectl get pod nginx").map(drop)
}

fn drain(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f nginx-deployment.yaml -f daemonset.yaml")?;
    shell.run("kubectl rollout status deployment/nginx-deployment --timeout=60s")?;
    shell.run("kubectl cordon node1")?;
    shell.says("kubectl get nodes", "SchedulingDisabled")?;
    let drained = shell.run(&format!(
        "kubectl drain node1 --ignore-daemonsets --delete-emptydir-data --timeout=80s --pod-selector='app=nginx' --grace-period=5 2>&1; kubectl -n {} get pods",
        shell.namespace
    ));
    let pending = shell.comes_to_say(40, "kubectl get pods -l app=nginx", "Pending");
    shell.run("kubectl uncordon node1")?;
    drained?;
    ensure!(!pending?.contains("Running"), "a pod was not drained");
    shell.run("kubectl rollout status deployment/nginx-deployment --timeout=60s").map(drop)
}
