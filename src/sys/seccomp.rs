//! A filter that lets system calls succeed without doing anything, seccomp(2).

use super::error::{SysResult, check};

/// chown(2) in all its forms.
#[cfg(target_arch = "x86_64")]
pub const CHOWN: &[libc::c_long] = &[libc::SYS_chown, libc::SYS_lchown, libc::SYS_fchown, libc::SYS_fchownat];
/// chown(2) in all its forms.
#[cfg(target_arch = "aarch64")]
pub const CHOWN: &[libc::c_long] = &[libc::SYS_fchown, libc::SYS_fchownat];

/// AUDIT_ARCH_X86_64, linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
/// AUDIT_ARCH_AARCH64, linux/audit.h.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// From now on these calls of this process and its children return 0. The filter is read once by the kernel. Calls of another
/// architecture (a 32-bit program) pass unfiltered. Needs CAP_SYS_ADMIN in the user namespace: no_new_privs would take set-uid
/// programs from the step.
pub fn succeed(calls: &[libc::c_long]) -> SysResult<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = vec![
        statement(load, ARCH),
        libc::sock_filter { code: equal as u16, jt: 1, jf: 0, k: ARCHITECTURE },
        statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW),
        statement(load, NUMBER),
    ];
    for (place, call) in calls.iter().enumerate() {
        // Over the calls that follow and the ALLOW, to the return that says success.
        let over = u8::try_from(calls.len() - place).unwrap_or(u8::MAX);
        let number = u32::try_from(*call).unwrap_or(u32::MAX);
        program.push(libc::sock_filter { code: equal as u16, jt: over, jf: 0, k: number });
    }
    program.push(statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW));
    // SECCOMP_RET_ERRNO with errno 0: the call is not made and returns 0.
    program.push(statement(libc::BPF_RET, libc::SECCOMP_RET_ERRNO));
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap_or(0), filter: program.as_mut_ptr() };
    // SAFETY: `filter` points at `program`, both outlive the call, and the kernel copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    check(result, || "seccomp(SECCOMP_SET_MODE_FILTER)".to_owned()).map(drop)
}
