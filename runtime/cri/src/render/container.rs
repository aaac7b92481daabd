//! Containers.

use std::collections::HashMap;

use images_service::Image;
use runtime_cri_api::v1::{
    Container, ContainerMetadata, ContainerResources, ContainerState, ContainerStatus, ContainerUser, HugepageLimit,
    ImageSpec, LinuxContainerResources, LinuxContainerUser, Mount, MountPropagation,
};
use runtime_lifecycle::{
    self as lifecycle, ContainerRecord, ImageName, Propagation, ReadOnly, Resources, StateFilter, Stdin, Terminal,
    Timestamp,
};

use super::{map, sandbox::range};
use crate::parse::signal_name;

fn metadata(record: &ContainerRecord) -> ContainerMetadata {
    ContainerMetadata { name: record.config.name.clone(), attempt: record.config.attempt }
}

fn state(record: &ContainerRecord) -> ContainerState {
    match StateFilter::of_container(&record.state) {
        StateFilter::Created => ContainerState::ContainerCreated,
        StateFilter::Running => ContainerState::ContainerRunning,
        StateFilter::Exited => ContainerState::ContainerExited,
        StateFilter::Ready | StateFilter::NotReady | StateFilter::Unknown => ContainerState::ContainerUnknown,
    }
}

fn spec(name: &ImageName) -> ImageSpec {
    ImageSpec {
        image: name.image.clone(),
        annotations: map(&name.annotations),
        user_specified_image: name.user_specified.clone(),
        ..ImageSpec::default()
    }
}

/// For lists.
pub(crate) fn container(record: &ContainerRecord) -> Container {
    Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.sandbox.to_string(),
        metadata: Some(metadata(record)),
        image: Some(spec(&record.config.image)),
        image_ref: record.image_id.clone(),
        state: state(record).into(),
        created_at: record.created_at.0,
        labels: map(&record.config.labels),
        annotations: map(&record.config.annotations),
        image_id: record.image_id.clone(),
    }
}

/// In full. `image`, if it is still in the store, says by which digest it is known at its registry; `volumes` are the
/// references of the images that are its volumes.
pub(crate) fn container_status(record: &ContainerRecord, image: Option<&Image>, volumes: &[String]) -> ContainerStatus {
    let at = |time: Timestamp| time.0;
    let (started_at, finished_at, exit) = match &record.state {
        lifecycle::ContainerState::Creating
        | lifecycle::ContainerState::Created
        | lifecycle::ContainerState::Starting => (0, 0, None),
        lifecycle::ContainerState::Running { since, .. } | lifecycle::ContainerState::Stopping { since, .. } => {
            (at(*since), 0, None)
        }
        lifecycle::ContainerState::Exited { exit, since, until } => (since.map_or(0, at), at(*until), Some(exit)),
    };
    let digest = image.and_then(|image| image.repo_digests.first().cloned());
    let tags = image.map_or(&[][..], |image| &image.repo_tags);
    ContainerStatus {
        id: record.id.to_string(),
        metadata: Some(metadata(record)),
        state: state(record).into(),
        created_at: record.created_at.0,
        started_at,
        finished_at,
        exit_code: exit.map_or(0, |exit| exit.code),
        image: Some(ImageSpec { image: known_as(&record.config.image, tags), ..spec(&record.config.image) }),
        image_ref: digest.unwrap_or_else(|| record.image_id.clone()),
        reason: exit.map_or_else(String::new, |exit| exit.reason.as_str().to_owned()),
        message: exit.map_or_else(String::new, |exit| exit.message.clone()),
        labels: map(&record.config.labels),
        annotations: map(&record.config.annotations),
        mounts: mounts(&record.config.mounts, volumes),
        log_path: record.log.to_string_lossy().into_owned(),
        resources: Some(ContainerResources { linux: Some(resources(record.resources())), windows: None }),
        image_id: record.image_id.clone(),
        user: Some(ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: record.uid.into(),
                gid: record.gid.into(),
                supplemental_groups: record.groups.iter().map(|group| i64::from(*group)).collect(),
            }),
        }),
        stop_signal: signal_name(record.stop_signal).into(),
    }
}

/// An image's name for people: a kubelet creates a container by the image's id and shows what the status says. The name
/// that was asked for, where the image has several.
fn known_as(asked: &ImageName, tags: &[String]) -> String {
    let wanted = if asked.user_specified.is_empty() { &asked.image } else { &asked.user_specified };
    let (short, latest) = (format!("/{wanted}"), format!("/{wanted}:latest"));
    let same = |tag: &&String| *tag == wanted || tag.ends_with(&short) || tag.ends_with(&latest);
    tags.iter().find(same).or(tags.first()).unwrap_or(&asked.image).clone()
}

fn mounts(mounts: &[lifecycle::Mount], volumes: &[String]) -> Vec<Mount> {
    let mut volumes = volumes.iter();
    let all = mounts.iter().map(|one| {
        let image = one.image.as_ref().map(|asked| ImageSpec {
            image: asked.image.clone(),
            image_ref: volumes.next().cloned().unwrap_or_default(),
            ..ImageSpec::default()
        });
        Mount { image, ..mount(one) }
    });
    all.collect()
}

fn mount(mount: &lifecycle::Mount) -> Mount {
    let propagation = match mount.propagation {
        Propagation::Private => MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => MountPropagation::PropagationBidirectional,
    };
    Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.read_only != ReadOnly::No,
        propagation: propagation.into(),
        recursive_read_only: mount.read_only == ReadOnly::Recursive,
        image_sub_path: mount.image.as_ref().map_or_else(String::new, |image| image.sub_path.clone()),
        mount_options: mount.options.clone(),
        uid_mappings: mount.id_mappings.map(|mappings| range(mappings.uids)).unwrap_or_default(),
        gid_mappings: mount.id_mappings.map(|mappings| range(mappings.gids)).unwrap_or_default(),
        ..Mount::default()
    }
}

pub(super) fn resources(resources: &Resources) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|limit| HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit_bytes })
            .collect(),
        unified: map(&resources.unified),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_bytes,
    }
}

/// For `inspect`. Arguments and environment are left out: they are where secrets are.
pub(crate) fn container_verbose(record: &ContainerRecord) -> HashMap<String, String> {
    let info = serde_json::json!({
        "sandboxID": record.sandbox.as_str(),
        "pid": record.state.process().map_or(0, |process| process.pid),
        "state": record.state.name(),
        "cgroup": record.cgroup,
        // Where containerd has it: a client that attaches must know whether to make its own terminal raw.
        "config": {
            "tty": record.config.terminal == Terminal::Yes,
            "stdin": record.config.stdin != Stdin::Closed,
            "stdin_once": record.config.stdin == Stdin::Once,
        },
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_shown_by_a_name_that_people_know() {
        let tags = ["docker.io/library/nginx:1.14.2".to_owned(), "docker.io/library/nginx:latest".to_owned()];
        let shown = |user_specified: &str, tags: &[String]| {
            let asked = ImageName {
                image: "sha256:0123".into(),
                user_specified: user_specified.into(),
                ..ImageName::default()
            };
            known_as(&asked, tags)
        };
        assert_eq!(shown("nginx:1.14.2", &tags), tags[0]);
        assert_eq!(shown("nginx", &tags), tags[1]);
        assert_eq!(shown("docker.io/library/nginx:latest", &tags), tags[1]);
        assert_eq!(shown("", &tags), tags[0]);
        // Its names were taken away since.
        assert_eq!(shown("nginx", &[]), "sha256:0123");
    }
}
