//! The sandbox: a supervisor outside, an init that is pid 1 inside, and the step below it.
//!
//! ```text
//! supervisor ── clone3(mount, pid, ipc, uts[, net]) ──► init (pid 1): enter(), then waits ── fork ──► step
//! ```

pub mod attach;
pub mod caches;
pub mod dev;
pub mod exec;
pub mod init;
pub mod message;
pub mod mirror;
pub mod mounts;
pub mod network;
pub mod placeholders;
pub mod privileges;
pub mod proc;
pub mod relay;
pub mod scaffold;
pub mod secrets;
pub mod supervise;
pub mod tty;
pub mod view;
pub mod watch;
pub mod writeback;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Doing, Result};
use crate::image::inside::Directories;
use crate::image::{Identity, Image};
use crate::mirror::synthesise::Pages;
use crate::plan::Plan;
use crate::settings::{Backend, Network};
use crate::sys::mount;

pub use supervise::{Begin, Begun, Leaving, Outcome, hold_signals, run};

/// What init needs besides the plan: how to find the two directories again in its own mount namespace, and to be sure that
/// they are the same.
pub struct Ground {
    /// The image.
    pub image: (PathBuf, Identity),
    /// The transaction's directory.
    pub place: Place,
    /// The scaffold is made in the sandbox, in memory; else it is in the transaction already.
    pub scaffold_in_memory: bool,
    /// What was read for the step.
    pub inputs: Inputs,
    /// Directories of the image whose attributes the scaffold copies, until init takes them: they are handles on the host.
    pub directories: Cell<Directories>,
}

/// Where the transaction is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: everything is in memory.
    Memory,
    /// There.
    There(PathBuf, Identity),
    /// The supervisor makes it while init makes what stands in memory, and tells where.
    Promised,
}

/// What is read on this machine for the step, and kept in memory only.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Its secrets.
    pub secrets: Vec<secrets::Secret>,
    /// The pages that the local mirror lacks.
    pub pages: Pages,
    /// Where a listener of the step's own network is sent, for the view of the indexes.
    pub relay: Option<Arc<OwnedFd>>,
}

/// A sandbox that is entered: what init goes on with.
pub struct Entered {
    /// The merged root, kept to ask the overlay whether data was lost.
    pub root: OwnedFd,
    /// Overrides in memory that are bound over files.
    pub bound: Option<Bound>,
    /// The terminal of the step: master and slave.
    pub terminal: Option<(OwnedFd, OwnedFd)>,
}

/// Overrides in memory that are bound over files of a root in which the step works itself.
pub struct Bound {
    /// The directory that they are in.
    pub files: OwnedFd,
    /// The time that they got, seconds and nanoseconds: any other says that the step wrote to one.
    pub laid_at: (i64, i64),
}

/// Enters the sandbox. Runs in pid 1 of the new namespaces, with all rights of the caller; on success the process stands in
/// the merged root and sees nothing else of the host.
pub fn enter(plan: &Plan, ground: &Ground, socket: BorrowedFd<'_>) -> Result<Entered> {
    mount::make_all_private().doing(|| "cannot make the mounts of the sandbox private")?;
    let directories = ground.directories.take();
    // Everything of the host is opened before anything is mounted that could hide it.
    let image = Image::reopen(&ground.image.0, ground.image.1)?;
    let mut sources = mounts::open_sources(plan, &image, &ground.inputs.secrets)?;
    let mounts::Root { mount: root, bound, dev } = match plan.backend {
        None => mounts::direct_root(plan, ground, &image, socket)?,
        Some(Backend::Copy) => mounts::copied_root(plan, ground, socket)?,
        Some(_) => mounts::merged_root(plan, ground, &image, &directories, socket)?,
    };
    drop(directories);
    let terminal = mounts::make_all(plan, root.as_fd(), dev, &mut sources, &ground.inputs.pages)?;
    // Handles on the host's mounts go before the root does, and with them every way back.
    drop((sources, image));
    mount::pivot_root(root.as_fd()).doing(|| "cannot change into the merged root")?;
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(name).doing(|| format!("cannot set the host name {name:?}"))?;
    }
    if plan.network != Network::Host {
        network::loopback_up()?;
    }
    // What fsmount(2) gives is O_PATH: syncfs(2) needs the directory itself.
    let root = crate::sys::fs::open_dir(root.as_fd(), b".")?;
    Ok(Entered { root, bound, terminal })
}
