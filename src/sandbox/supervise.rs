//! The supervisor: the process the user started. It makes the sandbox, relays signals and the terminal, and waits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message::{FromInit, ToInit, receive, send};
use super::tty::Relay;
use super::watch::outer::Outer;
use super::writeback::{self, Writeback};
use super::{Ground, init};
use crate::error::{Doing, Fault, Result};
use crate::escape::Escape;
use crate::host::ids::Extent;
use crate::image::{Identity, Inside};
use crate::plan::Plan;
use crate::settings::{self, Backend, Network};
use crate::sys::process::{self, Ended, Forked};
use crate::sys::signal::{self, Signals};
use crate::sys::trampoline::Trampoline;
use crate::sys::userns;

/// A transaction that was made for the step.
#[derive(Debug, Default)]
pub struct Begun {
    /// Where it is; none: the sandbox knows.
    pub place: Option<(PathBuf, Identity)>,
    /// Open on the file system that the step writes to, where all of it will be on the disk before dropcloth ends.
    pub written: Option<OwnedFd>,
}

/// Makes a transaction.
pub type Begin<'a> = dyn FnMut() -> Result<Begun> + 'a;

/// How a run of the sandbox ended.
#[derive(Debug)]
pub struct Outcome {
    /// The step's end.
    pub ended: Ended,
    /// Data that the kernel could not write back: such a step must not be committed.
    pub lost: Option<String>,
    /// Overrides in memory that the step wrote to.
    pub touched: Vec<Inside>,
    /// The first INT or TERM that dropcloth itself got during the step.
    pub interrupted: Option<i32>,
    /// Hosts that it asked for and did not get, where they are told.
    pub escapes: Vec<Escape>,
    /// The step ended what watches its network, so some may be missing.
    pub unwatched: bool,
    /// It must not have asked for them, or for what nobody knows.
    pub escaped: bool,
    /// Its first process, where that has nothing to do any more but to take the mounts apart.
    pub leaving: Option<Leaving>,
}

/// The first process of a sandbox on its way out, alone: what the step wrote is as it will be. Dropped, it is waited for.
#[derive(Debug)]
pub struct Leaving(i32);

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = process::wait_for(self.0, 0);
    }
}

/// Blocks the signals that are passed on to the step. To be called before anything is made that a signal's default, the end
/// of this process, would leave behind; they stay blocked until dropcloth ends.
pub fn hold_signals() -> Result<Signals> {
    let mut watched = signal::FORWARDED.to_vec();
    watched.push(libc::SIGCONT);
    Ok(Signals::block(&watched)?)
}

