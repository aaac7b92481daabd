//! A seccomp profile of the host (CRI's `Localhost`), from its file to the runtime specification's form.
//!
//! Profiles are written for several runtimes, so two forms are read: the runtime specification's, and the one that Docker
//! and CRI-O ship their own in, where a rule also says for which capabilities, architectures and kernels it is meant
//! (`includes`, `excludes`) and `archMap` names the sub-architectures of each machine. Both are strict: a misspelt action is
//! an error, and an empty file is no profile (CVE-2023-2431).

use std::{collections::HashSet, io::Read as _, path::Path};

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSyscall,
};
use runtime_lifecycle::{Privilege, SeccompChoice, Security};
use runtime_sys::fs::{Kind, Open, fstat, open};
use runtime_wire::Seccomp;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{EngineError, spec};

/// Largest profile, in bytes; Docker's default has 15 kB.
const PROFILE_BYTES_MAX: u64 = 1024 * 1024;

/// This machine, in the words of the specification and of Go.
#[cfg(target_arch = "x86_64")]
const NATIVE: (Arch, &str) = (Arch::ScmpArchX86_64, "amd64");
#[cfg(target_arch = "aarch64")]
const NATIVE: (Arch, &str) = (Arch::ScmpArchAarch64, "arm64");

/// What a rule may depend on.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// The container's bounding set.
    pub(crate) bounding: &'a Capabilities,
    /// The running kernel.
    pub(crate) kernel: (u32, u32),
}

/// Which filter a container gets. A privileged one gets none, as CRI says.
pub(crate) fn choose(
    security: &Security,
    available: &HashSet<Capability>,
) -> Result<(Seccomp, Option<LinuxSeccomp>), EngineError> {
    match &security.seccomp {
        _ if security.privilege == Privilege::Privileged => Ok((Seccomp::Unconfined, None)),
        SeccompChoice::Unconfined => Ok((Seccomp::Unconfined, None)),
        SeccompChoice::RuntimeDefault => Ok((Seccomp::RuntimeDefault, None)),
        SeccompChoice::Localhost(path) => {
            let bounding = spec::all_capabilities(security, available)?.bounding().clone().unwrap_or_default();
            let facts = Facts { bounding: &bounding, kernel: runtime_sys::features::kernel_version() };
            Ok((Seccomp::Spec, Some(read(path, &facts)?)))
        }
    }
}

