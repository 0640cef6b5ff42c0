//! `dropcloth run` and `dropcloth shell`: one step, from settings to report.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::args::{Cli, RunArguments};
use super::common::{self, Prepared};
use super::{ended, through};
use crate::changes::commit::Pending;
use crate::changes::gate::{self, Rules};
use crate::changes::leaks::{self, Needle};
use crate::changes::{Changes, Policy, commit, replica};
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::Image;
use crate::plan::{Content, Entry, Plan, describe, traces};
use crate::report::{self, Fate};
use crate::sandbox::{self, Begun, Ground, Leaving, Outcome, Place, placeholders, scaffold};
use crate::settings::{Backend, Mode, OnFailure};
use crate::sys::fs;
use crate::sys::signal::Signals;
use crate::sys::volume;
use crate::transaction::{self, State, Transaction, journal, recover};

/// Runs the step and commits or discards it. Returns the step's exit status.
pub fn run(cli: &Cli, arguments: &RunArguments) -> Result<u8> {
    let mut prepared = common::prepare(cli, arguments)?;
    prepared.read_inputs()?;
    if let Some(path) = &prepared.settings.report.value {
        report::json::check(path)?;
    }
    prepared.plan.notes.iter().for_each(|note| log::warn!("note: {note}"));
    log::info!("the plan\n{}", describe::text(&prepared.plan));
    transaction::lock_image(&prepared.image, prepared.plan.mode)?;
    let signals = sandbox::hold_signals()?;
    sweep(&prepared)?;
    let code = match prepared.plan.mode {
        Mode::Through => through::run(&prepared, signals)?,
        _ => in_transaction(&prepared, signals)?,
    };
    prepared.end();
    Ok(code)
}

fn in_transaction(prepared: &Prepared, signals: Signals) -> Result<u8> {
    let started = Instant::now();
    let on_disk = transaction::storage_path(&prepared.plan.storage).is_some();
    let mut transaction = None;
    let with_policy = |transaction: &mut Option<Transaction>| {
        transaction.iter_mut().for_each(|transaction| transaction.state.policy = Policy::of(&prepared.plan.scaffold));
    };
    let outcome = if on_disk && prepared.plan.backend == Some(Backend::Overlay) {
        let outcome = step_beside(prepared, signals, &mut || {
            transaction = begin(prepared)?;
            transaction.as_ref().map_or_else(|| Ok(Begun::default()), |t| begun(prepared, t))
        });
        with_policy(&mut transaction);
        outcome
    } else {
        transaction = begin(prepared)?;
        with_policy(&mut transaction);
        step(prepared, transaction.as_mut(), signals)
    };
    let step_seconds = started.elapsed().as_secs_f64();
    match outcome {
        Ok(outcome) => finish(prepared, transaction, outcome, step_seconds),
        Err(error) => {
            if let Some(transaction) = transaction {
                transaction.remove()?;
            }
            Err(error)
        }
    }
}

/// What the supervisor has to know of a transaction that was made meanwhile.
pub fn begun(prepared: &Prepared, transaction: &Transaction) -> Result<Begun> {
    let place = Some(sandbox::mounts::place_of(transaction)?);
    Ok(Begun { place, written: written(prepared, transaction)? })
}

/// Where the step's data goes, if it will be on the disk before dropcloth ends. What is committed to another file system is
/// copied.
fn written(prepared: &Prepared, transaction: &Transaction) -> Result<Option<OwnedFd>> {
    let directory = match transaction.state.mode {
        Mode::Commit if transaction.state.same_file_system => transaction.directory(),
        Mode::Through if prepared.plan.suppress_sync => prepared.image.directory(),
        _ => return Ok(None),
    };
    Ok(Some(directory.try_clone_to_owned()?))
}

/// Finishes or removes what dead runners left on this image.
pub fn sweep(prepared: &Prepared) -> Result<()> {
    if prepared.plan.mode == Mode::Discard {
        return Ok(());
    }
    let host = &prepared.host;
    let places = transaction::places(prepared.image.path(), &host.state, host.scratch.as_deref());
    sweep_in(&places, &prepared.image)
}

/// The same in these places.
pub fn sweep_in(places: &[PathBuf], image: &Image) -> Result<()> {
    for (path, what) in recover::recover(places, image)? {
        match what {
            recover::Recovered::Finished => log::warn!("finished the interrupted commit {}", path.display()),
            recover::Recovered::Removed => log::warn!("removed the dead transaction {}", path.display()),
            recover::Recovered::Cleared => {
                log::warn!("took out of the image what a killed run had made in it ({})", path.display());
            }
            recover::Recovered::Kept | recover::Recovered::Busy => {}
        }
    }
    Ok(())
}

