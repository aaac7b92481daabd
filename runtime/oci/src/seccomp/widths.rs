//! How much of an argument the kernel itself looks at. A register has 64 bits; a call that takes an `int` drops the upper
//! half, so a test of it could be evaded: `socket(0x1_0000_0026, …)` is AF_ALG. A mode is a `umode_t` of 16 bits.

/// How much of an argument the kernel itself looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// 16 bits: a mode.
    Short,
    /// 32 bits: the upper half may hold anything.
    Low,
    /// All 64 bits.
    Full,
}

impl Width {
    /// The bits that count.
    pub(super) fn mask(self) -> u64 {
        match self {
            Self::Short => 0xffff,
            Self::Low => 0xffff_ffff,
            Self::Full => u64::MAX,
        }
    }
}

/// Of a call's argument.
pub(super) fn width_of(name: &str, argument: u8) -> Width {
    let listed = |table: &[(&str, &str)]| {
        let place = table.binary_search_by_key(&name, |(known, _)| known);
        place.is_ok_and(|place| table[place].1.bytes().any(|digit| digit == b'0' + argument))
    };
    if listed(SHORT) {
        Width::Short
    } else if listed(LOW) {
        Width::Low
    } else {
        Width::Full
    }
}

/// Arguments of 16 bits, by place: modes, and the number in `ipc`, whose upper half is a version.
#[rustfmt::skip]
const SHORT: &[(&str, &str)] = &[
    ("chmod", "1"), ("creat", "1"), ("fchmod", "1"), ("fchmodat", "2"), ("fchmodat2", "2"), ("ipc", "0"), ("mkdir", "1"),
    ("mkdirat", "2"), ("mknod", "1"), ("mknodat", "2"), ("mq_open", "2"), ("open", "2"), ("openat", "3"),
];

