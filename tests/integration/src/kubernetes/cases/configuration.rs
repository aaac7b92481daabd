//! Configuration, secrets and volumes.

use anyhow::ensure;

use super::case;
use crate::Outcome;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::shell::Shell;
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] = &[
    case("configuration::environment", environment),
    case("configuration::files_and_their_modes", files),
    case("configuration::updates_in_place", updates),
    case("configuration::secrets_of_every_type", secrets),
    case("storage::volumes_of_every_kind", volumes),
    case("storage::fs_group_and_memory", fs_group),
    case("storage::a_claim_outlives_its_pod", claim),
];

fn reader(shell: &Shell) -> Outcome {
    shell.run("kubectl apply -f configuration.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/reader --timeout=60s").map(drop)
}

/// A command in a pod says exactly this, white space at the ends left out.
fn inside(shell: &Shell, pod: &str, command: &str, wanted: &str) -> Outcome {
    let out = shell.run(&format!("kubectl exec {pod} -- {command}"))?;
    ensure!(out.trim() == wanted, "`{command}` in {pod} says {:?}, not {wanted:?}", out.trim());
    Ok(())
}

fn environment(shell: &Shell, _: &Cluster) -> Outcome {
    reader(shell)?;
    for (name, value) in [
        ("LIVES", "3"),
        ("PASSWORD", "t0p-Secret"),
        ("NODE", "node1"),
        ("MEMORY", "33554432"),
        ("GREETING", "lives 3 $(LIVES)"),
        ("LOGIN_username", "admin"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ] {
        inside(shell, "reader", &format!("sh -c 'echo \"${name}\"'"), value)?;
    }
    inside(shell, "reader", "sh -c 'echo ${ABSENT-unset}'", "unset")?;
    let address = shell.run("kubectl get pod reader -o jsonpath='{.status.podIP}'")?;
    inside(shell, "reader", "sh -c 'echo $POD_IP'", &address)
}

fn files(shell: &Shell, _: &Cluster) -> Outcome {
    reader(shell)?;
    for (command, wanted) in [
        ("cat /game/player_initial_lives", "3"),
        ("sed -n 2p /game/game.properties", "player.maximum-lives=5"),
        ("sed -n 1p /etc/game.properties", "enemy.types=aliens,monsters"),
        ("sh -c 'wc -c < /game/blob'", "4"),
        ("stat -L -c %a /login/password", "400"),
        ("stat -L -c %a /ssh/id", "600"),
        ("stat -f -c %T /login", "tmpfs"),
        ("cat /all/lives /all/key /all/name", "3valuereader"),
        ("sh -c 'test -s /all/token && echo there'", "there"),
        ("cat /about/labels", "zone=\"here\""),
        ("cat /about/cpu", "100"),
    ] {
        inside(shell, "reader", command, wanted)?;
    }
    shell.refused("kubectl exec reader -- touch /login/new")?;
    Ok(())
}

fn updates(shell: &Shell, _: &Cluster) -> Outcome {
    reader(shell)?;
    shell.run("kubectl patch configmap game -p '{\"data\":{\"player_initial_lives\":\"9\"}}'")?;
    shell.run("kubectl patch secret login -p '{\"stringData\":{\"password\":\"changed\"}}'")?;
    shell.run("kubectl annotate --overwrite pod reader build=three")?;
    shell.becomes(100, "kubectl exec reader -- cat /game/player_initial_lives", "9")?;
    shell.becomes(100, "kubectl exec reader -- cat /login/password", "changed")?;
    shell.comes_to_say(100, "kubectl exec reader -- cat /about/annotations", "build=\"three\"")?;
    // By a sub-path and in the environment it stays as it was at the start.
    inside(shell, "reader", "sh -c 'echo $LIVES'", "3")?;
    shell.run("kubectl delete pod reader --now")?;
    Ok(())
}

fn secrets(shell: &Shell, _: &Cluster) -> Outcome {
    shell.all(&[
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout $SCRATCH/key -out $SCRATCH/crt -days 1 -subj /CN=here 2>/dev/null",
        "kubectl create secret tls certificate --cert=$SCRATCH/crt --key=$SCRATCH/key",
        "kubectl create secret docker-registry registry --docker-server=docker.io --docker-username=me --docker-password=pw",
        "kubectl create secret generic opaque --from-literal=key=value --from-file=name=pod.yaml",
    ])?;
    shell.run("kubectl apply -f robot.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/robot --timeout=60s")?;
    inside(shell, "robot", "ls -A /all/..data/", ".dockerconfigjson\nkey\nname\ntls.crt\ntls.key\ntoken")?;
    inside(shell, "robot", "cat /all/key", "value")?;
    inside(shell, "robot", "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", &shell.namespace)?;
    shell.run("kubectl create token robot").map(drop)
}

fn mounted(shell: &Shell) -> Outcome {
    shell.run("kubectl apply -f volumes.yaml")?;
    shell.run("kubectl wait --for=condition=Ready pod/volumes --timeout=60s").map(drop)
}

fn volumes(shell: &Shell, _: &Cluster) -> Outcome {
    mounted(shell)?;
    for (command, wanted) in [
        ("sh -c 'echo here > /part/file; cat /disk/a/b/file'", "here"),
        ("sh -c 'echo there > /named/file; cat /disk/volumes/file'", "there"),
        ("cat /host", "node1"),
        ("stat -f -c %T /memory", "tmpfs"),
        ("cat /image/usr/share/nginx/html/version", "1.16.1"),
    ] {
        inside(shell, "volumes", command, wanted)?;
    }
    shell.refused("kubectl exec volumes -- sh -c 'echo no > /host'")?;
    shell.refused("kubectl exec volumes -- touch /image/no")?;
    // As large as it may be.
    shell.refused("kubectl exec volumes -- dd if=/dev/zero of=/memory/large bs=1M count=17")?;
    shell.run("kubectl delete pod volumes --now").map(drop)
}

fn fs_group(shell: &Shell, _: &Cluster) -> Outcome {
    mounted(shell)?;
    inside(shell, "volumes", "id", "uid=1000 gid=3000 groups=2000,3000,4000")?;
    for place in ["/disk", "/memory"] {
        inside(shell, "volumes", &format!("stat -c %g {place}"), "2000")?;
        inside(shell, "volumes", &format!("sh -c 'touch {place}/new; stat -c %u:%g {place}/new'"), "1000:2000")?;
    }
    Ok(())
}

fn claim(shell: &Shell, _: &Cluster) -> Outcome {
    let ready = "kubectl wait --for=condition=Ready pod/worker --timeout=60s";
    shell.all(&["kubectl apply -f claim.yaml", ready])?;
    shell.says("kubectl get pvc task-claim", "Bound")?;
    shell.run("kubectl exec worker -- sh -c 'echo kept > /claim/file'")?;
    shell.all(&["kubectl delete pod worker --now", "kubectl apply -f claim.yaml", ready])?;
    inside(shell, "worker", "cat /claim/file", "kept")?;
    shell.run("kubectl delete -f claim.yaml --timeout=60s").map(drop)
}
