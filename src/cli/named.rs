//! `dropcloth begin` and `dropcloth run --in`: several steps in one transaction.

use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

use super::args::{Cli, RunArguments};
use super::common::{self, Prepared, say};
use super::{ended, kept, run as single};
use crate::changes::{Changes, Policy, commit};
use crate::error::{Fault, Result, refuse};
use crate::report::{Fate, json};
use crate::sandbox::{self, Outcome, scaffold};
use crate::settings::{Backend, Flags, Mode};
use crate::sys::fs;
use crate::transaction::{self, Transaction, recover};

/// Opens a transaction that several steps write to.
pub fn begin(cli: &Cli, flags: &Flags, name: &str, root: &Path) -> Result<u8> {
    check_name(name)?;
    let prepared = common::prepare_in(cli, flags, root, &[])?;
    let Some(storage) =
        transaction::storage_path(&prepared.plan.storage).filter(|_| prepared.plan.mode == Mode::Commit)
    else {
        return refuse(
            Fault::new("only a transaction that can be committed has a name").hint(
                "Leave --mode out, or run the steps one by one with `dropcloth run --mode discard` or `through`.",
            ),
        );
    };
    transaction::lock_image(&prepared.image, Mode::Commit)?;
    let signals = sandbox::hold_signals()?;
    single::sweep(&prepared)?;
    let places = transaction::places(prepared.image.path(), &prepared.host.state, Some(storage));
    if recover::list(&places, None)?.iter().any(|t| t.id == name) {
        return refuse(
            Fault::new(format!("there is a transaction {name:?} already")).hint(format!(
                "Go on with `dropcloth run --in {name} -- …`, or end it with `dropcloth discard {name}`."
            )),
        );
    }
    let mut state = single::new_state(&prepared, Some(name))?;
    state.policy = Policy::of(&prepared.plan.scaffold);
    let mut transaction = Transaction::begin(&prepared.image, storage, state)?;
    if let Err(error) = fill(&mut transaction, &prepared) {
        transaction.remove()?;
        return Err(error);
    }
    common::note(&transaction);
    drop(signals);
    say(&format!("began the transaction {name} on {}", prepared.image.path().display()));
    Ok(0)
}

/// It is kept from when it is whole: before, the upper's root has not the attributes of the image's, and a commit would give
/// those to the image.
fn fill(transaction: &mut Transaction, prepared: &Prepared) -> Result<()> {
    single::fill(prepared, transaction)?;
    fs::syncfs(transaction.directory())?;
    transaction.state.kept = true;
    transaction.state.save_durably(transaction.directory())
}

fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.is_empty() && name.len() <= 64 && name.chars().all(plain) {
        return Ok(());
    }
    refuse(
        Fault::new(format!("{name:?} cannot be the name of a transaction"))
            .hint("Use up to 64 letters, digits, dots, underscores and hyphens: --name step-1."),
    )
}

/// Runs one more step in an open transaction. A failed one is taken back; the earlier ones stay.
pub fn run(cli: &Cli, arguments: &RunArguments, name: &str) -> Result<u8> {
    let transaction = kept::find_whole(name)?;
    // Without ROOT, the first word is the command's.
    let first = arguments.root.iter().map(|word| word.clone().into_os_string());
    let command: Vec<OsString> = first.chain(arguments.command.iter().cloned()).collect();
    let Joined { prepared, outcome, changes, fate, seconds } =
        join(cli, &arguments.flags, transaction, &command, name)?;
    ended::tell(&prepared, &outcome, changes, fate, Some(name.to_owned()), seconds)
}

/// A step that became part of a transaction, or was taken back.
pub struct Joined {
    prepared: Prepared,
    /// The step's end.
    pub outcome: Outcome,
    changes: Changes,
    fate: Fate,
    seconds: (f64, f64),
}

/// Runs `command` in `transaction`, which is called `name`.
pub fn join(
    cli: &Cli,
    flags: &Flags,
    mut transaction: Transaction,
    command: &[OsString],
    name: &str,
) -> Result<Joined> {
    let root = transaction.state.image.clone();
    let mut flags = flags.clone();
    flags.more.backend = Some(backend_name(transaction.state.backend));
    let mut prepared = common::prepare_in(cli, &flags, &root, command)?;
    prepared.read_inputs()?;
    if !transaction.state.is_of(transaction.directory(), &prepared.image)? {
        return refuse(
            Fault::new(format!("{} is not the directory that the transaction {name} was begun on", root.display()))
                .hint(format!("Move the image back to where it was, or `dropcloth discard {name}`.")),
        );
    }
    if prepared.plan.mode == Mode::Through {
        return refuse(
            Fault::new(format!("a step of the transaction {name} cannot write straight to the image"))
                .hint("Leave --mode through out."),
        );
    }
    if let Some(path) = &prepared.settings.report.value {
        json::check(path)?;
    }
    prepared.plan.notes.iter().for_each(|note| log::warn!("note: {note}"));
    transaction::lock_image(&prepared.image, Mode::Commit)?;
    let signals = sandbox::hold_signals()?;
    lay_again(&mut transaction, &prepared)?;
    let started = Instant::now();
    let outcome = match single::step(&prepared, Some(&mut transaction), signals) {
        Ok(outcome) => outcome,
        Err(error) => {
            transaction.take_back()?;
            return Err(error);
        }
    };
    let step_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let fate = if ended::succeeded(&outcome) {
        transaction.keep_step()?;
        Fate::Joined
    } else {
        transaction.take_back()?;
        Fate::TakenBack
    };
    let changes = if fate == Fate::Joined && !prepared.inputs.secrets.is_empty() {
        commit::remember_secrets(&mut transaction, &prepared.image, &prepared.secret_needles())?
    } else {
        commit::scan(&transaction, &prepared.image)?.0
    };
    let seconds = (step_seconds, started.elapsed().as_secs_f64());
    Ok(Joined { prepared, outcome, changes, fate, seconds })
}

fn backend_name(backend: Backend) -> String {
    if backend == Backend::Copy { "copy" } else { "overlay" }.to_owned()
}

/// Everything as at the beginning of the first step, but over what the earlier steps wrote.
fn lay_again(transaction: &mut Transaction, prepared: &Prepared) -> Result<()> {
    transaction.take_back()?;
    transaction.prepare_mount()?;
    scaffold::build(&prepared.plan, &prepared.image, transaction.directory())?;
    // What an earlier step's overrides left in the upper is no more the image's business than this step's.
    let policy = Policy::of(&prepared.plan.scaffold);
    transaction.state.policy.overrides.extend(policy.overrides);
    transaction.state.policy.made.extend(policy.made);
    transaction.state.policy.contents.extend(policy.contents);
    let needles = single::needles(&prepared.plan).into_iter();
    let known = std::mem::take(&mut transaction.state.rules.needles);
    let new: Vec<_> = needles.filter(|needle| !known.contains(needle)).collect();
    transaction.state.rules.needles = [known, new].concat();
    transaction.state.pid = std::process::id();
    transaction.state.save_durably(transaction.directory())?;
    transaction.checkpoint()
}
