//! A step that writes straight to the image: what it wrote is there, and nothing else, whatever happened meanwhile.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::{Field, assert_code, rich, shell, stderr, stdout, tree};

const THROUGH: [&str; 2] = ["--mode", "through"];
/// Overrides of files that the image has and lacks, in directories that it has and lacks.
const LAID: [&str; 11] = [
    "--mirror",
    "pypi",
    "--offline",
    "--lay",
    "/etc/hosts=laid",
    "--lay",
    "/srv/deep/new=laid",
    "--lay",
    "/top=laid",
    "--tmpfs",
    "/mnt/a/b",
];

fn field() -> Field {
    let mut field = Field::small();
    field.forget_leaks();
    std::fs::create_dir(field.path().join("pypi")).unwrap();
    std::fs::write(field.path().join("laid"), "laid over\n").unwrap();
    shell("rm -rf srv; mkdir srv; find . -exec touch -h -d '2001-02-03 04:05:06.789012345' {} +", &field.root);
    field
}

fn run(field: &Field, options: &[&str], script: &str) -> Output {
    field.run(&[&THROUGH[..], options].concat(), script)
}

fn nothing_beside(field: &Field) {
    assert!(!field.path().join(".dropcloth").exists(), "something of dropcloth is left beside the image");
}

/// The kernel ends the sandbox a moment after its supervisor: until then the image is locked.
fn recover(field: &Field) -> Output {
    for _ in 0..200 {
        let output = field.dropcloth(["recover", "./rootfs"]).output().unwrap();
        if !stderr(&output).contains("in use by") {
            return output;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    panic!("the sandbox of a killed runner still runs");
}

#[test]
fn a_step_that_changes_nothing_leaves_the_image_as_it_was() {
    needs_sandbox!();
    let field = field();
    let before = field.snapshot();
    let script = "cat /etc/hosts /srv/deep/new /top; ls -d /tmp/pypi /mnt/a/b /root/.config/pip/pip.conf
        test -c /dev/null && test -d /proc/1 && stat -c %y /etc /srv /tmp | sort -u";
    let output = run(&field, &LAID, script);
    assert_code(&output, 0);
    let said = stdout(&output);
    assert!(
        said.starts_with("laid over\nlaid over\nlaid over\n/mnt/a/b\n/root/.config/pip/pip.conf\n/tmp/pypi\n"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 7, "the directories have the times of the image: {said}");
    assert!(stderr(&output).contains("wrote straight to"), "{}", stderr(&output));
    tree::assert_same(&before, &field.snapshot(), "a step that changes nothing");
    nothing_beside(&field);
}

#[test]
fn what_the_step_writes_is_there_and_what_dropcloth_made_is_not() {
    needs_sandbox!();
    let field = field();
    let other = Field::of(&field.root);
    let now = SystemTime::now();
    // One second early: the kernel stamps files with the time of its last tick.
    let start = now.duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed() - 1;
    let script =
        "echo mine > /etc/mine; rm -r /usr/sbin; mkdir -p /srv/deep; echo mine > /srv/deep/mine; echo x > /var/x";
    assert_code(&run(&field, &LAID, &format!("{script}; echo changed > /etc/hosts")), 0);
    assert_code(&run(&other, &[], script), 0);
    let now = |field: &Field| field.snapshot().clock_times_alike(start);
    tree::assert_same(&now(&other), &now(&field), "with overrides and without");
    nothing_beside(&field);
}

#[test]
fn a_failed_step_changes_only_the_exit_code() {
    needs_sandbox!();
    let field = field();
    let output = run(&field, &LAID, "echo mine > /etc/mine; exit 7");
    assert_code(&output, 7);
    assert!(stderr(&output).contains("failed with exit code 7; what it wrote straight to"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(field.root.join("etc/mine")).unwrap(), "mine\n");
    assert!(
        ["tmp/pypi", "top", "srv/deep", "mnt/a", "root/.config"].iter().all(|path| !field.root.join(path).exists())
    );
    let before = field.snapshot();
    assert_code(&field.run_command(&["--mode", "through", "--lay", "/top=laid"], &["/no/such/command"]), 127);
    tree::assert_same(&before, &field.snapshot(), "a command that is not there");
    nothing_beside(&field);
}

#[test]
fn the_rule_of_an_override_decides_what_becomes_of_the_steps_version() {
    needs_sandbox!();
    let field = field();
    let rules = "lay:\n  /etc/drop: laid\n  /etc/keep: {file: laid, when_changed: keep}\n  /etc/hosts: {file: laid, when_changed: keep}\n  /etc/same: {file: laid, when_changed: keep}\n  /etc/fail: {file: laid, when_changed: fail}\n";
    std::fs::write(field.path().join("dropcloth.yaml"), rules).unwrap();
    let output = run(&field, &[], "echo mine > /etc/drop; echo mine > /etc/keep; echo mine > /etc/hosts");
    assert_code(&output, 0);
    assert!(stderr(&output).contains("changed /etc/drop"), "{}", stderr(&output));
    for name in ["keep", "hosts"] {
        assert_eq!(std::fs::read_to_string(field.root.join("etc").join(name)).unwrap(), "mine\n", "{name}");
    }
    assert!(["drop", "same", "fail"].iter().all(|name| !field.root.join("etc").join(name).exists()));
    let output = run(&field, &[], "echo mine > /etc/fail; echo x > /etc/beside");
    assert_code(&output, 125);
    assert!(stderr(&output).contains("changed /etc/fail"), "{}", stderr(&output));
    assert!(field.root.join("etc/beside").exists() && !field.root.join("etc/fail").exists());
}

#[test]
fn a_mount_point_is_found_where_the_step_has_moved_it() {
    needs_sandbox!();
    let field = field();
    assert_code(&run(&field, &LAID, "mv /srv /var/moved; mkdir /srv; echo x > /var/moved/own"), 0);
    let left = stdout(&Command::new("find").args(["srv", "var/moved"]).current_dir(&field.root).output().unwrap());
    assert_eq!(left, "srv\nvar/moved\nvar/moved/own\n");
}

#[test]
fn a_killed_run_is_cleared_by_recover_and_by_the_next_run() {
    needs_sandbox!();
    for next in [&["recover", "./rootfs"][..], &["run", "./rootfs", "true"]] {
        let field = field();
        let before = field.snapshot();
        let step = ["./rootfs", "--", "sh", "-c", "echo there; sleep 100"];
        let arguments = ["run"].iter().chain(&THROUGH).chain(&LAID).chain(&step);
        let mut child = field.dropcloth(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert!(field.root.join("srv/deep/new").exists(), "the mount points are in the image while the step runs");
        let busy = field.dropcloth(["run", "./rootfs", "true"]).output().unwrap();
        assert!(stderr(&busy).contains("in use by another run"), "{}", stderr(&busy));
        child.kill().unwrap();
        child.wait().unwrap();
        let list = field.dropcloth(["discard", "./rootfs"]).output().unwrap();
        assert!(list.status.code() == Some(125), "only recover knows what to do: {}", stderr(&list));
        let output = (0..200).find_map(|_| {
            std::thread::park_timeout(Duration::from_millis(20));
            let output = field.dropcloth(next).output().unwrap();
            (!stderr(&output).contains("in use by")).then_some(output)
        });
        let output = output.expect("the sandbox of a killed runner ends");
        assert_code(&output, 0);
        assert!(stderr(&output).contains("out of the image"), "{}", stderr(&output));
        tree::assert_same(&before, &field.snapshot(), "after a killed run");
        nothing_beside(&field);
    }
}

#[test]
fn what_makes_no_sense_is_refused_at_once() {
    needs_sandbox!();
    let field = field();
    let before = field.snapshot();
    let output = run(&field, &["--backend", "copy", "--on-failure", "keep", "--leaks", "fail"], "true");
    assert_code(&output, 125);
    assert_eq!(stderr(&output).matches("because:").count(), 3, "{}", stderr(&output));
    assert_code(&field.dropcloth(["run", "--mode", "through", "/", "true"]).output().unwrap(), 125);
    shell("rmdir sys; ln -s /etc sys", &field.root);
    let odd = field.snapshot();
    let output = run(&field, &LAID, "true");
    assert_code(&output, 125);
    assert!(stderr(&output).contains("/sys of the image is not a directory"), "{}", stderr(&output));
    tree::assert_same(&odd, &field.snapshot(), "a refused image");
    assert!(!tree::diff(&before, &odd).is_empty());
    nothing_beside(&field);
}

#[test]
fn syncs_of_the_step_do_nothing_when_they_are_off() {
    needs_sandbox!();
    let field = field();
    // The kernel's own answer for a device that cannot be synced is an error.
    let script = "sync /dev/null 2>&1 && echo passed; sync";
    assert!(stdout(&run(&field, &[], script)).contains("nvalid argument"));
    assert_eq!(stdout(&run(&field, &["--fsync", "off"], script)), "passed\n");
    let output = field.run(&["--fsync", "off"], "true");
    assert!(stderr(&output).contains("--fsync off is for --mode through"), "{}", stderr(&output));
    let plan = field.dropcloth(["plan", "--mode", "through", "--fsync", "off", "./rootfs"]).output().unwrap();
    assert!(stdout(&plan).contains("straight to the image") && stdout(&plan).contains("fsync and its kin"));
}

/// Those that do something on the host, or to the image beforehand, that only root of the machine may.
mod as_root {
    use super::*;

    macro_rules! needs_strace {
        () => {
            needs_root!();
            if !rich::has_strace() {
                return support::skip("it needs strace");
            }
        };
    }

    fn line(field: &Field, options: &[&str]) -> Command {
        field.dropcloth(["run"].iter().chain(&THROUGH).chain(&LAID).chain(options).chain(&["./rootfs", "true"]))
    }

    #[test]
    fn the_image_is_synced_once_instead() {
        needs_strace!();
        let field = field();
        let log = field.path().join("log");
        let count = |options: &[&str]| {
            let traced = ["-f", "-o", log.to_str().unwrap(), "-e", "trace=syncfs"];
            assert_code(&rich::traced(&line(&field, options), &traced).output().unwrap(), 0);
            std::fs::read_to_string(&log).unwrap().matches("syncfs(").count()
        };
        assert_eq!((count(&[]), count(&["--fsync", "off"])), (0, 1));
    }

    #[test]
    fn a_read_only_image_and_one_that_cannot_be_changed_are_refused() {
        needs_root!();
        let field = field();
        shell("chattr +i etc", &field.root);
        let before = field.snapshot();
        let output = run(&field, &["--lay", "/etc/new=laid"], "true");
        assert_code(&output, 125);
        assert!(stderr(&output).contains("chattr -ia"), "{}", stderr(&output));
        tree::assert_same(&before, &field.snapshot(), "a refused image");
        nothing_beside(&field);
        let script = format!(
            "mount --bind rootfs rootfs; mount -o remount,bind,ro rootfs; '{}' run --mode through rootfs true",
            support::binary().display()
        );
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .current_dir(field.path())
            .env("HOME", field.path())
            .output()
            .unwrap();
        assert_code(&output, 125);
        assert!(stderr(&output).contains("mounted read-only"), "{}", stderr(&output));
        tree::assert_same(&before, &field.snapshot(), "a read-only image");
    }

    fn traced(command: &Command, options: &[&str]) -> Output {
        rich::traced(command, options).output().unwrap()
    }

    /// Name and number of every call that changes something; strace counts each name for itself.
    fn calls(log: &Path) -> Vec<(String, usize)> {
        let mut found: Vec<(String, usize)> = Vec::new();
        for line in std::fs::read_to_string(log).unwrap().lines() {
            let Some((name, _)) = line.split_once('(') else { continue };
            let nth = found.iter().filter(|(known, _)| known == name).count() + 1;
            found.push((name.to_owned(), nth));
        }
        found
    }

    fn kill_at(name: &str, nth: usize) -> [String; 6] {
        let inject = format!("inject={name}:signal=KILL:when={nth}");
        ["-o", "/dev/null", "-e", &format!("trace={name}"), "-e", &inject].map(str::to_owned)
    }

    #[test]
    fn a_runner_killed_at_any_call_leaves_nothing_in_the_image() {
        needs_strace!();
        const CALLS: &str = "renameat2,unlinkat,mkdirat,fsync,utimensat,fchmodat,fchownat,openat,write";
        let first = field();
        let log = first.path().join("log");
        let output = traced(&line(&first, &[]), &["-o", log.to_str().unwrap(), "-e", &format!("trace={CALLS}")]);
        assert_code(&output, 0);
        let calls = calls(&log);
        let from = calls.iter().position(|(name, _)| name == "mkdirat").unwrap();
        let long = std::env::var_os("DROPCLOTH_LONG").is_some();
        let mut killed = 0;
        for (name, nth) in calls[from..].iter().step_by(if long { 1 } else { 9 }) {
            let field = field();
            let before = field.snapshot();
            let options = kill_at(name, *nth);
            let output = traced(&line(&field, &[]), &options.each_ref().map(String::as_str));
            killed += usize::from(!output.status.success());
            // The recovery is killed as well, somewhere.
            let again = field.dropcloth(["recover", "./rootfs"]);
            let options = kill_at("unlinkat", nth % 7 + 1);
            traced(&again, &options.each_ref().map(String::as_str));
            assert_code(&recover(&field), 0);
            let left = tree::diff(&before, &field.snapshot());
            assert!(left.is_empty(), "{name} ({nth}): {}", left.join("\n"));
            nothing_beside(&field);
        }
        assert!(killed > 10, "{killed} of {} were killed", calls.len());
    }
}
