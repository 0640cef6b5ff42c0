//! `dropcloth attach` and `dropcloth detach`: what a step would see, for frameworks that enter the image themselves.

use std::os::fd::AsFd;
use std::path::Path;

use super::args::Cli;
use super::common::{self, Prepared, say};
use super::run;
use crate::changes::{Policy, laid};
use crate::error::{Doing, Fault, Result, refuse};
use crate::host;
use crate::image::Image;
use crate::sandbox::attach::{self, Attached};
use crate::sandbox::{hold_signals, placeholders, scaffold};
use crate::settings::{Flags, Mode, Network, WhenChanged};
use crate::sys::{fs, mount};
use crate::transaction::{self, Transaction, recover};

/// Lays the overrides and the mirror into the image, in the mount namespace of the caller, until `detach`.
pub fn attach(cli: &Cli, flags: &Flags, root: &Path) -> Result<u8> {
    let root = &may_mount(root)?;
    let mut flags = flags.clone();
    flags.usual.mode = Some("through".to_owned());
    if !flags.more.secret.is_empty() {
        return refuse(
            Fault::new("a secret is for one step, and would stay here for whoever looks")
                .hint("Leave --secret out, and run the step that needs it with `dropcloth run`."),
        );
    }
    let image = Image::open(root)?;
    transaction::lock_image(&image, Mode::Through)?;
    let signals = hold_signals()?;
    let places = common::places(Some(image.path()), flags.more.scratch.as_deref());
    if let Some(transaction) = recover::attached(&places, Some(&image), image.path())? {
        if transaction.state.kept && Attached::load(transaction.directory())?.is_there(&image)? {
            say(&format!("it is attached to {} already; `dropcloth detach` first for other settings", root.display()));
            return Ok(0);
        }
        log::warn!("an earlier attach to {} did not last; it is cleared first", root.display());
        lift(transaction, &image)?;
    }
    // The same lock twice would be two open files against each other.
    drop(image);
    let mut prepared = common::prepare_to_lay(cli, &flags, root, &[])?;
    if prepared.server.0.is_some() {
        return refuse(
            Fault::new("attach cannot serve: nobody is there to stop the server")
                .hint("Start the server yourself and name it with --index, or use `dropcloth wrap --serve …`."),
        );
    }
    if prepared.relay.0.is_some() {
        return refuse(
            Fault::new("attach cannot record: nobody is there to write down what installers get")
                .hint("Leave --record out, or run the step with `dropcloth run --record FILE`."),
        );
    }
    if !prepared.settings.caches.value.is_empty() {
        return refuse(
            Fault::new("attach cannot share a cache: nobody is there to give it back").hint(
                "Leave --cache out, bind a directory of your own with --bind, or use `dropcloth wrap --cache …`.",
            ),
        );
    }
    transaction::lock_image(&prepared.image, Mode::Through)?;
    prepared.plan.mounts.retain(|wish| attach::concerns(&wish.mount));
    prepared.read_inputs()?;
    if prepared.plan.network != Network::Host {
        log::warn!("note: whoever enters the image keeps his network; --offline only takes the network's indexes away");
    }
    prepared.plan.notes.iter().for_each(|note| log::warn!("note: {note}"));
    run::sweep(&prepared)?;
    lay(&prepared)?;
    drop(signals);
    say(&format!("attached to {}; `dropcloth detach {0}` takes it away", prepared.image.path().display()));
    Ok(0)
}

fn may_mount(root: &Path) -> Result<std::path::PathBuf> {
    if !host::may_mount() {
        return refuse(
            Fault::new(
                "attach and detach mount in the namespace of the caller, which needs the capability CAP_SYS_ADMIN",
            )
            .hint("Run it as root, or the whole build in a namespace of your own: `unshare --map-root-user --mount`."),
        );
    }
    std::path::absolute(root).doing(|| "cannot tell the working directory")
}

fn lay(prepared: &Prepared) -> Result<()> {
    let Some(storage) = transaction::storage_path(&prepared.plan.storage) else {
        return refuse(Fault::new("what is attached needs a place for its list on a disk"));
    };
    let mut state = run::new_state(prepared, None)?;
    state.attached = true;
    state.policy = Policy::of(&prepared.plan.scaffold);
    let mut transaction = Transaction::begin(&prepared.image, storage, state)?;
    match lay_in(prepared, &mut transaction) {
        Ok(()) => Ok(()),
        Err(error) => {
            lift(transaction, &prepared.image)?;
            Err(error)
        }
    }
}

fn lay_in(prepared: &Prepared, transaction: &mut Transaction) -> Result<()> {
    transaction.state.save_durably(transaction.directory())?;
    scaffold::build_files(&prepared.plan, transaction.directory())?;
    laid::date(transaction)?;
    placeholders::make(&prepared.plan, prepared.image.directory(), Some(transaction.journal()))?;
    attach::attach(&prepared.plan, &prepared.image, transaction, &prepared.inputs)?;
    transaction.state.kept = true;
    transaction.state.save_durably(transaction.directory())
}

/// Takes away what `attach` made. Nothing attached is no error.
pub fn detach(_cli: &Cli, scratch: Option<&Path>, root: &Path) -> Result<u8> {
    let root = &may_mount(root)?;
    let places = common::places(Some(root), scratch);
    if !root.exists() {
        return forget(&places, root);
    }
    let image = Image::open(root)?;
    transaction::lock_image(&image, Mode::Through)?;
    let signals = hold_signals()?;
    let places = common::places(Some(image.path()), scratch);
    match recover::attached(&places, Some(&image), image.path())? {
        Some(transaction) => {
            lift(transaction, &image)?;
            say(&format!("detached from {}", image.path().display()));
        }
        None => say(&format!("nothing is attached to {}", image.path().display())),
    }
    // What was killed in its first or last moments is attached to nothing.
    run::sweep_in(&places, &image)?;
    drop(signals);
    Ok(0)
}

/// The image is gone, and with it everything that was made in it.
fn forget(places: &[std::path::PathBuf], root: &Path) -> Result<u8> {
    match recover::attached(places, None, root)? {
        Some(transaction) => {
            transaction.remove()?;
            say(&format!("{} is gone; so is what was attached to it", root.display()));
        }
        None => say(&format!("nothing is attached to {}, which does not exist", root.display())),
    }
    Ok(0)
}

/// Unmounts, and takes out of the image what was made in it.
fn lift(mut transaction: Transaction, image: &Image) -> Result<()> {
    Attached::load(transaction.directory())?
        .unmount(image)
        .doing(|| format!("cannot detach from {}", image.path().display()))?;
    for (path, rule) in laid::touched(&transaction)? {
        if rule != WhenChanged::Keep {
            log::warn!(
                "somebody changed {path}, which was laid over: that version is dropped (when_changed: keep would keep it)"
            );
        }
    }
    transaction.ended()?;
    // A mount of its own shows what lies below everything that is mounted in the image, and nothing can be removed through it.
    let root = match mount::clone_mount(image.directory(), false) {
        Ok(alone) => fs::open_dir(alone.as_fd(), b".")?,
        // KERNEL: in a user namespace, not where something is mounted below that came from outside, mount_namespaces(7).
        Err(_) => fs::open_dir(image.directory(), b".")?,
    };
    transaction.clear(root.as_fd())?;
    transaction.remove()
}
