//! An oracle for the commit: random programs leave the same tree, and see the same while they run, in a plain chroot and in a
//! committed step. tests/commit.rs has the rows that were thought of; this finds the others.
//!
//! `scripts/oracle [FIRST [COUNT]]` is the long form. A program that shows a difference is made smaller before it is printed.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "oracle/generate.rs"]
mod generate;
mod support;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use generate::{END, FAIL, Program, Way};
use support::tree::{self, Snapshot};
use support::{Field, shell, stderr, stdout};

/// In an ordinary test run. The long form says its own in DROPCLOTH_ORACLE_SEEDS, as FIRST..END.
const SEEDS: Range<u64> = 1..21;
/// How long one program is made smaller, and how many are.
const SHRINKING: Duration = Duration::from_secs(90);
const SHRUNK: usize = 3;

const INTERPRETER: &str = include_str!("oracle/interpreter.pl");

/// What perl has no function for.
fn constants() -> String {
    let calls = [
        ("mmap", libc::SYS_mmap),
        ("munmap", libc::SYS_munmap),
        ("read", libc::SYS_read),
        ("fallocate", libc::SYS_fallocate),
        ("linkat", libc::SYS_linkat),
        ("copy_file_range", libc::SYS_copy_file_range),
        ("mknodat", libc::SYS_mknodat),
        ("fchownat", libc::SYS_fchownat),
        ("utimensat", libc::SYS_utimensat),
        ("renameat2", libc::SYS_renameat2),
        ("lsetxattr", libc::SYS_lsetxattr),
        ("lgetxattr", libc::SYS_lgetxattr),
        ("llistxattr", libc::SYS_llistxattr),
        ("lremovexattr", libc::SYS_lremovexattr),
        ("O_NONBLOCK", libc::O_NONBLOCK.into()),
        ("O_DIRECTORY", libc::O_DIRECTORY.into()),
        ("O_PATH", libc::O_PATH.into()),
        ("O_TMPFILE", libc::O_TMPFILE.into()),
    ];
    let pairs: String = calls.iter().map(|(name, number)| format!("{name} => {number}, ")).collect();
    format!("our %c = ({pairs});\n")
}

fn script(lines: &[&[String]]) -> String {
    let body: String = lines.iter().flat_map(|part| part.iter()).map(|line| format!("{line}\n")).collect();
    format!("{}{INTERPRETER}{body}", constants())
}

/// perl and what it needs, and the directories of any image.
fn base() -> &'static Path {
    static BASE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = BASE.get_or_init(|| {
        let directory = tempfile::tempdir_in(support::temporary()).unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        shell("mkdir -p bin dev etc proc root run sys t tmp usr/bin var/lib var/tmp; chmod 1777 tmp", &root);
        support::install("perl", &root);
        directory
    });
    directory.path()
}

/// A copy of it with the program's tree, and a script for each step.
fn field(program: &Program) -> Field {
    let field = Field::of(&base().join("root"));
    if program.giving {
        shell("chgrp 4 .; chmod g+s .; setfacl -d -m u:1:rwx .; chattr +dA .", field.path());
    }
    let age = [String::from("age('/');")];
    let userns = u8::from(backend() == Backend::UserNamespace);
    let [xfs, elsewhere] = [on_xfs(&field), program.way == Way::Scratch].map(u8::from);
    let made = [format!("($made, $xfs, $elsewhere, $userns) = (1, {xfs}, {elsewhere}, {userns});")];
    let limited = [format!("$userns = {userns};")];
    std::fs::write(field.root.join("tree.pl"), script(&[&limited, &program.tree, &age, &program.flags])).unwrap();
    for (number, part) in parts(program).iter().enumerate() {
        let end = [String::from(if part.fails { "exit 9;" } else { "exit 0;" })];
        std::fs::write(field.root.join(step_name(number)), script(&[&made, part.lines, &end])).unwrap();
    }
    let made = in_chroot(&field.root, "/tree.pl");
    assert!(made.status.success(), "{}", stderr(&made));
    field
}

fn step_name(number: usize) -> String {
    format!("step{number}.pl")
}

struct Part<'a> {
    lines: &'a [String],
    fails: bool,
}

fn parts(program: &Program) -> Vec<Part<'_>> {
    let ends = |line: &String| line == END || line == FAIL;
    let parts = program.steps.split_inclusive(ends).map(|lines| match lines.split_last() {
        Some((last, rest)) if ends(last) => Part { lines: rest, fails: last == FAIL },
        _ => Part { lines, fails: false },
    });
    parts.collect()
}

