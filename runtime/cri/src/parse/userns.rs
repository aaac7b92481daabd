//! User namespaces and mappings of ids.

use runtime_cri_api::v1::{IdMapping, NamespaceMode, NamespaceOption};
use runtime_lifecycle::{IdMappings, IdRange, UserMode};
use tonic::Status;

use super::known;
use crate::error::invalid;

/// Whose users and groups; the host's where nothing is said.
pub(super) fn user_mode(options: &NamespaceOption) -> Result<UserMode, Status> {
    let what = "namespace_options.userns_options";
    let Some(user) = &options.userns_options else { return Ok(UserMode::Node) };
    let mappings = mappings(what, &user.uids, &user.gids)?;
    match (known(&format!("{what}.mode"), user.mode)?, mappings) {
        (NamespaceMode::Node, None) => Ok(UserMode::Node),
        (NamespaceMode::Node, Some(_)) => Err(invalid(what, "mappings need the mode POD")),
        (NamespaceMode::Pod, None) => Err(invalid(what, "the mode POD needs one mapping of uids and one of gids")),
        (NamespaceMode::Pod, Some(mappings)) => {
            for range in [mappings.uids, mappings.gids] {
                if range.container != 0 {
                    return Err(invalid(what, "container id 0 is not mapped: a container's root would be nobody"));
                }
                if range.host == 0 {
                    return Err(invalid(what, "host id 0 is mapped: a container's root would be the host's"));
                }
            }
            Ok(UserMode::Pod(mappings))
        }
        (NamespaceMode::Container | NamespaceMode::Target, _) => {
            Err(invalid(what, "a user namespace is the pod's (POD) or the host's (NODE)"))
        }
    }
}

/// One range each, or none at all.
pub(super) fn mappings(what: &str, uids: &[IdMapping], gids: &[IdMapping]) -> Result<Option<IdMappings>, Status> {
    match (uids, gids) {
        ([], []) => Ok(None),
        ([uids], [gids]) => Ok(Some(IdMappings { uids: range(what, *uids)?, gids: range(what, *gids)? })),
        _ => Err(invalid(
            what,
            format!("{} mappings of uids and {} of gids; one each is supported", uids.len(), gids.len()),
        )),
    }
}

fn range(what: &str, mapping: IdMapping) -> Result<IdRange, Status> {
    let IdMapping { host_id, container_id, length } = mapping;
    // The last number is the kernel's word for no id.
    let fits = |first: u32| first.checked_add(length).is_some();
    if length == 0 || !fits(host_id) || !fits(container_id) {
        return Err(invalid(what, format!("{container_id} to {host_id}, {length} ids: is no range of ids")));
    }
    Ok(IdRange { container: container_id, host: host_id, length })
}

#[cfg(test)]
mod tests {
    use runtime_cri_api::v1::{IdMapping, NamespaceMode, NamespaceOption, UserNamespace};

    use super::user_mode;

    fn mapping(container_id: u32, host_id: u32, length: u32) -> IdMapping {
        IdMapping { container_id, host_id, length }
    }

    fn told(mode: NamespaceMode, uids: Vec<IdMapping>, gids: Vec<IdMapping>) -> String {
        let user = UserNamespace { mode: mode.into(), uids, gids };
        match user_mode(&NamespaceOption { userns_options: Some(user), ..NamespaceOption::default() }) {
            Ok(mode) => format!("{mode:?}"),
            Err(status) => status.message().to_owned(),
        }
    }

    #[test]
    fn one_range_that_begins_with_root() {
        let good = mapping(0, 65_536, 65_536);
        for (mode, uids, gids, expected) in [
            (NamespaceMode::Pod, vec![good], vec![good], "host: 65536"),
            (NamespaceMode::Node, vec![], vec![], "Node"),
            (NamespaceMode::Node, vec![good], vec![good], "need the mode POD"),
            (NamespaceMode::Pod, vec![], vec![], "needs one mapping"),
            (NamespaceMode::Pod, vec![good], vec![], "1 mappings of uids and 0 of gids"),
            (NamespaceMode::Pod, vec![good, good], vec![good, good], "one each is supported"),
            (NamespaceMode::Pod, vec![mapping(1, 1000, 1000)], vec![good], "container id 0 is not mapped"),
            (NamespaceMode::Pod, vec![good], vec![mapping(0, 0, 1000)], "host id 0 is mapped"),
            (NamespaceMode::Pod, vec![mapping(0, 1000, 0)], vec![good], "no range"),
            (NamespaceMode::Pod, vec![mapping(0, u32::MAX, 2)], vec![good], "no range"),
            (NamespaceMode::Pod, vec![mapping(0, 5, u32::MAX)], vec![good], "no range"),
            (NamespaceMode::Container, vec![good], vec![good], "is the pod's (POD) or the host's"),
            (NamespaceMode::Target, vec![], vec![], "is the pod's (POD) or the host's"),
        ] {
            let said = told(mode, uids, gids);
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }
}
