//! pid 1 of the sandbox: sets it up, starts the step, passes signals, reaps, and at the end kills whatever the step left.
//!
//! It is dropcloth's own and never the step: a step that is pid 1 cannot be killed by its own signals.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::exec::{self, Program};
use super::message::{FromInit, ToInit, receive, send};
use super::view::{self, View};
use super::watch::Lines;
use super::watch::warden::Warden;
use super::{Entered, Ground, enter, privileges, scaffold};
use crate::error::{Doing, Fault, Result};
use crate::plan::Plan;
use crate::settings::Backend;
use crate::sys::process::{self, Ended};
use crate::sys::signal::{self, Signals};
use crate::sys::trampoline::Trampoline;
use crate::sys::{fs, seccomp, tty, userns};

/// Runs pid 1 to its end; never returns. `socket` leads to the supervisor.
pub fn main(
    plan: &Plan,
    ground: &Ground,
    trampoline: &Trampoline,
    socket: &OwnedFd,
    mapped: OwnedFd,
    lines: Option<Lines>,
) -> ! {
    let code = match become_mapped(plan, mapped).and_then(|()| run(plan, ground, trampoline, socket.as_fd(), lines)) {
        Ok(()) => 0,
        Err(error) => {
            // Not told twice: if even this message does not arrive, the supervisor is gone.
            let _ = send(socket.as_fd(), &FromInit::Failed(Fault::from_error(error)), None);
            125
        }
    };
    process::exit_now(code)
}

/// Waits until the supervisor has written the id maps, and becomes root of them. Before the death signal is asked for: a
/// change of ids forgets it.
fn become_mapped(plan: &Plan, mapped: OwnedFd) -> Result<()> {
    if plan.inner_maps.is_none() {
        return Ok(());
    }
    let mut byte = [0_u8];
    if rustix::io::read(&mapped, &mut byte[..])? == 0 {
        process::exit_now(125);
    }
    userns::become_root(true).doing(|| "cannot become root of the image")
}

fn run(
    plan: &Plan,
    ground: &Ground,
    trampoline: &Trampoline,
    socket: BorrowedFd<'_>,
    lines: Option<Lines>,
) -> Result<()> {
    die_with_supervisor(socket)?;
    // Its exe link is the host's binary (CVE-2019-5736): without this, a root step could open it through /proc/1/exe.
    process::undumpable()?;
    let signals = Signals::block(&[libc::SIGCHLD])?;
    for number in [libc::SIGTTOU, libc::SIGTTIN, libc::SIGTSTP, libc::SIGHUP, libc::SIGPIPE] {
        signal::ignore(number);
    }
    let entered = enter(plan, ground, socket)?;
    nix::unistd::setsid().doing(|| "cannot start a session")?;
    let terminal = entered.terminal.as_ref().map(|(_, slave)| slave.as_fd());
    if let Some(slave) = terminal {
        tty::take_control(slave)?;
    }
    if let Some(relay) = &ground.inputs.relay {
        view::send_listener(relay.as_fd()).doing(|| "cannot listen for the record of the step")?;
    }
    let mut view = View::open(plan)?;
    let program = Program::find(plan, view.as_ref().and_then(View::port))?;
    let mut warden = Warden::start(plan, lines)?;
    let step = start(&Step { plan, trampoline, terminal, warden: warden.as_ref() }, &program)?;
    if let Some((master, _)) = &entered.terminal {
        send(socket, &FromInit::Running, Some(master.as_fd()))?;
    }
    let ended = wait(socket, &signals, step, &mut Beside { view: view.as_mut(), warden: warden.as_mut() })?;
    let unwatched = warden.is_some_and(|warden| warden.gone);
    let alone = kill_all();
    // A copy is synced before it is exchanged, and the image itself by whoever wants that; here it would write out the whole
    // file system, also for what is discarded.
    let lost = if plan.backend == Some(Backend::Overlay) { lost_data(&entered) } else { None };
    let touched = match &entered.bound {
        Some(bound) => scaffold::touched_in_memory(plan, bound.files.as_fd(), bound.laid_at)?,
        None => Vec::new(),
    };
    send(socket, &FromInit::Ended { ended, lost, touched, unwatched, alone }, None)
}

/// The kernel kills this process when the supervisor dies, and with pid 1 the whole namespace. A supervisor that died before
/// the call is found by its closed socket.
fn die_with_supervisor(socket: BorrowedFd<'_>) -> Result<()> {
    process::die_with_parent()?;
    let mut wait = [PollFd::new(socket, PollFlags::POLLIN)];
    poll(&mut wait, PollTimeout::ZERO)?;
    if wait[0].revents().is_some_and(|r| r.contains(PollFlags::POLLHUP)) {
        process::exit_now(125);
    }
    Ok(())
}

/// What the process of the step is made with.
struct Step<'a> {
    plan: &'a Plan,
    trampoline: &'a Trampoline,
    terminal: Option<BorrowedFd<'a>>,
    warden: Option<&'a Warden>,
}

/// Starts the step and waits until its exec has succeeded or failed.
fn start(step: &Step<'_>, program: &Program) -> Result<i32> {
    let (pid, errno) = attempt(step, program)?;
    match errno {
        0 => Ok(pid),
        libc::ENOEXEC => {
            let shell = program.by_shell();
            let (pid, errno) = attempt(step, &shell)?;
            if errno == 0 { Ok(pid) } else { Err(program.failed(libc::ENOEXEC).into()) }
        }
        errno => Err(program.failed(errno).into()),
    }
}

