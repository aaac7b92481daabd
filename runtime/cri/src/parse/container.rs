//! A container's configuration.

use std::path::PathBuf;

use runtime_cri_api::v1::{
    self, LinuxContainerResources, LinuxContainerSecurityContext, SecurityProfile, security_profile::ProfileType,
};
use runtime_lifecycle::{
    AppArmorChoice, CapabilityChange, ContainerConfig, HugepageLimit, ImageName, Privilege, Resources, SeccompChoice,
    Security, SelinuxLabel, Stdin, SupplementalGroupsPolicy, Terminal, User,
};
use tonic::Status;

use super::{
    absolute, id, known, map,
    mount::{cdi_devices, device, mount, variable},
    name, plain,
    sandbox::pid,
    signal, text, texts,
    userns::user_mode,
};
use crate::error::invalid;

pub(crate) fn container_config(config: Option<v1::ContainerConfig>) -> Result<ContainerConfig, Status> {
    let config = config.ok_or_else(|| invalid("config", "is missing"))?;
    let metadata = config.metadata.ok_or_else(|| invalid("metadata", "is missing"))?;
    let image = config.image.ok_or_else(|| invalid("image", "is missing"))?;
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
        cdi_devices: cdi_devices(config.cdi_devices)?,
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

/// Limits.
pub(crate) fn resources(resources: LinuxContainerResources) -> Result<Resources, Status> {
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
    let asked = context.namespace_options.as_ref().map(pid).transpose()?;
    let groups = context.supplemental_groups.into_iter().map(|group| id("supplemental_groups", group));
    let capabilities = context.capabilities.unwrap_or_default();
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
        pid: asked.as_ref().map(|(pid, _)| *pid),
        pid_target: asked.and_then(|(_, target)| target),
        user_mode: context
            .namespace_options
            .as_ref()
            .filter(|options| options.userns_options.is_some())
            .map(user_mode)
            .transpose()?,
        #[expect(deprecated, reason = "older clients know only the name")]
        apparmor: apparmor(context.apparmor, context.apparmor_profile)?,
        selinux: context.selinux_options.map(selinux).transpose()?,
    })
}

fn seccomp(profile: Option<SecurityProfile>, path: String) -> Result<SeccompChoice, Status> {
    let localhost = |path: &str| match path {
        "" => Err(invalid("seccomp", "a localhost profile without a path")),
        path => Ok(SeccompChoice::Localhost(absolute("seccomp", path.to_owned())?.unwrap_or_default())),
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

/// The newer field counts where both are there. A name may have `localhost/` in front, in either.
fn apparmor(profile: Option<SecurityProfile>, name: String) -> Result<AppArmorChoice, Status> {
    let localhost = |name: &str| match name.strip_prefix("localhost/").unwrap_or(name) {
        "" => Err(invalid("apparmor", "a localhost profile without a name")),
        name => Ok(AppArmorChoice::Localhost(plain("apparmor", name.to_owned())?)),
    };
    match profile {
        Some(profile) => match known("apparmor.profile_type", profile.profile_type)? {
            ProfileType::RuntimeDefault => Ok(AppArmorChoice::RuntimeDefault),
            ProfileType::Unconfined => Ok(AppArmorChoice::Unconfined),
            ProfileType::Localhost => localhost(&profile.localhost_ref),
        },
        None => match name.as_str() {
            "" | "runtime/default" => Ok(AppArmorChoice::RuntimeDefault),
            "unconfined" => Ok(AppArmorChoice::Unconfined),
            name if name.starts_with("localhost/") => localhost(name),
            name => Err(invalid("apparmor_profile", format!("{name:?} is not known"))),
        },
    }
}

fn selinux(label: v1::SeLinuxOption) -> Result<SelinuxLabel, Status> {
    Ok(SelinuxLabel {
        user: plain("selinux_options.user", label.user)?,
        role: plain("selinux_options.role", label.role)?,
        kind: plain("selinux_options.type", label.r#type)?,
        level: plain("selinux_options.level", label.level)?,
    })
}
