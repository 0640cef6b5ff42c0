//! The copy backend: what it leaves behind (nothing), what it takes (conflicts), and that its commit is one exchange.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::process::{Command, Output, Stdio};

use support::{Field, assert_code, shell, stderr, stdout, tree};

const COPY: [&str; 2] = ["--backend", "copy"];

fn verb(field: &Field, arguments: &[&str]) -> Output {
    field.dropcloth(arguments).output().unwrap()
}

fn run(field: &Field, options: &[&str], script: &str) -> Output {
    field.run(&[&COPY[..], options].concat(), script)
}

#[test]
fn mount_points_and_overrides_are_gone_after_the_step() {
    needs_sandbox!();
    let mut field = Field::small();
    field.forget_leaks();
    std::fs::create_dir(field.path().join("pypi")).unwrap();
    std::fs::write(field.path().join("laid"), "laid over\n").unwrap();
    let before = field.snapshot();
    let options = [
        "--mirror",
        "pypi",
        "--offline",
        "--lay",
        "/etc/hosts=laid",
        "--lay",
        "/srv/deep/new=laid",
        "--tmpfs",
        "/mnt/a/b",
    ];
    let script = "cat /etc/hosts /srv/deep/new; ls -d /tmp/pypi /mnt/a/b /root/.config/pip/pip.conf; test -c /dev/null && test -d /proc/1";
    let output = run(&field, &options, script);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "laid over\nlaid over\n/mnt/a/b\n/root/.config/pip/pip.conf\n/tmp/pypi\n");
    assert!(stderr(&output).contains("changed nothing"), "{}", stderr(&output));
    tree::assert_same(&before, &field.snapshot(), "a step that changes nothing");
    // What the step itself puts beside a mount point stays.
    assert_code(&run(&field, &options, "echo mine > /srv/deep/mine; echo changed > /etc/hosts"), 0);
    assert_eq!(std::fs::read_to_string(field.root.join("srv/deep/mine")).unwrap(), "mine\n");
    assert!(!field.root.join("srv/deep/new").exists() && !field.root.join("mnt/a").exists());
    assert!(!std::fs::read_to_string(field.root.join("etc/hosts")).unwrap_or_default().contains("laid"));
}

