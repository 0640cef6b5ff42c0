//! A run of which every process is killed at any moment, as by a machine's owner in a hurry or by the kernel for want of
//! memory, leaves the image before or after the step.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use support::disk::Chance;
use support::rich::{self, AGAIN, FAILING, OPTIONS, STEP};
use support::tree::{self, Snapshot};
use support::{Field, stderr};

/// What every test here starts from.
struct Ground {
    directory: tempfile::TempDir,
    start: i64,
    /// The image before any step, after the first, after the second.
    states: [Snapshot; 3],
}

/// A command line of dropcloth, and the exit code it has when nobody kills it.
type Line = (Vec<&'static str>, i32);

fn alone() -> Vec<Line> {
    vec![([&["run"][..], &OPTIONS, &["./rootfs", "--", "sh", "-c", STEP]].concat(), 0)]
}

fn named() -> Vec<Line> {
    let joined = |step| [&["run", "--in", "build"][..], &OPTIONS, &["--", "sh", "-c", step]].concat();
    let begin = (vec!["begin", "./rootfs", "--name", "build"], 0);
    vec![begin, (joined(STEP), 0), (joined(FAILING), 3), (joined(AGAIN), 0), (vec!["commit", "build"], 0)]
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = directory.path().join("root");
        rich::make(&root);
        // One second early: the kernel stamps files with the time of its last tick.
        let start = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() - 1;
        let states = [vec![], alone(), named()].map(|lines| {
            let field = field(&root);
            play(&field, &lines, None);
            field.snapshot().clock_times_alike(start)
        });
        Ground { directory, start, states }
    })
}

fn field(root: &std::path::Path) -> Field {
    let field = Field::of(root);
    rich::protect(&field.root);
    field
}

/// When to kill: so long after this command has begun, or after its commit is decided.
struct Kill {
    line: usize,
    decided: bool,
    after: Duration,
}

/// Runs the commands one after the other, until all have ended or the moment for the kill comes. Says how long each took.
fn play(field: &Field, lines: &[Line], mut kill: Option<(Kill, &mut Chance)>) -> Vec<Duration> {
    let mut times = Vec::new();
    for (number, (line, code)) in lines.iter().enumerate() {
        let mut command = field.dropcloth(line);
        let start = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut counted_from = None;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if let Some((kill, chance)) = kill.as_mut().filter(|(kill, _)| kill.line == number) {
                if counted_from.is_none() && (!kill.decided || is_decided(field)) {
                    counted_from = Some(Instant::now());
                }
                if counted_from.is_some_and(|from| from.elapsed() >= kill.after) {
                    kill_all(&mut child, chance);
                    return times;
                }
            }
            thread::sleep(Duration::from_micros(100));
        };
        assert_eq!(status.code(), Some(*code), "{line:?}");
        times.push(start.elapsed());
    }
    times
}

fn is_decided(field: &Field) -> bool {
    let transactions = std::fs::read_dir(field.path().join(".dropcloth")).into_iter().flatten().flatten();
    transactions.map(|entry| entry.path()).any(|path| path.join("plan").exists())
}

/// Kills the runner and all below it, the runner first, last or in between. By handles: a number may be another's by now.
fn kill_all(child: &mut Child, chance: &mut Chance) {
    let runner = i32::try_from(child.id()).unwrap();
    let mut all = descendants(runner);
    let place = chance.below(all.len() + 1);
    all.insert(place, runner);
    let open = |pid: i32| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?));
    let handles: Vec<_> = all.into_iter().filter_map(open).collect();
    let still = descendants(runner);
    for (_, handle) in handles.iter().filter(|(pid, _)| *pid == runner || still.contains(pid)) {
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
    child.wait().unwrap();
}

/// All processes below `top`, parents first.
fn descendants(top: i32) -> Vec<i32> {
    let listing = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = listing.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parents: BTreeMap<i32, i32> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![top];
    let mut next = 0;
    while next < found.len() {
        let above = found[next];
        found.extend(parents.iter().filter(|(_, parent)| **parent == above).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Field 4 of proc_pid_stat(5), counted from the last parenthesis.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Which of the states the image is in, once it is recovered and what is kept is committed.
fn recovered(field: &Field) -> Result<usize, String> {
    let mut said = String::new();
    for line in [["recover", "./rootfs"], ["commit", "build"]] {
        said += &patiently(&mut field.dropcloth(line))?;
        if !field.path().join(".dropcloth").exists() {
            return state(field).map_err(|different| format!("{different}\n{said}"));
        }
    }
    Err(format!("  .dropcloth is still there\n{said}"))
}

/// The kernel ends the sandbox a moment after its supervisor: until then the image is locked.
fn patiently(command: &mut Command) -> Result<String, String> {
    for _ in 0..200 {
        let output = command.output().unwrap();
        if output.status.success() {
            return Ok(stderr(&output));
        }
        if !stderr(&output).contains("in use by") {
            return Err(format!("  {:?}: {}", command.get_args(), stderr(&output)));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err("  the sandbox of a killed runner still runs".to_owned())
}

fn state(field: &Field) -> Result<usize, String> {
    let now = field.snapshot().clock_times_alike(ground().start);
    let from = ground().states.each_ref().map(|state| tree::diff(state, &now));
    match from.iter().position(Vec::is_empty) {
        Some(state) => Ok(state),
        None => {
            Err(format!("  from the nearest:\n    {}", from.iter().min_by_key(|d| d.len()).unwrap().join("\n    ")))
        }
    }
}

/// Kills at moments that chance chooses; counts the states.
#[track_caller]
fn killed(lines: &[Line]) -> [usize; 3] {
    let root = ground().directory.path().join("root");
    let times = play(&field(&root), lines, None);
    let attempts = if std::env::var_os("DROPCLOTH_LONG").is_some() { 500 } else { 20 };
    let mut counts = [0; 3];
    for seed in 0..attempts {
        let mut chance = Chance::new(seed as u64);
        let line = seed % lines.len();
        let part = chance.below(10_000) as f64 / 10_000.0;
        let kill = match seed % 3 {
            // The end of a run is a small part of it, and has more to go wrong.
            0 => Kill { line: lines.len() - 1, decided: true, after: times[lines.len() - 1].mul_f64(part / 4.0) },
            _ => Kill { line, decided: false, after: times[line].mul_f64(part) },
        };
        let mut field = field(&root);
        play(&field, lines, Some((kill, &mut chance)));
        match recovered(&field) {
            Ok(state) => counts[state] += 1,
            Err(what) => {
                field.forget_leaks();
                panic!("seed {seed}:\n{what}");
            }
        }
    }
    println!("killed {attempts} times: {counts:?}");
    counts
}

#[test]
fn a_run_killed_with_all_its_processes_leaves_the_image_before_or_after_the_step() {
    needs_root!();
    let [before, after, _] = killed(&alone());
    assert!(before > 0 && after > 0, "{before} before, {after} after");
}

#[test]
fn the_steps_of_a_transaction_killed_with_all_their_processes_are_whole() {
    needs_root!();
    let [before, between, after] = killed(&named());
    assert!(before > 0 && between > 0 && after > 0, "{before} before, {between} between, {after} after");
}
