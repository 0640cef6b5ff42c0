//! The runner is killed, or a call fails, at the nth system call of a run: after the next use the image is as before the
//! step or as after it, never else. In CI every few calls; with DROPCLOTH_LONG=1 every one.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::{Field, assert_code, copy, small_root, stderr, tree};

/// Calls that change something, or wait for the disk.
const CALLS: &str = "renameat2,renameat,linkat,unlinkat,mkdirat,mknodat,symlinkat,openat,fsync,syncfs,utimensat,ioctl,lsetxattr,\
                     lremovexattr,fchmod,fchmodat,fchownat";

/// A bit of everything that a commit can have to do; all times are set, so that two runs give the same tree.
const STEP: &str = r#"echo hi > /etc/new; rm /etc/group; mkdir -p /opt/a/b; echo x > /opt/a/b/c; mv /var/lib /var/lib2; chmod 700 /usr
    mv /usr/bin /bin2; echo y >> /etc/hosts; ln /etc/passwd /etc/p2; echo z >> /etc/passwd; rm -rf /usr/sbin; mkdir /usr/sbin
    touch /usr/sbin/q; mv /var/tmp /opt/tmp; ln -s x /etc/link; chmod 711 /
    touch -h -d "2020-02-02 02:02:02" /etc/* /opt/a/b/c /opt/a/b /opt/a /opt/* /opt /usr/sbin/q /usr/sbin /usr /var /etc /"#;

struct Ground {
    field: Field,
    original: std::path::PathBuf,
    before: tree::Snapshot,
    after: tree::Snapshot,
}

impl Ground {
    fn new() -> Ground {
        let mut field = Field::small();
        field.forget_leaks();
        let original = field.path().join("original");
        copy(&small_root(), &original);
        std::fs::hard_link(original.join("etc/passwd"), original.join("etc/passwd.link")).unwrap();
        let before = field.snapshot();
        let mut ground = Ground { field, original, after: before.clone(), before };
        ground.renew();
        ground.before = ground.field.snapshot();
        assert_code(&ground.field.run(&[], STEP), 0);
        ground.after = ground.field.snapshot();
        assert!(!tree::diff(&ground.before, &ground.after).is_empty());
        ground
    }

    /// An untouched image in place of the last one.
    fn renew(&self) {
        let _ = std::fs::remove_dir_all(&self.field.root);
        copy(&self.original, &self.field.root);
    }

    /// Runs the step under strace with `fault` injected at the nth of the calls.
    fn run(&self, fault: &str, n: usize) -> Output {
        let inject = format!("inject={CALLS}:{fault}:when={n}");
        Command::new("strace")
            .args(["-o", "strace.log", "-e", &format!("trace={CALLS}"), "-e", &inject])
            .arg(support::binary())
            .args(["run", "./rootfs", "--", "sh", "-c", STEP])
            .env("HOME", self.field.path())
            .current_dir(self.field.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Whether the fault of the last run was reached.
    fn was_injected(&self) -> bool {
        let log = std::fs::read(self.field.path().join("strace.log")).unwrap();
        log.windows(8).any(|w| w == b"INJECTED")
    }

    /// The next use, and what the image is then: true for after.
    fn settled(&self, n: usize, next: &[&str]) -> bool {
        let mut output = self.field.dropcloth(next).output().unwrap();
        // The kernel kills the sandbox a moment after its supervisor; until then the image is locked.
        for _ in 0..100 {
            if !stderr(&output).contains("in use") {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(20));
            output = self.field.dropcloth(next).output().unwrap();
        }
        assert_code(&output, 0);
        let now = self.field.snapshot();
        assert!(!self.field.path().join(".dropcloth").exists(), "call {n}: a transaction is left");
        if tree::diff(&self.before, &now).is_empty() {
            return false;
        }
        let differences = tree::diff(&self.after, &now);
        assert!(differences.is_empty(), "call {n} leaves something between before and after: {differences:#?}");
        true
    }
}

fn stride() -> usize {
    if std::env::var_os("DROPCLOTH_LONG").is_some() { 1 } else { 5 }
}

#[test]
fn a_runner_killed_at_any_call_leaves_the_image_as_before_or_after() {
    needs_root!();
    let ground = Ground::new();
    let (mut before, mut after) = (0, 0);
    for n in (1..).step_by(stride()) {
        ground.renew();
        if ground.run("signal=KILL", n).status.success() {
            break;
        }
        match ground.settled(n, &["recover", "./rootfs"]) {
            true => after += 1,
            false => before += 1,
        }
    }
    println!("killed: {before} before, {after} after");
    assert!(before > 3 && after > 3, "{before} before and {after} after: the window was missed");
}

#[test]
fn a_call_that_fails_in_a_run_leaves_the_image_as_before_or_after() {
    needs_root!();
    let ground = Ground::new();
    let mut failed = 0;
    for fault in ["error=ENOSPC", "error=EIO"] {
        for n in (1..).step_by(stride() * 2) {
            ground.renew();
            let output = ground.run(fault, n);
            if !ground.was_injected() {
                break;
            }
            failed += usize::from(!output.status.success());
            ground.settled(n, &["recover", "./rootfs"]);
        }
    }
    assert!(failed > 10, "only {failed} runs noticed their failed call");
}

#[test]
fn the_next_run_finishes_an_interrupted_commit_by_itself() {
    needs_root!();
    let ground = Ground::new();
    let mut finished = false;
    for n in (1..400).step_by(7) {
        ground.renew();
        if ground.run("signal=KILL", n).status.success() {
            break;
        }
        if Path::new(&ground.field.path().join(".dropcloth")).exists() {
            let after = ground.settled(n, &["run", "./rootfs", "--", "true"]);
            finished |= after;
        }
    }
    assert!(finished, "no commit was interrupted");
}
