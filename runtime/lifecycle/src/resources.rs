//! Limits that are changed later.

use crate::{ContainerRecord, HugepageLimit, Resources};

impl Resources {
    /// These with what `change` names; what it leaves at 0 or empty stays.
    #[must_use]
    pub fn with(&self, change: &Self) -> Self {
        let number = |now: i64, then: i64| if then == 0 { now } else { then };
        let text = |now: &String, then: &String| if then.is_empty() { now.clone() } else { then.clone() };
        let mut hugepage_limits = self.hugepage_limits.clone();
        for HugepageLimit { page_size, limit_bytes } in &change.hugepage_limits {
            match hugepage_limits.iter_mut().find(|limit| limit.page_size == *page_size) {
                Some(limit) => limit.limit_bytes = *limit_bytes,
                None => hugepage_limits.push(HugepageLimit { page_size: page_size.clone(), limit_bytes: *limit_bytes }),
            }
        }
        let mut unified = self.unified.clone();
        unified.extend(change.unified.iter().map(|(file, value)| (file.clone(), value.clone())));
        Self {
            cpu_period: number(self.cpu_period, change.cpu_period),
            cpu_quota: number(self.cpu_quota, change.cpu_quota),
            cpu_shares: number(self.cpu_shares, change.cpu_shares),
            memory_limit_bytes: number(self.memory_limit_bytes, change.memory_limit_bytes),
            memory_swap_limit_bytes: number(self.memory_swap_limit_bytes, change.memory_swap_limit_bytes),
            oom_score_adj: number(self.oom_score_adj, change.oom_score_adj),
            cpuset_cpus: text(&self.cpuset_cpus, &change.cpuset_cpus),
            cpuset_mems: text(&self.cpuset_mems, &change.cpuset_mems),
            hugepage_limits,
            unified,
        }
    }

    /// What the kernel has to be told when `change` is made to these: what `change` names, and beside it what the kernel
    /// takes only together.
    #[must_use]
    pub fn to_write(&self, change: &Self) -> Self {
        let after = self.with(change);
        let mut write = change.clone();
        if change.cpu_period != 0 || change.cpu_quota != 0 {
            (write.cpu_period, write.cpu_quota) = (after.cpu_period, after.cpu_quota);
        }
        // Version 2 limits swap alone, which is the difference of the two.
        if change.memory_limit_bytes != 0 || change.memory_swap_limit_bytes != 0 {
            write.memory_limit_bytes = after.memory_limit_bytes;
            write.memory_swap_limit_bytes = after.memory_swap_limit_bytes;
        }
        write
    }

    /// Those of the containers and what the pod takes beside them: 0 where neither is limited, -1 where one has no limit.
    #[must_use]
    pub fn plus(&self, overhead: &Self) -> Self {
        let sum = |of: i64, more: i64| match (of, more) {
            (-1, _) | (_, -1) => -1,
            (0, _) => 0,
            (of, more) => of.saturating_add(more),
        };
        // Two quotas add up only over the same period.
        let quota = match (self.cpu_quota, overhead.cpu_quota) {
            (of, 0) => of,
            (of, _) if self.cpu_period != overhead.cpu_period => of,
            (of, more) => sum(of, more),
        };
        Self {
            cpu_quota: quota,
            cpu_shares: sum(self.cpu_shares, overhead.cpu_shares),
            memory_limit_bytes: sum(self.memory_limit_bytes, overhead.memory_limit_bytes),
            memory_swap_limit_bytes: sum(self.memory_swap_limit_bytes, overhead.memory_swap_limit_bytes),
            oom_score_adj: 0,
            ..self.clone()
        }
    }
}

impl ContainerRecord {
    /// Its limits: as changed last, or as asked for.
    pub fn resources(&self) -> &Resources {
        self.resources.as_ref().unwrap_or(&self.config.resources)
    }
}

#[cfg(test)]
mod tests {
    use crate::{HugepageLimit, Resources};

    fn hugepages(page_size: &str, limit_bytes: u64) -> HugepageLimit {
        HugepageLimit { page_size: page_size.to_owned(), limit_bytes }
    }

    #[test]
    fn what_is_not_named_stays() {
        let now = Resources {
            cpu_shares: 100,
            cpu_period: 50_000,
            memory_limit_bytes: 1,
            cpuset_cpus: "0".to_owned(),
            hugepage_limits: vec![hugepages("2MB", 0)],
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        assert_eq!(now.with(&Resources::default()), now);
        let change = Resources {
            cpu_quota: 10_000,
            memory_limit_bytes: -1,
            memory_swap_limit_bytes: -1,
            hugepage_limits: vec![hugepages("2MB", 5), hugepages("1GB", 0)],
            unified: [("memory.low".to_owned(), "2".to_owned())].into(),
            ..Resources::default()
        };
        let then = now.with(&change);
        assert_eq!((then.cpu_shares, then.cpu_quota, then.memory_limit_bytes), (100, 10_000, -1));
        assert_eq!((then.cpuset_cpus.as_str(), then.unified.len()), ("0", 2));
        assert_eq!(then.hugepage_limits, [hugepages("2MB", 5), hugepages("1GB", 0)]);
    }

    #[test]
    fn what_goes_together_is_written_together() {
        let now = Resources { cpu_period: 50_000, memory_limit_bytes: 7, ..Resources::default() };
        let quota = Resources { cpu_quota: 10_000, ..Resources::default() };
        assert_eq!(now.to_write(&quota), Resources { cpu_period: 50_000, ..quota });
        let swap = Resources { memory_swap_limit_bytes: 9, ..Resources::default() };
        assert_eq!(now.to_write(&swap), Resources { memory_limit_bytes: 7, ..swap });
        assert_eq!(now.to_write(&Resources::default()), Resources::default());
    }

    #[test]
    fn a_pod_is_its_containers_and_more() {
        let of = |memory_limit_bytes| Resources { memory_limit_bytes, ..Resources::default() };
        for (containers, overhead, pod) in [(0, 5, 0), (7, 5, 12), (7, 0, 7), (-1, 5, -1), (i64::MAX, 5, i64::MAX)] {
            assert_eq!(of(containers).plus(&of(overhead)), of(pod), "{containers} {overhead}");
        }
        let quota = |cpu_quota, cpu_period| Resources { cpu_quota, cpu_period, ..Resources::default() };
        assert_eq!(quota(10, 100).plus(&quota(5, 100)), quota(15, 100));
        assert_eq!(quota(10, 100).plus(&quota(5, 50)), quota(10, 100));
    }
}