#[test]
fn the_rule_of_an_override_decides_what_becomes_of_the_steps_version() {
    needs_sandbox!();
    let mut field = Field::small();
    field.forget_leaks();
    std::fs::write(field.path().join("laid"), "laid over\n").unwrap();
    let rules = "lay:\n  /etc/drop: laid\n  /etc/keep: {file: laid, when_changed: keep}\n  /etc/same: {file: laid, when_changed: keep}\n  /etc/fail: {file: laid, when_changed: fail}\n";
    std::fs::write(field.path().join("dropcloth.yaml"), rules).unwrap();
    let output = run(&field, &[], "echo mine > /etc/drop; echo mine > /etc/keep");
    assert_code(&output, 0);
    assert!(stderr(&output).contains("changed /etc/drop"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(field.root.join("etc/keep")).unwrap(), "mine\n");
    assert!(["drop", "same", "fail"].iter().all(|name| !field.root.join("etc").join(name).exists()));
    let output = run(&field, &[], "echo mine > /etc/fail");
    assert_code(&output, 125);
    assert!(stderr(&output).contains("/etc/fail"), "{}", stderr(&output));
    assert_code(&verb(&field, &["discard", "./rootfs"]), 0);
}

#[test]
fn a_failed_or_discarded_step_leaves_the_image_as_it_was() {
    needs_sandbox!();
    let field = Field::small();
    let before = field.snapshot();
    assert_code(&run(&field, &[], "rm -rf /usr /etc; exit 7"), 7);
    tree::assert_same(&before, &field.snapshot(), "a failed step");
    assert_code(&run(&field, &["--mode", "discard"], "rm -rf /usr /etc; true"), 0);
    tree::assert_same(&before, &field.snapshot(), "a discarded step");
}

#[test]
fn steps_of_a_named_transaction_work_on_one_copy() {
    needs_sandbox!();
    let field = Field::small();
    let before = field.snapshot();
    assert_code(&verb(&field, &["begin", "./rootfs", "--name", "x", "--backend", "copy"]), 0);
    let step = |script: &str| verb(&field, &["run", "--in", "x", "--", "sh", "-c", script]);
    assert_code(&step("echo one > /etc/one; mv /var /var2"), 0);
    assert_code(&step("rm -r /etc; exit 1"), 1);
    assert_code(&step("cat /etc/one && test -d /var2 && echo two > /etc/two"), 0);
    tree::assert_same(&before, &field.snapshot(), "before the commit");
    let said = stdout(&verb(&field, &["changes", "x"]));
    assert!(said.contains("+ one") && said.contains("+ two") && !said.contains("hosts"), "{said}");
    assert_code(&verb(&field, &["commit", "x"]), 0);
    assert!(field.root.join("etc/two").exists() && field.root.join("var2").exists());
}

#[test]
fn everything_that_somebody_else_changed_meanwhile_is_a_conflict() {
    needs_sandbox!();
    let field = Field::small();
    assert_code(&verb(&field, &["begin", "./rootfs", "--name", "x", "--backend", "copy"]), 0);
    assert_code(&verb(&field, &["run", "--in", "x", "--", "sh", "-c", "echo step > /etc/one"]), 0);
    shell("echo host >> usr/host", &field.root);
    let output = verb(&field, &["commit", "x"]);
    assert_code(&output, 125);
    assert!(stderr(&output).contains("because: /usr\n"), "{}", stderr(&output));
    assert_code(&verb(&field, &["commit", "x", "--force"]), 0);
    assert!(!field.root.join("usr/host").exists() && field.root.join("etc/one").exists());
}

/// Those that do something on the host, or to the image beforehand, that only root of the machine may, and those of what an
/// overlay of root alone can do.
mod as_root {
    use super::*;

    /// A commit, and the flags of the image's root, which forbid the exchange, killed at every call that matters.
    #[test]
    fn a_commit_killed_at_any_call_is_before_or_after() {
        needs_root!();
        const CALLS: &str = "renameat2,fsync,syncfs,ioctl,unlinkat,mkdirat,fchmod,utimensat";
        let script = "chattr -i / && rm -r /usr/sbin; echo new > /etc/new; touch -d '2001-02-03 00:00:00' /etc/new /etc /usr / && chattr +i /";
        let field = || {
            let field = Field::small();
            support::install("chattr", &field.root);
            shell("find . -exec touch -h -d '2001-02-02 00:00:00' {} +; chattr +i .", &field.root);
            field
        };
        let run = |field: &Field, n: usize| {
            Command::new("strace")
                .args([
                    "-o",
                    "/dev/null",
                    "-e",
                    &format!("trace={CALLS}"),
                    "-e",
                    &format!("inject={CALLS}:signal=KILL:when={n}"),
                ])
                .arg(support::binary())
                .args([
                    "run",
                    "--backend",
                    "copy",
                    "--cap-add",
                    "LINUX_IMMUTABLE",
                    "./rootfs",
                    "--",
                    "sh",
                    "-c",
                    script,
                ])
                .env("HOME", field.path())
                .current_dir(field.path())
                .stdin(Stdio::null())
                .output()
                .unwrap()
        };
        let first = field();
        let before = first.snapshot();
        assert_code(&run(&first, 60_000), 0);
        let after = first.snapshot();
        assert!(!tree::diff(&before, &after).is_empty());
        let (mut befores, mut afters) = (0, 0);
        let stride = if std::env::var_os("DROPCLOTH_LONG").is_some() { 1 } else { 13 };
        // The copy makes most calls; the last hundred are the commit.
        for n in (1..).step_by(stride) {
            let mut field = field();
            if run(&field, n).status.success() {
                break;
            }
            let recovered = (0..100).find_map(|_| {
                let output = verb(&field, &["recover", "./rootfs"]);
                std::thread::park_timeout(std::time::Duration::from_millis(20));
                (!stderr(&output).contains("in use")).then_some(output)
            });
            assert_code(&recovered.unwrap(), 0);
            let now = field.snapshot();
            assert!(!field.path().join(".dropcloth").exists(), "call {n}");
            if tree::diff(&before, &now).is_empty() {
                befores += 1;
            } else {
                afters += 1;
                assert_eq!(tree::diff(&after, &now), Vec::<String>::new(), "call {n}");
            }
            field.check_leaks();
        }
        println!("killed: {befores} before, {afters} after");
        assert!(befores > 0 && afters > 0, "{befores} before, {afters} after");
    }

    #[test]
    fn auto_takes_the_copy_where_an_overlay_cannot_write() {
        needs_root!();
        let mut field = Field::small();
        field.forget_leaks();
        // An image on an overlay, as in every container.
        let script = format!(
            "mkdir low up work merged; mv rootfs low/; mount -t overlay -o lowerdir=low,upperdir=up,workdir=work none merged
             cd merged; '{0}' run rootfs -- touch /ran; echo $?; cp -a rootfs own; '{0}' run own -- touch /ran; echo $?
             '{0}' run --backend overlay own -- touch /no; echo $?; ls own rootfs",
            support::binary().display()
        );
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .env("HOME", field.path())
            .current_dir(field.path())
            .output()
            .unwrap();
        let said = stderr(&output);
        assert!(
            said.contains("works on a copy of the image") && said.contains("an overlay cannot write to the overlay"),
            "{said}"
        );
        assert!(said.contains("it comes from a lower layer of an overlay"), "{said}");
        let out = stdout(&output);
        assert!(out.starts_with("125\n0\n125\n") && out.matches("\nran\n").count() == 1, "{out}{said}");
    }

    #[test]
    fn what_the_exchange_would_lose_is_refused_before_the_step() {
        needs_root!();
        let mut field = Field::small();
        field.forget_leaks();
        let script = format!(
            "mkdir -p rootfs/mnt; mount -t tmpfs none rootfs/mnt; '{}' run --backend copy rootfs -- touch /ran; echo $?",
            support::binary().display()
        );
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .env("HOME", field.path())
            .current_dir(field.path())
            .output()
            .unwrap();
        assert_eq!(stdout(&output), "125\n");
        assert!(stderr(&output).contains("mounted at /mnt of the image"), "{}", stderr(&output));
        assert!(!field.root.join("ran").exists());
        let output = run(&field, &["--scratch", "elsewhere"], "true");
        assert_code(&output, 125);
        assert!(stderr(&output).contains("beside the image"), "{}", stderr(&output));
    }
}