fn now() -> i64 {
    // One second early: the kernel stamps files with the time of its last tick.
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() - 1
}

/// With /proc, in a mount namespace of its own.
fn in_chroot(root: &Path, script: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-ec",
        "mount -t proc proc ./proc 2>/dev/null || mount --rbind /proc ./proc; exec chroot . /bin/perl \"$1\"",
        "sh",
        script,
    ]);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command.current_dir(root).output().unwrap()
}

/// What is not the same after the program in a chroot and in a committed step.
fn differences(program: &Program) -> Vec<String> {
    let (mut plain, mut step) = (field(program), field(program));
    let start = now();
    let mut found = Vec::new();
    begin(program, &step, &mut found);
    for (number, part) in parts(program).iter().enumerate() {
        let script = format!("/{}", step_name(number));
        let output = in_step(program, &step, &script);
        if part.fails {
            found.extend((output.status.code() != Some(9)).then(|| format!("step: {}", stderr(&output))));
        } else {
            found.extend(said_differently(&in_chroot(&plain.root, &script), &output));
        }
    }
    end(program, &step, &mut found);
    let [left, right] = [&plain, &step].map(|field| comparable(field, start));
    found.extend(tree::diff(&left, &right).into_iter().take(20));
    plain.forget_leaks();
    if !found.is_empty() {
        step.forget_leaks();
    }
    found
}

fn comparable(field: &Field, start: i64) -> Snapshot {
    let mut snapshot = field.snapshot().clock_times_alike(start);
    if on_xfs(field) {
        snapshot.entries.values_mut().filter(|entry| entry.kind.is_dir()).for_each(|entry| entry.mtime = (0, 0));
    }
    snapshot
}

/// XFS changes the mtime of directories that are exchanged from one parent to another, and overlayfs makes an exchange of a
/// rename to where something was removed.
fn on_xfs(field: &Field) -> bool {
    const MAGIC: i64 = 0x5846_5342;
    rustix::fs::statfs(&field.root).unwrap().f_type == MAGIC
}

/// What keeps the step from the image. DROPCLOTH_ORACLE_BACKEND says another one than root's overlay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backend {
    Overlay,
    /// `userns`: the overlay of a user namespace, for programs without hard links, renamed directories and inode flags.
    UserNamespace,
    /// `copy`: the exchange of a copy, for all programs.
    Copy,
}

fn backend() -> Backend {
    match std::env::var("DROPCLOTH_ORACLE_BACKEND").as_deref() {
        Err(_) => Backend::Overlay,
        Ok("userns") => Backend::UserNamespace,
        Ok("copy") => Backend::Copy,
        Ok(other) => panic!("DROPCLOTH_ORACLE_BACKEND={other} is neither userns nor copy"),
    }
}

fn backend_options() -> &'static [&'static str] {
    if backend() == Backend::Copy { &["--backend", "copy"] } else { &[] }
}

fn begin(program: &Program, step: &Field, found: &mut Vec<String>) {
    if program.way == Way::Steps {
        succeed(step, &[&["begin", "./rootfs", "--name", "build"], backend_options()].concat(), found);
    }
}

fn end(program: &Program, step: &Field, found: &mut Vec<String>) {
    if program.way == Way::Steps {
        succeed(step, &["commit", "build"], found);
    }
}

fn succeed(step: &Field, arguments: &[&str], found: &mut Vec<String>) {
    let output = step.dropcloth(arguments).output().unwrap();
    if !output.status.success() {
        found.push(format!("{}: {}", arguments.join(" "), stderr(&output)));
    }
}

fn in_step(program: &Program, step: &Field, script: &str) -> Output {
    let options = ["--cap-add", "LINUX_IMMUTABLE", "--cap-add", "SYS_ADMIN", "--env", "LC_ALL=C"];
    let scratch = scratch();
    let (place, root) = match program.way {
        Way::Run => (backend_options().to_vec(), vec!["./rootfs"]),
        // A copy is always beside the image.
        Way::Scratch if backend() == Backend::Copy => (backend_options().to_vec(), vec!["./rootfs"]),
        Way::Scratch => (vec!["--scratch", scratch.to_str().unwrap()], vec!["./rootfs"]),
        Way::Steps => (vec!["--in", "build"], vec![]),
    };
    let words = ["run"].iter().chain(&options).chain(&place).chain(&root).chain(&["--", "/bin/perl"]).copied();
    step.dropcloth(words.chain([script])).output().unwrap()
}

