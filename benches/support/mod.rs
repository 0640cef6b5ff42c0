//! What every bench needs: contenders that take turns, so that a machine that changes its speed changes it for all, and a table.
#![allow(dead_code, reason = "each bench uses its part")]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds that come first and do not count.
const WARM_UP: usize = 2;

/// One way to do the same.
pub struct Contender {
    name: &'static str,
    command: Vec<String>,
    user: Option<u32>,
    times: Vec<Duration>,
}

impl Contender {
    pub fn new<S: AsRef<str>>(name: &'static str, command: &[S]) -> Contender {
        let command = command.iter().map(|s| s.as_ref().to_owned()).collect();
        Contender { name, command, user: None, times: Vec::new() }
    }

    /// The same by this user.
    pub fn by(mut self, user: u32) -> Contender {
        self.user = Some(user);
        self
    }

    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// How long it takes, in seconds.
    pub fn once(&self) -> f64 {
        let mut command = command(&self.command);
        if let Some(user) = self.user {
            command.uid(user).gid(user).env("HOME", "/nonexistent");
        }
        let started = Instant::now();
        let status = command.status();
        let taken = started.elapsed();
        assert!(status.is_ok_and(|s| s.success()), "{} failed: {:?}", self.name, self.command);
        taken.as_secs_f64()
    }

    pub fn add(&mut self, seconds: f64) {
        self.times.push(Duration::from_secs_f64(seconds));
    }

    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.times.clone();
        sorted.sort();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let place = ((sorted.len() - 1) as f64 * part).round() as usize;
        sorted[place].as_secs_f64()
    }
}

/// A command that prints nothing. A backtrace of every refused call would be measured else.
pub fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
    command
}

/// All in turn, `rounds` times.
pub fn in_turn(all: &mut [Contender], rounds: usize) {
    for round in 0..WARM_UP + rounds {
        for contender in all.iter_mut() {
            let seconds = contender.once();
            if round >= WARM_UP {
                contender.add(seconds);
            }
        }
    }
}

/// Medians, spread, and the ratio of each median to those of `bases`.
pub fn table(title: &str, all: &[Contender], bases: &[&str], (unit, factor): (&str, f64)) {
    let rounds = all.first().map_or(0, |c| c.times.len());
    print!("\n{title}, {rounds} rounds in turn\n{:<32}{:>10}{:>9}{:>9}", "", format!("median {unit}"), "p10", "p90");
    bases.iter().for_each(|base| print!("{:>25}", format!("/ {base}")));
    println!();
    for contender in all {
        let of = |part: f64| contender.quantile(part) * factor;
        print!("{:<32}{:>10.2}{:>9.2}{:>9.2}", contender.name, of(0.5), of(0.1), of(0.9));
        for base in bases {
            let base = all.iter().find(|c| c.name == *base).expect("a base is a contender");
            print!("{:>25.2}", contender.quantile(0.5) / base.quantile(0.5));
        }
        println!();
    }
}

pub fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The binary that is measured: the one of this build, or that of scripts/build-static.
pub fn dropcloth() -> String {
    std::env::var("DROPCLOTH").unwrap_or_else(|_| env!("CARGO_BIN_EXE_dropcloth").to_owned())
}

pub fn mirror() -> String {
    project().join("target/mirror").display().to_string()
}

/// Where everything is made: scripts/bench gives an ext4 file system of its own.
pub fn field() -> tempfile::TempDir {
    let directory = std::env::var("BENCH_FIELD").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    tempfile::Builder::new().permissions(permissions()).tempdir_in(directory).expect("a temporary directory")
}

/// Another user enters it too.
fn permissions() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

/// A copy of a root that scripts/make-root made. Each contender has its own: some leave their mount points in it.
pub fn copy(root: &str, directory: &Path, name: &str) -> String {
    let to = directory.join(name);
    let status = Command::new("cp").arg("-a").arg(project().join("target/roots").join(root)).arg(&to).status();
    assert!(status.is_ok_and(|s| s.success()), "scripts/make-root first");
    to.display().to_string()
}

pub fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(program).is_file()))
}
