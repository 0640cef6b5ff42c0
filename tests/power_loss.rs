//! The power goes off during a run: whatever the disk has by then, the image is before or after the step once it has been
//! recovered. The disks are files whose server logs every write and flush, so that each moment of them can be made again,
//! with what a disk may lose: any of the writes that no flush has confirmed.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use support::disk::{Loss, Mounted, Platter, apart, write_sparse};
use support::fuse::{Disks, Event};
use support::rich::{self, AGAIN, CALLS, FAILING, OPTIONS, STEP};
use support::tree::{self, Snapshot};
use support::{assert_code, stderr};

const SIZE: u64 = 20 << 20;

/// Where the disks are mounted, by their numbers.
const NAMES: [&str; 2] = ["image", "scratch"];

/// What every test here starts from.
struct Ground {
    /// A disk with the image, and an empty one.
    disks: [Vec<u8>; 2],
    before: Snapshot,
    /// Everything that a clock stamps is stamped after this second.
    start: i64,
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let place = Place::new();
        apart(place.path(), || {
            let mut before = None;
            let image = formatted(&place, |root| {
                rich::make(root);
                rich::protect(root);
                before = Some(tree::snapshot(root));
            });
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            // One second early: the kernel stamps files with the time of its last tick.
            let start = i64::try_from(now).unwrap() - 1;
            Ground { disks: [image, formatted(&place, |_| {})], before: before.unwrap(), start }
        })
    })
}

/// A new file system, filled and unmounted.
fn formatted(place: &Place, fill: impl FnOnce(&Path)) -> Vec<u8> {
    let file = place.path().join("new");
    File::create(&file).unwrap().set_len(SIZE).unwrap();
    // All is written at once: later, the kernel would write the rest of the tables whenever it likes.
    let options = ["-q", "-F", "-b", "4096", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    assert!(Command::new("mkfs.ext4").args(options).arg(&file).status().unwrap().success());
    let mounted = Mounted::new(&file, &place.path().join("new.mounted"));
    fill(&place.path().join("new.mounted/rootfs"));
    drop(mounted);
    std::fs::read(&file).unwrap()
}

/// A folder that each thread lays its own tmpfs over, so that the paths are the same for all of them.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::Builder::new().prefix("power").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn disk(&self, number: usize) -> PathBuf {
        self.path().join(NAMES[number])
    }

    fn root(&self) -> PathBuf {
        self.disk(0).join("rootfs")
    }

    fn dropcloth(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(support::binary());
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path()).current_dir(self.disk(0)).stdin(Stdio::null());
        command
    }
}

/// In the long form so many moments of a recording are tried, spread over all of it; a slow one has more.
const MOST: usize = 500;

/// A command line of dropcloth.
type Line = Vec<&'static str>;

/// A run, with all that its disks were sent.
struct Recording {
    company: Company,
    start: Vec<Vec<u8>>,
    log: Vec<Event>,
    /// Where in the log the run had ended.
    ended: usize,
    /// Disks from this one on are memory, and empty when the power is back.
    memory: usize,
    /// What the image may be in between, up to the times that a clock sets.
    between: Vec<Snapshot>,
    after: Snapshot,
}

/// What else goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    /// Nothing: the disk is told to flush by dropcloth alone.
    Alone,
    /// Another program syncs a small file of its own again and again. Each time the file system's journal is written, with
    /// whatever names and sizes are in it by then, but not the data that others have written.
    Syncing,
    /// The same, and dropcloth waits after each call that changes something, so that the disk can have every state between.
    Slowly,
}

impl Company {
    /// In the short form about so many moments of a recording are tried.
    fn few(self) -> usize {
        match self {
            Company::Alone => 6,
            Company::Syncing => 10,
            Company::Slowly => 20,
        }
    }

    /// In the long form chance decides so many times what is lost at each moment.
    fn chances(self) -> u64 {
        match self {
            Company::Alone => 30,
            Company::Syncing => 3,
            Company::Slowly => 2,
        }
    }
}

/// Runs the commands, each with the exit code it has to have, on disks that begin as `start`.
fn record(place: &Place, start: &[Vec<u8>], company: Company, lines: &[(Line, i32)]) -> Recording {
    apart(place.path(), || {
        let folder = place.path().join("disks");
        std::fs::create_dir(&folder).unwrap();
        let disks = Disks::serve(&folder, start.to_vec());
        let mounted: Vec<_> = (0..start.len()).map(|disk| Mounted::new(&disks.file(disk), &place.disk(disk))).collect();
        let run = || {
            for (line, code) in lines {
                let command = place.dropcloth(line);
                let mut command = if company == Company::Slowly { slowed(&command) } else { command };
                assert_code(&command.output().unwrap(), *code);
            }
        };
        match company {
            Company::Alone => run(),
            Company::Syncing | Company::Slowly => while_syncing(place, start.len(), run),
        }
        let ended = disks.now();
        let after = tree::snapshot(&place.root());
        drop(mounted);
        Recording { company, start: start.to_vec(), log: disks.finish(), ended, memory: 2, between: Vec::new(), after }
    })
}

