//! Processes: clone3(2), waiting, credentials of the step, exec.

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::error::{Called, SysResult, check};

/// Which side of a fork this is.
pub enum Forked {
    /// The new process.
    Child,
    /// The old process, with the child's pid and, from [`clone_into`], its pidfd.
    Parent {
        /// The child.
        pid: i32,
        /// A descriptor that becomes readable when the child ends.
        pidfd: Option<OwnedFd>,
    },
}

/// Forks into new namespaces (`CLONE_NEW*` bits). Only to be called while the process has one thread: the child goes on with
/// the whole memory, and a lock held by another thread would stay locked in it.
pub fn clone_into(namespaces: libc::c_int) -> SysResult<Forked> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain data for which all zeroes is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from((namespaces | libc::CLONE_PIDFD).cast_unsigned());
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of this stack. `arguments` and `pidfd` outlive
    // the call, and the size given is that of the structure.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    let pid = check(pid, || format!("clone3({})", namespace_names(namespaces)))?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel has just made this descriptor and given it to nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd: Some(pidfd) })
}

/// Plain fork(2), under the same condition as [`clone_into`].
pub fn fork() -> SysResult<Forked> {
    // SAFETY: the callers have one thread only, so no lock can be held by a thread that the child lacks.
    match check(unsafe { libc::fork() }.into(), || "fork()".to_owned())? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd: None }),
    }
}

/// The stack of a process that shares our memory.
const SHARED_STACK: usize = 1 << 18;

/// Starts a process that shares our memory, and waits until it has become another program or has ended: vfork(2) with a stack of
/// its own. Nothing of this process's memory has to be copied for a program that will have none of it. `run` returns the exit
/// status; what it changes in memory stays changed here, and what it owns is not dropped when it becomes a program. Only to be
/// called while the process has one thread. Returns the pid.
pub fn start_sharing(run: &mut dyn FnMut() -> i32) -> SysResult<i32> {
    extern "C" fn enter(argument: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the argument is the pointer made below, valid and used by nobody else while the parent is stopped.
        let run = unsafe { &mut *argument.cast::<&mut dyn FnMut() -> i32>() };
        run()
    }
    let mut run = run;
    let mut stack: Vec<u128> = Vec::with_capacity(SHARED_STACK / size_of::<u128>());
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is ours, aligned, and grows down from its end; it and `run` outlive the sharing, since CLONE_VFORK stops
    // this process until the child has given the memory up. There is no other thread that could see it half changed. The child
    // has its own descriptors, signal handlers and working directory.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(SHARED_STACK / size_of::<u128>());
        libc::clone(enter, top.cast(), flags, (&raw mut run).cast())
    };
    let pid = check(pid.into(), || "clone(CLONE_VM|CLONE_VFORK)".to_owned())?;
    drop(stack);
    Ok(i32::try_from(pid).unwrap_or(i32::MAX))
}

fn namespace_names(namespaces: libc::c_int) -> String {
    let names = [
        (libc::CLONE_NEWUSER, "CLONE_NEWUSER"),
        (libc::CLONE_NEWNS, "CLONE_NEWNS"),
        (libc::CLONE_NEWPID, "CLONE_NEWPID"),
        (libc::CLONE_NEWIPC, "CLONE_NEWIPC"),
        (libc::CLONE_NEWUTS, "CLONE_NEWUTS"),
        (libc::CLONE_NEWNET, "CLONE_NEWNET"),
    ];
    names.iter().filter(|(bit, _)| namespaces & bit != 0).map(|(_, name)| *name).collect::<Vec<_>>().join("|")
}

/// chroot(2) to an open directory, which becomes the working directory too.
pub fn chroot(directory: BorrowedFd<'_>) -> SysResult<()> {
    rustix::process::fchdir(directory).called(|| "fchdir(root)")?;
    rustix::process::chroot(".").called(|| "chroot(\".\")")
}

