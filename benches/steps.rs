//! Real steps, commit and final sync included, beside the same step by plain chroot: `apt-get install` of a few dozen packages,
//! and `pip install` of twenty wheels. Downloads are made before.
//!
//! Started by `scripts/bench apt` and `pip`; needs root, the Debian mirror for the first, and some minutes.
#![allow(clippy::disallowed_methods, reason = "a bench starts programs")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use support::{Contender, copy, dropcloth, field, mirror, project, table};

const ROUNDS: usize = 5;
/// Milliseconds: a sync of a virtual disk may take a fifth of one, of a disk that loses nothing with the power one to ten.
const LONGER_SYNCS: [u32; 2] = [1, 4];
const WHEELS: usize = 20;
/// With what they need, about eighty packages.
const PACKAGES: &str = "build-essential git python3-dev";
const INSTALL: &str = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends";
const SECONDS: (&str, f64) = ("s", 1.0);

fn sh(script: &str) -> f64 {
    let started = Instant::now();
    let status = Command::new("sh").args(["-ec", script]).env_remove("RUST_BACKTRACE").stdin(Stdio::null()).output();
    let taken = started.elapsed().as_secs_f64();
    let output = status.expect("a shell");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    taken
}

/// What of a run was scan, search and commit, as its report says; none for the others.
fn commit_seconds(report: &Path) -> Option<f64> {
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).ok()?).ok()?;
    report["commit_seconds"].as_f64()
}

/// The same step by plain chroot and by dropcloth.
struct Ways {
    root: String,
    report: PathBuf,
    step: String,
    more: String,
}

impl Ways {
    fn new(directory: &Path, step: &str, more: &str) -> Ways {
        let root = directory.join("root").display().to_string();
        Ways { root, report: directory.join("report.json"), step: step.to_owned(), more: more.to_owned() }
    }

    /// In `through` and for chroot the sync is a command of its own.
    fn run(&self, before: &str, mode: &str, options: &str) -> String {
        let Ways { root, report, step, more } = self;
        let report = if mode == "commit" { format!("--report {}", report.display()) } else { String::new() };
        let dropcloth = dropcloth();
        format!(
            "{before} {dropcloth} run --mode {mode} {report} {more} {options} {root} -- sh -c '{step}' && sync -f {root}"
        )
    }

    fn chroot(&self, before: &str) -> String {
        let Ways { root, step, .. } = self;
        let bind = format!("mkdir -p {root}/tmp/pypi && mount --bind {} {root}/tmp/pypi", mirror());
        format!(
            "{bind}; mount -t proc proc {root}/proc; {before} chroot {root} sh -c '{step}'; umount {root}/proc {root}/tmp/pypi; sync -f {root}"
        )
    }

    /// In turn, the first is what the others are compared with. Each round begins with new copies of `prepared`.
    fn compare(&self, title: &str, prepared: &str, ways: &[(&'static str, String)]) {
        let mut all: Vec<Contender> = ways.iter().map(|(name, _)| Contender::new(name, &["true"])).collect();
        let mut commits = Vec::new();
        for _ in 0..ROUNDS {
            for (contender, (name, script)) in all.iter_mut().zip(ways) {
                sh(&format!("rm -rf {root}; cp -a {prepared} {root}; sync", root = self.root));
                contender.add(sh(script));
                if *name == "dropcloth commit" {
                    commits.extend(commit_seconds(&self.report));
                }
            }
        }
        table(title, &all, &[ways[0].0], SECONDS);
        println!("of a commit run, scan, search and commit with both syncs: {commits:.2?} s");
    }

    fn on_this_disk(&self, title: &str, prepared: &str) {
        let ways = [
            ("chroot", self.chroot("")),
            ("dropcloth commit", self.run("", "commit", "")),
            ("dropcloth through", self.run("", "through", "")),
            ("dropcloth through --fsync off", self.run("", "through", "--fsync off")),
        ];
        self.compare(title, prepared, &ways);
    }

    /// Each sync that reaches the disk takes longer by so many milliseconds: for chroot those of the step; the overlay of a commit
    /// lets none of the step's through, and dropcloth's own are in its first process.
    fn on_slower_disk(&self, title: &str, prepared: &str, milliseconds: u32) {
        let Ok(slow_sync) = std::env::var("BENCH_SLOW_SYNC") else {
            return println!("slower disks: with scripts/bench only");
        };
        let before = |whose: &str| format!("{slow_sync} {milliseconds}000 {whose}");
        let ways =
            [("chroot", self.chroot(&before("all"))), ("dropcloth commit", self.run(&before("first"), "commit", ""))];
        self.compare(&format!("{title}, each sync {milliseconds} ms longer"), prepared, &ways);
    }
}

fn apt(directory: &Path) {
    let prepared = copy("debian", directory, "prepared");
    let chroot =
        format!("mount -t proc proc {prepared}/proc; cp /etc/resolv.conf {prepared}/etc/; chroot {prepared} sh -c");
    sh(&format!("{chroot} 'apt-get -qq update; {INSTALL} -d install {PACKAGES}'; umount {prepared}/proc"));
    let count = format!("ls {prepared}/var/cache/apt/archives/*.deb | wc -l");
    let packages = Command::new("sh").args(["-c", &count]).output().expect("a shell");
    let title = format!("apt-get install of {} packages", String::from_utf8_lossy(&packages.stdout).trim());
    let ways = Ways::new(directory, &format!("{INSTALL} --no-download install {PACKAGES}"), "");
    ways.on_this_disk(&title, &prepared);
    for milliseconds in LONGER_SYNCS {
        ways.on_slower_disk(&title, &prepared, milliseconds);
    }
}

fn pip(directory: &Path) {
    let prepared = copy("debian", directory, "prepared");
    let pins =
        std::fs::read_to_string(project().join("target/mirror-requirements.txt")).expect("scripts/make-mirror first");
    // What is built from source takes its time in a compiler.
    let sources = ["colorama", "docopt", "pyproject_hooks", "tabulate"];
    let wheels = pins.lines().filter(|pin| !sources.iter().any(|s| pin.to_lowercase().starts_with(s)));
    let wheels: Vec<&str> = wheels.take(WHEELS).collect();
    let options = "--quiet --no-deps --no-cache-dir --break-system-packages --index-url file:///tmp/pypi";
    let step = format!("python3 -m pip install --root-user-action ignore {options} {}", wheels.join(" "));
    // Plain chroot asks nobody else either.
    let more = format!("--no-official --mirror {}", mirror());
    Ways::new(directory, &step, &more).on_this_disk(&format!("pip install of {} wheels", wheels.len()), &prepared);
}

fn main() {
    let field = field();
    let parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    for (name, part) in [("apt", apt as fn(&Path)), ("pip", pip)] {
        if parts.is_empty() || parts.iter().any(|p| p == name) {
            let directory = field.path().join(name);
            std::fs::create_dir(&directory).expect("a directory");
            part(&directory);
        }
    }
}