/// In memory, which is another file system than that of the tests.
fn scratch() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/dev/shm/dropcloth-oracle-{}-{number}", std::process::id()))
}

fn said_differently(expected: &Output, output: &Output) -> Vec<String> {
    let mut found = Vec::new();
    if !expected.status.success() || expected.status.code() != output.status.code() {
        let [left, right] = [expected, output].map(|o| format!("{:?} {}", o.status.code(), stderr(o)));
        found.push(format!("chroot: {left}, step: {right}"));
    }
    let (left, right) = (stdout(expected), stdout(output));
    let lines = left.lines().zip(right.lines()).filter(|(left, right)| left != right);
    found.extend(lines.take(10).map(|(left, right)| format!("said: {left} -> {right}")));
    if found.is_empty() && left != right {
        found.push("one said more than the other".to_owned());
    }
    found
}

/// Drops operations, many at once and then single ones, for as long as a difference stays.
fn shrink(program: &Program) -> Program {
    let deadline = Instant::now() + SHRINKING;
    let mut small = program.clone();
    let mut before = usize::MAX;
    while length(&small) < before {
        before = length(&small);
        let parts: [fn(&mut Program) -> &mut Vec<String>; 3] = [|p| &mut p.steps, |p| &mut p.flags, |p| &mut p.tree];
        for part in parts {
            shrink_part(&mut small, part, deadline);
        }
    }
    small
}

fn length(program: &Program) -> usize {
    program.tree.len() + program.flags.len() + program.steps.len()
}

fn shrink_part(small: &mut Program, part: fn(&mut Program) -> &mut Vec<String>, deadline: Instant) {
    let mut chunk = part(small).len().div_ceil(2);
    while chunk > 0 {
        let mut from = 0;
        while from < part(small).len() && Instant::now() < deadline {
            let mut fewer = small.clone();
            let lines = part(&mut fewer);
            lines.drain(from..(from + chunk).min(lines.len()));
            if differences(&fewer).is_empty() {
                from += chunk;
            } else {
                *small = fewer;
            }
        }
        chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
    }
}

fn indented(lines: &[String]) -> String {
    lines.iter().flat_map(|line| line.lines()).map(|line| format!("    {line}\n")).collect()
}

fn report(seed: u64, found: &[String], small: Option<&Program>) -> String {
    let mut text = format!("seed {seed} (again: scripts/oracle {seed} 1), from chroot to step:\n{}", indented(found));
    if let Some(Program { tree, flags, steps, way, giving }) = small {
        text += &format!("  tree:\n{}{}", indented(tree), indented(flags));
        text += &format!("  program ({way:?}, giving: {giving}):\n{}", indented(steps));
        text += &format!("  leaves:\n{}", indented(&differences(small.expect("it is there"))));
    }
    text
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("DROPCLOTH_ORACLE_SEEDS") else { return SEEDS };
    let range = text.split_once("..").and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?));
    range.unwrap_or_else(|| panic!("DROPCLOTH_ORACLE_SEEDS={text} is not FIRST..END"))
}

/// All seeds, on two threads.
fn failures(seeds: &Range<u64>) -> Vec<(u64, Vec<String>)> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return failed;
            }
            let found = differences(&generate::program(seed));
            if !found.is_empty() {
                failed.push((seed, found));
            }
        }
    };
    let mut failed = thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    failed.sort();
    failed
}

#[test]
fn random_programs() {
    needs_root!();
    base();
    let seeds = seeds();
    let start = Instant::now();
    let failed = failures(&seeds);
    let (count, seconds) = (seeds.end.saturating_sub(seeds.start), start.elapsed().as_secs_f64());
    println!("{count} seeds in {seconds:.1} s, {:.1} seeds/s: {} differ", count as f64 / seconds, failed.len());
    let reports = failed.iter().enumerate().map(|(n, (seed, found))| {
        let small = (n < SHRUNK).then(|| shrink(&generate::program(*seed)));
        report(*seed, found, small.as_ref())
    });
    let reports: Vec<String> = reports.collect();
    assert!(reports.is_empty(), "{} of {count} seeds:\n{}", reports.len(), reports.join("\n"));
}
