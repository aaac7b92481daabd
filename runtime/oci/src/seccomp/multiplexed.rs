//! i386's `socketcall` and `ipc`: one number for many calls, whose arguments lie in memory where a filter can't see them.
//! What a profile says of `socket` must hold for `socketcall(1, …)` as well, or it would be a way around it.

use std::collections::BTreeMap;

use super::widths::width_of;
use super::{Condition, EPERM, Rule, Table, Test, Verdict, number_of};

/// The call, the one that it goes through, and its number there.
const CALLS: [(&str, &str, u64); 32] = [
    ("socket", "socketcall", 1),
    ("bind", "socketcall", 2),
    ("connect", "socketcall", 3),
    ("listen", "socketcall", 4),
    ("accept", "socketcall", 5),
    ("getsockname", "socketcall", 6),
    ("getpeername", "socketcall", 7),
    ("socketpair", "socketcall", 8),
    ("send", "socketcall", 9),
    ("recv", "socketcall", 10),
    ("sendto", "socketcall", 11),
    ("recvfrom", "socketcall", 12),
    ("shutdown", "socketcall", 13),
    ("setsockopt", "socketcall", 14),
    ("getsockopt", "socketcall", 15),
    ("sendmsg", "socketcall", 16),
    ("recvmsg", "socketcall", 17),
    ("accept4", "socketcall", 18),
    ("recvmmsg", "socketcall", 19),
    ("sendmmsg", "socketcall", 20),
    ("semop", "ipc", 1),
    ("semget", "ipc", 2),
    ("semctl", "ipc", 3),
    ("semtimedop", "ipc", 4),
    ("msgsnd", "ipc", 11),
    ("msgrcv", "ipc", 12),
    ("msgget", "ipc", 13),
    ("msgctl", "ipc", 14),
    ("shmat", "ipc", 21),
    ("shmdt", "ipc", 22),
    ("shmget", "ipc", 23),
    ("shmctl", "ipc", 24),
];

/// What a profile says of these calls.
#[derive(Debug, Default)]
pub(super) struct Noted<'a>(BTreeMap<&'a str, Vec<Rule>>);

impl<'a> Noted<'a> {
    /// Takes note of a rule; whether the name is one of these.
    pub(super) fn take(&mut self, name: &'a str, rules: &[Rule]) -> bool {
        let known = CALLS.iter().any(|(call, _, _)| *call == name);
        if known {
            self.0.entry(name).or_default().extend_from_slice(rules);
        }
        known
    }

    /// Puts what follows into i386's table, before what the profile itself says of `socketcall` and `ipc`. A permission
    /// follows only where the profile doesn't name them.
    pub(super) fn derive(&self, table: &mut Table, default: Verdict) {
        for through in ["socketcall", "ipc"] {
            let Some(number) = number_of(super::names::COMPAT, through) else { continue };
            let own = table.remove(&number);
            let mut rules = Vec::new();
            for (call, _, value) in CALLS.iter().filter(|(_, by, _)| *by == through) {
                let Some(said) = self.0.get(call) else { continue };
                let verdict = unseen(said, default);
                if own.is_none() || !verdict.lets_through() {
                    let width = width_of(through, 0);
                    let conditions = vec![Condition { argument: 0, test: Test::Equal(*value), width }];
                    rules.push(Rule { conditions, verdict });
                }
            }
            rules.extend(own.unwrap_or_default());
            if !rules.is_empty() {
                table.insert(number, rules);
            }
        }
    }
}

/// What is answered where no argument can be looked at: what any arguments would get, or else the strictest of what they
/// may get. Not death, where an argument decides: most of those calls are harmless.
fn unseen(said: &[Rule], default: Verdict) -> Verdict {
    let certain = said.iter().position(|rule| rule.conditions.is_empty());
    let tested = &said[..certain.unwrap_or(said.len())];
    let last = certain.map_or(default, |place| said[place].verdict);
    match tested.iter().map(|rule| rule.verdict).chain([last]).find(|verdict| !verdict.lets_through()) {
        None => last,
        Some(verdict) if tested.is_empty() || verdict.is_errno() => verdict,
        Some(_) => Verdict::errno(EPERM),
    }
}
