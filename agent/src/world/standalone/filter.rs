//! Which system calls the command may make: all but those that lead out of a sandbox.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

/// The last system call that was judged (`file_setattr`, Linux 6.17). What comes later is unknown and so isn't there for
/// the command; the numbers of the x32 ABI lie above it, too.
const LAST: u32 = 469;

/// Puts the filters on the calling process and on all that it starts. It needs `no_new_privs`.
pub(super) fn apply() -> Result<()> {
    let arch: TargetArch = std::env::consts::ARCH
        .try_into()
        .context("the sandbox's system call filter isn't known on this architecture")?;
    let errno = |code: i32| SeccompAction::Errno(code.unsigned_abs());
    let groups = [
        (refused()?, errno(libc::EPERM)),
        // As on a kernel without it, so that callers use what was there before.
        (absent(), errno(libc::ENOSYS)),
        (families()?, errno(libc::EAFNOSUPPORT)),
    ];
    for (rules, action) in groups {
        // Another architecture's calls end the process: seccompiler checks that first.
        let program: BpfProgram =
            SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()?;
        apply_filter(&program)?;
    }
    apply_filter(&unknown())?;
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Ways to another view of the files, other namespaces, the kernel side, the user's other processes, and the machine.
fn refused() -> Result<Rules> {
    let mut rules: Rules = [
        // Views of files. A mount is also a fresh door to cgroup2 and bpf file systems.
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        467, // open_tree_attr
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_by_handle_at,
        libc::SYS_setns,
        // The kernel side, and the kernel.
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_syslog,
        // Keyrings belong to the user, not to a namespace: the host's lie open here.
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        // The machine.
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_quotactl,
        443, // quotactl_fd
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
    ]
    .into_iter()
    .map(|number| (number, Vec::new()))
    .collect();
    #[cfg(target_arch = "x86_64")]
    for number in [libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm] {
        rules.insert(number, Vec::new());
    }
    // A new user namespace gives all capabilities over the other new ones.
    const NAMESPACES: [i32; 7] = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    const CLONE_NEWTIME: u64 = 0x80;
    let mut any = Vec::new();
    for flag in NAMESPACES {
        any.push(when(
            0,
            SeccompCmpOp::MaskedEq(u64::from(flag.unsigned_abs())),
            u64::from(flag.unsigned_abs()),
        )?);
    }
    rules.insert(libc::SYS_clone, any.clone());
    any.push(when(0, SeccompCmpOp::MaskedEq(CLONE_NEWTIME), CLONE_NEWTIME)?);
    rules.insert(libc::SYS_unshare, any);
    // Typing into the terminal that the command shares with the shell that started it.
    rules.insert(
        libc::SYS_ioctl,
        vec![
            when(1, SeccompCmpOp::Eq, TIOCSTI)?,
            when(1, SeccompCmpOp::Eq, TIOCLINUX)?,
        ],
    );
    Ok(rules)
}

const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

/// clone3 hides its flags from filters; io_uring makes sockets past them.
fn absent() -> Rules {
    [
        libc::SYS_clone3,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ]
    .into_iter()
    .map(|number| (number, Vec::new()))
    .collect()
}

/// Sockets of families that no network namespace holds back (AF_VSOCK reaches the hypervisor) or that the kernel side doesn't
/// see.
fn families() -> Result<Rules> {
    let known = [
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
        libc::AF_PACKET,
    ];
    let none_of_them = known
        .into_iter()
        .map(|family| condition(0, SeccompCmpOp::Ne, u64::from(family.unsigned_abs())))
        .collect::<Result<Vec<_>>>()?;
    Ok(BTreeMap::from([(
        libc::SYS_socket,
        vec![SeccompRule::new(none_of_them)?],
    )]))
}

/// The kernel reads 32 bits of each of these arguments, so more must not be compared.
fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        operator,
        value,
    )?)
}

fn when(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    Ok(SeccompRule::new(vec![condition(argument, operator, value)?])?)
}

/// The crate compares single numbers; this is the one range.
fn unknown() -> BpfProgram {
    const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS, of seccomp_data.nr at 0
    const JUMP_IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_GREATER, 0, 1, LAST),
        step(
            RETURN,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(),
        ),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}