/// Runs the step of `plan`. The process must have one thread, and `signals` held.
///
/// `begin` makes the transaction meanwhile, where it is [`Place::Promised`](super::Place): half of the way into a root is made of
/// things in memory that wait for no disk. Where it fails, nothing has run.
pub fn run(plan: &Plan, ground: &Ground, signals: Signals, begin: &mut Begin<'_>) -> Result<Outcome> {
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if plan.network != Network::Host {
        namespaces |= libc::CLONE_NEWNET;
    }
    if plan.inner_maps.is_some() {
        namespaces |= libc::CLONE_NEWUSER;
    }
    let trampoline = Trampoline::make()?;
    let (outer, lines) = plan.watch.as_ref().map(Outer::start).transpose()?.unzip();
    let (wait, mapped) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (ours, theirs) = crate::sys::socket::pair()?;
    let (pid, pidfd) = match process::clone_into(namespaces).doing(|| "cannot make the namespaces of the sandbox")? {
        Forked::Child => {
            drop((ours, mapped));
            init::main(plan, ground, &trampoline, &theirs, wait, lines)
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    // While init is at work.
    drop((theirs, trampoline, wait, lines, ground.directories.take()));
    if let Some(maps) = &plan.inner_maps {
        let lines = |extents: &[Extent]| extents.iter().map(|e| (e.inside, e.outside, e.count)).collect::<Vec<_>>();
        userns::write_directly(&pid.to_string(), &lines(&maps.users), &lines(&maps.groups), true)
            .doing(|| "cannot map the ids of the image")?;
        // Closed without a word when the maps could not be written: init ends with us.
        rustix::io::write(&mapped, b"x")?;
    }
    drop(mapped);
    let begun = begin();
    let mut supervisor =
        Supervisor { socket: ours, signals, relay: None, stop: None, interrupted: None, pid, plan, outer, later: None };
    let result = begun.and_then(|begun| {
        if let Some((path, identity)) = begun.place {
            supervisor.tell(&ToInit::Place(path.into_os_string().into_vec(), identity));
        }
        supervisor.later = begun.written.map(|file| (Instant::now() + writeback::FIRST, file));
        supervisor.watch()
    });
    let outer = supervisor.outer.take();
    drop(supervisor);
    if result.is_err() {
        process::kill(pid, libc::SIGKILL);
    }
    // Only when pid 1 is gone are all mounts of the sandbox gone, and where it was not alone, all processes.
    let leaving = Leaving(pid);
    drop(pidfd);
    let (mut outcome, alone) = result?;
    if alone && ground.scaffold_in_memory && plan.backend == Some(Backend::Overlay) && outer.is_none() {
        outcome.leaving = Some(leaving);
    } else {
        drop(leaving);
    }
    outcome.escapes = outer.map(Outer::finish).transpose()?.unwrap_or_default();
    let forbidden = plan.watch.as_ref().is_some_and(|watch| watch.escape == settings::Escape::Fail);
    outcome.escaped = forbidden && (outcome.unwatched || !outcome.escapes.is_empty());
    Ok(outcome)
}

struct Supervisor<'a> {
    socket: OwnedFd,
    signals: Signals,
    relay: Option<Relay>,
    /// When the step is killed, after a first INT or TERM.
    stop: Option<Instant>,
    interrupted: Option<i32>,
    pid: i32,
    plan: &'a Plan,
    outer: Option<Outer>,
    /// When what the step writes begins to go to the disk.
    later: Option<(Instant, OwnedFd)>,
}

impl Supervisor<'_> {
    /// Returns how it ended, and whether pid 1 is alone in its namespace.
    fn watch(&mut self) -> Result<(Outcome, bool)> {
        let mut writeback = None;
        loop {
            let ready = self.poll()?;
            if let Some((_, file)) = self.later.take_if(|(when, _)| Instant::now() >= *when) {
                writeback = Writeback::start(file);
            }
            if ready.signal {
                while let Some(number) = self.signals.next() {
                    self.signal(number)?;
                }
            }
            if self.stop.is_some_and(|when| Instant::now() >= when) {
                self.stop = None;
                self.tell(&ToInit::Kill);
            }
            if ready.message
                && let Some(outcome) = self.message()?
            {
                drop(writeback);
                return Ok(outcome);
            }
            if let Some(outer) = self.outer.as_mut().filter(|_| ready.escape) {
                outer.take()?;
            }
            if let Some(relay) = &mut self.relay {
                relay.pump(ready.keyboard, ready.screen);
            }
        }
    }

    fn poll(&mut self) -> Result<Ready> {
        let timeout = self.stop.into_iter().chain(self.later.as_ref().map(|(when, _)| *when)).min();
        let timeout = timeout.map_or(PollTimeout::NONE, |when| {
            let left = when.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut list = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(relay) = &self.relay {
            list.extend(relay.descriptors().map(|fd: BorrowedFd<'_>| PollFd::new(fd, PollFlags::POLLIN)));
        }
        let watched = list.len();
        list.extend(self.outer.as_ref().map(|outer| PollFd::new(outer.waiting(), PollFlags::POLLIN)));
        match poll(&mut list, timeout) {
            Err(nix::errno::Errno::EINTR) => return Ok(Ready::default()),
            other => other.doing(|| "cannot wait for the step")?,
        };
        let at = |i: usize| list.get(i).and_then(PollFd::revents).is_some_and(|r| !r.is_empty());
        let relayed = |i: usize| i < watched && at(i);
        Ok(Ready { signal: at(0), message: at(1), screen: relayed(2), keyboard: relayed(3), escape: at(watched) })
    }

    fn signal(&mut self, number: i32) -> Result<()> {
        match number {
            libc::SIGWINCH => {
                if let Some(relay) = &self.relay {
                    relay.resize();
                } else {
                    self.tell(&ToInit::Signal(number));
                }
            }
            libc::SIGCONT => {
                if let Some(relay) = &mut self.relay {
                    relay.resume()?;
                }
                self.tell(&ToInit::Signal(libc::SIGCONT));
            }
            libc::SIGINT | libc::SIGTERM if self.interrupted.is_some() => self.tell(&ToInit::Kill),
            number => {
                if [libc::SIGINT, libc::SIGTERM].contains(&number) {
                    self.interrupted = Some(number);
                    self.stop = Some(Instant::now() + Duration::from_secs(self.plan.grace.into()));
                }
                self.tell(&ToInit::Signal(number));
            }
        }
        Ok(())
    }

    /// A message that does not arrive means that init is gone, which the next receive finds out.
    fn tell(&self, message: &ToInit) {
        let _ = send(self.socket.as_fd(), message, None);
    }

    fn message(&mut self) -> Result<Option<(Outcome, bool)>> {
        match receive::<FromInit>(self.socket.as_fd())? {
            Some((FromInit::Running, master)) => {
                self.relay = master.map(Relay::start).transpose()?;
                Ok(None)
            }
            Some((FromInit::Stopped, _)) => {
                if let Some(relay) = &mut self.relay {
                    relay.pause();
                }
                // The step stopped itself: so do we, as a shell's job would. SIGCONT wakes both.
                process::kill(std::process::id().cast_signed(), libc::SIGSTOP);
                Ok(None)
            }
            Some((FromInit::Failed(fault), _)) => Err(fault.into()),
            Some((FromInit::Ended { ended, lost, touched, unwatched, alone }, _)) => {
                if let Some(relay) = &mut self.relay {
                    relay.drain();
                }
                let outcome = Outcome {
                    ended,
                    lost,
                    touched,
                    unwatched,
                    interrupted: self.interrupted,
                    escapes: Vec::new(),
                    escaped: false,
                    leaving: None,
                };
                Ok(Some((outcome, alone)))
            }
            None => {
                let how = process::peek(self.pid);
                let how = how.map_or_else(|| "without a word".to_owned(), |ended| format!("{ended:?}"));
                Err(Fault::new(format!("the sandbox's first process ended ({how})"))
                    .hint("It was killed from outside, or the machine is out of memory: look at `dmesg | tail`.")
                    .into())
            }
        }
    }
}

#[derive(Default)]
struct Ready {
    signal: bool,
    message: bool,
    screen: bool,
    keyboard: bool,
    escape: bool,
}