/// Arguments of 32 bits, by place, after the kernel's `SYSCALL_DEFINE` lines.
#[rustfmt::skip]
const LOW: &[(&str, &str)] = &[
    ("accept", "0"), ("accept4", "03"), ("access", "1"), ("add_key", "4"), ("alarm", "0"), ("arch_prctl", "0"), ("bind", "02"),
    ("bpf", "02"), ("cachestat", "03"), ("chown", "12"), ("clock_adjtime", "0"), ("clock_getres", "0"), ("clock_gettime", "0"),
    ("clock_nanosleep", "01"), ("clock_settime", "0"), ("clone", "0"), ("close", "0"), ("close_range", "012"),
    ("connect", "02"), ("copy_file_range", "025"), ("delete_module", "1"), ("dup", "0"), ("dup2", "01"), ("dup3", "012"),
    ("epoll_create", "0"), ("epoll_create1", "0"), ("epoll_ctl", "012"), ("epoll_pwait", "023"), ("epoll_pwait2", "02"),
    ("epoll_wait", "023"), ("eventfd", "0"), ("eventfd2", "01"), ("execveat", "04"), ("exit", "0"), ("exit_group", "0"),
    ("faccessat", "02"), ("faccessat2", "023"), ("fallocate", "01"), ("fanotify_init", "01"), ("fanotify_mark", "013"),
    ("fchdir", "0"), ("fchmod", "0"), ("fchmodat", "0"), ("fchmodat2", "03"), ("fchown", "012"), ("fchownat", "0234"),
    ("fcntl", "01"), ("fcntl64", "01"), ("fdatasync", "0"), ("fgetxattr", "0"), ("finit_module", "02"), ("flistxattr", "0"),
    ("flock", "01"), ("fremovexattr", "0"), ("fsconfig", "014"), ("fsetxattr", "04"), ("fsmount", "012"), ("fsopen", "1"),
    ("fspick", "02"), ("fstat", "0"), ("fstatfs", "0"), ("fsync", "0"), ("ftruncate", "0"), ("futex", "125"),
    ("futex_waitv", "124"), ("futimesat", "0"), ("getdents", "02"), ("getdents64", "02"), ("getgroups", "0"),
    ("getitimer", "0"), ("getpeername", "0"), ("getpgid", "0"), ("getpriority", "01"), ("getrandom", "2"), ("getrlimit", "0"),
    ("getrusage", "0"), ("getsid", "0"), ("getsockname", "0"), ("getsockopt", "012"), ("inotify_add_watch", "02"),
    ("inotify_init1", "0"), ("inotify_rm_watch", "01"), ("io_setup", "0"), ("io_uring_enter", "0123"),
    ("io_uring_register", "013"), ("io_uring_setup", "0"), ("ioctl", "01"), ("ioperm", "2"), ("iopl", "0"), ("ioprio_get", "01"),
    ("ioprio_set", "012"), ("kcmp", "012"), ("kexec_file_load", "01"), ("keyctl", "0"), ("kill", "01"),
    ("landlock_add_rule", "013"), ("landlock_create_ruleset", "2"), ("landlock_restrict_self", "01"), ("lchown", "12"),
    ("linkat", "024"), ("listen", "01"), ("lseek", "02"), ("lsetxattr", "4"), ("madvise", "2"), ("mbind", "5"),
    ("membarrier", "012"), ("memfd_create", "1"), ("memfd_secret", "0"), ("migrate_pages", "0"), ("mkdirat", "0"),
    ("mknod", "2"), ("mknodat", "03"), ("mlock2", "2"), ("mlockall", "0"), ("modify_ldt", "0"), ("mount_setattr", "02"),
    ("move_mount", "024"), ("move_pages", "05"), ("mq_getsetattr", "0"), ("mq_notify", "0"), ("mq_open", "1"),
    ("mq_timedreceive", "0"), ("mq_timedsend", "03"), ("msgctl", "01"), ("msgget", "01"), ("msgrcv", "04"), ("msgsnd", "03"),
    ("msync", "2"), ("name_to_handle_at", "04"), ("newfstatat", "03"), ("open", "1"), ("open_by_handle_at", "02"),
    ("open_tree", "02"), ("openat", "02"), ("openat2", "0"), ("perf_event_open", "123"), ("personality", "0"),
    ("pidfd_getfd", "012"), ("pidfd_open", "01"), ("pidfd_send_signal", "013"), ("pipe2", "1"), ("pkey_free", "0"),
    ("pkey_mprotect", "3"), ("poll", "12"), ("ppoll", "1"), ("prctl", "0"), ("pread64", "0"), ("preadv", "0"), ("preadv2", "05"),
    ("prlimit64", "01"), ("process_madvise", "034"), ("process_mrelease", "01"), ("process_vm_readv", "0"),
    ("process_vm_writev", "0"), ("pselect6", "0"), ("ptrace", "1"), ("pwrite64", "0"), ("pwritev", "0"), ("pwritev2", "05"),
    ("quotactl", "02"), ("quotactl_fd", "012"), ("read", "0"), ("readahead", "0"), ("readlink", "2"), ("readlinkat", "03"),
    ("readv", "0"), ("reboot", "012"), ("recvfrom", "03"), ("recvmmsg", "023"), ("recvmsg", "02"), ("renameat", "02"),
    ("renameat2", "024"), ("request_key", "3"), ("rseq", "123"), ("rt_sigaction", "0"), ("rt_sigprocmask", "0"),
    ("rt_sigqueueinfo", "01"), ("rt_tgsigqueueinfo", "012"), ("sched_get_priority_max", "0"),
    ("sched_get_priority_min", "0"), ("sched_getaffinity", "01"), ("sched_getattr", "023"), ("sched_getparam", "0"),
    ("sched_getscheduler", "0"), ("sched_rr_get_interval", "0"), ("sched_setaffinity", "01"), ("sched_setattr", "02"),
    ("sched_setparam", "0"), ("sched_setscheduler", "01"), ("seccomp", "01"), ("select", "0"), ("semctl", "012"),
    ("semget", "012"), ("semop", "02"), ("semtimedop", "02"), ("sendfile", "01"), ("sendmmsg", "023"), ("sendmsg", "02"),
    ("sendto", "035"), ("set_mempolicy", "0"), ("setdomainname", "1"), ("setfsgid", "0"), ("setfsuid", "0"), ("setgid", "0"),
    ("setgroups", "0"), ("sethostname", "1"), ("setitimer", "0"), ("setns", "01"), ("setpgid", "01"), ("setpriority", "012"),
    ("setregid", "01"), ("setresgid", "012"), ("setresuid", "012"), ("setreuid", "01"), ("setrlimit", "0"),
    ("setsockopt", "0124"), ("setuid", "0"), ("setxattr", "4"), ("shmat", "02"), ("shmctl", "01"), ("shmget", "02"),
    ("shutdown", "01"), ("signalfd", "0"), ("signalfd4", "03"), ("socket", "012"), ("socketcall", "0"), ("socketpair", "012"),
    ("splice", "025"), ("statx", "023"), ("swapon", "1"), ("symlinkat", "1"), ("sync_file_range", "03"), ("syncfs", "0"),
    ("sysfs", "0"), ("syslog", "02"), ("tee", "013"), ("tgkill", "012"), ("timer_create", "0"), ("timer_delete", "0"),
    ("timer_getoverrun", "0"), ("timer_gettime", "0"), ("timer_settime", "01"), ("timerfd_create", "01"),
    ("timerfd_gettime", "0"), ("timerfd_settime", "01"), ("tkill", "01"), ("umask", "0"), ("umount2", "1"), ("unlinkat", "02"),
    ("userfaultfd", "0"), ("ustat", "0"), ("utimensat", "03"), ("vmsplice", "03"), ("wait4", "02"), ("waitid", "013"),
    ("write", "0"), ("writev", "0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_for_the_search_and_name_real_calls() {
        for table in [SHORT, LOW] {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
            for (name, places) in table {
                let known = [super::super::names::NATIVE, super::super::names::COMPAT];
                assert!(known.iter().any(|names| names.iter().any(|(known, _)| known == name)), "{name}");
                assert!(!places.is_empty() && places.bytes().all(|digit| (b'0'..b'6').contains(&digit)), "{name}");
            }
        }
    }

    #[test]
    fn what_counts() {
        for (name, argument, width) in [
            ("socket", 0, Width::Low),
            ("ioctl", 1, Width::Low),
            ("ioctl", 2, Width::Full),
            ("chmod", 1, Width::Short),
            ("openat", 2, Width::Low),
            ("openat", 3, Width::Short),
            ("ptrace", 0, Width::Full),
            ("mount", 3, Width::Full),
            ("clone", 0, Width::Low),
            ("none", 0, Width::Full),
        ] {
            assert_eq!(width_of(name, argument), width, "{name} {argument}");
        }
    }
}
