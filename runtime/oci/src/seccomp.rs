//! System-call filters: from the OCI profile language, or the built-in default, to a program. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall};
use runtime_sys::SysResult;
use runtime_sys::privileges::Capabilities;
use runtime_sys::seccomp::{INSTRUCTIONS_MAX, LoadFlags, Program};

use crate::OciError;
use crate::error::During;

mod allows;
mod assemble;
mod default;
mod multiplexed;
mod names;
mod widths;

pub(crate) use allows::allows;
use widths::{Width, width_of};

/// Most rules of a profile; the largest in the wild has some hundred.
const RULES_MAX: usize = 10_000;

/// Most names in one rule.
const NAMES_MAX: usize = 10_000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Largest error number that the kernel takes in an answer.
const ERRNO_MAX: u32 = 4095;

/// What a filter answers: the kernel's `SECCOMP_RET_*` with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict(u32);

impl Verdict {
    const ALLOW: Self = Self(0x7fff_0000);
    const LOG: Self = Self(0x7ffc_0000);
    const KILL_PROCESS: Self = Self(0x8000_0000);
    const KILL_THREAD: Self = Self(0);
    const TRAP: Self = Self(0x0003_0000);
    const TRACE: u32 = 0x7ff0_0000;
    const ERRNO: u32 = 0x0005_0000;

    const fn errno(errno: u32) -> Self {
        Self(Self::ERRNO | errno)
    }

    /// Whether the call is made.
    fn lets_through(self) -> bool {
        self == Self::ALLOW || self == Self::LOG
    }

    fn is_errno(self) -> bool {
        self.0 & 0xffff_0000 == Self::ERRNO
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// Mask and value.
    Masked(u64, u64),
}

impl Test {
    /// The same where only some of the bits count. A value beyond them is cut as the kernel cuts the argument, but for an
    /// order, where it is beyond them all.
    fn within(self, width: Width) -> Self {
        let mask = width.mask();
        let always = Self::GreaterOrEqual(0);
        let never = Self::Less(0);
        match self {
            Self::Equal(value) => Self::Equal(value & mask),
            Self::NotEqual(value) => Self::NotEqual(value & mask),
            Self::Masked(of, value) => Self::Masked(of & mask, value & mask),
            Self::Less(value) | Self::LessOrEqual(value) if value > mask => always,
            Self::Greater(value) | Self::GreaterOrEqual(value) if value > mask => never,
            other => other,
        }
    }
}

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    /// Which argument, 0 to 5.
    argument: u8,
    test: Test,
    width: Width,
}

/// All conditions hold: the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    verdict: Verdict,
}

/// The rules of each call of one architecture; the first that matches decides.
type Table = BTreeMap<u32, Vec<Rule>>;

/// The number of a call.
fn number_of(names: &[(&str, u32)], name: &str) -> Option<u32> {
    names.binary_search_by_key(&name, |(known, _)| known).ok().map(|place| names[place].1)
}

/// Adds a rule for a name, where the architecture has the call; whether it has.
fn add(table: &mut Table, names: &[(&str, u32)], name: &str, rules: &[Rule]) -> bool {
    let number = number_of(names, name);
    if let Some(number) = number {
        table.entry(number).or_default().extend_from_slice(rules);
    }
    number.is_some()
}

/// A profile, compiled.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) program: Program,
    /// Calls that no architecture here has.
    pub(crate) warning: Option<String>,
}

/// Compiles a profile. Where several rules name a call, the first that matches decides.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Compiled, OciError> {
    let invalid = |what: String| OciError::invalid(format!("linux.seccomp: {what}"));
    let default = verdict(profile.default_action(), profile.default_errno_ret())?;
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    if rules.len() > RULES_MAX {
        return Err(invalid(format!("more than {RULES_MAX} rules")));
    }
    let (mut native, mut compat) = (Table::new(), Table::new());
    let mut noted = multiplexed::Noted::default();
    let mut unknown = BTreeSet::new();
    for rule in rules {
        if rule.names().len() > NAMES_MAX {
            return Err(invalid(format!("more than {NAMES_MAX} names in one rule")));
        }
        let verdict = verdict(rule.action(), rule.errno_ret())?;
        for name in rule.names() {
            let parsed = alternatives(rule, name, verdict)?;
            let known = add(&mut native, names::NATIVE, name, &parsed);
            let known = add(&mut compat, names::COMPAT, name, &parsed) || known;
            if !noted.take(name, &parsed) && !known && !names::is_of_another_machine(name) {
                unknown.insert(name.as_str());
            }
        }
    }
    noted.derive(&mut compat, default);
    let compat = profile.architectures().iter().flatten().any(|arch| *arch == names::COMPAT_ARCH).then_some(compat);
    let program = assemble::program(&native, compat.as_ref(), default, flags(profile))
        .map_err(|_| invalid(format!("has more than {INSTRUCTIONS_MAX} instructions when it is translated")))?;
    Ok(Compiled { program, warning: warning(&unknown) })
}

