//! Probes, restarts and ends.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::case;
use crate::Outcome;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::shell::{Shell, pause};
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] = &[
    case("probes::liveness_by_exec_http_tcp_and_grpc", liveness),
    case("probes::healthy_is_left_alone", healthy),
    case("probes::startup_holds_the_others", startup),
    case("probes::readiness_takes_out_of_the_service", readiness),
    case("ends::crash_loop_back_off_grows", back_off),
    case("ends::out_of_memory_and_a_missing_command", reasons),
    case("ends::termination_messages", messages),
    case("ends::post_start_and_pre_stop", hooks),
    case("ends::grace_period_then_kill", grace),
    case("ends::restart_rules", rules),
];

/// How often the containers of a pod were restarted, in their order.
fn restarts(pod: &str) -> String {
    format!("kubectl get pod {pod} -o jsonpath='{{.status.containerStatuses[*].restartCount}}'")
}

/// A field of a container's status.
fn status(pod: &str, container: &str, field: &str) -> String {
    format!("kubectl get pod {pod} -o jsonpath='{{.status.containerStatuses[?(@.name==\"{container}\")].{field}}}'")
}

fn ready(shell: &Shell, pod: &str) -> Outcome {
    shell.run(&format!("kubectl wait --for=condition=Ready pod/{pod} --timeout=60s")).map(drop)
}

/// How long a command takes that has to succeed.
fn took(shell: &Shell, command: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    shell.run(command)?;
    Ok(began.elapsed())
}

fn liveness(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f liveness.yaml")?;
    for (pod, reason) in [
        ("liveness-exec", "can't open '/tmp/healthy'"),
        ("liveness-http", "HTTP probe failed with statuscode: 500"),
        ("liveness-tcp", "connection refused"),
        ("liveness-grpc", "service unhealthy"),
        ("liveness-hanging", "timed out"),
    ] {
        shell.until(60, &restarts(pod), "a restart", |out| out.trim().parse::<u32>().is_ok_and(|count| count >= 1))?;
        let told = shell.run(&format!("kubectl describe pod {pod}"))?;
        ensure!(told.contains("Liveness probe failed") || pod == "liveness-hanging", "{told}");
        ensure!(told.contains(reason), "no {reason:?} in\n{told}");
        ensure!(told.contains("failed liveness probe, will be restarted"), "{told}");
    }
    Ok(())
}

fn healthy(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f healthy.yaml")?;
    ready(shell, "healthy")?;
    // Some rounds of every probe.
    pause(Duration::from_secs(6));
    shell.says(&restarts("healthy"), "0 0 0")?;
    shell.says("kubectl get pod healthy", "3/3")?;
    // A readiness probe may come before its server listens, a liveness probe may not fail.
    let told = shell.run("kubectl describe pod healthy")?;
    ensure!(!told.contains("Liveness probe"), "{told}");
    Ok(())
}

fn startup(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f startup.yaml")?;
    shell.comes_to_say(20, "kubectl get pod slow", "Running")?;
    let state = "{.status.containerStatuses[0]";
    shell.becomes(
        0,
        &format!("kubectl get pod slow -o jsonpath='{state}.started}} {state}.ready}}'"),
        "false false",
    )?;
    ready(shell, "slow")?;
    shell.becomes(0, &restarts("slow"), "0")?;
    shell.until(40, &restarts("never-up"), "a restart", |out| out.trim() != "0")?;
    shell.says("kubectl describe pod never-up", "failed startup probe, will be restarted").map(drop)
}

fn readiness(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f readiness.yaml")?;
    shell.run("kubectl rollout status deployment/ready --timeout=60s")?;
    let slices = "kubectl get endpointslices -l kubernetes.io/service-name=ready \
                  -o jsonpath='{.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}'";
    let count = |wanted| {
        shell.until(30, slices, &format!("{wanted} addresses"), |out| out.split_whitespace().count() == wanted)
    };
    count(2)?;
    let pod = shell.run("kubectl get pods -o jsonpath='{.items[0].metadata.name}'")?;
    let other = shell.run("kubectl get pods -o jsonpath='{.items[1].metadata.name}'")?;
    let address = shell.run(&format!("kubectl get pod {pod} -o jsonpath='{{.status.podIP}}'"))?;
    shell.run(&format!("kubectl exec {pod} -- touch /tmp/not-ready"))?;
    let left = count(1)?;
    ensure!(!left.contains(&address), "{address} is still in {left}");
    shell.says(&format!("kubectl get pod {pod}"), "0/1")?;
    shell.says(&format!("kubectl describe pod {pod}"), "Readiness probe failed")?;
    shell.run(&format!("kubectl exec {other} -- touch /tmp/not-ready"))?;
    count(0)?;
    let service = shell.run("kubectl get service ready -o jsonpath='{.spec.clusterIP}'")?;
    let ask = format!("curl -s -o /dev/null -w '%{{http_code}}' --max-time 3 http://{service}/version || true");
    shell.becomes(20, &ask, "000")?;
    shell.run(&format!("kubectl exec {pod} -- rm /tmp/not-ready; kubectl exec {other} -- rm /tmp/not-ready"))?;
    count(2)?;
    shell.becomes(20, &ask, "200")?;
    shell.says(&restarts(&pod), "0")?;
    shell.says(&restarts(&other), "0").map(drop)
}

