//! What a commit costs: the same step on images of 10³ and 10⁶ files, and 30,000 new small files beside `cp -a` of them.
//!
//! The contenders take turns, so that a machine that changes its speed changes it for all. Started by `scripts/bench files` and
//! `commit`; needs root, and some minutes and two gigabytes for the large image.
#![allow(clippy::disallowed_methods, reason = "a bench starts programs")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 15;
/// Directories with a hundred small files each.
const DIRECTORIES: usize = 300;

/// 200 files made and removed, one changed, one new directory.
const SMALL_STEP: &str = "mkdir /opt.new; i=0; while [ $i -lt 200 ]; do echo $i > /opt.new/$i; i=$((i+1)); done
    echo x >> /etc/hosts; rm -rf /opt.old; [ ! -d /opt ] || mv /opt /opt.old; mv /opt.new /opt";

fn run(directory: &Path, command: &[&str]) {
    let status = Command::new(command[0]).args(&command[1..]).current_dir(directory).stdout(Stdio::null()).status();
    assert!(status.is_ok_and(|s| s.success()), "{command:?}");
}

fn image(directory: &Path, name: &str, files: usize) -> PathBuf {
    let root = directory.join(name);
    let small = support::project().join("target/roots/small");
    run(directory, &["cp", "-a", &small.display().to_string(), name]);
    for number in 0..files / 1000 {
        let below = root.join(format!("data/{}/{}", number / 32, number % 32));
        std::fs::create_dir_all(&below).expect("a directory of the image");
        (0..1000).for_each(|i| drop(std::fs::File::create(below.join(i.to_string())).expect("a file of the image")));
    }
    root
}

/// Seconds of the whole run, and of its commit as the report says.
fn step(root: &Path, options: &[&str], script: &str) -> (f64, f64) {
    let report = root.with_extension("json");
    let started = Instant::now();
    let status = Command::new(support::dropcloth())
        .env_remove("RUST_BACKTRACE")
        .args(["run", "--report", &report.display().to_string()])
        .args(options)
        .args([&root.display().to_string(), "--", "sh", "-c", script])
        .stderr(Stdio::null())
        .status();
    let whole = started.elapsed().as_secs_f64();
    assert!(status.is_ok_and(|s| s.success()), "{script}");
    let text = std::fs::read(&report).expect("the report");
    let report: serde_json::Value = serde_json::from_slice(&text).expect("a report in JSON");
    (whole, report["commit_seconds"].as_f64().expect("a time"))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn sizes(directory: &Path) {
    let images = [image(directory, "thousand", 1_000), image(directory, "million", 1_000_000)];
    let mut times = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for round in 0..=ROUNDS {
        for (image, times) in images.iter().zip(&mut times) {
            run(directory, &["sync"]);
            let (whole, commit) = step(image, &[], SMALL_STEP);
            if round > 0 {
                times.0.push(whole * 1e3);
                times.1.push(commit * 1e3);
            }
        }
    }
    let [thousand, million] = times.map(|(whole, commit)| (median(whole), median(commit)));
    println!("a step of 200 new files, {ROUNDS} rounds in turn   whole run ms   commit ms");
    println!("image of 1,000 files                      {:>10.2}{:>12.2}", thousand.0, thousand.1);
    println!("image of 1,000,000 files                  {:>10.2}{:>12.2}", million.0, million.1);
    println!(
        "ratio                                     {:>10.2}{:>12.2}",
        million.0 / thousand.0,
        million.1 / thousand.1
    );
}

/// 30,000 files whose directories are there, each renamed by itself, or new, moved with one rename.
fn many(directory: &Path) {
    let root = image(directory, "many", 0);
    (0..DIRECTORIES).for_each(|i| std::fs::create_dir_all(root.join(format!("t/{i}"))).expect("a directory"));
    let files = DIRECTORIES * 100;
    println!("\n{files} new small files           commit s   µs a file   cp -a + sync s   ratio");
    let mkdir = format!("mkdir /n; i=0; while [ $i -lt {DIRECTORIES} ]; do mkdir /n/$i; i=$((i+1)); done;");
    let there = Many { name: "directories that were there", below: "t", options: &[], script: write_many("t") };
    let new = Many { name: "new directories", below: "n", options: &[], script: mkdir + &write_many("n") };
    let memory = Many {
        name: "the same from memory, by copy",
        options: &["--scratch", "/dev/shm"],
        script: new.script.clone(),
        ..new
    };
    [there, new, memory].iter().for_each(|many| measure(directory, &root, many));
}

struct Many<'m> {
    name: &'m str,
    /// Where the step writes, and what is copied beside it.
    below: &'m str,
    options: &'m [&'m str],
    script: String,
}

fn write_many(below: &str) -> String {
    format!(
        "for d in /{below}/*; do i=0; while [ $i -lt 100 ]; do echo some small content > $d/$i; i=$((i+1)); done; done"
    )
}

fn measure(directory: &Path, root: &Path, many: &Many<'_>) {
    let Many { name, below, options, script } = many;
    let (mut commits, mut copies) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS / 3 {
        run(directory, &["sync"]);
        let (_, commit) = step(root, options, script);
        run(directory, &["sync"]);
        let started = Instant::now();
        run(directory, &["cp", "-a", &format!("many/{below}"), "copy"]);
        run(directory, &["sync"]);
        let copy = started.elapsed().as_secs_f64();
        run(directory, &["sh", "-c", "rm -rf copy many/t/*/* many/n; sync"]);
        if round > 0 {
            commits.push(commit);
            copies.push(copy);
        }
    }
    let (commit, copy) = (median(commits), median(copies));
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let each = 1e6 * commit / (DIRECTORIES * 100) as f64;
    println!("{name:<32}{commit:>8.3}{each:>12.1}{copy:>17.3}{:>8.2}", commit / copy);
}

fn main() {
    let directory = support::field();
    let parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    for (name, part) in [("commit", many as fn(&Path)), ("files", sizes)] {
        if parts.is_empty() || parts.iter().any(|p| p == name) {
            part(directory.path());
        }
    }
}