fn flags(profile: &LinuxSeccomp) -> LoadFlags {
    let mut flags = LoadFlags::default();
    for flag in profile.flags().iter().flatten() {
        match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => flags.log = true,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => flags.speculation_allowed = true,
            // One thread, and nobody who is notified.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync
            | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {}
        }
    }
    flags
}

fn warning(unknown: &BTreeSet<&str>) -> Option<String> {
    /// Names that are told; a profile for another machine would fill the log.
    const TOLD_MAX: usize = 5;
    let told: Vec<String> =
        unknown.iter().take(TOLD_MAX).map(|name| name.chars().take(64).collect::<String>()).collect();
    let more = if unknown.len() > TOLD_MAX { ", …" } else { "" };
    (!told.is_empty()).then(|| {
        format!("{} names of the seccomp profile are no system calls known here: {told:?}{more}", unknown.len())
    })
}

fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Verdict, OciError> {
    let data = errno.unwrap_or(EPERM);
    if data > ERRNO_MAX {
        return Err(OciError::invalid(format!("linux.seccomp: error number {data} is above {ERRNO_MAX}")));
    }
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => Verdict::ALLOW,
        LinuxSeccompAction::ScmpActErrno => Verdict::errno(data),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Verdict::KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => Verdict::KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => Verdict::TRAP,
        LinuxSeccompAction::ScmpActTrace => Verdict(Verdict::TRACE | data),
        LinuxSeccompAction::ScmpActLog => Verdict::LOG,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(OciError::invalid("linux.seccomp: SCMP_ACT_NOTIFY isn't supported"));
        }
    })
}

/// One rule, or several: two conditions on one argument are alternatives, as runc has it.
fn alternatives(rule: &LinuxSyscall, name: &str, verdict: Verdict) -> Result<Vec<Rule>, OciError> {
    let mut conditions = Vec::new();
    for arg in rule.args().iter().flatten() {
        let argument = u8::try_from(arg.index()).ok().filter(|index| *index < 6);
        let argument = argument.ok_or_else(|| {
            OciError::invalid(format!("linux.seccomp: {name}: a call has six arguments, not {}", arg.index()))
        })?;
        let value = arg.value();
        let width = width_of(name, argument);
        let test = match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => Test::Equal(value),
            LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(value),
            LinuxSeccompOperator::ScmpCmpLt => Test::Less(value),
            LinuxSeccompOperator::ScmpCmpLe => Test::LessOrEqual(value),
            LinuxSeccompOperator::ScmpCmpGt => Test::Greater(value),
            LinuxSeccompOperator::ScmpCmpGe => Test::GreaterOrEqual(value),
            LinuxSeccompOperator::ScmpCmpMaskedEq => Test::Masked(value, arg.value_two().unwrap_or(0)),
        };
        conditions.push(Condition { argument, test: test.within(width), width });
    }
    let twice = conditions
        .iter()
        .enumerate()
        .any(|(place, one)| conditions.iter().skip(place + 1).any(|other| other.argument == one.argument));
    if twice {
        return Ok(conditions.into_iter().map(|condition| Rule { conditions: vec![condition], verdict }).collect());
    }
    Ok(vec![Rule { conditions, verdict }])
}

/// The built-in profile for a bounding set, compiled once for each.
pub(crate) fn runtime_default(bounding: Capabilities) -> Result<Arc<Program>, OciError> {
    /// A pod's containers rarely differ in their capabilities.
    const CACHED_MAX: usize = 16;
    static CACHE: Mutex<Vec<(Capabilities, Arc<Program>)>> = Mutex::new(Vec::new());
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, program)) = cache.iter().find(|(known, _)| *known == bounding) {
        return Ok(Arc::clone(program));
    }
    let (native, compat) = default::tables(bounding);
    let program = assemble::program(&native, Some(&compat), Verdict::errno(EPERM), LoadFlags::default());
    let program = Arc::new(program.during(|| "compile the default system-call filter".to_owned())?);
    if cache.len() == CACHED_MAX {
        cache.remove(0);
    }
    cache.push((bounding, Arc::clone(&program)));
    Ok(program)
}

/// What the pause process still calls.
pub(crate) fn pause() -> SysResult<Program> {
    let allow = [Rule { conditions: Vec::new(), verdict: Verdict::ALLOW }];
    let mut table = Table::new();
    for name in ["rt_sigtimedwait", "rt_sigreturn", "restart_syscall", "wait4", "exit", "exit_group"] {
        add(&mut table, names::NATIVE, name, &allow);
    }
    assemble::program(&table, None, Verdict::KILL_PROCESS, LoadFlags::default())
}

#[cfg(test)]
mod tests;