/// Reads and resolves the profile at `path`, which the kubelet chose.
pub(crate) fn read(path: &Path, facts: &Facts<'_>) -> Result<LinuxSeccomp, EngineError> {
    let wrong = |why: String| EngineError::invalid(format!("seccomp profile {path:?}"), why);
    // A FIFO must not hold this up, a terminal not become ours.
    let file = open(path, Open::READ | Open::NON_BLOCK, 0).map_err(|error| wrong(error.cause()))?;
    let metadata = fstat(&file).map_err(|error| wrong(error.cause()))?;
    if metadata.kind != Kind::Regular {
        return Err(wrong("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(PROFILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(error.to_string()))?;
    match u64::try_from(bytes.len()) {
        Ok(0) => Err(wrong("is empty".to_owned())),
        Ok(length) if length <= PROFILE_BYTES_MAX => resolve(&bytes, facts).map_err(wrong),
        _ => Err(wrong(format!("has more than {PROFILE_BYTES_MAX} bytes"))),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

fn resolve(bytes: &[u8], facts: &Facts<'_>) -> Result<LinuxSeccomp, String> {
    let profile: Profile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if profile.listener_path.is_some_and(|path| !path.is_empty()) {
        return Err("listenerPath: an agent that is notified can't be reached from a container of CRI".to_owned());
    }
    let mut rules = Vec::new();
    for (place, rule) in profile.syscalls.unwrap_or_default().into_iter().enumerate() {
        rules.extend(rule.resolve(facts).map_err(|why| format!("syscalls[{place}]: {why}"))?);
    }
    if rules.iter().map(LinuxSyscall::action).chain([profile.default_action]).any(is_notify) {
        return Err("SCMP_ACT_NOTIFY needs an agent, which can't be reached from a container of CRI".to_owned());
    }
    let mut resolved = LinuxSeccomp::default();
    resolved
        .set_default_action(profile.default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures(architectures(profile.architectures, profile.arch_map)?)
        .set_flags(Some(words::<LinuxSeccompFilterFlag>("flags", profile.flags)?).filter(|flags| !flags.is_empty()))
        .set_syscalls(Some(rules));
    Ok(resolved)
}

fn is_notify(action: LinuxSeccompAction) -> bool {
    action == LinuxSeccompAction::ScmpActNotify
}

fn architectures(listed: Option<Vec<String>>, mapped: Option<Vec<ArchMap>>) -> Result<Option<Vec<Arch>>, String> {
    let (listed, mapped) = (listed.unwrap_or_default(), mapped.unwrap_or_default());
    if !listed.is_empty() && !mapped.is_empty() {
        return Err("architectures and archMap exclude each other".to_owned());
    }
    let mut all = words::<Arch>("architectures", Some(listed))?;
    for map in mapped {
        if words::<Arch>("archMap", Some(vec![map.architecture]))?.contains(&NATIVE.0) {
            all.push(NATIVE.0);
            all.extend(words::<Arch>("archMap", map.sub_architectures)?);
        }
    }
    Ok(Some(all).filter(|all| !all.is_empty()))
}

/// Words of the specification.
fn words<T: DeserializeOwned>(field: &str, words: Option<Vec<String>>) -> Result<Vec<T>, String> {
    let known = |word: String| {
        serde_json::from_value(serde_json::Value::String(word.clone()))
            .map_err(|_| format!("{field}: {word:?} is not known"))
    };
    words.unwrap_or_default().into_iter().map(known).collect()
}

impl Rule {
    /// `None` where it isn't meant for this container.
    fn resolve(self, facts: &Facts<'_>) -> Result<Option<LinuxSyscall>, String> {
        let names = match (self.name, self.names.unwrap_or_default()) {
            (name, names) if name.is_empty() => names,
            (name, names) if names.is_empty() => vec![name],
            _ => return Err("name and names exclude each other".to_owned()),
        };
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err("has no name".to_owned());
        }
        let excluded = match &self.excludes {
            Some(condition) => condition.any(facts)?,
            None => false,
        };
        let included = match &self.includes {
            Some(condition) => condition.all(facts)?,
            None => true,
        };
        if excluded || !included {
            return Ok(None);
        }
        let mut rule = LinuxSyscall::default();
        rule.set_names(names)
            .set_action(self.action)
            .set_errno_ret(self.errno_ret)
            .set_args(self.args.filter(|args| !args.is_empty()));
        Ok(Some(rule))
    }
}

impl Condition {
    /// Whether one of what is named is so.
    fn any(&self, facts: &Facts<'_>) -> Result<bool, String> {
        let arch = self.arches.iter().flatten().any(|arch| arch == NATIVE.1);
        let mut cap = false;
        for name in self.caps.iter().flatten() {
            cap |= has(name, facts);
        }
        Ok(arch || cap || self.kernel(facts)?.unwrap_or(false))
    }

    /// Whether all of what is named is so.
    fn all(&self, facts: &Facts<'_>) -> Result<bool, String> {
        let arches = self.arches.as_deref().unwrap_or_default();
        let arch = arches.is_empty() || arches.iter().any(|arch| arch == NATIVE.1);
        Ok(arch && self.caps.iter().flatten().all(|name| has(name, facts)) && self.kernel(facts)?.unwrap_or(true))
    }

    /// Whether the kernel is new enough; `None` where nothing is said.
    fn kernel(&self, facts: &Facts<'_>) -> Result<Option<bool>, String> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let version = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let version: (u32, u32) = version.ok_or_else(|| format!("minKernel: {text:?} is not a version such as 4.8"))?;
        Ok(Some(facts.kernel >= version))
    }
}

/// A capability that this build doesn't know isn't held.
fn has(name: &str, facts: &Facts<'_>) -> bool {
    let plain = name.strip_prefix("CAP_").unwrap_or(name);
    plain.parse().is_ok_and(|capability| facts.bounding.contains(&capability))
}

#[cfg(test)]
mod tests;
