//! The system calls a running VM makes; every other one fails with EPERM.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Calls that are fine whatever their arguments are.
const PLAIN: &[i64] = &[
    // Files and sockets that are open already. What can still be opened is Landlock's to say.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_flock,
    libc::SYS_fchmod,
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_munlock,
    // Threads. `clone3` is answered with ENOSYS by a filter of its own, see below.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_membarrier,
    libc::SYS_getcpu,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
];

/// Calls older than their `at` forms, which not every architecture has.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[i64] = &[];

/// The type byte of KVM's ioctls (Linux, Documentation/userspace-api/ioctl/ioctl-number.rst).
const KVM_IOCTLS: u64 = 0xae00;
const IOCTL_TYPE_MASK: u64 = 0xff00;
/// Ioctls of terminals, sockets and files that look and do no harm: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIOCLEX.
const HARMLESS_IOCTLS: [u64; 5] = [0x5401, 0x5413, 0x541b, 0x5421, 0x5451];
/// Set by every thread's clone(2) and by no new process's.
const CLONE_THREAD: u64 = 0x1_0000;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeccompError {
    #[error("this processor is not known to the filter compiler")]
    Architecture(#[source] BackendError),
    #[error("the filter could not be made")]
    Filter(#[from] BackendError),
    #[error("the kernel refused the filter")]
    Apply(#[from] seccompiler::Error),
}

/// Filters the calls of this thread and of those it starts.
pub(super) fn apply() -> Result<(), SeccompError> {
    let arch = std::env::consts::ARCH.try_into().map_err(SeccompError::Architecture)?;
    // A filter can not look behind clone3's pointer to tell a thread from a process. ENOSYS makes the C library fall
    // back to clone, whose flags are seen. Of two errors the later filter's wins, so the calls list comes first and
    // lets clone3 pass.
    let denied = SeccompAction::Errno(eperm());
    let calls: BpfProgram = SeccompFilter::new(calls()?, denied, SeccompAction::Allow, arch)?.try_into()?;
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let missing = SeccompAction::Errno(enosys());
    let no_clone3: BpfProgram = SeccompFilter::new(no_clone3, SeccompAction::Allow, missing, arch)?.try_into()?;
    seccompiler::apply_filter(&no_clone3)?;
    seccompiler::apply_filter(&calls)?;
    Ok(())
}

fn eperm() -> u32 {
    libc::EPERM.unsigned_abs()
}

fn enosys() -> u32 {
    libc::ENOSYS.unsigned_abs()
}

/// The calls that are allowed, with the arguments that matter.
fn calls() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> =
        PLAIN.iter().chain(LEGACY).map(|call| (*call, Vec::new())).collect();
    let rule = |argument: u8, operation: SeccompCmpOp, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)?])
    };
    let mut ioctls = vec![rule(1, SeccompCmpOp::MaskedEq(IOCTL_TYPE_MASK), KVM_IOCTLS)?];
    for ioctl in HARMLESS_IOCTLS {
        ioctls.push(rule(1, SeccompCmpOp::Eq, ioctl)?);
    }
    calls.insert(libc::SYS_ioctl, ioctls);
    // Threads, no processes.
    calls.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(CLONE_THREAD), CLONE_THREAD)?]);
    // Signals to itself: a vCPU is called out of the guest by one, and abort() is one.
    let own = u64::from(std::process::id());
    calls.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpOp::Eq, own)?]);
    // A thread's name.
    let set_name = u64::from(libc::PR_SET_NAME.unsigned_abs());
    let other_name = u64::from(libc::PR_SET_VMA.unsigned_abs());
    calls.insert(libc::SYS_prctl, vec![rule(0, SeccompCmpOp::Eq, set_name)?, rule(0, SeccompCmpOp::Eq, other_name)?]);
    // Memory never becomes code: guests run theirs in KVM.
    let exec = u64::from(libc::PROT_EXEC.unsigned_abs());
    calls.insert(libc::SYS_mprotect, vec![rule(2, SeccompCmpOp::MaskedEq(exec), 0)?]);
    calls.insert(libc::SYS_mmap, vec![rule(2, SeccompCmpOp::MaskedEq(exec), 0)?]);
    Ok(calls)
}
