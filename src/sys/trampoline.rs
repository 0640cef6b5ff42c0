//! The last thing a new step runs of dropcloth: a program of a few dozen bytes in a sealed memory file.
//!
//! A step that executes `#!/proc/self/exe` gets the program that was running before the exec. Were that the host's
//! dropcloth binary, a root step could keep it open and overwrite it later (CVE-2019-5736). So the child becomes this
//! program first: `/proc/self/exe` is then a sealed memfd(2) which belongs to nobody, and nothing of the host.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

use super::error::{Called, SysResult};
use super::process;

// Started a second time, by a step that executes /proc/self/exe, it finds no descriptor 3 and ends: were it to execute its
// arguments again, `#!/proc/self/exe` would go round for ever.
//
// argv[0] of this program is the path to execute, the rest are the arguments of the step. Descriptor 3 is a pipe: it is made
// close-on-exec here, and gets the error number (four bytes) when the exec fails.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.dropcloth_trampoline, \"a\"",
    ".globl dropcloth_trampoline_start",
    ".globl dropcloth_trampoline_end",
    "dropcloth_trampoline_start:",
    "mov edi, 3",
    "mov esi, 2",
    "mov edx, 1",
    "mov eax, 72", // fcntl(3, F_SETFD, FD_CLOEXEC)
    "syscall",
    "test eax, eax",
    "js 2f",
    "mov rcx, [rsp]",
    "mov rdi, [rsp + 8]",
    "lea rsi, [rsp + 16]",
    "lea rdx, [rsp + rcx*8 + 16]",
    "mov eax, 59", // execve(argv[0], &argv[1], envp)
    "syscall",
    "neg eax",
    "push rax",
    "mov edi, 3",
    "mov rsi, rsp",
    "mov edx, 4",
    "mov eax, 1", // write(3, &errno, 4)
    "syscall",
    "2:",
    "mov edi, 126",
    "mov eax, 231", // exit_group(126)
    "syscall",
    "ud2",
    "dropcloth_trampoline_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata.dropcloth_trampoline, \"a\"",
    ".globl dropcloth_trampoline_start",
    ".globl dropcloth_trampoline_end",
    ".p2align 2",
    "dropcloth_trampoline_start:",
    "mov x0, #3",
    "mov x1, #2",
    "mov x2, #1",
    "mov x8, #25", // fcntl(3, F_SETFD, FD_CLOEXEC)
    "svc #0",
    "tbnz w0, #31, 2f",
    "ldr x3, [sp]",
    "ldr x0, [sp, #8]",
    "add x1, sp, #16",
    "add x2, sp, x3, lsl #3",
    "add x2, x2, #16",
    "mov x8, #221", // execve(argv[0], &argv[1], envp)
    "svc #0",
    "neg w0, w0",
    "str x0, [sp, #-16]!",
    "mov x0, #3",
    "mov x1, sp",
    "mov x2, #4",
    "mov x8, #64", // write(3, &errno, 4)
    "svc #0",
    "2:",
    "mov x0, #126",
    "mov x8, #94", // exit_group(126)
    "svc #0",
    "udf #0",
    "dropcloth_trampoline_end:",
    ".popsection",
);

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("dropcloth has an exec trampoline for x86_64 and aarch64 only: add yours to src/sys/trampoline.rs");

unsafe extern "C" {
    static dropcloth_trampoline_start: u8;
    static dropcloth_trampoline_end: u8;
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// The descriptor on which the trampoline reports a failed exec.
pub const REPORT_FD: i32 = 3;

fn code() -> &'static [u8] {
    // SAFETY: the two symbols are the ends of one run of bytes in read-only data, defined just above.
    unsafe {
        let (start, end) = (&raw const dropcloth_trampoline_start, &raw const dropcloth_trampoline_end);
        std::slice::from_raw_parts(start, end as usize - start as usize)
    }
}

/// A whole ELF executable (see elf(5)): file header, one loadable segment, the code.
fn elf() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let length = HEADERS + code().len() as u64;
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.extend_from_slice(&2_u16.to_le_bytes()); // ET_EXEC
    out.extend_from_slice(&MACHINE.to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    for value in [BASE + HEADERS, 64, 0] {
        out.extend_from_slice(&value.to_le_bytes()); // entry, program headers, no section headers
    }
    out.extend_from_slice(&0_u32.to_le_bytes());
    for value in [64_u16, 56, 1, 0, 0, 0] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&1_u32.to_le_bytes()); // PT_LOAD
    out.extend_from_slice(&5_u32.to_le_bytes()); // readable, executable
    for value in [0, BASE, BASE, length, length, 0x1_0000] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(code());
    out
}

/// The program as a sealed memory file.
pub struct Trampoline(OwnedFd);

impl Trampoline {
    /// Makes the file. It is made before the sandbox is entered, so that a refusal is dropcloth's own failure.
    pub fn make() -> SysResult<Trampoline> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // KERNEL(6.3): vm.memfd_noexec can make memory files not executable unless MFD_EXEC is said; before 6.3 that flag is
        // EINVAL. See memfd_create(2).
        let file = match rustix::fs::memfd_create("dropcloth", flags | MemfdFlags::EXEC) {
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("dropcloth", flags),
            other => other,
        }
        .called(|| "memfd_create(\"dropcloth\", MFD_EXEC)")?;
        let bytes = elf();
        let written = rustix::io::write(&file, &bytes).called(|| "write(memfd)")?;
        debug_assert_eq!(written, bytes.len());
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals).called(|| "fcntl(memfd, F_ADD_SEALS)")?;
        Ok(Trampoline(file))
    }

    /// Becomes the step: `path` with `arguments` and `environment`. A failure of the trampoline's own exec is written to
    /// `report` (which has to be descriptor [`REPORT_FD`]) by it; a failure to become the trampoline is returned as errno.
    pub fn exec(&self, report: BorrowedFd<'_>, path: &CString, arguments: &[CString], environment: &[CString]) -> i32 {
        debug_assert_eq!(report.as_raw_fd(), REPORT_FD);
        if let Err(error) = process::keep_on_exec(report) {
            return error.errno;
        }
        let all: Vec<CString> = std::iter::once(path.clone()).chain(arguments.iter().cloned()).collect();
        process::exec_fd(self.0.as_fd(), &all, environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_an_executable_of_this_machine_and_small() {
        let bytes = elf();
        assert_eq!(&bytes[..4], b"\x7fELF");
        assert_eq!(u16::from_le_bytes([bytes[18], bytes[19]]), MACHINE);
        assert!(bytes.len() < 300, "{} bytes", bytes.len());
    }
}
