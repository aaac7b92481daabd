//! What volumes have to do beyond being there.

use anyhow::ensure;

use super::case;
use crate::Outcome;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::shell::Shell;
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] = &[
    case("storage::host_paths_by_type", host_paths),
    case("storage::what_is_missing_is_named", missing),
    case("storage::immutable_configuration", immutable),
    case("storage::secrets_of_rarer_types", secrets),
    case("storage::images_as_volumes", images),
    case("storage::an_empty_dir_outlives_its_containers", survives),
    case("storage::mounts_propagate_where_asked", propagation),
];

fn ready(shell: &Shell, pod: &str) -> Outcome {
    shell.run(&format!("kubectl wait --for=condition=Ready pod/{pod} --timeout=60s")).map(drop)
}

fn host_paths(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f host-paths.yaml")?;
    ready(shell, "host-paths")?;
    for (command, wanted) in [
        ("cat /file", "node1"),
        ("sh -c 'echo written > /made/file && echo too > /made-file && stat -c %F /device'", "character special file"),
        ("stat -c %F /socket", "socket"),
    ] {
        shell.becomes(0, &format!("kubectl exec host-paths -- {command}"), wanted)?;
    }
    shell.becomes(0, "cat /var/lib/host-paths/file /var/lib/host-paths-file", "written\ntoo")?;
    shell.refused("kubectl exec host-paths -- sh -c 'echo no > /file'")?;
    let said = shell.comes_to_say(40, "kubectl describe pod wrong-type", "FailedMount")?;
    ensure!(said.contains("hostPath type check failed: /etc/hostname is not a directory"), "{said}");
    shell.run("kubectl delete -f host-paths.yaml --timeout=60s")?;
    shell.run("rm -r /var/lib/host-paths /var/lib/host-paths-file").map(drop)
}

fn missing(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f missing.yaml")?;
    shell.comes_to_say(40, "kubectl get pod without-key", "CreateContainerConfigError")?;
    shell.says("kubectl describe pod without-key", "configmap \"later\" not found")?;
    shell.comes_to_say(40, "kubectl describe pod without-volume", "configmap \"later\" not found")?;
    // It goes on by itself once that is there.
    shell.run("kubectl create configmap later --from-literal=key=value")?;
    shell.run("kubectl wait --for=condition=Ready pod/without-key pod/without-volume --timeout=90s")?;
    shell.becomes(0, "kubectl exec without-key -- sh -c 'echo $KEY'", "value")?;
    shell.becomes(0, "kubectl exec without-volume -- cat /later/key", "value")
}

fn immutable(shell: &Shell, _: &Cluster) -> Outcome {
    shell.all(&[
        "kubectl create configmap fixed --from-literal=key=value",
        "kubectl create secret generic fixed --from-literal=key=value",
        "kubectl patch configmap/fixed -p '{\"immutable\":true}'",
        "kubectl patch secret/fixed -p '{\"immutable\":true}'",
    ])?;
    for kind in ["configmap", "secret"] {
        let said = shell.refused(&format!("kubectl patch {kind}/fixed -p '{{\"data\":{{\"key\":\"b3RoZXI=\"}}}}'"))?;
        ensure!(said.contains("field is immutable when `immutable` is set"), "{said}");
    }
    Ok(())
}

fn secrets(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f secrets.yaml")?;
    ready(shell, "secrets")?;
    for (command, wanted) in [
        ("ls -A /all/..data/", ".dockercfg\nbytes\ntoken-id\ntoken-secret\nusage-bootstrap-authentication"),
        ("stat -L -c %a /all/bytes", "440"),
        ("od -An -tx1 /all/bytes", "00 ff"),
        // Names that a shell can't have are variables all the same.
        (
            "sh -c 'tr \"\\0\" \"\\n\" < /proc/1/environ | grep ^token'",
            "token-id=5emitj\ntoken-secret=kq4gihvszzgn1p0r",
        ),
    ] {
        shell.becomes(0, &format!("kubectl exec secrets -- {command}"), wanted)?;
    }
    let said =
        shell.refused("kubectl create secret generic wrong --type=kubernetes.io/tls --from-literal=tls.crt=x")?;
    ensure!(said.contains("tls.key"), "{said}");
    Ok(())
}

fn images(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f image-volumes.yaml")?;
    ready(shell, "pages")?;
    shell.becomes(
        0,
        "kubectl exec pages -- cat /pages/version /whole/usr/share/nginx/html/version",
        "1.16.1\n1.16.1",
    )?;
    shell.refused("kubectl exec pages -- touch /pages/new")?;
    shell.run("kubectl exec pages -- touch /part/new")?;
    shell.until(40, "kubectl get pod no-such-image", "ErrImagePull", |out| {
        out.contains("ErrImagePull") || out.contains("ImagePullBackOff")
    })?;
    shell.says("kubectl describe pod no-such-image", "Failed to pull image \"nowhere:1\"")?;
    shell.comes_to_say(40, "kubectl describe pod no-such-path", "no/such").map(drop)
}

fn survives(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f scratch.yaml")?;
    ready(shell, "scratch")?;
    shell.run("kubectl exec scratch -- sh -c 'echo kept > /disk/file; echo kept > /memory/file; echo lost > /file'")?;
    let uid = shell.run("kubectl get pod scratch -o jsonpath='{.metadata.uid}'")?;
    shell.run("kubectl exec scratch -- kill 1")?;
    shell.becomes(40, "kubectl get pod scratch -o jsonpath='{.status.containerStatuses[0].restartCount}'", "1")?;
    ready(shell, "scratch")?;
    shell.becomes(0, "kubectl exec scratch -- cat /disk/file /memory/file", "kept\nkept")?;
    shell.refused("kubectl exec scratch -- cat /file")?;
    // With the pod it goes.
    shell.run("kubectl delete pod scratch")?;
    shell.becomes(30, &format!("ls -d /var/lib/kubelet/pods/{uid} 2>/dev/null || echo gone"), "gone")?;
    shell.becomes(0, &format!("grep -c {uid} /proc/self/mountinfo || true"), "0")
}

fn propagation(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f propagation.yaml")?;
    for pod in ["mounter", "watcher", "private"] {
        ready(shell, pod)?;
    }
    shell.run("kubectl exec mounter -- sh -c 'mkdir -p /shared/here && mount -t tmpfs none /shared/here && touch /shared/here/seen'")?;
    shell.becomes(5, "kubectl exec watcher -- ls /shared/here", "seen")?;
    shell.becomes(0, "kubectl exec private -- ls /shared/here", "")?;
    shell.becomes(0, "ls /var/lib/propagation/here", "seen")?;
    shell.run("kubectl exec mounter -- umount /shared/here")?;
    shell.becomes(5, "kubectl exec watcher -- ls /shared/here", "")?;
    // What is below a read-only mount is read-only too, where that is asked for.
    shell.run("mkdir -p /var/lib/propagation/below && mount -t tmpfs none /var/lib/propagation/below")?;
    let written = shell.run("kubectl apply -f read-only.yaml").and_then(|_| ready(shell, "read-only")).and_then(|()| {
        shell.refused("kubectl exec read-only -- touch /shared/below/new")?;
        shell.run("kubectl exec read-only -- touch /partly/below/new")
    });
    shell.run("kubectl delete pod --all --now")?;
    shell.run("umount /var/lib/propagation/below && rm -r /var/lib/propagation")?;
    written.map(drop)
}