/// What must not be found in what the step leaves: traces of the run, and the overrides' own contents.
pub fn needles(plan: &Plan) -> Vec<Needle> {
    let mut found: Vec<Needle> = traces::of(plan).iter().filter_map(|(what, text)| Needle::new(what, text)).collect();
    for (path, entry) in &plan.scaffold.entries {
        let Entry::File { content, .. } = entry else { continue };
        let needle = match content {
            Content::Text(text) => leaks::override_needle(path, text.as_bytes()),
            Content::Resolver(bytes) => leaks::override_needle(path, bytes),
            Content::File(source) => std::fs::read(source).ok().and_then(|text| leaks::override_needle(path, &text)),
        };
        found.extend(needle.filter(|needle| found.iter().all(|known| known.text != needle.text)));
    }
    found
}

/// The state of a new transaction, but for its policy: not all are asked for that before their step runs.
pub fn new_state(prepared: &Prepared, name: Option<&str>) -> Result<State> {
    let plan = &prepared.plan;
    let settings = &prepared.settings;
    let rules = Rules {
        exact: settings.exact.value,
        leaks: settings.leaks.value,
        force: settings.force.value,
        epoch: settings.source_date_epoch.value,
        // A single step's are made when there is something to search.
        needles: if name.is_some() { needles(plan) } else { Vec::new() },
    };
    Ok(State {
        rules,
        secret_leaks: Vec::new(),
        begun: None,
        backend: plan.backend.unwrap_or(Backend::Overlay),
        copied: None,
        exchanged: None,
        root_flags: (0, 0),
        version: journal::VERSION,
        id: transaction::new_id()?,
        image: plan.image.clone(),
        root: prepared.image.identity(),
        file_system: volume::file_system_id(prepared.image.directory()),
        same_file_system: false,
        mode: plan.mode,
        kept: false,
        attached: false,
        name: name.map(str::to_owned),
        pid: std::process::id(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        brief: name.is_none() && plan.mode != Mode::Through,
        policy: Policy::default(),
        prefix: scaffold::prefix(plan),
        moved_to: None,
        root_times: None,
        leaving: false,
    })
}

/// Opens the step's own transaction; none where everything is in memory.
pub fn begin(prepared: &Prepared) -> Result<Option<Transaction>> {
    let plan = &prepared.plan;
    let Some(storage) = transaction::storage_path(&plan.storage) else { return Ok(None) };
    let transaction = Transaction::begin(&prepared.image, storage, new_state(prepared, None)?)?;
    match fill(prepared, &transaction) {
        Ok(()) => Ok(Some(transaction)),
        Err(error) => {
            transaction.remove()?;
            Err(error)
        }
    }
}

/// Writes the overrides, and copies the image for the backend that works on a copy.
pub fn fill(prepared: &Prepared, transaction: &Transaction) -> Result<()> {
    scaffold::prepare_upper(&prepared.plan, &prepared.image, transaction.directory())?;
    if !in_memory(&prepared.plan, &transaction.state) {
        scaffold::build(&prepared.plan, &prepared.image, transaction.directory())?;
    }
    if prepared.plan.backend == Some(Backend::Copy) {
        replica::make(transaction, &prepared.image)?;
    }
    Ok(())
}

/// The upper of several steps remembers the layer below it (`index=on`), so that has to be there for the next; and a copy takes
/// its overrides as binds.
fn in_memory(plan: &Plan, state: &State) -> bool {
    scaffold::binds_from_memory(plan) || plan.backend == Some(Backend::Overlay) && state.name.is_none()
}

/// Runs the step with the mount points that it needs in the copy of the image, for as long as it runs.
fn step_in_copy(prepared: &Prepared, transaction: &mut Transaction, signals: Signals) -> Result<Outcome> {
    let tree = fs::open_dir(transaction.directory(), replica::TREE)?;
    let points = placeholders::make(&prepared.plan, tree.as_fd(), None)?;
    let before = replica::settle(transaction)?;
    if transaction.state.copied.is_none() {
        transaction.state.copied = Some(before);
        transaction.state.save(transaction.directory())?;
    }
    let outcome = step_as_laid(prepared, Some(transaction), signals);
    replica::keep_overrides(transaction, before)?;
    points.remove(tree.as_fd(), None)?;
    outcome
}

/// Runs the step.
pub fn step(prepared: &Prepared, transaction: Option<&mut Transaction>, signals: Signals) -> Result<Outcome> {
    match transaction {
        Some(transaction) if prepared.plan.backend == Some(Backend::Copy) => {
            step_in_copy(prepared, transaction, signals)
        }
        other => step_as_laid(prepared, other.map(|t| &*t), signals),
    }
}

fn step_as_laid(prepared: &Prepared, transaction: Option<&Transaction>, signals: Signals) -> Result<Outcome> {
    let memory = transaction.is_some_and(|t| in_memory(&prepared.plan, &t.state));
    let place = transaction.map(sandbox::mounts::place_of).transpose()?;
    let place = place.map_or(Place::Memory, |(path, identity)| Place::There(path, identity));
    let written = || transaction.map_or(Ok(None), |t| written(prepared, t));
    let begin = &mut || Ok(Begun { place: None, written: written()? });
    whole(sandbox::run(&prepared.plan, &ground(prepared, place, memory), signals, begin)?)
}

/// Runs the step with overrides in memory, and a transaction that is made meanwhile.
pub fn step_beside(prepared: &Prepared, signals: Signals, begin: &mut sandbox::Begin<'_>) -> Result<Outcome> {
    whole(sandbox::run(&prepared.plan, &ground(prepared, Place::Promised, true), signals, begin)?)
}

fn ground(prepared: &Prepared, place: Place, memory: bool) -> Ground {
    let directories = prepared.directories.take();
    sandbox::mounts::ground(&prepared.image, directories, place, memory, prepared.inputs.clone())
}

/// Data that the kernel lost on the way is an error.
fn whole(outcome: Outcome) -> Result<Outcome> {
    match &outcome.lost {
        None => Ok(outcome),
        Some(error) => refuse(
            Fault::new("the kernel could not write all of the step's data to the disk, so nothing is committed")
                .because(error.clone())
                .hint(
                    "Look for a full or failing disk (`df`, `dmesg | tail`), or give another place with --scratch DIR.",
                ),
        ),
    }
}

fn finish(
    prepared: &Prepared,
    transaction: Option<Transaction>,
    mut outcome: Outcome,
    step_seconds: f64,
) -> Result<u8> {
    let success = ended::succeeded(&outcome);
    let started = Instant::now();
    let mut leaving = outcome.leaving.take();
    let (changes, fate, id) = settle(prepared, transaction, success, step_seconds, &mut leaving)?;
    // The mounts are gone when dropcloth is.
    drop(leaving);
    ended::tell(prepared, &outcome, changes, fate, id, (step_seconds, started.elapsed().as_secs_f64()))
}

/// A step of so many seconds may have written much.
const WRITES_MUCH: f64 = 0.2;

/// Commits, keeps or discards. What the step wrote is looked at while the kernel takes its mounts apart (`leaving`); the image
/// is touched when they are gone.
fn settle(
    prepared: &Prepared,
    transaction: Option<Transaction>,
    success: bool,
    step_seconds: f64,
    leaving: &mut Option<Leaving>,
) -> Result<(Changes, Fate, Option<String>)> {
    let plan = &prepared.plan;
    let Some(mut transaction) = transaction else {
        return Ok((Changes::default(), discarded(success), None));
    };
    let keep = !success && plan.on_failure == OnFailure::Keep && plan.mode == Mode::Commit;
    let wants_list = prepared.settings.report.value.is_some();
    let commits = success && plan.mode == Mode::Commit;
    if !keep && !commits {
        let changes = if wants_list { commit::scan(&transaction, &prepared.image)?.0 } else { Changes::default() };
        transaction.remove()?;
        let fate = if plan.mode == Mode::Discard { Fate::Discarded } else { discarded(success) };
        return Ok((changes, fate, None));
    }
    if step_seconds > WRITES_MUCH {
        commit::write_ahead(&transaction, &prepared.image)?;
    }
    let doing = || format!("the step succeeded, but its changes were not committed to {}", plan.image.display());
    let secrets = prepared.secret_needles();
    let (changes, pending) = if keep {
        commit::scan(&transaction, &prepared.image)
    } else {
        let needles = || [secrets.clone(), needles(plan)].concat();
        commit::scan_and_search(&transaction, &prepared.image, &needles).doing(doing)
    }
    .hint(|| as_it_was(prepared))?;
    if pending != Pending::Nothing || keep {
        drop(leaving.take());
        transaction.state.rules.needles = needles(plan);
    }
    let id = transaction.state.id.clone();
    if keep {
        keep_it(&mut transaction, prepared, &secrets)?;
        return Ok((changes, Fate::Kept, Some(id)));
    }
    if let Err(refused) = gate::check(&changes, &transaction.state.rules, &id) {
        keep_it(&mut transaction, prepared, &secrets)?;
        return Err(refused).doing(doing);
    }
    gate::warn(&changes, &transaction.state.rules);
    let fate = if pending == Pending::Nothing { Fate::Unchanged } else { Fate::Committed };
    commit::commit(transaction, &prepared.image, pending).doing(doing)?;
    Ok((changes, fate, None))
}

/// Keeps the transaction for the commands that look at it, commit it or discard it. They do not have the secrets: where those are
/// is noted.
fn keep_it(transaction: &mut Transaction, prepared: &Prepared, secrets: &[Needle]) -> Result<()> {
    if !secrets.is_empty() {
        commit::remember_secrets(transaction, &prepared.image, secrets)?;
    }
    transaction.state.kept = true;
    transaction.state.brief = false;
    // Whatever it is committed from one day has to be there then, and the overlay synced nothing.
    fs::syncfs(transaction.directory())?;
    transaction.state.save_durably(transaction.directory())?;
    common::note(transaction);
    Ok(())
}

fn as_it_was(prepared: &Prepared) -> String {
    let image = prepared.image.path().display();
    format!("The image is as it was. `dropcloth recover {image}` removes the transaction.")
}

fn discarded(success: bool) -> Fate {
    if success { Fate::Discarded } else { Fate::DiscardedOnFailure }
}
