//! A container's configuration.

use std::path::PathBuf;

use runtime_cri_api::v1::{
    self, LinuxContainerResources, LinuxContainerSecurityContext, MountPropagation, SecurityProfile,
    security_profile::ProfileType,
};
use runtime_lifecycle::{
    CapabilityChange, ContainerConfig, Device, EnvironmentVariable, HugepageLimit, ImageName, Mount, Privilege,
    Propagation, ReadOnly, Resources, SeccompChoice, Security, Stdin, SupplementalGroupsPolicy, Terminal, User,
};
use tonic::Status;

use super::{id, known, map, name, plain, sandbox::pid, signal, text, texts};
use crate::error::invalid;

pub(crate) fn container_config(config: Option<v1::ContainerConfig>) -> Result<ContainerConfig, Status> {
    let config = config.ok_or_else(|| invalid("config", "is missing"))?;
    let metadata = config.metadata.ok_or_else(|| invalid("metadata", "is missing"))?;
    let image = config.image.ok_or_else(|| invalid("image", "is missing"))?;
    if !config.cdi_devices.is_empty() {
        return Err(invalid("CDI_devices", "are not supported"));
    }
    let linux = config.linux.unwrap_or_default();
    let stdin = match (config.stdin, config.stdin_once) {
        (false, _) => Stdin::Closed,
        (true, false) => Stdin::Open,
        (true, true) => Stdin::Once,
    };
    Ok(ContainerConfig {
        name: name("metadata.name", metadata.name)?,
        attempt: metadata.attempt,
        image: ImageName {
            image: name("image.image", image.image)?,
            user_specified: text("image.user_specified_image", image.user_specified_image)?,
            annotations: map("image.annotations", image.annotations)?,
        },
        command: texts("command", config.command)?,
        args: texts("args", config.args)?,
        working_dir: text("working_dir", config.working_dir)?,
        envs: config.envs.into_iter().map(variable).collect::<Result<_, Status>>()?,
        mounts: config.mounts.into_iter().map(mount).collect::<Result<_, Status>>()?,
        devices: config.devices.into_iter().map(device).collect::<Result<_, Status>>()?,
        labels: map("labels", config.labels)?,
        annotations: map("annotations", config.annotations)?,
        log_path: PathBuf::from(plain("log_path", config.log_path)?),
        stdin,
        terminal: if config.tty { Terminal::Yes } else { Terminal::No },
        resources: resources(linux.resources.unwrap_or_default())?,
        security: security(linux.security_context.unwrap_or_default())?,
        stop_signal: signal::number(config.stop_signal)?,
    })
}

fn variable(variable: v1::KeyValue) -> Result<EnvironmentVariable, Status> {
    let name = text("envs", variable.key)?;
    let value = String::from_utf8(variable.value)
        .map_err(|_| invalid(&format!("envs: {name}"), "values that are not UTF-8 are not supported"))?;
    Ok(EnvironmentVariable { value: text("envs", value)?, name })
}

fn mount(mount: v1::Mount) -> Result<Mount, Status> {
    let refused =
        |what: &str| Err(invalid(&format!("mount {:?}", mount.container_path), format!("{what} are not supported")));
    if mount.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
        return refused("image volumes");
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return refused("id mappings");
    }
    if !mount.mount_options.is_empty() {
        return refused("mount options");
    }
    let read_only = match (mount.readonly, mount.recursive_read_only) {
        (false, false) => ReadOnly::No,
        (true, false) => ReadOnly::Yes,
        (true, true) => ReadOnly::Recursive,
        (false, true) => return Err(invalid("mount", "recursive_read_only needs readonly")),
    };
    Ok(Mount {
        container_path: plain("mount.container_path", mount.container_path)?,
        host_path: plain("mount.host_path", mount.host_path)?,
        read_only,
        propagation: match known("mount.propagation", mount.propagation)? {
            MountPropagation::PropagationPrivate => Propagation::Private,
            MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
            MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
        },
    })
}

fn device(device: v1::Device) -> Result<Device, Status> {
    Ok(Device {
        container_path: plain("device.container_path", device.container_path)?,
        host_path: plain("device.host_path", device.host_path)?,
        permissions: text("device.permissions", device.permissions)?,
    })
}

