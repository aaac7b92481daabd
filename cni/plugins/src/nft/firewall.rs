//! Keeps the kernel's rules as they should be: cheap when nobody touched them, whole again when somebody did.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ipnet::Ipv4Net;

use super::{
    ANY, BY_ADDRESS, Change, DropChain, Element, FAMILY_INET, FAMILY_IPV4, commit, delete_rule, delete_table, elements,
    forward_drops, generation, list_elements, list_rules, new_rule, next_generation, rules,
};
use crate::netlink::{Message, Netlink, NetlinkError, errno};

/// How often a change is tried again when another program changes rules at the same moment.
const TRIES_MAX: u32 = 10;

/// The rules of one bridge.
#[derive(Debug)]
pub(crate) struct Firewall {
    bridge: String,
    pods: Ipv4Net,
    /// The generation at which all was seen to be right; held while the kernel is changed, so that changes of two threads
    /// don't take each other for a stranger's.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    generation: Option<u32>,
    /// Chains of others that drop what is forwarded and that nothing was inserted into.
    stoppers: Vec<String>,
}

impl Firewall {
    pub(crate) fn new(bridge: &str, pods: Ipv4Net) -> Self {
        Self { bridge: bridge.to_owned(), pods, known: Mutex::default() }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether anybody changed rules since the last time, and puts right what is not. One question when not.
    pub(crate) fn ensure(
        &self,
        netlink: &mut Netlink,
        wanted: &dyn Fn() -> BTreeSet<Element>,
    ) -> Result<(), NetlinkError> {
        let now = generation(netlink)?;
        let mut known = self.known();
        if known.generation == Some(now) {
            return Ok(());
        }
        self.put_right(netlink, &mut known, wanted)
    }

    /// Adds and deletes elements; where that can't be done, writes the whole table from what is wanted.
    pub(crate) fn change(
        &self,
        netlink: &mut Netlink,
        change: Change,
        ports: &[Element],
        wanted: &dyn Fn() -> BTreeSet<Element>,
    ) -> Result<(), NetlinkError> {
        if ports.is_empty() {
            return Ok(());
        }
        let mut known = self.known();
        if let Some(generation) = known.generation {
            let messages = elements(&rules::table_name(&self.bridge), change, ports);
            if commit(netlink, generation, messages).is_ok() {
                known.generation = Some(next_generation(generation));
                return Ok(());
            }
        }
        self.put_right(netlink, &mut known, wanted)
    }

    fn put_right(
        &self,
        netlink: &mut Netlink,
        known: &mut Known,
        wanted: &dyn Fn() -> BTreeSet<Element>,
    ) -> Result<(), NetlinkError> {
        known.generation = None;
        let mut tries = 0;
        loop {
            tries += 1;
            let now = generation(netlink)?;
            match self.put_right_at(netlink, known, now, wanted) {
                Err(error) if tries < TRIES_MAX && matches!(error.errno(), errno::ERESTART | errno::ENOENT) => {}
                answer => return answer,
            }
        }
    }

    fn put_right_at(
        &self,
        netlink: &mut Netlink,
        known: &mut Known,
        now: u32,
        wanted: &dyn Fn() -> BTreeSet<Element>,
    ) -> Result<(), NetlinkError> {
        let wanted = wanted();
        let mut changes = Vec::new();
        if !self.is_whole(netlink, &wanted)? {
            let ports: Vec<Element> = wanted.into_iter().collect();
            changes.extend(rules::rewrite(&self.bridge, self.pods, &ports));
        }
        known.stoppers.clear();
        for chain in forward_drops(netlink)? {
            if chain.is_iptables() {
                changes.extend(self.missing_accepts(netlink, &chain)?);
            } else {
                known.stoppers.push(chain.sentence(&self.bridge));
            }
        }
        let changed = !changes.is_empty();
        commit(netlink, now, changes)?;
        known.generation = Some(if changed { next_generation(now) } else { now });
        Ok(())
    }

    fn is_whole(&self, netlink: &mut Netlink, wanted: &BTreeSet<Element>) -> Result<bool, NetlinkError> {
        let table = rules::table_name(&self.bridge);
        let absent = |error: &NetlinkError| error.errno() == errno::ENOENT;
        let standing = match list_rules(netlink, FAMILY_INET, &table, None) {
            Ok(standing) => standing,
            Err(error) if absent(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        if standing.len() != rules::count(&self.bridge, self.pods) {
            return Ok(false);
        }
        for map in [&ANY, &BY_ADDRESS] {
            let found: BTreeSet<_> = match list_elements(netlink, &table, map) {
                Ok(found) => found.into_iter().collect(),
                Err(error) if absent(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
            let of_map = wanted.iter().filter(|element| element.map().name == map.name);
            if found != of_map.map(|element| (element.key(), element.value())).collect() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn missing_accepts(&self, netlink: &mut Netlink, chain: &DropChain) -> Result<Vec<Message>, NetlinkError> {
        let comment = rules::forward_comment(&self.bridge);
        let standing = list_rules(netlink, chain.family, &chain.table, Some(&chain.chain))?;
        let ours: Vec<_> = standing.iter().filter(|rule| rule.comment == comment).collect();
        let accepts = rules::forward_accepts(&self.bridge);
        if ours.len() == accepts.len() {
            return Ok(Vec::new());
        }
        let old = ours.into_iter().map(|rule| delete_rule(chain.family, &chain.table, &chain.chain, &rule.handle));
        let new = accepts.iter().map(|rule| new_rule(chain.family, &chain.table, &chain.chain, &comment, rule));
        Ok(old.chain(new).collect())
    }

    /// What others set up that stops the pods' traffic, as of the last look.
    pub(crate) fn stoppers(&self) -> Vec<String> {
        self.known().stoppers.clone()
    }

    /// Takes the table and the inserted rules away; answers with what stood.
    pub(crate) fn remove(&self, netlink: &mut Netlink) -> Result<Vec<String>, NetlinkError> {
        let mut known = self.known();
        known.generation = None;
        let mut tries = 0;
        loop {
            tries += 1;
            let now = generation(netlink)?;
            let (changes, removed) = self.removal(netlink)?;
            match commit(netlink, now, changes) {
                Ok(()) => return Ok(removed),
                Err(error) if tries < TRIES_MAX && matches!(error.errno(), errno::ERESTART | errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn removal(&self, netlink: &mut Netlink) -> Result<(Vec<Message>, Vec<String>), NetlinkError> {
        let table = rules::table_name(&self.bridge);
        let (mut changes, mut removed) = (Vec::new(), Vec::new());
        match list_rules(netlink, FAMILY_INET, &table, None) {
            Ok(standing) if !standing.is_empty() => {
                changes.push(delete_table(&table));
                removed.push(format!("the nftables table inet {table}"));
            }
            Err(error) if error.errno() != errno::ENOENT => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let comment = rules::forward_comment(&self.bridge);
        // The policy may have changed since the rules were inserted, so the chain is named and not looked for.
        let forward = list_rules(netlink, FAMILY_IPV4, "filter", Some("FORWARD"));
        for rule in forward.unwrap_or_default().iter().filter(|rule| rule.comment == comment) {
            changes.push(delete_rule(FAMILY_IPV4, "filter", "FORWARD", &rule.handle));
            removed.push(format!("a rule of ip filter FORWARD ({comment})"));
        }
        Ok((changes, removed))
    }
}

impl DropChain {
    /// iptables-nft's own chain: it has no other place for an exception, so ours go there.
    fn is_iptables(&self) -> bool {
        self.family == FAMILY_IPV4 && self.table == "filter" && self.chain == "FORWARD"
    }

    fn sentence(&self, bridge: &str) -> String {
        let family = if self.family == FAMILY_IPV4 { "ip" } else { "inet" };
        let place = format!("{family} {} {}", self.table, self.chain);
        format!(
            "the nftables chain {place} drops what is forwarded unless one of its rules accepts it; if pods don't reach the \
             world, run: nft add rule {place} iifname {bridge} accept; nft add rule {place} oifname {bridge} accept"
        )
    }
}
