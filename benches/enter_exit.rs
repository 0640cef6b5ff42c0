//! Enter and exit with /bin/true: dropcloth's modes beside chroot(1), unshare(1) and bwrap(1), as ratios in one run.
//!
//! The contenders take turns, round by round, so that a machine that changes its speed changes it for all. Started by
//! scripts/bench, which makes the root and the mirror; needs root.
#![allow(clippy::disallowed_methods, reason = "a bench starts programs")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds that count; three more come first and do not.
const ROUNDS: usize = 60;
const WARM_UP: usize = 3;

struct Contender {
    name: &'static str,
    command: Vec<String>,
    times: Vec<Duration>,
}

impl Contender {
    fn new(name: &'static str, command: &[&str]) -> Contender {
        Contender { name, command: command.iter().map(|s| (*s).to_owned()).collect(), times: Vec::new() }
    }

    fn round(&mut self, counts: bool) {
        let started = Instant::now();
        let status = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let taken = started.elapsed();
        assert!(status.is_ok_and(|s| s.success()), "{} failed: {:?}", self.name, self.command);
        if counts {
            self.times.push(taken);
        }
    }

    fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.times.clone();
        sorted.sort();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let place = ((sorted.len() - 1) as f64 * part) as usize;
        sorted[place]
    }
}

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Each contender has its own copy: bwrap leaves its mount points in the root.
fn copy(directory: &Path, name: &str) -> String {
    let to = directory.join(name);
    let status = Command::new("cp").arg("-a").arg(project().join("target/roots/debian")).arg(&to).status();
    assert!(status.is_ok_and(|s| s.success()), "scripts/make-root first");
    to.display().to_string()
}

fn main() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
    let mirror = project().join("target/mirror").display().to_string();
    let dropcloth = env!("CARGO_BIN_EXE_dropcloth");
    let (ours, theirs) = (copy(directory.path(), "dropcloth"), copy(directory.path(), "others"));
    let mut all = vec![
        Contender::new("chroot", &["chroot", &theirs, "/bin/true"]),
        Contender::new("unshare + chroot", &["unshare", "-m", "-p", "-f", "-i", "-u", "chroot", &theirs, "/bin/true"]),
        Contender::new(
            "bwrap",
            &[
                "bwrap",
                "--bind",
                &theirs,
                "/",
                "--proc",
                "/proc",
                "--dev",
                "/dev",
                "--ro-bind",
                &mirror,
                "/tmp/pypi",
                "--unshare-pid",
                "--unshare-ipc",
                "--unshare-uts",
                "--die-with-parent",
                "/bin/true",
            ],
        ),
        Contender::new("dropcloth commit", &[dropcloth, "run", "--mirror", &mirror, &ours, "--", "/bin/true"]),
        Contender::new(
            "dropcloth discard",
            &[dropcloth, "run", "--mode", "discard", "--mirror", &mirror, &ours, "--", "/bin/true"],
        ),
        Contender::new("dropcloth --version", &[dropcloth, "--version"]),
    ];
    for round in 0..WARM_UP + ROUNDS {
        all.iter_mut().for_each(|contender| contender.round(round >= WARM_UP));
    }
    let median = |name: &str| all.iter().find(|c| c.name == name).map_or(1.0, |c| c.quantile(0.5).as_secs_f64());
    let (bwrap, chroot) = (median("bwrap"), median("chroot"));
    println!("enter + exit with /bin/true, {ROUNDS} rounds, taken in turn");
    println!("{:<22}{:>10}{:>10}{:>10}{:>10}{:>10}", "", "median ms", "p10 ms", "p90 ms", "/ bwrap", "/ chroot");
    for contender in &all {
        let ms = |part: f64| contender.quantile(part).as_secs_f64() * 1e3;
        let middle = contender.quantile(0.5).as_secs_f64();
        println!(
            "{:<22}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>10.2}",
            contender.name,
            ms(0.5),
            ms(0.1),
            ms(0.9),
            middle / bwrap,
            middle / chroot
        );
    }
}