/// The command under strace(1), which holds it for some milliseconds after each call that changes something.
fn slowed(run: &Command) -> Command {
    let inject = format!("inject={CALLS}:delay_exit={}", if every_one() { 4000 } else { 2000 });
    rich::traced(run, &["-o", "/dev/null", "-e", &format!("trace={CALLS}"), "-e", &inject])
}

fn while_syncing(place: &Place, disks: usize, work: impl FnOnce()) {
    let files: Vec<File> = (0..disks).map(|disk| File::create(place.disk(disk).join("other")).unwrap()).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let file = &files[usize::try_from(turn).unwrap() % files.len()];
                file.write_all_at(&turn.to_ne_bytes(), 0).unwrap();
                file.sync_all().unwrap();
            }
        });
        let _stop = Stop(&stop);
        work();
    });
}

/// Says so also when the work panics: the scope waits for its threads.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Before,
    Between,
    After,
}

/// A power cut just before an event of the log.
#[derive(Clone, Copy, Debug)]
struct Cut {
    when: usize,
    loss: Loss,
}

impl Recording {
    /// Before each flush, at the end of the run, and after it; in the short form few of them.
    fn cuts(&self) -> Vec<Cut> {
        let flush = |when: usize| matches!(self.log.get(when), Some(Event::Flush { .. }) | None);
        let whens: Vec<usize> = (0..=self.log.len()).filter(|when| flush(*when) || *when == self.ended).collect();
        let stride = whens.len().div_ceil(if every_one() { MOST } else { self.company.few() });
        let chosen = whens.iter().enumerate().filter(|(index, when)| index % stride == 0 || **when == self.ended);
        chosen.chain(whens.iter().enumerate().next_back()).flat_map(|(_, when)| self.cuts_at(*when)).collect()
    }

    fn cuts_at(&self, when: usize) -> Vec<Cut> {
        let mut losses = vec![Loss::All];
        // With one disk that is the same as all of them before the next flush.
        if self.start.len() > 1 || when == self.log.len() {
            losses.push(Loss::None);
        }
        losses.extend((0..if every_one() { self.company.chances() } else { 1 }).map(Loss::Some));
        losses.into_iter().map(|loss| Cut { when, loss }).collect()
    }

    /// Tries every cut, on two threads; fails with all that went wrong.
    ///
    /// Each way to recover is a command, and others for as long as something is left.
    #[track_caller]
    fn play(&self, place: &Place, ways: &[Vec<Line>]) -> Found {
        let cuts = self.cuts();
        let results = thread::scope(|scope| {
            let half = |parity: usize| {
                let mine = cuts.iter().enumerate().filter(move |(index, _)| index % 2 == parity);
                let all = move || {
                    let mut platters = self.platters();
                    let attempt = |(index, cut): (usize, &Cut)| {
                        let left = platters.iter_mut().map(|disk| disk.cut(cut.when, cut.loss)).take(self.memory);
                        let disks: Vec<_> = left.chain(self.start.iter().skip(self.memory).cloned()).collect();
                        (*cut, self.attempt(place, &disks, &ways[index / 2 % ways.len()]))
                    };
                    mine.map(attempt).collect::<Vec<_>>()
                };
                scope.spawn(move || apart(place.path(), all))
            };
            let [first, second] = [half(0), half(1)].map(|thread| thread.join().unwrap());
            [first, second].concat()
        });
        self.judge(&results)
    }

