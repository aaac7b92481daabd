//! Pods with a user namespace: whether this machine can have them, which pods may, and who owns what of theirs on disk.

use std::{os::unix::fs::chown, path::Path};

use runtime_lifecycle::{IpcMode, NamespaceModes, NetworkMode, PidMode, UserMode};
use runtime_sys::{
    SysResult,
    mount::{self, Depth},
    rootfs,
    userns::{self, IdMap, IdRange},
};

use crate::{EngineError, disk};

/// Whether pods can have a user namespace here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ability {
    /// They can.
    Yes,
    /// They can't.
    No {
        /// What the kernel said.
        why: String,
    },
}

/// Tries it, with layers as they lie below `root`: makes a namespace and has the owners of a clone of `root` mapped. Nothing
/// of it stays.
pub(crate) fn look(root: &Path) -> Ability {
    // Any ids will do; these are given to nobody by a kubelet, whose ranges begin at multiples of 65536 above 0.
    const RANGE: IdRange = IdRange { inside: 0, outside: 65_536, length: 65_536 };
    let tried = || -> SysResult<()> {
        let users = userns::make(&IdMap { uids: RANGE, gids: RANGE })?;
        let tree = mount::clone_tree(&rootfs::c_path(root.as_os_str())?, Depth::One)?;
        userns::map_owners(std::os::fd::AsFd::as_fd(&tree), Depth::One, std::os::fd::AsFd::as_fd(&users))
    };
    match tried() {
        Ok(()) => Ability::Yes,
        Err(error) => Ability::No { why: error.to_string() },
    }
}

/// Refuses what can't be: a user namespace owns the pod's other namespaces, and owns none of the host's.
pub(crate) fn check(namespaces: &NamespaceModes, ability: &Ability) -> Result<(), EngineError> {
    if namespaces.user == UserMode::Node {
        return Ok(());
    }
    let of_host = match namespaces {
        NamespaceModes { network: NetworkMode::Node, .. } => "network",
        NamespaceModes { pid: PidMode::Node, .. } => "process ids",
        NamespaceModes { ipc: IpcMode::Node, .. } => "IPC",
        _ => match ability {
            Ability::Yes => return Ok(()),
            Ability::No { why } => {
                let why =
                    format!("this machine can't have pods with a user namespace ({why}): run it with hostUsers: true");
                return Err(EngineError::invalid("userns_options", why));
            }
        },
    };
    let why = format!("a pod with a user namespace can't have the host's {of_host}");
    Err(EngineError::invalid("userns_options", why))
}

/// Gives a file or directory of ours to the pod's root. Only what is the pod's alone.
pub(crate) fn give(path: &Path, user: UserMode) -> Result<(), EngineError> {
    match user {
        UserMode::Node => Ok(()),
        UserMode::Pod(mappings) => chown(path, Some(mappings.uids.host), Some(mappings.gids.host))
            .map_err(disk("give to the pod's user", path)),
    }
}

#[cfg(test)]
mod tests {
    use runtime_lifecycle::{IdMappings, IdRange, IpcMode, NamespaceModes, NetworkMode, PidMode, UserMode};

    use super::{Ability, check};

    #[test]
    fn a_user_namespace_owns_nothing_of_the_host() {
        let range = IdRange { container: 0, host: 65_536, length: 65_536 };
        let own = NamespaceModes {
            network: NetworkMode::Pod,
            pid: PidMode::Container,
            ipc: IpcMode::Pod,
            user: UserMode::Pod(IdMappings { uids: range, gids: range }),
        };
        for (modes, told) in [
            (own, None),
            (NamespaceModes { pid: PidMode::Pod, ..own }, None),
            (NamespaceModes { network: NetworkMode::Node, ..own }, Some("the host's network")),
            (NamespaceModes { pid: PidMode::Node, ..own }, Some("the host's process ids")),
            (NamespaceModes { ipc: IpcMode::Node, ..own }, Some("the host's IPC")),
            (NamespaceModes { network: NetworkMode::Node, user: UserMode::Node, ..own }, None),
        ] {
            match (check(&modes, &Ability::Yes), told) {
                (Ok(()), None) => {}
                (Err(error), Some(told)) => assert!(error.to_string().contains(told), "{error}"),
                (answer, _) => panic!("{modes:?}: {answer:?}"),
            }
        }
        let cannot = Ability::No { why: "clone3(0x10000000) = ENOSPC".to_owned() };
        assert!(check(&own, &cannot).expect_err("refused").to_string().contains("ENOSPC"));
        assert!(check(&NamespaceModes { user: UserMode::Node, ..own }, &cannot).is_ok());
    }
}
