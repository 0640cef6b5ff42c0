//! The process of a view of indexes: forked before the sandbox is there, so that it stands outside, and ended with the run.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::privileges;
use crate::error::{Doing, Result};
use crate::host::caller::Caller;
use crate::image::account::Account;
use crate::mirror::relay::Relay;
use crate::mirror::relay::answer::{self, View};
use crate::mirror::relay::record::Record;
use crate::sys::process::{self, Forked};
use crate::sys::{signal, socket};

/// Nobody, in every distribution.
const NOBODY: u32 = 65_534;

/// Nobody reads more, bytes.
const MOST_FAULTS: usize = 1 << 16;

/// A view at work; it ends when this goes, and with this process however that ends.
#[derive(Debug)]
pub struct Running {
    pid: i32,
    faults: File,
    /// Where the sandbox sends the listener of its own network.
    pub socket: Option<Arc<OwnedFd>>,
}

/// Starts the process of a view. This one must have one thread.
///
/// # Errors
/// The record cannot be written, or no process can be made.
pub fn start(relay: Relay) -> Result<Running> {
    let record = relay.record.as_deref().map(Record::create).transpose()?;
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let faults = rustix::fs::memfd_create("dropcloth-view", flags).doing(|| "cannot make a file in memory")?;
    let faults = File::from(faults);
    let (ours, theirs) = socket::pair()?;
    let own_network = relay.is_for_own_network();
    let view_faults = faults.try_clone()?;
    match process::fork()? {
        Forked::Child => {
            drop(ours);
            let code = if run(relay, record, view_faults, theirs).is_ok() { 0 } else { 125 };
            process::exit_now(code)
        }
        Forked::Parent { pid, .. } => Ok(Running { pid, faults, socket: own_network.then(|| Arc::new(ours)) }),
    }
}

/// The child's part. Root of the machine becomes nobody, who may read every file: the mirror may be its owner's only.
fn run(relay: Relay, record: Option<Record>, faults: File, socket: OwnedFd) -> Result<()> {
    process::die_with_parent()?;
    // Signals of the terminal are for the step.
    nix::unistd::setsid()?;
    signal::ignore(libc::SIGPIPE);
    let caller = Caller::get();
    let root = caller.uid == 0 && caller.maps.is_none();
    if root || caller.maps.is_some() {
        let id = if root { NOBODY } else { 0 };
        let account = Account { uid: id, gid: id, groups: Vec::new(), home: "/".into(), name: None };
        // Becoming another user would take the one right that is left.
        rustix::thread::set_keep_capabilities(true)?;
        privileges::lower(&account, &["CAP_DAC_READ_SEARCH".to_owned()])?;
        // A change of ids forgets it.
        process::die_with_parent()?;
    }
    process::undumpable()?;
    let (view, listener) = View::of(relay, record, faults);
    let listener = match listener {
        Some(listener) => listener,
        None => match socket::receive(socket.as_fd())? {
            (_, Some(listener)) => TcpListener::from(listener),
            // The run has ended before its network was there.
            (_, None) => return Ok(()),
        },
    };
    drop(socket);
    answer::serve(listener, &view)
}

impl Running {
    /// What went wrong with indexes so far, a line each.
    pub fn faults(&self) -> Vec<String> {
        let mut text = vec![0; MOST_FAULTS];
        // By place: the place of the descriptor itself is the child's, who writes there.
        let length = self.faults.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        lines
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        process::kill(self.pid, libc::SIGKILL);
        let _ = process::wait_for(self.pid, 0);
    }
}
