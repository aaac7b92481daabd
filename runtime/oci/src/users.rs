//! A container in its pod's user namespace: what has to be done by the host's root first, and as whom the rest is done.
//!
//! The host's root clones sources and layers and has their owners mapped, mounts the overlay, makes device nodes and file
//! systems of joined namespaces; nothing of that is attached yet. Then it becomes the user namespace's root, makes the
//! container's mount, cgroup and process-id namespaces there, and attaches everything. So the container's mounts belong to
//! its own root, sources need not be reachable by its ids, and what the host's root did can't be undone from inside.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use oci_spec::runtime::{LinuxIdMapping, Mount, Process};
use runtime_sys::privileges::Capabilities;
use runtime_sys::process::{Namespaces, resource_limit};
use runtime_sys::rootfs::{Kind, Node, device_number};
use runtime_sys::userns::{self, IdMap, IdRange};

use crate::error::During;
use crate::input::{PodUsers, Volatile};
use crate::plan::Facts;
use crate::step::{ImageLayers, OverlayForm, Slot, Step};
use crate::{OciError, RootSource};

/// A user namespace's descriptor, which several steps need.
pub(crate) type Namespace = Arc<OwnedFd>;

/// Layers to be cloned.
#[derive(Debug)]
pub(crate) struct MappedLayers {
    /// The topmost first.
    pub(crate) lowers: Vec<CString>,
    /// The directory of the writable layer and overlayfs's work directory: overlayfs wants them on one mount. None for an
    /// image as a volume.
    pub(crate) above_upper: Option<CString>,
    pub(crate) users: Namespace,
}

/// The overlay of them, in the order in which they were cloned.
#[derive(Debug)]
pub(crate) struct MappedOverlay {
    pub(crate) kind: OverlayKind,
    pub(crate) label: Option<CString>,
    pub(crate) form: OverlayForm,
}

/// What an overlay is for.
#[derive(Debug)]
pub(crate) enum OverlayKind {
    /// The container's root; the names are in `above_upper`.
    Root { upper: CString, work: CString, volatile: Volatile },
    /// A read-only volume.
    Volume(Slot),
}

/// The pod's users, as a plan needs them.
#[derive(Debug, Clone)]
pub(crate) struct Users {
    pub(crate) namespace: Namespace,
    pub(crate) map: IdMap,
}

impl Users {
    pub(crate) fn of(pod: PodUsers) -> Self {
        Self { namespace: Arc::new(pod.namespace), map: pod.map }
    }
}

/// As it is for a process that has entered a user namespace: every capability can be had there, and is.
pub(crate) fn facts_inside(facts: &Facts) -> Facts {
    Facts { bounding: all_capabilities(facts.last_capability), ..*facts }
}

/// A process that enters a user namespace has all of them in it.
pub(crate) fn all_capabilities(last: u32) -> Capabilities {
    Capabilities(u64::MAX >> (63 - last.min(63)))
}

/// Whoever the process is must be somebody in the namespace; the kernel would say no more than EINVAL.
pub(crate) fn check_ids(process: &Process, map: &IdMap) -> Result<(), OciError> {
    let user = process.user();
    let mapped = |what: &str, id: u32, range: &IdRange| match range.outside_of(id) {
        Some(outside) => Ok(outside),
        None => Err(OciError::invalid(format!(
            "process.user: {what} {id} is not in the pod's user namespace, which has {} to {}",
            range.inside,
            range.last_inside().unwrap_or(range.inside)
        ))),
    };
    mapped("user", user.uid(), &map.uids)?;
    mapped("group", user.gid(), &map.gids)?;
    for group in user.additional_gids().iter().flatten() {
        mapped("group", *group, &map.gids)?;
    }
    Ok(())
}

/// What the host's root does for a process before it becomes somebody else's: pipes are given away, and limits raised that
/// only it may raise. `last` are the process's last steps.
pub(crate) fn gifts(process: &Process, map: &IdMap, last: &[Step]) -> Vec<Step> {
    let user = process.user();
    let mut steps = Vec::new();
    if let (Some(uid), Some(gid)) = (map.uids.outside_of(user.uid()), map.gids.outside_of(user.gid())) {
        steps.push(Step::GiveStreams { uid, gid });
    }
    let wanted = last.iter().find_map(|step| if let Step::Limits(limits) = step { Some(limits) } else { None });
    let raised: Vec<_> = wanted
        .into_iter()
        .flatten()
        .filter_map(|(resource, limit)| {
            let own = resource_limit(*resource).ok().filter(|own| limit.hard > own.hard)?;
            Some((*resource, runtime_sys::process::Limit { soft: own.soft, hard: limit.hard }))
        })
        .collect();
    if !raised.is_empty() {
        steps.push(Step::Limits(raised));
    }
    steps
}

