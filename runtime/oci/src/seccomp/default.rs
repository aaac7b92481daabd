//! The built-in profile (CRI's RuntimeDefault): a list of what is allowed, as with the other runtimes, so that an image
//! that runs under them runs here. What isn't named answers EPERM, what is newer than this list ENOSYS.

use runtime_sys::privileges::Capabilities;

use super::{Condition, ENOSYS, Rule, Table, Test, Verdict, add, names, width_of};

/// Allowed to everybody.
const ALLOWED: &[&str] = &[
    // Files and directories.
    "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 \
     fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync \
     file_getattr file_setattr flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat \
     getcwd getdents getdents64 ioctl lchown lchown32 link linkat _llseek lseek lstat lstat64 mkdir mkdirat mknod mknodat \
     name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead \
     readlink readlinkat readv rename renameat renameat2 rmdir sendfile sendfile64 splice arm_fadvise64_64 arm_sync_file_range stat stat64 statfs statfs64 \
     statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat \
     utimensat_time64 utimes vmsplice write writev",
    // Extended attributes.
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr \
     lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // Memory.
    "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 \
     mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease \
     remap_file_pages",
    // Processes, threads, users.
    "alarm arch_prctl capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getegid \
     getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid \
     getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill \
     modify_ldt pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace rseq \
     sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
     sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
     sched_setscheduler sched_yield set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 \
     setgid setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid \
     setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 tgkill tkill ugetrlimit vfork wait4 waitid waitpid",
    // Signals.
    "pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
     rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask sigreturn uretprobe",
    // Waiting.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
     eventfd2 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake io_cancel io_destroy io_getevents \
     io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select",
    // Time.
    "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
     clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete \
     timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
     timerfd_gettime64 timerfd_settime timerfd_settime64 times",
    // Sockets and pipes; `socket` itself is below.
    "accept accept4 bind connect getpeername getsockname getsockopt listen pipe pipe2 recv recvfrom recvmmsg \
     recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketpair",
    // System V and POSIX IPC.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
     mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
    // Watching, confining oneself, the rest.
    "breakpoint cacheflush fanotify_mark get_tls getrandom inotify_add_watch inotify_init inotify_init1 inotify_rm_watch landlock_add_rule \
     landlock_create_ruleset landlock_restrict_self seccomp set_tls sysinfo uname",
];

/// Allowed to who has the capability.
const WITH_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open \
         quotactl quotactl_fd setdomainname sethostname setns statmount syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Address families that lead past the network namespace: the kernel's cryptography and the hypervisor's host.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// Linux, 32-bit Linux, each with short inodes, and "tell me".
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Every flag of `clone` that makes a namespace.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// `socketcall`'s number for `socket`, whose arguments a filter can't see.
const SOCKETCALL_SOCKET: u64 = 1;

/// The native table and i386's.
pub(super) fn tables(bounding: Capabilities) -> (Table, Table) {
    let (mut native, mut compat) = (Table::new(), Table::new());
    let mut both = |name: &str, rules: &[Rule]| {
        add(&mut native, names::NATIVE, name, rules);
        add(&mut compat, names::COMPAT, name, rules);
    };
    let allow = [Rule { conditions: Vec::new(), verdict: Verdict::ALLOW }];
    for name in ALLOWED.iter().flat_map(|list| list.split_ascii_whitespace()) {
        both(name, &allow);
    }
    for (capability, list) in WITH_CAPABILITY {
        if Capabilities::named(capability).is_some_and(|capability| bounding.contains(capability)) {
            list.split_ascii_whitespace().for_each(|name| both(name, &allow));
        }
    }
    let when = |name: &str, tests: &[Test]| Rule {
        conditions: tests.iter().map(|test| Condition { argument: 0, test: *test, width: width_of(name, 0) }).collect(),
        verdict: Verdict::ALLOW,
    };
    both("socket", &[when("socket", &[Test::NotEqual(AF_ALG), Test::NotEqual(AF_VSOCK)])]);
    both("socketcall", &[when("socketcall", &[Test::NotEqual(SOCKETCALL_SOCKET)])]);
    let personalities: Vec<Rule> = PERSONALITIES.iter().map(|of| when("personality", &[Test::Equal(*of)])).collect();
    both("personality", &personalities);
    if !bounding.contains(Capabilities::SYS_ADMIN) {
        both("clone", &[when("clone", &[Test::Masked(CLONE_NAMESPACES, 0)])]);
        // Its flags lie in memory, where a filter doesn't see them; the C library falls back on clone.
        both("clone3", &[Rule { conditions: Vec::new(), verdict: Verdict::errno(ENOSYS) }]);
    }
    (native, compat)
}