    fn platters(&self) -> Vec<Platter<'_>> {
        self.start.iter().enumerate().map(|(disk, content)| Platter::new(disk, content.clone(), &self.log)).collect()
    }

    /// Mounts the disks as they were left, recovers, and looks.
    fn attempt(&self, place: &Place, disks: &[Vec<u8>], way: &[Line]) -> Result<State, String> {
        let mounted: Vec<_> = disks
            .iter()
            .enumerate()
            .map(|(disk, content)| {
                let file = place.path().join(format!("{disk}.disk"));
                write_sparse(&file, content);
                Mounted::new(&file, &place.disk(disk))
            })
            .collect();
        let found = recover(place, way).and_then(|()| self.compare(place));
        drop(mounted);
        found
    }

    fn compare(&self, place: &Place) -> Result<State, String> {
        let now = tree::snapshot(&place.root());
        let from_before = tree::diff(&ground().before, &now);
        let from_after = tree::diff(&self.after, &now);
        // First, for a run that changes nothing.
        if from_after.is_empty() {
            return Ok(State::After);
        }
        if from_before.is_empty() {
            return Ok(State::Before);
        }
        let alike = |snapshot: &Snapshot| snapshot.clone().clock_times_alike(ground().start);
        let between = self.between.iter().map(|snapshot| tree::diff(&alike(snapshot), &alike(&now)));
        let from: Vec<_> = [from_before, from_after].into_iter().chain(between).collect();
        match from[2..].iter().any(Vec::is_empty) {
            true => Ok(State::Between),
            false => {
                Err(format!("  from the nearest:\n    {}", from.iter().min_by_key(|d| d.len()).unwrap().join("\n    ")))
            }
        }
    }

    /// Nothing in between; after the run's end only after; and what has once been after is never before again.
    #[track_caller]
    fn judge(&self, results: &[(Cut, Result<State, String>)]) -> Found {
        let is = |result: &Result<State, String>, state| *result == Ok(state);
        let sure = results.iter().filter(|(cut, found)| cut.loss == Loss::All && is(found, State::After));
        let sure = sure.map(|(cut, _)| cut.when).min().unwrap_or(self.ended).min(self.ended);
        let wrong = |(cut, found): &(Cut, Result<State, String>)| match found {
            Err(what) => Some(format!("{cut:?}\n{what}")),
            Ok(state) if cut.when >= sure && *state != State::After => {
                Some(format!("{cut:?}: {state:?}, though {sure} was after"))
            }
            Ok(_) => None,
        };
        let wrong: Vec<String> = results.iter().filter_map(wrong).collect();
        let shown: Vec<String> = wrong.iter().take(10).cloned().collect();
        assert!(
            wrong.is_empty(),
            "{} of {} (the run ended at {}):\n{}",
            wrong.len(),
            results.len(),
            self.ended,
            shown.join("\n")
        );
        let count = |state: State| results.iter().filter(|(_, found)| is(found, state)).count();
        let [before, between, after] = [State::Before, State::Between, State::After].map(count);
        println!("{:?}, {} events: {before} before, {between} between, {after} after", self.company, self.log.len());
        Found { before, after, sure }
    }
}

/// What a recording's cuts came to.
struct Found {
    before: usize,
    after: usize,
    /// The first moment from which on nothing can be lost any more.
    sure: usize,
}

fn recover(place: &Place, way: &[Line]) -> Result<(), String> {
    let mut said = String::new();
    for line in way {
        let output = place.dropcloth(line).output().unwrap();
        said = format!("{said}  {}: {}", line[0], stderr(&output));
        if !output.status.success() {
            return Err(said);
        }
        if left(place).is_empty() {
            return Ok(());
        }
    }
    Err(format!("  left: {:?}\n{said}", left(place)))
}

/// Names on the disks that nobody but dropcloth can have made.
fn left(place: &Place) -> Vec<PathBuf> {
    let entries = NAMES.iter().flat_map(|name| std::fs::read_dir(place.path().join(name)).into_iter().flatten());
    let names = entries.map(|entry| entry.unwrap().path());
    names.filter(|path| !["lost+found", "rootfs", "other"].iter().any(|known| path.ends_with(known))).collect()
}

fn every_one() -> bool {
    std::env::var_os("DROPCLOTH_LONG").is_some()
}

/// Besides all that the step does, it changes the image's own directory.
const MORE: &str = "; echo n > /top; chmod 711 /";

fn first_step() -> &'static str {
    static STEPS: OnceLock<String> = OnceLock::new();
    STEPS.get_or_init(|| format!("{STEP}{MORE}"))
}

