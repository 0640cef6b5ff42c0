//! A filter that lets system calls succeed without doing anything, seccomp(2).

use super::error::{SysResult, check};

/// A call that a filter lets succeed.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    number: libc::c_long,
    /// Only when this argument, counted from 0, has one of these bits.
    only: Option<(u32, u32)>,
}

const fn always(number: libc::c_long) -> Call {
    Call { number, only: None }
}

/// chown(2) in all its forms.
#[cfg(target_arch = "x86_64")]
pub const CHOWN: &[Call] =
    &[always(libc::SYS_chown), always(libc::SYS_lchown), always(libc::SYS_fchown), always(libc::SYS_fchownat)];
/// chown(2) in all its forms.
#[cfg(target_arch = "aarch64")]
pub const CHOWN: &[Call] = &[always(libc::SYS_fchown), always(libc::SYS_fchownat)];

/// What waits for a disk. msync(2) only where it does: without MS_SYNC programs use it to ask whether memory is mapped.
pub const SYNC: &[Call] = &[
    always(libc::SYS_fsync),
    always(libc::SYS_fdatasync),
    always(libc::SYS_sync_file_range),
    always(libc::SYS_sync),
    always(libc::SYS_syncfs),
    Call { number: libc::SYS_msync, only: Some((2, libc::MS_SYNC.cast_unsigned())) },
];

/// AUDIT_ARCH_X86_64, linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
/// AUDIT_ARCH_AARCH64, linux/audit.h.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// The lower half of the first argument, and the size of one: both architectures are little-endian.
const ARGUMENTS: u32 = 16;
const ARGUMENT: u32 = 8;

/// From now on these calls of this process and its children return 0. The filter is read once by the kernel. Calls of another
/// architecture (a 32-bit program) pass unfiltered. Needs CAP_SYS_ADMIN in the user namespace: no_new_privs would take set-uid
/// programs from the step.
pub fn succeed(calls: &[Call]) -> SysResult<()> {
    let mut program = program(calls);
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap_or(0), filter: program.as_mut_ptr() };
    // SAFETY: `filter` points at `program`, both outlive the call, and the kernel copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    check(result, || "seccomp(SECCOMP_SET_MODE_FILTER)".to_owned()).map(drop)
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn load(k: u32) -> libc::sock_filter {
    jump(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, k, 0, 0)
}

fn unless(test: u32, k: u32, skipped: u8) -> libc::sock_filter {
    jump(libc::BPF_JMP | test | libc::BPF_K, k, 0, skipped)
}

fn answer(k: u32) -> libc::sock_filter {
    jump(libc::BPF_RET, k, 0, 0)
}

/// What every filter begins with: another architecture passes, and the call's number is loaded.
fn beginning() -> Vec<libc::sock_filter> {
    let same = jump(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, ARCHITECTURE, 1, 0);
    vec![load(ARCH), same, answer(libc::SECCOMP_RET_ALLOW), load(NUMBER)]
}

/// Tells of connect(2), and of sendto(2) where its fifth argument, the address, is not null: without one it is send(2).
pub(super) fn notifying() -> Vec<libc::sock_filter> {
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let (tell, allow) = (answer(libc::SECCOMP_RET_USER_NOTIF), answer(libc::SECCOMP_RET_ALLOW));
    let address = ARGUMENTS + ARGUMENT * 4;
    let mut program = beginning();
    program.extend([unless(libc::BPF_JEQ, number(libc::SYS_connect), 1), tell]);
    // Six more to the end.
    program.push(unless(libc::BPF_JEQ, number(libc::SYS_sendto), 6));
    for half in [address, address + ARGUMENT / 2] {
        program.extend([load(half), unless(libc::BPF_JSET, u32::MAX, 1), tell]);
    }
    program.push(allow);
    program
}

fn program(calls: &[Call]) -> Vec<libc::sock_filter> {
    let allow = answer(libc::SECCOMP_RET_ALLOW);
    // SECCOMP_RET_ERRNO with errno 0: the call is not made and returns 0.
    let success = answer(libc::SECCOMP_RET_ERRNO);
    let mut program = beginning();
    for call in calls {
        let number = u32::try_from(call.number).unwrap_or(u32::MAX);
        match call.only {
            None => program.extend([unless(libc::BPF_JEQ, number, 1), success]),
            Some((argument, bits)) => program.extend([
                unless(libc::BPF_JEQ, number, 4),
                load(ARGUMENTS + ARGUMENT * argument),
                unless(libc::BPF_JSET, bits, 1),
                success,
                allow,
            ]),
        }
    }
    program.push(allow);
    program
}
