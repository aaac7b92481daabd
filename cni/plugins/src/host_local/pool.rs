//! Which address is next: a pure machine that is given the moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use super::QUARANTINE;

/// Addresses that may be handed out, with the gateway that is kept back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The network; its prefix is the addresses' own.
    pub subnet: IpNet,
    /// The first address.
    pub first: IpAddr,
    /// The last address.
    pub last: IpAddr,
    /// The gateway, which is never handed out.
    pub gateway: IpAddr,
}

/// Why a range can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Nothing is left for a pod.
    #[error("the range {subnet} is too small: network, broadcast and gateway take all of it")]
    Small {
        /// The network.
        subnet: IpNet,
    },
    /// An address of the range isn't in its network.
    #[error("{what} {ip} is not an address for pods in {subnet}")]
    Outside {
        /// Which one.
        what: &'static str,
        /// The address.
        ip: IpAddr,
        /// The network.
        subnet: IpNet,
    },
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(like: IpAddr, number: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

impl Range {
    /// A range with what isn't given filled in: the first address is the gateway, the rest but broadcast is for pods.
    pub fn of(
        subnet: IpNet,
        first: Option<IpAddr>,
        last: Option<IpAddr>,
        gateway: Option<IpAddr>,
    ) -> Result<Self, RangeError> {
        let (low, high) = (number(subnet.network()), number(subnet.broadcast()));
        if high - low < 3 {
            return Err(RangeError::Small { subnet });
        }
        let usable_last = if subnet.addr().is_ipv4() { high - 1 } else { high };
        let at = |n| address(subnet.addr(), n);
        let range = Self {
            subnet: subnet.trunc(),
            first: first.unwrap_or(at(low + 1)),
            last: last.unwrap_or(at(usable_last)),
            gateway: gateway.unwrap_or(at(low + 1)),
        };
        for (what, ip) in [("rangeStart", range.first), ("rangeEnd", range.last), ("gateway", range.gateway)] {
            let same = ip.is_ipv4() == subnet.addr().is_ipv4();
            if !same || number(ip) <= low || number(ip) > usable_last {
                return Err(RangeError::Outside { what, ip, subnet });
            }
        }
        if range.first > range.last || (range.first == range.last && range.first == range.gateway) {
            return Err(RangeError::Small { subnet });
        }
        Ok(range)
    }

    fn contains(&self, ip: IpAddr) -> bool {
        self.first <= ip && ip <= self.last
    }

    fn next(&self, ip: IpAddr) -> IpAddr {
        if ip >= self.last { self.first } else { address(ip, number(ip) + 1) }
    }
}

/// What asking for an address gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// This one; it is held now.
    Address(IpAddr),
    /// None before that much time has passed.
    Wait(Duration),
    /// None, for as long as nobody frees one.
    Full,
}

/// The addresses of a network. Those that were never used go first, in order; after that the one that was freed first.
#[derive(Debug)]
pub struct Pool {
    ranges: Vec<Cursor>,
    held: BTreeMap<IpAddr, String>,
    freed: VecDeque<(IpAddr, Duration)>,
    freed_set: BTreeSet<IpAddr>,
}

/// How far the never-used addresses of a range have been gone through: once around.
#[derive(Debug)]
struct Cursor {
    range: Range,
    begin: IpAddr,
    next: Option<IpAddr>,
}

impl Pool {
    /// All addresses of the ranges are free.
    #[must_use]
    pub fn new(ranges: Vec<Range>) -> Self {
        let cursor = |range: Range| Cursor { begin: range.first, next: Some(range.first), range };
        let ranges = ranges.into_iter().map(cursor).collect();
        Self { ranges, held: BTreeMap::new(), freed: VecDeque::new(), freed_set: BTreeSet::new() }
    }

    /// Begins with the address after this one. For a pool that has handed out nothing yet.
    pub fn begin_after(&mut self, ip: IpAddr) {
        for cursor in self.ranges.iter_mut().filter(|cursor| cursor.range.contains(ip)) {
            cursor.begin = cursor.range.next(ip);
            cursor.next = Some(cursor.begin);
        }
    }

    /// Notes that somebody holds an address.
    pub fn hold(&mut self, ip: IpAddr, sandbox: &str) {
        self.held.insert(ip, sandbox.to_owned());
    }

    /// Hands out an address. `now` is a time since any fixed moment.
    pub fn take(&mut self, sandbox: &str, now: Duration) -> Take {
        if let Some(ip) = self.never_used() {
            self.hold(ip, sandbox);
            return Take::Address(ip);
        }
        let Some((ip, since)) = self.freed.front().copied() else { return Take::Full };
        let rested = now.saturating_sub(since);
        if rested < QUARANTINE {
            return Take::Wait(QUARANTINE - rested);
        }
        self.freed.pop_front();
        self.freed_set.remove(&ip);
        self.hold(ip, sandbox);
        Take::Address(ip)
    }

    fn never_used(&mut self) -> Option<IpAddr> {
        for cursor in &mut self.ranges {
            while let Some(ip) = cursor.next {
                let next = cursor.range.next(ip);
                cursor.next = (next != cursor.begin).then_some(next);
                if ip != cursor.range.gateway && !self.held.contains_key(&ip) && !self.freed_set.contains(&ip) {
                    return Some(ip);
                }
            }
        }
        None
    }

    /// What a sandbox holds.
    #[must_use]
    pub fn held_by(&self, sandbox: &str) -> Vec<IpAddr> {
        self.held.iter().filter(|(_, holder)| *holder == sandbox).map(|(ip, _)| *ip).collect()
    }

