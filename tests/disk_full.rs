//! Disks without room: whatever a step or a commit finds full, the image is before the step or, once there is room again,
//! after it. The file systems are real ones, of a few MiB or with few inodes.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use support::disk::{Mounted, apart};
use support::rich::{self, OPTIONS, STEP};
use support::tree::{self, Snapshot};
use support::{assert_code, stderr};

/// A small file system with the image in it, `full/rootfs`, another at `elsewhere`, in a mount namespace of their own.
struct Full<'a> {
    place: &'a Path,
    _mounted: [Mounted; 2],
    before: Snapshot,
    after: Snapshot,
    start: i64,
}

fn with_full(work: impl FnOnce(&Full<'_>) + Send) {
    let directory = tempfile::Builder::new().prefix("full").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = directory.path();
    apart(place, || {
        let mounted = ["full", "elsewhere"].map(|name| formatted(place, name));
        rich::make(&place.join("saved"));
        // One second early: the kernel stamps files with the time of its last tick.
        let start = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() - 1;
        let none = Snapshot { entries: BTreeMap::new() };
        let mut full = Full { place, _mounted: mounted, before: none.clone(), after: none, start };
        full.renew();
        full.before = full.snapshot();
        assert_code(&full.run(&[], STEP), 0);
        full.after = full.snapshot();
        full.renew();
        work(&full);
    });
}

/// A file system in which blocks of 1 KiB, or inodes, can be counted out one by one; nothing is reserved for root.
fn formatted(place: &Path, name: &str) -> Mounted {
    let file = place.join(format!("{name}.disk"));
    File::create(&file).unwrap().set_len(16 << 20).unwrap();
    let options = ["-q", "-F", "-b", "1024", "-m", "0", "-N", "1200", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    assert!(Command::new("mkfs.ext4").args(options).arg(&file).status().unwrap().success());
    Mounted::new(&file, &place.join(name))
}

impl Full<'_> {
    fn top(&self) -> PathBuf {
        self.place.join("full")
    }

    fn root(&self) -> PathBuf {
        self.top().join("rootfs")
    }

    fn snapshot(&self) -> Snapshot {
        tree::snapshot(&self.root()).clock_times_alike(self.start)
    }

    /// The image as it was before the step.
    fn renew(&self) {
        support::shell("chattr -R -f -i full/rootfs || :; rm -rf full/rootfs; cp -a saved full/rootfs", self.place);
        rich::protect(&self.root());
    }

    fn dropcloth(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(support::binary());
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.place).current_dir(self.top()).stdin(Stdio::null());
        command.output().unwrap()
    }

    fn run(&self, options: &[&str], step: &str) -> Output {
        self.dropcloth(&[&["run"], options, &OPTIONS, &["./rootfs", "--", "sh", "-c", step]].concat())
    }

    /// Names besides the image that only dropcloth can have made.
    fn left(&self) -> Vec<PathBuf> {
        let places = [self.top(), self.place.join("elsewhere")];
        let entries = places.iter().flat_map(|place| std::fs::read_dir(place).into_iter().flatten());
        let names = entries.map(|entry| entry.unwrap().path());
        names.filter(|path| !["lost+found", "rootfs", "ballast"].iter().any(|known| path.ends_with(known))).collect()
    }

    /// Fills the file system until only so much is free.
    fn leave_blocks(&self, name: &str, free: u64) {
        let top = self.place.join(name);
        let stat = rustix::fs::statvfs(&top).unwrap();
        let length = (stat.f_bavail - free) * stat.f_frsize;
        let file = File::create(top.join("ballast")).unwrap();
        // The blocks that say where the others are: the file gets as much as goes.
        let fits = |length: u64| rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length).is_ok();
        assert!((0..64).any(|less| fits(length - less * stat.f_frsize)), "the file system cannot be filled");
        file.sync_all().unwrap();
    }

    /// The same with inodes.
    fn leave_inodes(&self, free: u64) {
        let directory = self.top().join("ballast");
        std::fs::create_dir(&directory).unwrap();
        let count = rustix::fs::statvfs(self.top()).unwrap().f_ffree - free;
        (0..count).for_each(|number| drop(File::create(directory.join(number.to_string())).unwrap()));
    }

    fn make_room(&self) {
        support::shell("rm -rf full/ballast elsewhere/ballast", self.place);
    }

    fn state(&self) -> Result<State, String> {
        let now = self.snapshot();
        let from = [&self.before, &self.after].map(|state| tree::diff(state, &now));
        match from.iter().position(Vec::is_empty) {
            Some(0) => Ok(State::Before),
            Some(_) => Ok(State::After),
            None => Err(from.iter().min_by_key(|d| d.len()).unwrap().join("\n    ")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Before,
    After,
}

/// How a run ended.
#[derive(Default, Debug)]
struct Ends {
    /// The step did not get what it asked for.
    step: usize,
    /// dropcloth did not, before the commit was decided: nothing is left of it.
    undone: usize,
    /// The commit was decided, and finished when there was room.
    decided: usize,
    succeeded: usize,
}

impl Ends {
    /// One run with the disk as it is, and what comes of it when there is room.
    fn add(&mut self, full: &Full<'_>, options: &[&str]) -> Result<(), String> {
        let output = full.run(options, STEP);
        let (code, said) = (output.status.code(), stderr(&output));
        let (now, left) = (full.state(), full.left());
        match code {
            Some(125) if !said.contains("free") => return Err(format!("no advice: {said}")),
            Some(125) if said.contains("The commit is decided") => self.finish(full, options, &said)?,
            Some(125) if now == Ok(State::Before) && left.is_empty() => self.undone += 1,
            Some(1) if now == Ok(State::Before) && left.is_empty() => self.step += 1,
            Some(0) if now == Ok(State::After) && left.is_empty() => self.succeeded += 1,
            _ => return Err(format!("ended with {code:?}, image {now:?}, left {left:?}: {said}")),
        }
        Ok(())
    }

    fn finish(&mut self, full: &Full<'_>, options: &[&str], said: &str) -> Result<(), String> {
        // For want of room it cannot; it must not make anything worse.
        full.dropcloth(&["recover", "./rootfs"]);
        full.make_room();
        let recovery = full.dropcloth(&[&["run"], options, &["./rootfs", "--", "true"]].concat());
        let (now, left) = (full.state(), full.left());
        if recovery.status.success() && now == Ok(State::After) && left.is_empty() {
            self.decided += 1;
            return Ok(());
        }
        Err(format!("{said}\nrecovered to {now:?}, left {left:?}: {}", stderr(&recovery)))
    }
}

/// A run for each amount of what is left free.
#[track_caller]
fn each(full: &Full<'_>, amounts: impl Iterator<Item = u64>, leave: impl Fn(u64), options: &[&str]) -> Ends {
    let mut ends = Ends::default();
    for free in amounts {
        leave(free);
        if let Err(what) = ends.add(full, options) {
            panic!("with {free} free: {what}");
        }
        full.make_room();
        full.renew();
    }
    println!("{ends:?}");
    ends
}

/// How far apart the amounts are.
fn stride(short: usize) -> usize {
    if std::env::var_os("DROPCLOTH_LONG").is_some() { 1 } else { short }
}

#[test]
fn a_run_on_a_disk_without_room_leaves_the_image_before_or_after_the_step() {
    needs_root!();
    with_full(|full| {
        let ends = each(full, (0..150).step_by(stride(5)), |free| full.leave_blocks("full", free), &[]);
        assert!(ends.step > 0 && ends.undone > 0 && ends.succeeded > 0, "{ends:?}");
    });
}

#[test]
fn a_run_without_free_inodes_leaves_the_image_before_or_after_the_step() {
    needs_root!();
    with_full(|full| {
        let ends = each(full, (0..80).step_by(stride(4)), |free| full.leave_inodes(free), &[]);
        assert!(ends.step > 0 && ends.undone > 0 && ends.succeeded > 0, "{ends:?}");
    });
}

#[test]
fn a_commit_by_copying_to_a_disk_without_room_leaves_the_image_before_or_after_the_step() {
    needs_root!();
    with_full(|full| {
        let options = ["--scratch", "../elsewhere/transactions"];
        let ends = each(full, (0..200).step_by(stride(8)), |free| full.leave_blocks("full", free), &options);
        assert!(ends.undone > 0 && ends.succeeded > 0, "{ends:?}");
    });
}

#[test]
fn a_run_with_its_transaction_on_a_disk_without_room_leaves_the_image_before_or_after_the_step() {
    needs_root!();
    with_full(|full| {
        let options = ["--scratch", "../elsewhere/transactions"];
        let ends = each(full, (0..150).step_by(stride(15)), |free| full.leave_blocks("elsewhere", free), &options);
        assert!(ends.step > 0 && ends.undone > 0 && ends.succeeded > 0, "{ends:?}");
    });
}
