//! A framework in private mount and pid namespaces, in which chroot(8) is dropcloth's.
//!
//! ```text
//! supervisor (the caller's child, signals) ── fork ──► keeper (own session) ── clone3(mount, pid) ──► init ── fork ──► framework
//! ```
//!
//! The keeper outlives whatever kills the supervisor: it ends the pid namespace and then lets go of loop devices, which belong to
//! no namespace. When the keeper itself is killed, the kernel ends init and with it every process and mount.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::loops;
use crate::error::{Doing, Fault, Result};
use crate::sys::mount::{self, Attr, FsContext};
use crate::sys::process::{self, Ended, Forked};
use crate::sys::signal::{self, Signals};
use crate::sys::{SysResult, tty};

/// Where inside the namespace the settings are for every chroot.
pub const FLAGS: &str = "/var/lib/dropcloth/wrap/flags.json";
/// Where frameworks find chroot(8).
const CHROOTS: [&str; 4] = ["/usr/sbin/chroot", "/usr/bin/chroot", "/sbin/chroot", "/bin/chroot"];

/// File systems stamp their files by a clock that is behind by up to one of these, at 100 a second.
const TICK: Duration = Duration::from_millis(10);

/// What is wrapped.
pub struct Wrapped {
    /// dropcloth's own program.
    pub program: PathBuf,
    /// Flags for every chroot.
    pub words: Vec<String>,
    /// The mirror, which becomes read-only.
    pub mirror: Option<PathBuf>,
    /// The framework.
    pub command: Vec<OsString>,
}