/// Ends this process at once, running nothing of the parent's exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// How a child changed state, waitpid(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Ended {
    /// It called exit with this status.
    Exited(i32),
    /// It was killed by this signal.
    Signaled(i32),
    /// It was stopped by this signal (job control).
    Stopped(i32),
}

impl Ended {
    /// The status a shell would show: the exit status, or 128 + the signal's number.
    pub fn code(self) -> u8 {
        match self {
            Ended::Exited(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            Ended::Signaled(signal) | Ended::Stopped(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// Reaps one child without waiting. `Ok(None)`: none has changed. ECHILD: there are no children.
pub fn reap() -> SysResult<Option<(i32, Ended)>> {
    wait_for(-1, libc::WNOHANG | libc::WUNTRACED)
}

/// Waits for the end of `pid` (-1: any child), with waitpid's options.
pub fn wait_for(pid: i32, options: libc::c_int) -> SysResult<Option<(i32, Ended)>> {
    loop {
        let mut status: libc::c_int = 0;
        // SAFETY: `status` is valid for the write.
        let result = unsafe { libc::waitpid(pid, &raw mut status, options) };
        match check(result.into(), || format!("waitpid({pid})")) {
            Err(error) if error.errno == libc::EINTR => {}
            Err(error) => return Err(error),
            Ok(0) => return Ok(None),
            Ok(found) => return Ok(Some((i32::try_from(found).unwrap_or(-1), decode(status)))),
        }
    }
}

/// How the child `pid` ended, if it has, without reaping it: waitid(2) with WNOWAIT, which waitpid does not know.
pub fn peek(pid: i32) -> Option<Ended> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::Pid(Pid::from_raw(pid)?), options).ok()??;
    let exited = status.exit_status().map(Ended::Exited);
    exited.or_else(|| status.terminating_signal().map(Ended::Signaled))
}

fn decode(status: libc::c_int) -> Ended {
    if libc::WIFEXITED(status) {
        Ended::Exited(libc::WEXITSTATUS(status))
    } else if libc::WIFSTOPPED(status) {
        Ended::Stopped(libc::WSTOPSIG(status))
    } else {
        Ended::Signaled(libc::WTERMSIG(status))
    }
}

/// Sends `signal` to `pid` (negative: the process group, -1: everything that may be signalled). A target that is gone is no error.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: kill takes any numbers.
    unsafe { libc::kill(pid, signal) };
}

/// Whether there is a process that `pid` means, as for [`kill`], a zombie too.
pub fn may_signal(pid: i32) -> bool {
    // SAFETY: kill takes any numbers; signal 0 does nothing.
    unsafe { libc::kill(pid, 0) == 0 }
}

/// SIGKILL for this process when its parent dies, prctl(2) PR_SET_PDEATHSIG.
pub fn die_with_parent() -> SysResult<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, "PR_SET_PDEATHSIG")
}

/// Nobody but a process with CAP_SYS_PTRACE may read this process's memory, exe link or descriptors, prctl(2) PR_SET_DUMPABLE.
pub fn undumpable() -> SysResult<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")
}

/// Drops every capability that is not in `kept` (a bit each) from the bounding set, capabilities(7). The kernel's last one is
/// where it answers EINVAL.
pub fn limit_bounding_set(kept: u64) -> SysResult<()> {
    for number in (0..u64::BITS).filter(|number| kept & (1 << number) == 0) {
        match prctl(libc::PR_CAPBSET_DROP, number.into(), "PR_CAPBSET_DROP") {
            Err(error) if error.errno == libc::EINVAL => break,
            other => other?,
        }
    }
    Ok(())
}

fn prctl(option: libc::c_int, argument: libc::c_ulong, name: &str) -> SysResult<()> {
    // SAFETY: the options used take one number and touch no memory of ours.
    let result = unsafe { libc::prctl(option, argument, 0, 0, 0) };
    check(result.into(), || format!("prctl({name})")).map(drop)
}

/// umask(2): returns the one from before.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: umask takes any number, and cannot fail.
    unsafe { libc::umask(mask) }
}

