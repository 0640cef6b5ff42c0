//! A step that writes straight to the image: `--mode through`.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use super::common::Prepared;
use super::{ended, run};
use crate::changes::{Changes, Policy, laid};
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::Inside;
use crate::report::Fate;
use crate::sandbox::{Outcome, placeholders, scaffold};
use crate::settings::WhenChanged;
use crate::sys::fs;
use crate::sys::signal::Signals;
use crate::transaction::{self, Transaction};

/// Runs the step. Whatever becomes of it, only what it wrote itself is in the image then.
pub fn run(prepared: &Prepared, signals: Signals) -> Result<u8> {
    let Some(storage) = transaction::storage_path(&prepared.plan.storage) else {
        return refuse(Fault::new("a step that writes straight to the image needs a place for its list on a disk"));
    };
    let started = Instant::now();
    let mut begun = None;
    let outcome = if scaffold::binds_from_memory(&prepared.plan) {
        run::step_beside(prepared, signals, &mut || {
            let transaction = begun.insert(begin(prepared, storage)?);
            run::begun(prepared, transaction)
        })
    } else {
        let transaction = begun.insert(begin(prepared, storage)?);
        run::step(prepared, Some(transaction), signals)
    };
    let step_seconds = started.elapsed().as_secs_f64();
    let Some(mut transaction) = begun else { return outcome.map(|_| 0) };
    let started = Instant::now();
    let touched = touched(prepared, &transaction, outcome.as_ref().ok())?;
    transaction.clear(prepared.image.directory())?;
    transaction.remove()?;
    let outcome = outcome?;
    if prepared.plan.suppress_sync {
        sync(prepared)?;
    }
    let of = |wanted: fn(&WhenChanged) -> bool| touched.iter().filter(move |(_, rule)| wanted(rule)).map(|(p, _)| p);
    if let Some(path) = of(|rule| *rule == WhenChanged::Fail).next() {
        return refuse(
            Fault::new(format!("the step changed {path}, which is laid over (when_changed: fail)"))
                .because("its other writes went straight to the image, where they stay"),
        );
    }
    let dropped = of(|rule| matches!(rule, WhenChanged::Drop | WhenChanged::KeepSymlink)).cloned().collect();
    let changes = Changes { dropped, ..Changes::default() };
    ended::tell(prepared, &outcome, changes, Fate::Through, None, (step_seconds, started.elapsed().as_secs_f64()))
}

/// The transaction, and what the step needs in the image.
fn begin(prepared: &Prepared, storage: &Path) -> Result<Transaction> {
    let mut state = run::new_state(prepared, None)?;
    if !scaffold::binds_from_memory(&prepared.plan) {
        // Else whoever cleans up after a killed run asks for the list of mount points only, and the shorter the state, the sooner
        // it is written.
        state.policy = Policy::of(&prepared.plan.scaffold);
    }
    let mut transaction = Transaction::begin(&prepared.image, storage, state)?;
    match lay(prepared, &mut transaction) {
        Ok(()) => Ok(transaction),
        Err(error) => {
            transaction.clear(prepared.image.directory())?;
            transaction.remove()?;
            Err(error)
        }
    }
}

/// The overrides that the step wrote to, with their rules.
fn touched(
    prepared: &Prepared,
    transaction: &Transaction,
    outcome: Option<&Outcome>,
) -> Result<Vec<(Inside, WhenChanged)>> {
    if !scaffold::binds_from_memory(&prepared.plan) {
        transaction.ended()?;
        return laid::touched(transaction);
    }
    let paths = outcome.map_or(&[][..], |outcome| &outcome.touched);
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let rules = Policy::of(&prepared.plan.scaffold).overrides;
    Ok(paths.iter().filter_map(|path| Some((path.clone(), *rules.get(path)?))).collect())
}

/// Everything that the step needs besides the image, and last, the mount points in it.
fn lay(prepared: &Prepared, transaction: &mut Transaction) -> Result<()> {
    // A transaction without a state is taken for one that has touched nothing.
    let journal = transaction.journal();
    transaction.state.sync(transaction.directory(), journal.sync)?;
    if !scaffold::binds_from_memory(&prepared.plan) {
        scaffold::build_files(&prepared.plan, transaction.directory())?;
        laid::date(transaction)?;
    }
    let points = placeholders::make(&prepared.plan, prepared.image.directory(), Some(journal))?;
    transaction.points = Some(points);
    Ok(())
}

/// Writes to the disk what the step's own calls did not.
fn sync(prepared: &Prepared) -> Result<()> {
    let root = fs::open_dir(prepared.image.directory(), b".")?;
    fs::syncfs(root.as_fd())
        .doing(|| {
            format!(
                "the kernel could not write all of the step's data in {} to the disk",
                prepared.image.path().display()
            )
        })
        .hint(|| {
            "Look for a full or failing disk (`df`, `dmesg | tail`); what the step wrote may be incomplete.".to_owned()
        })
}
