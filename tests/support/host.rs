//! What a sandbox could leave behind on the host: mounts, processes, names in directories.

#![allow(dead_code, reason = "every test program takes in the whole module and uses its part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long something may take to go. The kernel ends the processes of a runner that was killed, and the mounts of their
/// namespace, some time after the runner itself; only a test that is about to fail waits so long.
const GRACE: Duration = Duration::from_secs(3);

/// The host at one moment, as far as one test can have changed it.
#[derive(Debug)]
pub struct HostState {
    marker: String,
    mounts: BTreeSet<String>,
    processes: BTreeMap<ProcessId, String>,
    directories: BTreeMap<PathBuf, BTreeSet<OsString>>,
}

/// A pid alone may be used again; with its start time (clock ticks since boot) it cannot.
type ProcessId = (u32, u64);

impl HostState {
    /// `marker` is a string that only this test has in the arguments or the environment of what it starts: the tests run
    /// side by side, and each must count its own processes only. Of `directories` the entries' names are kept; one that
    /// is missing counts as empty.
    pub fn now<P: AsRef<Path>>(marker: &str, directories: &[P]) -> Self {
        assert!(!marker.is_empty(), "an empty marker would count every process of the machine");
        Self {
            marker: marker.to_owned(),
            mounts: mounts(),
            processes: processes(marker),
            directories: directories.iter().map(|path| (path.as_ref().to_owned(), names(path.as_ref()))).collect(),
        }
    }

    fn again(&self) -> Self {
        Self::now(&self.marker, &self.directories.keys().collect::<Vec<_>>())
    }

    fn more_than(&self, before: &Self) -> Vec<String> {
        let mounts = self.mounts.difference(&before.mounts).map(|line| format!("mount: {line}"));
        let processes = self.processes.iter().filter(|(id, _)| !before.processes.contains_key(id));
        let processes = processes.map(|((pid, _), command)| format!("process {pid}: {command}"));
        let names = self.directories.iter().flat_map(|(path, names)| {
            names.difference(&before.directories[path]).map(move |name| format!("entry: {:?}", path.join(name)))
        });
        mounts.chain(processes).chain(names).collect()
    }
}

/// Fails when there is a mount, a process or a directory entry that `before` did not have, and names each.
#[track_caller]
pub fn assert_no_more(before: &HostState) {
    let deadline = Instant::now() + GRACE;
    loop {
        let left = before.again().more_than(before);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind on the host:\n  {}", left.join("\n  "));
        sleep(Duration::from_millis(20));
    }
}

/// Of the thread, not the process: a test that mounts something itself gives its thread its own mount namespace first,
/// and is then not seen by the others.
fn mounts() -> BTreeSet<String> {
    let text = fs::read("/proc/thread-self/mountinfo").expect("/proc/thread-self/mountinfo is readable");
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

fn processes(marker: &str) -> BTreeMap<ProcessId, String> {
    let listing = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id()).filter_map(|pid| process(pid, marker)).collect()
}

/// None as well for a process that ends while it is looked at, and for one whose environment is not ours to read.
fn process(pid: u32, marker: &str) -> Option<(ProcessId, String)> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let arguments = fs::read(folder.join("cmdline")).unwrap_or_default();
    let environment = fs::read(folder.join("environ")).unwrap_or_default();
    if !contains(&arguments, marker) && !contains(&environment, marker) {
        return None;
    }
    let stat = fs::read(folder.join("stat")).ok()?;
    let start = start_time(&String::from_utf8_lossy(&stat))?;
    let command = String::from_utf8_lossy(&arguments).replace('\0', " ");
    let name = fs::read(folder.join("comm")).unwrap_or_default();
    Some(((pid, start), format!("{} ({})", String::from_utf8_lossy(&name).trim_end(), command.trim_end())))
}

/// Field 22 of proc_pid_stat(5), counted from the last parenthesis: the second field, the name, may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn contains(bytes: &[u8], marker: &str) -> bool {
    bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
}

fn names(path: &Path) -> BTreeSet<OsString> {
    fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name())).collect()
}
