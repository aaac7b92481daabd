//! From the wire's words to the container library's, and from its errors back.

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use runtime_oci::{
    ErrorKind, ImageVolume, Input, Joins, OciError, PidNamespace, PodSpec, Process, RootSource, SeccompChoice,
    Volatile, Volumes,
};
use runtime_sys::pty::WindowSize;
use runtime_sys::userns::{IdMap, IdRange};
use runtime_wire::{
    ContainerSpec, Failure, FailureKind, IdMappings, PidMode, ProcessIdentity, Root, SandboxSpec, Seccomp,
};

use crate::container::Terminal;

/// Longest id. The engine's have 64 digits.
const ID_BYTES_MAX: usize = 128;

/// An id becomes a file name and a cgroup's name, so it must not be able to lead elsewhere.
pub(crate) fn check_id(id: &str) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(plain) {
        return Err(failure(FailureKind::Invalid, format!("{id:?} is not an id")));
    }
    Ok(())
}

pub(crate) fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into() }
}

/// What the library says, with the operation that it said it in.
pub(crate) fn oci_failure(operation: &str, error: &OciError) -> Failure {
    let kind = match error.kind() {
        ErrorKind::Invalid => FailureKind::Invalid,
        ErrorKind::CannotExecute => FailureKind::CannotExecute,
        ErrorKind::Gone | ErrorKind::InUse => FailureKind::Refused,
        ErrorKind::Kernel => FailureKind::Kernel,
    };
    failure(kind, format!("{operation}: {error}"))
}

pub(crate) fn identity(process: &Process) -> ProcessIdentity {
    ProcessIdentity { pid: process.pid, start_ticks: process.start_ticks }
}

pub(crate) fn pod_spec(spec: &SandboxSpec) -> PodSpec {
    PodSpec {
        hostname: spec.hostname.clone(),
        network: spec.namespaces.network,
        ipc: spec.namespaces.ipc,
        pid: match spec.namespaces.pid {
            PidMode::Container => PidNamespace::Own,
            PidMode::Pod => PidNamespace::Shared,
            PidMode::Node => PidNamespace::Host,
        },
        cgroup: spec.cgroup.clone(),
        sysctls: spec.sysctls.clone(),
        shm_bytes: spec.shm_bytes,
        users: spec.user.map(id_map),
    }
}

fn id_map(mappings: IdMappings) -> IdMap {
    let range =
        |range: runtime_wire::IdRange| IdRange { inside: range.container, outside: range.host, length: range.length };
    IdMap { uids: range(mappings.uids), gids: range(mappings.gids) }
}

pub(crate) fn input<'a>(spec: &'a ContainerSpec, joins: Joins, volumes: Volumes<'a>) -> Input<'a> {
    let Root::Overlay { lowers, upper, work, volatile } = &spec.root;
    let volatile = if *volatile { Volatile::Yes } else { Volatile::No };
    Input {
        id: &spec.id,
        spec: &spec.spec,
        root: RootSource::Overlay { lowers, upper, work, volatile },
        seccomp: match spec.seccomp {
            Seccomp::RuntimeDefault => SeccompChoice::RuntimeDefault,
            Seccomp::Unconfined => SeccompChoice::Unconfined,
            Seccomp::Spec => SeccompChoice::Spec,
        },
        joins,
        volumes,
    }
}

/// The images that are volumes.
pub(crate) fn images(spec: &ContainerSpec) -> Vec<ImageVolume> {
    let one = |image: &runtime_wire::ImageVolume| ImageVolume {
        lowers: image.lowers.clone(),
        sub_path: image.sub_path.clone(),
    };
    spec.image_volumes.iter().map(one).collect()
}

/// The terminal that a process asks for.
pub(crate) fn terminal(process: &oci_spec::runtime::Process) -> Terminal {
    if process.terminal() != Some(true) {
        return Terminal::No;
    }
    Terminal::Yes(process.console_size().and_then(|size| {
        let rows = u16::try_from(size.height()).ok()?;
        let columns = u16::try_from(size.width()).ok()?;
        Some(WindowSize { rows, columns })
    }))
}

/// The bind sources of a specification: what may not be there, and what may not answer.
pub(crate) fn sources(spec: &Spec) -> impl Iterator<Item = String> {
    let mounts = spec.mounts().iter().flatten();
    mounts.filter(|mount| is_bind(mount)).filter_map(|mount| Some(mount.source().as_ref()?.display().to_string()))
}

/// Whether it lists a process-id namespace of its own.
pub(crate) fn has_own_processes(spec: &Spec) -> bool {
    let listed = spec.linux().iter().filter_map(|linux| linux.namespaces().as_ref()).flatten();
    listed.into_iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Pid)
}

/// Whether anything must be looked at before the container is made.
pub(crate) fn has_sources(spec: &Spec) -> bool {
    sources(spec).any(|source| source != POD_SHM)
}

/// The source that stands for the pod's `/dev/shm`.
const POD_SHM: &str = "podwright:shm";

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_lead_elsewhere() {
        for id in ["", ".", "..", "a/b", "a b", "a\0", "ä", &"a".repeat(129)] {
            assert_eq!(check_id(id).expect_err("refused").kind, FailureKind::Invalid, "{id:?}");
        }
        assert!(check_id(&"0123456789abcdef".repeat(4)).is_ok());
    }
}