/// Limits.
fn resources(resources: LinuxContainerResources) -> Result<Resources, Status> {
    Ok(Resources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_bytes: resources.memory_limit_in_bytes,
        memory_swap_limit_bytes: resources.memory_swap_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: text("cpuset_cpus", resources.cpuset_cpus)?,
        cpuset_mems: text("cpuset_mems", resources.cpuset_mems)?,
        hugepage_limits: resources
            .hugepage_limits
            .into_iter()
            // Kubelets send all sizes, those without a limit as 0.
            .map(|limit| {
                Ok(HugepageLimit { page_size: text("hugepage_limits", limit.page_size)?, limit_bytes: limit.limit })
            })
            .collect::<Result<_, Status>>()?,
        unified: map("unified", resources.unified)?,
    })
}

fn security(context: LinuxContainerSecurityContext) -> Result<Security, Status> {
    let user = match (context.run_as_user, context.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => {
            return Err(invalid("security_context", "run_as_user and run_as_username exclude each other"));
        }
        (Some(value), _) => Some(User::Id(id("run_as_user", value.value)?)),
        (None, "") => None,
        (None, name) => Some(User::Name(text("run_as_username", name.to_owned())?)),
    };
    let groups = context.supplemental_groups.into_iter().map(|group| id("supplemental_groups", group));
    let capabilities = context.capabilities.unwrap_or_default();
    check_apparmor(context.apparmor.as_ref(), context.privileged)?;
    let listed = |what: &str, paths: Vec<String>| {
        let paths = texts(what, paths)?;
        // On the wire, no list and an empty one are the same.
        Ok::<_, Status>(Some(paths).filter(|paths| !paths.is_empty()))
    };
    Ok(Security {
        privilege: if context.privileged { Privilege::Privileged } else { Privilege::Confined },
        capabilities: CapabilityChange {
            add: texts("add_capabilities", capabilities.add_capabilities)?,
            drop: texts("drop_capabilities", capabilities.drop_capabilities)?,
            ambient: texts("add_ambient_capabilities", capabilities.add_ambient_capabilities)?,
        },
        user,
        group: context.run_as_group.map(|value| id("run_as_group", value.value)).transpose()?,
        supplemental_groups: groups.collect::<Result<_, Status>>()?,
        supplemental_groups_policy: match known("supplemental_groups_policy", context.supplemental_groups_policy)? {
            v1::SupplementalGroupsPolicy::Merge => SupplementalGroupsPolicy::Merge,
            v1::SupplementalGroupsPolicy::Strict => SupplementalGroupsPolicy::Strict,
        },
        read_only_root: context.readonly_rootfs,
        no_new_privileges: context.no_new_privs,
        masked_paths: listed("masked_paths", context.masked_paths)?,
        readonly_paths: listed("readonly_paths", context.readonly_paths)?,
        #[expect(deprecated, reason = "older clients know only the path")]
        seccomp: seccomp(context.seccomp, context.seccomp_profile_path)?,
        pid: context.namespace_options.map(|options| pid(options.pid)).transpose()?,
    })
}

fn seccomp(profile: Option<SecurityProfile>, path: String) -> Result<SeccompChoice, Status> {
    let localhost = |path: &str| match path {
        "" => Err(invalid("seccomp", "a localhost profile without a path")),
        path => Ok(SeccompChoice::Localhost(PathBuf::from(text("seccomp", path.to_owned())?))),
    };
    match profile {
        Some(profile) => match known("seccomp.profile_type", profile.profile_type)? {
            ProfileType::RuntimeDefault => Ok(SeccompChoice::RuntimeDefault),
            ProfileType::Unconfined => Ok(SeccompChoice::Unconfined),
            ProfileType::Localhost => localhost(profile.localhost_ref.trim_start_matches("localhost/")),
        },
        None => match path.as_str() {
            "" | "unconfined" => Ok(SeccompChoice::Unconfined),
            "runtime/default" | "docker/default" => Ok(SeccompChoice::RuntimeDefault),
            path => match path.strip_prefix("localhost/") {
                Some(path) => localhost(path),
                None => Err(invalid("seccomp_profile_path", format!("{path:?} is not known"))),
            },
        },
    }
}

/// No AppArmor here: the default is what there is, a profile of the host can't be had.
fn check_apparmor(profile: Option<&SecurityProfile>, privileged: bool) -> Result<(), Status> {
    let Some(profile) = profile else { return Ok(()) };
    match known("apparmor.profile_type", profile.profile_type)? {
        ProfileType::Localhost if !privileged => {
            Err(invalid("apparmor", format!("profile {:?}: AppArmor is not supported", profile.localhost_ref)))
        }
        ProfileType::Localhost | ProfileType::RuntimeDefault | ProfileType::Unconfined => Ok(()),
    }
}
