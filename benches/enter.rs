//! Enter and exit with /bin/true: dropcloth's modes beside the least that the kernel asks for (benches/limit.c), chroot(1),
//! unshare(1) and bwrap(1), as root and as a user; with many mounts on the host; and many at a time.
//!
//! Started by `scripts/bench enter`, `mounts` and `parallel`, which make the root, the mirror and the limit; needs root.
#![allow(clippy::disallowed_methods, reason = "a bench starts programs")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use support::{Contender, command, copy, dropcloth, field, in_turn, installed, mirror, table};

const ROUNDS: usize = 60;
/// Mounts on the host, for `mounts`.
const MOUNTS: usize = 1000;
/// Runs at a time and all in all, for `parallel`.
const AT_ONCE: usize = 32;
const RUNS: usize = 320;
/// A user who owns his copy of the root.
const USER: u32 = 64_321;
const MILLISECONDS: (&str, f64) = ("ms", 1e3);

fn limit() -> Option<String> {
    std::env::var("BENCH_LIMIT").ok()
}

/// bwrap with the namespaces and the file systems of a dropcloth run.
fn bwrap(root: &str, overrides: &[String], user: bool) -> Vec<String> {
    let mirror = mirror();
    let mut words = vec!["bwrap", "--bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys"];
    words.extend(["--ro-bind", &mirror, "/tmp/pypi"]);
    words.extend(overrides.iter().map(String::as_str));
    words.extend(["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]);
    if user {
        words.extend(["--unshare-user", "--uid", "0", "--gid", "0"]);
    }
    words.push("/bin/true");
    words.into_iter().map(str::to_owned).collect()
}

/// What dropcloth lays over, parents first, as the plan says: `true` for a file.
fn laid_over(root: &str) -> Vec<(String, bool)> {
    let words = [dropcloth(), "plan".into(), "--json".into(), "--mirror".into(), mirror(), root.to_owned()];
    let plan = Command::new(&words[0]).args(&words[1..]).args(["--", "true"]).output().expect("a plan");
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).expect("a plan in JSON");
    let entries = plan["plan"]["scaffold"]["entries"].as_object().expect("entries");
    let below = entries.iter().filter(|(path, _)| *path != "/");
    below.map(|(path, entry)| (path.clone(), entry["kind"] == "file")).collect()
}

/// Binds of one file to every place where dropcloth lays one over.
fn overrides(root: &str, directory: &Path) -> Vec<String> {
    let file = directory.join("override").display().to_string();
    std::fs::write(&file, "[global]\n").expect("a file");
    let files = laid_over(root).into_iter().filter(|(_, file)| *file);
    files.flat_map(|(path, _)| ["--ro-bind".to_owned(), file.clone(), path]).collect()
}

/// What is laid over `root`, as the limit reads it.
fn list_for_limit(root: &str, directory: &Path) -> String {
    let line = |(path, file): (String, bool)| format!("{} {}\n", if file { "f" } else { "d" }, &path[1..]);
    let list = directory.join("list");
    std::fs::write(&list, laid_over(root).into_iter().map(line).collect::<String>()).expect("a list");
    list.display().to_string()
}

/// The least for an overlay with the same files.
fn limit_on_overlay(limit: &str, list: &str, root: &str, scratch: &Path) -> Vec<String> {
    let words = [limit, "-o", &scratch.display().to_string(), list, root, &mirror(), "/bin/true"];
    words.into_iter().map(str::to_owned).collect()
}

fn run(mode: &str, root: &str, more: &[&str]) -> Vec<String> {
    let (program, mirror) = (dropcloth(), mirror());
    let mut words = vec![&program[..], "run", "--mode", mode, "--mirror", &mirror];
    words.extend(more);
    words.extend([root, "--", "/bin/true"]);
    words.into_iter().map(str::to_owned).collect()
}

fn as_root(directory: &Path) -> Vec<Contender> {
    let [ours, theirs, covered] = ["dropcloth", "others", "covered"].map(|name| copy("debian", directory, name));
    let mut all = Vec::new();
    if let Some(limit) = limit() {
        all.push(Contender::new("limit", &[&limit, &theirs, &mirror(), "/bin/true"]));
        let list = list_for_limit(&theirs, directory);
        let words = limit_on_overlay(&limit, &list, &theirs, &directory.join("scratch"));
        all.push(Contender::new("limit, the same files", &words));
    }
    all.push(Contender::new("chroot", &["chroot", &theirs, "/bin/true"]));
    let unshare = ["unshare", "-m", "-p", "-f", "-i", "-u", "chroot", &theirs, "/bin/true"];
    all.push(Contender::new("unshare + chroot", &unshare));
    all.push(Contender::new("bwrap", &bwrap(&theirs, &[], false)));
    let laid = overrides(&covered, directory);
    all.push(Contender::new("bwrap, the same files", &bwrap(&covered, &laid, false)));
    if installed("systemd-nspawn") {
        let bind = format!("--bind-ro={}:/tmp/pypi", mirror());
        all.push(Contender::new("systemd-nspawn", &["systemd-nspawn", "-q", "-D", &theirs, &bind, "/bin/true"]));
    }
    all.push(Contender::new("dropcloth commit", &run("commit", &ours, &[])));
    all.push(Contender::new("dropcloth through", &run("through", &ours, &[])));
    all.push(Contender::new("dropcloth discard", &run("discard", &ours, &[])));
    all.push(Contender::new("dropcloth --version", &[&dropcloth()[..], "--version"]));
    all
}

fn as_user(directory: &Path) -> Vec<Contender> {
    let place = directory.join("user");
    std::fs::create_dir(&place).expect("a directory");
    let [ours, theirs, covered] = ["dropcloth", "others", "covered"].map(|name| copy("debian", &place, name));
    let laid = overrides(&covered, directory);
    let status = Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(&place).status();
    assert!(status.is_ok_and(|s| s.success()), "chown");
    let single = ["--map", "single"];
    let all = [
        Contender::new("bwrap", &bwrap(&theirs, &[], true)),
        Contender::new("bwrap, the same files", &bwrap(&covered, &laid, true)),
        Contender::new("dropcloth commit", &run("commit", &ours, &single)),
        Contender::new("dropcloth through", &run("through", &ours, &single)),
    ];
    all.into_iter().map(|contender| contender.by(USER)).collect()
}

const BASES: [&str; 4] = ["limit", "limit, the same files", "bwrap", "bwrap, the same files"];

fn bases(names: &[&'static str]) -> Vec<&'static str> {
    names.iter().copied().filter(|name| !name.starts_with("limit") || limit().is_some()).collect()
}

fn enter(directory: &Path) {
    let mut root = as_root(directory);
    in_turn(&mut root, ROUNDS);
    table("enter + exit with /bin/true, as root", &root, &bases(&BASES), MILLISECONDS);
    let mut user = as_user(directory);
    in_turn(&mut user, ROUNDS);
    table("the same as a user (one id)", &user, &BASES[2..], MILLISECONDS);
}

/// In a mount namespace of its own (scripts/bench), which takes the mounts with it.
fn mounts(directory: &Path) {
    let mut all = as_root(directory);
    all.retain(|c| !c.is("systemd-nspawn"));
    for number in 0..MOUNTS {
        let point = directory.join(format!("mounts/{number}"));
        std::fs::create_dir_all(&point).expect("a mount point");
        let status = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&point).status();
        assert!(status.is_ok_and(|s| s.success()), "mount");
    }
    in_turn(&mut all, ROUNDS / 3);
    table(&format!("with {MOUNTS} more mounts on the host"), &all, &bases(&BASES), MILLISECONDS);
    let status =
        Command::new("umount").arg("-l").args((0..MOUNTS).map(|n| directory.join(format!("mounts/{n}")))).status();
    assert!(status.is_ok_and(|s| s.success()), "umount");
}

/// Each at work has its own root, and one for `bwrap` with the same files, which leaves its mount points in it.
fn parallel(directory: &Path) {
    let make = |name: String| {
        let root = copy("small", directory, &name);
        for point in ["proc", "sys", "dev", "mnt"] {
            std::fs::create_dir_all(Path::new(&root).join(point)).expect("a mount point of the limit");
        }
        root
    };
    let roots: Vec<String> = (0..AT_ONCE).map(|n| make(n.to_string())).collect();
    let covered: Vec<String> = (0..AT_ONCE).map(|n| make(format!("covered{n}"))).collect();
    let laid = overrides(&roots[0], directory);
    let mut rates: Vec<(&str, f64)> = Vec::new();
    if let Some(limit) = limit() {
        let words = |root: &String| vec![limit.clone(), root.clone(), mirror(), "/bin/true".to_owned()];
        rates.push(("limit", rate(&roots, &words)));
        let list = list_for_limit(&roots[0], directory);
        let words = |root: &String| limit_on_overlay(&limit, &list, root, Path::new(&format!("{root}.scratch")));
        rates.push(("limit, the same files", rate(&roots, &words)));
    }
    rates.push(("bwrap", rate(&roots, &|root| bwrap(root, &[], false))));
    rates.push(("bwrap, the same files", rate(&covered, &|root| bwrap(root, &laid, false))));
    rates.push(("dropcloth commit", rate(&roots, &|root| run("commit", root, &[]))));
    rates.push(("dropcloth through", rate(&roots, &|root| run("through", root, &[]))));
    println!("\n{AT_ONCE} at a time, {RUNS} runs\n{:<32}{:>10}{:>18}", "", "a second", "/ bwrap");
    let base = rates.iter().find(|(name, _)| *name == "bwrap").map_or(1.0, |(_, rate)| *rate);
    for (name, rate) in &rates {
        println!("{name:<32}{rate:>10.0}{:>18.2}", rate / base);
    }
}

/// Runs a second: a thread a root, which starts the next as soon as one has ended.
fn rate(roots: &[String], words: &(dyn Fn(&String) -> Vec<String> + Sync)) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for root in roots {
            scope.spawn(move || {
                let words = words(root);
                for _ in 0..RUNS / AT_ONCE {
                    let status = command(&words).status();
                    assert!(status.is_ok_and(|s| s.success()), "{words:?}");
                }
            });
        }
    });
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let runs = RUNS as f64;
    runs / started.elapsed().as_secs_f64()
}

fn main() {
    let field = field();
    let parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wants = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    for (name, part) in [("enter", enter as fn(&Path)), ("mounts", mounts), ("parallel", parallel)] {
        if wants(name) {
            let directory = field.path().join(name);
            std::fs::create_dir(&directory).expect("a directory");
            part(&directory);
        }
    }
}