/// A session keyring of its own, keyctl(2): the step must not find the caller's keys.
pub fn new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // A kernel without keys answers ENOSYS, and then there is nothing to keep from the step.
    // SAFETY: a null name makes an anonymous keyring; no memory of ours is touched.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

/// Marks every descriptor from `first` on close-on-exec, close_range(2).
pub fn close_on_exec_from(first: u32) -> SysResult<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: only the flags of descriptors change; nothing is closed behind the back of an owner.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    check(result, || format!("close_range({first}, ~0, CLOSE_RANGE_CLOEXEC)")).map(drop)
}

/// Keeps `fd` open over the next exec, under the same number.
pub fn keep_on_exec(fd: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: F_SETFD takes a number.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) };
    check(result.into(), || format!("fcntl([{}], F_SETFD, 0)", fd.as_raw_fd())).map(drop)
}

/// Gives `fd` the number `number`, close-on-exec, and closes what was there. Only for the short life of a step's process
/// before its exec: whatever else owned that number must not be used any more.
pub fn move_to(fd: OwnedFd, number: i32) -> SysResult<OwnedFd> {
    use std::os::fd::IntoRawFd;
    let old = fd.into_raw_fd();
    if old != number {
        // SAFETY: `old` is an open descriptor that was just given up by its owner, and is closed once.
        let result = unsafe {
            let result = libc::dup3(old, number, libc::O_CLOEXEC);
            libc::close(old);
            result
        };
        check(result.into(), || format!("dup3([{old}], {number})"))?;
    }
    // SAFETY: `number` is open now, and this is its only owner from here on.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `fd` standard input, output or error.
pub fn become_standard(fd: BorrowedFd<'_>, number: i32) -> SysResult<()> {
    // SAFETY: plain numbers; the three standard descriptors have no owner in Rust.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    check(result.into(), || format!("dup2([{}], {number})", fd.as_raw_fd())).map(drop)
}

/// Sets groups, group and user, in the order that keeps the right to do so until the last.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> SysResult<()> {
    // SAFETY: the pointer and the length are those of one slice; the kernel only reads it.
    let result = unsafe { libc::setgroups(groups.len(), groups.as_ptr()) };
    match check(result.into(), || format!("setgroups({groups:?})")) {
        // user_namespaces(7): where one id is mapped, groups can be neither given nor taken.
        Err(error) if error.errno == libc::EPERM && setgroups_denied() => {}
        other => drop(other?),
    }
    // SAFETY: plain numbers.
    check(unsafe { libc::setresgid(gid, gid, gid) }.into(), || format!("setresgid({gid})"))?;
    // SAFETY: plain numbers.
    check(unsafe { libc::setresuid(uid, uid, uid) }.into(), || format!("setresuid({uid})")).map(drop)
}

fn setgroups_denied() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|word| word.trim() == "deny")
}

/// execveat(2) of an open file. Returns only on failure, with errno.
pub fn exec_fd(file: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> i32 {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and point at NUL-terminated strings that are borrowed for the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Becomes the command, as execvp(3). Returns the error number.
pub fn exec_path(command: &[OsString], environment: &[(OsString, OsString)]) -> i32 {
    let word = |text: &OsString| CString::new(text.as_bytes()).unwrap_or_default();
    let words: Vec<CString> = command.iter().map(word).collect();
    let pair = |(name, value): &(OsString, OsString)| {
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).unwrap_or_default()
    };
    let variables: Vec<CString> = environment.iter().map(pair).collect();
    let Err(error) = nix::unistd::execvpe(&words[0], &words, &variables);
    error as i32
}

/// How many threads are worth starting for work on many files, this one included: one a processor, and no more than four, which
/// wait for the file system's journal already.
pub fn worth_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// Raises this process's limit of open files to what it may have. Not before the step has ended: it would inherit it.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Refused in no known case; then a tree deeper than the old limit is an error of its own.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
