//! `securityContext` of the pod and of its containers.

use std::collections::BTreeMap;

use crate::{
    pod::{Capabilities, RunsAs, SeccompProfile, SecurityContext},
    tree::{Fields, Value},
};

/// Largest user or group number that Kubernetes takes.
const ID_MAX: i64 = i32::MAX as i64;

const LATER: &str = "Podwright doesn't do this yet";
const LINUX: &str = "the host runs Linux; remove it";

/// The pod's part: what containers inherit and what is the sandbox's own.
#[derive(Debug, Default)]
pub(super) struct PodSecurity {
    pub(super) inherited: SecurityContext,
    pub(super) supplemental_groups: Vec<i64>,
    pub(super) sysctls: BTreeMap<String, String>,
}

pub(super) fn pod(value: Option<Value<'_>>) -> PodSecurity {
    let Some(mut fields) = value.and_then(|value| value.fields()) else { return PodSecurity::default() };
    let inherited = SecurityContext {
        runs_as: runs_as(&mut fields, &RunsAs::default()),
        seccomp: seccomp(&mut fields, SeccompProfile::default()),
        ..SecurityContext::default()
    };
    let groups = fields.take("supplementalGroups").map(|value| value.list()).unwrap_or_default();
    let supplemental_groups = groups.iter().filter_map(|item| item.integer(0, ID_MAX)).collect();
    let mut sysctls = BTreeMap::new();
    for item in fields.take("sysctls").iter().flat_map(|value| value.list()) {
        let Some(mut entry) = item.fields() else { continue };
        let name = entry.need("name").and_then(|value| value.text().map(str::to_owned));
        let value = entry.need("value").and_then(|value| value.text().map(str::to_owned));
        entry.finish(&[]);
        sysctls.extend(name.zip(value));
    }
    fields.finish(&[
        ("fsGroup", "volumes keep the owner that they have; let the image's user own them (fsGroup comes later)"),
        ("fsGroupChangePolicy", LATER),
        ("supplementalGroupsPolicy", LATER),
        ("seLinuxOptions", LATER),
        ("seLinuxChangePolicy", LATER),
        ("appArmorProfile", LATER),
        ("windowsOptions", LINUX),
    ]);
    PodSecurity { inherited, supplemental_groups, sysctls }
}

pub(super) fn container(value: Option<Value<'_>>, pod: &SecurityContext) -> SecurityContext {
    let Some(value) = value else { return pod.clone() };
    let Some(mut fields) = value.fields() else { return pod.clone() };
    let privileged = super::flag(&mut fields, "privileged");
    let escalation = fields.take("allowPrivilegeEscalation").and_then(|value| value.boolean());
    let context = SecurityContext {
        runs_as: runs_as(&mut fields, &pod.runs_as),
        privileged,
        read_only_root: super::flag(&mut fields, "readOnlyRootFilesystem"),
        no_new_privileges: escalation == Some(false),
        capabilities: fields.take("capabilities").map(|value| capabilities(&value)).unwrap_or_default(),
        seccomp: seccomp(&mut fields, pod.seccomp),
    };
    if context.no_new_privileges && (privileged || context.capabilities.add.iter().any(|name| name == "SYS_ADMIN")) {
        value.wrong("allowPrivilegeEscalation: false contradicts privileged or SYS_ADMIN");
    }
    if context.runs_as.non_root && context.runs_as.user == Some(0) {
        value.wrong("runAsNonRoot: true contradicts runAsUser: 0");
    }
    if let Some(mount) = fields.take("procMount").filter(|mount| mount.text().is_some_and(|text| text != "Default")) {
        mount.wrong("only `Default` is supported");
    }
    fields.finish(&[("seLinuxOptions", LATER), ("appArmorProfile", LATER), ("windowsOptions", LINUX)]);
    context
}

fn runs_as(fields: &mut Fields<'_>, above: &RunsAs) -> RunsAs {
    let user = fields.take("runAsUser").and_then(|value| value.integer(0, ID_MAX));
    let group = fields.take("runAsGroup").and_then(|value| value.integer(0, ID_MAX));
    let non_root = fields.take("runAsNonRoot").and_then(|value| value.boolean());
    RunsAs { user: user.or(above.user), group: group.or(above.group), non_root: non_root.unwrap_or(above.non_root) }
}

fn seccomp(fields: &mut Fields<'_>, above: SeccompProfile) -> SeccompProfile {
    let Some(mut profile) = fields.take("seccompProfile").and_then(|value| value.fields()) else { return above };
    let kind = profile.need("type");
    // An unknown profile must never come to mean none (CVE-2023-2431).
    let found = match kind.as_ref().and_then(|value| value.text()) {
        Some("Localhost") => {
            profile.value.wrong("profiles of type Localhost are not supported yet; use RuntimeDefault");
            None
        }
        Some(_) => kind.and_then(|value| {
            value
                .word(&[("RuntimeDefault", SeccompProfile::RuntimeDefault), ("Unconfined", SeccompProfile::Unconfined)])
        }),
        None => None,
    };
    profile.take("localhostProfile");
    profile.finish(&[]);
    found.unwrap_or(above)
}

fn capabilities(value: &Value<'_>) -> Capabilities {
    let Some(mut fields) = value.fields() else { return Capabilities::default() };
    let add = names(fields.take("add"));
    let drop = names(fields.take("drop"));
    fields.finish(&[]);
    Capabilities { add, drop }
}

fn names(value: Option<Value<'_>>) -> Vec<String> {
    let mut names = Vec::new();
    for item in value.iter().flat_map(|value| value.list()) {
        let Some(text) = item.text() else { continue };
        let name = text.strip_prefix("CAP_").unwrap_or(text);
        if !name.is_empty() && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
            names.push(name.to_owned());
        } else {
            item.wrong("is not a capability; they are written like NET_BIND_SERVICE");
        }
    }
    names
}
