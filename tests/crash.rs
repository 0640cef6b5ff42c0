//! A commit that is interrupted anywhere is finished or undone as a whole: killed, or failed by the disk, at each system
//! call that changes something. strace(1) does it, to the supervisor only.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::rich::{self, CALLS, OPTIONS, STEP};
use support::tree::{self, Snapshot};
use support::{Field, assert_code, stderr};

/// What every test here starts from.
struct Ground {
    directory: tempfile::TempDir,
    start: i64,
    before: Snapshot,
    after: Snapshot,
    /// The run's calls in order.
    calls: Vec<Call>,
    /// Where in them the commit is decided.
    decided: usize,
}

#[derive(Clone, Debug)]
struct Call {
    name: String,
    /// How many of this name came before it: strace counts each name for itself.
    nth: usize,
    line: String,
}

impl Call {
    fn changes_something(&self) -> bool {
        match self.name.as_str() {
            "ioctl" => self.line.contains("SETFLAGS") || self.line.contains("SETXATTR"),
            "openat" => self.line.contains("O_CREAT"),
            "write" => !self.line.starts_with("write(2,"),
            // What an older strace has no name for, it shows in any case: statmount(2), listxattrat(2).
            name => !name.starts_with("syscall_"),
        }
    }
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = directory.path().join("root");
        rich::make(&root);
        // One second early: the kernel stamps files with the time of its last tick.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let start = i64::try_from(now).unwrap() - 1;
        let field = field(directory.path());
        let before = field.snapshot().clock_times_alike(start);
        let log = directory.path().join("log");
        let output = traced(&field, &["-o", log.to_str().unwrap(), "-e", &format!("trace={CALLS}")]);
        assert_code(&output, 0);
        let after = field.snapshot().clock_times_alike(start);
        let calls = calls(&std::fs::read_to_string(log).unwrap());
        let decided = calls.iter().position(|c| c.name == "renameat2" && c.line.contains("\"plan.tmp\"")).unwrap();
        Ground { directory, start, before, after, calls, decided }
    })
}

/// A copy of the prepared root, with the flags that cp(1) does not copy.
fn field(directory: &Path) -> Field {
    let field = Field::of(&directory.join("root"));
    rich::protect(&field.root);
    field
}

fn calls(log: &str) -> Vec<Call> {
    let mut found: Vec<Call> = Vec::new();
    for line in log.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        let nth = found.iter().filter(|call| call.name == name).count() + 1;
        found.push(Call { name: name.to_owned(), nth, line: line.to_owned() });
    }
    found
}

/// The step under strace. What the run starts is not traced.
fn traced(field: &Field, options: &[&str]) -> Output {
    let run = field.dropcloth(["run"].iter().chain(&OPTIONS).chain(&["./rootfs", "--", "sh", "-c", STEP]));
    rich::traced(&run, options).output().unwrap()
}

fn injected(field: &Field, call: &Call, what: &str) -> Output {
    let Call { name, nth, .. } = call;
    traced(
        field,
        &["-o", "/dev/null", "-e", &format!("trace={name}"), "-e", &format!("inject={name}:{what}:when={nth}")],
    )
}

