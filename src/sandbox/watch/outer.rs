//! The side of the supervisor: it collects escapes, and starts the door, a process in the caller's network.

use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Lines;
use crate::error::Result;
use crate::escape::Escape;
use crate::image::account::Account;
use crate::plan::{Door, Watch};
use crate::proxy::outside::Outside;
use crate::proxy::upstream::Upstream;
use crate::proxy::{Answer, Ask};
use crate::sandbox::message::{receive, send};
use crate::sandbox::privileges;
use crate::sys::process::{self, Forked};
use crate::sys::socket;

/// Connections that are opened at a time.
const OPENING: usize = 256;

/// The supervisor's ends.
#[derive(Debug)]
pub struct Outer {
    records: OwnedFd,
    door: Option<i32>,
    escapes: Vec<Escape>,
}

impl Outer {
    /// Starts what is outside, and returns what goes into the sandbox. The process must have one thread.
    pub fn start(watch: &Watch) -> Result<(Outer, Lines)> {
        let (ours, records) = socket::pair()?;
        let (door, asks) = watch.door.as_ref().map(start_door).transpose()?.unzip();
        Ok((Outer { records: ours, door, escapes: Vec::new() }, Lines { records, asks }))
    }

    /// What to poll.
    pub fn waiting(&self) -> BorrowedFd<'_> {
        self.records.as_fd()
    }

    /// Takes what is there.
    pub fn take(&mut self) -> Result<()> {
        loop {
            let mut wait = [PollFd::new(self.records.as_fd(), PollFlags::POLLIN)];
            if poll(&mut wait, PollTimeout::ZERO)? == 0 {
                return Ok(());
            }
            let Some((escape, _)) = receive::<Escape>(self.records.as_fd())? else { return Ok(()) };
            if !self.escapes.iter().any(|known| known.repeats(&escape)) {
                self.escapes.push(escape);
            }
        }
    }

    /// Ends the door, and returns all escapes. The sandbox must be gone.
    pub fn finish(mut self) -> Result<Vec<Escape>> {
        self.take()?;
        Ok(std::mem::take(&mut self.escapes))
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        if let Some(pid) = self.door {
            process::kill(pid, libc::SIGKILL);
            let _ = process::wait_for(pid, 0);
        }
    }
}

/// Forks the door. Returns its pid, and the socket on which it is asked.
fn start_door(door: &Door) -> Result<(i32, OwnedFd)> {
    let (ours, theirs) = socket::pair()?;
    let variable = |name: &str| std::env::var(name).ok();
    let outside = Outside { admitted: door.admitted.clone(), upstream: Upstream::of(&variable) };
    match process::fork()? {
        Forked::Parent { pid, .. } => Ok((pid, theirs)),
        Forked::Child => {
            drop(theirs);
            let code = if keep_door(outside, &ours).is_ok() { 0 } else { 125 };
            process::exit_now(code)
        }
    }
}

/// The door: in the caller's network and file system, without any right but its user's. Ends with the sandbox or the supervisor.
fn keep_door(outside: Outside, asks: &OwnedFd) -> Result<()> {
    let account = Account { uid: 0, gid: 0, groups: Vec::new(), home: "/".into(), name: None };
    privileges::lower(&account, &[])?;
    process::undumpable()?;
    process::die_with_parent()?;
    let (outside, opening) = (Arc::new(outside), Arc::new(AtomicUsize::new(0)));
    while let Some((ask, reply)) = receive::<Ask>(asks.as_fd())? {
        let Some(reply) = reply else { continue };
        if opening.fetch_add(1, Ordering::Relaxed) >= OPENING {
            opening.fetch_sub(1, Ordering::Relaxed);
            let _ = send(reply.as_fd(), &Answer::Failed("too many connections are being opened".to_owned()), None);
            continue;
        }
        let (outside, own) = (Arc::clone(&outside), Arc::clone(&opening));
        let open = move || {
            let (answer, stream) = outside.answer(&ask);
            // Whoever asked may have gone away.
            let _ = send(reply.as_fd(), &answer, stream.as_ref().map(TcpStream::as_fd));
            own.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().spawn(open).is_err() {
            opening.fetch_sub(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