fn back_off(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl run crashing --image=busybox -- sh -c 'echo about to crash; exit 42'")?;
    // The kubelet says it for moments only, so it is watched: nobody would see it by looking now and then.
    let watched = shell.ends(
        "kubectl get pod crashing -w --no-headers > $SCRATCH/watched & watch=$!
         code=0
         for count in 1 2 3; do
             kubectl wait --for=jsonpath='{.status.containerStatuses[0].restartCount}'=$count pod/crashing --timeout=60s >&2 || code=1
             date +%s%3N
         done
         kill $watch
         exit $code",
        Duration::from_secs(150),
    )?;
    ensure!(watched.code == 0, "{}", watched.err);
    let times: Vec<u64> = watched.out.lines().filter_map(|line| line.parse().ok()).collect();
    let [first, second, third] = times[..] else { anyhow::bail!("{times:?}") };
    let (short, long) = (second - first, third - second);
    // 10 and 20 s, each times one to one and a half.
    ensure!((8_000..22_000).contains(&short) && (18_000..40_000).contains(&long), "pauses of {short} and {long} ms");
    shell.says("cat $SCRATCH/watched", "CrashLoopBackOff")?;
    shell.says("kubectl describe pod crashing", "Back-off restarting failed container")?;
    shell.becomes(0, &status("crashing", "crashing", "lastState.terminated.exitCode"), "42")?;
    // Of the latest run: the kubelet removes the one before as soon as that has crashed, too.
    shell.comes_to_say(10, "kubectl logs crashing", "about to crash").map(drop)
}

fn reasons(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f hungry.yaml")?;
    shell.run("kubectl run lost --image=busybox --restart=Never --command -- /no/such/command")?;
    let state = |pod| {
        let state = "{.status.containerStatuses[0].state.terminated";
        format!("kubectl get pod {pod} -o jsonpath='{state}.reason}} {state}.exitCode}}'")
    };
    shell.becomes(60, &state("hungry"), "OOMKilled 137")?;
    shell.says("kubectl get pod hungry", "OOMKilled")?;
    shell.becomes(60, &state("lost"), "StartError 128")?;
    shell.says("kubectl describe pod lost", "/no/such/command").map(drop)
}

fn messages(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f last-words.yaml")?;
    for (container, message, code, reason) in [
        ("file", "said in a file", "5", "Error"),
        ("log", "said in the log", "6", "Error"),
        ("usual", "said as usual", "0", "Completed"),
    ] {
        let field = |field| status("last-words", container, &format!("state.terminated.{field}"));
        shell.becomes(40, &field("message"), message)?;
        shell.becomes(0, &field("exitCode"), code)?;
        shell.becomes(0, &field("reason"), reason)?;
    }
    shell.becomes(10, "kubectl get pod last-words -o jsonpath='{.status.phase}'", "Failed")
}

fn hooks(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f hooks.yaml -f drained.yaml -f unwelcome.yaml")?;
    ready(shell, "hooks")?;
    shell.says("kubectl exec hooks -- cat /shared/post-start", "post-start")?;
    let end = took(shell, "kubectl delete pod hooks")?.as_millis();
    ensure!((1_900..15_000).contains(&end), "the end took {end} ms, with a hook of 2 s and a grace period of 20 s");
    shell.says("cat /var/lib/hooks/pre-stop; rm -r /var/lib/hooks", "slept")?;
    ready(shell, "drained")?;
    let end = took(shell, "kubectl delete pod drained")?.as_millis();
    ensure!((2_900..15_000).contains(&end), "the end took {end} ms, with a pause of 3 s and a grace period of 20 s");
    shell.until(30, &restarts("unwelcome"), "a restart", |out| out.trim() != "0")?;
    shell.says("kubectl describe pod unwelcome", "FailedPostStartHook").map(drop)
}

fn grace(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f deaf.yaml")?;
    ready(shell, "deaf")?;
    let end = took(shell, "kubectl logs -f deaf > $SCRATCH/log & kubectl delete pod deaf; wait")?.as_millis();
    ensure!((3_900..12_000).contains(&end), "the end took {end} ms, with a grace period of 4 s");
    shell.says("cat $SCRATCH/log", "got TERM")?;
    for how in ["--grace-period=1", "--now", "--grace-period=0 --force"] {
        shell.run("sed 's/Seconds: 4/Seconds: 60/' deaf.yaml | kubectl apply -f -")?;
        ready(shell, "deaf")?;
        let end = took(shell, &format!("kubectl delete pod deaf {how}"))?.as_millis();
        ensure!(end < 30_000, "the end took {end} ms by {how}, with a grace period of 60 s");
    }
    Ok(())
}

fn rules(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f restart-rules.yaml")?;
    let state = "kubectl get pod restart-rules -o jsonpath='{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].state.terminated.exitCode} {.status.phase}'";
    shell.becomes(60, state, "1 7 Failed")?;
    shell.becomes(60, &restarts("restart-all"), "1 1")?;
    ready(shell, "restart-all")?;
    // What is in its volumes stays, and its init containers run once more.
    shell.says("kubectl exec restart-all -c worker -- cat /work/log", "prepared\nprepared\n").map(drop)
}