fn attempt(step: &Step<'_>, program: &Program) -> Result<(i32, i32)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let pid = process::start_sharing(&mut || become_step(step, program, write.as_fd()))?;
    drop(write);
    let mut report = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        match rustix::io::read(&read, &mut buffer[..]) {
            Ok(0) => break,
            Ok(length) => report.extend_from_slice(&buffer[..length]),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    if report.is_empty() {
        return Ok((pid, 0));
    }
    process::wait_for(pid, 0)?;
    // Four bytes are the trampoline's errno; anything longer is a fault of the preparation.
    match <[u8; 4]>::try_from(&report[..]) {
        Ok(errno) => Ok((pid, i32::from_le_bytes(errno))),
        Err(_) => Err(serde_json::from_slice::<Fault>(&report)?.into()),
    }
}

/// The step's process before its exec: with all rights of pid 1 at first, with the step's at the end. It shares the memory of
/// pid 1, which stands still meanwhile. Returns its exit status when it could not become the step.
fn become_step(step: &Step<'_>, program: &Program, report: BorrowedFd<'_>) -> i32 {
    let prepared = prepare(step);
    // A descriptor of this process alone: that of pid 1 is not ours to close.
    let Ok(report) = rustix::io::fcntl_dupfd_cloexec(report, 0) else { return 125 };
    match (prepared, exec::at_report_fd(report)) {
        (Ok(()), Ok(report)) => {
            let errno = program.exec(step.trampoline, report.as_fd());
            let _ = rustix::io::write(&report, &errno.to_le_bytes());
            126
        }
        (Err(error), Ok(report)) => {
            let text = serde_json::to_vec(&Fault::from_error(error)).unwrap_or_default();
            let _ = rustix::io::write(&report, &text);
            125
        }
        (_, Err(_)) => 125,
    }
}

fn prepare(step: &Step<'_>) -> Result<()> {
    let plan = step.plan;
    let own = nix::unistd::Pid::from_raw(0);
    nix::unistd::setpgid(own, own).doing(|| "cannot make a process group for the step")?;
    if let Some(slave) = step.terminal {
        tty::set_foreground(slave, nix::unistd::getpid().as_raw())?;
        for number in 0..3 {
            // What the caller redirected stays redirected.
            if tty::is_terminal(number) {
                process::become_standard(slave, number)?;
            }
        }
    }
    work_in(&plan.workdir)?;
    if plan.suppress_chown {
        seccomp::succeed(seccomp::CHOWN).doing(|| "cannot keep chown from the step")?;
    }
    if plan.suppress_sync {
        seccomp::succeed(seccomp::SYNC).doing(|| "cannot keep fsync from the step")?;
    }
    if let Some(warden) = step.warden {
        warden.watch_me()?;
    }
    privileges::lower(&plan.account, &plan.capabilities)?;
    process::close_on_exec_from(3)?;
    signal::reset_for_step();
    Ok(())
}

/// CVE-2024-21626: the working directory has to be inside the root; a handle on a directory outside would not be.
fn work_in(directory: &Path) -> Result<()> {
    std::env::set_current_dir(directory).map_err(|e| {
        Fault::new(format!("cannot work in {} inside the image", directory.display()))
            .because(e.to_string())
            .hint("Name an existing directory of the image with --workdir.")
    })?;
    let shown = nix::unistd::getcwd().doing(|| "cannot tell the working directory")?;
    if shown.is_absolute() {
        return Ok(());
    }
    Err(Fault::new("the working directory lies outside the image").into())
}

/// What runs beside the step.
struct Beside<'a> {
    view: Option<&'a mut View>,
    warden: Option<&'a mut Warden>,
}

impl Beside<'_> {
    fn ended(&mut self, pid: i32) {
        if let Some(view) = &mut self.view {
            view.ended(pid);
        }
        if let Some(warden) = &mut self.warden {
            warden.ended(pid);
        }
    }
}

/// Waits for the step's end, reaping what it left and passing signals.
fn wait(socket: BorrowedFd<'_>, signals: &Signals, step: i32, beside: &mut Beside<'_>) -> Result<Ended> {
    loop {
        while signals.next().is_some() {}
        while let Some((pid, ended)) = reap_any()? {
            if pid == step {
                match ended {
                    Ended::Stopped(_) => send(socket, &FromInit::Stopped, None)?,
                    ended => return Ok(ended),
                }
            } else {
                beside.ended(pid);
            }
        }
        let mut wait = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(socket, PollFlags::POLLIN)];
        wait.extend(beside.view.as_ref().and_then(|v| v.waiting()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut wait, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        let ready = |place: usize| wait.get(place).and_then(PollFd::revents).is_some_and(|r| !r.is_empty());
        let (message, client) = (ready(1), ready(2));
        if client && let Some(view) = &mut beside.view {
            view.start()?;
        }
        if message {
            match receive::<ToInit>(socket)? {
                Some((ToInit::Signal(number), _)) => process::kill(-step, number),
                Some((ToInit::Kill, _)) => process::kill(-1, libc::SIGKILL),
                // It was waited for before the step.
                Some((ToInit::Place(..), _)) => {}
                // The supervisor is gone: the death signal is on its way.
                None => process::exit_now(125),
            }
        }
    }
}

fn reap_any() -> Result<Option<(i32, Ended)>> {
    match process::reap() {
        Err(error) if error.errno == libc::ECHILD => Ok(None),
        other => Ok(other?),
    }
}

/// Daemons and forgotten children hold files open and mounts busy: none survives its step. Returns whether none is left; one
/// that entered the namespace from outside is not ours to wait for.
fn kill_all() -> bool {
    process::kill(-1, libc::SIGKILL);
    while process::wait_for(-1, 0).is_ok() {}
    !process::may_signal(-1)
}

/// On a volatile overlay this writes nothing; it reports whether writing back the upper failed since the mount.
fn lost_data(entered: &Entered) -> Option<String> {
    fs::syncfs(entered.root.as_fd()).err().map(|error| error.to_string())
}
