//! User namespaces: user_namespaces(7), newuidmap(1).

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use super::error::{SysError, SysResult, check};
use super::process::{self, Forked};

/// One line of an id map: first id inside, first id outside, how many.
pub type Line = (u32, u32, u32);

/// Whoever has no id in a user namespace: /proc/sys/kernel/overflowuid, as it is everywhere.
pub const OVERFLOW_ID: u32 = 65_534;

/// Moves this process into a new user namespace. Its ids are unmapped until the maps are written.
pub fn unshare() -> SysResult<()> {
    // SAFETY: unshare takes flags only. The process has one thread, which CLONE_NEWUSER asks for.
    let result = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    check(result.into(), || "unshare(CLONE_NEWUSER)".to_owned()).map(|_| ())
}

/// Moves this process into a mount namespace of its own.
pub fn unshare_mounts() -> SysResult<()> {
    // SAFETY: unshare takes flags only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into(), || "unshare(CLONE_NEWNS)".to_owned()).map(|_| ())
}

/// A child that stayed outside, to write the maps with newuidmap(1) and newgidmap(1).
pub struct Mapper {
    go: OwnedFd,
    answer: OwnedFd,
    pid: i32,
}

impl Mapper {
    /// Forks it. The process must have one thread.
    pub fn start(users: &[Line], groups: &[Line]) -> SysResult<Mapper> {
        let pipe = || {
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|e| SysError::new("pipe2()", e.raw_os_error()))
        };
        let ((wait, go), (answer, tell)) = (pipe()?, pipe()?);
        let target = std::process::id();
        match process::fork()? {
            Forked::Parent { pid, .. } => Ok(Mapper { go, answer, pid }),
            Forked::Child => {
                drop((go, answer));
                let mut byte = [0_u8];
                if std::fs::File::from(wait).read_exact(&mut byte).is_ok() {
                    let said = write_maps(target, users, groups).err().unwrap_or_default();
                    let _ = std::fs::File::from(tell).write_all(said.as_bytes());
                }
                process::exit_now(0)
            }
        }
    }

    /// Lets it write the maps; the error is what the programs said.
    pub fn finish(self) -> Result<(), String> {
        let mut said = String::new();
        let result = std::fs::File::from(self.go)
            .write_all(b"x")
            .and_then(|()| std::fs::File::from(self.answer).read_to_string(&mut said));
        let _ = process::wait_for(self.pid, 0);
        result.map_err(|error| error.to_string())?;
        if said.is_empty() { Ok(()) } else { Err(said) }
    }
}

#[expect(clippy::disallowed_methods, reason = "only a set-uid program may map subordinate ids, user_namespaces(7)")]
fn write_maps(target: u32, users: &[Line], groups: &[Line]) -> Result<(), String> {
    // Both at once: each is a program to start.
    let started = [("newuidmap", users), ("newgidmap", groups)].map(|(program, lines)| {
        let numbers = lines.iter().flat_map(|(inside, outside, count)| [inside, outside, count]);
        let mut command = Command::new(program);
        command.arg(target.to_string()).args(numbers.map(u32::to_string));
        (program, command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn())
    });
    let mut result = Ok(());
    for (program, child) in started {
        let said = match child.and_then(std::process::Child::wait_with_output) {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        result = result.and(Err(format!("{program}: {said}")));
    }
    result
}

/// Writes the maps of `pid` (`self` for this process) directly: allowed for one's own id alone, or with CAP_SETUID outside.
pub fn write_directly(pid: &str, users: &[Line], groups: &[Line], keep_setgroups: bool) -> SysResult<()> {
    let write = |name: &str, text: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::write(&path, text)
            .map_err(|e| SysError::new(format!("write({path:?})"), e.raw_os_error().unwrap_or(libc::EIO)))
    };
    let text = |lines: &[Line]| lines.iter().map(|(i, o, n)| format!("{i} {o} {n}\n")).collect::<String>();
    if !keep_setgroups {
        // user_namespaces(7): without it, a group could be dropped that a file's mode keeps out.
        write("setgroups", "deny")?;
    }
    write("uid_map", &text(users))?;
    write("gid_map", &text(groups))
}

/// Becomes root of the namespace, in all three ids of user and group.
pub fn become_root(groups_allowed: bool) -> SysResult<()> {
    if groups_allowed {
        // SAFETY: a count of zero reads no list.
        check(unsafe { libc::setgroups(0, std::ptr::null()) }.into(), || "setgroups(0)".to_owned())?;
    }
    // SAFETY: these take numbers only.
    check(unsafe { libc::setresgid(0, 0, 0) }.into(), || "setresgid(0)".to_owned())?;
    // SAFETY: as above.
    check(unsafe { libc::setresuid(0, 0, 0) }.into(), || "setresuid(0)".to_owned())?;
    // A change of ids makes a process undumpable, and its files in /proc somebody else's.
    // SAFETY: prctl with these arguments takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }.into(), || "prctl(PR_SET_DUMPABLE)".to_owned())?;
    Ok(())
}