    /// Frees what a sandbox holds; it rests from `now` on.
    pub fn release(&mut self, sandbox: &str, now: Duration) -> Vec<IpAddr> {
        let held = self.held_by(sandbox);
        for ip in &held {
            self.held.remove(ip);
            // One from outside the ranges was held under an earlier configuration.
            if self.ranges.iter().any(|cursor| cursor.range.contains(*ip)) && self.freed_set.insert(*ip) {
                self.freed.push_back((*ip, now));
            }
        }
        held
    }

    /// The sandboxes that hold an address.
    #[must_use]
    pub fn holders(&self) -> BTreeSet<String> {
        self.held.values().cloned().collect()
    }

    /// How many addresses are held.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.held.len()
    }

    /// The addresses that pods get, as first-last; the gateway is left out where it is the first.
    #[must_use]
    pub fn ranges_text(&self) -> String {
        let text = |Cursor { range, .. }: &Cursor| {
            let first = if range.first == range.gateway { range.next(range.first) } else { range.first };
            format!("{first}-{}", range.last)
        };
        self.ranges.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(text: &str) -> Pool {
        Pool::new(vec![Range::of(text.parse().unwrap(), None, None, None).unwrap()])
    }

    fn at(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Runs `+a` (take), `-a` (release) and `@ms` (the moment), and compares the last parts of what was taken.
    fn check(net: &str, script: &str, expected: &str) {
        let (mut pool, mut now, mut seen) = (pool(net), at(0), Vec::new());
        for word in script.split_whitespace() {
            let (verb, rest) = word.split_at(1);
            match verb {
                "@" => now = at(rest.parse().unwrap()),
                "-" => drop(pool.release(rest, now)),
                _ => seen.push(match pool.take(rest, now) {
                    Take::Address(ip) => ip.to_string().rsplit(['.', ':']).next().unwrap().to_owned(),
                    Take::Wait(time) => format!("wait{}", time.as_millis()),
                    Take::Full => "full".to_owned(),
                }),
            }
        }
        assert_eq!(seen.join(" "), expected, "{script}");
    }

    #[test]
    fn never_used_first_then_oldest_freed() {
        check("10.0.0.0/29", "+a +b +c +d +e +f", "2 3 4 5 6 full");
        check("10.0.0.0/29", "+a -a +b +c +d +e @300 +f", "2 3 4 5 6 2");
        check("10.0.0.0/29", "+a +b +c +d +e -d @10 -a @400 +x +y", "2 3 4 5 6 5 2");
        check("10.0.0.0/30", "+a -a +b @100 +b @250 +b", "2 wait250 wait150 2");
        check("fd00::/126", "+a +b +c", "2 3 full");
    }

    #[test]
    fn begins_where_it_ended() {
        let mut pool = pool("10.0.0.0/29");
        pool.hold("10.0.0.4".parse().unwrap(), "old");
        pool.begin_after("10.0.0.4".parse().unwrap());
        let taken: Vec<_> = (0..5).map(|n| pool.take(&n.to_string(), at(0))).collect();
        let ips = ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3"].map(|ip| Take::Address(ip.parse().unwrap()));
        assert_eq!(taken, [&ips[..], &[Take::Full]].concat());
    }

    #[test]
    fn ranges_are_checked() {
        let of = |net: &str, first: Option<&str>, last: Option<&str>| {
            Range::of(
                net.parse().unwrap(),
                first.map(|ip| ip.parse().unwrap()),
                last.map(|ip| ip.parse().unwrap()),
                None,
            )
        };
        assert!(of("10.0.0.0/31", None, None).is_err());
        assert!(of("10.0.0.0/24", Some("10.0.1.1"), None).is_err());
        assert!(of("10.0.0.0/24", Some("10.0.0.9"), Some("10.0.0.8")).is_err());
        assert!(of("10.0.0.0/24", None, Some("10.0.0.255")).is_err());
        assert!(of("10.0.0.0/24", Some("::1"), None).is_err());
        assert!(of("0.0.0.0/0", None, None).is_ok() && of("::/0", None, None).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
        #[test]
        fn thousands_of_pods(steps in prop::collection::vec((0u8..2, 0u8..20, 0u64..400), 1000..3000)) {
            let mut pool = pool("10.0.0.0/28");
            let gateway: IpAddr = "10.0.0.1".parse().unwrap();
            let mut now = 0;
            let mut held: BTreeMap<IpAddr, u8> = BTreeMap::new();
            let mut freed: BTreeMap<IpAddr, u64> = BTreeMap::new();
            for (verb, who, pause) in steps {
                now += pause;
                if verb == 0 {
                    let out = pool.release(&who.to_string(), at(now));
                    let mine: Vec<IpAddr> = held.iter().filter(|(_, w)| **w == who).map(|(ip, _)| *ip).collect();
                    prop_assert_eq!(&out, &mine);
                    for ip in mine { held.remove(&ip); freed.insert(ip, now); }
                    continue;
                }
                match pool.take(&who.to_string(), at(now)) {
                    Take::Address(ip) => {
                        prop_assert!(ip != gateway && !held.contains_key(&ip), "{} handed out twice", ip);
                        if let Some(since) = freed.remove(&ip) {
                            prop_assert!(now - since >= 250);
                            prop_assert!(freed.values().all(|other| *other >= since), "not the oldest");
                        }
                        held.insert(ip, who);
                    }
                    Take::Wait(time) => prop_assert!(!freed.is_empty() && time <= QUARANTINE),
                    Take::Full => prop_assert_eq!(held.len(), 13),
                }
                prop_assert_eq!(pool.held_count(), held.len());
            }
        }
    }
}