/// The root of a container, in two parts: what is cloned in the host's mount namespace, and what is mounted of it.
pub(crate) fn root_steps(
    root: &RootSource<'_>,
    label: Option<CString>,
    users: &Users,
    facts: &Facts,
) -> Result<Option<(Step, Step)>, OciError> {
    let RootSource::Overlay { lowers, upper, work, volatile } = *root else { return Ok(None) };
    let (above, name) = (upper.parent(), upper.file_name());
    let (Some(above), Some(name), Some(work_name)) = (above, name, work.file_name()) else {
        return Err(OciError::invalid("root: the writable layer is no directory with a name"));
    };
    if work.parent() != Some(above) {
        return Err(OciError::invalid("root: the writable layer and its work directory must lie side by side"));
    }
    let absolute = |path: &std::path::Path| crate::plan::absolute(path, "root");
    let text = |name: &std::ffi::OsStr| crate::plan::text(name.as_encoded_bytes(), "root");
    let layers = MappedLayers {
        lowers: lowers.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?,
        above_upper: Some(absolute(above)?),
        users: Arc::clone(&users.namespace),
    };
    let kind = OverlayKind::Root { upper: text(name)?, work: text(work_name)?, volatile };
    let overlay = MappedOverlay { kind, label, form: facts.overlay };
    Ok(Some((Step::CloneLayers(Box::new(layers)), Step::MountLayers(Box::new(overlay)))))
}

/// The same for an image as a volume.
pub(crate) fn image_steps(slot: Slot, layers: ImageLayers, users: &Users) -> (Step, Step) {
    let ImageLayers { lowers, label, form } = layers;
    let layers = MappedLayers { lowers, above_upper: None, users: Arc::clone(&users.namespace) };
    let overlay = MappedOverlay { kind: OverlayKind::Volume(slot), label, form };
    (Step::CloneLayers(Box::new(layers)), Step::MountLayers(Box::new(overlay)))
}

/// One of the six devices that every container has: nothing of the host is behind them.
fn harmless(kind: Kind) -> bool {
    [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)]
        .iter()
        .any(|(major, minor)| kind == Kind::Character(device_number(*major, *minor)))
}

/// Splits the steps of `/dev`: nodes are made by the host's root and bound by the container's.
pub(crate) fn split_nodes(steps: Vec<Step>, map: &IdMap, slots: &mut Slot) -> (Vec<Step>, Vec<Step>) {
    let (mut made, mut bound) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Device { directory, name, node } if matches!(node.kind, Kind::Character(_) | Kind::Block(_)) => {
                let slot = *slots;
                *slots += 1;
                // A device of the host keeps its owner, who is nobody inside: a privileged container gets all of them, and
                // must not thereby own the host's disks.
                let node = match (map.uids.outside_of(node.uid), map.gids.outside_of(node.gid)) {
                    (Some(uid), Some(gid)) if harmless(node.kind) => Node { uid, gid, ..node },
                    _ => node,
                };
                made.push(Step::MakeNode { slot, node });
                bound.push(Step::BindNode { slot, directory, name });
            }
            other => bound.push(other),
        }
    }
    (made, bound)
}

/// From the host's root to the container's.
pub(crate) fn enter(users: &Users, own: Namespaces) -> Vec<Step> {
    let own = own.and(Namespaces::MOUNT);
    let leave = if own.contains(Namespaces::PID) { Step::GoOnIn(own) } else { Step::Unshare(own) };
    vec![Step::EnterUsers(Arc::clone(&users.namespace)), leave, Step::NewSessionKeyring]
}

/// The user namespaces that mounts ask for by their mappings.
#[derive(Debug, Default)]
pub(crate) struct Mappings {
    known: Vec<(IdMap, Namespace)>,
}

impl Mappings {
    /// Most different mappings in one container; a kubelet sends the pod's own with every mount.
    const MAX: usize = 16;

    /// The pod's own needs none made for it.
    pub(crate) fn new(users: Option<&Users>) -> Self {
        Self { known: users.map(|users| (users.map, Arc::clone(&users.namespace))).into_iter().collect() }
    }

    /// `None` for a mount without mappings.
    pub(crate) fn of(&mut self, mount: &Mount) -> Result<Option<Namespace>, OciError> {
        let nothing = Vec::new();
        let (uids, gids) = (mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref());
        let (uids, gids) = match (uids.unwrap_or(&nothing).as_slice(), gids.unwrap_or(&nothing).as_slice()) {
            ([], []) => return Ok(None),
            ([uids], [gids]) => (range(uids), range(gids)),
            _ => return Err(OciError::invalid("mounts.uidMappings, gidMappings: one range each is supported")),
        };
        let map = IdMap { uids, gids };
        if let Some((_, namespace)) = self.known.iter().find(|(known, _)| *known == map) {
            return Ok(Some(Arc::clone(namespace)));
        }
        if self.known.len() >= Self::MAX {
            return Err(OciError::invalid(format!("mounts: more than {} different id mappings", Self::MAX)));
        }
        let namespace = userns::make(&map).during(|| "make a user namespace for a mount's owners".to_owned())?;
        let namespace = Arc::new(namespace);
        self.known.push((map, Arc::clone(&namespace)));
        Ok(Some(namespace))
    }
}

fn range(mapping: &LinuxIdMapping) -> IdRange {
    IdRange { inside: mapping.container_id(), outside: mapping.host_id(), length: mapping.size() }
}