/// Runs it to its end. The process must have one thread.
pub fn run(wrapped: &Wrapped) -> Result<Ended> {
    std::fs::create_dir_all(Path::new(FLAGS).parent().unwrap_or(Path::new("/")))
        .doing(|| format!("cannot make the directory of {FLAGS}"))?;
    let mut watched = signal::FORWARDED.to_vec();
    watched.extend([libc::SIGCHLD, libc::SIGCONT]);
    let signals = Signals::block(&watched)?;
    let (alive, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (result, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let keeper = match process::fork()? {
        Forked::Child => {
            drop((end, result));
            keeper(wrapped, &alive, &report)
        }
        Forked::Parent { pid, .. } => pid,
    };
    drop((alive, report));
    let first = read_pid(&result)?;
    let terminal = tty::is_terminal(0);
    loop {
        while let Some(number) = signals.next() {
            let from_terminal = [libc::SIGINT, libc::SIGQUIT, libc::SIGWINCH].contains(&number);
            if number != libc::SIGCHLD && !(terminal && from_terminal) {
                process::kill(first, number);
            }
        }
        if process::wait_for(keeper, libc::WNOHANG)?.is_some() {
            drop(end);
            return read_end(&result);
        }
        let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The pid of init, as the keeper sees it; a fault comes instead when there is none.
fn read_pid(result: &OwnedFd) -> Result<i32> {
    let mut bytes = [0_u8; 4];
    match rustix::io::read(result, &mut bytes[..]) {
        Ok(4) => Ok(i32::from_le_bytes(bytes)),
        _ => Err(Fault::new("the wrapped command could not be started").into()),
    }
}

fn read_end(result: &OwnedFd) -> Result<Ended> {
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(result.try_clone()?), &mut text)?;
    match serde_json::from_slice::<std::result::Result<Ended, Fault>>(&text) {
        Ok(Ok(ended)) => Ok(ended),
        Ok(Err(fault)) => Err(fault.into()),
        Err(_) => Err(Fault::new("whoever kept the wrapped command was killed").into()),
    }
}

/// Keeps the namespaces and clears up after them. Never returns.
fn keeper(wrapped: &Wrapped, alive: &OwnedFd, report: &OwnedFd) -> ! {
    let started = SystemTime::now() - TICK;
    let before = loops::attached();
    let result = keep(wrapped, alive, report);
    for device in loops::left(&before, started) {
        if loops::detach(&device).is_ok() {
            log::warn!("detached {}, which the command left", device.display());
        }
    }
    let text = serde_json::to_vec(&result.map_err(Fault::from_error)).unwrap_or_default();
    let _ = rustix::io::write(report, &text);
    process::exit_now(0)
}

fn keep(wrapped: &Wrapped, alive: &OwnedFd, report: &OwnedFd) -> Result<Ended> {
    // Signals of the terminal and of `kill -- -PGID` are for the command; this one goes when its work is done.
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    let (pid, pidfd) = match process::clone_into(namespaces).doing(|| "cannot make the namespaces")? {
        Forked::Child => init(wrapped),
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    nix::unistd::setsid().doing(|| "cannot start a session")?;
    rustix::io::write(report, &pid.to_le_bytes())?;
    let Some(pidfd) = pidfd else { return Err(Fault::new("there is no descriptor of the child").into()) };
    loop {
        let mut ready = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(alive.as_fd(), PollFlags::empty())];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        // The supervisor is gone: nobody waits for the command any more.
        if ready[1].revents().is_some_and(|r| !r.is_empty()) {
            process::kill(pid, libc::SIGKILL);
        }
        if let Some((_, ended)) = process::wait_for(pid, libc::WNOHANG)? {
            return Ok(ended);
        }
        if ready[1].revents().is_some_and(|r| !r.is_empty()) {
            process::wait_for(pid, 0)?;
            return Ok(Ended::Signaled(libc::SIGKILL));
        }
    }
}

/// pid 1 of the framework's namespace: mounts, starts it, passes signals, reaps. Never returns.
fn init(wrapped: &Wrapped) -> ! {
    let code = match process::die_with_parent().map_err(Into::into).and_then(|()| prepare(wrapped)) {
        Ok(()) => serve(wrapped),
        Err(error) => {
            eprintln!("dropcloth: error: {error:#}");
            125
        }
    };
    process::exit_now(code)
}

fn prepare(wrapped: &Wrapped) -> Result<()> {
    mount::make_all_slaves().doing(|| "cannot keep mounts to ourselves")?;
    guard(wrapped)?;
    settings(wrapped).doing(|| format!("cannot write {FLAGS}"))?;
    let program = mount::open_path(&wrapped.program)?;
    let mut seen = Vec::new();
    for path in CHROOTS.map(Path::new) {
        let Ok(stat) = rustix::fs::stat(path) else { continue };
        // One file by several paths, as with a merged /usr.
        if seen.contains(&(stat.st_dev, stat.st_ino)) {
            continue;
        }
        let doing = || format!("cannot put dropcloth in the place of {}", path.display());
        let bound = mount::clone_mount(program.as_fd(), false).doing(doing)?;
        mount::attach(bound.as_fd(), mount::open_path(path)?.as_fd()).doing(doing)?;
        let stat = rustix::fs::stat(path)?;
        seen.push((stat.st_dev, stat.st_ino));
    }
    let proc = FsContext::open("proc").and_then(|context| {
        context.set("source", "proc")?;
        context.mount(Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC)
    });
    let proc = proc.doing(|| "cannot make a /proc")?;
    Ok(mount::attach(proc.as_fd(), mount::open_path(Path::new("/proc"))?.as_fd())?)
}

/// Whatever a clean-up deletes through a mount that stayed: the mirror it cannot.
fn guard(wrapped: &Wrapped) -> Result<()> {
    let Some(mirror) = &wrapped.mirror else { return Ok(()) };
    let doing = || format!("cannot make {} read-only for the command", mirror.display());
    let handle = mount::open_path(mirror).doing(doing)?;
    let bound = mount::clone_mount(handle.as_fd(), true).doing(doing)?;
    mount::set_attributes(bound.as_fd(), Attr::MOUNT_ATTR_RDONLY, true).doing(doing)?;
    mount::attach(bound.as_fd(), handle.as_fd()).doing(doing)
}

fn settings(wrapped: &Wrapped) -> Result<()> {
    let context = FsContext::open("tmpfs")?;
    context.set("source", "dropcloth")?;
    context.set("mode", "0755")?;
    let mounted = context.mount(Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC)?;
    let directory = Path::new(FLAGS).parent().unwrap_or(Path::new("/"));
    mount::attach(mounted.as_fd(), mount::open_path(directory)?.as_fd())?;
    Ok(std::fs::write(FLAGS, serde_json::to_vec(&wrapped.words)?)?)
}

/// Starts the framework and waits for it; what it leaves running dies with this process.
fn serve(wrapped: &Wrapped) -> i32 {
    let mut watched = signal::FORWARDED.to_vec();
    watched.push(libc::SIGCHLD);
    let step = || -> SysResult<i32> {
        let signals = Signals::block(&watched)?;
        let child = match process::fork()? {
            Forked::Child => become_framework(wrapped),
            Forked::Parent { pid, .. } => pid,
        };
        loop {
            while let Some(number) = signals.next() {
                if number != libc::SIGCHLD {
                    process::kill(child, number);
                }
            }
            while let Ok(Some((pid, ended))) = process::reap() {
                match ended {
                    Ended::Stopped(_) => {}
                    // pid 1 of a namespace cannot die of a signal that it sends itself: the code says it.
                    ended if pid == child => return Ok(ended.code().into()),
                    _ => {}
                }
            }
            let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut ready, PollTimeout::NONE);
        }
    };
    step().unwrap_or(125)
}

fn become_framework(wrapped: &Wrapped) -> ! {
    signal::reset_for_step();
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let errno = process::exec_path(&wrapped.command, &environment);
    let text = nix::errno::Errno::from_raw(errno).desc();
    eprintln!("dropcloth: error: cannot run {}: {text}", wrapped.command[0].display());
    process::exit_now(if errno == libc::ENOENT { 127 } else { 126 })
}