fn run(options: &[&'static str]) -> Line {
    [&["run"], options, &OPTIONS, &["./rootfs", "--", "sh", "-c", first_step()]].concat()
}

fn nothing(options: &[&'static str]) -> Line {
    [&["run"], options, &["./rootfs", "--", "true"]].concat()
}

fn joined(step: &'static str) -> Line {
    [&["run", "--in", "build"][..], &OPTIONS, &["--", "sh", "-c", step]].concat()
}

/// A recording in each company, and all its cuts.
#[track_caller]
fn each_company(place: &Place, disks: usize, lines: &[(Line, i32)], ways: &[Vec<Line>], between: &[Snapshot]) {
    let all = [Company::Alone, Company::Syncing, Company::Slowly];
    for company in all.into_iter().filter(|company| every_one() || *company != Company::Syncing) {
        let mut recording = record(place, &ground().disks[..disks], company, lines);
        recording.between = between.to_vec();
        let Found { before, after, .. } = recording.play(place, ways);
        assert!(before > 0 && after > 0, "{before} before, {after} after");
    }
}

macro_rules! needs_root_and_strace {
    () => {
        needs_root!();
        if !rich::has_strace() {
            return support::skip("it needs strace");
        }
    };
}

#[test]
fn a_power_cut_leaves_the_image_before_or_after_the_step() {
    needs_root_and_strace!();
    let ways = [vec![vec!["recover", "./rootfs"]], vec![nothing(&[])]];
    each_company(&Place::new(), 1, &[(run(&[]), 0)], &ways, &[]);
}

/// The transaction is on a disk of its own: each loses what it was not told to keep, and neither waits for the other.
#[test]
fn a_power_cut_with_the_transaction_on_another_disk_leaves_the_image_before_or_after_the_step() {
    needs_root_and_strace!();
    let elsewhere = ["--scratch", "../scratch/transactions"];
    let recover = vec!["recover", "--scratch", elsewhere[1], "./rootfs"];
    each_company(&Place::new(), 2, &[(run(&elsewhere), 0)], &[vec![nothing(&elsewhere)], vec![recover]], &[]);
}

/// What there is of the transaction is in the image's own root.
#[test]
fn a_power_cut_with_the_transaction_in_memory_leaves_the_image_before_or_after_the_step() {
    needs_root_and_strace!();
    let place = Place::new();
    let elsewhere = ["--scratch", "../scratch/transactions"];
    let mut recording = record(&place, &ground().disks, Company::Slowly, &[(run(&elsewhere), 0)]);
    recording.memory = 1;
    let Found { before, after, .. } = recording.play(&place, &[vec![vec!["recover", "./rootfs"]], vec![nothing(&[])]]);
    assert!(before > 0 && after > 0, "{before} before, {after} after");
}

/// A named transaction lives through the power cut, with whole steps only.
#[test]
fn a_power_cut_during_the_steps_of_a_transaction_leaves_whole_steps() {
    needs_root_and_strace!();
    let place = Place::new();
    let first = record(&place, &ground().disks[..1], Company::Alone, &[(run(&[]), 0)]);
    let mut lines = vec![(vec!["begin", "./rootfs", "--name", "build"], 0), (joined(first_step()), 0)];
    lines.extend([(joined(FAILING), 3), (joined(AGAIN), 0), (vec!["commit", "build"], 0)]);
    each_company(&place, 1, &lines, &[vec![vec!["recover", "./rootfs"], vec!["commit", "build"]]], &[first.after]);
}

#[test]
fn a_power_cut_during_the_recovery_can_be_recovered() {
    needs_root_and_strace!();
    let place = Place::new();
    let ways = [vec![vec!["recover", "./rootfs"]]];
    let run = record(&place, &ground().disks[..1], Company::Slowly, &[(run(&[]), 0)]);
    let sure = run.play(&place, &ways).sure;
    let halfway = run.platters()[0].cut(usize::midpoint(sure, run.ended), Loss::All);
    let recovery = record(&place, &[halfway], Company::Slowly, &[(vec!["recover", "./rootfs"], 0)]);
    assert_eq!(tree::diff(&run.after, &recovery.after), Vec::<String>::new());
    let Found { before, after, .. } = recovery.play(&place, &ways);
    assert!(before == 0 && after > 0, "{before} before, {after} after");
}

/// What such a run makes in the image for itself goes with the next use, also where the list of it is on another disk.
#[test]
fn a_power_cut_during_a_run_straight_to_the_image_leaves_nothing_of_dropcloth() {
    needs_root_and_strace!();
    const LAID: [&str; 6] =
        ["--lay", "/srv/deep/new=/etc/passwd", "--lay", "/etc/hosts=/etc/passwd", "--tmpfs", "/mnt/a/b"];
    let elsewhere = ["--scratch", "../scratch/transactions"];
    for (disks, options) in [(1, &[][..]), (2, &elsewhere[..])] {
        let place = Place::new();
        let line = [&["run", "--mode", "through"], options, &LAID, &["./rootfs", "true"]].concat();
        let recover = [&["recover"], options, &["./rootfs"]].concat();
        let recording = record(&place, &ground().disks[..disks], Company::Slowly, &[(line, 0)]);
        assert_eq!(tree::diff(&ground().before, &recording.after), Vec::<String>::new());
        let Found { before, after, .. } = recording.play(&place, &[vec![nothing(options)], vec![recover]]);
        assert!(before == 0 && after > 0, "{before} before, {after} after");
    }
}