/// The kernel ends the sandbox a moment after its supervisor: until then the image is locked.
fn recover(field: &Field) -> Output {
    for _ in 0..200 {
        let output = field.dropcloth(["recover", "./rootfs"]).output().unwrap();
        if !stderr(&output).contains("in use by") {
            return output;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    panic!("the sandbox of a killed runner still runs");
}

/// What the image is after `dropcloth recover`.
fn recovered(field: &mut Field) -> Result<State, String> {
    let output = recover(field);
    if output.status.success() {
        return state(field);
    }
    field.forget_leaks();
    Err(format!("  recover: {}", stderr(&output)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Before,
    After,
}

/// What the image is now; an error when it is neither.
fn state(field: &mut Field) -> Result<State, String> {
    let found = compare(field);
    if found.is_err() {
        field.forget_leaks();
    }
    found
}

fn compare(field: &Field) -> Result<State, String> {
    let now = field.snapshot().clock_times_alike(ground().start);
    if field.path().join(".dropcloth").exists() {
        return Err("  .dropcloth is still there".to_owned());
    }
    let [from_before, from_after] = [&ground().before, &ground().after].map(|snapshot| tree::diff(snapshot, &now));
    match (from_before.is_empty(), from_after.is_empty()) {
        (true, _) => Ok(State::Before),
        (_, true) => Ok(State::After),
        _ if from_before.len() < from_after.len() => Err(format!("  from before:\n    {}", from_before.join("\n    "))),
        _ => Err(format!("  from after:\n    {}", from_after.join("\n    "))),
    }
}

fn every_one() -> bool {
    std::env::var_os("DROPCLOTH_LONG").is_some()
}

/// Tries each of the calls (each `stride`th in the short form), on two threads; fails with all that went wrong.
#[track_caller]
fn each(calls: &[Call], stride: usize, attempt: fn(&Call) -> Result<State, String>) -> (usize, usize) {
    let calls = calls.iter().filter(|call| call.changes_something());
    let chosen: Vec<Call> = calls.step_by(if every_one() { 1 } else { stride }).cloned().collect();
    let results: Vec<Result<State, String>> = thread::scope(|scope| {
        let half = |parity: usize| {
            let mine = chosen.iter().skip(parity).step_by(2);
            scope.spawn(move || {
                let told = |call: &Call| {
                    attempt(call).map_err(|e| format!("{} ({}): {}\n{e}", call.name, call.nth, call.line))
                };
                mine.map(told).collect::<Vec<_>>()
            })
        };
        [half(0), half(1)].into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let failed: Vec<&String> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    let shown: Vec<String> = failed.iter().take(10).map(|text| (*text).clone()).collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), chosen.len(), shown.join("\n"));
    let count = |state: State| results.iter().filter(|result| **result == Ok(state)).count();
    (count(State::Before), count(State::After))
}

macro_rules! needs_strace {
    () => {
        needs_root!();
        if !rich::has_strace() {
            return support::skip("it needs strace");
        }
    };
}

#[test]
fn a_runner_killed_at_any_call_leaves_the_image_before_or_after_the_step() {
    needs_strace!();
    let (before, after) = each(&ground().calls, 5, |call| {
        let mut field = field(ground().directory.path());
        injected(&field, call, "signal=KILL");
        recovered(&mut field)
    });
    println!("killed: {before} before, {after} after");
    assert!(before > 0 && after > 0, "{before} before, {after} after");
}

#[test]
fn a_recovery_killed_at_any_call_can_be_recovered() {
    needs_strace!();
    let decided = &ground().calls[ground().decided + 1..];
    let (before, after) = each(decided, 7, |call| {
        let mut field = field(ground().directory.path());
        injected(&field, &ground().calls[ground().decided + 1], "signal=KILL");
        // The recovery makes the same calls as the commit, nearly: any of them will do.
        let options =
            ["-o", "/dev/null", "-e", &format!("inject={}:signal=KILL:when={}", call.name, call.nth.div_ceil(2))];
        let mut command = Command::new("strace");
        command.args(options).arg(support::binary()).args(["recover", "./rootfs"]).env("HOME", field.path());
        command.current_dir(field.path()).output().unwrap();
        recovered(&mut field)
    });
    assert!(before == 0 && after > 0, "{before} before, {after} after");
}

#[test]
fn an_error_of_the_disk_fails_the_command_and_is_recovered() {
    needs_strace!();
    let first = ground().calls.iter().position(|call| call.name == "syncfs").unwrap();
    let (before, after) = each(&ground().calls[first..], 5, |call| {
        let mut field = field(ground().directory.path());
        let error = if call.nth % 2 == 0 { "error=ENOSPC" } else { "error=EIO" };
        let output = injected(&field, call, error);
        match output.status.code() {
            Some(125) => {}
            // An error that does not matter: a question that the file system need not answer, a call tried again.
            Some(0) if state(&mut field) == Ok(State::After) => return Ok(State::After),
            code => {
                field.forget_leaks();
                return Err(format!("  {error} ended with {code:?}: {}", stderr(&output)));
            }
        }
        recovered(&mut field)
    });
    println!("errors: {before} before, {after} after");
    assert!(before > 0 && after > 0, "{before} before, {after} after");
}

#[test]
fn the_next_run_finishes_an_interrupted_commit() {
    needs_strace!();
    let mut field = field(ground().directory.path());
    let calls = &ground().calls[ground().decided..];
    let call = calls.iter().filter(|call| call.name == "renameat2").nth(6).unwrap();
    injected(&field, call, "signal=KILL");
    let list = field.dropcloth(["list", "./rootfs"]).output().unwrap();
    assert!(support::stdout(&list).contains("interrupted commit"), "{}", support::stdout(&list));
    let output = field.run(&[], "test -e /t/n/m/f && test ! -e /t/file");
    assert_code(&output, 0);
    assert!(stderr(&output).contains("finished"), "{}", stderr(&output));
    assert_eq!(state(&mut field), Ok(State::After));
}

/// So many files that two threads move them, one of which gives each a second name first.
const MANY: &str = "cd /t; for d in . d1 d1/sub d2 d3 d4; do for i in $(seq 200); do echo $i > $d/m$i; done; done";

#[test]
fn a_runner_killed_while_two_threads_move_files_leaves_all_of_them_moved() {
    needs_strace!();
    if thread::available_parallelism().map_or(1, usize::from) == 1 {
        return support::skip("it needs two processors");
    }
    let mut whole = field(ground().directory.path());
    assert_code(&whole.run(&[], MANY), 0);
    whole.check_leaks();
    let expected = whole.snapshot().clock_times_alike(ground().start);
    for (call, nth) in [("linkat", 1), ("linkat", 150), ("unlinkat", 2), ("unlinkat", 180), ("renameat2", 90)] {
        let mut field = field(ground().directory.path());
        let run = field.dropcloth(["run", "./rootfs", "--", "sh", "-c", MANY]);
        // Of all its threads and children: the step itself makes none of these calls so often.
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        let output = rich::traced(&run, &["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject]).output().unwrap();
        assert!(!output.status.success(), "{call} {nth}: {}", stderr(&output));
        let output = recover(&field);
        assert!(stderr(&output).contains("finished"), "{call} {nth}: {}", stderr(&output));
        let now = field.snapshot().clock_times_alike(ground().start);
        assert_eq!(tree::diff(&expected, &now), [] as [&str; 0], "{call} {nth}");
        assert!(!field.path().join(".dropcloth").exists());
        field.check_leaks();
    }
}
